//! What the end-to-end tests share: real servers on private directories, real commands, a tiny HTTP client.
//!
//! Which level to use: pure logic is tested beside its code; one part against the real thing in that part's `tests/`;
//! here only what needs several parts at once. No test sleeps and hopes: it waits for a fact with [`eventually`].
#![allow(clippy::missing_panics_doc, clippy::unwrap_used, clippy::panic, reason = "this package is tests")]

pub mod http;
pub mod machine;
pub mod server;

use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The longest any fact is waited for: generous, since the tests share two cores with each other.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// One of the workspace's binaries, of the same profile as the running test.
pub fn binary(name: &str) -> PathBuf {
    let mut dir = std::env::current_exe().unwrap();
    dir.pop();
    if dir.ends_with("deps") {
        dir.pop();
    }
    let path = dir.join(name);
    assert!(path.exists(), "{} is not built; run: cargo build --bins (or tests/run, which does)", path.display());
    path
}

/// Asks again until the answer is `Some`.
pub fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < end, "waited {PATIENCE:?} for: {what}");
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

/// Whether a process exists and is no zombie.
pub fn alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| s.rsplit(')').next().is_some_and(|rest| !rest.trim_start().starts_with('Z')))
}
