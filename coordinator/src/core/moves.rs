//! How a job or task moves: the one place where a move is taken, counted, noted for observers and marked to be written.
use super::Core;
use super::due::What;
use super::events::Change;
use crate::effect::{Effect, Ended, Fact, Step, ToAgent};
use crate::input::Now;
use crate::job_manager::lifecycle::{Move, Phase};
use crate::job_manager::retry::{self, Decision};
use crate::job_manager::{Body, Holder, Job, Task};
use crate::orchestrator::queue::{Place, Rate};
use reeve_protocol::cause::Account;
use reeve_protocol::{AttemptId, Cause, JobId, State, Substate, TaskId, wire};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What stands before a replica where the store has a consumer's lease.
pub(super) const REPLICA: &str = "replica:";

impl Core {
    /// Takes a live job in: counts it, offers what waits, arms what it waits for.
    pub(super) fn adopt(&mut self, job: Job, now: Now) {
        let id = job.id;
        let Some(queue) = self.queues.get_mut(&job.queue) else { return };
        match &job.body {
            Body::Single(task) => {
                queue.count_new(task.phase().substate(), task.phase().state(), 1);
                if let (State::Queued, Some(at)) = (task.phase().state(), task.run_at) {
                    self.due.at(now, at, What::Run(TaskId::single(id)));
                }
            }
            Body::Array(array) => {
                let untouched = array.untouched(array.from, array.to);
                let held = array.held.len();
                let fresh = array.fresh();
                queue.count_new(Some(Substate::Held), State::Queued, held);
                queue.count_new(Some(fresh), State::Queued, untouched.len() - held);
                // In order, so that what falls due at one moment does so in the same order every time.
                for (index, task) in array.live.iter().collect::<BTreeMap<_, _>>() {
                    queue.count_new(task.phase().substate(), task.phase().state(), 1);
                    if let (State::Queued, Some(at)) = (task.phase().state(), task.run_at) {
                        self.due.at(now, at, What::Run(TaskId::of_array(id, *index)));
                    }
                }
                for state in [State::Completed, State::Failed, State::Cancelled] {
                    *queue.counts.get_mut(state) += array.counts.get(state);
                }
                if let Some(at) = array.run_at {
                    self.due.at(now, at, What::Run(TaskId::single(id)));
                }
            }
        }
        if let Some(at) = job.expires_at {
            self.due.at(now, at, What::Expire(TaskId::single(id)));
        }
        self.jobs.insert(job);
        self.offer(id);
    }

    /// Puts a job's place into its queue, or takes it out, as its state says.
    pub(super) fn offer(&mut self, id: JobId) {
        let Some(job) = self.jobs.get(id) else { return };
        let place = Place { priority: job.priority, job: id, need: job.shape };
        let waits = !job.external
            && match &job.body {
                Body::Single(task) => task.phase().is(Substate::Waiting),
                Body::Array(array) => array.peek().is_some(),
            };
        let name = job.queue.clone();
        if waits {
            self.queues.offer(&name, place);
        } else if let Some(queue) = self.queues.get_mut(&name) {
            queue.withdraw(place);
        }
    }

    /// Takes a move of a live job or task. `None`: it is not legal, nothing changes.
    pub(super) fn go(&mut self, now: Now, task: TaskId, mv: Move, actor: &str) -> Option<Phase> {
        let job = self.jobs.get_mut(task.job)?;
        let (queue, created_at, external) = (job.queue.clone(), job.created_at, job.external);
        let told = job.reply.is_some() || self.replies.keeps_history();
        let milli = u64::from(self.cluster.shapes.get(job.shape).ask.cpu_milli);
        let t = job.task_mut(task.index)?;
        let (from, to) = t.take(mv)?;
        let (attempt, cause) = (
            t.attempt,
            if to.state().is_terminal() || to.is(Substate::Retrying) { t.cause.clone() } else { None },
        );
        let used = if matches!(t.holder, Holder::Machine(_)) { milli } else { 0 };
        if to.state().is_terminal() {
            t.ended_at = Some(now.wall);
        }
        let change = Change {
            at: now.wall,
            task,
            attempt,
            from: Some(from.state()),
            to: (to.state(), to.substate()),
            cause: cause.as_ref(),
            actor,
        };
        let seq = self.events.change(change);
        let standing =
            self.jobs.task(task).filter(|_| told && from.state() != to.state()).map(Task::standing);
        self.changes.hit(now.mono, u64::from(from.state() != to.state()));
        self.count(now, &queue, from, to, used, created_at);
        if let Some(cause) = cause.as_ref().filter(|_| to.state().is_terminal()) {
            *self.causes.entry(cause.kind()).or_default() += 1;
        }
        if let Some(standing) = standing {
            self.note_reply(task, Some(from.state()), standing, seq);
        }
        self.after_move(now, task, from, to);
        if self.deployments.worker_of(task.job).is_some() {
            self.replica_moved(now, task, from, to);
        }
        if !external {
            self.offer(task.job);
        }
        Some(to)
    }

    fn count(&mut self, now: Now, queue: &Arc<str>, from: Phase, to: Phase, used: u64, created_at: i64) {
        let Some(q) = self.queues.get_mut(queue) else { return };
        q.count_move((from.state(), from.substate()), (to.state(), to.substate()), 1);
        match (is_out(from), is_out(to)) {
            (false, true) => {
                q.out += 1;
                q.used_milli += used;
            }
            (true, false) => {
                q.out = q.out.saturating_sub(1);
                q.used_milli = q.used_milli.saturating_sub(used);
            }
            _ => {}
        }
        if to.state() == State::Running && from.state() == State::Queued {
            q.rates.hit(now.mono, Rate::Started);
            q.rates.waited((now.wall - created_at).max(0) as u64);
        }
        if to.state().is_terminal() {
            q.rates.hit(now.mono, Rate::Ended);
            if to.state() == State::Failed {
                q.rates.hit(now.mono, Rate::Failed);
            }
        }
    }

    /// Marks what must be written. A task that has ended leaves memory: its fact is made here.
    fn after_move(&mut self, now: Now, task: TaskId, from: Phase, to: Phase) {
        let Some(job) = self.jobs.get_mut(task.job) else { return };
        match (&mut job.body, task.index) {
            (Body::Single(_), _) => {
                self.dirty_tasks.insert(task);
                if to.state().is_terminal() {
                    self.dirty_arrays.insert(task.job);
                }
            }
            (Body::Array(array), Some(index)) => {
                if to.state().is_terminal() {
                    self.dirty_tasks.remove(&task);
                    self.gone.note(task);
                    if let Some(ended) = array.live.get(&index) {
                        if to.state() == State::Failed {
                            array.cause.clone_from(&ended.cause);
                        }
                        self.ended_tasks.push((task, ended.standing()));
                    }
                } else {
                    self.dirty_tasks.insert(task);
                }
                if to.state() == State::Running && array.started_at.is_none() {
                    array.started_at = Some(now.wall);
                }
                array.moved(index, from, to);
                array.ended_at = array.is_over().then_some(now.wall);
                self.dirty_arrays.insert(task.job);
            }
            (Body::Array(_), None) => {}
        }
    }

    /// Opens the next attempt of a task for a holder: the fence is raised. The task is in `Waiting`.
    pub(super) fn open_attempt(
        &mut self,
        now: Now,
        task: TaskId,
        holder: Holder,
        machine: &Arc<str>,
        gpus: Vec<String>,
        step: &mut Step,
    ) -> Option<AttemptId> {
        let job = self.jobs.get_mut(task.job)?;
        if let (Some(index), Some(array)) = (task.index, job.array_mut()) {
            // Held indices that the cursor passes get entries of their own, and with them rows.
            let passed = array.held.iter().take_while(|i| *i < index).map(|i| TaskId::of_array(task.job, i));
            self.dirty_tasks.extend(passed);
            array.open(index);
        }
        let t = job.task_mut(task.index)?;
        let before = std::mem::replace(&mut t.holder, holder.clone());
        let old = task.attempt(t.attempt);
        t.attempt += 1;
        t.machine = Some(machine.clone());
        t.started_at = None;
        t.run_at = None;
        let attempt = task.attempt(t.attempt);
        // Attempt n was lost and stayed current until now; from here on its outcome is late.
        if before != Holder::None {
            self.fence(now, old, &before, step);
        }
        let started = matches!(holder, Holder::Replica(_));
        let (machine_id, lease) = match holder {
            Holder::Machine(id) => (Some(id.to_string()), None),
            Holder::Consumer(lease) => (None, Some(lease)),
            Holder::Replica(replica) => (None, Some(format!("{REPLICA}{}", replica.file_name()))),
            Holder::Outside | Holder::None => (None, None),
        };
        step.facts.push(Fact::AttemptDispatched {
            attempt,
            machine_id,
            machine: machine.clone(),
            lease,
            started,
            gpus,
            at: now.wall,
        });
        Some(attempt)
    }

    fn fence(&mut self, now: Now, attempt: AttemptId, holder: &Holder, step: &mut Step) {
        step.facts.push(Fact::AttemptEnded(Box::new(Ended {
            attempt,
            cause: Cause::Lost,
            started_at: None,
            ended_at: now.wall,
            pid: None,
            cpu_ms: 0,
            rss_peak: 0,
            output: Vec::new(),
            segment: None,
        })));
        if let Holder::Machine(id) = holder {
            self.cluster.release(id, attempt);
            self.send_stop(id, attempt, Cause::Fenced, 0, step);
        }
    }

    /// Tells a machine to end an attempt, if it is there to hear it; else reconcile will.
    pub(super) fn send_stop(
        &self,
        machine: &str,
        attempt: AttemptId,
        cause: Cause,
        grace_ms: u64,
        step: &mut Step,
    ) {
        if let Some(session) =
            self.cluster.get(machine).and_then(super::super::cluster::machine::Machine::ready_session)
        {
            let stop = wire::Stop { attempt, cause: cause.to_wire(), grace_ms };
            step.effects.push(Effect::Send(machine.to_owned(), session, ToAgent::Stop(stop)));
        }
    }

    /// The end of the current attempt: the true end of the job, or another try. Gives back what it held.
    pub(super) fn end_attempt(&mut self, now: Now, ended: Ended, actor: &str, step: &mut Step) {
        let (attempt, cause) = (ended.attempt, ended.cause.clone());
        step.facts.push(Fact::AttemptEnded(Box::new(ended)));
        self.after_end(now, attempt, cause, actor);
    }

    /// As [`Core::end_attempt`], once the fact is made.
    pub(super) fn after_end(&mut self, now: Now, attempt: AttemptId, cause: Cause, actor: &str) {
        let task = attempt.task;
        let Some(job) = self.jobs.get(task.job) else { return };
        let retries = job.retries;
        let stays = self.replica_decision(now, task.job, &cause);
        let Some(t) = self.jobs.task(task) else { return };
        let decision = match &cause {
            _ if stays.is_some() => stays,
            Cause::Ok => None,
            _ if t.cancel => Some(Decision::GiveUp),
            cause => Some(retry::decide(
                cause,
                t.tries,
                t.losses,
                retries,
                task.job ^ task.index.map_or(0, |i| u64::from(i) << 32),
            )),
        };
        let mv = match (&decision, &cause) {
            (None, _) => Move::Complete,
            (Some(_), Cause::Cancelled) => Move::Cancel,
            (Some(Decision::GiveUp), _) => Move::Fail,
            (Some(Decision::After(0, _)), _) => Move::Ready,
            (Some(Decision::After(..)), _) => Move::Retry,
        };
        if let Some(t) = self.jobs.task_mut(task) {
            t.cause = Some(cause);
            match decision {
                Some(Decision::After(ms, account)) if mv != Move::Cancel => {
                    if account == Account::Own {
                        t.tries += 1;
                    } else {
                        t.losses += 1;
                    }
                    if ms > 0 {
                        t.run_at = Some(now.wall + ms as i64);
                        self.due.after(now, ms, What::Run(task));
                    }
                }
                _ => {}
            }
        }
        self.leave(now, attempt, mv, actor);
    }

    /// Moves a task away from its attempt: frees what the attempt held, and its holder. The move comes first, since the
    /// queue's use is counted by holder; a task of an array that ends leaves memory with it.
    pub(super) fn leave(&mut self, now: Now, attempt: AttemptId, mv: Move, actor: &str) {
        let holder = self.jobs.task(attempt.task).map(|t| t.holder.clone());
        self.go(now, attempt.task, mv, actor);
        if let Some(t) = self.jobs.task_mut(attempt.task) {
            t.holder = Holder::None;
        }
        match holder {
            Some(Holder::Machine(id)) => drop(self.cluster.release(&id, attempt)),
            Some(Holder::Replica(replica)) => self.abandon(now, replica, super::serving::Key::Job(attempt)),
            _ => {}
        }
    }

    /// Arms the verdict on an attempt whose machine went down at `since`.
    pub(super) fn arm_loss(
        &mut self,
        now: Now,
        machine: &str,
        attempt: AttemptId,
        since: u64,
        lost_after_ms: Option<u64>,
    ) {
        if let Some(ms) = lost_after_ms {
            self.watch(now);
            self.due.push(since.saturating_add(ms), What::Lose(attempt, machine.into(), since));
        }
    }

    /// The task of a single job, for a new one.
    pub(super) fn new_task(hold: bool, delayed: bool) -> Task {
        Task::new(match (hold, delayed) {
            (true, _) => Phase::HELD,
            (false, true) => Phase::DELAYED,
            (false, false) => Phase::WAITING,
        })
    }
}

/// Whether a slot of the queue is taken.
pub(super) fn is_out(phase: Phase) -> bool {
    phase.state() == State::Running || phase.is(Substate::Assigned)
}
