//! Sets of array indices as intervals: a million indices that lie together cost one pair.
use serde::{Deserialize, Serialize};
use std::fmt;

/// A set of `u32`, kept as sorted, disjoint, non-adjacent closed intervals.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Intervals(Vec<(u32, u32)>);

impl Intervals {
    /// The empty set.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds one index; adding in ascending order is O(1), anything else O(log n) plus a move.
    pub fn insert(&mut self, index: u32) {
        self.insert_range(index, index);
    }

    /// Adds `from..=to`.
    pub fn insert_range(&mut self, from: u32, to: u32) {
        if from > to {
            return;
        }
        let start = self.0.partition_point(|(_, end)| end.saturating_add(1) < from);
        let mut end = start;
        let (mut low, mut high) = (from, to);
        while end < self.0.len() && self.0[end].0 <= to.saturating_add(1) {
            low = low.min(self.0[end].0);
            high = high.max(self.0[end].1);
            end += 1;
        }
        self.0.splice(start..end, [(low, high)]);
    }

    /// Removes one index.
    pub fn remove(&mut self, index: u32) {
        let at = self.0.partition_point(|(_, end)| *end < index);
        let Some(&(low, high)) = self.0.get(at) else { return };
        if index < low {
            return;
        }
        let left = (low < index).then(|| (low, index - 1));
        let right = (index < high).then(|| (index + 1, high));
        self.0.splice(at..=at, left.into_iter().chain(right));
    }

    /// Whether the index is in the set.
    pub fn contains(&self, index: u32) -> bool {
        let at = self.0.partition_point(|(_, end)| *end < index);
        self.0.get(at).is_some_and(|(low, _)| *low <= index)
    }

    /// How many indices the set has.
    pub fn len(&self) -> u64 {
        self.0.iter().map(|(low, high)| u64::from(high - low) + 1).sum()
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The intervals, ascending.
    pub fn ranges(&self) -> &[(u32, u32)] {
        &self.0
    }

    /// Every index, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().flat_map(|(low, high)| *low..=*high)
    }

    /// The smallest index at or above `from` that is *not* in the set.
    pub fn first_gap(&self, from: u32) -> Option<u32> {
        let at = self.0.partition_point(|(_, end)| *end < from);
        match self.0.get(at) {
            Some((low, high)) if *low <= from => high.checked_add(1),
            _ => Some(from),
        }
    }
}

impl fmt::Display for Intervals {
    /// `1-4,7,9-12`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (low, high)) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str(",")?;
            }
            if low == high {
                write!(f, "{low}")?;
            } else {
                write!(f, "{low}-{high}")?;
            }
        }
        Ok(())
    }
}

impl FromIterator<u32> for Intervals {
    fn from_iter<T: IntoIterator<Item = u32>>(iter: T) -> Self {
        let mut set = Self::new();
        for index in iter {
            set.insert(index);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn behaves_like_a_set(ops in prop::collection::vec((any::<bool>(), 0u32..60), 0..200)) {
            let (mut mine, mut model) = (Intervals::new(), BTreeSet::new());
            for (add, index) in ops {
                if add { mine.insert(index); model.insert(index); } else { mine.remove(index); model.remove(&index); }
                prop_assert_eq!(mine.iter().collect::<Vec<_>>(), model.iter().copied().collect::<Vec<_>>());
                prop_assert_eq!(mine.len(), model.len() as u64);
                for probe in 0..62 {
                    prop_assert_eq!(mine.contains(probe), model.contains(&probe));
                    prop_assert_eq!(mine.first_gap(probe), (probe..=100).find(|i| !model.contains(i)));
                }
                for pair in mine.ranges().windows(2) {
                    prop_assert!(pair[0].1 + 1 < pair[1].0, "adjacent intervals must be merged");
                }
            }
        }
    }

    #[test]
    fn reads_as_ranges() {
        assert_eq!([1, 2, 3, 4, 7, 9, 10].into_iter().collect::<Intervals>().to_string(), "1-4,7,9-10");
        let mut all = Intervals::new();
        all.insert_range(0, u32::MAX);
        assert_eq!(all.len(), 1 << 32);
        assert_eq!(all.first_gap(5), None);
    }
}
