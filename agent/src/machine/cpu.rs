//! Cpus: how many may be used.
use super::cgroup::directories;

/// Thousandths of cpus that may be used: the least of the affinity mask and of every control group's quota.
pub(crate) fn usable_milli() -> u32 {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let affinity = rustix::thread::sched_getaffinity(None).map_or(threads as u32, |set| set.count());
    let quotas = directories("cpu").into_iter().filter_map(|dir| {
        let read = |file: &str| std::fs::read_to_string(dir.join(file)).ok();
        read("cpu.max").and_then(|text| quota_milli(&text)).or_else(|| {
            quota_milli(&format!(
                "{} {}",
                read("cpu.cfs_quota_us")?.trim(),
                read("cpu.cfs_period_us")?.trim()
            ))
        })
    });
    // A quota below one cpu still runs one job of one cpu at a time, slowly.
    quotas.fold(affinity * 1000, u32::min).max(100)
}

/// `quota period` in microseconds, as in `cpu.max`; `None` without a limit.
fn quota_milli(text: &str) -> Option<u32> {
    let mut words = text.split_ascii_whitespace();
    let quota: i64 = words.next()?.parse().ok()?;
    let period: i64 = words.next()?.parse().ok()?;
    (quota > 0 && period > 0).then(|| u32::try_from(quota.saturating_mul(1000) / period).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas() {
        assert_eq!(quota_milli("150000 100000\n"), Some(1500));
        for none in ["max 100000", "-1 100000", "", "5", "5 0"] {
            assert_eq!(quota_milli(none), None, "{none}");
        }
    }

    #[test]
    fn this_machine_has_a_cpu() {
        assert!(usable_milli() >= 100);
    }
}
