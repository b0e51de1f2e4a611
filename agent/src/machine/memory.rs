//! Memory: what may be used, what is used, and how often the kernel has killed for it.
use super::cgroup::{directories, field, number};
use std::path::Path;

/// Bytes that may be used: the least of the machine's and of every control group's limit.
pub(crate) fn usable() -> u64 {
    let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let limits = directories("memory")
        .into_iter()
        .flat_map(|dir| [number(&dir.join("memory.max")), number(&dir.join("memory.limit_in_bytes"))])
        .flatten();
    limits.fold(total(&info), u64::min)
}

/// Bytes in use on the machine.
pub(crate) fn used() -> u64 {
    used_of(&std::fs::read_to_string("/proc/meminfo").unwrap_or_default())
}

fn total(meminfo: &str) -> u64 {
    kib(meminfo, "MemTotal:")
}

fn used_of(meminfo: &str) -> u64 {
    total(meminfo).saturating_sub(kib(meminfo, "MemAvailable:"))
}

fn kib(meminfo: &str, word: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(word));
    line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// How often the kernel has killed a process of our control group for memory; `None` where it does not say.
pub(crate) fn oom_kills() -> Option<u64> {
    let dir = directories("memory").into_iter().next()?;
    kills_in(&dir)
}

fn kills_in(dir: &Path) -> Option<u64> {
    ["memory.events", "memory.oom_control"]
        .into_iter()
        .find_map(|file| field(&std::fs::read_to_string(dir.join(file)).ok()?, "oom_kill "))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = "MemTotal:       16384 kB\nMemFree:  1 kB\nMemAvailable:    4096 kB\n";

    #[test]
    fn meminfo_is_read_in_kibibytes() {
        assert_eq!(total(SAMPLE), 16 << 20);
        assert_eq!(used_of(SAMPLE), 12 << 20);
        assert_eq!(total(""), 0);
    }

    #[test]
    fn this_machine_has_memory_and_uses_some() {
        assert!(usable() > 0 && used() > 0);
    }

    #[test]
    fn kills_are_counted_in_either_version() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(kills_in(dir.path()), None);
        std::fs::write(
            dir.path().join("memory.oom_control"),
            "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
        )
        .unwrap();
        assert_eq!(kills_in(dir.path()), Some(2));
        std::fs::write(dir.path().join("memory.events"), "low 0\noom 4\noom_kill 3\n").unwrap();
        assert_eq!(kills_in(dir.path()), Some(3));
    }
}
