//! An array: one record for a million tasks. A task has an entry of its own from its first dispatch until it ends;
//! before that it is an index behind the cursor, after that a row in the store and a count.
use super::Task;
use super::lifecycle::{Move, Phase};
use crate::row::{ArrayRow, Standing};
use reeve_protocol::api::StateCounts;
use reeve_protocol::intervals::Intervals;
use reeve_protocol::{Cause, State, Substate};
use std::collections::{BTreeSet, HashMap};

/// An array while any of its tasks lives.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// First index.
    pub from: u32,
    /// Last index.
    pub to: u32,
    /// At most this many at once.
    pub limit: Option<u32>,
    /// The first index that was never dispatched nor passed.
    pub next: u32,
    /// Tasks per state.
    pub counts: StateCounts,
    /// Untouched indices that wait for a release.
    pub held: Intervals,
    /// Indices cancelled before they were ever dispatched.
    pub cancelled: Intervals,
    /// Tasks that were dispatched once and have not ended, and those that wait for another attempt.
    pub live: HashMap<u32, Task>,
    /// Live tasks that wait for a slot.
    pub again: BTreeSet<u32>,
    /// Tasks handed out, assigned ones included.
    pub out: u32,
    /// Cause of the last task that ended badly.
    pub cause: Option<Cause>,
    /// First start, last end, wall milliseconds.
    pub started_at: Option<i64>,
    /// Set when the last task has ended.
    pub ended_at: Option<i64>,
    /// Not before, wall milliseconds: for untouched indices.
    pub run_at: Option<i64>,
    /// The parsed spec, from the first dispatch on: a million tasks parse it once.
    pub parsed: Option<std::sync::Arc<reeve_protocol::JobSpec>>,
}

impl Array {
    /// From the store. Live tasks are taken in one by one.
    pub fn restore(row: &ArrayRow, standing: &Standing) -> Self {
        Self {
            from: row.from,
            to: row.to,
            limit: row.limit,
            next: row.next,
            counts: row.counts,
            held: row.held.clone(),
            cancelled: row.cancelled.clone(),
            live: HashMap::new(),
            again: BTreeSet::new(),
            out: 0,
            cause: standing.cause.clone(),
            started_at: standing.started_at,
            ended_at: standing.ended_at,
            run_at: standing.run_at,
            parsed: None,
        }
    }

    /// Takes a live task in.
    pub fn take_in(&mut self, index: u32, task: Task) {
        if task.phase().is(Substate::Waiting) {
            self.again.insert(index);
        }
        if is_out(task.phase()) {
            self.out += 1;
        }
        self.live.insert(index, task);
    }

    /// For the store.
    pub fn row(&self) -> ArrayRow {
        ArrayRow {
            from: self.from,
            to: self.to,
            limit: self.limit,
            next: self.next,
            counts: self.counts,
            held: self.held.clone(),
            cancelled: self.cancelled.clone(),
        }
    }

    /// The state of the whole: RUNNING while any task runs, QUEUED while any waits, else the worst end.
    pub fn state(&self) -> State {
        let c = &self.counts;
        if c.running > 0 {
            State::Running
        } else if c.queued > 0 {
            State::Queued
        } else if c.failed > 0 {
            State::Failed
        } else if c.cancelled > 0 {
            State::Cancelled
        } else {
            State::Completed
        }
    }

    /// The substate of the whole.
    pub fn substate(&self) -> Option<Substate> {
        match self.state() {
            State::Running => Some(Substate::Running),
            State::Queued if self.live.is_empty() && self.next_untouched().is_none() => Some(Substate::Held),
            State::Queued if self.run_at.is_some() && self.live.is_empty() => Some(Substate::Delayed),
            State::Queued => Some(Substate::Waiting),
            State::Completed | State::Failed | State::Cancelled => None,
        }
    }

    /// For the store. `attempt` of an array is 0: its tasks have them.
    pub fn standing(&self) -> Standing {
        let state = self.state();
        let cause = match state {
            State::Completed => Some(Cause::Ok),
            State::Cancelled => Some(Cause::Cancelled),
            // Kept while it lives: a restart must still know why the array will have failed.
            State::Failed | State::Queued | State::Running => self.cause.clone(),
        };
        Standing {
            cause,
            run_at: self.run_at,
            started_at: self.started_at,
            ended_at: self.ended_at,
            ..Standing::new(state, self.substate())
        }
    }

    /// Whether every task has ended.
    pub fn is_over(&self) -> bool {
        self.counts.queued == 0 && self.counts.running == 0
    }

    /// What an untouched index waits for that nobody holds.
    pub fn fresh(&self) -> Substate {
        if self.run_at.is_some() { Substate::Delayed } else { Substate::Waiting }
    }

    /// The first index from the cursor on that may be dispatched.
    fn next_untouched(&self) -> Option<u32> {
        let mut index = self.next;
        while index <= self.to {
            let after = self.cancelled.first_gap(index)?;
            let after = self.held.first_gap(after)?;
            if after == index {
                return Some(index);
            }
            index = after;
        }
        None
    }

    /// The next task for a slot, if there is one and the limit allows it.
    pub fn peek(&self) -> Option<u32> {
        if self.limit.is_some_and(|limit| self.out >= limit) {
            return None;
        }
        self.again
            .first()
            .copied()
            .or_else(|| if self.run_at.is_some() { None } else { self.next_untouched() })
    }

    /// Opens the entry of a task that is about to be dispatched or changed on its own.
    pub fn open(&mut self, index: u32) -> &mut Task {
        if !self.live.contains_key(&index) {
            if index >= self.next && self.next_untouched() == Some(index) {
                // Held indices that are passed get entries of their own, so that the cursor alone tells what is untouched.
                for passed in self.next..index {
                    if self.held.contains(passed) {
                        self.held.remove(passed);
                        self.live.insert(passed, Task::new(Phase::HELD));
                    }
                }
                self.next = index + 1;
            }
            let phase = if self.held.contains(index) { Phase::HELD } else { Phase::WAITING };
            self.held.remove(index);
            self.live.insert(index, Task::new(phase));
        }
        self.again.remove(&index);
        self.live.entry(index).or_insert_with(|| Task::new(Phase::WAITING))
    }

    /// Keeps the indices right after a task has moved.
    pub fn moved(&mut self, index: u32, from: Phase, to: Phase) {
        self.counts.shift(from.state(), to.state(), 1);
        match (is_out(from), is_out(to)) {
            (false, true) => self.out += 1,
            (true, false) => self.out -= 1,
            _ => {}
        }
        if to.is(Substate::Waiting) {
            self.again.insert(index);
        } else {
            self.again.remove(&index);
        }
        if to.state().is_terminal() {
            self.live.remove(&index);
        }
    }

    /// Untouched indices inside `from..=to`: neither dispatched nor cancelled. Held ones count.
    pub fn untouched(&self, from: u32, to: u32) -> Intervals {
        let mut set = Intervals::new();
        let (low, high) = (from.max(self.next), to.min(self.to));
        let mut at = low;
        while at <= high {
            match self.cancelled.first_gap(at) {
                Some(start) if start <= high => {
                    let end = self
                        .cancelled
                        .ranges()
                        .iter()
                        .find(|(l, _)| *l > start)
                        .map_or(high, |(l, _)| (l - 1).min(high));
                    set.insert_range(start, end);
                    let Some(next) = end.checked_add(1) else { break };
                    at = next;
                }
                _ => break,
            }
        }
        // Entries opened out of order lie behind the cursor and are not untouched.
        for index in self.live.keys().filter(|i| (low..=high).contains(*i)) {
            set.remove(*index);
        }
        set
    }

    /// Cancels untouched indices; they never get a row. Says how many.
    pub fn cancel_untouched(&mut self, from: u32, to: u32) -> Intervals {
        let set = self.untouched(from, to);
        for (low, high) in set.ranges() {
            self.cancelled.insert_range(*low, *high);
        }
        for (low, high) in self.held.ranges().to_vec() {
            for (l, h) in set.ranges() {
                let (a, b) = (low.max(*l), high.min(*h));
                if a <= b {
                    for index in a..=b {
                        self.held.remove(index);
                    }
                }
            }
        }
        self.counts.shift(State::Queued, State::Cancelled, set.len());
        set
    }

    /// Un-cancels indices that were never dispatched. Says which.
    pub fn revive(&mut self, from: u32, to: u32) -> Intervals {
        let revived: Intervals =
            self.cancelled.ranges().iter().fold(Intervals::new(), |mut set, (low, high)| {
                set.insert_range((*low).max(from), (*high).min(to));
                set
            });
        let kept = self.cancelled.ranges().iter().fold(Intervals::new(), |mut set, (low, high)| {
            if *low < from {
                set.insert_range(*low, (*high).min(from - 1));
            }
            if *high > to {
                set.insert_range((*low).max(to + 1), *high);
            }
            set
        });
        self.cancelled = kept;
        self.counts.shift(State::Cancelled, State::Queued, revived.len());
        for index in revived.iter().take_while(|i| *i < self.next) {
            self.live.insert(index, Task::new(Phase::WAITING));
            self.again.insert(index);
        }
        self.ended_at = None;
        revived
    }

    /// Takes back a task that had ended, from its row.
    pub fn reopen(&mut self, index: u32, mut task: Task) -> Option<(Phase, Phase)> {
        task.renew();
        let (from, to) = task.take(Move::Restart)?;
        self.live.insert(index, task);
        self.moved(index, from, to);
        self.ended_at = None;
        Some((from, to))
    }
}

/// Whether a slot is taken: counted against the array's limit.
fn is_out(phase: Phase) -> bool {
    phase.state() == State::Running || phase.is(Substate::Assigned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn array(from: u32, to: u32) -> Array {
        let mut row = ArrayRow { from, to, next: from, ..ArrayRow::default() };
        row.counts.queued = u64::from(to - from) + 1;
        Array::restore(&row, &Standing::new(State::Queued, Some(Substate::Waiting)))
    }

    fn go(array: &mut Array, index: u32, mv: Move) {
        let (from, to) = array.open(index).take(mv).unwrap();
        array.moved(index, from, to);
    }

    #[test]
    fn the_cursor_hands_out_each_index_once_and_retries_come_first() {
        let mut a = array(1, 4);
        assert_eq!(a.peek(), Some(1));
        go(&mut a, 1, Move::Assign);
        assert_eq!(a.peek(), Some(2));
        go(&mut a, 2, Move::Assign);
        go(&mut a, 1, Move::Start);
        go(&mut a, 1, Move::Ready);
        assert_eq!(a.peek(), Some(1), "what comes back goes first");
        go(&mut a, 1, Move::Assign);
        assert_eq!(a.peek(), Some(3));
        go(&mut a, 1, Move::Complete);
        go(&mut a, 2, Move::Fail);
        assert_eq!((a.counts.completed, a.counts.failed, a.counts.queued), (1, 1, 2));
        assert!(a.live.is_empty());
    }

    #[test]
    fn the_limit_bounds_what_is_out() {
        let mut a = array(0, 9);
        a.limit = Some(2);
        go(&mut a, 0, Move::Assign);
        go(&mut a, 1, Move::Assign);
        assert_eq!(a.peek(), None);
        go(&mut a, 0, Move::Complete);
        assert_eq!(a.peek(), Some(2));
    }

    #[test]
    fn cancelling_untouched_indices_costs_an_interval_and_restart_revives_them() {
        let mut a = array(1, 1_000_000);
        go(&mut a, 1, Move::Assign);
        go(&mut a, 1, Move::Start);
        assert_eq!(a.cancel_untouched(0, u32::MAX - 1).len(), 999_999);
        assert_eq!(a.cancelled.ranges().len(), 1);
        assert_eq!(a.peek(), None);
        go(&mut a, 1, Move::Complete);
        assert!(a.is_over());
        assert_eq!(a.state(), State::Cancelled);
        assert_eq!(a.revive(0, u32::MAX - 1).len(), 999_999);
        assert_eq!(a.peek(), Some(2));
        assert_eq!(a.state(), State::Queued);
    }

    #[test]
    fn a_cancelled_hole_is_passed_and_can_be_revived_behind_the_cursor() {
        let mut a = array(1, 5);
        a.cancel_untouched(2, 3);
        go(&mut a, 1, Move::Assign);
        assert_eq!(a.peek(), Some(4));
        go(&mut a, 4, Move::Assign);
        assert_eq!(a.next, 5);
        assert_eq!(a.revive(3, 3).len(), 1);
        assert_eq!(a.peek(), Some(3));
        assert_eq!(a.cancelled.iter().collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn held_indices_are_skipped_until_released() {
        let mut a = array(1, 4);
        a.held.insert_range(1, 2);
        assert_eq!(a.peek(), Some(3));
        go(&mut a, 3, Move::Assign);
        assert!(a.held.is_empty(), "passed held indices have entries of their own");
        assert!(a.live[&1].phase().is(Substate::Held));
        go(&mut a, 1, Move::Ready);
        assert_eq!(a.peek(), Some(1));
    }
}
