//! The list of jobs: a window of rows that the coordinator keeps up to date, and a cursor that sticks to a job.
use super::Marks;
use reeve_protocol::api::{JobView, RowId, Total, ViewRequest, ViewUpdate};
use reeve_protocol::{JobId, Problem};
use std::collections::{BTreeSet, HashMap};

/// The orders of the sort menu: as in lists, and in words.
pub(in super::super) const ORDERS: [(&str, &str); 6] = [
    ("-id", "newest first"),
    ("id", "oldest first"),
    ("-priority", "priority, highest first"),
    ("priority", "priority, lowest first"),
    ("name", "name"),
    ("queue", "queue"),
];

/// Most rows that a view may have.
const MOST_ROWS: u64 = 500;

/// The rows that are loaded.
#[derive(Clone, Debug, PartialEq)]
pub(in super::super) struct Window {
    /// Position of the first row in the whole list.
    pub(in super::super) offset: u64,
    pub(in super::super) order: Vec<RowId>,
    pub(in super::super) rows: HashMap<RowId, JobView>,
    pub(in super::super) total: Total,
}

impl Window {
    /// The job at a position of the whole list, if it is loaded.
    pub(in super::super) fn id_at(&self, position: u64) -> Option<RowId> {
        let index = usize::try_from(position.checked_sub(self.offset)?).ok()?;
        self.order.get(index).copied()
    }

    /// The position of a job in the whole list, if it is loaded.
    pub(in super::super) fn position(&self, id: RowId) -> Option<u64> {
        self.order.iter().position(|row| *row == id).map(|index| self.offset + index as u64)
    }

    /// Applies a line of the view. Rows that left the window are forgotten.
    fn apply(&mut self, update: ViewUpdate) {
        self.total = update.total;
        for row in update.rows {
            self.rows.insert((row.id, row.index), row);
        }
        if let Some(order) = update.order {
            self.order = order;
            let kept: BTreeSet<RowId> = self.order.iter().copied().collect();
            self.rows.retain(|id, _| kept.contains(id));
        }
        // A row without content cannot be shown; the coordinator never sends one.
        self.order.retain(|id| self.rows.contains_key(id));
    }
}

/// Marks made by moving: everything between the anchor and the cursor, on top of what was marked before.
#[derive(Clone, Debug, PartialEq)]
pub(in super::super) struct Range {
    anchor: RowId,
    base: Marks,
}

/// The list of jobs, or of the tasks of one array.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct Jobs {
    /// The array whose tasks are listed.
    pub(in super::super) scope: Option<JobId>,
    pub(in super::super) filter: String,
    /// Index into [`ORDERS`].
    pub(in super::super) order: usize,
    pub(in super::super) shown: Option<Window>,
    /// What would be shown if the picture were not frozen.
    pub(in super::super) waiting: Option<Window>,
    /// Position of the cursor in the whole list.
    pub(in super::super) position: u64,
    /// The job under the cursor, once the user has moved there. Before that the cursor stays at the top of the list.
    pub(in super::super) cursor: Option<RowId>,
    /// Position of the first visible row.
    pub(in super::super) top: u64,
    pub(in super::super) marks: Marks,
    pub(in super::super) range: Option<Range>,
    /// Filters used before, newest last.
    pub(in super::super) history: Vec<String>,
    /// Why the coordinator refused the view.
    pub(in super::super) problem: Option<Box<Problem>>,
}

impl Jobs {
    /// How many match, loaded or not.
    pub(in super::super) fn total(&self) -> u64 {
        self.shown.as_ref().map_or(0, |w| w.total.value)
    }

    /// The job under the cursor, if its row is loaded.
    pub(in super::super) fn at_cursor(&self) -> Option<&JobView> {
        let window = self.shown.as_ref()?;
        window.rows.get(&window.id_at(self.position)?)
    }

    /// The view that the screen needs, given what it had: a window is only moved when the rows around the screen run
    /// out, so that moving the cursor costs no request.
    pub(in super::super) fn view(&self, had: Option<&ViewRequest>, visible: usize) -> ViewRequest {
        let visible = visible.clamp(1, 160) as u64;
        let wanted = ViewRequest {
            of: if self.scope.is_some() { "tasks".into() } else { "jobs".into() },
            filter: self.filter.clone(),
            order: ORDERS[self.order].0.into(),
            offset: self.top.saturating_sub(visible),
            limit: u32::try_from((3 * visible).min(MOST_ROWS)).unwrap_or(1),
            every_ms: 250,
            id: self.scope,
        };
        match had {
            Some(had) if same_list(had, &wanted) && had.limit >= wanted.limit => {
                let end = had.offset + u64::from(had.limit);
                let margin = visible / 2;
                let above = had.offset == 0 || self.top >= had.offset + margin;
                let below = self.top + visible + margin <= end || end >= self.total();
                if above && below && self.top >= had.offset { had.clone() } else { wanted }
            }
            _ => wanted,
        }
    }

    /// Takes one line of the view that begins at `offset`.
    pub(in super::super) fn take(&mut self, offset: u64, update: ViewUpdate, frozen: bool, visible: usize) {
        self.problem = None;
        if update.kind == "snapshot" {
            let mut window = Window {
                offset,
                order: Vec::new(),
                rows: HashMap::new(),
                total: Total { value: 0, exact: true },
            };
            window.apply(update);
            // A new window is always shown: the user asked for it by moving, sorting or filtering.
            (self.shown, self.waiting) = (Some(window), None);
        } else if frozen {
            if let Some(mut window) = self.waiting.take().or_else(|| self.shown.clone()) {
                window.apply(update);
                self.waiting = Some(window);
            }
        } else if let Some(window) = &mut self.shown {
            window.apply(update);
        }
        self.settle(visible);
    }

    /// Shows what waited while the picture was frozen.
    pub(in super::super) fn thaw(&mut self, visible: usize) {
        if let Some(window) = self.waiting.take() {
            self.shown = Some(window);
            self.settle(visible);
        }
    }

    /// How many rows differ from what is shown, while frozen.
    pub(in super::super) fn changed_since_freeze(&self) -> usize {
        let (Some(shown), Some(waiting)) = (&self.shown, &self.waiting) else { return 0 };
        waiting.order.iter().filter(|id| shown.rows.get(id) != waiting.rows.get(id)).count()
    }

    /// Invariant: afterwards the cursor is inside the list (or the list is empty), it stands on the same job as before if
    /// that is still loaded, on the same line of the screen, and the screen shows it.
    pub(in super::super) fn settle(&mut self, visible: usize) {
        let Some(window) = &self.shown else { return };
        if let Some(now) = self.cursor.and_then(|id| window.position(id)) {
            self.top = (self.top + now).saturating_sub(self.position);
            self.position = now;
        }
        self.position = self.position.min(window.total.value.saturating_sub(1));
        if self.cursor.is_some() {
            self.cursor = window.id_at(self.position).or(self.cursor.filter(|_| window.total.value > 0));
        }
        self.reveal(visible);
        if self.range.as_ref().is_some_and(|r| window_lacks(self.shown.as_ref(), r.anchor)) {
            self.range = None;
        }
    }

    /// Moves the cursor; a range in progress follows, over rows that are loaded.
    pub(in super::super) fn move_to(&mut self, position: u64, visible: usize) {
        let last = self.total().saturating_sub(1);
        let mut position = position.min(last);
        if self.range.is_some()
            && let Some(window) = &self.shown
        {
            let end = window.offset + window.order.len() as u64;
            position = position.clamp(window.offset, end.saturating_sub(1).max(window.offset));
        }
        self.position = position;
        // At the very top the cursor stays at the top: new jobs come in under the user's eyes.
        self.cursor = if position == 0 && self.range.is_none() {
            None
        } else {
            self.shown.as_ref().and_then(|w| w.id_at(position))
        };
        self.reveal(visible);
        self.stretch();
    }

    /// Moves the screen as little as possible to show the cursor.
    fn reveal(&mut self, visible: usize) {
        let visible = visible.max(1) as u64;
        let lowest = (self.position + 1).saturating_sub(visible);
        // No empty lines at the end of a list that could fill the screen.
        let most = self.total().saturating_sub(visible);
        self.top = self.top.clamp(lowest, self.position).min(most);
    }

    /// Starts a range at the cursor, or ends it.
    pub(in super::super) fn toggle_range(&mut self) {
        self.range = match (self.range.take(), self.at_cursor()) {
            (None, Some(job)) => Some(Range { anchor: (job.id, job.index), base: self.marks.clone() }),
            _ => None,
        };
        self.stretch();
    }

    /// Marks everything between the anchor of the range and the cursor. Starts from what was marked before the range, so that
    /// going back unmarks again.
    fn stretch(&mut self) {
        let (Some(range), Some(window)) = (&self.range, &self.shown) else { return };
        let Some(anchor) = window.position(range.anchor) else { return };
        let mut marks = range.base.clone();
        for position in anchor.min(self.position)..=anchor.max(self.position) {
            // Too many marks are refused where they are made singly; a range is never that long.
            if let Some(id) = window.id_at(position)
                && !marks.set(id, true)
            {
                break;
            }
        }
        self.marks = marks;
    }

    /// Turns the marks of the visible rows around.
    #[must_use]
    pub(in super::super) fn invert(&mut self, visible: usize) -> bool {
        let Some(window) = &self.shown else { return true };
        (self.top..self.top + visible as u64).filter_map(|p| window.id_at(p)).all(|id| self.marks.toggle(id))
    }

    /// Another filter, order or array: the cursor goes to the top. "All that match" belonged to the old filter, so it
    /// goes; marked ids stay. True when marks were dropped.
    pub(in super::super) fn replace_list(&mut self) -> bool {
        (self.position, self.cursor, self.top, self.range) = (0, None, 0, None);
        (self.shown, self.waiting, self.problem) = (None, None, None);
        let dropped = matches!(&self.marks, Marks::All { filter, .. } if *filter != self.filter);
        if dropped {
            self.marks = Marks::default();
        }
        dropped
    }
}

/// Whether a job is not among the loaded rows.
fn window_lacks(window: Option<&Window>, id: RowId) -> bool {
    window.is_none_or(|w| w.position(id).is_none())
}

/// Whether two requests differ only in their windows.
fn same_list(a: &ViewRequest, b: &ViewRequest) -> bool {
    (&a.of, &a.filter, &a.order, a.id) == (&b.of, &b.filter, &b.order, b.id)
}
