//! Crash points: named places where a daemon of a debug build can be made to die, so that a test can look at what
//! every possible moment of a power cut leaves behind. In a release build they are nothing.
//!
//! `REEVE_CRASH_AT=NAME[:K]` arms one: the process that reaches `NAME` for the K-th time (1 when left out) aborts there,
//! without unwinding and without writing out what it holds. `REEVE_CRASH_NOTE=PATH` makes that happen once among all
//! processes that inherit both: the one that creates `PATH` dies, whoever comes later lives on. So a keeper that is started
//! again does not die again, and the file tells the test that the place was reached.
//!
//! `REEVE_HOLD_AT=NAME` with `REEVE_HOLD_NOTE=PATH` makes the process that creates `PATH` wait at `NAME` until `PATH.go`
//! exists, so that a test can put something in between.

/// A crash point.
#[inline(always)]
#[expect(clippy::inline_always, reason = "left as a call, its name would stay in a release binary")]
pub fn point(name: &str) {
    #[cfg(debug_assertions)]
    armed::reached(name);
    #[cfg(not(debug_assertions))]
    let _ = name;
}

/// A crash point of which there are several kinds: it is called `NAME.KIND`. The kind is asked for only when one of this
/// name is armed.
#[inline(always)]
#[expect(clippy::inline_always, reason = "left as a call, its name would stay in a release binary")]
pub fn point_of(name: &str, kind: impl FnOnce() -> &'static str) {
    #[cfg(debug_assertions)]
    if armed::is_about(name) {
        armed::reached(&format!("{name}.{}", kind()));
    }
    #[cfg(not(debug_assertions))]
    let _ = (name, kind);
}

#[cfg(debug_assertions)]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// What the environment says, read once: a guardian inherits its keeper's.
    struct Armed {
        name: String,
        at: u64,
        seen: AtomicU64,
        note: Option<std::ffi::OsString>,
    }

    fn armed() -> Option<&'static Armed> {
        static ARMED: OnceLock<Option<Armed>> = OnceLock::new();
        ARMED
            .get_or_init(|| {
                let (name, at) = super::parse(&std::env::var("REEVE_CRASH_AT").ok()?);
                Some(Armed { name, at, seen: AtomicU64::new(0), note: std::env::var_os("REEVE_CRASH_NOTE") })
            })
            .as_ref()
    }

    pub(super) fn is_about(name: &str) -> bool {
        armed().is_some_and(|a| a.name.strip_prefix(name).is_some_and(|rest| rest.starts_with('.')))
    }

    /// Waits once, a minute at most: a test that has failed leaves nobody behind.
    fn hold(name: &str) {
        let is_held = std::env::var("REEVE_HOLD_AT").is_ok_and(|at| at == name);
        let Some(note) = std::env::var_os("REEVE_HOLD_NOTE").filter(|note| is_held && is_first(note)) else {
            return;
        };
        let mut go = note;
        go.push(".go");
        for _ in 0..6_000 {
            if std::fs::exists(&go).unwrap_or(true) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    fn is_first(note: &std::ffi::OsString) -> bool {
        std::fs::File::options().write(true).create_new(true).open(note).is_ok()
    }

    pub(super) fn reached(name: &str) {
        hold(name);
        let Some(armed) = armed().filter(|a| a.name == name) else { return };
        if armed.seen.fetch_add(1, Ordering::Relaxed) + 1 != armed.at {
            return;
        }
        if armed.note.as_ref().is_none_or(is_first) {
            std::process::abort();
        }
    }
}

/// Name and count of `NAME[:K]`; what is no number is the first time.
#[cfg(debug_assertions)]
fn parse(text: &str) -> (String, u64) {
    let (name, count) = text.split_once(':').unwrap_or((text, "1"));
    (name.to_owned(), count.parse().unwrap_or(1))
}

#[cfg(all(test, debug_assertions))]
mod tests {
    #[test]
    fn a_point_has_a_name_and_perhaps_a_count() {
        for (text, name, count) in [("a.b", "a.b", 1), ("a.b:3", "a.b", 3), ("a:x", "a", 1)] {
            assert_eq!(super::parse(text), (name.to_owned(), count));
        }
    }

    #[test]
    fn unarmed_points_do_nothing_and_ask_for_no_kind() {
        super::point("somewhere");
        super::point_of("somewhere", || unreachable!("nobody armed it"));
    }
}
