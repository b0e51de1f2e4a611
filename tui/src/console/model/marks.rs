//! Which jobs are marked. Marks are ids, or "all that match" with exceptions; never positions.
use reeve_protocol::JobId;
use reeve_protocol::api::RowId;
use std::collections::BTreeSet;

/// How many ids or exceptions may be kept: above that a filter says it better, and the request stays small.
pub(in super::super) const MOST_MARKS: usize = 10_000;

/// The marked jobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum Marks {
    /// These.
    Ids(BTreeSet<RowId>),
    /// All that match this filter, without the exceptions. The coordinator finds them, not the console.
    All { filter: String, except: BTreeSet<RowId> },
}

impl Default for Marks {
    fn default() -> Self {
        Self::Ids(BTreeSet::new())
    }
}

impl Marks {
    /// All that match is never empty here: how many that are, only the coordinator knows.
    pub(in super::super) fn is_empty(&self) -> bool {
        matches!(self, Self::Ids(ids) if ids.is_empty())
    }

    pub(in super::super) fn contains(&self, row: RowId) -> bool {
        match self {
            Self::Ids(ids) => ids.contains(&row),
            Self::All { except, .. } => !except.contains(&row),
        }
    }

    /// Marks or unmarks one row. False when there are too many.
    #[must_use]
    pub(in super::super) fn set(&mut self, row: RowId, marked: bool) -> bool {
        let (set, insert) = match self {
            Self::Ids(ids) => (ids, marked),
            Self::All { except, .. } => (except, !marked),
        };
        if !insert {
            set.remove(&row);
            return true;
        }
        if set.len() >= MOST_MARKS && !set.contains(&row) {
            return false;
        }
        set.insert(row);
        true
    }

    #[must_use]
    pub(in super::super) fn toggle(&mut self, row: RowId) -> bool {
        self.set(row, !self.contains(row))
    }

    /// In words, for the bar: `4 marked of 412 matching`.
    pub(in super::super) fn words(&self, matching: &str) -> String {
        match self {
            Self::Ids(ids) => format!("{} marked of {matching} matching", ids.len()),
            Self::All { except, .. } if except.is_empty() => format!("all {matching} matching"),
            Self::All { except, .. } => format!("all {matching} matching, {} excluded", except.len()),
        }
    }
}

/// The shortest selectors for a set of rows: neighbouring jobs become `5-9`, neighbouring tasks `7.2-4`. Every number in
/// such a range was marked, so a range never reaches further than the marks.
pub(in super::super) fn selectors(rows: &BTreeSet<RowId>) -> Vec<String> {
    let (mut out, mut run): (Vec<String>, Option<(RowId, RowId)>) = (Vec::new(), None);
    for &row in rows {
        run = match run {
            Some((from, to)) if follows(to, row) => Some((from, row)),
            Some(done) => {
                out.push(range(done));
                Some((row, row))
            }
            None => Some((row, row)),
        };
    }
    out.extend(run.map(range));
    out
}

/// Whether `b` comes right after `a` in a range that users can write.
fn follows(a: RowId, b: RowId) -> bool {
    match (a, b) {
        ((a, None), (b, None)) => a.checked_add(1) == Some(b),
        ((a, Some(x)), (b, Some(y))) => a == b && x.checked_add(1) == Some(y),
        _ => false,
    }
}

/// One selector for a run of rows.
fn range((from, to): (RowId, RowId)) -> String {
    let first = super::super::format::id(from);
    match (from == to, to) {
        (true, _) => first,
        (false, (job, None)) => format!("{first}-{job}"),
        (false, (_, Some(index))) => format!("{first}-{index}"),
    }
}

/// The whole jobs among exceptions: only those can be excluded from a filter.
pub(in super::super) fn jobs_of(rows: &BTreeSet<RowId>) -> Vec<JobId> {
    rows.iter().filter(|(_, index)| index.is_none()).map(|(job, _)| *job).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use reeve_protocol::selector::Selector;

    #[test]
    fn neighbours_become_ranges() {
        let rows = [(3, None), (5, None), (6, None), (7, None), (8, Some(1)), (8, Some(2)), (9, Some(3))];
        assert_eq!(selectors(&rows.into()), ["3", "5-7", "8.1-2", "9.3"]);
        assert!(selectors(&BTreeSet::new()).is_empty());
    }

    #[test]
    fn exceptions_of_all_are_kept_and_can_be_taken_back() {
        let mut marks = Marks::All { filter: "state:failed".into(), except: BTreeSet::new() };
        assert!(marks.toggle((7, None)));
        assert!(!marks.contains((7, None)) && marks.contains((8, None)));
        assert_eq!(marks.words("412"), "all 412 matching, 1 excluded");
        assert!(marks.toggle((7, None)));
        assert_eq!(marks.words("412"), "all 412 matching");
        assert!(!marks.is_empty());
    }

    #[test]
    fn the_number_of_marks_is_bounded() {
        let mut marks = Marks::Ids((0..MOST_MARKS as u64).map(|id| (id, None)).collect());
        assert!(!marks.set((u64::MAX, None), true));
        assert!(marks.set((0, None), true), "a marked row may be marked again");
        assert!(marks.set((0, None), false) && marks.set((u64::MAX, None), true));
    }

    proptest! {
        #[test]
        fn selectors_name_exactly_the_marked_rows(
            rows in proptest::collection::btree_set((1u64..9, proptest::option::of(0u32..6)), 0..30)
        ) {
            let mut named = BTreeSet::new();
            for text in selectors(&rows) {
                match Selector::parse(&text).unwrap() {
                    Selector::Job(id) => { named.insert((id, None)); }
                    Selector::Jobs(a, b) => named.extend((a..=b).map(|id| (id, None))),
                    Selector::Tasks(job, a, b) => named.extend((a..=b).map(|i| (job, Some(i)))),
                    other => prop_assert!(false, "{other:?}"),
                }
            }
            prop_assert_eq!(named, rows);
        }
    }
}
