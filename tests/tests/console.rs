//! The console on a real terminal against a real server: what a person sees, and that nothing happens by accident.
use reeve_tests::server::Server;
use reeve_tests::terminal::Terminal;

const ESCAPE: &str = "\x1b";

fn console(server: &Server) -> Terminal {
    Terminal::reeve(server.socket(), server.scratch(), &[])
}

/// Keys that come right after a box has opened were meant for what was there before, and do nothing.
fn armed() {
    let opened = std::time::Instant::now();
    reeve_tests::eventually("the box to take keys", || (opened.elapsed().as_millis() > 500).then_some(()));
}

#[test]
fn jobs_are_found_filtered_and_cancelled_only_after_a_yes() {
    let server = Server::start();
    server.ok(&["submit", "--name", "nightly", "--", "sleep", "600"]);
    server.ok(&["submit", "--name", "other", "--hold", "--", "true"]);
    server.until("1", "RUNNING");
    let mut t = console(&server);
    t.shows("Overview");
    t.keys("3");
    t.until("both jobs", |s| s.contains("nightly") && s.contains("other"));
    t.keys("/name:night*\r");
    t.until("the filter to hold", |s| s.contains("nightly") && !s.contains("other"));
    t.keys("X");
    let dialog = t.until("a dialog with a count", |s| s.to_lowercase().contains("cancel 1 "));
    assert!(dialog.contains("nightly") || dialog.contains("RUNNING") || dialog.contains('1'), "{dialog}");
    assert_eq!(server.job("1")["state"], "RUNNING", "a dialog changes nothing");
    armed();
    t.keys(ESCAPE);
    t.until("the dialog to close", |s| !s.to_lowercase().contains("cancel 1 "));
    assert_eq!(server.job("1")["state"], "RUNNING", "escape changes nothing");
    t.keys("X");
    t.until("the dialog again", |s| s.to_lowercase().contains("cancel 1 "));
    armed();
    t.keys("y");
    assert_eq!(server.until("1", "CANCELLED")["cause"]["kind"], "cancelled");
    assert_eq!(server.job("2")["state"], "QUEUED", "the other one is untouched");
    t.until("the box to tell what was done", |s| !s.contains("[ no ]") && s.contains("Enter close"));
    armed();
    t.keys("\r");
    t.until("the box to close", |s| !s.contains("Enter close"));
    t.keys("q");
    assert_eq!(t.ended(), 0);
    t.is_restored();
}

#[test]
fn a_signal_gives_the_terminal_back_and_leaves_the_server_alone() {
    let server = Server::start();
    let mut t = console(&server);
    t.shows("Overview");
    let pid = rustix::process::Pid::from_raw(t.pid() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_ne!(t.ended(), 0, "a signal is told");
    t.is_restored();
    assert_eq!(server.get("/v1/health").status, 200);
}

#[test]
fn a_server_that_goes_away_is_told_and_found_again() {
    let mut server = Server::start();
    server.ok(&["submit", "--name", "keeps-going", "--", "sleep", "600"]);
    server.until("1", "RUNNING");
    let mut t = console(&server);
    t.keys("3");
    t.shows("keeps-going");
    server.signal(rustix::process::Signal::KILL);
    t.until("the loss to be told", |s| {
        ["reconnect", "disconnected", "offline", "lost", "not reach", "no connection"]
            .iter()
            .any(|w| s.to_lowercase().contains(w))
    });
    server.up();
    server.ok(&["submit", "--name", "came-later", "--hold", "--", "true"]);
    t.shows("came-later");
    t.keys("q");
    assert_eq!(t.ended(), 0);
    t.is_restored();
}
