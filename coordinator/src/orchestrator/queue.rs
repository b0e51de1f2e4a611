//! One queue: what waits in it by need and order, who waits for it, and its counters.
use super::link::Away;
use super::messages::Messages;
use super::parked::{Owner, Parked};
use crate::input::Ticket;
use crate::row::{QueueKind, QueueRow};
use reeve_protocol::api::StateCounts;
use reeve_protocol::{JobId, State, Substate};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::sync::Arc;

/// A waiting job, or an array with a task that may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Higher first.
    pub priority: i32,
    /// Then older, which is the smaller number.
    pub job: JobId,
    /// What it needs.
    pub need: u32,
}

/// A caller that waits for something to come.
#[derive(Clone, Debug, PartialEq)]
pub struct Waiter {
    /// Where the answer goes.
    pub ticket: Ticket,
    /// Who.
    pub caller: crate::row::Caller,
    /// At most this many.
    pub max: u32,
    /// How long the lease holds.
    pub lease_ms: u64,
}

/// A broker that is being emptied.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Drain {
    /// It was told.
    pub told: bool,
    /// So many more may come.
    pub room: u64,
    /// It was asked how much lies there.
    pub asked: bool,
    /// What it said last: lying there, and on the way.
    pub left: Option<(u64, u64)>,
}

/// A queue.
#[derive(Clone, Debug, PartialEq)]
pub struct Queue {
    /// Its settings.
    pub row: QueueRow,
    /// Thousandths of cpus in use by its jobs.
    pub used_milli: u64,
    /// Jobs and tasks per state; for messages see [`Messages`].
    pub counts: StateCounts,
    /// QUEUED ones per substate, by its position in `Substate::ALL`.
    pub waiting: [u64; Substate::ALL.len()],
    /// Jobs and tasks handed out.
    pub out: u64,
    /// Messages.
    pub messages: Messages,
    /// Callers that wait, first come first served.
    pub waiters: VecDeque<Waiter>,
    /// What happened lately.
    pub rates: Rates,
    /// Waiting jobs that stand at the broker as a hint.
    pub away: Away,
    /// Waiting jobs whose record is in the store alone.
    pub parked: Parked,
    /// Why this queue alone cannot be kept at its broker.
    pub trouble: Option<String>,
    /// Messages at the broker when it was last asked.
    pub depth: u64,
    /// A look is due at what passes to the broker, at the messages up to this one.
    pub passing_until: Option<u64>,
    /// Messages that are to come from the broker because they move to another queue.
    pub wanted: u64,
    /// What was last said to the broker about room.
    pub room: u64,
    /// Which broker was told to keep it, and as what.
    pub told: Option<(Arc<str>, QueueKind)>,
    /// The old broker is being emptied: how much more may come, and what it said last about what lies there.
    pub drain: Option<Drain>,
    /// Which broker was told to keep what other programs publish for it, and how much more of that may come.
    pub told_in: Option<Arc<str>>,
    /// See `told_in`.
    pub room_in: u64,
    /// Bytes of a message that its broker delivered, on the average of the last portion.
    pub mean_bytes: u64,
    /// Ordered by need, so that a need that fits nowhere hides nothing behind it.
    ready: BTreeMap<u32, BTreeSet<(Reverse<i32>, JobId)>>,
    /// See [`Queue::beyond`].
    crowds: BTreeMap<u32, usize>,
}

impl Queue {
    /// Why its broker cannot keep it, or that it can. What the broker refused meanwhile is given to it once more, and what
    /// it was asked for is asked again.
    pub fn set_trouble(&mut self, why: Option<String>) {
        if self.trouble.is_some() && why.is_none() {
            self.messages.resend();
            self.room = 0;
        }
        self.trouble = why;
    }

    /// An empty queue.
    pub fn new(row: QueueRow) -> Self {
        Self {
            row,
            used_milli: 0,
            counts: StateCounts::default(),
            waiting: [0; Substate::ALL.len()],
            out: 0,
            messages: Messages::default(),
            waiters: VecDeque::new(),
            rates: Rates::default(),
            away: Away::default(),
            parked: Parked::default(),
            trouble: None,
            depth: 0,
            passing_until: None,
            wanted: 0,
            room: 0,
            told: None,
            drain: None,
            told_in: None,
            room_in: 0,
            mean_bytes: 0,
            ready: BTreeMap::new(),
            crowds: BTreeMap::new(),
        }
    }

    /// Puts a job in; again is harmless.
    pub fn offer(&mut self, place: Place) {
        self.ready.entry(place.need).or_default().insert((Reverse(place.priority), place.job));
    }

    /// Takes a job out; again is harmless.
    pub fn withdraw(&mut self, place: Place) {
        self.away.withdraw(place.job);
        if let Some(set) = self.ready.get_mut(&place.need) {
            set.remove(&(Reverse(place.priority), place.job));
            if set.is_empty() {
                self.ready.remove(&place.need);
                self.crowds.remove(&place.need);
            }
        }
    }

    /// Whether a job stands in it.
    pub fn has(&self, priority: i32, job: JobId, need: u32) -> bool {
        self.ready.get(&need).is_some_and(|set| set.contains(&(Reverse(priority), job)))
    }

    /// What comes next, leaving out the given needs. Nothing while that is parked, and being read: its turn is not given
    /// away (a broker's order is not as strict).
    pub fn first(&self, blocked: &HashSet<u32>) -> Option<Place> {
        let (priority, job, need) = self
            .ready
            .iter()
            .filter(|(need, _)| !blocked.contains(need))
            .filter_map(|(need, set)| set.first().map(|(priority, job)| (*priority, *job, *need)))
            .min()?;
        let strict = !self.parked.is_empty() && self.row.backend.broker().is_none();
        if strict && self.parked.first(blocked).is_some_and(|parked| parked < (priority, job)) {
            return None;
        }
        Some(Place { priority: priority.0, job, need })
    }

    /// Whether a new job is to be parked, see [`super::Orchestrator::park`].
    pub fn parks(&self, place: Place, window: usize) -> bool {
        let key = (Reverse(place.priority), place.job);
        let set = self.ready.get(&place.need);
        self.parked.first_of(place.need).is_some_and(|first| first < key)
            || set.is_some_and(|set| set.len() >= window && set.last().is_some_and(|last| *last < key))
    }

    /// Whether so few jobs of a need are at hand before its first parked one that the next have to be read.
    pub fn is_low(&self, need: u32, low: usize) -> bool {
        let Some(parked) = self.parked.first_of(need) else { return false };
        match self.ready.get(&need) {
            Some(set) if set.len() > low => {
                set.last().is_some_and(|last| parked < *last)
                    && set.range(..parked).take(low + 1).count() <= low
            }
            _ => true,
        }
    }

    /// The jobs at hand of needs that have more than twice `window`, the last first; as many as are beyond it. Where there
    /// are many that cannot be parked they are not looked at again before there are twice as many.
    pub fn beyond(&mut self, window: usize) -> Vec<Place> {
        let mut found = Vec::new();
        for (need, set) in &self.ready {
            let most = self.crowds.get(need).copied().unwrap_or(2 * window);
            if set.len() > most {
                self.crowds.insert(*need, 2 * set.len());
                let last = set.iter().rev().take(set.len() - window);
                found.extend(last.map(|(Reverse(priority), job)| Place {
                    priority: *priority,
                    job: *job,
                    need: *need,
                }));
            } else if most > 2 * window && set.len() <= window {
                self.crowds.remove(need);
            }
        }
        found
    }

    /// A job is parked here no longer: its place, whose it is and when it was submitted, to about a second.
    pub fn take_parked(&mut self, job: JobId) -> Option<(Place, (Owner, i64))> {
        if let Some((place, _)) = self.parked.find(job) {
            return Some((place, self.parked.take(place)?));
        }
        let (place, _) = self.away.distant.find(job)?;
        Some((place, self.away.distant.take(place)?))
    }

    /// Every parked job, wherever it stands, and whose it is.
    pub fn all_parked(&self) -> impl Iterator<Item = (Place, Owner)> {
        self.parked.iter().chain(self.away.distant.iter())
    }

    /// When the oldest parked job was submitted, to about a second.
    pub fn oldest_parked(&self) -> Option<i64> {
        self.parked.oldest().into_iter().chain(self.away.distant.oldest()).min()
    }

    /// Jobs with that need that wait, at hand first; at most so many.
    pub fn waiting(&self, need: u32, max: usize) -> Vec<JobId> {
        let at_hand = self.ready.get(&need).into_iter().flatten().map(|(_, job)| *job);
        let mut jobs: Vec<JobId> = at_hand.take(max).collect();
        if jobs.len() < max && !self.away.is_empty() {
            let away = self.away.places().into_iter().filter(|place| place.need == need);
            jobs.extend(away.map(|place| place.job).take(max - jobs.len()));
        }
        jobs
    }

    /// How many jobs are at hand.
    pub fn at_hand(&self) -> u64 {
        self.ready.values().map(|set| set.len() as u64).sum()
    }

    /// Every job at hand.
    pub fn places(&self) -> Vec<Place> {
        let of = |need: u32, set: &BTreeSet<(Reverse<i32>, JobId)>| {
            set.iter()
                .map(|(Reverse(priority), job)| Place { priority: *priority, job: *job, need })
                .collect::<Vec<_>>()
        };
        self.ready.iter().flat_map(|(need, set)| of(*need, set)).collect()
    }

    /// The jobs that would come next.
    pub fn peek(&self, max: usize) -> Vec<JobId> {
        let mut all: Vec<_> = self.ready.values().flat_map(|set| set.iter().take(max).copied()).collect();
        if all.len() < max {
            all.extend(self.away.places().into_iter().map(|p| (Reverse(p.priority), p.job)));
        }
        all.extend(self.parked.next(max));
        all.extend(self.away.distant.next(max));
        all.sort_unstable();
        all.into_iter().take(max).map(|(_, job)| job).collect()
    }

    /// The oldest job that waits for a slot: of each need the first few are looked at.
    pub fn oldest(&self) -> Option<JobId> {
        let at_hand = self.ready.values().flat_map(|set| set.iter().take(1000).map(|(_, job)| *job)).min();
        at_hand.into_iter().chain(self.away.oldest()).min()
    }

    /// Whether its messages have rows in the store.
    pub fn has_rows(&self) -> bool {
        self.row.backend != crate::row::Backend::Memory
    }

    /// Whether a message that is to go to a broker still is: else it is at hand.
    pub fn is_parked(&self) -> bool {
        self.row.backend.broker().is_some() || self.is_moving()
    }

    /// Whether what is published now waits until an old broker is empty.
    pub fn is_moving(&self) -> bool {
        self.row.moving_from.is_some()
    }

    /// Whether it hands anything out now.
    pub fn may_hand_out(&self) -> bool {
        !self.row.paused && (self.row.limit == 0 || self.out < u64::from(self.row.limit))
    }

    /// Use per weight: the smaller, the sooner.
    pub fn share(&self) -> f64 {
        self.used_milli as f64 / f64::from(self.row.weight.max(1))
    }

    /// How many things wait.
    pub fn len(&self) -> u64 {
        if self.row.kind == QueueKind::Messages {
            self.messages.waiting() + self.depth
        } else {
            self.counts.queued
        }
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Counts `n` new ones.
    pub fn count_new(&mut self, substate: Option<Substate>, state: State, n: u64) {
        *self.counts.get_mut(state) += n;
        if let (State::Queued, Some(s)) = (state, substate) {
            self.waiting[s as usize] += n;
        }
    }

    /// Counts `n` QUEUED ones that went to another queue.
    pub fn count_gone(&mut self, substate: Option<Substate>, n: u64) {
        self.counts.queued -= n;
        if let Some(s) = substate {
            self.waiting[s as usize] -= n;
        }
    }

    /// Counts `n` that moved.
    pub fn count_move(&mut self, from: (State, Option<Substate>), to: (State, Option<Substate>), n: u64) {
        self.counts.shift(from.0, to.0, n);
        if let (State::Queued, Some(s)) = from {
            self.waiting[s as usize] -= n;
        }
        if let (State::Queued, Some(s)) = to {
            self.waiting[s as usize] += n;
        }
    }

    /// QUEUED in that substate.
    pub const fn waiting_in(&self, substate: Substate) -> u64 {
        self.waiting[substate as usize]
    }
}

/// Buckets of ten seconds; the last ten minutes.
const BUCKETS: usize = 60;
const BUCKET_MS: u64 = 10_000;
/// Waits that percentiles are taken from.
const WAITS: usize = 1024;

/// What a queue did lately. Counters only; nothing decides by them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rates {
    buckets: VecDeque<[u32; 3]>,
    at: u64,
    waits: VecDeque<u32>,
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rate {
    /// An attempt started.
    Started = 0,
    /// A job or task ended.
    Ended = 1,
    /// It failed.
    Failed = 2,
}

impl Rates {
    /// Counts one.
    pub fn hit(&mut self, mono: u64, what: Rate) {
        self.advance(mono);
        if let Some(bucket) = self.buckets.back_mut() {
            bucket[what as usize] += 1;
        }
    }

    /// Learns how long one waited.
    pub fn waited(&mut self, ms: u64) {
        if self.waits.len() == WAITS {
            self.waits.pop_front();
        }
        self.waits.push_back(u32::try_from(ms).unwrap_or(u32::MAX));
    }

    /// Moves the window to now.
    pub fn advance(&mut self, mono: u64) {
        let now = mono / BUCKET_MS;
        let steps =
            if self.buckets.is_empty() { 1 } else { (now.saturating_sub(self.at)).min(BUCKETS as u64) };
        for _ in 0..steps {
            if self.buckets.len() == BUCKETS {
                self.buckets.pop_front();
            }
            self.buckets.push_back([0; 3]);
        }
        self.at = now.max(self.at);
    }

    /// Per second over the last minute or what there is of it.
    pub fn per_second(&self, mono: u64, what: Rate) -> f64 {
        let fresh = self.at + 6 > mono / BUCKET_MS;
        let sum: u32 = self.buckets.iter().rev().take(6).map(|b| b[what as usize]).sum();
        let seconds = (mono % BUCKET_MS) as f64 / 1000.0 + 10.0 * (self.buckets.len().clamp(1, 6) - 1) as f64;
        if fresh { f64::from(sum) / seconds.max(1.0) } else { 0.0 }
    }

    /// Ended per bucket, oldest first.
    pub fn history(&self) -> Vec<u32> {
        self.buckets.iter().map(|b| b[Rate::Ended as usize]).collect()
    }

    /// A percentile of the waits, in seconds.
    pub fn wait_s(&self, percentile: f64) -> Option<f64> {
        let mut waits: Vec<u32> = self.waits.iter().copied().collect();
        waits.sort_unstable();
        let at = ((waits.len() as f64 * percentile) as usize).min(waits.len().checked_sub(1)?);
        Some(f64::from(waits[at]) / 1000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn higher_priority_first_then_older() {
        let mut q = Queue::new(QueueRow {
            limit: 2,
            ..QueueRow::new("q".into(), QueueKind::Jobs, crate::row::Backend::Local, (0, &"a".into()), 0)
        });
        for (priority, job, need) in [(0, 5, 1), (0, 3, 2), (7, 9, 1)] {
            q.offer(Place { priority, job, need });
        }
        let mut order = Vec::new();
        while let Some(place) = q.first(&HashSet::new()) {
            order.push(place.job);
            q.withdraw(place);
        }
        assert_eq!(order, [9, 3, 5]);
        assert!(q.may_hand_out());
        q.out = 2;
        assert!(!q.may_hand_out());
    }

    #[test]
    fn rates_forget_what_is_old() {
        let mut rates = Rates::default();
        for at in 0..60 {
            rates.hit(at * 1000, Rate::Ended);
        }
        assert!((rates.per_second(60_000, Rate::Ended) - 1.0).abs() < 0.3);
        assert!(rates.per_second(500_000, Rate::Ended).abs() < f64::EPSILON);
        rates.advance(10_000_000);
        assert_eq!(rates.history().iter().sum::<u32>(), 0);
        for ms in 1..=100 {
            rates.waited(ms * 1000);
        }
        assert_eq!(rates.wait_s(0.5), Some(51.0));
        assert_eq!(Rates::default().wait_s(0.5), None);
    }
}
