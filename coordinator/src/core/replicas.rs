//! Replicas of static workers: as many as are wanted, of the version that was launched last, started again when they end.
//! A replica is a job like any other, so keeper and guardian hold it through every restart; here is what makes it stay.
use super::Core;
use super::calls_cluster::new_row;
use super::due::What;
use super::serving::Replica;
use crate::cluster::shape::Shape;
use crate::effect::{Fact, Step};
use crate::input::Now;
use crate::job_manager::lifecycle::Phase;
use crate::job_manager::retry::Decision;
use crate::job_manager::{Holder, Job};
use crate::orchestrator::queue::Queue;
use crate::row::{Backend, Caller, QueueKind, QueueRow, REPLICAS, WorkerRow};
use reeve_protocol::api::Serving;
use reeve_protocol::cause::Account;
use reeve_protocol::tape;
use reeve_protocol::text::Clean;
use reeve_protocol::wire::{self, replica_phase as phase};
use reeve_protocol::{AttemptId, Cause, JobId, JobSpec, State, Substate, TaskId};
use std::collections::BTreeMap;
use std::sync::Arc;

/// First pause before a replica that ended by itself is started again; doubles up to the longest.
const BACKOFF_MS: u64 = 1_000;
const LONG_BACKOFF_MS: u64 = 300_000;
/// The least pause after a checkout that a person has to mend.
const CHECKOUT_PAUSE_MS: u64 = 60_000;
/// Who took requests for so long starts with the first pause again.
const HEALTHY_MS: u64 = 600_000;
/// How long a new replica may wait for room before an old one makes it.
const SWAP_MS: u64 = 500;
/// A replica that does not end although it is to is told again.
const STOP_AGAIN_MS: u64 = 30_000;
/// Replicas come before jobs: their queue never counts as having had its share.
const WEIGHT: u32 = 1_000_000;

impl Core {
    /// Before a step ends: what replicas that are over worked on goes elsewhere, and there are as many as wanted.
    pub(super) fn serve_workers(&mut self, now: Now, step: &mut Step) {
        while self.deployments.is_any_to_look_at() {
            for (attempt, requests) in std::mem::take(&mut self.deployments.over) {
                self.requests_lost(now, attempt, requests, step);
            }
            for name in std::mem::take(&mut self.deployments.dirty) {
                self.follow_load(now, &name, step);
                self.steer(now, &name, step);
                self.deployments.eager.insert(name);
            }
            for name in std::mem::take(&mut self.deployments.eager) {
                self.serve_calls(now, &name, step);
            }
        }
    }

    /// A replica's job has moved.
    pub(super) fn replica_moved(&mut self, now: Now, task: TaskId, from: Phase, to: Phase) {
        let Some((attempt, holder)) = self.jobs.task(task).map(|t| (t.attempt, t.holder.clone())) else {
            return;
        };
        let Some(replica) = self.deployments.replica_mut(task.job) else { return };
        let out = to.state() == State::Running || to.is(Substate::Assigned);
        if let (true, Holder::Machine(machine)) = (out, holder) {
            if replica.attempt != attempt {
                replica.attempt = attempt;
                replica.renew(now.mono);
            }
            replica.machine = Some(machine);
            if to.is(Substate::Running) && (from.state() == State::Queued || from.is(Substate::Preparing)) {
                replica.since = now.mono;
                let id = replica.id();
                if let Some(stall) = self.deployments.of_mut(task.job).map(|d| d.serving.stall_ms()) {
                    self.due.after(now, stall, What::Stall(id));
                }
            }
        } else if !out {
            self.take_requests(now, task.job);
            if let Some(replica) = self.deployments.replica_mut(task.job) {
                replica.phase = if to.is(Substate::Retrying) { phase::BROKEN } else { phase::STARTING };
                replica.machine = None;
            }
            if to.state().is_terminal() {
                self.deployments.remove(task.job);
            }
        }
    }

    /// The requests of a replica that is over are to go elsewhere before this step ends.
    pub(super) fn take_requests(&mut self, now: Now, job: JobId) {
        let Some(deployment) = self.deployments.of_mut(job) else { return };
        let Some(replica) = deployment.replicas.get_mut(&job) else { return };
        let (id, requests) = (replica.id(), std::mem::take(&mut replica.requests));
        replica.renew(now.mono);
        for (key, ongoing) in &requests {
            if let Some(until) = ongoing.until {
                deployment.deadlines.remove(&(until, *key));
            }
        }
        if !requests.is_empty() {
            self.deployments.over.push((id, requests));
        }
    }

    /// How a replica goes on after an end; `None`: the job is no replica, or its end is wanted.
    pub(super) fn replica_decision(&mut self, now: Now, job: JobId, cause: &Cause) -> Option<Decision> {
        let t = self.jobs.task(TaskId::single(job))?;
        let (cancel, mut tries, losses) = (t.cancel, t.tries, t.losses);
        let replica = self.deployments.replica_mut(job)?;
        if cancel {
            return None;
        }
        let healthy = replica.ready_since.is_some_and(|since| now.mono >= since + HEALTHY_MS);
        let told = Some(cause.to_wire().detail).filter(|detail| !detail.is_empty());
        let words = told.or(replica.last_words.take());
        replica.reason = Some(words.map_or_else(|| cause.to_string(), |words| format!("{cause}: {words}")));
        if healthy && let Some(t) = self.jobs.task_mut(TaskId::single(job)) {
            (t.tries, tries) = (0, 0);
        }
        let own = cause.account() != Account::Infrastructure;
        let ms = if own {
            backoff(tries).max(checkout_pause(cause))
        } else if losses == 0 {
            0
        } else {
            backoff(losses - 1)
        };
        Some(Decision::After(ms, if own { Account::Own } else { Account::Infrastructure }))
    }

    /// The last line of a short log: most say there why they end.
    pub(super) fn note_last_words(&mut self, job: JobId, tape: &[u8]) {
        let Some(replica) = self.deployments.replica_mut(job) else { return };
        let mut text = Vec::new();
        for record in tape::Decoder::default().feed(tape).into_iter().filter(|r| r.gap().is_none()) {
            text.extend(record.bytes);
        }
        let text = String::from_utf8_lossy(&text);
        let line = text.lines().rev().find(|line| !line.trim().is_empty());
        replica.last_words = line.map(|line| Clean::short(line, 200).into_string());
    }

    /// What replicas say about themselves, through their machine.
    pub(super) fn replicas_said(
        &mut self,
        now: Now,
        machine: &str,
        session: u64,
        items: Vec<wire::ReplicaState>,
        step: &mut Step,
    ) {
        for said in items {
            let current = self.record_of(machine, said.attempt) == super::agents::Record::Current;
            let job = said.attempt.task.job;
            let replica =
                self.deployments.replica_mut(job).filter(|r| current && r.attempt == said.attempt.attempt);
            let Some(replica) = replica else {
                self.stale += 1;
                continue;
            };
            let before = replica.phase;
            let message = said.message.map(|m| m.chars().take(256).collect::<String>());
            if (before, replica.fraction, &replica.message) != (said.phase, said.fraction, &message) {
                replica.since = now.mono;
            }
            (replica.phase, replica.fraction, replica.message) = (said.phase, said.fraction, message.clone());
            replica.session = session;
            if said.phase == phase::READY {
                replica.ready_since.get_or_insert(now.mono);
                replica.reason = None;
            }
            if said.phase == phase::BROKEN {
                let detail = message.unwrap_or_else(|| "it does not keep to the protocol".to_owned());
                self.stop_replica(said.attempt, detail, step);
            }
            self.note_phase(now, machine, job, before, said.phase);
        }
    }

    fn note_phase(&mut self, now: Now, machine: &str, job: JobId, before: u16, phase: u16) {
        let Some(name) = self.deployments.worker_of(job).map(str::to_owned) else { return };
        if before != phase && [before, phase].contains(&phase::READY) {
            let what = if phase == phase::READY { "replica_ready" } else { "replica_unready" };
            let actor = self.agent_actor(machine);
            self.events.note(now.wall, "worker", &name, what, &actor);
        }
        self.deployments.dirty.insert(name);
    }

    /// Ends the current attempt of a replica, which is then started again.
    pub(super) fn stop_replica(&mut self, attempt: AttemptId, detail: String, step: &mut Step) {
        let grace = self.jobs.get(attempt.task.job).map_or(0, |j| j.grace_ms);
        let machine = self.deployments.replica(attempt.task.job).filter(|r| r.attempt == attempt.attempt);
        if let Some(machine) = machine.and_then(|r| r.machine.clone()) {
            self.send_stop(&machine, attempt, Cause::Error { detail }, grace, step);
        }
    }

    /// Time for progress is over.
    pub(super) fn stalled(&mut self, now: Now, attempt: AttemptId, step: &mut Step) {
        let Some(stall) = self.deployments.of_mut(attempt.task.job).map(|d| d.serving.stall_ms()) else {
            return;
        };
        let Some(replica) = self.deployments.replica(attempt.task.job) else { return };
        let loading = replica.attempt == attempt.attempt && replica.phase < phase::READY;
        let (since, machine) = (replica.since, replica.machine.clone());
        let Some(machine) = machine.filter(|_| loading) else { return };
        let reachable = self.cluster.get(&machine).is_some_and(|m| m.down_since.is_none());
        if !reachable || now.mono < since + stall {
            // A machine that is not heard cannot tell of progress.
            self.due.push(if reachable { since } else { now.mono } + stall, What::Stall(attempt));
            return;
        }
        let detail = format!("not ready, and no progress for {} s", stall / 1000);
        self.stop_replica(attempt, detail, step);
        // Again, until it has ended: its machine may not hear of it.
        self.due.after(now, STOP_AGAIN_MS, What::Stall(attempt));
    }

    /// As many replicas as wanted, of what was launched last: new ones are ready before old ones go.
    fn steer(&mut self, now: Now, name: &str, step: &mut Step) {
        let Some(d) = self.deployments.get(name) else { return };
        let want = d.row.replicas as usize;
        let staying = || d.replicas.values().filter(|r| r.draining.is_none());
        let (current, old): (Vec<&Replica>, Vec<&Replica>) = staying().partition(|r| d.is_current(r));
        let ready = current.iter().filter(|r| r.is_ready()).count();
        let mut missing = want.saturating_sub(current.len());
        if !old.is_empty() {
            // One more than wanted at a time.
            missing = missing.min(1usize.saturating_sub(current.len() - ready));
        }
        if d.awaits_commit() {
            // Its ref is resolved once, so that all replicas run the same.
            missing = missing.min(1usize.saturating_sub(current.len()));
        }
        if self.is_full() {
            // A new replica is a new row; those that there are go on.
            missing = 0;
        }
        let mut leaving = worst(&current, current.len().saturating_sub(want));
        let keep = want.saturating_sub(ready);
        leaving.extend(worst(&old, old.len().saturating_sub(keep)));
        let blocked = current.iter().filter(|r| r.attempt == 0 && now.mono >= r.since + SWAP_MS);
        let blocked: Vec<JobId> = blocked.map(|r| r.job).collect();
        let old: Vec<JobId> = old.iter().map(|r| r.job).filter(|job| !leaving.contains(job)).collect();
        let swapping = d.replicas.values().any(|r| r.draining.is_some());
        if let (Some(new), false) = (blocked.first(), swapping) {
            leaving.extend(old.into_iter().find(|old| self.would_fit(*new, *old)));
            let swap = !leaving.is_empty();
            if let Some(d) = self.deployments.get_mut(name).filter(|_| swap) {
                d.reason = Some("there is no room for the old and the new version at once: replicas are swapped one by one".to_owned());
            }
        } else if blocked.is_empty()
            && let Some(d) = self.deployments.get_mut(name)
        {
            d.reason = None;
        }
        for job in leaving {
            self.drain_replica(now, job);
        }
        for _ in 0..missing {
            if !self.add_replica(now, name, step) {
                break;
            }
        }
        self.stop_drained_replicas(now, name, step);
    }

    /// Whether a replica that waits for room would find it where another one is now.
    fn would_fit(&self, new: JobId, old: JobId) -> bool {
        let shape = |job: JobId| self.jobs.get(job).map(|j| self.cluster.shapes.get(j.shape));
        let (Some(need), Some(held)) = (shape(new), shape(old)) else { return false };
        let Some(machine) = self.deployments.replica(old).and_then(|r| self.cluster.get(r.machine.as_ref()?))
        else {
            return false;
        };
        let mut free = machine.free().clone();
        free.give(&held.ask);
        self.cluster.choose(self.jobs.get(new).map_or(0, |j| j.shape)).is_err()
            && machine.accepts().is_ok()
            && need.allows(&machine.name, &machine.info.labels).is_ok()
            && free.fits(&need.ask)
    }

    /// Takes a replica out of service: it ends once it has answered, or when its time is over.
    fn drain_replica(&mut self, now: Now, job: JobId) {
        let Some(d) = self.deployments.of_mut(job) else { return };
        let (drain, name) = (d.serving.drain_ms(), d.row.worker.clone());
        if let Some(replica) = d.replicas.get_mut(&job) {
            replica.draining.get_or_insert(now.mono);
            self.due.after(now, drain, What::Steer(name));
        }
    }

    fn stop_drained_replicas(&mut self, now: Now, name: &str, step: &mut Step) {
        let Some(d) = self.deployments.get(name) else { return };
        let drain = d.serving.drain_ms();
        let over = |r: &&Replica| {
            r.draining.is_some_and(|since| r.requests.is_empty() || now.mono >= since.saturating_add(drain))
        };
        let over: Vec<JobId> = d.replicas.values().filter(over).map(|r| r.job).collect();
        for job in over {
            self.end_replica(now, job, step);
        }
    }

    /// Ends a replica for good.
    pub(super) fn end_replica(&mut self, now: Now, job: JobId, step: &mut Step) {
        if self.jobs.task(TaskId::single(job)).is_some_and(|t| !t.cancel) {
            self.cancel_task(now, TaskId::single(job), None, "coordinator", step);
        }
    }

    /// One more replica: a job of the queue that nobody sees.
    fn add_replica(&mut self, now: Now, name: &str, step: &mut Step) -> bool {
        let Some(d) = self.deployments.get(name) else { return false };
        let Some(worker) = &d.recipe else { return false };
        let (number, on) = (d.free_number(), d.row.on.clone());
        let spec = replica_spec(worker, number, &on, d.row.commit.as_ref());
        let version = worker.version;
        let caller = Caller::new(worker.owner_uid, worker.owner.clone());
        let Ok(shape) = Shape::of(&spec) else { return false };
        self.replicas_queue(now, step);
        let id = self.next_job;
        let Ok(row) = new_row(id, now, &caller, &spec, Some((name.to_owned(), version)), None) else {
            return false;
        };
        self.next_job += 1;
        let shape = self.cluster.shapes.intern(shape);
        let Some(job) = Job::restore(&row, &spec, shape) else { return false };
        self.deployments.add(name, Replica::new(id, number, version, on, now.mono));
        self.note_new_job(now, &row, "coordinator");
        step.facts.push(Fact::JobAdded(Box::new(row)));
        self.adopt(job, now);
        self.due.after(now, SWAP_MS, What::Steer(name.to_owned()));
        true
    }

    fn replicas_queue(&mut self, now: Now, step: &mut Step) {
        if self.queues.get(REPLICAS).is_some() {
            return;
        }
        let own = (0, &"coordinator".into());
        let mut row = QueueRow::new(REPLICAS.into(), QueueKind::Jobs, Backend::Local, own, now.wall);
        row.weight = WEIGHT;
        step.facts.push(Fact::QueuePut(Box::new(row.clone())));
        self.queues.insert(Queue::new(row));
    }

    /// A replica's job was read from the store.
    pub(super) fn restore_replica(&mut self, row: &crate::row::JobRow, spec: &JobSpec, now: Now) {
        let Some((name, version)) = &row.worker else { return };
        let number = spec.env.get("REEVE_REPLICA").and_then(|n| n.parse().ok()).unwrap_or(0);
        // What was named at launch; what its registration says does not count.
        let on = if spec.labels.contains_key(ON) { spec.on.clone() } else { Vec::new() };
        let mut replica = Replica::new(row.id, number, *version, on, now.mono);
        replica.attempt = row.standing.attempt;
        replica.reason = row.standing.cause.as_ref().map(ToString::to_string);
        if row.standing.substate == Some(Substate::Retrying) {
            replica.phase = phase::BROKEN;
        }
        self.deployments.add(name, replica);
    }

    /// The frame that starts a replica, if the job is one.
    pub(super) fn replica_of_start(&self, job: JobId) -> Option<wire::Replica> {
        let serving = self.serving_of(job)?;
        Some(wire::Replica {
            protocol: u16::from(serving.is_http()),
            ready: serving.ready.clone(),
            path: serving.path.clone().unwrap_or_else(|| "/".to_owned()),
            port: 0,
        })
    }

    /// How the requests to a replica are gathered, if the job is one.
    pub(super) fn batch_of_start(&self, job: JobId) -> wire::Batch {
        self.serving_of(job).map(Serving::batch).unwrap_or_default()
    }

    fn serving_of(&self, replica: JobId) -> Option<&Serving> {
        let deployment = self.deployments.get(self.deployments.worker_of(replica)?)?;
        Some(deployment.serving_of(self.deployments.replica(replica)?.version))
    }

    /// The first replica of a version from git has found the commit of its ref: all of that version run it from now on.
    pub(super) fn replica_resolved(&mut self, now: Now, job: JobId, commit: &str, step: &mut Step) {
        let Some(version) = self.deployments.replica(job).map(|r| r.version) else { return };
        let Some(d) = self.deployments.of_mut(job).filter(|d| d.row.version == version) else { return };
        if d.row.commit.is_none() {
            (d.row.commit, d.row.changed_at) = (Some(commit.to_owned()), now.wall);
            step.facts.push(Fact::DeploymentPut(Box::new(d.row.clone())));
            let name = d.row.worker.clone();
            self.deployments.dirty.insert(name);
        }
    }

    /// What a replica has: requests by replica, for the invariants.
    pub(super) fn requests_of(
        &self,
        attempt: AttemptId,
    ) -> Option<&BTreeMap<super::serving::Key, super::serving::Ongoing>> {
        self.deployments
            .replica(attempt.task.job)
            .filter(|r| r.attempt == attempt.attempt)
            .map(|r| &r.requests)
    }

    /// Whether requests reach a replica now.
    pub(super) fn is_reachable(cluster: &crate::cluster::Cluster, replica: &Replica) -> bool {
        let machine = replica.machine.as_ref().and_then(|id: &Arc<str>| cluster.get(id));
        machine.is_some_and(|m| m.ready_session() == Some(replica.session) && m.down_since.is_none())
    }
}

/// Marks a replica whose machines were named at launch.
const ON: &str = "reeve.on";

/// A replica as a job.
fn replica_spec(worker: &WorkerRow, number: u32, on: &[String], commit: Option<&String>) -> JobSpec {
    let mut spec: JobSpec = serde_json::from_str(&worker.spec).unwrap_or_default();
    if let Some(git) = &mut spec.git {
        git.commit = git.commit.take().or_else(|| commit.cloned());
    }
    spec.queue = Some(REPLICAS.to_owned());
    spec.name = Some(format!("{}/{number}", worker.name));
    spec.worker = Some(worker.name.clone());
    spec.env.insert("REEVE_REPLICA".to_owned(), number.to_string());
    // Those are of its requests.
    (spec.retries, spec.timeout_s, spec.payload) = (None, None, None);
    if !on.is_empty() {
        spec.on = on.to_vec();
        spec.labels.insert(ON.to_owned(), "launch".to_owned());
    }
    spec
}

/// Of these replicas the ones to go first: not ready, then with the least to do, then the newest.
fn worst(replicas: &[&Replica], n: usize) -> Vec<JobId> {
    let mut order: Vec<_> =
        replicas.iter().map(|r| (r.is_ready(), r.requests.len(), std::cmp::Reverse(r.job))).collect();
    order.sort_unstable();
    order.into_iter().take(n).map(|(_, _, job)| job.0).collect()
}

/// What a person has to mend is not tried again every second: a ref that is not there, a door that does not open.
fn checkout_pause(cause: &Cause) -> u64 {
    match cause {
        Cause::Checkout { what, .. } if ["auth", "ref"].contains(&what.as_str()) => CHECKOUT_PAUSE_MS,
        _ => 0,
    }
}

/// 1, 2, 4 .. 300 s.
fn backoff(tries: u32) -> u64 {
    BACKOFF_MS.saturating_mul(1 << tries.min(20)).min(LONG_BACKOFF_MS)
}

#[cfg(test)]
mod tests {
    use super::super::serving::{Key, Ongoing};
    use super::*;

    #[test]
    fn pauses_double_up_to_five_minutes() {
        let pauses: Vec<u64> = [0, 1, 2, 8, 9, 40].map(backoff).to_vec();
        assert_eq!(pauses, [1_000, 2_000, 4_000, 256_000, 300_000, 300_000]);
    }

    #[test]
    fn those_that_are_not_ready_go_first_then_the_idle_then_the_newest() {
        let replica = |job: u64, ready: bool, requests: u64| {
            let mut r = Replica::new(job, 1, 1, vec![], 0);
            r.phase = if ready { phase::READY } else { phase::LOADING };
            r.requests = (0..requests).map(|t| (Key::Call(t), Ongoing::default())).collect();
            r
        };
        let all = [replica(1, true, 2), replica(2, true, 0), replica(3, false, 0), replica(4, true, 0)];
        let all: Vec<&Replica> = all.iter().collect();
        assert_eq!(worst(&all, 3), [3, 4, 2]);
    }
}
