//! An exclusive attempt's own clock. It counts from the last moment at which the coordinator is known to have heard this
//! machine, and counts suspended time too, so that the attempt has ended before another one may start elsewhere.
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use std::io;
use std::os::fd::OwnedFd;

/// The lease of one attempt.
pub(super) struct Lease {
    /// Readable when it may be over: it wakes the guardian and decides nothing.
    pub(super) timer: OwnedFd,
    after_ms: u64,
    ends: u64,
}

impl Lease {
    /// Of `after_ms` from `heard` on, boot-time milliseconds. `None`: the attempt is not exclusive.
    pub(super) fn new(after_ms: u64, heard: u64) -> io::Result<Option<Self>> {
        if after_ms == 0 {
            return Ok(None);
        }
        let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        let mut lease = Self { timer, after_ms, ends: 0 };
        lease.renew(heard);
        Ok(Some(lease))
    }

    /// The coordinator is known to have heard this machine at `heard`. What comes late or twice changes nothing.
    pub(super) fn renew(&mut self, heard: u64) {
        let ends = heard.saturating_add(self.after_ms);
        if ends <= self.ends {
            return;
        }
        self.ends = ends;
        let at = Timespec { tv_sec: (ends / 1000) as i64, tv_nsec: ((ends % 1000) * 1_000_000) as i64 };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: at };
        if let Err(error) = timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &once) {
            tracing::error!(%error, "the lease cannot be renewed");
        }
    }

    /// Whether the attempt must end.
    pub(super) fn is_over(&self, now: u64) -> bool {
        self.ends <= now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_counts_from_when_we_were_heard_and_never_becomes_shorter() {
        assert!(Lease::new(0, 5).unwrap().is_none());
        let mut lease = Lease::new(1_000, 50_000).unwrap().unwrap();
        assert!(!lease.is_over(50_999) && lease.is_over(51_000));
        lease.renew(49_000);
        assert!(!lease.is_over(50_999), "an older word");
        lease.renew(60_000);
        assert!(!lease.is_over(60_999) && lease.is_over(61_000));
    }
}
