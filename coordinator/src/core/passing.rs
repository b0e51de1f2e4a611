//! Messages that pass through. What is published to a queue whose broker answers goes there at once, without a row, and its
//! publisher hears when the broker has it: the same bytes need not be synced twice. When the broker does not confirm it in
//! time, or goes away, the store takes it instead and the publisher hears of that: a message that was answered is always
//! at one of the two. Nothing passes while anything of the queue waits in the store for the broker, so that a slow broker
//! makes one publisher wait, not all.
use super::Core;
use super::due::What;
use crate::effect::{Fact, Reply, Step};
use crate::input::{Now, Ticket};
use crate::orchestrator::link::REPLIES;
use crate::row::QueueKind;
use reeve_protocol::Problem;
use reeve_protocol::api::Published;
use std::collections::HashMap;
use std::sync::Arc;

/// For a broker to confirm what passes; then the store takes it.
const PATIENCE_MS: u64 = 500;

/// A publisher whose messages pass.
pub(super) struct Publishing {
    /// Messages that neither the broker nor the store has yet.
    left: usize,
    actor: String,
    queue: String,
    answer: Answer,
}

/// What it will hear.
pub(super) enum Answer {
    One { id: u64, created: bool },
    Many { results: Vec<Result<(u64, bool), Problem>>, created: bool },
}

impl Core {
    /// Whether what is published into this queue now may go to its broker without a row.
    pub(super) fn may_pass(&self, queue: &str) -> bool {
        let Some(q) = self.queues.get(queue).filter(|q| q.row.kind == QueueKind::Messages) else {
            return false;
        };
        self.queues.link_of(q).is_some_and(|link| link.is_trusted() && link.confirms_fast)
            && q.trouble.is_none()
            && !q.is_moving()
            && !self.is_full()
            && !queue.starts_with(REPLIES)
            && q.messages.outgoing() == q.messages.passing()
    }

    /// A publisher waits until all its messages that pass are somewhere.
    pub(super) fn await_passing(
        &mut self,
        now: Now,
        ticket: Ticket,
        (queue, actor): (&str, String),
        (left, answer): (usize, Answer),
    ) {
        let waits = Publishing { left, actor, queue: queue.to_owned(), answer };
        self.publishing.insert(ticket, waits);
        let Some(q) = self.queues.get_mut(queue) else { return };
        if q.passing_until.is_none() {
            let last = self.next_message - 1;
            q.passing_until = Some(last);
            self.due.after(now, PATIENCE_MS, What::Passing(q.row.name.clone()));
        }
    }

    /// The broker, or the store, has one more of this publisher's messages.
    pub(super) fn passed(&mut self, now: Now, ticket: Option<Ticket>, step: &mut Step) {
        let Some(ticket) = ticket else { return };
        let Some(waits) = self.publishing.get_mut(&ticket) else { return };
        waits.left = waits.left.saturating_sub(1);
        if waits.left > 0 {
            return;
        }
        let Some(Publishing { actor, queue, answer, .. }) = self.publishing.remove(&ticket) else { return };
        let reply = match answer {
            Answer::One { id, created } => {
                let seq = self.events.note(now.wall, "message", &queue, "published", &actor);
                Reply::Published(Published { id: id.to_string(), queue, seq, created }, false)
            }
            Answer::Many { results, created } => {
                let new = results.iter().filter(|r| matches!(r, Ok((_, false)))).count() as u64;
                self.events.note_many(now.wall, ("message", &queue, "published"), new, &actor);
                Reply::PublishedMany(results, created)
            }
        };
        Self::reply(step, ticket, Ok(reply));
    }

    /// What passes in this queue gets rows, or this one message: it is the store's until the broker has it.
    pub(super) fn store_passing(&mut self, now: Now, queue: &str, only: Option<u64>, step: &mut Step) {
        let Some(q) = self.queues.get(queue).filter(|q| q.messages.passing() > 0) else { return };
        let ids = match only {
            Some(id) => vec![id],
            None => q.messages.passing_ids(),
        };
        for id in ids {
            let stored = self.queues.get_mut(queue).and_then(|q| q.messages.store(id));
            let Some((row, publisher)) = stored else { continue };
            step.facts.push(Fact::MessageAdded(Box::new(Arc::unwrap_or_clone(row))));
            self.passed(now, publisher, step);
        }
    }

    /// The same for every queue that is kept at this broker.
    pub(super) fn store_passing_at(&mut self, now: Now, broker: &str, step: &mut Step) {
        let passing = self.queues.iter().filter(|q| q.messages.passing() > 0);
        let of_it = passing.filter(|q| q.row.backend.broker().is_some_and(|b| **b == *broker));
        let names: Vec<Arc<str>> = of_it.map(|q| q.row.name.clone()).collect();
        for name in names {
            self.store_passing(now, &name, None, step);
        }
    }

    /// What passed when this was armed has had its time.
    pub(super) fn passing_due(&mut self, now: Now, queue: &Arc<str>, step: &mut Step) {
        let Some(q) = self.queues.get_mut(queue) else { return };
        let until = q.passing_until.take();
        let ids = q.messages.passing_ids();
        let Some(oldest) = ids.first() else { return };
        if until.is_some_and(|until| *oldest <= until) {
            return self.store_passing(now, queue, None, step);
        }
        q.passing_until = Some(self.next_message - 1);
        self.due.after(now, PATIENCE_MS, What::Passing(queue.clone()));
    }

    /// Every publisher waits for as many messages as name it, and for no others.
    pub(super) fn check_passing(&self, wrong: &mut Vec<String>) {
        let mut named: HashMap<Ticket, usize> = HashMap::new();
        for q in self.queues.iter() {
            for ticket in q.messages.passing_ids().iter().filter_map(|id| q.messages.get(*id)?.publisher) {
                *named.entry(ticket).or_default() += 1;
            }
        }
        let waits: HashMap<Ticket, usize> = self.publishing.iter().map(|(t, p)| (*t, p.left)).collect();
        if named != waits {
            wrong.push(format!("publishers wait for {waits:?}, and messages name {named:?}"));
        }
    }
}
