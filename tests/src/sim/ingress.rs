//! Other programs, which publish job specs at the simulated broker and have never heard of reeve: each message becomes one
//! job, whatever happens between, and none is delivered while the coordinator's disk is full.
use super::broker::NAME;
use super::clients::{Action, UID};
use super::rng::Rng;
use super::world::World;
use reeve_coordinator::input::Call;
use reeve_coordinator::orchestrator::link::{Band, Incoming, Order, Said, Tag};
use reeve_protocol::JobSpec;
use reeve_protocol::api::QueueSettings;
use reeve_protocol::spec::LostAfter;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// Queues that other programs publish for.
const QUEUES: [&str; 2] = ["a", "b"];

/// What was published for one queue.
#[derive(Clone, Debug, Default)]
pub struct Place {
    waiting: VecDeque<u64>,
    /// Delivered, and not said to be taken.
    out: BTreeSet<u64>,
    room: u64,
}

/// All such places, and what they were given.
#[derive(Clone, Debug, Default)]
pub struct Outside {
    places: BTreeMap<Arc<str>, Place>,
    /// Said to it while it held still.
    late: Vec<Order>,
    /// Numbers of the messages so far: each is its message id.
    count: u64,
    /// Those that are no job specs.
    garbage: BTreeSet<u64>,
}

/// Of which queue this is the place for other programs, if it is one.
fn queue_of(place: &str) -> Option<&str> {
    place.strip_suffix(":in")
}

/// The name of the job that a message becomes.
fn name(number: u64) -> String {
    format!("in-{number}")
}

/// The number of the message that a job was made of.
pub(super) fn number(name: &str) -> Option<u64> {
    name.strip_prefix("in-")?.parse().ok()
}

fn settings() -> QueueSettings {
    QueueSettings {
        backend: Some(NAME.to_owned()),
        ingress: Some("as=ana".to_owned()),
        ..QueueSettings::default()
    }
}

/// A queue of jobs is opened to other programs, or closed.
pub(super) fn ingress_call(rng: &mut Rng) -> Call {
    let queue = (*rng.pick(&QUEUES)).to_owned();
    if rng.chance(75) {
        return Call::SetQueue { queue, settings: settings(), ingress_uid: Some(UID) };
    }
    let settings = QueueSettings { ingress: Some("off".to_owned()), ..QueueSettings::default() };
    Call::SetQueue { queue, settings, ingress_uid: None }
}

impl World {
    /// A program publishes; now and then twice, when it was not sure.
    pub(super) fn publish_outside(&mut self) {
        if self.broker.is_down() {
            return;
        }
        let place: Arc<str> = format!("{}:in", self.rng.pick(&QUEUES)).into();
        let outside = &mut self.broker.outside;
        outside.count += 1;
        let number = outside.count;
        if self.rng.chance(2) {
            outside.garbage.insert(number);
        }
        let kept = outside.places.entry(place.clone()).or_default();
        kept.waiting.push_back(number);
        if self.rng.chance(10) {
            kept.waiting.push_back(number);
        }
        self.deliver_outside(&place);
    }

    /// An order about such a place. False: it is about another.
    pub(super) fn order_outside(&mut self, order: &Order) -> bool {
        let (Order::Room(place, _) | Order::Taken(place, _) | Order::Leave(place) | Order::Use(place, _)) =
            order
        else {
            return false;
        };
        if queue_of(place).is_none() {
            return false;
        }
        if self.broker.is_frozen() {
            self.broker.outside.late.push(order.clone());
            return true;
        }
        let kept = self.broker.outside.places.entry(place.clone()).or_default();
        match order {
            Order::Room(_, 0) => kept.room = 0,
            Order::Room(_, more) => kept.room += more,
            Order::Taken(_, tags) => {
                for tag in tags {
                    kept.out.remove(&tag.name.parse().unwrap_or(0));
                }
            }
            Order::Leave(_) => {
                kept.room = 0;
                kept.come_back();
            }
            _ => {}
        }
        self.deliver_outside(place);
        true
    }

    fn deliver_outside(&mut self, place: &Arc<str>) {
        if self.broker.is_down() || self.broker.is_frozen() {
            return;
        }
        let Some(kept) = self.broker.outside.places.get_mut(place) else { return };
        let n = kept.room.min(kept.waiting.len() as u64);
        kept.room -= n;
        let numbers: Vec<u64> = kept.waiting.drain(..n as usize).collect();
        kept.out.extend(&numbers);
        if numbers.is_empty() {
            return;
        }
        let messages = numbers.into_iter().map(|n| self.incoming(n)).collect();
        self.broker_says(Said::Messages(place.clone(), messages));
    }

    fn incoming(&mut self, number: u64) -> Incoming {
        let spec = JobSpec {
            command: Some(vec!["true".to_owned()]),
            name: Some(name(number)),
            lost_after_s: Some(LostAfter::Seconds(30.0)),
            ..JobSpec::default()
        };
        let garbage = self.broker.outside.garbage.contains(&number);
        let body = if garbage { b"{".to_vec() } else { serde_json::to_vec(&spec).unwrap_or_default() };
        let unique: Arc<str> = number.to_string().into();
        Incoming {
            tag: Tag { band: Band::Normal, name: unique.clone() },
            unique: Some(unique),
            id: None,
            kind: 0,
            body: body.into(),
            headers: "{}".into(),
            priority: 0,
            expires_at: None,
            unusable: None,
            reply: None,
        }
    }

    /// It moves again: what was said to it meanwhile arrives, and what was published meanwhile is delivered.
    pub(super) fn outside_thaws(&mut self) {
        for order in std::mem::take(&mut self.broker.outside.late) {
            self.order_outside(&order);
        }
        let places: Vec<Arc<str>> = self.broker.outside.places.keys().cloned().collect();
        for place in places {
            self.deliver_outside(&place);
        }
    }

    /// After the faults: whatever is left there is let in.
    pub(super) fn let_in(&mut self) {
        let left: Vec<Arc<str>> = self.broker.outside.left().cloned().collect();
        for queue in left.iter().filter_map(|place| queue_of(place)) {
            let (queue, settings) = (queue.to_owned(), settings());
            let call = Call::SetQueue { queue, settings, ingress_uid: Some(UID) };
            self.client(Action::Other(Box::new(call)));
        }
    }
}

impl Place {
    /// Whoever read it is gone: what was not taken is delivered again.
    fn come_back(&mut self) {
        for number in std::mem::take(&mut self.out).into_iter().rev() {
            self.waiting.push_front(number);
        }
    }
}

impl Outside {
    /// Every connection is gone.
    pub(super) fn disconnected(&mut self) {
        self.late.clear();
        for place in self.places.values_mut() {
            place.room = 0;
            place.come_back();
        }
    }

    /// Places with something in them.
    pub(super) fn left(&self) -> impl Iterator<Item = &Arc<str>> {
        self.places.iter().filter(|(_, p)| !p.waiting.is_empty() || !p.out.is_empty()).map(|(name, _)| name)
    }

    /// Each message that was a job spec, by its number.
    pub(super) fn jobs(&self) -> impl Iterator<Item = u64> {
        (1..=self.count).filter(|n| !self.garbage.contains(n))
    }
}
