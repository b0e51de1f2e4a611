//! Parked jobs: waiting jobs of one queue of which memory keeps no more than the number. The store's row is the whole job,
//! and stays exact, since whatever touches a parked job brings it into memory first. A million of them cost two bytes each
//! at most: numbers in compressed sets, one per need, priority and owner.
use super::queue::Place;
use reeve_protocol::JobId;
use roaring::RoaringTreemap;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

/// Marks of when jobs were submitted, of one queue. When there are more, every other one goes.
const MARKS: usize = 4_096;
/// Between two marks, milliseconds.
const MARK_MS: i64 = 1_000;

/// Whose job it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Peer uid.
    pub uid: u32,
    /// Its name.
    pub name: Arc<str>,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Group {
    /// The owner's name, as it was last said.
    name: Option<Arc<str>>,
    ids: RoaringTreemap,
}

/// By priority, the highest first, and by owner.
type Groups = BTreeMap<(Reverse<i32>, u32), Group>;

/// The parked jobs of a queue.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parked {
    needs: BTreeMap<u32, Groups>,
    len: u64,
    /// Needs whose next jobs are being read.
    pub loading: BTreeSet<u32>,
    /// When jobs were submitted, wall milliseconds: each mark holds for its job and those behind it.
    marks: Vec<(JobId, i64)>,
}

impl Parked {
    /// Parks a job; again is harmless.
    pub fn insert(&mut self, place: Place, owner: &Owner, created_at: i64) {
        let groups = self.needs.entry(place.need).or_default();
        let group = groups.entry((Reverse(place.priority), owner.uid)).or_default();
        if group.name.as_ref() != Some(&owner.name) {
            group.name = Some(owner.name.clone());
        }
        self.len += u64::from(group.ids.insert(place.job));
        self.mark(place.job, created_at);
    }

    /// Parks many, with the times at which some of them were submitted, in the order of numbers.
    pub fn insert_all(
        &mut self,
        need: u32,
        priority: i32,
        owner: &Owner,
        ids: RoaringTreemap,
        times: &[(JobId, i64)],
    ) {
        if ids.is_empty() {
            return;
        }
        let group = self.needs.entry(need).or_default().entry((Reverse(priority), owner.uid)).or_default();
        group.name = Some(owner.name.clone());
        let before = group.ids.len();
        group.ids |= ids;
        self.len += group.ids.len() - before;
        self.marks.extend(times);
        self.marks.sort_unstable();
        // Time never goes back from one job to the next.
        self.marks.dedup_by(|later, earlier| later.1 - earlier.1 < MARK_MS);
    }

    fn mark(&mut self, job: JobId, at: i64) {
        if self.marks.last().is_none_or(|(last, then)| *last < job && at - then >= MARK_MS) {
            self.marks.push((job, at));
        }
        if self.marks.len() > MARKS {
            let mut odd = false;
            self.marks.retain(|_| {
                odd = !odd;
                odd
            });
        }
    }

    /// It is parked no longer. False: it was not.
    pub fn remove(&mut self, place: Place) -> bool {
        let Some(groups) = self.needs.get_mut(&place.need) else { return false };
        let range = (Reverse(place.priority), 0)..=(Reverse(place.priority), u32::MAX);
        let Some((key, group)) = groups.range_mut(range).find(|(_, group)| group.ids.contains(place.job))
        else {
            return false;
        };
        group.ids.remove(place.job);
        self.len -= 1;
        if group.ids.is_empty() {
            let key = *key;
            groups.remove(&key);
            if groups.is_empty() {
                self.needs.remove(&place.need);
            }
        }
        if self.len == 0 {
            self.marks = Vec::new();
        }
        true
    }

    /// As [`Parked::remove`], with whose it is and when it was submitted.
    pub fn take(&mut self, place: Place) -> Option<(Owner, i64)> {
        let groups = self.needs.get(&place.need)?;
        let range = (Reverse(place.priority), 0)..=(Reverse(place.priority), u32::MAX);
        let owner = owner(groups.range(range).find(|(_, group)| group.ids.contains(place.job))?);
        let at = self.time_of(place.job).unwrap_or_default();
        self.remove(place).then_some((owner, at))
    }

    /// Takes over all that is parked in another.
    pub fn append(&mut self, other: Self) {
        let marks = other.marks;
        for (need, groups) in other.needs {
            for ((priority, uid), group) in groups {
                let owner = Owner { uid, name: group.name.unwrap_or_else(|| "".into()) };
                self.insert_all(need, priority.0, &owner, group.ids, &marks);
            }
        }
    }

    /// How many of a need.
    pub fn len_of(&self, need: u32) -> u64 {
        self.needs.get(&need).map_or(0, |groups| groups.values().map(|group| group.ids.len()).sum())
    }

    /// The oldest few of all, whatever their priority.
    pub fn oldest_of_all(&self, max: usize) -> Vec<Place> {
        let mut found: Vec<Place> = Vec::new();
        for (need, groups) in &self.needs {
            for (key, group) in groups {
                found.extend(group.ids.iter().take(max).map(|job| place(*need, *key, job)));
            }
        }
        found.sort_unstable_by_key(|place| place.job);
        found.truncate(max);
        found
    }

    /// Those with smaller numbers than `bound` whose priority is meant.
    pub fn below(&self, bound: JobId, is_meant: impl Fn(i32) -> bool) -> Vec<Place> {
        let all = self.needs.iter().flat_map(|(need, groups)| groups.iter().map(move |g| (*need, g)));
        all.filter(|(_, (key, _))| is_meant(key.0.0))
            .flat_map(|(need, (key, group))| {
                group.ids.iter().take_while(|job| *job < bound).map(move |job| place(need, *key, job))
            })
            .collect()
    }

    /// Whether a job is parked at that place.
    pub fn has(&self, place: Place) -> bool {
        let Some(groups) = self.needs.get(&place.need) else { return false };
        let range = (Reverse(place.priority), 0)..=(Reverse(place.priority), u32::MAX);
        groups.range(range).any(|(_, group)| group.ids.contains(place.job))
    }

    /// Where a job is parked, and whose it is.
    pub fn find(&self, job: JobId) -> Option<(Place, Owner)> {
        if self.len == 0 {
            return None;
        }
        let all = self.needs.iter().flat_map(|(need, groups)| groups.iter().map(move |g| (*need, g)));
        all.filter(|(_, (_, group))| group.ids.contains(job))
            .map(|(need, g)| (place(need, *g.0, job), owner(g)))
            .next()
    }

    /// How many.
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Whether none is.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The needs of parked jobs.
    pub fn needs(&self) -> impl Iterator<Item = u32> {
        self.needs.keys().copied()
    }

    /// The first in the queue's order, of a need.
    pub fn first_of(&self, need: u32) -> Option<(Reverse<i32>, JobId)> {
        let groups = self.needs.get(&need)?;
        let (top, _) = *groups.first_key_value()?.0;
        let ids = groups.range((top, 0)..=(top, u32::MAX)).filter_map(|(_, group)| group.ids.min());
        ids.min().map(|job| (top, job))
    }

    /// The first in the queue's order, leaving out the given needs.
    pub fn first(&self, blocked: &HashSet<u32>) -> Option<(Reverse<i32>, JobId)> {
        self.needs.keys().filter(|need| !blocked.contains(need)).filter_map(|need| self.first_of(*need)).min()
    }

    /// The next few of a need, in order.
    pub fn next_of(&self, need: u32, max: usize) -> Vec<JobId> {
        self.needs
            .get(&need)
            .map_or_else(Vec::new, |groups| ordered(groups, max).into_iter().map(|(_, job)| job).collect())
    }

    /// As [`Parked::next_of`], with their places.
    pub fn next_places(&self, need: u32, max: usize) -> Vec<Place> {
        let next = self.needs.get(&need).map_or_else(Vec::new, |groups| ordered(groups, max));
        next.into_iter().map(|(Reverse(priority), job)| Place { priority, job, need }).collect()
    }

    /// The next few of all, in order.
    pub fn next(&self, max: usize) -> Vec<(Reverse<i32>, JobId)> {
        let mut all: Vec<_> = self.needs.values().flat_map(|groups| ordered(groups, max)).collect();
        all.sort_unstable();
        all.truncate(max);
        all
    }

    /// Every one of them, and whose it is.
    pub fn iter(&self) -> impl Iterator<Item = (Place, Owner)> {
        self.needs.iter().flat_map(|(need, groups)| {
            groups.iter().flat_map(move |g| {
                let owner = owner(g);
                g.1.ids.iter().map(move |job| (place(*need, *g.0, job), owner.clone()))
            })
        })
    }

    /// When the oldest was submitted, to about a second.
    pub fn oldest(&self) -> Option<i64> {
        let groups = self.needs.values().flat_map(BTreeMap::values);
        self.time_of(groups.filter_map(|group| group.ids.min()).min()?)
    }

    fn time_of(&self, job: JobId) -> Option<i64> {
        let behind = self.marks.partition_point(|(id, _)| *id <= job);
        self.marks.get(behind.saturating_sub(1)).map(|(_, at)| *at)
    }
}

fn place(need: u32, key: (Reverse<i32>, u32), job: JobId) -> Place {
    Place { priority: key.0.0, job, need }
}

fn owner((key, group): (&(Reverse<i32>, u32), &Group)) -> Owner {
    Owner { uid: key.1, name: group.name.clone().unwrap_or_else(|| "".into()) }
}

fn ordered(groups: &Groups, max: usize) -> Vec<(Reverse<i32>, JobId)> {
    let mut found: Vec<(Reverse<i32>, JobId)> = Vec::new();
    let mut priority = None;
    for ((of, _), group) in groups {
        // Owners of one priority are merged; a lower one is looked at when these are too few.
        if priority != Some(*of) && found.len() >= max {
            break;
        }
        priority = Some(*of);
        found.extend(group.ids.iter().take(max).map(|job| (*of, job)));
    }
    found.sort_unstable();
    found.truncate(max);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(uid: u32) -> Owner {
        Owner { uid, name: format!("u{uid}").into() }
    }

    fn place(priority: i32, job: JobId, need: u32) -> Place {
        Place { priority, job, need }
    }

    #[test]
    fn higher_priority_first_then_older_whoever_owns_them() {
        let mut parked = Parked::default();
        for (at, (priority, job, need, uid)) in
            [(0, 5, 0, 1), (0, 3, 0, 2), (7, 9, 0, 1), (0, 4, 0, 1), (9, 2, 1, 1)].into_iter().enumerate()
        {
            parked.insert(place(priority, job, need), &owner(uid), at as i64);
            parked.insert(place(priority, job, need), &owner(uid), at as i64);
        }
        assert_eq!(parked.len(), 5);
        assert_eq!(parked.next_of(0, 10), [9, 3, 4, 5]);
        assert_eq!(parked.next_of(0, 2), [9, 3]);
        assert_eq!(parked.next(2), [(Reverse(9), 2), (Reverse(7), 9)]);
        assert_eq!(parked.first(&[1].into()), Some((Reverse(7), 9)));
        assert_eq!(parked.find(3), Some((place(0, 3, 0), owner(2))));
        assert!(parked.remove(place(7, 9, 0)) && !parked.remove(place(7, 9, 0)));
        assert!(!parked.has(place(7, 9, 0)) && parked.has(place(0, 3, 0)));
        assert_eq!(parked.first_of(0), Some((Reverse(0), 3)));
        assert_eq!(parked.iter().count(), 4);
    }

    #[test]
    fn the_age_of_the_oldest_is_known_to_a_second_and_marks_are_bounded() {
        let mut parked = Parked::default();
        for job in 1..=20_000 {
            parked.insert(place(0, job, 0), &owner(1), job as i64 * 500);
        }
        assert!(parked.marks.len() <= MARKS);
        assert_eq!(parked.oldest(), Some(500));
        for job in 1..10_000 {
            parked.remove(place(0, job, 0));
        }
        let age = parked.oldest().unwrap();
        assert!((4_990_000..=5_000_000).contains(&age), "{age}");
    }
}
