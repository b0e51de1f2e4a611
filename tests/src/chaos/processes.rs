//! Finding processes: a machine's keeper, its guardians, the jobs; and what a process uses.
use rustix::process::{Pid, Signal, kill_process};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// What a process uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Use {
    /// Resident bytes.
    pub rss: u64,
    /// Open descriptors.
    pub fds: u64,
    /// Threads.
    pub threads: u64,
}

/// What a process uses now; `None` when it is gone.
pub fn usage(pid: u32) -> Option<Use> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let number = |name: &str| -> Option<u64> {
        status.lines().find_map(|l| l.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
    };
    let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count() as u64;
    Some(Use { rss: number("VmRSS:")? * 1024, fds, threads: number("Threads:")? })
}

/// Sends a signal; a process that is gone does not mind.
pub fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid as i32) {
        let _ = kill_process(pid, signal);
    }
}

/// All processes whose command line has this text.
pub fn with_text(text: &str) -> Vec<u32> {
    let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| *pid != std::process::id() && command_line(*pid).contains(text)).collect()
}

/// A process's words, separated by blanks; empty when it is gone or a zombie.
pub fn command_line(pid: u32) -> String {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line).replace('\0', " ")
}

/// Who holds the lock of a machine's runtime directory: its keeper. Guardians have the same command line.
pub fn keeper(runtime: &Path) -> Option<u32> {
    let inode = std::fs::metadata(runtime.join("keeper.lock")).ok()?.ino();
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    let pid = locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let is_it = words.get(1) == Some(&"FLOCK") && words.get(5)?.rsplit(':').next()?.parse() == Ok(inode);
        is_it.then(|| words.get(4)?.parse::<u32>().ok()).flatten()
    })?;
    crate::alive(pid).then_some(pid)
}

/// The parent.
pub fn parent(pid: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|l| l.strip_prefix("PPid:")?.trim().parse().ok())
}

/// Whether it is what forks the guardians of this keeper.
pub fn is_zygote(pid: u32, keeper: Option<u32>) -> bool {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.trim_end() == "reeve-zygote" && parent(pid).is_some_and(|parent| Some(parent) == keeper)
}

/// The attempt a process belongs to, from its environment: job, index (or nothing), attempt.
pub fn attempt_of(pid: u32) -> Option<(u64, Option<u32>, u32)> {
    let environment = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
    let environment = String::from_utf8_lossy(&environment);
    let value = |name: &str| environment.split('\0').find_map(|pair| pair.strip_prefix(name));
    Some((
        value("REEVE_JOB_ID=")?.parse().ok()?,
        value("REEVE_INDEX=").and_then(|index| index.parse().ok()),
        value("REEVE_ATTEMPT=")?.parse().ok()?,
    ))
}

/// Bytes of memory that may be taken without hurting anybody; 0 where the kernel does not say.
pub fn available_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = text.lines().find_map(|line| line.strip_prefix("MemAvailable:")?.trim().strip_suffix(" kB"));
    kib.and_then(|kib| kib.trim().parse::<u64>().ok()).map_or(0, |kib| kib << 10)
}

/// Bytes below a directory.
pub fn disk_use(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => disk_use(&entry.path()),
            Ok(meta) => meta.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_something_and_a_process_that_is_gone_nothing() {
        let own = usage(std::process::id()).unwrap();
        assert!(own.rss > 100_000 && own.fds >= 3 && own.threads >= 1, "{own:?}");
        assert_eq!(usage(u32::MAX), None);
        assert!(parent(std::process::id()).is_some());
        assert!(available_memory() > 1 << 20, "a machine that runs tests has some");
    }

    #[test]
    fn the_holder_of_a_lock_is_found() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(keeper(dir.path()), None);
        let file = std::fs::File::create(dir.path().join("keeper.lock")).unwrap();
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).unwrap();
        assert_eq!(keeper(dir.path()), Some(std::process::id()));
    }

    #[test]
    fn an_attempt_is_read_from_the_environment() {
        let mut child = std::process::Command::new("sleep")
            .arg("600")
            .env_clear()
            .envs([("REEVE_JOB_ID", "7"), ("REEVE_ATTEMPT", "2"), ("REEVE_INDEX", "3")])
            .spawn()
            .unwrap();
        let found = crate::eventually("its environment", || attempt_of(child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(found, (7, Some(3), 2));
    }
}
