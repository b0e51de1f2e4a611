//! Who may start now: first come, first served, within what may run at once. Pure.
use reeve_protocol::ids::AttemptId;
use reeve_protocol::wire::Start;
use std::collections::{HashSet, VecDeque};

/// What an attempt holds while it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) cpu_milli: u64,
    pub(crate) memory_bytes: u64,
}

impl Size {
    pub(crate) fn of(start: &Start) -> Self {
        Self { cpu_milli: start.cpu_milli.into(), memory_bytes: start.memory_bytes }
    }

    fn within(self, limits: Self) -> bool {
        self.cpu_milli <= limits.cpu_milli && self.memory_bytes <= limits.memory_bytes
    }

    fn plus(self, other: Self) -> Self {
        Self {
            cpu_milli: self.cpu_milli.saturating_add(other.cpu_milli),
            memory_bytes: self.memory_bytes.saturating_add(other.memory_bytes),
        }
    }
}

/// What becomes of the first in the queue.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It fits; its size is taken.
    Go(Box<Start>),
    /// It is larger than all that may ever run at once.
    TooLarge(Box<Start>),
}

/// Attempts that wait for room, and the room.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    waiting: VecDeque<Box<Start>>,
    /// `None` until the agent has said it; nothing starts before.
    limits: Option<Size>,
    used: Size,
}

impl Queue {
    pub(crate) fn set_limits(&mut self, limits: Size) {
        self.limits = Some(limits);
    }

    pub(crate) fn push(&mut self, start: Box<Start>) {
        self.waiting.push_back(start);
    }

    /// Takes the first out, if its turn has come. Nobody overtakes: the coordinator chose the order.
    pub(crate) fn next_turn(&mut self) -> Option<Turn> {
        let limits = self.limits?;
        let size = Size::of(self.waiting.front()?);
        if size.plus(self.used).within(limits) {
            self.used = self.used.plus(size);
            return self.waiting.pop_front().map(Turn::Go);
        }
        // Judged only when nothing runs: limits may still be growing while others end.
        if self.used == Size::default() {
            return self.waiting.pop_front().map(Turn::TooLarge);
        }
        None
    }

    /// Takes a waiting attempt out.
    pub(crate) fn remove(&mut self, attempt: AttemptId) -> Option<Box<Start>> {
        let at = self.waiting.iter().position(|s| s.attempt == attempt)?;
        self.waiting.remove(at)
    }

    pub(crate) fn is_waiting(&self, attempt: AttemptId) -> bool {
        self.waiting.iter().any(|s| s.attempt == attempt)
    }

    pub(crate) fn waiting(&self) -> impl Iterator<Item = &Start> {
        self.waiting.iter().map(|s| &**s)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// An attempt runs that was found, not started.
    pub(crate) fn adopt(&mut self, size: Size) {
        self.used = self.used.plus(size);
    }

    /// The tree of an attempt is gone.
    pub(crate) fn release(&mut self, size: Size) {
        self.used.cpu_milli = self.used.cpu_milli.saturating_sub(size.cpu_milli);
        self.used.memory_bytes = self.used.memory_bytes.saturating_sub(size.memory_bytes);
    }
}

/// Attempts that were stopped before they arrived: a late Start of one is refused.
#[derive(Debug, Default)]
pub(crate) struct Tombstones {
    set: HashSet<AttemptId>,
    order: VecDeque<AttemptId>,
}

/// More would only be of use to a coordinator that is hours behind.
const TOMBSTONES: usize = 10_000;

impl Tombstones {
    pub(crate) fn add(&mut self, attempt: AttemptId) {
        if self.set.insert(attempt) {
            self.order.push_back(attempt);
        }
        if self.order.len() > TOMBSTONES
            && let Some(oldest) = self.order.pop_front()
        {
            self.set.remove(&oldest);
        }
    }

    pub(crate) fn contains(&self, attempt: AttemptId) -> bool {
        self.set.contains(&attempt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reeve_protocol::ids::TaskId;

    fn start(job: u64, cpu_milli: u32, memory_bytes: u64) -> Box<Start> {
        Box::new(Start {
            attempt: TaskId::single(job).attempt(1),
            cpu_milli,
            memory_bytes,
            ..Start::default()
        })
    }

    fn job(turn: Option<Turn>) -> Option<(bool, u64)> {
        turn.map(|turn| match turn {
            Turn::Go(s) => (true, s.attempt.task.job),
            Turn::TooLarge(s) => (false, s.attempt.task.job),
        })
    }

    fn queue(cpu_milli: u64, memory_bytes: u64) -> Queue {
        let mut queue = Queue::default();
        queue.set_limits(Size { cpu_milli, memory_bytes });
        queue
    }

    #[test]
    fn nothing_starts_before_the_limits_are_known() {
        let mut queue = Queue::default();
        queue.push(start(1, 1, 0));
        assert_eq!(queue.next_turn(), None);
        queue.set_limits(Size { cpu_milli: 1, memory_bytes: 0 });
        assert_eq!(job(queue.next_turn()), Some((true, 1)));
    }

    #[test]
    fn the_first_waits_for_room_and_nobody_overtakes() {
        let mut queue = queue(2000, 100);
        for (id, cpu, memory) in [(1, 1500, 0), (2, 1000, 0), (3, 100, 0)] {
            queue.push(start(id, cpu, memory));
        }
        assert_eq!(job(queue.next_turn()), Some((true, 1)));
        assert_eq!(queue.next_turn(), None);
        queue.release(Size { cpu_milli: 1500, memory_bytes: 0 });
        assert_eq!(job(queue.next_turn()), Some((true, 2)));
        assert_eq!(job(queue.next_turn()), Some((true, 3)));
        assert!(queue.is_empty());
    }

    #[test]
    fn memory_counts_as_cpus_do_and_what_can_never_fit_is_said_when_nothing_runs() {
        let mut queue = queue(8000, 100);
        queue.push(start(1, 1000, 60));
        queue.push(start(2, 1000, 200));
        assert_eq!(job(queue.next_turn()), Some((true, 1)));
        assert_eq!(queue.next_turn(), None);
        queue.release(Size { cpu_milli: 1000, memory_bytes: 60 });
        assert_eq!(job(queue.next_turn()), Some((false, 2)));
    }

    #[test]
    fn what_was_found_running_takes_room_too() {
        let mut queue = queue(1000, 0);
        queue.adopt(Size { cpu_milli: 1000, memory_bytes: 0 });
        queue.push(start(1, 500, 0));
        assert_eq!(queue.next_turn(), None);
        assert!(queue.is_waiting(TaskId::single(1).attempt(1)));
        assert_eq!(queue.remove(TaskId::single(1).attempt(1)).unwrap().cpu_milli, 500);
        assert_eq!(queue.waiting().count(), 0);
    }

    #[test]
    fn tombstones_are_bounded() {
        let mut stones = Tombstones::default();
        for id in 0..=TOMBSTONES as u64 {
            stones.add(TaskId::single(id).attempt(1));
            stones.add(TaskId::single(id).attempt(1));
        }
        assert!(!stones.contains(TaskId::single(0).attempt(1)));
        assert!(stones.contains(TaskId::single(1).attempt(1)));
    }
}
