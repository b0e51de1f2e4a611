//! The invariants, walked in tests and simulation after every input, and a picture of all that a restart must bring back.
use super::Core;
use crate::job_manager::{Body, Holder, Job, Task};
use crate::orchestrator::queue::Queue;
use crate::row::Standing;
use reeve_protocol::{JobId, State, Substate, TaskId};
use std::collections::BTreeMap;

impl Core {
    /// Every invariant that does not hold, in words.
    pub fn check(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut counted: BTreeMap<&str, Sum> = BTreeMap::new();
        for job in self.jobs.iter() {
            let entry = counted.entry(&job.queue).or_default();
            let milli = u64::from(self.cluster.shapes.get(job.shape).ask.cpu_milli);
            match &job.body {
                Body::Single(t) => {
                    entry.queued += u64::from(t.phase().state() == State::Queued);
                    entry.running += u64::from(t.phase().state() == State::Running);
                    entry.task(t, milli);
                    self.check_task(TaskId::single(job.id), t, &mut wrong);
                }
                Body::Array(a) => {
                    entry.queued += a.counts.queued;
                    entry.running += a.counts.running;
                    for (index, t) in &a.live {
                        entry.task(t, milli);
                        self.check_task(TaskId::of_array(job.id, *index), t, &mut wrong);
                    }
                    check_array(job.id, a, &mut wrong);
                }
            }
            self.check_place(job, &mut wrong);
        }
        self.check_parked(&mut counted, &mut wrong);
        self.check_passing(&mut wrong);
        self.check_moving(&mut wrong);
        for q in self.queues.iter() {
            check_queue(q, &counted.remove(&*q.row.name).unwrap_or_default(), &mut wrong);
        }
        for m in self.cluster.iter() {
            m.check(&mut wrong);
            for attempt in m.held().keys() {
                let holds = self.jobs.task(attempt.task).is_some_and(|t| {
                    t.attempt == attempt.attempt && t.holder == Holder::Machine(m.id.clone())
                });
                if !holds {
                    wrong.push(format!(
                        "machine {} has resources of {attempt}, which it does not hold",
                        m.name
                    ));
                }
            }
        }
        wrong
    }

    fn check_task(&self, id: TaskId, t: &Task, wrong: &mut Vec<String>) {
        let phase = t.phase();
        let out = super::moves::is_out(phase);
        if out && t.holder == Holder::None {
            wrong.push(format!("job {id} is {phase:?} and nobody holds it"));
        }
        if out && t.attempt == 0 {
            wrong.push(format!("job {id} is {phase:?} without an attempt"));
        }
        if phase.state().is_terminal() && t.holder != Holder::None {
            wrong.push(format!("job {id} has ended and is held"));
        }
        if phase.is(Substate::Assigned) && !matches!(t.holder, Holder::Machine(_)) {
            wrong.push(format!("job {id} is assigned to {:?}", t.holder));
        }
        if let (true, Holder::Replica(replica)) = (out, &t.holder) {
            let key = super::serving::Key::Job(id.attempt(t.attempt));
            if self.requests_of(*replica).is_none_or(|requests| !requests.contains_key(&key)) {
                wrong.push(format!("job {id} is {phase:?} at {replica}, which does not work on it"));
            }
        }
        if let (true, Holder::Machine(machine)) = (out, &t.holder) {
            let attempt = id.attempt(t.attempt);
            if self.cluster.get(machine).is_none_or(|m| !m.held().contains_key(&attempt)) {
                wrong.push(format!("job {id} is {phase:?} on {machine}, which has no room taken for it"));
            }
        }
    }

    /// A job waits for a slot exactly when its state says so: what waits unseen is lost, what is seen twice runs twice.
    fn check_place(&self, job: &Job, wrong: &mut Vec<String>) {
        let waits = !job.external
            && match &job.body {
                Body::Single(task) => task.phase().is(Substate::Waiting),
                Body::Array(array) => array.peek().is_some(),
            };
        let place =
            crate::orchestrator::queue::Place { priority: job.priority, job: job.id, need: job.shape };
        let queue = self.queues.get(&job.queue);
        let at_hand = queue.is_some_and(|q| q.has(job.priority, job.id, job.shape));
        let away = queue.is_some_and(|q| q.away.has(place));
        if at_hand && away {
            wrong.push(format!("job {} stands in queue {} twice", job.id, job.queue));
        }
        let stands = at_hand || away;
        if waits != stands {
            wrong.push(format!("job {} waits: {waits}, stands in queue {}: {stands}", job.id, job.queue));
        }
    }

    /// A parked job is nowhere else, and counts as waiting.
    fn check_parked<'a>(&'a self, counted: &mut BTreeMap<&'a str, Sum>, wrong: &mut Vec<String>) {
        let mut seen = std::collections::HashSet::new();
        for q in self.queues.iter() {
            let mut n = 0;
            for (place, _) in q.all_parked() {
                n += 1;
                let twice = !seen.insert(place.job)
                    || self.jobs.get(place.job).is_some()
                    || q.has(place.priority, place.job, place.need)
                    || q.away.has(place);
                if twice {
                    wrong.push(format!(
                        "job {} is parked in queue {} and stands elsewhere",
                        place.job, q.row.name
                    ));
                }
            }
            if n != q.parked.len() + q.away.distant.len() {
                wrong.push(format!("queue {} counts {} parked, there are {n}", q.row.name, q.parked.len()));
            }
            counted.entry(&q.row.name).or_default().queued += n;
        }
    }

    /// Everything that a restart must bring back, one line each, sorted. What a restart forgets on purpose (sessions,
    /// waiting callers, rates, when leases of jobs end) is left out.
    pub fn picture(&self) -> Vec<String> {
        let next_message = self.next_message.max(self.numbers_kept);
        let mut lines =
            vec![format!("next job {} message {next_message} plan {}", self.next_job, self.next_plan)];
        for job in self.jobs.iter() {
            match &job.body {
                Body::Single(t) => lines.push(format!("job {} {}", job.id, shown(t))),
                Body::Array(a) => {
                    lines.push(format!(
                        "array {} next {} {:?} held {:?} cancelled {:?} out {} run_at {:?} cause {:?}",
                        job.id, a.next, a.counts, a.held, a.cancelled, a.out, a.run_at, a.cause
                    ));
                    lines.extend(a.live.iter().map(|(i, t)| format!("task {}.{i} {}", job.id, shown(t))));
                }
            }
        }
        for q in self.queues.iter() {
            let waits = Task::new(crate::job_manager::lifecycle::Phase::WAITING);
            lines.extend(q.all_parked().map(|(place, _)| format!("job {} {}", place.job, shown(&waits))));
            lines.push(format!(
                "queue {} {:?} {:?} waiting {:?} out {} used {} messages {:?}",
                q.row.name,
                q.row,
                q.counts,
                q.waiting,
                q.out,
                q.used_milli,
                // Whether a delay is over is looked at anew.
                (q.messages.waiting(), q.messages.counts().2, q.messages.counts().3)
            ));
        }
        lines.sort_unstable();
        lines
    }

    /// Live jobs, by number: what has not come to an end.
    pub fn unfinished(&self) -> Vec<(JobId, Standing)> {
        let mut list: Vec<_> = self.jobs.iter().map(|j| (j.id, j.standing())).collect();
        let waits = Standing::new(State::Queued, Some(Substate::Waiting));
        list.extend(self.queues.iter().flat_map(Queue::all_parked).map(|(p, _)| (p.job, waits.clone())));
        list.sort_unstable_by_key(|(id, _)| *id);
        list
    }
}

fn shown(t: &Task) -> String {
    format!("{:?} {:?} cancel {}", t.standing(), t.holder, t.cancel)
}

/// What the jobs of a queue add up to.
#[derive(Default)]
struct Sum {
    queued: u64,
    running: u64,
    out: u64,
    used_milli: u64,
}

impl Sum {
    fn task(&mut self, t: &Task, milli: u64) {
        if super::moves::is_out(t.phase()) {
            self.out += 1;
            self.used_milli += if matches!(t.holder, Holder::Machine(_)) { milli } else { 0 };
        }
    }
}

fn check_queue(q: &Queue, jobs: &Sum, wrong: &mut Vec<String>) {
    if (q.counts.queued, q.counts.running) != (jobs.queued, jobs.running) {
        wrong.push(format!(
            "queue {} counts {:?}, its jobs are {} queued, {} running",
            q.row.name, q.counts, jobs.queued, jobs.running
        ));
    }
    if q.waiting.iter().sum::<u64>() != q.counts.queued {
        wrong.push(format!(
            "queue {} has {} queued but {:?} by substate",
            q.row.name, q.counts.queued, q.waiting
        ));
    }
    if (q.out, q.used_milli) != (jobs.out, jobs.used_milli) {
        wrong.push(format!(
            "queue {} counts {} out with {} m of cpu, its jobs are {} with {}",
            q.row.name, q.out, q.used_milli, jobs.out, jobs.used_milli
        ));
    }
}

fn check_array(id: u64, a: &crate::job_manager::array::Array, wrong: &mut Vec<String>) {
    let total = u64::from(a.to - a.from) + 1;
    if a.counts.total() != total {
        wrong.push(format!("array {id} counts {} of {total} tasks", a.counts.total()));
    }
    let count = |state| a.live.values().filter(|t| t.phase().state() == state).count() as u64;
    let (queued, running) = (count(State::Queued) + a.untouched(a.from, a.to).len(), count(State::Running));
    if (a.counts.queued, a.counts.running) != (queued, running) {
        wrong.push(format!(
            "array {id} counts {:?}, its tasks are {queued} queued, {running} running",
            a.counts
        ));
    }
    let out = a.live.values().filter(|t| super::moves::is_out(t.phase())).count();
    if a.out as usize != out {
        wrong.push(format!("array {id} counts {} out, its tasks are {out}", a.out));
    }
}
