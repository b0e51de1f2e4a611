//! The observer of a run: sees each step as it is committed and holds it against everything that was committed before.
//! It believes nothing that the core says about itself.
use super::count::Count;
use super::gpus::Given;
use super::ingress;
use super::messages::Messages;
use super::replicas::Answers;
use super::store::Store;
use reeve_coordinator::effect::{Fact, Step, ToAgent};
use reeve_coordinator::row::{JobRow, REPLICAS, Standing};
use reeve_protocol::api::Event;
use reeve_protocol::wire::outcome;
use reeve_protocol::{AttemptId, Cause, State, TaskId};
use std::collections::{BTreeMap, BTreeSet};

/// What is known of a task from the events alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    state: State,
    attempt: u32,
}

/// What became of an attempt, from the facts alone.
#[derive(Clone, Debug, Default)]
struct Fate {
    machine: Option<String>,
    over: bool,
}

/// Everything that was committed.
#[derive(Default)]
pub struct Watch {
    seq: u64,
    seen: BTreeMap<TaskId, Seen>,
    arrays: BTreeMap<u64, (u32, u32)>,
    attempts: BTreeMap<AttemptId, Fate>,
    newest: BTreeMap<TaskId, u32>,
    terminal: BTreeSet<TaskId>,
    /// Jobs that the inputs of this step restart, and how often.
    pub restarting: BTreeMap<u64, u32>,
    /// Tasks whose cancel was answered: nothing of them is dispatched before a restart.
    cancelled: BTreeSet<TaskId>,
    /// How often each job was restarted.
    pub restarts: BTreeMap<u64, u32>,
    /// The replica that works on a tracked job, by its attempt; and what each replica works on, as recorded.
    pub asked: BTreeMap<AttemptId, String>,
    open: BTreeMap<String, BTreeSet<AttemptId>>,
    /// Messages.
    pub messages: Messages,
    /// Gpus.
    pub gpus: Given,
    /// What replicas answered.
    pub answers: Answers,
    /// Where each job is queued.
    queues: BTreeMap<u64, String>,
    /// Messages of other programs that were noted as taken in.
    noted: BTreeSet<u64>,
    /// Jobs made of messages of other programs, by the message's number.
    pub taken_in: BTreeMap<u64, u64>,
    /// What must never be.
    pub wrong: Vec<String>,
}

impl Watch {
    /// Takes a committed step in.
    pub fn committed(&mut self, step: &Step, count: &mut Count) {
        for (id, times) in std::mem::take(&mut self.restarting) {
            *self.restarts.entry(id).or_default() += times;
            self.cancelled.retain(|t| t.job != id);
            self.terminal.retain(|t| t.job != id);
        }
        for fact in &step.facts {
            self.fact(fact, count);
        }
        for event in &step.events {
            self.event(event, count);
        }
        if let Err(wrong) = self.gpus.check(count) {
            self.say(wrong);
        }
    }

    fn say(&mut self, what: String) {
        self.wrong.push(what);
    }

    fn fact(&mut self, fact: &Fact, count: &mut Count) {
        for wrong in [self.messages.fact(fact), self.gpus.fact(fact)].into_iter().filter_map(Result::err) {
            self.say(wrong);
        }
        match fact {
            Fact::JobAdded(row) => {
                self.queues.insert(row.id, row.queue.to_string());
                self.made_of_message(row, count);
                if let Some(array) = &row.array {
                    self.arrays.insert(row.id, (array.from, array.to));
                }
            }
            Fact::InboxNoted(source, _) => {
                let number = source.rsplit(' ').next().and_then(|n| n.parse().ok());
                if number.is_none_or(|n| !self.noted.insert(n)) {
                    self.say(format!("{source} was taken in twice"));
                }
            }
            Fact::JobRequeued(id, to) => self.requeued(*id, to, count),
            Fact::MessagesMoved(..) => count.hit("messages moved"),
            Fact::AttemptDispatched { attempt, machine_id, lease, .. } => {
                self.dispatched(*attempt, machine_id.clone());
                if let Some(replica) = lease.as_deref().and_then(|l| l.strip_prefix("replica:")) {
                    self.asked(*attempt, replica, count);
                }
            }
            Fact::AttemptStarted(attempt, ..) => self.of_live_attempt(*attempt, "started"),
            Fact::AttemptEnded(ended) => {
                self.over(ended.attempt, "ended");
                self.answered(ended.attempt, &ended.cause);
                count.cause(&ended.cause);
            }
            Fact::ArtifactsKept(kept) => {
                count.hit("files kept");
                self.of_live_attempt(kept.attempt, "left files");
            }
            Fact::AttemptReturned(attempt, _) => {
                self.over(*attempt, "given back");
                count.hit("attempt given back");
            }
            Fact::AttemptLate { attempt, .. } => {
                count.hit("late outcome");
                // One that is unknown was given to nobody: only what was dispatched can be late.
                if self.attempts.get(attempt).is_none_or(|f| !f.over) {
                    self.say(format!("{attempt} is late and has not ended"));
                }
            }
            Fact::JobMoved(id, standing) => self.moved(TaskId::single(*id), standing),
            Fact::TaskMoved(task, standing) => self.moved(*task, standing),
            _ => {}
        }
    }

    /// A job may be made of a message of another program: once, and only when that is noted.
    fn made_of_message(&mut self, row: &JobRow, count: &mut Count) {
        let Some(number) = row.name.as_deref().and_then(ingress::number) else { return };
        count.hit("job of another program");
        let first = self.taken_in.insert(number, row.id);
        if first.is_some() || !self.noted.contains(&number) {
            self.say(format!("message {number} of another program became job {}, and {first:?}", row.id));
        }
    }

    fn requeued(&mut self, id: u64, to: &str, count: &mut Count) {
        count.hit("jobs moved");
        let from = self.queues.insert(id, to.to_owned());
        if from.as_ref().is_none_or(|from| !self.messages.moves(from, to)) {
            self.say(format!("job {id} of {from:?} moved to {to} unasked"));
        }
    }

    fn dispatched(&mut self, attempt: AttemptId, machine: Option<String>) {
        let task = attempt.task;
        let newest = self.newest.entry(task).or_default();
        *newest += 1;
        let wanted = *newest;
        if attempt.attempt != wanted {
            self.say(format!("{attempt} was dispatched, the next number was {wanted}"));
        }
        let before = task.attempt(wanted.saturating_sub(1));
        // The fence comes first: from here on nothing about the attempt before may count.
        if self.attempts.get(&before).is_some_and(|f| !f.over) {
            self.say(format!("{attempt} was dispatched while {before} had not ended"));
        }
        if self.terminal.contains(&task) {
            self.say(format!("{attempt} was dispatched after the end of {task}"));
        }
        if self.cancelled.contains(&task) {
            self.say(format!("{attempt} was dispatched after the cancel of {task} was answered"));
        }
        self.attempts.insert(attempt, Fate { machine, over: false });
    }

    fn of_live_attempt(&mut self, attempt: AttemptId, what: &str) {
        if self.newest.get(&attempt.task) != Some(&attempt.attempt) {
            self.say(format!("{attempt} {what}, and is not the newest"));
        }
        if self.attempts.get(&attempt).is_none_or(|f| f.over) {
            self.say(format!("{attempt} {what}, and is over or was never dispatched"));
        }
    }

    /// A tracked job went to a replica.
    fn asked(&mut self, attempt: AttemptId, replica: &str, count: &mut Count) {
        count.hit("tracked job at a replica");
        self.asked.insert(attempt, replica.to_owned());
        let open = self.open.entry(replica.to_owned()).or_default();
        open.insert(attempt);
        let open = open.len();
        let of = AttemptId::from_file_name(replica);
        if of.is_none_or(|of| self.attempts.get(&of).is_none_or(|f| f.over)) {
            self.say(format!("{attempt} was given to {replica}, which is over or was never dispatched"));
        }
        if open > 3 {
            self.say(format!("{replica} has {open} tracked jobs"));
        }
    }

    /// The end of a request is what its replica said.
    fn answered(&mut self, attempt: AttemptId, cause: &Cause) {
        let wanted = match cause {
            Cause::Ok => [outcome::RESULT].as_slice(),
            Cause::Reported { .. } | Cause::Error { .. } => &[outcome::ERROR, outcome::BAD],
            _ => return,
        };
        if self.asked.contains_key(&attempt) && !self.answers.of_job(attempt, wanted) {
            self.say(format!("{attempt} ended {cause:?}, and no replica answered so"));
        }
    }

    /// Whether a job is a replica.
    pub fn is_replica(&self, job: u64) -> bool {
        self.queues.get(&job).is_some_and(|queue| queue == REPLICAS)
    }

    fn over(&mut self, attempt: AttemptId, what: &str) {
        if let Some(open) = self.asked.get(&attempt).and_then(|replica| self.open.get_mut(replica)) {
            open.remove(&attempt);
        }
        match self.attempts.get_mut(&attempt) {
            Some(fate) if !fate.over => fate.over = true,
            _ => self.say(format!("{attempt} {what}, and is over or was never dispatched")),
        }
    }

    fn moved(&mut self, task: TaskId, standing: &Standing) {
        if self.newest.get(&task).copied().unwrap_or(0) != standing.attempt {
            let newest = self.newest.get(&task).copied();
            self.say(format!("{task} moved in attempt {}, the newest is {newest:?}", standing.attempt));
        }
        if standing.state.is_terminal() {
            if standing.cause.is_none() {
                self.say(format!("{task} is {} without a cause", standing.state));
            }
            self.terminal.insert(task);
        } else if self.terminal.contains(&task) {
            self.say(format!("{task} was over and is {} without a restart", standing.state));
        }
    }

    fn event(&mut self, event: &Event, count: &mut Count) {
        self.seq += 1;
        if event.seq != self.seq {
            self.say(format!("event {} follows {}", event.seq, self.seq - 1));
        }
        self.seq = event.seq;
        if let (Some(what), "worker") = (event.what.as_deref(), event.kind.as_str())
            && ["loaded", "unloaded", "scaled_up", "scaled_down"].contains(&what)
        {
            count.hit(&format!("worker {what}"));
        }
        let (Some(id), Some(to)) = (event.id, event.to) else { return };
        if event.from == Some(State::Queued) && to == State::Running && event.actor.starts_with("agent:") {
            count.hit("started");
        }
        for task in self.tasks_of(event, id) {
            self.see(task, event, to, count);
        }
    }

    fn tasks_of(&self, event: &Event, id: u64) -> Vec<TaskId> {
        if let Some(index) = event.index {
            return vec![TaskId::of_array(id, index)];
        }
        if let Some(indices) = &event.indices {
            let number = |text: &str| text.parse::<u32>().unwrap_or(u32::MAX);
            let ranges = indices.split(',').map(|part| match part.split_once('-') {
                Some((low, high)) => (number(low), number(high)),
                None => (number(part), number(part)),
            });
            return ranges.flat_map(|(low, high)| (low..=high).map(|i| TaskId::of_array(id, i))).collect();
        }
        let jobs = id..id + event.count.unwrap_or(1);
        jobs.flat_map(|job| match self.arrays.get(&job) {
            Some((from, to)) => (*from..=*to).map(|i| TaskId::of_array(job, i)).collect(),
            None => vec![TaskId::single(job)],
        })
        .collect()
    }

    fn see(&mut self, task: TaskId, event: &Event, to: State, count: &mut Count) {
        let before = self.seen.get(&task).copied();
        if before.map(|s| s.state) != event.from {
            self.say(format!(
                "event {} says {task} was {:?}, an observer knows {before:?}",
                event.seq, event.from
            ));
        }
        let attempt = event.attempt.or(before.map(|s| s.attempt)).unwrap_or(0);
        if before.is_some_and(|s| s.attempt > attempt) {
            self.say(format!("event {} takes {task} from {before:?} back to attempt {attempt}", event.seq));
        }
        if let Some(was) = before
            && was.state == State::Running
            && to == State::Queued
            && was.attempt == attempt
        {
            count.hit("back to the queue");
            if event.actor == "coordinator" {
                count.hit("lost");
            }
        }
        if before.is_some_and(|s| s.state == State::Queued && s.attempt == attempt && attempt > 0)
            && to == State::Running
            && self.attempts.get(&task.attempt(attempt)).is_some_and(|f| f.machine.is_some())
            && count.was_lost.contains(&task.attempt(attempt))
        {
            count.hit("revived after the loss");
        }
        if before.is_some_and(|s| s.state == State::Running)
            && to == State::Queued
            && event.actor == "coordinator"
        {
            count.was_lost.insert(task.attempt(attempt));
        }
        count.state(to, event.substate);
        self.seen.insert(task, Seen { state: to, attempt });
    }

    fn starts(&mut self, attempt: AttemptId) {
        let newest = self.newest.get(&attempt.task) == Some(&attempt.attempt);
        if !newest || self.attempts.get(&attempt).is_none_or(|f| f.over) {
            self.say(format!("{attempt} was sent to start and is not the current attempt"));
        }
    }

    /// A frame left the coordinator.
    pub fn sent(&mut self, frame: &ToAgent, count: &mut Count) {
        match frame {
            ToAgent::Start(start) => self.starts(start.attempt),
            ToAgent::StartReplica(replica) => self.starts(replica.start.attempt),
            ToAgent::LaunchReplica(replica) => self.starts(replica.start.attempt),
            ToAgent::Request(request) => {
                if let Some(attempt) = request.id.attempt {
                    self.starts(attempt);
                }
            }
            ToAgent::Stop(stop) if Cause::from_wire(stop.cause.clone()) == Cause::Fenced => {
                count.hit("fence");
            }
            ToAgent::Stop(_) => count.hit("stop"),
            ToAgent::Revoke(_) => count.hit("revoke"),
            ToAgent::Reconcile(list) => list.iter().for_each(|(_, v)| count.verdict(*v)),
            ToAgent::Collect(_) => count.hit("files to collect"),
            ToAgent::Forget(_) | ToAgent::StartGit(_) | ToAgent::CancelRequest(..) => {}
        }
    }

    /// A cancel of these tasks was answered with yes.
    pub fn cancel_answered(&mut self, job: u64, range: Option<(u32, u32)>) {
        match (self.arrays.get(&job), range) {
            (Some((from, to)), range) => {
                let (low, high) = range.unwrap_or((*from, *to));
                self.cancelled.extend((low.max(*from)..=high.min(*to)).map(|i| TaskId::of_array(job, i)));
            }
            (None, _) => drop(self.cancelled.insert(TaskId::single(job))),
        }
    }

    /// The rows say what an observer of the events knows, and arrays count what their tasks are.
    ///
    /// # Errors
    /// From SQLite.
    pub fn compare(&mut self, store: &Store) -> Result<(), reeve_coordinator::store::Error> {
        if let Some(wrong) = self.messages.compare(store)? {
            self.say(wrong);
        }
        for (id, queue) in store.queues_of("SELECT id, queue FROM jobs")? {
            let known = self.queues.get(&id);
            if known != Some(&queue) {
                self.say(format!("the row of job {id} is in {queue}, it was put into {known:?}"));
            }
        }
        let mut without_row: BTreeSet<TaskId> = self.seen.keys().copied().collect();
        for (job, key, state, attempt) in store.standings()? {
            let task = TaskId::from_key(job, key);
            without_row.remove(&task);
            let newest = self.newest.get(&task).copied().unwrap_or(0);
            match self.seen.get(&task) {
                Some(seen) if seen.state == state && newest == attempt => {}
                seen => self.say(format!(
                    "row of {task}: {state} attempt {attempt}; events: {seen:?}, newest {newest}"
                )),
            }
        }
        for task in without_row {
            let seen = self.seen.get(&task).copied();
            if seen.is_none_or(|s| !matches!(s.state, State::Queued | State::Cancelled)) {
                self.say(format!("{task} has no row and events say {seen:?}"));
            }
        }
        for (id, (from, to)) in self.arrays.clone() {
            let Some(row) = store.job(id)?.and_then(|row| row.array) else { continue };
            for state in State::ALL {
                let tasks = (from..=to).map(|i| self.seen.get(&TaskId::of_array(id, i)));
                let found = tasks.filter(|s| s.is_some_and(|s| s.state == state)).count() as u64;
                if row.counts.get(state) != found {
                    self.say(format!("array {id} has {:?}, {found} tasks are {state}", row.counts));
                }
            }
        }
        Ok(())
    }
}
