//! Which rows of ended jobs and tasks can be believed. What has ended leaves memory, and a call about it brings its rows
//! along; between the reading and the call it may have been restarted, and have ended again.
use reeve_protocol::TaskId;
use std::collections::{BTreeSet, HashMap, VecDeque};

/// Ends that are remembered: some seconds of the highest rate. A row that was read before all of them is read again.
const REMEMBERED: usize = 16_384;

/// The last ends, by the number of the event after which their rows are on disk.
#[derive(Debug, Default)]
pub(super) struct Gone {
    /// Ended in the step at hand: every row is older.
    now: BTreeSet<TaskId>,
    last: HashMap<TaskId, u64>,
    order: VecDeque<(TaskId, u64)>,
    /// The newest end that was forgotten.
    floor: u64,
}

impl Gone {
    /// A task has ended in the step at hand.
    pub(super) fn note(&mut self, task: TaskId) {
        self.now.insert(task);
    }

    /// The last event of the step at hand is `seq`.
    pub(super) fn settle(&mut self, seq: u64) {
        for task in std::mem::take(&mut self.now) {
            self.keep(task, seq);
        }
    }

    fn keep(&mut self, task: TaskId, seq: u64) {
        self.last.insert(task, seq);
        self.order.push_back((task, seq));
        if self.order.len() > REMEMBERED
            && let Some((old, seq)) = self.order.pop_front()
        {
            self.floor = seq;
            if self.last.get(&old) == Some(&seq) {
                self.last.remove(&old);
            }
        }
    }

    /// Whether its row may be older than its last end, if it was read when `seq` was the last event on disk.
    pub(super) fn is_stale(&self, task: TaskId, seq: u64) -> bool {
        self.now.contains(&task) || seq < self.last.get(&task).copied().unwrap_or(self.floor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_believed_if_it_was_read_after_the_last_end() {
        let mut gone = Gone::default();
        let (one, other) = (TaskId::single(1), TaskId::of_array(2, 7));
        assert!(!gone.is_stale(one, 0), "nothing has ended since the start");
        gone.note(one);
        assert!(gone.is_stale(one, u64::MAX), "its row is not written yet");
        gone.settle(10);
        assert!(gone.is_stale(one, 9) && !gone.is_stale(one, 10));
        gone.keep(one, 20);
        assert!(gone.is_stale(one, 19) && !gone.is_stale(one, 20));
        assert!(!gone.is_stale(other, 0));
    }

    #[test]
    fn what_is_forgotten_is_rather_read_again_than_believed() {
        let mut gone = Gone::default();
        for n in 0..=REMEMBERED as u64 {
            gone.keep(TaskId::single(n), n + 1);
        }
        assert_eq!(gone.last.len(), REMEMBERED);
        assert!(gone.is_stale(TaskId::single(0), 0) && !gone.is_stale(TaskId::single(0), 1));
        gone.keep(TaskId::single(0), 90_000);
        gone.keep(TaskId::single(5), 90_000);
        assert!(gone.is_stale(TaskId::single(0), 89_999));
    }
}
