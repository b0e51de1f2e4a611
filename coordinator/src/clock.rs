//! The only place that reads the time, and the rule by which wall time goes on when somebody sets the clock.
use crate::input::Now;

/// Reads both clocks as they are.
pub fn now() -> Now {
    let boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let wall = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    Now { mono: millis(boot) as u64, wall: millis(wall) }
}

fn millis(t: rustix::time::Timespec) -> i64 {
    t.tv_sec * 1000 + t.tv_nsec / 1_000_000
}

/// Wall time that never decreases, so that what is stored is in order, and never stands still: when the clock is set
/// back, it goes on at nine tenths of its pace until the clock has caught up. Standing still would stop every delay and
/// every lease for as long as the clock was set back.
#[derive(Clone, Copy, Debug, Default)]
pub struct Steady {
    last: Now,
    /// Where the clock was left behind.
    ahead_since: Option<Now>,
}

impl Steady {
    /// A clock that goes on where the store ends: a machine may start with a clock that is years behind.
    pub const fn since(mono: u64, wall: i64) -> Self {
        Self { last: Now { mono, wall }, ahead_since: None }
    }

    /// The time to decide by, from both clocks as they were read.
    pub fn read(&mut self, raw: Now) -> Now {
        let mut now = raw;
        if raw.wall < self.last.wall {
            let since = *self.ahead_since.get_or_insert(self.last);
            now.wall =
                (since.wall + (raw.mono.saturating_sub(since.mono) * 9 / 10) as i64).max(self.last.wall);
        }
        if raw.wall >= now.wall {
            (now.wall, self.ahead_since) = (raw.wall, None);
        }
        self.last = now;
        now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(mono: u64, wall: i64) -> Now {
        Now { mono, wall }
    }

    #[test]
    fn wall_time_follows_the_clock_forwards() {
        let mut steady = Steady::default();
        for now in [at(0, 1_000), at(10, 1_010), at(20, 9_000_000)] {
            assert_eq!(steady.read(now), now);
        }
    }

    #[test]
    fn a_clock_that_is_behind_the_store_goes_on_from_there() {
        let mut steady = Steady::since(500, 1_000_000);
        assert_eq!(steady.read(at(500, 7)).wall, 1_000_000);
        assert_eq!(steady.read(at(1_500, 1_007)).wall, 1_000_900);
        assert_eq!(Steady::since(500, 1_000_000).read(at(500, 2_000_000)).wall, 2_000_000);
    }

    #[test]
    fn a_clock_that_is_set_back_slows_wall_time_down_until_it_has_caught_up() {
        let mut steady = Steady::default();
        steady.read(at(0, 10_000));
        assert_eq!(steady.read(at(0, 9_000)).wall, 10_000);
        for ms in 1..=1_000 {
            assert_eq!(steady.read(at(ms, 9_000 + ms as i64)).wall, 10_000 + ms as i64 * 9 / 10);
        }
        assert_eq!(steady.read(at(9_999, 18_999)).wall, 18_999);
        assert_eq!(
            steady.read(at(10_000, 19_000)).wall,
            19_000,
            "caught up after ten times what was set back"
        );
        assert_eq!(steady.read(at(10_001, 19_001)).wall, 19_001);
    }
}
