//! What a queue of messages should be, in the smallest words: the model that random operations are held against.
use std::collections::BTreeMap;

/// Deliveries before a message is given up.
pub const MOST: u64 = 4;

/// Where a message is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Can be had.
    Ready,
    /// Not yet, and not while the test lasts.
    Delayed,
    /// Held under this lease.
    Leased(String),
    /// Given up.
    Dead,
}

/// A message.
#[derive(Clone, Debug)]
pub struct Message {
    /// As it was published.
    pub body: String,
    /// Higher first.
    pub priority: i64,
    /// So often it was handed out.
    pub deliveries: u64,
    /// Where it is.
    pub place: Place,
    /// Neither delayed nor handed out yet: the backend alone decides when it comes.
    pub is_plain: bool,
}

/// A queue. Messages by their numbers, which are their ages.
#[derive(Debug, Default)]
pub struct Model {
    /// All there are.
    pub all: BTreeMap<u64, Message>,
    /// Nothing is handed out.
    pub paused: bool,
    /// Too old, and perhaps still counted: a broker has them until a receiver comes to them.
    pub ghosts: u64,
    /// What was published under a key.
    pub keys: BTreeMap<u64, u64>,
    /// Leases that mean nothing any more.
    pub stale: Vec<String>,
    /// The last plain message that came of each band.
    last: [u64; 3],
}

impl Model {
    /// A message comes in.
    pub fn add(&mut self, id: u64, body: &str, priority: i64, delayed: bool) {
        let place = if delayed { Place::Delayed } else { Place::Ready };
        let body = body.to_owned();
        let message = Message { body, priority, deliveries: 0, place, is_plain: !delayed };
        assert!(self.all.insert(id, message).is_none(), "the number {id} was given twice");
    }

    /// Those in a place.
    pub fn of(&self, is: impl Fn(&Place) -> bool) -> Vec<u64> {
        self.all.iter().filter(|(_, m)| is(&m.place)).map(|(id, _)| *id).collect()
    }

    /// What can be had, in the exact order: higher first, then older.
    pub fn ready(&self) -> Vec<u64> {
        let mut ids = self.of(|p| *p == Place::Ready);
        ids.sort_by_key(|id| (-self.all[id].priority, *id));
        ids
    }

    /// Ready, delayed, leased, dead.
    pub fn counts(&self) -> [u64; 4] {
        let count = |is: fn(&Place) -> bool| self.of(is).len() as u64;
        [
            count(|p| *p == Place::Ready),
            count(|p| *p == Place::Delayed),
            count(|p| matches!(p, Place::Leased(_))),
            count(|p| *p == Place::Dead),
        ]
    }

    /// One is handed out. What comes plain from a backend comes in the order of its band.
    pub fn hand_out(&mut self, id: u64, lease: &str) {
        let message =
            self.all.get_mut(&id).unwrap_or_else(|| panic!("{id} is not there, and was handed out"));
        assert_eq!(message.place, Place::Ready, "{id} was handed out");
        message.deliveries += 1;
        message.place = Place::Leased(lease.to_owned());
        if std::mem::take(&mut message.is_plain) {
            let last = &mut self.last[(message.priority.signum() + 1) as usize];
            assert!(id > *last, "{id} came behind {last} of the same band");
            *last = id;
        }
    }

    /// The lease of one that is held.
    pub fn lease(&self, id: u64) -> String {
        let Place::Leased(lease) = &self.all[&id].place else { panic!("{id} is not held") };
        lease.clone()
    }

    /// One that is held comes back, or is given up.
    pub fn back(&mut self, id: u64, delayed: bool) {
        self.stale.push(self.lease(id));
        let Some(message) = self.all.get_mut(&id) else { return };
        message.place = match (message.deliveries >= MOST, delayed) {
            (true, _) => Place::Dead,
            (false, true) => Place::Delayed,
            (false, false) => Place::Ready,
        };
    }

    /// One that is held is done.
    pub fn acknowledge(&mut self, id: u64) {
        self.stale.push(self.lease(id));
        self.all.remove(&id);
    }

    /// Everything is gone, and numbers begin anew.
    pub fn forget(&mut self) {
        let leases: Vec<String> =
            self.of(|p| matches!(p, Place::Leased(_))).into_iter().map(|id| self.lease(id)).collect();
        self.stale.extend(leases);
        self.all.clear();
        self.last = [0; 3];
    }

    /// One that was given up can be had again.
    pub fn revive(&mut self, id: u64) {
        let message = self.all.get_mut(&id).unwrap();
        (message.place, message.deliveries) = (Place::Ready, 0);
    }
}
