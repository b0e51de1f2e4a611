//! What is heard from brokers, and what they are told. The store stays the truth: a waiting job that stands at a broker as
//! a hint is taken from here when the hint does not come; a message is the store's until the broker has confirmed it, and
//! again from the commit that takes it back.
use super::Core;
use super::due::What;
use super::ingress::IN;
use crate::effect::{Effect, Fact, Reply, Step};
use crate::input::{Now, Ticket};
use crate::orchestrator::link::{
    Away, HINT_MS, HINTS_A_STEP, Hint, Link, OUTGOING, Order, PORTION, REPLIES, SILENT_MS, Said, WINDOW,
};
use crate::orchestrator::messages::{ANSWER_BYTES, Where};
use crate::orchestrator::queue::{Drain, Queue};
use crate::row::{QueueKind, QueueRow};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

/// Jobs taken from the store at once.
const ABSORB: usize = 256;
/// Between two looks at what stands at brokers.
const LOOK_MS: u64 = 100;
/// For a broker to give what is there to somebody who does not wait.
const ASK_MS: u64 = 500;
/// For a broker to say how much lies there.
const COUNT_MS: u64 = 2_000;

impl Core {
    /// Takes a queue in, whose numbers for hints were never used before.
    pub(super) fn insert_queue(&mut self, row: QueueRow) {
        let mut queue = Queue::new(row);
        queue.away = Away::new(self.identity.epoch);
        if let Some(broker) = queue.row.backend.broker() {
            self.queues.links.entry(broker.clone()).or_default();
        }
        self.queues.insert(queue);
    }

    /// Takes in what a broker said.
    pub(super) fn broker_said(&mut self, now: Now, name: &Arc<str>, said: Vec<Said>, step: &mut Step) {
        for word in said {
            match word {
                Said::Up { version, capabilities, confirms_fast } => {
                    self.broker_up(now, name, version, (capabilities, confirms_fast));
                }
                Said::Down(reason) => {
                    self.broker_down(now, name, reason);
                    self.store_passing_at(now, name, step);
                }
                Said::Heard => self.heard(now, name),
                Said::Hints(queue, hints) => {
                    self.heard(now, name);
                    self.hints_arrived(&queue, &hints);
                }
                Said::Lost(queue) => self.hints_lost(now, &queue),
                Said::Confirmed(queue, ids) => self.confirmed(now, &queue, &ids, step),
                Said::Messages(queue, messages) => {
                    self.heard(now, name);
                    self.delivered(now, (name.clone(), queue, messages), step);
                }
                Said::Depth { queue, depth, coming, .. } if self.is_drained(name, &queue) => {
                    self.drain_heard(now, &queue, (depth, coming), step);
                }
                Said::Depth { queue, depth, coming, ticket } => {
                    if let Some(q) = self.queues.get_mut(&queue) {
                        q.depth = depth;
                    }
                    match ticket {
                        Some(ticket) if self.moving.contains_key(&ticket) => {
                            self.move_counted(now, ticket, coming, step);
                        }
                        Some(ticket) if self.counting.contains_key(&ticket) => {
                            self.counted(now, ticket, step);
                        }
                        // It asked for what is there now, and there is nothing.
                        Some(ticket) if depth + coming == 0 => self.waiter_over(&queue, ticket, step),
                        _ => {}
                    }
                }
                Said::Unroutable(n, why) => self.unroutable(now, name, n, why),
                Said::Trouble(queue, why) => {
                    if why.is_some() {
                        self.store_passing(now, &queue, None, step);
                    }
                    self.queue_trouble(now, &queue, why);
                }
            }
        }
    }

    fn heard(&mut self, now: Now, name: &str) {
        if let Some(link) = self.queues.links.get_mut(name) {
            link.heard = now.mono;
            link.silent = false;
        }
    }

    fn broker_up(
        &mut self,
        now: Now,
        name: &Arc<str>,
        version: String,
        (capabilities, confirms_fast): (BTreeMap<String, String>, bool),
    ) {
        self.forget_held(name);
        let Some(link) = self.queues.links.get_mut(name) else { return };
        *link = Link {
            up: true,
            reason: None,
            since: Some(now.wall),
            version,
            capabilities,
            confirms_fast,
            heard: now.mono,
            silent: false,
        };
        self.events.note(now.wall, "backend", name, "up", "coordinator");
        for q in self.queues.iter_mut().filter(|q| q.row.backend.broker() == Some(name)) {
            // Nobody knows what became of the messages that were on their way: they are given once more.
            q.messages.resend();
            (q.room, q.room_in) = (0, 0);
        }
        for q in self.queues.iter_mut().filter(|q| q.row.moving_from.as_ref() == Some(name)) {
            q.drain = Some(Drain { left: q.drain.as_ref().and_then(|d| d.left), ..Drain::default() });
        }
    }

    fn broker_down(&mut self, now: Now, name: &Arc<str>, reason: String) {
        let Some(link) = self.queues.links.get_mut(name) else { return };
        if link.up || link.since.is_none() {
            link.since = Some(now.wall);
            self.events.note(now.wall, "backend", name, "degraded", "coordinator");
        }
        (link.up, link.reason) = (false, Some(reason));
    }

    fn queue_trouble(&mut self, now: Now, queue: &Arc<str>, why: Option<String>) {
        if let Some(q) = queue.strip_suffix(IN).and_then(|of| self.queues.get_mut(of)) {
            // Kept anew, it was asked for nothing yet.
            q.room_in = 0;
        }
        let Some(q) = self.queues.get_mut(queue) else { return };
        if q.trouble.is_some() != why.is_some() {
            let word = if why.is_some() { "degraded" } else { "usable" };
            self.events.note(now.wall, "queue", queue, word, "coordinator");
        }
        q.set_trouble(why);
    }

    fn hints_arrived(&mut self, queue: &str, hints: &[Hint]) {
        let lineage = self.identity.lineage.clone();
        let Some(q) = self.queues.get_mut(queue) else { return };
        q.room = q.room.saturating_sub(hints.len() as u64);
        for hint in hints {
            let of_us = *hint.lineage == *lineage;
            let (places, parked) = if of_us { q.away.arrived(hint, &mut q.parked) } else { (Vec::new(), 0) };
            self.stale += u64::from(places.is_empty() && parked == 0);
            for place in places {
                q.offer(place);
            }
        }
    }

    fn hints_lost(&mut self, now: Now, queue: &Arc<str>) {
        let Some(q) = self.queues.get_mut(queue) else { return };
        q.depth = 0;
        if !q.away.is_empty() {
            q.away.again();
            self.events.note(now.wall, "queue", queue, "rebuilt", "coordinator");
        }
    }

    /// Messages that the broker has are no longer the store's, and no longer awaited.
    fn confirmed(&mut self, now: Now, queue: &str, ids: &[u64], step: &mut Step) {
        for id in ids {
            let Some(q) = self.queues.get_mut(queue) else { return };
            if !q.messages.get(*id).is_some_and(|m| matches!(m.place, Where::Outgoing(_))) {
                continue;
            }
            let Some(message) = q.messages.remove(*id) else { continue };
            q.depth += u64::from(!queue.starts_with(REPLIES));
            if let Some(source) = &message.source {
                self.taken.forget(source);
            }
            if message.kept.is_none() {
                step.facts.push(Fact::MessageGone(*id));
            }
            self.passed(now, message.publisher, step);
        }
    }

    /// Takes waiting jobs whose hints did not come, of needs that a slot is free for. True: there is more to place.
    pub(super) fn absorb(&mut self, now: Now, blocked: &HashSet<u32>) -> bool {
        let names: Vec<Arc<str>> = self
            .queues
            .iter()
            .filter(|q| !q.away.is_empty() && q.may_hand_out())
            .map(|q| q.row.name.clone())
            .collect();
        let mut found = false;
        for name in names {
            found |= self.absorb_queue(now, &name, blocked);
        }
        found
    }

    fn absorb_queue(&mut self, now: Now, name: &str, blocked: &HashSet<u32>) -> bool {
        let Some(q) = self.queues.get(name) else { return false };
        let link = self.queues.link_of(q);
        let usable = q.trouble.is_none() && link.is_some_and(|l| l.up);
        let quiet = link.is_none_or(|l| now.mono.saturating_sub(l.heard) > SILENT_MS);
        let (room, broker) = (q.room, q.row.backend.broker().cloned());
        let cutoff = match (usable, quiet || room == 0) {
            (false, _) => now.mono,
            (true, true) => now.mono.saturating_sub(SILENT_MS),
            (true, false) => now.mono.saturating_sub(HINT_MS),
        };
        let Some(q) = self.queues.get_mut(name) else { return false };
        let mut places = q.away.absorb(cutoff, blocked, ABSORB);
        if !usable && places.is_empty() {
            // What was never given to the broker is not waited for either.
            places = q.away.drain_fresh(blocked, ABSORB);
        }
        for place in &places {
            q.offer(*place);
        }
        let bounds = (ABSORB, WINDOW);
        let parked = q.away.distant.absorb(cutoff, blocked, bounds, !usable, &mut q.parked);
        let silent = usable && quiet && room > 0 && places.len() + parked > 0;
        if let Some(link) = broker.filter(|_| silent).and_then(|b| self.queues.links.get_mut(&b)) {
            link.silent = true;
        }
        !places.is_empty()
    }

    /// Ends a step for the brokers: which queues they keep, new hints, messages to be forwarded, room for more.
    pub(super) fn tell_brokers(&mut self, now: Now, step: &mut Step) {
        if self.queues.links.is_empty() {
            return;
        }
        let lineage: Arc<str> = self.identity.lineage.as_str().into();
        let links: BTreeMap<Arc<str>, bool> =
            self.queues.links.iter().map(|(name, link)| (name.clone(), link.up)).collect();
        let (mut waits, mut more, full) = (false, false, self.held.is_some());
        for q in self.queues.iter_mut() {
            let keep = q.row.backend.broker().filter(|_| q.row.kind != QueueKind::Unset);
            let keep = keep.map(|broker| (broker.clone(), q.row.kind));
            super::ingress::tell(q, &links, full, step);
            if q.told != keep {
                tell_use(q, keep.clone(), step);
            }
            super::migrate::tell(q, &links, full, step);
            let Some((broker, kind)) = keep else { continue };
            let up = links.get(&broker).is_some_and(|up| *up);
            let mut say = |order| step.effects.push(Effect::Broker(broker.clone(), order));
            let name = q.row.name.clone();
            if up && q.trouble.is_none() && !q.is_moving() {
                match kind {
                    QueueKind::Messages => tell_messages(q, full, &mut say),
                    QueueKind::Jobs | QueueKind::Unset => {
                        let hints = q.away.publish(now.mono, &lineage, HINTS_A_STEP);
                        if !hints.is_empty() {
                            say(Order::Hints(name, hints));
                        }
                        tell_room(q, &mut say);
                        more |= q.away.has_fresh();
                    }
                }
            }
            waits |= !q.away.is_empty();
        }
        if more {
            self.due.push(now.mono, What::Again);
        }
        if waits && !self.absorb_armed {
            self.absorb_armed = true;
            self.due.after(now, LOOK_MS, What::Absorb);
        }
    }

    /// Counts a queue whose messages are at a broker: answered when it has said how much lies there.
    pub(super) fn count_outside(
        &mut self,
        now: Now,
        ticket: Ticket,
        queue: &str,
        step: &mut Step,
    ) -> Option<()> {
        let q = self.queues.get(queue)?;
        let (name, broker) = (q.row.name.clone(), q.row.backend.broker()?.clone());
        if q.row.kind != QueueKind::Messages || q.trouble.is_some() || !self.queues.link_of(q)?.up {
            return None;
        }
        // After what this step forwards.
        self.tell_brokers(now, step);
        step.effects.push(Effect::Broker(broker, Order::Depth(name.clone(), ticket)));
        self.counting.insert(ticket, name);
        self.due.after(now, COUNT_MS, What::Counting(ticket));
        Some(())
    }

    /// Somebody who does not want to wait takes from a queue whose messages are at a broker: it is asked. False: there is
    /// nobody to ask.
    pub(super) fn ask_broker(&mut self, now: Now, ticket: Ticket, queue: &Arc<str>, step: &mut Step) -> bool {
        let Some(q) = self.queues.get(queue) else { return false };
        let Some(broker) = q.row.backend.broker().cloned() else { return false };
        let usable = q.trouble.is_none() && self.queues.link_of(q).is_some_and(Link::is_trusted);
        if q.row.kind != QueueKind::Messages || q.row.paused || !usable || self.held.is_some() {
            return false;
        }
        // Room first: what comes of it overtakes the answer.
        self.tell_brokers(now, step);
        step.effects.push(Effect::Broker(broker, Order::Depth(queue.clone(), ticket)));
        self.due.after(now, ASK_MS, What::Waiter(queue.clone(), ticket));
        true
    }

    fn counted(&mut self, now: Now, ticket: Ticket, step: &mut Step) {
        if let Some(queue) = self.counting.remove(&ticket) {
            let answer = self.count_of(now, &queue).map(Reply::Count);
            Self::reply(step, ticket, answer);
        }
    }

    /// The broker did not answer in time: what it said last has to do.
    pub(super) fn count_late(&mut self, now: Now, ticket: Ticket, step: &mut Step) {
        self.counted(now, ticket, step);
    }
}

fn tell_use(q: &mut Queue, keep: Option<(Arc<str>, QueueKind)>, step: &mut Step) {
    let name = q.row.name.clone();
    if let Some((old, _)) = q.told.take() {
        step.effects.push(Effect::Broker(old, Order::Leave(name.clone())));
    }
    if let Some((broker, kind)) = &keep {
        step.effects.push(Effect::Broker(broker.clone(), Order::Use(name, *kind)));
    }
    q.told = keep;
}

fn tell_messages(q: &mut Queue, full: bool, say: &mut impl FnMut(Order)) {
    let name = q.row.name.clone();
    let forwarded = q.messages.send(OUTGOING.saturating_sub(q.messages.in_flight()));
    for portion in forwarded.chunks(PORTION) {
        say(Order::Forward(name.clone(), portion.to_vec()));
    }
    // Nothing is taken from the broker but for those who wait, and nothing while the disk is full.
    // Nor more for anyone than an answer holds, by the size of the last: the rest would lie in the store for nothing.
    let fit = (ANSWER_BYTES / q.mean_bytes.max(1)).max(1);
    let asked: u64 = q.waiters.iter().map(|w| u64::from(w.max).min(fit)).sum();
    let received = if q.row.paused { 0 } else { asked.saturating_sub(q.messages.at_hand()) };
    // What is moved passes by the pause.
    let wanted = if full { 0 } else { received + q.wanted.min(fit) };
    if wanted > q.room {
        say(Order::Room(name, wanted - q.room));
        q.room = wanted;
    } else if wanted == 0 && q.room > 0 {
        say(Order::Room(name, 0));
        q.room = 0;
    }
}

/// Read on when a quarter of the window is free: each word costs a round.
fn tell_room(q: &mut Queue, say: &mut impl FnMut(Order)) {
    if q.row.paused {
        if q.room > 0 {
            say(Order::Room(q.row.name.clone(), 0));
            q.room = 0;
        }
        return;
    }
    let room = WINDOW.saturating_sub(q.at_hand() + q.parked.len());
    let more = room.saturating_sub(q.room);
    if more >= WINDOW / 4 {
        say(Order::Room(q.row.name.clone(), more));
        q.room += more;
    }
}
