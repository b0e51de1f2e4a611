//! How a message gets its number, its row and its place: one way for what callers publish, what jobs answer, and what brokers
//! deliver.
use super::Core;
use super::due::What;
use crate::effect::{Fact, Step};
use crate::input::{NewMessage, Now, Ticket};
use crate::orchestrator::link::Incoming;
use crate::orchestrator::messages::{Message, Where};
use crate::row::{Caller, MessageRow};
use std::sync::Arc;

/// Numbers of messages without rows that are noted at once: a restart passes over so many at most.
const NUMBERS: u64 = 1_000;

impl Core {
    /// A number that no message had.
    pub(super) fn message_number(&mut self) -> u64 {
        self.next_message += 1;
        self.next_message - 1
    }

    /// Puts a message into a queue that is there: at hand, delayed, or on its way to the queue's broker. `passes`: without a row,
    /// and whose it is.
    pub(super) fn enter_message(
        &mut self,
        now: Now,
        caller: &Caller,
        queue: &str,
        (id, passes): (u64, Option<Ticket>),
        message: NewMessage,
        step: &mut Step,
    ) {
        let Some(q) = self.queues.get(queue) else { return };
        let row = MessageRow {
            id,
            queue: q.row.name.clone(),
            owner_uid: caller.uid,
            owner: caller.name.clone(),
            kind: message.kind,
            body: message.body,
            headers: message.headers,
            priority: message.priority,
            published_at: now.wall,
            run_at: (message.delay_ms > 0).then(|| now.wall + message.delay_ms as i64),
            expires_at: message.ttl_ms.map(|ms| now.wall + ms as i64),
            outgoing: q.is_parked(),
            ..MessageRow::default()
        };
        self.keep_message(now, row, passes, step);
    }

    /// A message of a broker gets a row: it is the queue's owner's.
    pub(super) fn enter_incoming(
        &mut self,
        now: Now,
        queue: &str,
        id: u64,
        m: Incoming,
        source: Option<Arc<str>>,
        step: &mut Step,
    ) {
        let Some(q) = self.queues.get(queue) else { return };
        let row = MessageRow {
            id,
            queue: q.row.name.clone(),
            owner_uid: q.row.owner_uid,
            owner: q.row.owner.clone(),
            kind: m.kind,
            body: m.body,
            headers: m.headers,
            priority: m.priority,
            published_at: now.wall,
            expires_at: m.expires_at,
            dead: m.unusable,
            source: source.as_deref().map(str::to_owned),
            ..MessageRow::default()
        };
        self.keep_message(now, row, None, step);
    }

    /// Its place follows from its row. In memory, and while it passes, the row is all there is of it.
    fn keep_message(&mut self, now: Now, row: MessageRow, passes: Option<Ticket>, step: &mut Step) {
        let Some(q) = self.queues.get_mut(&row.queue) else { return };
        let place = match row.run_at {
            _ if row.dead.is_some() => Where::Dead,
            Some(at) => Where::Delayed(at),
            None if row.outgoing => Where::Outgoing(false),
            None => Where::Ready,
        };
        if let Some(at) = row.run_at {
            self.due.at(now, at, What::MessageDelay(row.queue.clone(), row.id));
        }
        if let Some(at) = row.expires_at {
            self.due.at(now, at, What::MessageExpiry(row.queue.clone(), row.id));
        }
        let (id, has_row) = (row.id, q.has_rows() && passes.is_none());
        let mut message = Message {
            priority: row.priority,
            deliveries: 0,
            bytes: row.bytes(),
            published_at: row.published_at,
            expires_at: row.expires_at,
            place,
            outgoing: row.outgoing,
            kept: None,
            publisher: passes,
            source: row.source.as_deref().map(Arc::from),
        };
        if has_row {
            q.messages.insert(id, message);
            if row.outgoing || row.run_at.is_some() {
                step.facts.push(Fact::MessageAdded(Box::new(row)));
            } else {
                step.add_ready(row);
            }
            return;
        }
        message.kept = Some(Arc::new(row));
        q.messages.insert(id, message);
        if id >= self.numbers_kept {
            self.numbers_kept = id + NUMBERS;
            step.facts.push(Fact::MessageNumbersUsed(self.numbers_kept));
        }
    }
}
