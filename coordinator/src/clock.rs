//! The only place that reads the time.
use crate::input::Now;

/// Reads both clocks. Wall time is clamped by the caller so that it never decreases.
pub fn now() -> Now {
    let boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let wall = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    Now { mono: millis(boot) as u64, wall: millis(wall) }
}

fn millis(t: rustix::time::Timespec) -> i64 {
    t.tv_sec * 1000 + t.tv_nsec / 1_000_000
}
