//! A keeper whose attempts live in a control group that somebody else holds: what it does while that is absent, held,
//! closed. The group is played by plain files; tests/tests/systemd.rs has a real one.
#![allow(clippy::unwrap_used, clippy::panic, reason = "test code: a panic is the report")]
mod common;
use common::{Rig, until};
use reeve_protocol::Cause;
use reeve_protocol::wire::{Inventory, Taking, kind};
use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::path::{Path, PathBuf};

fn group(root: &Path) -> PathBuf {
    root.with_extension("group")
}

fn rig() -> Rig {
    Rig::with(|root| vec!["--jobs-cgroup".to_owned(), group(root).join("file").display().to_string()])
}

/// As `reeve-agent jobs` does: whole and locked before it has its name.
fn hold(rig: &Rig) -> File {
    let group = group(&rig.root);
    std::fs::create_dir_all(group.join("attempts")).unwrap();
    std::fs::write(group.join("attempts/cgroup.procs"), "").unwrap();
    std::fs::write(group.join("new"), format!("{}\n", group.display())).unwrap();
    let held = File::open(group.join("new")).unwrap();
    flock(&held, FlockOperation::LockExclusive).unwrap();
    std::fs::rename(group.join("new"), group.join("file")).unwrap();
    held
}

/// The phases of all attempts that the keeper knows.
fn phases(rig: &mut Rig) -> Vec<u16> {
    rig.send(kind::INVENTORY_ASK, &());
    let inventory: Inventory = rig.expect(kind::INVENTORY);
    inventory.items.iter().map(|item| item.phase).collect()
}

#[test]
fn nothing_starts_without_its_group_and_what_runs_is_drained_when_it_is_closed() {
    let mut rig = rig();
    let job = rig.sh("exec sleep 1000");
    rig.send(kind::START, &job);
    assert_eq!(phases(&mut rig), [0], "it waits");
    let held = hold(&rig);
    let started: reeve_protocol::wire::Started = rig.expect(kind::STARTED);
    assert_eq!(started.attempt, job.attempt);
    let entered = std::fs::read_to_string(group(&rig.root).join("attempts/cgroup.procs")).unwrap();
    assert_eq!(entered, "0", "its guardian has moved itself before it started anything");

    let waiting = rig.sh("true");
    std::fs::remove_file(group(&rig.root).join("file")).unwrap();
    let ended = rig.finish(job.attempt);
    assert_eq!(Cause::from_wire(ended.cause), Cause::Drained);
    rig.send(kind::START, &waiting);
    rig.forget(job.attempt);
    assert_eq!(phases(&mut rig), [0], "what comes after that waits again");
    drop(held);
    let _held = hold(&rig);
    assert_eq!(Cause::from_wire(rig.finish(waiting.attempt).cause), Cause::Ok);
}

fn takes(rig: &mut Rig) -> Option<String> {
    let taking: Taking = rig.expect(kind::TAKING);
    taking.refuses
}

#[test]
fn the_coordinator_is_told_whether_anything_may_start_and_again_when_nobody_is_at_work() {
    let mut rig = rig();
    rig.send(kind::INVENTORY_ASK, &());
    assert!(takes(&mut rig).unwrap().contains("reeve-jobs"), "with the inventory");
    let held = hold(&rig);
    assert_eq!(takes(&mut rig), None, "an idle keeper looks while it refuses");
    let job = rig.sh("exec sleep 1000");
    rig.start(&job);
    std::fs::remove_file(group(&rig.root).join("file")).unwrap();
    drop(held);
    assert!(takes(&mut rig).unwrap().contains("stopped"));
    assert_eq!(Cause::from_wire(rig.finish(job.attempt).cause), Cause::Drained);
}

#[test]
fn a_holder_that_is_dead_holds_nothing_although_its_file_lies_there() {
    let mut rig = rig();
    let held = hold(&rig);
    let job = rig.sh("exec sleep 1000");
    rig.start(&job);
    drop(held);
    assert_eq!(Cause::from_wire(rig.finish(job.attempt).cause), Cause::Drained);
    until("the file is still there", || group(&rig.root).join("file").exists().then_some(()));
}

#[test]
fn the_holder_takes_its_file_away_when_told_to_stop_and_leaves() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cgroup");
    let mut holder = std::process::Command::new(env!("CARGO_BIN_EXE_reeve-agent"))
        .args(["jobs", "--group", "/proc/nowhere", "--file"])
        .arg(&file)
        .spawn()
        .unwrap();
    until("it holds", || file.exists().then_some(()));
    rustix::process::kill_process(rustix::process::Pid::from_child(&holder), rustix::process::Signal::TERM)
        .unwrap();
    assert!(holder.wait().unwrap().success());
    assert!(!file.exists());
}
