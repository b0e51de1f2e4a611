//! Hints of parked jobs at a broker. Nothing is kept for each: all have one generation, and since they are given to the
//! broker in the order of their numbers, a number says about when it was given.
use super::link::Band;
use super::parked::{Owner, Parked};
use super::queue::Place;
use reeve_protocol::JobId;
use std::collections::HashSet;

/// Between two marks: hints, and milliseconds.
const MARK_HINTS: u64 = 256;
const MARK_MS: u64 = 1_000;
/// Marks of a band. When there are more, every other one goes.
const MARKS: usize = 8_192;

/// Jobs with smaller numbers were given before this hint, and before this time.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Mark {
    job: JobId,
    seq: u64,
    /// Boot-time milliseconds.
    at: u64,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Order {
    marks: Vec<Mark>,
    /// When the last was given, boot-time milliseconds.
    last: u64,
}

/// Parked jobs of one queue that have, or are to get, a hint at its broker.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Distant {
    fresh: Parked,
    given: Parked,
    /// Of all their hints.
    pub generation: u64,
    order: [Order; Band::ALL.len()],
}

impl Distant {
    /// None, whose hints will have that generation.
    pub fn new(generation: u64) -> Self {
        Self { generation, ..Self::default() }
    }

    /// Takes in a job that is newer than all of them.
    pub fn insert(&mut self, place: Place, owner: &Owner, created_at: i64) {
        self.fresh.insert(place, owner, created_at);
    }

    /// Takes in many; all are to be given to the broker, under a new generation.
    pub fn restart(&mut self, others: Parked, generation: u64) {
        self.fresh.append(others);
        self.again();
        self.generation = generation;
    }

    /// What lay at the broker is gone: all are to be given anew.
    pub fn again(&mut self) {
        self.fresh.append(std::mem::take(&mut self.given));
        self.order = <[Order; Band::ALL.len()]>::default();
    }

    /// It stands here no longer. False: it did not.
    pub fn remove(&mut self, place: Place) -> bool {
        self.fresh.remove(place) || self.given.remove(place)
    }

    /// As [`Distant::remove`], with whose it is and when it was submitted.
    pub fn take(&mut self, place: Place) -> Option<(Owner, i64)> {
        self.given.take(place).or_else(|| self.fresh.take(place))
    }

    /// Where a job stands, and whose it is.
    pub fn find(&self, job: JobId) -> Option<(Place, Owner)> {
        self.given.find(job).or_else(|| self.fresh.find(job))
    }

    /// Every one of them, and whose it is.
    pub fn iter(&self) -> impl Iterator<Item = (Place, Owner)> {
        self.fresh.iter().chain(self.given.iter())
    }

    /// The next few, in the queue's order.
    pub fn next(&self, max: usize) -> Vec<(std::cmp::Reverse<i32>, JobId)> {
        let mut all = self.fresh.next(max);
        all.extend(self.given.next(max));
        all
    }

    /// When the oldest was submitted, to about a second.
    pub fn oldest(&self) -> Option<i64> {
        self.fresh.oldest().into_iter().chain(self.given.oldest()).min()
    }

    /// How many.
    pub const fn len(&self) -> u64 {
        self.fresh.len() + self.given.len()
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether some are to be given to the broker.
    pub const fn has_fresh(&self) -> bool {
        !self.fresh.is_empty()
    }

    /// The next few to be given to the broker, by number.
    pub fn to_give(&self, max: usize) -> Vec<Place> {
        if self.fresh.is_empty() { Vec::new() } else { self.fresh.oldest_of_all(max) }
    }

    /// One of them is given to the broker.
    pub fn give(&mut self, place: Place, seq: u64, mono: u64) {
        let Some((owner, at)) = self.fresh.take(place) else { return };
        self.given.insert(place, &owner, at);
        let order = &mut self.order[Band::of(place.priority) as usize];
        let due = |last: &Mark| seq - last.seq >= MARK_HINTS || mono.saturating_sub(last.at) >= MARK_MS;
        if order.marks.last().is_none_or(due) {
            order.marks.push(Mark { job: place.job, seq, at: mono });
        }
        order.last = mono;
        if order.marks.len() > MARKS {
            let mut odd = false;
            order.marks.retain(|_| {
                odd = !odd;
                odd
            });
        }
    }

    /// A hint of one of them has come: it stands here no longer, but is `parked` to be read. False: it means nothing.
    pub fn arrived(&mut self, job: JobId, band: Band, parked: &mut Parked) -> bool {
        match self.given.find(job).filter(|(place, _)| Band::of(place.priority) == band) {
            Some((place, _)) => self.hand_over(place, parked),
            None => false,
        }
    }

    fn hand_over(&mut self, place: Place, parked: &mut Parked) -> bool {
        let Some((owner, at)) = self.take(place) else { return false };
        parked.insert(place, &owner, at);
        true
    }

    /// Those of a band that were given so long before the hint `seq` that theirs are lost are `parked` to be read.
    pub fn lose(&mut self, band: Band, seq: u64, parked: &mut Parked) -> usize {
        let marks = &mut self.order[band as usize].marks;
        let passed = marks.partition_point(|mark| mark.seq <= seq);
        let Some(bound) = passed.checked_sub(1).map(|at| marks[at].job) else { return 0 };
        // What is below is gone from here, so these marks say nothing any more.
        marks.drain(..passed - 1);
        let lost = self.given.below(bound, |priority| Band::of(priority) == band);
        lost.into_iter().filter(|place| self.hand_over(*place, parked)).count()
    }

    /// Up to `max` that were given to the broker before `cutoff`, of needs that are not blocked and of which less than
    /// `window` are parked, are `parked` to be read; with `all` those that were not given, too.
    pub fn absorb(
        &mut self,
        cutoff: u64,
        blocked: &HashSet<u32>,
        (max, window): (usize, u64),
        all: bool,
        parked: &mut Parked,
    ) -> usize {
        let bounds = [0, 1, 2].map(|at| self.given_before(at, cutoff));
        let mut found: Vec<Place> = Vec::new();
        let sets: &[&Parked] = if all { &[&self.given, &self.fresh] } else { &[&self.given] };
        for (at, set) in sets.iter().enumerate() {
            let needs = set.needs().filter(|need| !blocked.contains(need) && parked.len_of(*need) < window);
            for need in needs {
                let next = set.next_places(need, max.saturating_sub(found.len()));
                found.extend(
                    next.into_iter()
                        .filter(|place| at == 1 || place.job < bounds[Band::of(place.priority) as usize]),
                );
            }
        }
        found.into_iter().filter(|place| self.hand_over(*place, parked)).count()
    }

    /// All with smaller numbers were given before that time.
    fn given_before(&self, band: usize, cutoff: u64) -> JobId {
        let order = &self.order[band];
        if order.last <= cutoff {
            return JobId::MAX;
        }
        let before = order.marks.partition_point(|mark| mark.at <= cutoff);
        before.checked_sub(1).map_or(0, |at| order.marks[at].job)
    }

    /// Takes everything.
    pub fn drain(&mut self) -> Parked {
        self.again();
        std::mem::take(&mut self.fresh)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(priority: i32, job: JobId) -> Place {
        Place { priority, job, need: (job % 2) as u32 }
    }

    /// Jobs 1 to n, given at the time of their number; every third has a high priority.
    fn filled(n: u64) -> Distant {
        let mut distant = Distant::default();
        for job in 1..=n {
            distant.insert(place(i32::from(job % 3 == 0), job), &Owner { uid: 1, name: "a".into() }, 7);
        }
        for next in distant.to_give(n as usize) {
            distant.give(next, 100 + next.job, next.job);
        }
        assert!(!distant.has_fresh());
        distant
    }

    fn ids(parked: &Parked) -> Vec<JobId> {
        let mut ids: Vec<JobId> = parked.iter().map(|(place, _)| place.job).collect();
        ids.sort_unstable();
        ids
    }

    #[test]
    fn a_hint_counts_once() {
        let (mut distant, mut parked) = (filled(10), Parked::default());
        assert!(distant.arrived(4, Band::Normal, &mut parked));
        assert!(!distant.arrived(4, Band::Normal, &mut parked), "a duplicate means nothing");
        assert!(!distant.arrived(6, Band::Normal, &mut parked), "it stands in another band");
        assert_eq!((ids(&parked), distant.len()), (vec![4], 9));
    }

    #[test]
    fn hints_that_were_passed_by_far_are_lost_and_no_others() {
        let (mut distant, mut parked) = (filled(2_000), Parked::default());
        assert_eq!(distant.lose(Band::Normal, 90, &mut parked), 0);
        distant.lose(Band::Normal, 1_100, &mut parked);
        let lost = ids(&parked);
        assert!(lost.iter().all(|job| job % 3 != 0 && *job < 1_000), "job 1,000 had hint 1,100");
        assert!(
            lost.contains(&1) && lost.last() > Some(&700),
            "marks are 256 hints apart: {:?}",
            lost.last()
        );
        assert_eq!(lost.len() as u64 + distant.len(), 2_000);
        assert_eq!(distant.lose(Band::Normal, 1_100, &mut parked), 0);
    }

    #[test]
    fn old_ones_are_absorbed_unless_their_need_fits_nowhere() {
        let (mut distant, mut parked) = (filled(2_000), Parked::default());
        let none = HashSet::new();
        assert_eq!(distant.absorb(0, &none, (10, 100), false, &mut parked), 0, "none is that old");
        assert_eq!(distant.absorb(1_500, &[0].into(), (10, 100), false, &mut parked), 10);
        assert!(ids(&parked).iter().all(|job| job % 2 == 1 && *job <= 1_500));
        assert_eq!(distant.absorb(9_999, &none, (50, 10), false, &mut parked), 50);
        assert!(
            ids(&parked).iter().filter(|job| *job % 2 == 1).count() == 10,
            "enough of that need is parked"
        );
    }

    #[test]
    fn after_a_flush_all_are_given_again_and_on_a_move_all_go_along() {
        let (mut distant, mut parked) = (filled(5), Parked::default());
        distant.again();
        assert!(!distant.arrived(1, Band::Normal, &mut parked), "not given again yet");
        assert_eq!(distant.to_give(9).len(), 5);
        distant.insert(place(0, 6), &Owner { uid: 2, name: "b".into() }, 8);
        assert_eq!(ids(&distant.drain()), [1, 2, 3, 4, 5, 6]);
        assert_eq!(distant.len(), 0);
    }
}
