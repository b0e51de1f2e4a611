//! A cursor over a short list whose rows have names: queues, machines, the lines of the overview.

/// Where the cursor is, and how the list is sorted and filtered. The rows themselves are worked out from the newest
/// statistics when they are needed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Names {
    /// The row under the cursor.
    pub(in super::super) cursor: Option<String>,
    /// Where it was seen last: when it is gone, its neighbour takes over.
    pub(in super::super) index: usize,
    /// The first visible row.
    pub(in super::super) top: usize,
    /// Which column sorts.
    pub(in super::super) sort: usize,
    /// Part of the name.
    pub(in super::super) filter: String,
}

impl Names {
    /// Invariant: afterwards the cursor is one of `names`, or there are none; and the screen shows it.
    pub(in super::super) fn settle(&mut self, names: &[String], visible: usize) {
        let found = self.cursor.as_ref().and_then(|name| names.iter().position(|n| n == name));
        self.go(found.unwrap_or(self.index), names, visible);
    }

    /// Moves the cursor to a row, or as near as there is one.
    pub(in super::super) fn go(&mut self, index: usize, names: &[String], visible: usize) {
        self.index = index.min(names.len().saturating_sub(1));
        self.cursor = names.get(self.index).cloned();
        let visible = visible.max(1);
        let lowest = (self.index + 1).saturating_sub(visible);
        self.top = self.top.clamp(lowest, self.index).min(names.len().saturating_sub(visible).max(lowest));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<String> {
        text.split(' ').filter(|w| !w.is_empty()).map(str::to_owned).collect()
    }

    #[test]
    fn the_cursor_follows_its_row_and_a_lost_row_leaves_it_to_the_neighbour() {
        let mut list = Names::default();
        list.settle(&names("a b c"), 5);
        assert_eq!(list.cursor.as_deref(), Some("a"));
        list.go(1, &names("a b c"), 5);
        list.settle(&names("z a b c"), 5);
        assert_eq!((list.cursor.as_deref(), list.index), (Some("b"), 2));
        list.settle(&names("z a c"), 5);
        assert_eq!(list.cursor.as_deref(), Some("c"));
        list.settle(&[], 5);
        assert_eq!(list.cursor, None);
    }

    #[test]
    fn the_screen_follows_the_cursor() {
        let rows = names("a b c d e f g h");
        let mut list = Names::default();
        for (to, top) in [(2, 0), (3, 1), (7, 5), (6, 5), (4, 4), (99, 5)] {
            list.go(to, &rows, 3);
            assert_eq!(list.top, top, "to {to}");
        }
        list.settle(&names("h"), 3);
        assert_eq!(list.top, 0);
    }
}
