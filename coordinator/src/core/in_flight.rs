//! What replicas work on as their agents tell it: after a session begins it is compared with what they were given, and what
//! is at a machine that is not heard goes elsewhere.
use super::Core;
use super::due::What;
use super::serving::{Key, Ongoing, Replica};
use crate::effect::Step;
use crate::input::Now;
use reeve_protocol::wire::RequestId;
use reeve_protocol::{AttemptId, Cause};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Tracked requests of a machine that is not heard for so long go elsewhere.
const LOST_AFTER_MS: u64 = 60_000;

impl Core {
    /// What an agent knows of: the rest of what was given to its machine never arrived, or died with the agent before. What
    /// only the agent knows of nobody waits for; it takes its place all the same.
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
            let key = self.key_of(id);
            if self.requests_of(replica).is_none_or(|r| !r.contains_key(&key)) {
                self.unasked(now, machine, replica, key);
                self.deployments.cancels.push((machine.into(), replica, id));
            }
        }
        self.deployments.untold.remove(machine);
        self.wake_replicas_on(machine);
    }

    /// A replica works on something that nobody waits for: of a life before, or done elsewhere by now.
    fn unasked(&mut self, now: Now, machine: &str, replica: AttemptId, key: Key) {
        let here = |r: &Replica| r.attempt == replica.attempt && r.machine.as_deref() == Some(machine);
        if self.deployments.replica(replica.task.job).is_some_and(here) {
            self.hold_place(now, replica, key);
        }
    }

    /// A session begins: until it has told what replicas there work on, they get nothing more. Every agent tells that right
    /// after its inventory; one that does not is not waited for longer than for a machine that says nothing.
    pub(super) fn await_in_flight(&mut self, now: Now, machine: &str, session: u64) {
        self.told.remove(machine);
        self.deployments.untold.remove(machine);
        if !self.deployments.on_machine(machine).is_empty() {
            let machine: Arc<str> = machine.into();
            self.deployments.untold.insert(machine.clone());
            self.due.after(now, LOST_AFTER_MS, What::InFlight(machine, session));
        }
    }

    /// That session has had its time: what is known of its replicas must do.
    pub(super) fn in_flight_due(&mut self, machine: &str, session: u64) {
        let is_that = |m: &crate::cluster::machine::Machine| m.ready_session() == Some(session);
        if self.cluster.get(machine).is_some_and(is_that) && self.deployments.untold.remove(machine) {
            self.told.remove(machine);
            self.wake_replicas_on(machine);
        }
    }

    /// Replicas there may take requests again.
    fn wake_replicas_on(&mut self, machine: &str) {
        for job in self.deployments.on_machine(machine) {
            let worker = self.deployments.worker_of(job).map(str::to_owned);
            self.deployments.eager.extend(worker);
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
            let Some(id) = self.deployments.replica(job).map(Replica::id) else { continue };
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
}
