//! What outlives what: attempts outlive keepers, only a killed guardian loses its one attempt, and garbage ends one
//! connection.
#![allow(clippy::unwrap_used, clippy::panic, reason = "test code: a panic is the report")]
mod common;
use common::{GuardianLink, Rig, lives, spawn_keeper, until};
use reeve_protocol::Cause;
use reeve_protocol::guardian;
use reeve_protocol::ids::AttemptId;
use reeve_protocol::wire::{Inventory, InventoryItem, Reconcile, Verdict, kind};
use rustix::process::{Pid, Signal, kill_process};
use std::io::Write as _;

fn kill(pid: u32) {
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::KILL).unwrap();
}

fn inventory(rig: &mut Rig) -> Vec<InventoryItem> {
    rig.send(kind::INVENTORY_ASK, &());
    let mut items = Vec::new();
    loop {
        let frame = rig.next();
        match frame.kind {
            kind::INVENTORY => items.extend(frame.decode::<Inventory>().unwrap().items),
            kind::INVENTORY_END => return items,
            _ => {}
        }
    }
}

fn report(rig: &mut Rig, attempt: AttemptId) {
    rig.send(kind::RECONCILE, &Reconcile { verdicts: vec![(attempt, Verdict::Report)] });
}

#[test]
fn a_killed_keeper_costs_nothing_the_next_one_finds_everybody() {
    let mut rig = Rig::new();
    let gate = rig.root.join("gate");
    let running = rig.sh(&format!("while ! test -e {}; do sleep 0.02; done; echo done", gate.display()));
    let pid = rig.start(&running).pid;
    let ended = rig.job(&["echo", "kept"]);
    rig.run(&ended);
    rig.kill_keeper();
    assert!(lives(pid));
    rig.start_keeper();
    // A guardian that is slow to answer is listed without its process at first.
    let items = until("all have answered", || {
        Some(inventory(&mut rig)).filter(|i| i.iter().all(|i| i.pid != 0 || i.phase == 3))
    });
    let item = |id| items.iter().find(|i| i.attempt == id).unwrap();
    let found = item(running.attempt);
    assert_eq!((found.phase, found.pid, found.lineage.as_str()), (1, pid, "l1"));
    assert_eq!(item(ended.attempt).phase, 3);
    report(&mut rig, ended.attempt);
    assert_eq!(common::stdout(&rig.finish(ended.attempt)), "kept\n");
    std::fs::write(&gate, "").unwrap();
    let end = rig.finish(running.attempt);
    assert_eq!((Cause::from_wire(end.cause.clone()), common::stdout(&end).as_str()), (Cause::Ok, "done\n"));
    for job in [running, ended] {
        rig.forget(job.attempt);
        until("the files are gone", || (!rig.has_files(job.attempt)).then_some(()));
    }
}

#[test]
fn a_command_that_ends_without_a_keeper_is_remembered() {
    let mut rig = Rig::new();
    let gate = rig.root.join("gate");
    let job = rig.sh(&format!("while ! test -e {}; do sleep 0.02; done; exit 5", gate.display()));
    let pid = rig.start(&job).pid;
    rig.kill_keeper();
    std::fs::write(&gate, "").unwrap();
    until("it ends", || (!lives(pid)).then_some(()));
    rig.start_keeper();
    let phase =
        until("the end is known", || inventory(&mut rig).first().map(|i| i.phase).filter(|p| *p == 3));
    assert_eq!(phase, 3);
    report(&mut rig, job.attempt);
    assert_eq!(Cause::from_wire(rig.finish(job.attempt).cause), Cause::Exit { code: 5 });
}

#[test]
fn a_killed_guardian_loses_its_one_attempt_and_its_tree_is_ended() {
    let mut rig = Rig::new();
    let (job, other) = (rig.sh("setsid sleep 1000 & sleep 1000"), rig.job(&["sleep", "1000"]));
    let pid = rig.start(&job).pid;
    let other_pid = rig.start(&other).pid;
    let guardian = rig.guardian(job.attempt).state().guardian_pid;
    kill(guardian);
    let end = rig.finish(job.attempt);
    assert_eq!(Cause::from_wire(end.cause), Cause::KeeperLost);
    assert!(!lives(pid) && lives(other_pid));
    rig.forget(job.attempt);
    until("the files are gone", || (!rig.has_files(job.attempt)).then_some(()));
}

#[test]
fn keeper_and_guardian_killed_together_leave_an_end_and_no_process() {
    let mut rig = Rig::new();
    let job = rig.job(&["sleep", "1000"]);
    let pid = rig.start(&job).pid;
    let guardian = rig.guardian(job.attempt).state().guardian_pid;
    rig.kill_keeper();
    kill(guardian);
    until("the guardian is gone", || (!lives(guardian)).then_some(()));
    rig.start_keeper();
    let items = inventory(&mut rig);
    assert_eq!((items[0].phase, items[0].lineage.as_str()), (3, "l1"));
    report(&mut rig, job.attempt);
    assert_eq!(Cause::from_wire(rig.finish(job.attempt).cause), Cause::KeeperLost);
    until("its process is gone", || (!lives(pid)).then_some(()));
}

#[test]
fn a_fenced_attempt_ends_and_an_orphan_is_left_alone() {
    let mut rig = Rig::new();
    let (fenced, orphan) = (rig.job(&["sleep", "1000"]), rig.job(&["sleep", "1000"]));
    rig.start(&fenced);
    let pid = rig.start(&orphan).pid;
    let verdicts = vec![(orphan.attempt, Verdict::Orphan), (fenced.attempt, Verdict::Fence)];
    rig.send(kind::RECONCILE, &Reconcile { verdicts });
    assert_eq!(Cause::from_wire(rig.finish(fenced.attempt).cause), Cause::Fenced);
    assert!(lives(pid));
}

#[test]
fn a_guardian_answers_only_who_knows_the_nonce_and_survives_garbage() {
    let mut rig = Rig::new();
    let job = rig.job(&["sleep", "1000"]);
    rig.start(&job);
    let mut stranger = GuardianLink::raw(&rig.root, job.attempt);
    stranger.send(guardian::kind::HELLO, &guardian::Hello { nonce: "wrong".into() });
    assert!(stranger.next().is_none());
    let mut garbage = GuardianLink::raw(&rig.root, job.attempt);
    garbage.stream.write_all(&[0xff; 64]).unwrap();
    assert!(garbage.next().is_none());
    let mut hasty = GuardianLink::raw(&rig.root, job.attempt);
    hasty.send(guardian::kind::FORGET, &guardian::Forget { reason: 1 });
    assert!(hasty.next().is_none());
    let mut link = rig.guardian(job.attempt);
    assert_eq!(link.state().phase, 1);
    // Forgetting what still runs is not obeyed.
    link.send(guardian::kind::FORGET, &guardian::Forget { reason: 1 });
    assert_eq!(rig.guardian(job.attempt).state().phase, 1);
}

#[test]
fn one_directory_has_one_keeper_and_an_idle_keeper_leaves() {
    let rig = Rig::new();
    assert!(!spawn_keeper(&rig.root, 60).wait().unwrap().success());
    let dir = tempfile::tempdir().unwrap();
    assert!(spawn_keeper(&dir.path().join("rt"), 0).wait().unwrap().success());
}

#[test]
fn whoever_only_looks_takes_nobodys_place() {
    let mut rig = Rig::new();
    let looking = rig.visit();
    let job = rig.job(&["true"]);
    assert_eq!(Cause::from_wire(rig.run(&job).cause), Cause::Ok);
    drop(looking);
    // The first word of another connection replaces this one.
    let mut other = rig.visit();
    let mut word = Vec::new();
    reeve_protocol::frame::append(kind::INVENTORY_ASK, 0, &(), &mut word).unwrap();
    other.write_all(&word).unwrap();
    assert!(rig.is_replaced());
}
