//! Requests to static workers: tracked jobs and calls. Which replica gets which is decided here, in one order, so that no
//! replica ever has more than it may. A call makes no fact and costs no commit.
use super::Core;
use super::calls_cluster::ended;
use super::due::What;
use super::serving::{CLEARING_MS, Key, Ongoing, Replica};
use crate::effect::{Effect, Fact, Step, ToAgent};
use crate::input::Now;
use crate::job_manager::Holder;
use crate::job_manager::lifecycle::Move;
use reeve_protocol::wire::{self, RequestId, outcome};
use reeve_protocol::{AttemptId, Cause, Code, JobId, Problem, TaskId};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A replica that has not answered so long after nobody waited any more counts as hung.
const HANG_MS: u64 = 30_000;
/// Calls are numbered by coordinator's life and ticket, so that an answer to a life before is never taken for one of this.
pub(super) const LIFE_BITS: u32 = 40;

/// What a dispatch needs of a job's spec. The rest is not parsed.
#[derive(Deserialize)]
struct Wanted<'a> {
    #[serde(borrow, default)]
    payload: Option<&'a RawValue>,
    #[serde(default)]
    timeout_s: Option<f64>,
}

impl Core {
    /// Gives a waiting job to the least loaded replica of its worker. False: none may take it now.
    pub(super) fn place_request(&mut self, now: Now, task: TaskId, worker: &str, step: &mut Step) -> bool {
        let is_alone = self.goes_alone(task);
        let Some((replica, machine, session)) = self.choose_replica(now, worker, is_alone) else {
            self.note_hungry(worker);
            return false;
        };
        let Some(spec) = self.jobs.get(task.job).map(|job| job.spec.clone()) else { return false };
        let Ok(wanted) = serde_json::from_str::<Wanted<'_>>(&spec) else { return false };
        let name = self.cluster.get(&machine).map_or_else(|| machine.clone(), |m| m.name.clone());
        let Some(attempt) = self.open_attempt(now, task, Holder::Replica(replica), &name, Vec::new(), step)
        else {
            return false;
        };
        if let Some(t) = self.jobs.task_mut(task) {
            t.started_at = Some(now.wall);
        }
        self.go(now, task, Move::Start, "coordinator");
        let timeout_ms = wanted.timeout_s.map_or(0, |s| (s * 1000.0).max(1.0) as u64);
        let until = (timeout_ms > 0).then(|| now.mono + timeout_ms);
        self.enter_request(now, replica.task.job, Key::Job(attempt), until);
        if let Some(r) = self.deployments.replica_mut(replica.task.job) {
            r.is_alone = is_alone;
        }
        let request = wire::Request {
            replica,
            id: RequestId { attempt: Some(attempt), call: 0 },
            payload: wanted.payload.map_or_else(|| b"null".to_vec(), |p| p.get().as_bytes().to_vec()),
            timeout_ms,
        };
        step.effects.push(Effect::Send(machine.to_string(), session, ToAgent::Request(Box::new(request))));
        true
    }

    /// Two replicas died with it: it may be what kills them, and what is beside it would be lost with it every time.
    fn goes_alone(&self, task: TaskId) -> bool {
        self.jobs.task(task).is_some_and(|t| t.losses > 1 && t.cause == Some(Cause::WorkerLost))
    }

    pub(super) fn choose_replica(
        &mut self,
        now: Now,
        worker: &str,
        is_alone: bool,
    ) -> Option<(AttemptId, Arc<str>, u64)> {
        let untold = std::mem::take(&mut self.deployments.untold);
        let cluster = &self.cluster;
        let told = |r: &Replica| r.machine.as_ref().is_some_and(|m| !untold.contains(m));
        let may = |r: &Replica| Self::is_reachable(cluster, r) && told(r);
        let was_clearing = self.deployments.get(worker).is_some_and(|d| d.is_clearing(now.mono));
        let job = self
            .deployments
            .get_mut(worker)
            .and_then(|d| if is_alone { d.choose_free(now.mono, may) } else { d.choose(now.mono, may) });
        self.deployments.untold = untold;
        if !was_clearing && self.deployments.get(worker).is_some_and(|d| d.is_clearing(now.mono)) {
            // Should that job go away, the others are looked at again.
            self.due.after(now, CLEARING_MS, What::Steer(worker.to_owned()));
        }
        let job = job?;
        let deployment = self.deployments.get(worker)?;
        let replica = deployment.replicas.get(&job)?;
        Some((replica.id(), replica.machine.clone()?, replica.session))
    }

    pub(super) fn enter_request(&mut self, now: Now, replica: JobId, key: Key, until: Option<u64>) {
        let Some(deployment) = self.deployments.of_mut(replica) else { return };
        if let Some(replica) = deployment.replicas.get_mut(&replica) {
            replica.requests.insert(key, Ongoing { abandoned: false, until });
            replica.is_alone = false;
        }
        deployment.note_load(now.mono);
        if let Some(until) = until {
            deployment.deadlines.insert((until, key));
            let worker = deployment.row.worker.clone();
            self.arm_deadlines(now, &worker);
        }
    }

    pub(super) const fn key_of(&self, id: RequestId) -> Key {
        match id.attempt {
            Some(attempt) => Key::Job(attempt),
            None if id.call >> LIFE_BITS == self.identity.epoch & ((1 << (64 - LIFE_BITS)) - 1) => {
                Key::Call(id.call & ((1 << LIFE_BITS) - 1))
            }
            None => Key::Old(id.call),
        }
    }

    pub(super) fn id_of(&self, key: Key) -> RequestId {
        match key {
            Key::Job(attempt) => RequestId { attempt: Some(attempt), call: 0 },
            Key::Call(ticket) => self.call_id(ticket),
            Key::Old(call) => RequestId { attempt: None, call },
        }
    }

    /// What replicas answered, through their machine.
    pub(super) fn answered(&mut self, now: Now, machine: &str, answers: Vec<wire::Answer>, step: &mut Step) {
        for answer in answers {
            let key = self.key_of(answer.id);
            let ongoing = self.take_answered(now, machine, answer.replica, key);
            match (key, ongoing) {
                // To nobody's question, twice, or from somebody else.
                (_, None) => self.stale += 1,
                (Key::Old(_), _) | (_, Some(Ongoing { abandoned: true, .. })) => {}
                (Key::Job(attempt), _) => self.request_ended(now, attempt, machine, answer, step),
                (Key::Call(ticket), _) => Self::reply(step, ticket, super::calls::answer_of(answer)),
            }
        }
    }

    /// Takes a request out of its place at the replica that has answered it.
    fn take_answered(&mut self, now: Now, machine: &str, replica: AttemptId, key: Key) -> Option<Ongoing> {
        let deployment = self.deployments.of_mut(replica.task.job)?;
        deployment.note_load(now.mono);
        let r = deployment.replicas.get_mut(&replica.task.job)?;
        let here = r.attempt == replica.attempt && r.machine.as_deref() == Some(machine);
        let ongoing = r.requests.remove(&key).filter(|_| here)?;
        r.answered += 1;
        deployment.rate.hit(now.mono, 1);
        if let Some(until) = ongoing.until {
            deployment.deadlines.remove(&(until, key));
        }
        let (draining, worker) = (r.draining.is_some(), &deployment.row.worker);
        let worker = (draining || !deployment.calls.is_empty()).then(|| worker.clone());
        if draining {
            self.deployments.dirty.extend(worker);
        } else {
            self.deployments.eager.extend(worker);
        }
        Some(ongoing)
    }

    /// A tracked request was answered.
    fn request_ended(
        &mut self,
        now: Now,
        attempt: AttemptId,
        machine: &str,
        answer: wire::Answer,
        step: &mut Step,
    ) {
        let actor = self.agent_actor(machine);
        let text = |body: Vec<u8>| String::from_utf8_lossy(&body).chars().take(4096).collect::<String>();
        let retry = answer.retry;
        let cause = match answer.outcome {
            outcome::RESULT => {
                if let Ok(result) = String::from_utf8(answer.body) {
                    step.facts.push(Fact::ResultKept(attempt.task, result));
                }
                Cause::Ok
            }
            outcome::ERROR => Cause::Reported { detail: text(answer.body) },
            outcome::BAD => Cause::Error { detail: text(answer.body) },
            _ => Cause::WorkerLost,
        };
        let started_at = self.jobs.task(attempt.task).and_then(|t| t.started_at);
        let end = crate::effect::Ended { started_at, ..ended(attempt, cause, now) };
        if answer.outcome == outcome::ERROR && !retry {
            // It says itself that another try would not help.
            if let Some(t) = self.jobs.task_mut(attempt.task) {
                t.cause = Some(end.cause.clone());
            }
            step.facts.push(Fact::AttemptEnded(Box::new(end)));
            self.leave(now, attempt, Move::Fail, &actor);
        } else {
            self.end_attempt(now, end, &actor, step);
        }
    }

    /// A replica is over: what it worked on goes elsewhere.
    pub(super) fn requests_lost(
        &mut self,
        now: Now,
        replica: AttemptId,
        requests: BTreeMap<Key, Ongoing>,
        step: &mut Step,
    ) {
        for (key, ongoing) in requests {
            if !ongoing.abandoned {
                self.request_lost(now, replica, key, Cause::WorkerLost, step);
            }
        }
    }

    pub(super) fn request_lost(
        &mut self,
        now: Now,
        replica: AttemptId,
        key: Key,
        cause: Cause,
        step: &mut Step,
    ) {
        match key {
            Key::Job(attempt) => {
                let held = self
                    .jobs
                    .task(attempt.task)
                    .is_some_and(|t| t.attempt == attempt.attempt && t.holder == Holder::Replica(replica));
                if held {
                    self.end_attempt(now, ended(attempt, cause, now), "coordinator", step);
                }
            }
            Key::Call(ticket) => {
                let problem = Problem::new(
                    Code::WorkerLost,
                    "the replica that worked on it went away before it answered",
                );
                let problem = problem.unknown().hint("call again if the work may be done twice");
                Self::reply(step, ticket, Err(problem));
            }
            Key::Old(_) => {}
        }
    }

    /// Nobody waits for a request any more. It keeps its place: the replica still works on it.
    pub(super) fn abandon(&mut self, now: Now, replica: AttemptId, key: Key) {
        let Some(deployment) = self.deployments.of_mut(replica.task.job) else { return };
        let Some(r) = deployment.replicas.get(&replica.task.job) else { return };
        let Some(ongoing) = r.requests.get(&key).filter(|o| !o.abandoned && r.attempt == replica.attempt)
        else {
            return;
        };
        if let Some(until) = ongoing.until {
            deployment.deadlines.remove(&(until, key));
        }
        let machine = r.machine.clone();
        self.hold_place(now, replica, key);
        if let Some(machine) = machine {
            let id = self.id_of(key);
            self.deployments.cancels.push((machine, replica, id));
        }
    }

    /// A request that nobody waits for takes its place until it is answered, or the replica counts as hung. That is said again
    /// until the replica has ended: the one who was to stop it may not have heard.
    pub(super) fn hold_place(&mut self, now: Now, replica: AttemptId, key: Key) {
        let Some(d) = self.deployments.of_mut(replica.task.job) else { return };
        let Some(r) = d.replicas.get_mut(&replica.task.job) else { return };
        let until = now.mono + HANG_MS;
        r.requests.insert(key, Ongoing { abandoned: true, until: Some(until) });
        d.deadlines.insert((until, key));
        let worker = d.row.worker.clone();
        self.arm_deadlines(now, &worker);
    }

    /// A replica has not answered for so long after nobody waited any more.
    fn hangs(&mut self, now: Now, replica: AttemptId, key: Key, step: &mut Step) {
        let machine = self.deployments.replica(replica.task.job).and_then(|r| r.machine.clone());
        // A machine that is not heard cannot tell of an answer.
        if machine.and_then(|m| self.cluster.get(&m)).is_some_and(|m| m.down_since.is_none()) {
            let s = HANG_MS / 1000;
            let detail = format!("it hangs: a request was not answered {s} s after its end");
            self.stop_replica(replica, detail, step);
        }
        self.hold_place(now, replica, key);
    }

    pub(super) fn arm_deadlines(&mut self, now: Now, worker: &str) {
        let Some(d) = self.deployments.get_mut(worker) else { return };
        let Some((first, _)) = d.deadlines.first().copied() else { return };
        if d.armed.is_none_or(|armed| first < armed) {
            d.armed = Some(first);
            self.due.push(first.max(now.mono), What::Deadlines(worker.to_owned()));
        }
    }

    /// Deadlines of a worker have come.
    pub(super) fn deadlines_due(&mut self, now: Now, worker: &str, step: &mut Step) {
        if let Some(d) = self.deployments.get_mut(worker) {
            d.armed = None;
        }
        loop {
            let Some(d) = self.deployments.get_mut(worker) else { return };
            let Some((_, key)) = d.deadlines.first().copied().filter(|(at, _)| *at <= now.mono) else {
                break;
            };
            d.deadlines.pop_first();
            let holder = d.replicas.values().find_map(|r| Some((r.id(), *r.requests.get(&key)?)));
            match (holder, key) {
                (Some((replica, Ongoing { abandoned: true, .. })), _) => self.hangs(now, replica, key, step),
                (Some((replica, _)), Key::Job(attempt)) => {
                    self.abandon(now, replica, key);
                    self.end_attempt(now, ended(attempt, Cause::Timeout, now), "coordinator", step);
                }
                (Some((replica, _)), Key::Call(ticket)) => {
                    self.abandon(now, replica, key);
                    Self::reply(
                        step,
                        ticket,
                        Err(too_late("the replica has not answered in time").unknown()),
                    );
                }
                (None, Key::Call(ticket)) => {
                    if let Some(d) = self.deployments.get_mut(worker) {
                        d.calls.retain(|w| w.ticket != ticket);
                    }
                    let why = format!("no replica could take it in time{}", self.not_ready_words(worker));
                    Self::reply(step, ticket, Err(too_late(&why)));
                }
                (None, Key::Job(_)) | (_, Key::Old(_)) => {}
            }
        }
        self.arm_deadlines(now, worker);
    }

    /// Tells machines what nobody waits for any more.
    pub(super) fn tell_cancels(&mut self, step: &mut Step) {
        for (machine, replica, id) in std::mem::take(&mut self.deployments.cancels) {
            let session =
                self.cluster.get(&machine).and_then(crate::cluster::machine::Machine::ready_session);
            if let Some(session) = session {
                step.effects.push(Effect::Send(
                    machine.to_string(),
                    session,
                    ToAgent::CancelRequest(replica, id),
                ));
            }
        }
    }

    /// A tracked request that had not ended when the store was read.
    pub(super) fn restore_request(&mut self, now: Now, attempt: AttemptId, replica: AttemptId) {
        let key = Key::Job(attempt);
        let spec = self.jobs.get(attempt.task.job).map(|job| job.spec.clone());
        let timeout = spec.and_then(|spec| serde_json::from_str::<Wanted<'_>>(&spec).ok()?.timeout_s);
        let lives = self
            .deployments
            .replica(replica.task.job)
            .is_some_and(|r| r.attempt == replica.attempt && r.machine.is_some());
        if lives {
            // Since when it runs by this clock is not known: it gets its whole time again.
            self.enter_request(now, replica.task.job, key, timeout.map(|s| now.mono + (s * 1000.0) as u64));
        } else {
            self.deployments.over.push((replica, [(key, Ongoing::default())].into()));
        }
    }

    /// Whether that attempt is a request at a replica of that machine.
    pub(super) fn is_request_on(&self, machine: &str, attempt: AttemptId) -> bool {
        let Some(Holder::Replica(replica)) =
            self.jobs.task(attempt.task).filter(|t| t.attempt == attempt.attempt).map(|t| &t.holder)
        else {
            return false;
        };
        self.deployments.replica(replica.task.job).is_some_and(|r| r.machine.as_deref() == Some(machine))
    }
}

fn too_late(detail: &str) -> Problem {
    Problem::new(Code::DeadlineExceeded, detail)
        .hint("give it longer with --deadline, or see what it does: reeve worker show NAME")
}
