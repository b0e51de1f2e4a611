//! What the end-to-end tests share: real servers on private directories, real commands, a tiny HTTP client.
//!
//! Which level to use: pure logic is tested beside its code; one part against the real thing in that part's `tests/`;
//! here only what needs several parts at once. No test sleeps and hopes: it waits for a fact with [`eventually`].
#![allow(clippy::missing_panics_doc, clippy::unwrap_used, clippy::panic, reason = "this package is tests")]

pub mod bank;
pub mod bench;
pub mod broker;
pub mod chaos;
pub mod conformance;
pub mod disk;
pub mod evil;
pub mod fuzz;
pub mod git_server;
pub mod h2;
pub mod http;
pub mod machine;
pub mod outage;
pub mod rabbitmq;
pub mod refusals;
pub mod repo;
pub mod server;
pub mod sim;
pub mod site;
pub mod systemd;
pub mod terminal;
pub mod vfs;

use rustix::process::{Pid, Signal, kill_process};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The longest any fact is waited for: generous, since the tests share two cores with each other.
pub const PATIENCE: Duration = Duration::from_mins(3);

/// One of the workspace's binaries, of the same profile as the running test.
pub fn binary(name: &str) -> PathBuf {
    let mut dir = std::env::current_exe().unwrap();
    dir.pop();
    if dir.ends_with("deps") {
        dir.pop();
    }
    let path = dir.join(name);
    assert!(
        path.exists(),
        "{} is not built; run: cargo build --bins (or tests/run, which does)",
        path.display()
    );
    path
}

/// Asks again until the answer is `Some`.
pub fn eventually<T>(what: &str, ask: impl FnMut() -> Option<T>) -> T {
    eventually_or(|| what.to_owned(), ask)
}

/// The same with words that are made only when it does not come.
pub fn eventually_or<T>(what: impl Fn() -> String, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < end, "waited {PATIENCE:?} for: {}", what());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Notes that a test could not run here, and why: `tests/run` counts these and prints them at the end.
pub fn skip(test: &str, why: &str) {
    use std::io::Write as _;
    eprintln!("SKIPPED {test} ({why})");
    if let Some(path) = std::env::var_os("REEVE_SKIPS") {
        let file = std::fs::File::options().create(true).append(true).open(path);
        let _ = file.and_then(|mut f| writeln!(f, "SKIPPED {test} ({why})"));
    }
}

/// Kills every process that has one of these directories in its command line: keepers and guardians outlive by design
/// whoever started them, and a test leaves nothing behind.
pub fn sweep(dirs: &[&Path]) {
    let Ok(processes) = std::fs::read_dir("/proc") else { return };
    for pid in processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok()) {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        let is_ours = dirs.iter().any(|dir| line.contains(&*dir.to_string_lossy()));
        if let Some(process) = Pid::from_raw(pid).filter(|_| is_ours && pid != std::process::id() as i32) {
            let _ = kill_process(process, Signal::KILL);
        }
    }
}

/// The processes whose command line, in which every word ends with a zero byte, contains all of this.
pub fn processes_with(words: &[&str]) -> Vec<u32> {
    let pids = std::fs::read_dir("/proc").into_iter().flatten();
    pids.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line);
            words.iter().all(|word| line.contains(word))
        })
        .collect()
}

/// Children of a process that have this name in lists of processes.
pub fn children_named(parent: u32, name: &str) -> Vec<u32> {
    let all = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
    let is_it = |pid: &u32| {
        std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name)
    };
    all.split_whitespace().filter_map(|pid| pid.parse().ok()).filter(is_it).collect()
}

/// The process that holds the lock of this file: the keeper, whatever else has the same words in its command line.
pub fn lock_holder(path: &Path) -> Option<Pid> {
    use std::os::unix::fs::MetadataExt as _;
    let inode = format!(":{}", std::fs::metadata(path).ok()?.ino());
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    let is_it =
        |line: &&str| line.contains("FLOCK") && line.split_whitespace().any(|word| word.ends_with(&inode));
    let line = locks.lines().find(is_it)?;
    Pid::from_raw(line.split_whitespace().nth(4)?.parse().ok()?)
}

/// Whether a process exists and is no zombie.
pub fn alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|s| s.rsplit(')').next().is_some_and(|rest| !rest.trim_start().starts_with('Z')))
}
