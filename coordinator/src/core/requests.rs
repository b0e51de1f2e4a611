//! Requests to static workers: tracked jobs and calls. Which replica gets which is decided here, in one order, so that no
//! replica ever has more than it may. A call makes no fact and costs no commit.
use super::Core;
use super::calls_cluster::ended;
use super::due::What;
use super::serving::{Key, Ongoing};
use crate::effect::{Effect, Fact, Step, ToAgent};
use crate::input::Now;
use crate::job_manager::Holder;
use crate::job_manager::lifecycle::Move;
use reeve_protocol::wire::{self, RequestId, outcome};
use reeve_protocol::{AttemptId, Cause, Code, JobId, Problem, TaskId};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A replica that has not answered so long after nobody waited any more counts as hung.
const HANG_MS: u64 = 30_000;
/// Tracked requests of a machine that is not heard for so long go elsewhere.
pub(super) const LOST_AFTER_MS: u64 = 60_000;
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
        let Some((replica, machine, session)) = self.choose_replica(worker) else {
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
        let request = wire::Request {
            replica,
            id: RequestId { attempt: Some(attempt), call: 0 },
            payload: wanted.payload.map_or_else(|| b"null".to_vec(), |p| p.get().as_bytes().to_vec()),
            timeout_ms,
        };
        step.effects.push(Effect::Send(machine.to_string(), session, ToAgent::Request(Box::new(request))));
        true
    }

    pub(super) fn choose_replica(&self, worker: &str) -> Option<(AttemptId, Arc<str>, u64)> {
        let deployment = self.deployments.get(worker)?;
        let job = deployment.choose(|replica| Self::is_reachable(&self.cluster, replica))?;
        let replica = deployment.replicas.get(&job)?;
        Some((replica.id(), replica.machine.clone()?, replica.session))
    }

    pub(super) fn enter_request(&mut self, now: Now, replica: JobId, key: Key, until: Option<u64>) {
        let Some(deployment) = self.deployments.of_mut(replica) else { return };
        if let Some(replica) = deployment.replicas.get_mut(&replica) {
            replica.requests.insert(key, Ongoing { abandoned: false, until });
        }
        deployment.note_load(now.mono);
        if let Some(until) = until {
            deployment.deadlines.insert((until, key));
            let worker = deployment.row.worker.clone();
            self.arm_deadlines(now, &worker);
        }
    }

    fn key_of(&self, id: RequestId) -> Option<Key> {
        match id.attempt {
            Some(attempt) => Some(Key::Job(attempt)),
            None if id.call >> LIFE_BITS == self.identity.epoch & ((1 << (64 - LIFE_BITS)) - 1) => {
                Some(Key::Call(id.call & ((1 << LIFE_BITS) - 1)))
            }
            None => None,
        }
    }

    fn id_of(&self, key: Key) -> RequestId {
        match key {
            Key::Job(attempt) => RequestId { attempt: Some(attempt), call: 0 },
            Key::Call(ticket) => self.call_id(ticket),
        }
    }

    /// What replicas answered, through their machine.
    pub(super) fn answered(&mut self, now: Now, machine: &str, answers: Vec<wire::Answer>, step: &mut Step) {
        for answer in answers {
            let key = self.key_of(answer.id);
            let job = answer.replica.task.job;
            let ongoing = key.and_then(|key| {
                let deployment = self.deployments.of_mut(job)?;
                deployment.note_load(now.mono);
                let replica = deployment.replicas.get_mut(&job)?;
                let here =
                    replica.attempt == answer.replica.attempt && replica.machine.as_deref() == Some(machine);
                let ongoing = replica.requests.remove(&key).filter(|_| here)?;
                replica.answered += 1;
                deployment.rate.hit(now.mono, 1);
                if let Some(until) = ongoing.until {
                    deployment.deadlines.remove(&(until, key));
                }
                let (draining, worker) = (replica.draining.is_some(), &deployment.row.worker);
                let worker = (draining || !deployment.calls.is_empty()).then(|| worker.clone());
                if draining {
                    self.deployments.dirty.extend(worker);
                } else {
                    self.deployments.eager.extend(worker);
                }
                Some(ongoing)
            });
            match (key, ongoing) {
                // Of another life, to nobody's question, twice, or from somebody else.
                (None, _) | (_, None) => self.stale += 1,
                (_, Some(Ongoing { abandoned: true, .. })) => {}
                (Some(Key::Job(attempt)), _) => self.request_ended(now, attempt, machine, answer, step),
                (Some(Key::Call(ticket)), _) => Self::reply(step, ticket, super::calls::answer_of(answer)),
            }
        }
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

    fn request_lost(&mut self, now: Now, replica: AttemptId, key: Key, cause: Cause, step: &mut Step) {
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
        }
    }

    /// Nobody waits for a request any more. It keeps its place: the replica still works on it.
    pub(super) fn abandon(&mut self, now: Now, replica: AttemptId, key: Key) {
        let Some(deployment) = self.deployments.of_mut(replica.task.job) else { return };
        let Some(r) = deployment.replicas.get_mut(&replica.task.job) else { return };
        let Some(ongoing) = r.requests.get_mut(&key).filter(|o| !o.abandoned && r.attempt == replica.attempt)
        else {
            return;
        };
        if let Some(until) = ongoing.until {
            deployment.deadlines.remove(&(until, key));
        }
        let until = now.mono + HANG_MS;
        *ongoing = Ongoing { abandoned: true, until: Some(until) };
        deployment.deadlines.insert((until, key));
        let (machine, worker) = (r.machine.clone(), deployment.row.worker.clone());
        self.arm_deadlines(now, &worker);
        if let Some(machine) = machine {
            let id = self.id_of(key);
            self.deployments.cancels.push((machine, replica, id));
        }
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
                (Some((replica, Ongoing { abandoned: true, .. })), _) => {
                    let s = HANG_MS / 1000;
                    self.stop_replica(
                        replica,
                        format!("it hangs: a request was not answered {s} s after its end"),
                        step,
                    );
                }
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
                (None, Key::Job(_)) => {}
            }
        }
        self.arm_deadlines(now, worker);
    }

    /// What an agent knows of: the rest of what was given to its machine never arrived, or died with the agent before.
    pub(super) fn in_flight(
        &mut self,
        now: Now,
        machine: &str,
        items: Vec<(AttemptId, RequestId)>,
        last: bool,
        step: &mut Step,
    ) {
        let told = self.told.entry(machine.into()).or_default();
        told.extend(items);
        if !last {
            return;
        }
        let told: BTreeSet<(AttemptId, RequestId)> = self.told.remove(machine).unwrap_or_default();
        for job in self.deployments.on_machine(machine) {
            let Some(replica) = self.deployments.replica(job) else { continue };
            let id = replica.id();
            let missing = replica.requests.iter().filter(|(key, _)| !told.contains(&(id, self.id_of(**key))));
            let missing: Vec<(Key, Ongoing)> = missing.map(|(key, ongoing)| (*key, *ongoing)).collect();
            for (key, ongoing) in missing {
                if let Some(d) = self.deployments.of_mut(job) {
                    if let Some(until) = ongoing.until {
                        d.deadlines.remove(&(until, key));
                    }
                    if let Some(replica) = d.replicas.get_mut(&job) {
                        replica.requests.remove(&key);
                    }
                }
                if !ongoing.abandoned {
                    self.request_lost(now, id, key, Cause::WorkerLost, step);
                }
            }
        }
        for (replica, id) in told {
            let known = self
                .key_of(id)
                .is_some_and(|key| self.requests_of(replica).is_some_and(|r| r.contains_key(&key)));
            if !known {
                self.deployments.cancels.push((machine.into(), replica, id));
            }
        }
    }

    /// A machine with replicas is not heard from `since` on.
    pub(super) fn arm_requests(&mut self, machine: &str, since: u64) {
        if !self.deployments.on_machine(machine).is_empty() {
            self.due.push(since.saturating_add(LOST_AFTER_MS), What::LoseRequests(machine.into(), since));
        }
    }

    /// It was not heard for too long: what its replicas work on is done elsewhere.
    pub(super) fn lose_requests(&mut self, now: Now, machine: &str, since: u64, step: &mut Step) {
        if self.cluster.get(machine).is_none_or(|m| m.down_since != Some(since)) {
            return;
        }
        for job in self.deployments.on_machine(machine) {
            let Some(id) = self.deployments.replica(job).map(super::serving::Replica::id) else { continue };
            let Some(requests) = self.requests_of(id).cloned() else { continue };
            if let Some(d) = self.deployments.of_mut(job) {
                for (key, ongoing) in &requests {
                    d.deadlines.remove(&(ongoing.until.unwrap_or(0), *key));
                }
                if let Some(replica) = d.replicas.get_mut(&job) {
                    replica.requests.clear();
                }
            }
            for (key, _) in requests.into_iter().filter(|(_, o)| !o.abandoned) {
                self.request_lost(now, id, key, Cause::Lost, step);
            }
        }
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
