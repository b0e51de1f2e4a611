//! The life of a machine: when it changes, no process of before lives. The boot id alone is not enough: a restarted
//! container keeps it.
use crate::guardian::tree::Stat;
use std::os::unix::fs::MetadataExt as _;

/// Boot id, pid namespace and start time of pid 1.
pub(crate) fn current() -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let namespace = std::fs::metadata("/proc/self/ns/pid").map_or(0, |m| m.ino());
    let start = Stat::read(1).map_or(0, |stat| stat.start);
    format!("{}:{namespace}:{start}{}", boot.trim(), another())
}

/// No test can restart the machine: one that was built for tests takes a word for another life.
#[cfg(debug_assertions)]
fn another() -> String {
    std::env::var("REEVE_TEST_LIFE").unwrap_or_default()
}

#[cfg(not(debug_assertions))]
const fn another() -> &'static str {
    ""
}

#[cfg(test)]
mod tests {
    #[test]
    fn it_stays_the_same_and_has_three_parts() {
        let life = super::current();
        assert_eq!(life, super::current());
        assert_eq!(life.split(':').count(), 3);
    }
}
