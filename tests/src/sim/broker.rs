//! A simulated broker for queues of jobs: keeps hints, and loses, doubles and reorders them; is killed, frozen and flushed.
//! Whatever it does, every job runs as if it were not there.
use super::agenda::Due;
use super::ingress::Outside;
use super::rng::Rng;
use super::world::World;
use reeve_coordinator::input::{Call, Input};
use reeve_coordinator::orchestrator::link::{Hint, Order, Said};
use reeve_protocol::api::QueueSettings;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// As queues name it.
pub const NAME: &str = "broker";

/// What it holds, and how it is.
#[derive(Clone, Debug, Default)]
pub struct Broker {
    hints: BTreeMap<Arc<str>, VecDeque<Hint>>,
    room: BTreeMap<Arc<str>, u64>,
    /// It was killed; the coordinator knows.
    down: bool,
    /// It holds still; the coordinator learns of it only after a while.
    frozen: bool,
    /// Which life of the coordinator it has been told of.
    known: u64,
    /// When the last order arrives there, and its last word here: one connection, so nothing overtakes.
    last_order: u64,
    last_word: u64,
    /// What other programs publish there.
    pub(super) outside: Outside,
}

impl World {
    /// An order of the core on its way there.
    pub(super) fn order_broker(&mut self, order: Order) {
        let at = self.broker.last_order.max(self.now + self.rng.range(1, 4));
        self.broker.last_order = at;
        self.agenda.at(at, Due::Broker(self.epoch, Box::new(order)));
    }

    /// An order arrives. Orders of an older life went down with their connection.
    pub(super) fn broker(&mut self, epoch: u64, order: Order) {
        if epoch != self.epoch || self.core.is_none() {
            return;
        }
        if self.broker.known != epoch {
            self.broker.known = epoch;
            self.broker.room.clear();
            self.broker.outside.disconnected();
            self.broker_says(if self.broker.down { down() } else { up() });
        }
        if self.broker.down || self.order_outside(&order) || self.broker.frozen {
            return;
        }
        match order {
            Order::Hints(queue, hints) => {
                self.count.hit("hints at the broker");
                let kept = self.broker.hints.entry(queue.clone()).or_default();
                for hint in hints {
                    keep(kept, hint, &mut self.rng);
                }
                self.deliver(&queue);
            }
            Order::Room(queue, more) => {
                let room = self.broker.room.entry(queue.clone()).or_default();
                *room = if more == 0 { 0 } else { *room + more };
                self.deliver(&queue);
            }
            Order::Leave(queue) => drop(self.broker.room.remove(&queue)),
            Order::Use(..) | Order::Forward(..) | Order::Taken(..) | Order::Depth(..) => {}
        }
    }

    fn deliver(&mut self, queue: &Arc<str>) {
        let room = self.broker.room.entry(queue.clone()).or_default();
        let kept = self.broker.hints.entry(queue.clone()).or_default();
        let n = (*room).min(kept.len() as u64);
        *room -= n;
        let hints: Vec<Hint> = kept.drain(..n as usize).collect();
        if !hints.is_empty() {
            self.broker_says(Said::Hints(queue.clone(), hints));
        }
    }

    pub(super) fn broker_says(&mut self, said: Said) {
        let at = self.broker.last_word.max(self.now + self.rng.range(1, 4));
        self.broker.last_word = at;
        let input = Input::Broker { name: NAME.into(), said: vec![said] };
        self.agenda.at(at, Due::Inbox(self.epoch, Box::new(input)));
    }

    /// It comes back, with what it kept or without.
    pub(super) fn broker_back(&mut self) {
        let (down, frozen) = (self.broker.down, self.broker.frozen);
        (self.broker.down, self.broker.frozen) = (false, false);
        if down {
            self.broker.room.clear();
            self.broker_says(up());
        } else if frozen {
            self.broker_says(Said::Heard);
            self.outside_thaws();
        }
        let queues: Vec<Arc<str>> = self.broker.hints.keys().cloned().collect();
        for queue in queues {
            if down && self.broker.hints[&queue].is_empty() {
                self.broker_says(Said::Lost(queue.clone()));
            }
            self.deliver(&queue);
        }
    }

    /// Something happens to it.
    pub(super) fn broker_fault(&mut self) {
        match self.rng.below(3) {
            0 => {
                self.count.hit("fault: broker killed");
                self.note(|| "fault: broker killed".to_owned());
                self.broker.down = true;
                self.broker.outside.disconnected();
                if self.rng.chance(50) {
                    self.broker.hints.values_mut().for_each(VecDeque::clear);
                }
                self.broker_says(down());
            }
            1 => {
                self.count.hit("fault: broker frozen");
                self.note(|| "fault: broker frozen".to_owned());
                self.broker.frozen = true;
            }
            _ => {
                self.count.hit("fault: broker flushed");
                self.broker.hints.values_mut().for_each(VecDeque::clear);
                // Whether anybody tells is another matter.
                if self.rng.chance(50) {
                    let queues: Vec<Arc<str>> = self.broker.hints.keys().cloned().collect();
                    for queue in queues {
                        self.broker_says(Said::Lost(queue));
                    }
                }
                return;
            }
        }
        let ms = *self.rng.pick(&[200, 3_000, 20_000, 90_000]);
        self.agenda.at(self.now + ms, Due::Heal(super::faults::Heal::Broker));
    }
}

impl Broker {
    /// It was killed.
    pub(super) const fn is_down(&self) -> bool {
        self.down
    }

    /// It holds still.
    pub(super) const fn is_frozen(&self) -> bool {
        self.frozen
    }
}

fn up() -> Said {
    Said::Up { version: "simulated".to_owned(), capabilities: BTreeMap::new(), confirms_fast: true }
}

fn down() -> Said {
    Said::Down("it was killed".to_owned())
}

fn keep(kept: &mut VecDeque<Hint>, hint: Hint, rng: &mut Rng) {
    match rng.below(100) {
        0..5 => {}
        5..10 => {
            kept.push_back(hint.clone());
            kept.push_back(hint);
        }
        10..20 => {
            let at = rng.below(kept.len() as u64 + 1) as usize;
            kept.insert(at, hint);
        }
        _ => kept.push_back(hint),
    }
}

/// A queue of jobs moves to the broker, or back.
pub(super) fn backend_call(rng: &mut Rng) -> Call {
    let backend = if rng.chance(70) { NAME } else { "local" };
    let settings = QueueSettings { backend: Some(backend.to_owned()), ..QueueSettings::default() };
    let queue = (*rng.pick(&super::calls::JOBS)).to_owned();
    Call::SetQueue { queue, settings, ingress_uid: None }
}
