//! Who ends what: stops, deadlines, trees that hide, and who waits for whom.
#![allow(clippy::unwrap_used, clippy::panic, reason = "test code: a panic is the report")]
mod common;
use common::{Rig, boot_ms, lives, until};
use reeve_protocol::Cause;
use reeve_protocol::wire::{Finished, Revoke, Shutdown, Start, Stop, kind};
use std::path::Path;

/// A script whose child leaves session, group and environment, ignores TERM, and writes its process id.
fn daemon(pid_file: &Path) -> String {
    let inner = format!("trap \"\" TERM; echo $$ > {}; while :; do sleep 0.1; done", pid_file.display());
    format!(
        "setsid env -i PATH=$PATH sh -c '{inner}' & while ! test -s {}; do sleep 0.01; done",
        pid_file.display()
    )
}

fn pid_in(file: &Path) -> u32 {
    until("the daemon writes its pid", || std::fs::read_to_string(file).ok()?.trim().parse().ok())
}

fn stop(rig: &mut Rig, start: &Start, cause: &Cause, grace_ms: u64) -> Finished {
    let stop = Stop { attempt: start.attempt, cause: cause.to_wire(), grace_ms };
    rig.send(kind::STOP, &stop);
    rig.finish(start.attempt)
}

#[test]
fn a_daemon_that_hides_and_ignores_term_ends_with_the_attempt() {
    let mut rig = Rig::new();
    let file = rig.root.join("pid");
    let mut job = rig.sh(&format!("{}; exit 7", daemon(&file)));
    job.grace_ms = 100;
    let end = rig.run(&job);
    assert_eq!(Cause::from_wire(end.cause), Cause::Exit { code: 7 });
    assert!(!lives(pid_in(&file)));
}

#[test]
fn a_stop_ends_the_whole_tree_with_the_cause_that_was_given() {
    let mut rig = Rig::new();
    let file = rig.root.join("pid");
    let job = rig.sh(&format!("trap '' TERM; {}; sleep 100", daemon(&file)));
    let command = rig.start(&job).pid;
    let hidden = pid_in(&file);
    let end = stop(&mut rig, &job, &Cause::Cancelled, 100);
    assert_eq!(Cause::from_wire(end.cause), Cause::Cancelled);
    assert!(!lives(command) && !lives(hidden));
}

#[test]
fn a_polite_command_has_its_grace() {
    let mut rig = Rig::new();
    let ready = rig.root.join("ready");
    let job = rig.sh(&format!(
        "trap 'echo bye; exit 0' TERM; touch {}; while :; do sleep 0.05; done",
        ready.display()
    ));
    rig.start(&job);
    until("the trap is set", || ready.exists().then_some(()));
    let end = stop(&mut rig, &job, &Cause::Drained, 60_000);
    assert_eq!(Cause::from_wire(end.cause.clone()), Cause::Drained);
    assert_eq!(common::stdout(&end), "bye\n");
}

#[test]
fn a_deadline_is_kept_by_the_guardian() {
    let mut rig = Rig::new();
    let mut job = rig.job(&["sleep", "100"]);
    job.timeout_ms = 50;
    assert_eq!(rig.cause(&job), Cause::Timeout);
}

#[test]
fn an_exclusive_attempt_ends_by_its_own_clock_unless_it_is_renewed() {
    let mut rig = Rig::new();
    rig.heard(boot_ms());
    let (mut ends, mut goes_on) = (rig.job(&["sleep", "100"]), rig.job(&["sleep", "100"]));
    ends.stop_after_ms = 5_000;
    goes_on.stop_after_ms = 60_000;
    rig.start(&goes_on);
    rig.heard(boot_ms());
    assert_eq!(rig.cause(&ends), Cause::Lost);
    // It was heard 59 s ago, says the agent now, and that word came late: a second is left, whoever passed it on.
    let mut late = rig.job(&["sleep", "100"]);
    late.stop_after_ms = 60_000;
    rig.heard(boot_ms() - 1_000);
    let pid = rig.start(&goes_on).pid;
    assert!(lives(pid), "an older word makes no lease shorter");
}

#[test]
fn an_exclusive_attempt_whose_start_comes_too_late_never_starts() {
    let mut rig = Rig::new();
    let mark = rig.root.join("ran");
    let mut job = rig.job(&["touch", mark.to_str().unwrap()]);
    job.stop_after_ms = 10_000;
    // Agent and Start lay stopped for ten seconds: the coordinator was last known to hear this machine before that.
    rig.heard(boot_ms() - 10_000);
    rig.send(kind::START, &job);
    assert_eq!(rig.expect::<Revoke>(kind::RETURNED).attempt, job.attempt);
    rig.heard(boot_ms());
    rig.send(kind::START, &job);
    let other = rig.job(&["true"]);
    assert_eq!(rig.cause(&other), Cause::Ok);
    assert!(!mark.exists(), "a second copy of the Start changes nothing");
}

#[test]
fn attempts_wait_for_room_in_their_order() {
    let mut rig = Rig::new();
    rig.limits(1000);
    let (first, second, third) = (rig.job(&["sleep", "100"]), rig.job(&["true"]), rig.job(&["true"]));
    rig.start(&first);
    rig.send(kind::START, &second);
    rig.send(kind::START, &third);
    rig.send(kind::REVOKE, &Revoke { attempt: second.attempt });
    assert_eq!(rig.expect::<Revoke>(kind::RETURNED).attempt, second.attempt);
    stop(&mut rig, &first, &Cause::Cancelled, 0);
    assert_eq!(Cause::from_wire(rig.finish(third.attempt).cause), Cause::Ok);
    let waiting = rig.job(&["sleep", "100"]);
    rig.start(&waiting);
    let never = rig.job(&["true"]);
    rig.send(kind::START, &never);
    let end = stop(&mut rig, &never, &Cause::Cancelled, 0);
    assert_eq!((Cause::from_wire(end.cause), end.started_ms), (Cause::Cancelled, 0));
}

#[test]
fn what_is_larger_than_the_machine_is_refused() {
    let mut rig = Rig::new();
    let mut job = rig.job(&["true"]);
    job.cpu_milli = 64_000;
    assert!(matches!(rig.cause(&job), Cause::Rejected { .. }));
}

#[test]
fn the_same_start_twice_runs_once() {
    let mut rig = Rig::new();
    let file = rig.root.join("count");
    let job = rig.sh(&format!("echo x >> {}; sleep 100", file.display()));
    let first = rig.start(&job);
    let again = rig.start(&job);
    assert_eq!(first, again);
    until("it writes", || file.exists().then_some(()));
    stop(&mut rig, &job, &Cause::Cancelled, 0);
    rig.send(kind::START, &job);
    assert_eq!(Cause::from_wire(rig.finish(job.attempt).cause), Cause::Cancelled);
    assert!(std::fs::read_to_string(&file).unwrap().len() <= 2);
}

#[test]
fn a_stop_that_comes_before_its_start_wins() {
    let mut rig = Rig::new();
    let (job, other) = (rig.job(&["true"]), rig.job(&["true"]));
    let end = stop(&mut rig, &job, &Cause::Cancelled, 0);
    assert_eq!((Cause::from_wire(end.cause), end.pid), (Cause::Cancelled, 0));
    rig.send(kind::START, &job);
    rig.send(kind::START, &other);
    let next: Finished = rig.expect(kind::FINISHED);
    assert_eq!(next.attempt, other.attempt);
    assert!(!rig.has_files(job.attempt));
}

#[test]
fn a_shutdown_ends_everything_and_the_keeper_leaves() {
    let mut rig = Rig::new();
    let job = rig.job(&["sleep", "100"]);
    let pid = rig.start(&job).pid;
    rig.send(kind::SHUTDOWN, &Shutdown { cause: Cause::Drained.to_wire() });
    assert_eq!(Cause::from_wire(rig.finish(job.attempt).cause), Cause::Drained);
    assert!(!lives(pid));
    until("the socket is gone", || (!rig.root.join("keeper.sock").exists()).then_some(()));
}
