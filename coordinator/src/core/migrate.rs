//! A queue moves between backends. Jobs go along at once: their records stay, their hints are made anew. Messages of the store are
//! given to the new broker; those at an old broker are taken from it first, while what is published meanwhile waits behind
//! them. All of it is state in the store: a restart goes on, and moving back is the way to give it up.
use super::Core;
use super::due::What;
use crate::effect::{Effect, Fact, Reply, Step};
use crate::input::Now;
use crate::orchestrator::link::Order;
use crate::orchestrator::messages::Where;
use crate::orchestrator::queue::{Drain, Queue};
use crate::row::{Backend, Caller, QueueKind};
use reeve_protocol::{Code, Problem};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Messages given to a broker in one step; messages that may come of an old one at once.
const AT_ONCE: usize = 2_000;
const ROOM: u64 = 1_000;

/// Reads on at a broker that is being emptied, and asks it how much is left once nothing comes any more.
pub(super) fn tell(q: &mut Queue, links: &BTreeMap<Arc<str>, bool>, full: bool, step: &mut Step) {
    let Some(old) = q.row.moving_from.clone().filter(|old| links.get(old).is_some_and(|up| *up)) else {
        return;
    };
    let name = q.row.name.clone();
    let mut say = |order| step.effects.push(Effect::Broker(old.clone(), order));
    let drain = q.drain.get_or_insert_default();
    if !drain.told {
        drain.told = true;
        say(Order::Use(name.clone(), QueueKind::Messages));
    }
    if full && drain.room > 0 {
        say(Order::Room(name.clone(), 0));
        drain.room = 0;
    }
    if !full && drain.room < ROOM / 2 {
        say(Order::Room(name.clone(), ROOM - drain.room));
        drain.room = ROOM;
        drain.asked = false;
    }
    if !drain.asked {
        drain.asked = true;
        say(Order::Depth(name, 0));
    }
}

impl Core {
    /// `migrate`: keeps a queue elsewhere from now on, with what waits in it.
    pub(super) fn migrate_queue(
        &mut self,
        now: Now,
        caller: &Caller,
        queue: &str,
        to: &str,
        step: &mut Step,
    ) -> Result<Reply, Problem> {
        self.known_queue(queue)?;
        let to = Backend::of(to);
        if let Some(broker) = to.broker() {
            self.queues.links.entry(broker.clone()).or_default();
        }
        self.store_passing(now, queue, None, step);
        let Some(q) = self.queues.get_mut(queue) else { return Err(Self::unknown_job(queue)) };
        if q.row.backend == to {
            return Ok(Reply::Queue(Box::new(self.queue_view(now, queue)), false));
        }
        if q.row.kind == QueueKind::Messages {
            self.move_messages(now, queue, to, step)?;
        } else {
            self.set_backend(queue, to)?;
        }
        if let Some(q) = self.queues.get(queue) {
            step.facts.push(Fact::QueuePut(Box::new(q.row.clone())));
        }
        self.events.note(now.wall, "queue", queue, "migrating", &caller.actor());
        Ok(Reply::Queue(Box::new(self.queue_view(now, queue)), false))
    }

    fn move_messages(&mut self, now: Now, queue: &str, to: Backend, step: &mut Step) -> Result<(), Problem> {
        let Some(q) = self.queues.get_mut(queue) else { return Err(Self::unknown_job(queue)) };
        if to == Backend::Memory || q.row.backend == Backend::Memory {
            return Err(Problem::new(Code::BackendCannot, "messages do not move into memory, nor out of it")
                .hint("receive and publish them, or clean the queue and set its backend"));
        }
        let back = q.row.moving_from.is_some() && q.row.moving_from.as_ref() == to.broker();
        if q.is_moving() && !back {
            return Err(Problem::new(Code::QueueState, format!("queue {queue} is moving already")).hint(
                "wait until reeve queue show says no more of it, or move it back to where it came from",
            ));
        }
        let old = std::mem::replace(&mut q.row.backend, to);
        // Moving back: what was taken stays at hand, the rest lies where it always did.
        q.row.moving_from = if back { None } else { old.broker().cloned() };
        // What was given to the old broker and not confirmed may lie there: it is met again when that is emptied.
        q.messages.resend();
        let lying = q.depth + q.drain.take().and_then(|d| d.left).map_or(0, |left| left.0);
        (q.trouble, q.room, q.depth) = (None, 0, if back { lying } else { 0 });
        q.drain = q.is_moving().then(|| Drain { left: Some((lying, 0)), ..Drain::default() });
        let name = q.row.name.clone();
        self.give_more(now, &name, step);
        Ok(())
    }

    /// Messages at hand that nobody had yet are to be given to the queue's broker, some at once.
    pub(super) fn give_more(&mut self, now: Now, queue: &Arc<str>, step: &mut Step) {
        let Some(q) = self.queues.get_mut(queue) else { return };
        if q.row.backend.broker().is_none() || q.is_moving() {
            return;
        }
        let ids: Vec<u64> = q.messages.untouched(AT_ONCE);
        for id in &ids {
            q.messages.set_outgoing(*id);
        }
        if ids.len() == AT_ONCE {
            self.due.push(now.mono, What::Outgoing(queue.clone()));
        }
        if !ids.is_empty() {
            step.facts.push(Fact::MessagesOutgoing(ids));
        }
    }

    /// Whether this broker is being emptied for that queue.
    pub(super) fn is_drained(&self, broker: &Arc<str>, queue: &str) -> bool {
        self.queues.get(queue).is_some_and(|q| q.row.moving_from.as_ref() == Some(broker))
    }

    /// What a broker that is being emptied says about what is left. Nothing: the queue has moved.
    pub(super) fn drain_heard(&mut self, now: Now, queue: &Arc<str>, left: (u64, u64), step: &mut Step) {
        let Some(q) = self.queues.get_mut(queue) else { return };
        let Some(drain) = &mut q.drain else { return };
        drain.left = Some(left);
        // Asked again with the next look of the supervisor, or when more has come.
        if left != (0, 0) {
            return;
        }
        let Some(old) = q.row.moving_from.take() else { return };
        q.drain = None;
        step.effects.push(Effect::Broker(old, Order::Leave(queue.clone())));
        if q.row.backend.broker().is_none() {
            for id in q.messages.unsent(usize::MAX) {
                q.messages.put(id, Where::Ready);
            }
        }
        step.facts.push(Fact::QueuePut(Box::new(q.row.clone())));
        self.events.note(now.wall, "queue", queue, "migrated", "coordinator");
    }
}
