//! The one clock that agent, keeper and guardians share: it counts suspended time and never goes back.
use rustix::time::{ClockId, clock_gettime};

/// Milliseconds of the boot-time clock.
pub(crate) fn boot_ms() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    now.tv_sec.unsigned_abs() * 1000 + now.tv_nsec.unsigned_abs() / 1_000_000
}

#[cfg(test)]
mod tests {
    #[test]
    fn it_rises() {
        let before = super::boot_ms();
        std::thread::sleep(std::time::Duration::from_millis(2));
        assert!(super::boot_ms() > before);
    }
}
