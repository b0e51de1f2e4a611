//! What forks guardians may be killed, stopped or gone: no attempt is lost over it, and none starts twice.
#![allow(clippy::unwrap_used, clippy::panic, reason = "test code: a panic is the report")]
mod common;
use common::{Rig, lives, stdout, until};
use reeve_protocol::Cause;
use reeve_protocol::wire::{Start, kind};
use rustix::process::{Pid, Signal, kill_process};
use std::path::Path;

fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal).unwrap();
}

/// A job that fails if an attempt of its number has begun before.
fn once(rig: &mut Rig, rest: &str) -> Start {
    let mut job = rig.sh("");
    let mark = rig.root.join(format!("mark-{}", job.attempt.file_name()));
    job.command[2] = format!("set -C; echo > {} && {rest}", mark.display());
    job
}

/// Marks of attempts that have begun.
fn begun(root: &Path) -> usize {
    let names = std::fs::read_dir(root).unwrap().flatten().map(|entry| entry.file_name());
    names.filter(|name| name.to_string_lossy().starts_with("mark-")).count()
}

#[test]
fn killed_again_and_again_under_load_it_loses_no_attempt_and_starts_none_twice() {
    let mut rig = Rig::new();
    let (mut killed, mut known) = (0, Vec::new());
    for _ in 0..10 {
        // Four at once and long enough that none finds an idle guardian.
        let jobs: Vec<Start> = (0..4).map(|_| once(&mut rig, "sleep 0.05")).collect();
        let zygote = rig.zygote();
        for (at, job) in jobs.iter().enumerate() {
            if at == 1 {
                signal(zygote, Signal::KILL);
                killed += 1;
            }
            rig.send(kind::START, job);
        }
        let mut open: Vec<_> = jobs.iter().map(|job| job.attempt).collect();
        while !open.is_empty() {
            let end: reeve_protocol::wire::Finished = rig.expect(kind::FINISHED);
            assert_eq!(Cause::from_wire(end.cause), Cause::Ok);
            open.retain(|attempt| *attempt != end.attempt);
        }
        // Kept, so that the next ones need guardians of their own.
        known.extend(jobs);
    }
    assert_eq!((killed, begun(&rig.root)), (10, known.len()));
    for job in known {
        rig.forget(job.attempt);
    }
    until("idle guardians have left", || (rig.guardians().len() <= 1).then_some(()));
    assert!(lives(rig.zygote()));
}

#[test]
#[cfg_attr(not(debug_assertions), ignore = "crash points are for debug builds")]
fn dying_between_fork_and_answer_it_leaves_a_guardian_that_starts_nothing() {
    let mut rig = Rig::with_env(
        |_| vec!["--cgroups".into(), "off".into()],
        |root| {
            let note = root.join("note").to_str().unwrap().to_owned();
            vec![("REEVE_CRASH_AT".into(), "zygote.forked".into()), ("REEVE_CRASH_NOTE".into(), note)]
        },
    );
    let job = once(&mut rig, "sleep 1000");
    let pid = rig.start(&job).pid;
    assert!(rig.root.join("note").exists(), "it has died");
    let guardian = rig.guardian(job.attempt).state().guardian_pid;
    until("the other guardian leaves", || (rig.guardians() == [guardian]).then_some(()));
    until("it has begun", || (begun(&rig.root) > 0).then_some(()));
    assert!(lives(pid) && begun(&rig.root) == 1);
}

#[test]
fn a_stopped_one_is_replaced_and_what_it_does_later_is_nothing() {
    let mut rig = Rig::with(|_| vec!["--cgroups".into(), "off".into()]);
    let stopped = rig.zygote();
    signal(stopped, Signal::STOP);
    let job = once(&mut rig, "sleep 1000");
    let pid = rig.start(&job).pid;
    signal(stopped, Signal::CONT);
    until("it leaves", || (!lives(stopped)).then_some(()));
    let guardian = rig.guardian(job.attempt).state().guardian_pid;
    until("what it has forked leaves", || (rig.guardians() == [guardian]).then_some(()));
    until("it has begun", || (begun(&rig.root) > 0).then_some(()));
    assert!(lives(pid) && begun(&rig.root) == 1);
    assert_ne!(rig.zygote(), stopped);
}

#[test]
fn it_leaves_with_its_keeper_and_guardians_stay() {
    let mut rig = Rig::new();
    let job = once(&mut rig, "sleep 1000");
    let pid = rig.start(&job).pid;
    let zygote = rig.zygote();
    rig.kill_keeper();
    until("it leaves", || (!lives(zygote)).then_some(()));
    rig.start_keeper();
    assert!(lives(pid));
    let other = rig.sh("echo other");
    assert_eq!(stdout(&rig.run(&other)), "other\n");
    assert!(lives(pid) && rig.zygote() != zygote);
}

#[test]
fn a_killed_guardians_leftovers_are_ended_and_it_is_none_of_them() {
    let mut rig = Rig::new();
    let job = once(&mut rig, "(setsid sleep 1000 &) ; sleep 1000");
    let pid = rig.start(&job).pid;
    let zygote = rig.zygote();
    signal(rig.guardian(job.attempt).state().guardian_pid, Signal::KILL);
    assert_eq!(Cause::from_wire(rig.finish(job.attempt).cause), Cause::KeeperLost);
    assert!(!lives(pid) && lives(zygote) && rig.zygote() == zygote);
}

#[test]
fn it_holds_nothing_of_the_keepers_but_its_socket() {
    let mut rig = Rig::new();
    let job = once(&mut rig, "sleep 1000");
    rig.start(&job);
    let zygote = rig.zygote();
    // While it forks another it holds what that one is given.
    let open = until("it holds four", || {
        let mut open: Vec<(String, String)> = std::fs::read_dir(format!("/proc/{zygote}/fd"))
            .ok()?
            .flatten()
            .map(|fd| {
                let to = std::fs::read_link(fd.path()).ok()?.to_string_lossy().into_owned();
                Some((fd.file_name().to_string_lossy().into_owned(), to))
            })
            .collect::<Option<_>>()?;
        open.sort();
        open.iter().map(|(number, _)| number.as_str()).eq(["0", "1", "2", "3"]).then_some(open)
    });
    assert_eq!(open[0].1, "/dev/null");
    assert!(open[3].1.starts_with("socket:"), "{open:?}");
}

#[test]
fn a_task_larger_than_any_socket_takes_at_once_arrives_whole() {
    let mut rig = Rig::new();
    let payload: Vec<u8> = (0..400_000_u32).map(|at| at as u8).collect();
    let stdin: Vec<u8> = (0..400_000_u32).map(|at| (at / 7) as u8).collect();
    // The first goes to a new guardian, the others to one that has held something.
    for _ in 0..3 {
        let file = rig.root.join("both");
        let mut job =
            rig.sh(&format!("cat $REEVE_PAYLOAD - > {}; printf %s \"$LONG\" | wc -c", file.display()));
        (job.payload, job.stdin) = (Some(payload.clone()), Some(stdin.clone()));
        // The longest there is for one variable is 128 KiB.
        job.env = vec![("LONG".into(), "x".repeat(100_000))];
        assert_eq!(stdout(&rig.run(&job)), "100000\n");
        assert!(std::fs::read(file).unwrap() == [&payload[..], &stdin[..]].concat());
        rig.forget(job.attempt);
    }
}

#[test]
fn by_hand_it_says_what_is_wrong() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_reeve-agent"))
        .args(["keeper", "guardians"])
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "an input that has ended is a keeper that has left");
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_reeve-agent"))
        .args(["keeper", "guardians"])
        .stdin(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"nonsense").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(words.contains("guardians cannot be forked"), "{words}");
}
