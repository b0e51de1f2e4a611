//! What falls due: one short function each. Whoever handles an entry checks that it still means something.
use super::Core;
use super::calls_cluster::ended;
use super::due::What;
use crate::effect::{Effect, Fact, Step, ToAgent};
use crate::input::Now;
use crate::job_manager::lifecycle::Move;
use crate::job_manager::retry::{self, Decision};
use crate::job_manager::{Body, Holder, Job};
use crate::orchestrator::messages::Where;
use reeve_protocol::{AttemptId, Cause, State, Substate, TaskId};
use std::sync::Arc;

/// A watch handled this late means that this process did not run: nobody is judged for that time. With the second
/// between two watches every stop of 5 s is noticed.
const FROZEN_MS: u64 = 4_000;
/// While somebody may be judged, this process looks every so often whether it runs at all.
const WATCH_MS: u64 = 1_000;
/// Without a beat for so long a machine is shown as disconnected.
pub(super) const DISCONNECTED_MS: u64 = 10_000;

impl Core {
    /// Handles everything that is due.
    pub(super) fn tick(&mut self, now: Now, step: &mut Step) {
        self.notice_freeze(now);
        while let Some((_, what)) = self.due.pop(now.mono) {
            self.fall_due(now, what, step);
        }
    }

    /// When the verdict that is due first came due says nothing about a freeze: it may have been a moment ago. So a watch
    /// falls due every second for as long as there is anybody to judge, and a late one tells.
    fn notice_freeze(&mut self, now: Now) {
        let Some(at) = self.watch_at.filter(|at| *at <= now.mono) else { return };
        if now.mono - at > FROZEN_MS {
            self.fresh_windows(now);
        }
        let waits = self.cluster.iter().any(|m| m.down_since.is_some() && !m.held().is_empty());
        self.watch_at = waits.then_some(now.mono + WATCH_MS);
    }

    /// This process was frozen: every machine that is away gets its whole window again, counted from now. Verdicts armed
    /// before name another moment and are void.
    fn fresh_windows(&mut self, now: Now) {
        let mut away = Vec::new();
        for m in self.cluster.iter_mut().filter(|m| m.down_since.is_some()) {
            m.down_since = Some(now.mono);
            away.push(m.id.clone());
        }
        for machine in away {
            self.arm_machine(now, &machine, now.mono);
            self.due.after(now, DISCONNECTED_MS, What::Disconnect(machine));
        }
    }

    /// Watches from now on, unless that is done already.
    pub(super) fn watch(&mut self, now: Now) {
        self.watch_at.get_or_insert(now.mono + WATCH_MS);
    }

    fn fall_due(&mut self, now: Now, what: What, step: &mut Step) {
        match what {
            What::Run(task) => self.run_due(now, task),
            What::Expire(task) => self.expire(now, task.job),
            What::Disconnect(machine) => {
                let down = self.cluster.get(&machine).and_then(|m| m.down_since);
                if down.is_some_and(|since| now.mono >= since + DISCONNECTED_MS) {
                    self.show_disconnected(now, &machine);
                }
            }
            What::Lose(attempt, machine, since) => self.attempt_lost(now, attempt, &machine, since, step),
            What::JobLease(attempt, lease) => self.job_lease_over(now, attempt, &lease, step),
            What::MessageLease(queue, id) => self.message_lease_over(now, &queue, id, step),
            What::MessageDelay(queue, id) => self.message_ready(now, &queue, id),
            What::MessageExpiry(queue, id) => self.message_expired(now, &queue, id, step),
            What::Waiter(queue, ticket) => self.waiter_over(&queue, ticket, step),
            What::Moving(ticket) => self.moving_due(now, ticket, step),
            What::Counting(ticket) => self.count_late(now, ticket, step),
            What::Outgoing(queue) => self.give_more(now, &queue, step),
            What::Passing(queue) => self.passing_due(now, &queue, step),
            What::Absorb => self.absorb_armed = false,
            What::Revoke(attempt) => self.revoke(attempt, step),
            What::DrainDeadline(machine) => self.drain_deadline(now, &machine, step),
            What::Stall(attempt) => self.stalled(now, attempt, step),
            What::Steer(worker) => drop(self.deployments.dirty.insert(worker)),
            What::Deadlines(worker) => self.deadlines_due(now, &worker, step),
            What::LoseRequests(machine, since) => self.lose_requests(now, &machine, since, step),
            What::InFlight(machine, session) => self.in_flight_due(&machine, session),
            What::Clean(ticket) => self.clean_due(now, ticket, step),
            What::Again => {}
        }
    }

    /// A start time or a retry has come.
    fn run_due(&mut self, now: Now, task: TaskId) {
        if let (None, Some(Job { body: Body::Array(array), queue, .. })) =
            (task.index, self.jobs.get_mut(task.job))
        {
            if let Some(at) = array.run_at.filter(|at| *at > now.wall) {
                self.due.at(now, at, What::Run(task));
            } else if array.run_at.take().is_some() {
                let queue = queue.clone();
                let n = array.untouched(array.from, array.to).len() - array.held.len();
                if let Some(q) = self.queues.get_mut(&queue) {
                    q.count_move(
                        (State::Queued, Some(Substate::Delayed)),
                        (State::Queued, Some(Substate::Waiting)),
                        n,
                    );
                }
                self.dirty_arrays.insert(task.job);
                self.offer(task.job);
            }
            return;
        }
        let Some(t) = self.jobs.task_mut(task) else { return };
        let waits = t.phase().is(Substate::Delayed) || t.phase().is(Substate::Retrying);
        if waits && t.run_at.is_none_or(|at| at <= now.wall) {
            t.run_at = None;
            self.go(now, task, Move::Ready, "coordinator");
        } else if let (true, Some(at)) = (waits, t.run_at) {
            // The wall clock was set back meanwhile.
            self.due.at(now, at, What::Run(task));
        }
    }

    /// A job has waited too long for its first start.
    fn expire(&mut self, now: Now, id: u64) {
        let Some(job) = self.jobs.get(id) else { return };
        let Some(at) = job.expires_at else { return };
        if at > now.wall {
            return self.due.at(now, at, What::Expire(TaskId::single(id)));
        }
        let target = crate::input::Target { job: id, tasks: None };
        match &job.body {
            Body::Single(t) if t.phase().state() == State::Queued && t.holder == Holder::None => {
                if let Some(t) = self.jobs.task_mut(TaskId::single(id)) {
                    t.cause = Some(Cause::Expired);
                }
                self.go(now, TaskId::single(id), Move::Fail, "coordinator");
            }
            Body::Single(_) => {}
            Body::Array(_) => {
                let waiting: Vec<TaskId> = self.live_tasks(target);
                for task in waiting {
                    if let Some(t) = self
                        .jobs
                        .task_mut(task)
                        .filter(|t| t.phase().state() == State::Queued && t.holder == Holder::None)
                    {
                        t.cause = Some(Cause::Expired);
                        self.go(now, task, Move::Fail, "coordinator");
                    }
                }
                self.expire_untouched(now, id);
            }
        }
    }

    /// Untouched tasks of an array expire as an interval: they count as cancelled, since they have no row to fail in.
    fn expire_untouched(&mut self, now: Now, id: u64) {
        let Some(Job { body: Body::Array(array), queue, .. }) = self.jobs.get_mut(id) else { return };
        let queue = queue.clone();
        let delayed = array.run_at.is_some();
        let held = array.held.len();
        let set = array.cancel_untouched(array.from, array.to);
        array.ended_at = array.is_over().then_some(now.wall);
        if let Some(q) = self.queues.get_mut(&queue) {
            let fresh = if delayed { Substate::Delayed } else { Substate::Waiting };
            q.count_move((State::Queued, Some(Substate::Held)), (State::Cancelled, None), held);
            q.count_move((State::Queued, Some(fresh)), (State::Cancelled, None), set.len() - held);
        }
        self.note_tasks(
            now,
            id,
            set,
            (State::Queued, State::Cancelled, None),
            Some(&Cause::Expired),
            "coordinator",
        );
        self.dirty_arrays.insert(id);
        self.offer(id);
    }

    /// `lost_after` has passed: the job is queued again while attempt n stays current, until n+1 is dispatched.
    fn attempt_lost(
        &mut self,
        now: Now,
        attempt: AttemptId,
        machine: &Arc<str>,
        since: u64,
        step: &mut Step,
    ) {
        if self.cluster.get(machine).is_none_or(|m| m.down_since != Some(since)) {
            return;
        }
        let task = attempt.task;
        let Some(job) = self.jobs.get(task.job) else { return };
        let retries = job.retries;
        let Some(t) = self
            .jobs
            .task(task)
            .filter(|t| t.attempt == attempt.attempt && t.holder == Holder::Machine(machine.clone()))
        else {
            return;
        };
        let lost_already = t.phase().state() == State::Queued && !t.phase().is(Substate::Assigned);
        if lost_already {
            return;
        }
        let (tries, losses, cancel) = (t.tries, t.losses, t.cancel);
        let decision = if cancel {
            Decision::GiveUp
        } else {
            retry::decide(&Cause::Lost, tries, losses, retries, task.job)
        };
        if let Some(t) = self.jobs.task_mut(task) {
            t.cause = Some(if cancel { Cause::Cancelled } else { Cause::Lost });
            t.losses += 1;
        }
        let mv = match decision {
            _ if cancel => Move::Cancel,
            Decision::GiveUp => Move::Fail,
            Decision::After(0, _) => Move::Ready,
            Decision::After(ms, _) => {
                if let Some(t) = self.jobs.task_mut(task) {
                    t.run_at = Some(now.wall + ms as i64);
                }
                self.due.after(now, ms, What::Run(task));
                Move::Retry
            }
        };
        if matches!(mv, Move::Cancel | Move::Fail) {
            // Nothing will be dispatched after it: what it does from now on is late.
            let cause = if cancel { Cause::Cancelled } else { Cause::Lost };
            step.facts.push(Fact::AttemptEnded(Box::new(ended(attempt, cause, now))));
            self.leave(now, attempt, mv, "coordinator");
            return;
        }
        // The holder stays: if attempt n comes back before n+1 is dispatched, it counts.
        self.go(now, task, mv, "coordinator");
        if let Some(m) = self.cluster.get_mut(machine) {
            m.lose(attempt);
            m.must_tell = true;
        }
    }

    /// A consumer's lease of a job has ended: it counts as lost.
    fn job_lease_over(&mut self, now: Now, attempt: AttemptId, lease: &str, step: &mut Step) {
        let held = self
            .jobs
            .task(attempt.task)
            .is_some_and(|t| t.attempt == attempt.attempt && t.holder == Holder::Consumer(lease.to_owned()));
        // Extended meanwhile: the later end has an entry of its own.
        if self.lease_until.get(&attempt).is_some_and(|until| *until > now.mono) {
            return;
        }
        self.lease_until.remove(&attempt);
        if held {
            self.end_attempt(now, ended(attempt, Cause::Lost, now), "coordinator", step);
        }
    }

    fn message_lease_over(&mut self, now: Now, queue: &Arc<str>, id: u64, step: &mut Step) {
        let place = self.queues.get(queue).and_then(|q| q.messages.get(id)).map(|m| m.place.clone());
        if let Some(Where::Leased(_, until)) = place
            && until <= now.mono
        {
            self.message_back(now, queue, id, 0, "its lease ended", step);
            self.events.note(now.wall, "message", queue, "lease_ended", "coordinator");
        }
    }

    fn message_ready(&mut self, now: Now, queue: &Arc<str>, id: u64) {
        let Some(q) = self.queues.get_mut(queue) else { return };
        match q.messages.get(id).map(|m| m.place.clone()) {
            Some(Where::Delayed(at)) if at <= now.wall => {
                // The queue may have moved away from brokers since.
                let outgoing = q.is_parked() && q.messages.get(id).is_some_and(|m| m.outgoing);
                q.messages.put(id, if outgoing { Where::Outgoing(false) } else { Where::Ready });
            }
            Some(Where::Delayed(at)) => self.due.at(now, at, What::MessageDelay(queue.clone(), id)),
            _ => {}
        }
    }

    /// A message's time to live is over: gone, unless somebody holds it.
    fn message_expired(&mut self, now: Now, queue: &Arc<str>, id: u64, step: &mut Step) {
        let Some(q) = self.queues.get_mut(queue) else { return };
        let Some(message) = q.messages.get(id) else { return };
        let Some(at) = message.expires_at else { return };
        if at > now.wall {
            return self.due.at(now, at, What::MessageExpiry(queue.clone(), id));
        }
        if matches!(message.place, Where::Ready | Where::Delayed(_) | Where::Outgoing(false)) {
            // What passes to a broker has no row yet: its publisher hears that it was published.
            self.store_passing(now, queue, Some(id), step);
            let Some(q) = self.queues.get_mut(queue) else { return };
            q.messages.remove(id);
            if q.has_rows() {
                step.facts.push(Fact::MessageGone(id));
            }
            self.events.note(now.wall, "message", queue, "expired", "coordinator");
        }
    }

    /// An attempt handed ahead has waited long: another machine may be free.
    fn revoke(&mut self, attempt: AttemptId, step: &mut Step) {
        let Some(t) = self
            .jobs
            .task(attempt.task)
            .filter(|t| t.attempt == attempt.attempt && t.phase().is(Substate::Assigned))
        else {
            return;
        };
        if let Holder::Machine(machine) = &t.holder {
            let Some(m) = self.cluster.get_mut(machine) else { return };
            if !m.held().get(&attempt).is_some_and(|h| h.ahead) {
                return;
            }
            // Or it would be handed there again as soon as it is back, once a second for as long as nothing ends.
            m.waited_in_vain();
            if let Some(session) = m.ready_session() {
                step.effects.push(Effect::Send(machine.to_string(), session, ToAgent::Revoke(attempt)));
            }
        }
    }
}
