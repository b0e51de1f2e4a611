//! Messages that come from brokers: durable hand-over, in one commit, before the broker hears that they are taken. And
//! messages that come back from the store with a start.
use super::due::What;
use super::ingress::IN;
use super::{Core, LONGEST_LEASE_MS};
use crate::effect::{Effect, Fact, Step};
use crate::input::Now;
use crate::orchestrator::link::{Incoming, Order};
use crate::orchestrator::messages::{Message, Where};
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

/// Deliveries that are remembered.
const TAKEN: usize = 65_536;

/// Deliveries that were taken lately, by the broker's own name for them.
#[derive(Default)]
pub(super) struct Taken {
    known: HashSet<Arc<str>>,
    order: VecDeque<Arc<str>>,
}

impl Taken {
    /// Notes one. False: it was taken before.
    pub(super) fn note(&mut self, source: impl Into<Arc<str>>) -> bool {
        let source = source.into();
        if !self.known.insert(source.clone()) {
            return false;
        }
        self.order.push_back(source);
        if self.order.len() > TAKEN
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }

    /// It was given to a broker again: it may come again.
    pub(super) fn forget(&mut self, source: &str) {
        self.known.remove(source);
    }
}

/// Broker, queue or place there, and what it delivered.
pub(super) type Delivered = (Arc<str>, Arc<str>, Vec<Incoming>);

impl Core {
    /// A broker delivered something: it is taken in, or held while the disk is full. What is held is what was asked for before,
    /// so that the room that was given bounds it.
    pub(super) fn delivered(&mut self, now: Now, delivered: Delivered, step: &mut Step) {
        if let Some(held) = &mut self.held {
            return held.push(delivered);
        }
        let (broker, queue, messages) = delivered;
        match queue.strip_suffix(IN) {
            Some(of) => self.ingress(now, &broker, &of.into(), messages, step),
            None => self.messages_arrived(now, &broker, &queue, messages, step),
        }
    }

    /// The disk is full, or has room again: then what was held is taken in, in its order, and replicas that are missing are
    /// made.
    pub(super) fn disk(&mut self, now: Now, full: bool, step: &mut Step) {
        if full {
            self.held.get_or_insert_default();
            return;
        }
        for delivered in self.held.take().into_iter().flatten() {
            self.delivered(now, delivered, step);
        }
        self.deployments.look_at_all();
    }

    /// Whether nothing may be added to the store that can wait.
    pub(super) const fn is_full(&self) -> bool {
        self.held.is_some()
    }

    /// A new connection delivers what the one before was never told to be taken.
    pub(super) fn forget_held(&mut self, broker: &str) {
        if let Some(held) = &mut self.held {
            held.retain(|(of, ..)| **of != *broker);
        }
    }

    /// A message as the store has it.
    pub(super) fn restore_message(&mut self, row: crate::store::load::MessageMeta, now: Now) {
        let Some(queue) = self.queues.get_mut(&row.queue) else { return };
        let source: Option<Arc<str>> = row.source.map(Arc::from);
        if let Some(source) = &source {
            self.taken.note(source.clone());
        }
        let place = match (row.dead, row.lease, row.run_at) {
            (true, _, _) => Where::Dead,
            (false, Some((lease, until)), _) => {
                // Stored as wall time: a clock that was set back meanwhile makes no lease longer than one can be.
                let left = until.saturating_sub(now.wall).clamp(0, LONGEST_LEASE_MS) as u64;
                self.due.after(now, left, What::MessageLease(row.queue.clone(), row.id));
                Where::Leased(lease, now.mono + left)
            }
            (false, None, Some(at)) if at > now.wall => {
                self.due.at(now, at, What::MessageDelay(row.queue.clone(), row.id));
                Where::Delayed(at)
            }
            (false, None, _) if row.outgoing && queue.is_parked() => Where::Outgoing(false),
            (false, None, _) => Where::Ready,
        };
        if let Some(at) = row.expires_at {
            self.due.at(now, at, What::MessageExpiry(row.queue.clone(), row.id));
        }
        let message = Message {
            priority: row.priority,
            deliveries: row.deliveries,
            bytes: row.bytes,
            published_at: row.published_at,
            expires_at: row.expires_at,
            place,
            outgoing: row.outgoing,
            kept: None,
            publisher: None,
            source,
        };
        queue.messages.insert(row.id, message);
    }

    /// Durable hand-over: the step that stores them also releases the word to the broker that they are taken.
    pub(super) fn messages_arrived(
        &mut self,
        now: Now,
        broker: &Arc<str>,
        queue: &Arc<str>,
        messages: Vec<Incoming>,
        step: &mut Step,
    ) {
        let tags = messages.iter().map(|m| m.tag.clone()).collect();
        if let Some(q) = self.queues.get_mut(queue) {
            let n = messages.len() as u64;
            let bytes: usize = messages.iter().map(|m| m.body.len() + m.headers.len()).sum();
            q.mean_bytes = bytes as u64 / n.max(1);
            match &mut q.drain {
                Some(drain) if q.row.moving_from.as_ref() == Some(broker) => {
                    drain.room = drain.room.saturating_sub(n);
                }
                _ => q.room = q.room.saturating_sub(n),
            }
        }
        for message in messages {
            self.message_arrived(now, broker, queue, message, step);
        }
        step.effects.push(Effect::Broker(broker.clone(), Order::Taken(queue.clone(), tags)));
    }

    fn message_arrived(&mut self, now: Now, broker: &str, queue: &Arc<str>, m: Incoming, step: &mut Step) {
        let source = m.unique.as_ref().map(|u| format!("{broker} {queue} {u}"));
        let source: Option<Arc<str>> = source.map(Arc::from);
        let first = source.clone().is_none_or(|s| self.taken.note(s));
        let known = m.id.and_then(|id| {
            let place = self.queues.get(queue)?.messages.get(id)?.place.clone();
            Some((id, place))
        });
        match known {
            // Faster than the word that the broker has it.
            Some((id, Where::Outgoing(_))) => {
                self.store_passing(now, queue, Some(id), step);
                if let Some(q) = self.queues.get_mut(queue) {
                    // Its name there goes with it: given to a broker again, it may come again.
                    q.messages.arrived(id, source);
                }
                step.facts.push(Fact::MessageArrived(id));
                return;
            }
            Some(_) => return self.stale += 1,
            None if !first => return self.stale += 1,
            None => {}
        }
        if m.expires_at.is_some_and(|at| at <= now.wall) {
            self.events.note(now.wall, "message", queue, "expired", "coordinator");
            if let Some(q) = self.queues.get_mut(queue) {
                q.depth = q.depth.saturating_sub(1);
            }
            return;
        }
        // A number that was never given is a stranger's word.
        let given = m.id.filter(|id| (1..self.next_message).contains(id));
        let id = given.unwrap_or_else(|| self.message_number());
        if let Some(q) = self.queues.get_mut(queue) {
            q.depth = q.depth.saturating_sub(1);
        }
        self.enter_incoming(now, queue, id, m, source, step);
    }
}
