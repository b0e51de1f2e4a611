//! When what was said to the agent is written: at once while little is said; in portions under load.
//!
//! Every write wakes the agent, which sends a packet, which wakes the coordinator, which syncs its disk: at thousands of
//! ends per second those wake-ups cost more than the jobs. Holding back for a moment makes one of many. Nothing waits for
//! it: the next attempts have been handed ahead.
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Between two writes under load.
const HOLD: Duration = Duration::from_millis(5);
/// So many writes within [`WINDOW`] are load.
const WRITES: usize = 6;
const WINDOW: Duration = Duration::from_millis(40);

/// The times of the last writes.
#[derive(Debug, Default)]
pub(super) struct Pace {
    wrote: VecDeque<Instant>,
}

impl Pace {
    /// How long to hold back from now; `None`: write.
    pub(super) fn hold(&self, now: Instant) -> Option<Duration> {
        let busy = self.wrote.len() == WRITES
            && self.wrote.front().is_some_and(|first| now.duration_since(*first) < WINDOW);
        let last = self.wrote.back().filter(|_| busy)?;
        HOLD.checked_sub(now.duration_since(*last)).filter(|left| !left.is_zero())
    }

    /// A write has been made.
    pub(super) fn wrote(&mut self, now: Instant) {
        if self.wrote.len() == WRITES {
            self.wrote.pop_front();
        }
        self.wrote.push_back(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_is_written_at_once_and_much_in_portions() {
        let mut pace = Pace::default();
        let mut now = Instant::now();
        for _ in 0..100 {
            assert_eq!(pace.hold(now), None, "an end every 10 ms is no load");
            pace.wrote(now);
            now += Duration::from_millis(10);
        }
        for _ in 0..WRITES {
            pace.wrote(now);
            now += Duration::from_micros(300);
        }
        let left = pace.hold(now).expect("held back");
        assert!(left < HOLD);
        assert_eq!(pace.hold(now + left), None);
        // Portions of HOLD keep it busy: the state does not flap.
        for _ in 0..50 {
            now += HOLD;
            assert_eq!(pace.hold(now), None);
            pace.wrote(now);
            assert!(pace.hold(now + Duration::from_micros(100)).is_some());
        }
        assert_eq!(pace.hold(now + WINDOW), None);
    }
}
