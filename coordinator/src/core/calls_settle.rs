//! What settles a lease: `ack`, `nack`, `extend`, of a message or of a job; and messages that come back.
use super::Core;
use super::calls_cluster::ended;
use super::due::What;
use crate::effect::{Fact, Reply, Step};
use crate::input::{Now, Settle};
use crate::job_manager::Holder;
use crate::job_manager::lifecycle::Move;
use crate::orchestrator::messages::{MAX_DELIVERIES, Where};
use crate::row::{Caller, QueueKind};
use reeve_protocol::api::{LeaseRequest, RefusedLease};
use reeve_protocol::{AttemptId, Cause, Code, Problem, TaskId};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

impl Core {
    /// `ack`, `nack`, `extend`: of a message's lease, or of a job's.
    pub(super) fn settle(
        &mut self,
        now: Now,
        caller: &Caller,
        queue: &str,
        how: Settle,
        request: LeaseRequest,
        step: &mut Step,
    ) -> Result<Reply, Problem> {
        self.known_queue(queue)?;
        if !request.leases.is_empty() {
            return Ok(self.settle_many(now, caller, queue, how, request, step));
        }
        let Some(id) = self.queues.get(queue).and_then(|q| q.messages.holder(&request.lease)) else {
            let held = self.consumers().find(|(lease, _)| *lease == request.lease);
            let attempt = held.map(|(_, attempt)| attempt);
            let Some(attempt) = attempt else { return Err(self.not_held(queue, &request.lease)) };
            self.settle_job(now, caller, attempt, how, request, step);
            return Ok(Reply::Settled(attempt.task.to_string()));
        };
        self.settle_message(now, queue, id, how, &request, step);
        self.note_settled(now, caller, queue, how, 1);
        Ok(Reply::Settled(id.to_string()))
    }

    /// Each lease for itself, all in one commit.
    fn settle_many(
        &mut self,
        now: Now,
        caller: &Caller,
        queue: &str,
        how: Settle,
        mut request: LeaseRequest,
        step: &mut Step,
    ) -> Reply {
        let leases = std::mem::take(&mut request.leases);
        let of_jobs: HashMap<String, AttemptId> =
            if self.queues.get(queue).is_some_and(|q| q.row.kind == QueueKind::Messages) {
                HashMap::new()
            } else {
                self.consumers().map(|(lease, attempt)| (lease.to_owned(), attempt)).collect()
            };
        let (mut messages, mut jobs, mut refused) = (0, BTreeSet::new(), Vec::new());
        for lease in leases {
            request.lease.clone_from(&lease);
            if let Some(id) = self.queues.get(queue).and_then(|q| q.messages.holder(&lease)) {
                self.settle_message(now, queue, id, how, &request, step);
                messages += 1;
            } else if let Some(attempt) = of_jobs.get(&lease).copied().filter(|a| jobs.insert(*a)) {
                self.settle_job(now, caller, attempt, how, request.clone(), step);
            } else {
                let error = self.not_held(queue, &lease);
                refused.push(RefusedLease { lease, error });
            }
        }
        if messages > 0 {
            self.note_settled(now, caller, queue, how, messages);
        }
        Reply::SettledMany(messages + jobs.len() as u64, refused)
    }

    /// Leases of consumers that hold a job.
    fn consumers(&self) -> impl Iterator<Item = (&str, AttemptId)> {
        self.lease_until.keys().filter_map(|attempt| {
            let task = self.jobs.task(attempt.task).filter(|t| t.attempt == attempt.attempt)?;
            match &task.holder {
                Holder::Consumer(lease) => Some((lease.as_str(), *attempt)),
                _ => None,
            }
        })
    }

    /// Tells observers; more time for a lease is nothing to be told.
    fn note_settled(&mut self, now: Now, caller: &Caller, queue: &str, how: Settle, n: u64) {
        let what = match how {
            Settle::Ack => "acked",
            Settle::Nack => "nacked",
            Settle::Extend => return,
        };
        let actor = format!("consumer:{}", caller.name);
        self.events.note_many(now.wall, ("message", queue, what), n, &actor);
    }

    fn settle_message(
        &mut self,
        now: Now,
        queue: &str,
        id: u64,
        how: Settle,
        request: &LeaseRequest,
        step: &mut Step,
    ) {
        let Some(q) = self.queues.get_mut(queue) else { return };
        let name = q.row.name.clone();
        match how {
            Settle::Ack => {
                q.messages.remove(id);
                if q.has_rows() {
                    step.facts.push(Fact::MessageGone(id));
                }
            }
            Settle::Nack => {
                let delay = request.delay_s.map_or(0, |s| (s * 1000.0) as i64);
                let why = request.error.clone().unwrap_or_else(|| "nack".to_owned());
                self.message_back(now, &name, id, delay, &why, step);
            }
            Settle::Extend => {
                let more = request.lease_s.map_or(60_000, |s| (s * 1000.0) as u64);
                let until = now.wall + more as i64;
                let deliveries = q.messages.get(id).map_or(0, |m| m.deliveries);
                q.messages.put(id, Where::Leased(request.lease.clone(), now.mono + more));
                if q.has_rows() {
                    step.facts.push(Fact::MessageMoved {
                        id,
                        deliveries,
                        lease: Some((request.lease.clone(), until)),
                        run_at: None,
                        dead: None,
                    });
                }
                self.due.after(now, more, What::MessageLease(name, id));
            }
        }
    }

    /// A message comes back: ready, delayed, or dead after too many deliveries.
    pub(super) fn message_back(
        &mut self,
        now: Now,
        queue: &Arc<str>,
        id: u64,
        delay_ms: i64,
        why: &str,
        step: &mut Step,
    ) {
        let Some(q) = self.queues.get_mut(queue) else { return };
        let Some(deliveries) = q.messages.get(id).map(|m| m.deliveries) else { return };
        let (place, run_at, dead) = if deliveries >= MAX_DELIVERIES {
            (Where::Dead, None, Some(why.to_owned()))
        } else if delay_ms > 0 {
            self.due.after(now, delay_ms as u64, What::MessageDelay(queue.clone(), id));
            (Where::Delayed(now.wall + delay_ms), Some(now.wall + delay_ms), None)
        } else {
            (Where::Ready, None, None)
        };
        if dead.is_some() {
            self.events.note(now.wall, "message", queue, "dead", "coordinator");
        }
        q.messages.put(id, place);
        q.messages.note_dead(id, dead.as_deref());
        if q.has_rows() {
            step.facts.push(Fact::MessageMoved { id, deliveries, lease: None, run_at, dead });
        }
    }

    fn settle_job(
        &mut self,
        now: Now,
        caller: &Caller,
        attempt: AttemptId,
        how: Settle,
        request: LeaseRequest,
        step: &mut Step,
    ) {
        let actor = format!("consumer:{}", caller.name);
        match how {
            Settle::Ack => {
                if let Some(result) = &request.result {
                    step.facts.push(Fact::ResultKept(attempt.task, result.to_string()));
                }
                self.end_attempt(now, ended(attempt, Cause::Ok, now), &actor, step);
                self.lease_until.remove(&attempt);
            }
            Settle::Nack => {
                let detail = request.error.unwrap_or_else(|| "given back".to_owned());
                step.facts.push(Fact::AttemptEnded(Box::new(ended(
                    attempt,
                    Cause::Reported { detail },
                    now,
                ))));
                let delay = request.delay_s.map_or(0, |s| (s * 1000.0) as i64);
                if delay > 0 {
                    if let Some(t) = self.jobs.task_mut(attempt.task) {
                        t.run_at = Some(now.wall + delay);
                    }
                    self.due.after(now, delay as u64, What::Run(attempt.task));
                }
                self.leave(now, attempt, if delay > 0 { Move::Delay } else { Move::Ready }, &actor);
                self.lease_until.remove(&attempt);
            }
            Settle::Extend => {
                let more = request.lease_s.map_or(60_000, |s| (s * 1000.0) as u64);
                self.lease_until.insert(attempt, now.mono + more);
                self.due.after(now, more, What::JobLease(attempt, request.lease));
            }
        }
    }

    /// What has become of that which a lease was of.
    fn not_held(&self, queue: &str, lease: &str) -> Problem {
        let elsewhere = self.queues.iter().find(|q| q.messages.holder(lease).is_some());
        let of = lease.rsplit_once('-').map(|(of, _)| of);
        let is_messages = self.queues.get(queue).is_some_and(|q| q.row.kind == QueueKind::Messages);
        let state = match (elsewhere, of) {
            (Some(q), _) => format!("it is of queue {}", q.row.name),
            (None, Some(of)) if is_messages => match of.parse() {
                Ok(id) => self.message_state(queue, id),
                Err(_) => UNKNOWN.to_owned(),
            },
            (None, Some(of)) => task_of(of).map_or_else(|| UNKNOWN.to_owned(), |task| self.task_state(task)),
            (None, None) => UNKNOWN.to_owned(),
        };
        Problem::new(Code::NoLease, format!("the lease is not held: {state}"))
            .hint("receive again; extend a lease before it ends")
    }

    fn message_state(&self, queue: &str, id: u64) -> String {
        let place = self.queues.get(queue).and_then(|q| q.messages.get(id)).map(|m| &m.place);
        let state = match place {
            Some(Where::Ready) => "is ready again",
            Some(Where::Delayed(_)) => "is delayed",
            Some(Where::Leased(..)) => "is held under another lease",
            Some(Where::Dead) => "is among the dead",
            Some(Where::Outgoing(_)) => "is on its way to the broker",
            None => "was settled, removed, moved or has expired",
        };
        format!("message {id} {state}")
    }

    fn task_state(&self, task: TaskId) -> String {
        match self.jobs.task(task) {
            Some(t) => format!("job {task} is {} in attempt {}", t.phase().state(), t.attempt),
            None if self.queues.find_parked(task.job).is_some() => format!("job {task} waits again"),
            None => format!("job {task} has ended and is no longer at hand, or never was here"),
        }
    }
}

/// A task as leases begin with it.
fn task_of(text: &str) -> Option<TaskId> {
    match text.split_once('.') {
        Some((job, index)) => Some(TaskId::of_array(job.parse().ok()?, index.parse().ok()?)),
        None => Some(TaskId::single(text.parse().ok()?)),
    }
}

/// Of a lease that was never given here.
const UNKNOWN: &str = "nothing here had it";
