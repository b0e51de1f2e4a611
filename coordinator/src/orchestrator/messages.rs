//! Messages of one queue: ready, delayed, leased, dead. Bodies stay in the store; here is what order and leases need.
use super::link::Forwarded;
use crate::input::Ticket;
use crate::row::MessageRow;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// Deliveries before a message is given up: the first and three more.
pub const MAX_DELIVERIES: u32 = 4;

/// Bodies and headers that one answer to a receiver holds, bytes; what comes next stays. One message always fits. Without it
/// a thousand of the largest would fill a gigabyte, in the coordinator and in its caller.
pub const ANSWER_BYTES: u64 = 8 * 1024 * 1024;

/// Where a message is.
#[derive(Clone, Debug, PartialEq)]
pub enum Where {
    /// Can be handed out.
    Ready,
    /// Not before, wall milliseconds.
    Delayed(i64),
    /// To be given to the queue's broker; true: given, and not confirmed yet.
    Outgoing(bool),
    /// Handed out under this lease until, boot-time milliseconds.
    Leased(String, u64),
    /// Given up.
    Dead,
}

/// What is known of a message without its body.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// Higher first.
    pub priority: i32,
    /// Times handed out.
    pub deliveries: u32,
    /// Of its body and headers.
    pub bytes: u32,
    /// Wall milliseconds.
    pub published_at: i64,
    /// Wall milliseconds.
    pub expires_at: Option<i64>,
    /// Where it is.
    pub place: Where,
    /// Once it is due it goes to the queue's broker, not to receivers.
    pub outgoing: bool,
    /// The whole message, while it has no row: in a queue in memory, or on its way to a broker that has the word next.
    pub kept: Option<Arc<MessageRow>>,
    /// Who hears when the broker has it, or the store instead.
    pub publisher: Option<Ticket>,
    /// What the broker that it came from called it.
    pub source: Option<Arc<str>>,
}

impl Message {
    /// On its way to the broker without a row.
    const fn passes(&self) -> bool {
        matches!(self.place, Where::Outgoing(_)) && self.kept.is_some()
    }
}

/// The messages of one queue.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Messages {
    all: BTreeMap<u64, Message>,
    ready: BTreeSet<(Reverse<i32>, u64)>,
    leases: HashMap<String, u64>,
    unsent: BTreeSet<u64>,
    sent: BTreeSet<u64>,
    /// Of these two, those that have no row.
    passing: u64,
    delayed: u64,
    dead: u64,
}

impl Messages {
    /// Takes a message in, wherever it is.
    pub fn insert(&mut self, id: u64, message: Message) {
        self.enter(id, &message);
        self.all.insert(id, message);
    }

    /// Takes a message out for good.
    pub fn remove(&mut self, id: u64) -> Option<Message> {
        let message = self.all.remove(&id)?;
        self.exit(id, &message);
        Some(message)
    }

    /// Moves a message.
    pub fn put(&mut self, id: u64, place: Where) {
        if let Some(mut message) = self.remove(id) {
            message.place = place;
            self.insert(id, message);
        }
    }

    /// A message that was to go to the broker is at hand, and the store's from now on.
    pub fn arrived(&mut self, id: u64, source: Option<Arc<str>>) {
        if let Some(mut message) = self.remove(id) {
            (message.place, message.outgoing) = (Where::Ready, false);
            message.source = source.or(message.source);
            self.insert(id, message);
        }
    }

    /// Why a message that has no row was given up.
    pub fn note_dead(&mut self, id: u64, why: Option<&str>) {
        if let Some(row) = self.all.get_mut(&id).and_then(|m| m.kept.as_mut()) {
            Arc::make_mut(row).dead = why.map(str::to_owned);
        }
    }

    /// A message.
    pub fn get(&self, id: u64) -> Option<&Message> {
        self.all.get(&id)
    }

    /// The next that can be handed out.
    pub fn first(&self) -> Option<u64> {
        self.ready.first().map(|(_, id)| *id)
    }

    /// The next few that can be handed out.
    pub fn peek(&self, max: usize) -> Vec<u64> {
        self.ready.iter().take(max).map(|(_, id)| *id).collect()
    }

    /// The next few to be given to the broker.
    pub fn unsent(&self, max: usize) -> Vec<u64> {
        self.unsent.iter().take(max).copied().collect()
    }

    /// Takes the next few that are to be given to the broker: they are on their way from now on.
    pub fn send(&mut self, max: usize) -> Vec<Forwarded> {
        let mut forwarded = Vec::with_capacity(max.min(self.unsent.len()));
        while forwarded.len() < max
            && let Some(id) = self.unsent.pop_first()
        {
            let Some(message) = self.all.get_mut(&id) else { continue };
            message.place = Where::Outgoing(true);
            self.sent.insert(id);
            forwarded.push(message.kept.clone().map_or(Forwarded::Row(id), Forwarded::Whole));
        }
        forwarded
    }

    /// Given to the broker, and not confirmed.
    pub fn in_flight(&self) -> usize {
        self.sent.len()
    }

    /// The oldest and the newest of these.
    pub fn flight(&self) -> Option<(u64, u64)> {
        Some((*self.sent.first()?, *self.sent.last()?))
    }

    /// Whatever was given to the broker and not confirmed is to be given again.
    pub fn resend(&mut self) {
        for id in std::mem::take(&mut self.sent) {
            self.unsent.insert(id);
            if let Some(message) = self.all.get_mut(&id) {
                message.place = Where::Outgoing(false);
            }
        }
    }

    /// To be given to the broker, or on the way.
    pub fn outgoing(&self) -> u64 {
        (self.unsent.len() + self.sent.len()) as u64
    }

    /// Of these, how many have no row.
    pub const fn passing(&self) -> u64 {
        self.passing
    }

    /// Messages on their way to the broker that have no row, oldest first.
    pub fn passing_ids(&self) -> Vec<u64> {
        if self.passing == 0 {
            return Vec::new();
        }
        let mut ids: Vec<u64> = self.sent.iter().chain(&self.unsent).copied().collect();
        ids.retain(|id| self.all.get(id).is_some_and(Message::passes));
        ids.sort_unstable();
        ids
    }

    /// The message has a row from now on: gives what goes into it, and who is to hear of it.
    pub fn store(&mut self, id: u64) -> Option<(Arc<MessageRow>, Option<Ticket>)> {
        let mut message = self.remove(id)?;
        let (kept, publisher) = (message.kept.take(), message.publisher.take());
        self.insert(id, message);
        Some((kept?, publisher))
    }

    /// Hands one out.
    pub fn lease(&mut self, id: u64, lease: String, until: u64) -> u32 {
        let Some(mut message) = self.remove(id) else { return 0 };
        message.deliveries += 1;
        // Whatever becomes of it now, its deliveries are counted here.
        message.outgoing = false;
        message.place = Where::Leased(lease, until);
        let deliveries = message.deliveries;
        if let Some(row) = &mut message.kept {
            Arc::make_mut(row).deliveries = deliveries;
        }
        self.insert(id, message);
        deliveries
    }

    /// The message under a lease.
    pub fn holder(&self, lease: &str) -> Option<u64> {
        self.leases.get(lease).copied()
    }

    /// Can be handed out now.
    pub fn at_hand(&self) -> u64 {
        self.ready.len() as u64
    }

    /// The first few at hand that nobody has had, in order of number.
    pub fn untouched(&self, max: usize) -> Vec<u64> {
        let fresh = |id: &u64| self.all.get(id).is_some_and(|m| m.deliveries == 0);
        let mut ids: Vec<u64> = self.ready.iter().map(|(_, id)| *id).filter(fresh).take(max).collect();
        ids.sort_unstable();
        ids
    }

    /// A message at hand is to be given to the queue's broker.
    pub fn set_outgoing(&mut self, id: u64) {
        if let Some(mut message) = self.remove(id) {
            (message.place, message.outgoing) = (Where::Outgoing(false), true);
            self.insert(id, message);
        }
    }

    /// The first few that were given up, oldest first.
    pub fn dead(&self, max: usize) -> Vec<u64> {
        self.all.iter().filter(|(_, m)| m.place == Where::Dead).map(|(id, _)| *id).take(max).collect()
    }

    /// A message that was given up can be handed out again, as if for the first time.
    pub fn revive(&mut self, id: u64) {
        if let Some(mut message) = self.remove(id) {
            (message.place, message.deliveries) = (Where::Ready, 0);
            if let Some(row) = &mut message.kept {
                Arc::make_mut(row).deliveries = 0;
            }
            self.insert(id, message);
        }
    }

    /// Ready, delayed, leased, dead.
    pub fn counts(&self) -> (u64, u64, u64, u64) {
        (self.ready.len() as u64 + self.outgoing(), self.delayed, self.leases.len() as u64, self.dead)
    }

    /// Ready and delayed.
    pub fn waiting(&self) -> u64 {
        self.ready.len() as u64 + self.outgoing() + self.delayed
    }

    /// When the oldest ready one was published.
    pub fn oldest(&self) -> Option<i64> {
        let at_hand = self.ready.iter().take(1000).map(|(_, id)| id);
        let ids = at_hand.chain(self.sent.first()).chain(self.unsent.first());
        ids.filter_map(|id| self.all.get(id)).map(|m| m.published_at).min()
    }

    /// Those that are dead, or those that wait: for `clean`.
    pub fn ids(&self, dead: bool) -> Vec<u64> {
        self.all
            .iter()
            .filter(|(_, m)| match m.place {
                Where::Dead => dead,
                Where::Ready | Where::Delayed(_) | Where::Outgoing(false) => !dead,
                Where::Outgoing(true) | Where::Leased(..) => false,
            })
            .map(|(id, _)| *id)
            .collect()
    }

    fn enter(&mut self, id: u64, message: &Message) {
        self.passing += u64::from(message.passes());
        match &message.place {
            Where::Ready => {
                self.ready.insert((Reverse(message.priority), id));
            }
            Where::Delayed(_) => self.delayed += 1,
            Where::Outgoing(sent) => {
                if *sent { &mut self.sent } else { &mut self.unsent }.insert(id);
            }
            Where::Leased(lease, _) => {
                self.leases.insert(lease.clone(), id);
            }
            Where::Dead => self.dead += 1,
        }
    }

    fn exit(&mut self, id: u64, message: &Message) {
        self.passing -= u64::from(message.passes());
        match &message.place {
            Where::Ready => {
                self.ready.remove(&(Reverse(message.priority), id));
            }
            Where::Delayed(_) => self.delayed -= 1,
            Where::Outgoing(sent) => {
                if *sent { &mut self.sent } else { &mut self.unsent }.remove(&id);
            }
            Where::Leased(lease, _) => {
                self.leases.remove(lease);
            }
            Where::Dead => self.dead -= 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(priority: i32, place: Where) -> Message {
        Message {
            priority,
            deliveries: 0,
            bytes: 1,
            published_at: 5,
            expires_at: None,
            place,
            outgoing: false,
            kept: None,
            publisher: None,
            source: None,
        }
    }

    #[test]
    fn a_message_is_in_exactly_one_place() {
        let mut m = Messages::default();
        m.insert(1, message(0, Where::Ready));
        m.insert(2, message(5, Where::Ready));
        m.insert(3, message(0, Where::Delayed(9)));
        assert_eq!(m.counts(), (2, 1, 0, 0));
        assert_eq!(m.first(), Some(2), "higher priority first");
        assert_eq!(m.lease(2, "x".into(), 9), 1);
        assert_eq!((m.first(), m.holder("x")), (Some(1), Some(2)));
        m.put(2, Where::Ready);
        assert_eq!(m.holder("x"), None);
        m.put(2, Where::Dead);
        m.put(3, Where::Ready);
        assert_eq!(m.counts(), (2, 0, 0, 1));
        assert_eq!((m.ids(true), m.ids(false)), (vec![2], vec![1, 3]));
        m.remove(2);
        assert_eq!(m.counts(), (2, 0, 0, 0));
    }
}
