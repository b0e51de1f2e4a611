//! Who gets the next slot: the Orchestrator says what comes next, the Cluster where it fits, here both meet. Once per
//! step, on events; there is no tick.
use super::Core;
use super::due::What;
use crate::cluster::start::{self, Facts};
use crate::effect::{Effect, Step, ToAgent};
use crate::input::Now;
use crate::job_manager::lifecycle::Move;
use crate::job_manager::{Body, Holder, Job};
use crate::orchestrator::queue::Place;
use reeve_protocol::{AttemptId, Cause, JobSpec, TaskId, wire};
use std::collections::HashSet;
use std::sync::Arc;

/// Placements in one step: with it a step stays below 2,000 rows.
const STEP_PLACEMENTS: usize = 500;
/// What waits ahead of a slot this long is taken back.
pub(super) const REVOKE_AFTER_MS: u64 = 1_000;

impl Core {
    /// Hands out what fits. A need that fits nowhere is left out for the rest of the step, so the cost does not grow with
    /// what waits behind it.
    pub(super) fn place(&mut self, now: Now, step: &mut Step) {
        let mut blocked = HashSet::new();
        for _ in 0..STEP_PLACEMENTS {
            let Some((_, place)) = self.queues.next(&blocked) else {
                if self.absorb(now, &blocked) {
                    continue;
                }
                return;
            };
            let Some(task) = self.next_task(place.job) else {
                self.offer(place.job);
                if self.next_task(place.job).is_none() {
                    self.withdraw_stale(place);
                }
                continue;
            };
            if !self.place_one(now, place, task, step) {
                blocked.insert(place.need);
            }
        }
        // More may fit: come back at once.
        self.due.push(now.mono, What::Again);
    }

    fn withdraw_stale(&mut self, place: Place) {
        for q in self.queues.iter_mut() {
            q.withdraw(place);
        }
    }

    fn place_one(&mut self, now: Now, place: Place, task: TaskId, step: &mut Step) -> bool {
        if let Some(worker) = self.cluster.shapes.get(place.need).worker.clone() {
            return self.place_request(now, task, &worker, step);
        }
        let (machine, ahead) = match self.cluster.choose(place.need) {
            Ok(machine) => (machine, false),
            // A retry after a loss is never handed ahead: its attempt before may still come back.
            Err(_) if self.jobs.task(task).is_some_and(|t| t.holder != Holder::None) => return false,
            Err(_) => match self.cluster.choose_ahead(place.need) {
                Some(machine) => (machine, true),
                None => return false,
            },
        };
        self.assign(now, place, task, &machine, ahead, step);
        true
    }

    /// Opens an attempt on a machine and tells it to start.
    fn assign(
        &mut self,
        now: Now,
        place: Place,
        task: TaskId,
        machine: &Arc<str>,
        ahead: bool,
        step: &mut Step,
    ) {
        let Some((name, session)) =
            self.cluster.get(machine).and_then(|m| Some((m.name.clone(), m.ready_session()?)))
        else {
            return;
        };
        let previous = self.jobs.task(task).and_then(|t| t.cause.clone());
        let gpus = self.cluster.gpus_for(machine, place.need);
        let holder = Holder::Machine(machine.clone());
        let Some(attempt) = self.open_attempt(now, task, holder, &name, gpus.clone(), step) else { return };
        self.cluster.reserve(machine, attempt, place.need, gpus.clone(), ahead);
        let actor = "coordinator";
        self.go(now, task, Move::Assign, actor);
        if let Some(collect) = self.spec_of(task.job).and_then(|spec| start::collect(&spec, attempt)) {
            step.effects.push(Effect::Send(machine.to_string(), session, ToAgent::Collect(collect)));
        }
        if let Some(frame) = self.start_frame(attempt, gpus, previous.as_ref()) {
            step.effects.push(Effect::Send(machine.to_string(), session, frame));
        }
        if ahead {
            self.due.after(now, REVOKE_AFTER_MS, What::Revoke(attempt));
        }
    }

    fn start_frame(
        &mut self,
        attempt: AttemptId,
        gpus: Vec<String>,
        previous: Option<&Cause>,
    ) -> Option<ToAgent> {
        let spec = self.spec_of(attempt.task.job)?;
        let job = self.jobs.get(attempt.task.job)?;
        let shape = self.cluster.shapes.get(job.shape);
        let facts = Facts {
            attempt,
            lineage: &self.identity.lineage,
            owner_uid: job.owner_uid,
            owner: &job.owner,
            queue: &job.queue,
            worker: spec.worker.as_deref(),
            ask: &shape.ask,
            gpus,
            previous,
            grace_ms: job.grace_ms,
        };
        let start = start::start(&spec, facts);
        if let Some(replica) = self.replica_of_start(attempt.task.job) {
            let (batch, checkout) = (self.batch_of_start(attempt.task.job), start::checkout(&spec));
            return Some(if batch.size == 0 && checkout.is_none() {
                ToAgent::StartReplica(Box::new(wire::StartReplica { start, replica }))
            } else {
                ToAgent::LaunchReplica(Box::new(wire::LaunchReplica { start, replica, batch, checkout }))
            });
        }
        Some(match start::checkout(&spec) {
            Some(checkout) => ToAgent::StartGit(Box::new(wire::StartGit { start, checkout })),
            None => ToAgent::Start(Box::new(start)),
        })
    }

    /// The parsed spec; of an array it is kept, so that a million tasks parse it once.
    pub(super) fn spec_of(&mut self, id: u64) -> Option<Arc<JobSpec>> {
        match self.jobs.get_mut(id)? {
            Job { body: Body::Array(array), spec, .. } => {
                if array.parsed.is_none() {
                    array.parsed = serde_json::from_str(spec).ok().map(Arc::new);
                }
                array.parsed.clone()
            }
            Job { spec, .. } => serde_json::from_str(spec).ok().map(Arc::new),
        }
    }
}
