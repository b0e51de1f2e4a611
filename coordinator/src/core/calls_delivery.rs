//! The Orchestrator's calls that move things: `publish` and `receive_message`. A queue of jobs
//! hands the next job to a consumer as a new attempt; a queue of messages hands out messages.
use super::due::What;
use super::{Core, passing};
use crate::effect::{Effect, Fact, Leased, Reply, Step};
use crate::input::{NewMessage, Now, Ticket};
use crate::job_manager::lifecycle::Move;
use crate::job_manager::{Body, Holder};
use crate::orchestrator::messages::ANSWER_BYTES;
use crate::orchestrator::queue::Waiter;
use crate::row::{Caller, QueueKind};
use reeve_protocol::api::Published;
use reeve_protocol::{AttemptId, Code, JobId, Problem, TaskId};
use std::collections::HashSet;
use std::sync::Arc;

/// For parked jobs to be read, when somebody who does not wait wants one.
const READ_MS: u64 = 2_000;

impl Core {
    /// `publish` of a message: with the queue's backend before the answer. `None`: the caller waits until the broker has it.
    pub(super) fn publish(
        &mut self,
        now: Now,
        ticket: Ticket,
        caller: &Caller,
        queue: &str,
        message: NewMessage,
        step: &mut Step,
    ) -> Result<Option<Reply>, Problem> {
        let passes = message.key.is_none() && message.delay_ms == 0;
        if !passes {
            return self.publish_stored(now, caller, queue, message, step).map(Some);
        }
        let created = self.queue_for(now, caller, queue, QueueKind::Messages, step)?;
        let passes = Some(ticket).filter(|_| self.may_pass(queue));
        let id = self.publish_one(now, caller, queue, (message, passes), step)?;
        if passes.is_some() {
            let answer = (1, passing::Answer::One { id, created });
            self.await_passing(now, ticket, (queue, caller.actor()), answer);
            return Ok(None);
        }
        Ok(Some(self.published(now, caller, queue, (id, created))))
    }

    /// The same with a row whatever the queue's backend is.
    pub(super) fn publish_stored(
        &mut self,
        now: Now,
        caller: &Caller,
        queue: &str,
        message: NewMessage,
        step: &mut Step,
    ) -> Result<Reply, Problem> {
        if let Some(id) = self.published_before(caller, queue, &message)? {
            let published =
                Published { id: id.to_string(), queue: queue.to_owned(), seq: self.seq(), created: false };
            return Ok(Reply::Published(published, true));
        }
        let created = self.queue_for(now, caller, queue, QueueKind::Messages, step)?;
        let id = self.publish_one(now, caller, queue, (message, None), step)?;
        Ok(self.published(now, caller, queue, (id, created)))
    }

    fn published(&mut self, now: Now, caller: &Caller, queue: &str, (id, created): (u64, bool)) -> Reply {
        let seq = self.events.note(now.wall, "message", queue, "published", &caller.actor());
        Reply::Published(Published { id: id.to_string(), queue: queue.to_owned(), seq, created }, false)
    }

    /// `publish` of many, each for itself: what the queue has no room for is refused, the others are taken. `None`: as with one.
    pub(super) fn publish_many(
        &mut self,
        now: Now,
        ticket: Ticket,
        caller: &Caller,
        queue: &str,
        messages: Vec<NewMessage>,
        step: &mut Step,
    ) -> Result<Option<Reply>, Problem> {
        let created = self.queue_for(now, caller, queue, QueueKind::Messages, step)?;
        let (mut results, mut new, mut passing) = (Vec::with_capacity(messages.len()), 0, 0);
        let may_pass = self.may_pass(queue);
        for message in messages {
            results.push(match self.published_before(caller, queue, &message) {
                Ok(Some(id)) => Ok((id, true)),
                Ok(None) => {
                    let passes = may_pass && message.key.is_none() && message.delay_ms == 0;
                    let message = (message, passes.then_some(ticket));
                    self.publish_one(now, caller, queue, message, step).map(|id| {
                        (new, passing) = (new + 1, passing + usize::from(passes));
                        (id, false)
                    })
                }
                Err(problem) => Err(problem),
            });
        }
        if passing > 0 {
            let answer = (passing, passing::Answer::Many { results, created });
            self.await_passing(now, ticket, (queue, caller.actor()), answer);
            return Ok(None);
        }
        if new > 0 {
            let what = ("message", queue, "published");
            self.events.note_many(now.wall, what, new, &caller.actor());
        }
        Ok(Some(Reply::PublishedMany(results, created)))
    }

    /// The message that this key published, if it is remembered here.
    fn published_before(
        &self,
        caller: &Caller,
        queue: &str,
        message: &NewMessage,
    ) -> Result<Option<u64>, Problem> {
        let Some(key) = &message.key else { return Ok(None) };
        match self.recent.used(caller.uid, queue, key) {
            None => Ok(None),
            Some(Ok(id)) => Ok(Some(id)),
            Some(Err(_)) => Err(Problem::new(Code::KeyReused, "the key was used for another message")
                .hint("use a new key for a new message")),
        }
    }

    /// Gives a message a number and puts it into a queue that is there, if there is room. With a ticket it passes.
    fn publish_one(
        &mut self,
        now: Now,
        caller: &Caller,
        queue: &str,
        (message, passes): (NewMessage, Option<Ticket>),
        step: &mut Step,
    ) -> Result<u64, Problem> {
        self.check_room(queue, 1)?;
        let id = self.message_number();
        if let Some(key) = &message.key {
            self.recent.note(caller.uid, queue, (&key.key, &key.digest), id);
            step.facts.push(Fact::MessageKeyUsed {
                owner_uid: caller.uid,
                queue: queue.into(),
                key: key.key.clone(),
                digest: key.digest.clone(),
                id,
                at: now.wall,
            });
        }
        self.enter_message(now, caller, queue, (id, passes), message, step);
        Ok(id)
    }

    /// `receive_message`: now, or when something comes. `None`: the caller waits.
    pub(super) fn receive_message(
        &mut self,
        now: Now,
        ticket: Ticket,
        caller: &Caller,
        queue: &str,
        (max, wait_ms, lease_ms): (u32, u64, u64),
        step: &mut Step,
    ) -> Option<Result<Reply, Problem>> {
        if let Err(problem) = self.known_queue(queue) {
            return Some(Err(problem));
        }
        let waiter = Waiter { ticket, caller: caller.clone(), max, lease_ms };
        let q = self.queues.get_mut(queue)?;
        let name = q.row.name.clone();
        q.waiters.push_back(waiter);
        self.serve_queue(now, &name, step);
        let q = self.queues.get_mut(queue)?;
        if !q.waiters.iter().any(|w| w.ticket == ticket) {
            return None;
        }
        if wait_ms == 0 && self.ask_broker(now, ticket, &name, step) {
            return None;
        }
        let q = self.queues.get_mut(queue)?;
        if wait_ms == 0 && !q.row.paused && q.may_hand_out() && !q.parked.is_empty() {
            // There are jobs, and they are being read.
            self.due.after(now, READ_MS, What::Waiter(name, ticket));
            return None;
        }
        if wait_ms == 0 {
            q.waiters.retain(|w| w.ticket != ticket);
            return Some(Ok(nothing(q.row.kind)));
        }
        self.due.after(now, wait_ms, What::Waiter(name, ticket));
        None
    }

    /// A waiter's time is over.
    pub(super) fn waiter_over(&mut self, queue: &str, ticket: Ticket, step: &mut Step) {
        let Some(q) = self.queues.get_mut(queue) else { return };
        let before = q.waiters.len();
        q.waiters.retain(|w| w.ticket != ticket);
        if q.waiters.len() < before {
            let kind = q.row.kind;
            Self::reply(step, ticket, Ok(nothing(kind)));
        }
    }

    /// A caller went away.
    pub(super) fn gone(&mut self, now: Now, ticket: Ticket, step: &mut Step) {
        // What was published is, and what is cleaned will be, whoever hears of it: its line is written then.
        let moved = self.move_over(now, ticket, step);
        if !moved && !self.publishing.contains_key(&ticket) && !self.cleaning.contains_key(&ticket) {
            self.audit.forget(ticket);
        }
        self.counting.remove(&ticket);
        self.caller_gone(now, ticket);
        for q in self.queues.iter_mut() {
            q.waiters.retain(|w| w.ticket != ticket);
        }
    }

    /// Serves those who wait, wherever something can be handed out.
    pub(super) fn serve_waiters(&mut self, now: Now, step: &mut Step) {
        let names: Vec<Arc<str>> =
            self.queues.iter().filter(|q| !q.waiters.is_empty()).map(|q| q.row.name.clone()).collect();
        for name in names {
            self.serve_queue(now, &name, step);
        }
    }

    fn serve_queue(&mut self, now: Now, name: &Arc<str>, step: &mut Step) {
        while let Some(q) = self.queues.get_mut(name) {
            let (kind, paused) = (q.row.kind, q.row.paused);
            let Some(waiter) = q.waiters.front().cloned() else { return };
            let served = match kind {
                _ if paused => false,
                QueueKind::Messages => self.hand_messages(now, name, &waiter, step),
                QueueKind::Jobs => self.hand_jobs(now, name, &waiter, step),
                QueueKind::Unset => false,
            };
            if !served {
                return;
            }
            if let Some(q) = self.queues.get_mut(name) {
                q.waiters.pop_front();
            }
        }
    }

    fn hand_messages(&mut self, now: Now, name: &Arc<str>, waiter: &Waiter, step: &mut Step) -> bool {
        let (mut out, mut bytes) = (Vec::new(), 0);
        let (until, ends) = (now.wall + waiter.lease_ms as i64, now.mono + waiter.lease_ms);
        while out.len() < waiter.max as usize {
            let Some(id) = self.next_message_of(name, step) else { break };
            let Some(q) = self.queues.get_mut(name) else { break };
            bytes += q.messages.get(id).map_or(0, |m| u64::from(m.bytes));
            if bytes > ANSWER_BYTES && !out.is_empty() {
                break;
            }
            let lease = self.random.lease(id);
            let deliveries = q.messages.lease(id, lease.clone(), ends);
            let mut kept = q.messages.get(id).and_then(|m| m.kept.clone());
            if let Some(row) = &mut kept {
                Arc::make_mut(row).deliveries = deliveries;
            } else {
                step.hand_out(id, deliveries, (lease.clone(), until));
            }
            self.due.push(ends, What::MessageLease(name.clone(), id));
            out.push(Leased { id, lease, until, kept });
        }
        if out.is_empty() {
            return false;
        }
        self.events.note(now.wall, "message", name, "received", &format!("consumer:{}", waiter.caller.name));
        step.effects.push(Effect::ReplyMessages(waiter.ticket, out));
        true
    }

    /// The next message that can be handed out. While the queue's broker is away that may be one that was never given to
    /// it: what was given, and not confirmed, may lie there.
    fn next_message_of(&mut self, name: &Arc<str>, step: &mut Step) -> Option<u64> {
        let q = self.queues.get(name)?;
        if let Some(id) = q.messages.first() {
            return Some(id);
        }
        let away = q.trouble.is_some() || self.queues.link_of(q).is_some_and(|link| !link.up);
        let id = q.messages.unsent(1).first().copied().filter(|_| away)?;
        self.queues.get_mut(name)?.messages.arrived(id, None);
        step.facts.push(Fact::MessageArrived(id));
        Some(id)
    }

    fn hand_jobs(&mut self, now: Now, name: &Arc<str>, waiter: &Waiter, step: &mut Step) -> bool {
        let machine: Arc<str> = format!("consumer:{}", waiter.caller.name).into();
        let (until, ends) = (now.wall + waiter.lease_ms as i64, now.mono + waiter.lease_ms);
        let (mut out, mut bytes) = (Vec::new(), 0);
        while out.len() < waiter.max as usize {
            let first = |core: &Self| {
                core.queues.get(name).filter(|q| q.may_hand_out()).and_then(|q| q.first(&HashSet::new()))
            };
            let Some(place) = first(self).or_else(|| {
                self.absorb(now, &HashSet::new());
                first(self)
            }) else {
                break;
            };
            bytes += self.jobs.get(place.job).map_or(0, |job| job.spec.len() as u64);
            if bytes > ANSWER_BYTES && !out.is_empty() {
                break;
            }
            let Some(task) = self.next_task(place.job) else { break };
            let lease = self.random.lease(task);
            let Some(attempt) =
                self.open_attempt(now, task, Holder::Consumer(lease.clone()), &machine, Vec::new(), step)
            else {
                break;
            };
            self.begin(now, attempt, &machine, step);
            self.due.push(ends, What::JobLease(attempt, lease.clone()));
            self.lease_until.insert(attempt, ends);
            out.push((task, attempt.attempt, lease, until));
        }
        if out.is_empty() {
            return false;
        }
        Self::reply(step, waiter.ticket, Ok(Reply::ReceivedJobs(out)));
        true
    }

    /// An attempt that no machine runs begins with its dispatch.
    pub(super) fn begin(&mut self, now: Now, attempt: AttemptId, actor: &str, step: &mut Step) {
        step.facts.push(Fact::AttemptStarted(attempt, 0, now.wall));
        if let Some(t) = self.jobs.task_mut(attempt.task) {
            t.started_at = Some(now.wall);
        }
        self.go(now, attempt.task, Move::Start, actor);
    }

    /// The task that a job's place in its queue stands for.
    pub(super) fn next_task(&self, id: JobId) -> Option<TaskId> {
        match &self.jobs.get(id)?.body {
            Body::Single(_) => Some(TaskId::single(id)),
            Body::Array(array) => array.peek().map(|index| TaskId::of_array(id, index)),
        }
    }
}

fn nothing(kind: QueueKind) -> Reply {
    if kind == QueueKind::Jobs {
        Reply::ReceivedJobs(Vec::new())
    } else {
        Reply::ReceivedMessages(Vec::new())
    }
}
