//! What stands between a queue and its broker: which waiting jobs have a hint there, how the broker is, and the words that
//! are exchanged with whoever speaks to it. The store stays the truth; a hint that is lost, doubled, late or out of order
//! changes when a job is looked at, never whether.
use super::distant::Distant;
use super::parked::Parked;
use super::queue::Place;
use crate::input::Ticket;
use crate::row::{MessageRow, QueueKind};
use reeve_protocol::JobId;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

/// Waiting jobs whose hint is at the broker are taken from the store after so long, if a slot that fits is free.
pub const HINT_MS: u64 = 5_000;
/// The same while the broker says nothing at all.
pub const SILENT_MS: u64 = 300;
/// A delivery that passes a hint by more than this means that the hint is lost.
pub const PREFETCH: u64 = 256;
/// Jobs in hand: beyond it nothing is read from the broker, unless a machine is free for none of them.
pub const WINDOW: u64 = 1_024;
/// Hints given to the broker in one step.
pub const HINTS_A_STEP: usize = 2_000;
/// Messages on their way to a broker at once, of one queue: the next portion is there when one is confirmed.
pub const OUTGOING: usize = 4_000;
/// Messages of one portion.
pub const PORTION: usize = 1_000;

/// The bands of priority on a broker, the first handed out first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Band {
    /// Above zero.
    High,
    /// Zero.
    Normal,
    /// Below zero.
    Low,
}

impl Band {
    /// All, in the order they are handed out.
    pub const ALL: [Self; 3] = [Self::High, Self::Normal, Self::Low];

    /// Of a priority.
    pub const fn of(priority: i32) -> Self {
        match priority {
            1.. => Self::High,
            0 => Self::Normal,
            _ => Self::Low,
        }
    }
}

/// What stands at a broker for a waiting job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hint {
    /// The store's lineage: hints of another store mean nothing.
    pub lineage: Arc<str>,
    /// The job.
    pub job: JobId,
    /// Which offer of the job: a later one voids it.
    pub generation: u64,
    /// The order in which hints were given to the broker.
    pub seq: u64,
    /// Where it stands.
    pub band: Band,
}

/// Begins the name of the queue in which answers to jobs wait for a broker (its name follows): nobody can make one of that
/// name, and none is kept at the broker.
pub const REPLIES: &str = ".replies:";
/// The header of such an answer that says where it goes there.
pub const PLACE: &str = "reeve-to";

/// A message from a broker.
#[derive(Clone, Debug, PartialEq)]
pub struct Incoming {
    /// What the broker calls this delivery.
    pub tag: Tag,
    /// What the broker calls it each time it comes, if it does.
    pub unique: Option<Arc<str>>,
    /// The coordinator's own number, if it gave it to the broker.
    pub id: Option<u64>,
    /// 0 JSON, 1 text, 2 bytes.
    pub kind: u8,
    /// The body.
    pub body: Arc<[u8]>,
    /// JSON object.
    pub headers: Arc<str>,
    /// Higher first.
    pub priority: i32,
    /// Wall milliseconds.
    pub expires_at: Option<i64>,
    /// Why it makes no sense, if it does not: it is kept among the dead.
    pub unusable: Option<String>,
    /// Where its publisher wants answers, at that broker, and what they are to carry.
    pub reply: Option<Box<(String, Option<String>)>>,
}

/// A delivery by the broker's own name for it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tag {
    /// Where it came from.
    pub band: Band,
    /// For example the id of an entry in a stream.
    pub name: Arc<str>,
}

/// A message that is to be published.
#[derive(Clone, Debug, PartialEq)]
pub enum Forwarded {
    /// Its row is on disk.
    Row(u64),
    /// It has none.
    Whole(Arc<MessageRow>),
}

/// What the core wants of a broker.
#[derive(Clone, Debug, PartialEq)]
pub enum Order {
    /// This queue is kept there from now on.
    Use(Arc<str>, QueueKind),
    /// It is not any more.
    Leave(Arc<str>),
    /// Publish these.
    Hints(Arc<str>, Vec<Hint>),
    /// Publish these messages.
    Forward(Arc<str>, Vec<Forwarded>),
    /// These deliveries are in the store.
    Taken(Arc<str>, Vec<Tag>),
    /// So many may come, until another number is said.
    Room(Arc<str>, u64),
    /// How many messages lie there? Answered in order with what was published before.
    Depth(Arc<str>, Ticket),
}

/// What is heard from a broker.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    /// It can be used. Its version, what it can and cannot do, and what to be careful about.
    Up {
        /// For people.
        version: String,
        /// Words of the capability list.
        capabilities: BTreeMap<String, String>,
        /// It confirms messages about as fast as the store does.
        confirms_fast: bool,
    },
    /// It cannot be used, and why.
    Down(String),
    /// So many answers had no place to go to there, and why the last had none.
    Unroutable(u64, String),
    /// It answers: a canary came back.
    Heard,
    /// Hints came.
    Hints(Arc<str>, Vec<Hint>),
    /// What was kept there for this queue is gone.
    Lost(Arc<str>),
    /// These messages lie there now.
    Confirmed(Arc<str>, Vec<u64>),
    /// Messages came.
    Messages(Arc<str>, Vec<Incoming>),
    /// The answer to [`Order::Depth`], or how much lies there now.
    Depth {
        /// Which queue.
        queue: Arc<str>,
        /// Messages that nobody has taken.
        depth: u64,
        /// Messages that were read and are not in the store yet.
        coming: u64,
        /// Who asked.
        ticket: Option<Ticket>,
    },
    /// This queue alone cannot be used there, or can again.
    Trouble(Arc<str>, Option<String>),
}

/// A broker as the core sees it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Link {
    /// It can be used.
    pub up: bool,
    /// Why not; for people.
    pub reason: Option<String>,
    /// Since when it is as it is, wall milliseconds; `None` before the first word.
    pub since: Option<i64>,
    /// As it says.
    pub version: String,
    /// What it can do.
    pub capabilities: BTreeMap<String, String>,
    /// Messages may go to it without a row.
    pub confirms_fast: bool,
    /// When it was last heard, boot-time milliseconds.
    pub heard: u64,
    /// Nothing came although something should have: hints are not relied on until it is heard again.
    pub silent: bool,
}

impl Link {
    /// Whether hints given to it can be expected to come back.
    pub const fn is_trusted(&self) -> bool {
        self.up && !self.silent
    }
}

/// A waiting job with a hint at the broker.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Entry {
    place: Place,
    generation: u64,
    seq: u64,
    /// Boot-time milliseconds; `None`: not given to the broker yet.
    since: Option<u64>,
}

/// The waiting jobs of one queue that have, or are to get, a hint at the broker.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Away {
    jobs: HashMap<JobId, Entry>,
    /// Given to the broker, by band in order.
    order: BTreeMap<(Band, u64), JobId>,
    /// The same by need, so that what fits nowhere hides nothing.
    needs: BTreeMap<u32, BTreeSet<(Band, u64)>>,
    /// To be given to the broker.
    fresh: BTreeSet<JobId>,
    /// Those that are parked.
    pub distant: Distant,
    generation: u64,
    seq: u64,
}

impl Away {
    /// From this number on generations and orders are new: none of an earlier life of the coordinator is met again.
    pub fn new(epoch: u64) -> Self {
        let first = epoch << 32;
        let distant = Distant::new(first);
        Self { generation: first, seq: first, distant, ..Self::default() }
    }

    /// A job waits; again is harmless.
    pub fn offer(&mut self, place: Place) {
        if self.jobs.get(&place.job).is_some_and(|e| e.place == place) {
            return;
        }
        self.withdraw(place.job);
        self.generation += 1;
        self.jobs.insert(place.job, Entry { place, generation: self.generation, seq: 0, since: None });
        self.fresh.insert(place.job);
    }

    /// It waits no longer, or not here.
    pub fn withdraw(&mut self, job: JobId) -> Option<Place> {
        let entry = self.jobs.remove(&job)?;
        self.fresh.remove(&job);
        self.unlist(&entry);
        Some(entry.place)
    }

    fn unlist(&mut self, entry: &Entry) {
        if entry.since.is_none() {
            return;
        }
        let key = (Band::of(entry.place.priority), entry.seq);
        self.order.remove(&key);
        if let Some(set) = self.needs.get_mut(&entry.place.need) {
            set.remove(&key);
            if set.is_empty() {
                self.needs.remove(&entry.place.need);
            }
        }
    }

    /// Whether the job stands here.
    pub fn has(&self, place: Place) -> bool {
        self.jobs.get(&place.job).is_some_and(|e| e.place == place)
    }

    /// How many stand here.
    pub fn len(&self) -> u64 {
        self.jobs.len() as u64 + self.distant.len()
    }

    /// How many of them are in memory.
    pub fn whole(&self) -> usize {
        self.jobs.len()
    }

    /// Whether none does.
    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty() && self.distant.is_empty()
    }

    /// Whether something is to be given to the broker.
    pub fn has_fresh(&self) -> bool {
        !self.fresh.is_empty() || self.distant.has_fresh()
    }

    /// Takes the parked jobs of the queue: all that are parked are to be given to the broker, which may be another now.
    pub fn take_parked(&mut self, parked: &mut Parked) {
        self.generation += 1;
        self.distant.restart(std::mem::take(parked), self.generation);
    }

    /// Every place of a job in memory, in the order of jobs.
    pub fn places(&self) -> Vec<Place> {
        let mut all: Vec<Place> = self.jobs.values().map(|e| e.place).collect();
        all.sort_unstable_by_key(|p| p.job);
        all
    }

    /// The smallest number among them: the oldest job. The first thousand of each band are looked at.
    pub fn oldest(&self) -> Option<JobId> {
        let listed = self.order.values().take(1_000).copied().min();
        listed.into_iter().chain(self.fresh.first().copied()).min()
    }

    /// The next few to be given to the broker.
    pub fn publish(&mut self, mono: u64, lineage: &Arc<str>, max: usize) -> Vec<Hint> {
        let whole = self.fresh.iter().take(max).map(|job| (*job, None));
        let distant = self.distant.to_give(max).into_iter().map(|place| (place.job, Some(place)));
        let mut jobs: Vec<(JobId, Option<Place>)> = whole.chain(distant).collect();
        jobs.sort_unstable_by_key(|(job, _)| *job);
        jobs.truncate(max);
        let mut hints = Vec::with_capacity(jobs.len());
        for (job, distant) in jobs {
            self.seq += 1;
            let seq = self.seq;
            if let Some(place) = distant {
                self.distant.give(place, seq, mono);
                let (generation, band) = (self.distant.generation, Band::of(place.priority));
                hints.push(Hint { lineage: lineage.clone(), job, generation, seq, band });
                continue;
            }
            self.fresh.remove(&job);
            let Some(entry) = self.jobs.get_mut(&job) else { continue };
            (entry.seq, entry.since) = (seq, Some(mono));
            let (generation, place) = (entry.generation, entry.place);
            let band = Band::of(place.priority);
            self.order.insert((band, seq), job);
            self.needs.entry(place.need).or_default().insert((band, seq));
            hints.push(Hint { lineage: lineage.clone(), job, generation, seq, band });
        }
        hints
    }

    /// Everything is to be given to the broker anew: what lay there is gone.
    pub fn again(&mut self) {
        self.distant.again();
        self.order.clear();
        self.needs.clear();
        for (job, entry) in &mut self.jobs {
            entry.since = None;
            self.fresh.insert(*job);
        }
    }

    /// A hint has come: the place it stands for, and those that it passed by so far that they must be lost. Of parked jobs
    /// the places are `parked`, to be read; the second is how many.
    pub fn arrived(&mut self, hint: &Hint, parked: &mut Parked) -> (Vec<Place>, usize) {
        let mut out = Vec::new();
        let distant =
            hint.generation == self.distant.generation && self.distant.arrived(hint.job, hint.band, parked);
        if self.jobs.get(&hint.job).is_some_and(|e| e.generation == hint.generation && e.since.is_some()) {
            out.extend(self.withdraw(hint.job));
        }
        let passed = hint.seq.saturating_sub(PREFETCH);
        let lost: Vec<JobId> =
            self.order.range((hint.band, 0)..(hint.band, passed)).map(|(_, job)| *job).collect();
        out.extend(lost.into_iter().filter_map(|job| self.withdraw(job)));
        (out, usize::from(distant) + self.distant.lose(hint.band, passed, parked))
    }

    /// Takes up to `max` that were given to the broker before `cutoff`, of needs that are not blocked.
    pub fn absorb(&mut self, cutoff: u64, blocked: &HashSet<u32>, max: usize) -> Vec<Place> {
        let mut jobs = Vec::new();
        for (need, set) in &self.needs {
            if blocked.contains(need) {
                continue;
            }
            for key in set {
                let Some(job) = self.order.get(key) else { continue };
                if jobs.len() >= max {
                    break;
                }
                if self.jobs.get(job).is_some_and(|e| e.since.is_some_and(|at| at <= cutoff)) {
                    jobs.push(*job);
                } else {
                    break;
                }
            }
        }
        jobs.into_iter().filter_map(|job| self.withdraw(job)).collect()
    }

    /// Takes up to `max` that were not given to the broker yet, of needs that are not blocked.
    pub fn drain_fresh(&mut self, blocked: &HashSet<u32>, max: usize) -> Vec<Place> {
        let fits = |job: &&JobId| self.jobs.get(job).is_some_and(|e| !blocked.contains(&e.place.need));
        let jobs: Vec<JobId> = self.fresh.iter().filter(fits).take(max).copied().collect();
        jobs.into_iter().filter_map(|job| self.withdraw(job)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(job: JobId) -> Place {
        Place { priority: 0, job, need: (job % 2) as u32 }
    }

    fn arrived(away: &mut Away, hint: &Hint) -> Vec<Place> {
        away.arrived(hint, &mut Parked::default()).0
    }

    fn filled(n: u64) -> (Away, Vec<Hint>) {
        let mut away = Away::new(1);
        for job in 1..=n {
            away.offer(place(job));
        }
        let hints = away.publish(10, &"l".into(), 10_000);
        assert_eq!(hints.len() as u64, n);
        (away, hints)
    }

    #[test]
    fn a_hint_counts_once_and_a_later_offer_voids_it() {
        let (mut away, hints) = filled(3);
        assert_eq!(arrived(&mut away, &hints[1]), [place(2)]);
        assert_eq!(arrived(&mut away, &hints[1]), [], "a duplicate means nothing");
        away.withdraw(1);
        away.offer(place(1));
        away.publish(11, &"l".into(), 10);
        assert_eq!(arrived(&mut away, &hints[0]), [], "the job was offered again since");
        assert_eq!(away.len(), 2);
    }

    #[test]
    fn a_hint_that_is_passed_by_more_than_the_prefetch_is_lost() {
        let (mut away, hints) = filled(PREFETCH + 2);
        assert_eq!(arrived(&mut away, &hints[PREFETCH as usize]), [place(PREFETCH + 1)]);
        let found = arrived(&mut away, &hints[PREFETCH as usize + 1]);
        assert_eq!(found, [place(PREFETCH + 2), place(1)]);
    }

    #[test]
    fn old_ones_are_absorbed_in_order_unless_their_need_fits_nowhere() {
        let (mut away, _) = filled(6);
        assert_eq!(away.absorb(9, &HashSet::new(), 10), [], "none is that old");
        assert_eq!(away.absorb(10, &[0].into(), 2), [place(1), place(3)]);
        assert_eq!(away.absorb(10, &HashSet::new(), 10), [place(2), place(4), place(6), place(5)]);
        assert!(away.is_empty());
    }

    #[test]
    fn after_a_flush_everything_is_given_again_and_old_orders_are_void() {
        let (mut away, hints) = filled(2);
        away.again();
        let anew = away.publish(20, &"l".into(), 1);
        assert_eq!((anew[0].job, anew[0].generation, away.has_fresh()), (1, hints[0].generation, true));
        assert!(anew[0].seq > hints[1].seq);
        assert_eq!(arrived(&mut away, &anew[0]), [place(1)]);
        assert_eq!(away.places(), [place(2)]);
    }

    #[test]
    fn bands_are_three() {
        assert_eq!([5, 0, -1].map(Band::of), Band::ALL);
    }
}
