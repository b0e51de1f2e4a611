//! Files that attempts leave behind: collected when the tree has ended, however it did, and kept until they are forgotten.
#![allow(clippy::unwrap_used, clippy::panic, reason = "test code: a panic is the report")]
mod common;
use common::{Rig, decoded, until};
use reeve_protocol::Cause;
use reeve_protocol::artifact::Artifact;
use reeve_protocol::guardian::{self, Output};
use reeve_protocol::token::sha256_hex;
use reeve_protocol::wire::{Artifacts, Collect, Finished, Start, Stop, kind};

/// A script that is to leave files behind.
fn job(rig: &mut Rig, script: &str, globs: &[&str]) -> Start {
    let mut start = rig.sh(script);
    start.cwd = None;
    collect(rig, &start, globs, 1 << 30);
    start
}

fn collect(rig: &mut Rig, start: &Start, globs: &[&str], max_bytes: u64) {
    let globs = globs.iter().map(|g| (*g).to_owned()).collect();
    rig.send(kind::COLLECT, &Collect { attempt: start.attempt, globs, max_bytes });
}

/// What its guardian has, each file with its bytes.
fn files(rig: &Rig, start: &Start) -> Vec<(String, Vec<u8>)> {
    let mut link = rig.guardian(start.attempt);
    let list: guardian::Artifacts = loop {
        let frame = link.next().unwrap();
        assert_ne!(frame.kind, guardian::kind::STATE, "the list comes before the end");
        if frame.kind == guardian::kind::ARTIFACTS {
            break frame.decode().unwrap();
        }
    };
    let mut bytes = Vec::new();
    loop {
        let ask = Output { from: bytes.len() as u64, bytes: Vec::new(), end: false };
        link.send(guardian::kind::ARTIFACT_BYTES, &ask);
        let piece: Output = loop {
            let frame = link.next().unwrap();
            if frame.kind == guardian::kind::ARTIFACT_BYTES {
                break frame.decode().unwrap();
            }
        };
        bytes.extend(piece.bytes);
        if piece.end {
            break;
        }
    }
    let mut rest = bytes.as_slice();
    let take = |file: Artifact| {
        let (own, others) = rest.split_at(file.size as usize);
        rest = others;
        assert_eq!(file.sha256, sha256_hex(own), "{}", file.name);
        (file.name, own.to_vec())
    };
    let files = list.files.into_iter().map(take).collect();
    assert!(rest.is_empty());
    files
}

fn told(rig: &mut Rig, start: &Start) -> (Artifacts, Finished) {
    let artifacts: Artifacts = rig.expect(kind::ARTIFACTS);
    assert_eq!(artifacts.attempt, start.attempt);
    (artifacts, rig.finish(start.attempt))
}

fn cause(end: &Finished) -> Cause {
    Cause::from_wire(end.cause.clone())
}

fn errors(end: &Finished) -> String {
    String::from_utf8(decoded(&end.output).1).unwrap()
}

#[test]
fn what_lies_in_its_directory_and_what_patterns_name_is_there_before_the_end_is_told() {
    let mut rig = Rig::new();
    let script = "mkdir -p $REEVE_OUT_DIR/m; head -c 700000 /dev/zero > $REEVE_OUT_DIR/m/best.bin; echo log > run.log; echo no > other; echo 7 > $REEVE_RESULT";
    let job = job(&mut rig, script, &["*.log"]);
    rig.send(kind::START, &job);
    let (artifacts, end) = told(&mut rig, &job);
    assert_eq!((artifacts.count, artifacts.total), (2, 700_004));
    assert_eq!((cause(&end), end.result.as_deref()), (Cause::Ok, Some(&b"7\n"[..])), "{}", errors(&end));
    let files = files(&rig, &job);
    assert_eq!(files[0], ("m/best.bin".to_owned(), vec![0; 700_000]));
    assert_eq!(files[1], ("run.log".to_owned(), b"log\n".to_vec()));
    rig.forget(job.attempt);
    until("the files are gone", || (!rig.has_files(job.attempt)).then_some(()));
    let left: Vec<_> = std::fs::read_dir(rig.root.join("spool/l1")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_job_that_leaves_nothing_costs_nothing_and_says_nothing() {
    let mut rig = Rig::new();
    let job = job(&mut rig, "test -d $REEVE_OUT_DIR && ls -A $REEVE_OUT_DIR", &[]);
    rig.send(kind::START, &job);
    let end: Finished = loop {
        let frame = rig.next();
        assert_ne!(frame.kind, kind::ARTIFACTS);
        if frame.kind == kind::FINISHED {
            break frame.decode().unwrap();
        }
    };
    assert_eq!(cause(&end), Cause::Ok);
    let job = self::job(&mut rig, "true", &["nothing/**"]);
    let end = rig.run(&job);
    assert_eq!((cause(&end), errors(&end).as_str()), (Cause::Ok, ""));
    assert!(!rig.root.join("spool/l1").join(format!("{}.out", job.attempt.file_name())).exists());
}

#[test]
fn failure_time_limit_and_cancel_leave_their_files_too() {
    let mut rig = Rig::new();
    let write = "echo kept > $REEVE_OUT_DIR/f";
    let failed = job(&mut rig, &format!("{write}; exit 3"), &[]);
    rig.send(kind::START, &failed);
    assert_eq!(cause(&told(&mut rig, &failed).1), Cause::Exit { code: 3 });

    let mut late = job(&mut rig, &format!("{write}; sleep 100"), &[]);
    (late.timeout_ms, late.grace_ms) = (3_000, 100);
    rig.send(kind::START, &late);
    assert_eq!(cause(&told(&mut rig, &late).1), Cause::Timeout);

    let ready = rig.root.join("ready");
    let mut stopped =
        job(&mut rig, &format!("trap '' TERM; {write}; touch {}; sleep 100", ready.display()), &[]);
    stopped.grace_ms = 100;
    rig.start(&stopped);
    until("it has written", || ready.exists().then_some(()));
    let stop = Stop { attempt: stopped.attempt, cause: Cause::Cancelled.to_wire(), grace_ms: 100 };
    rig.send(kind::STOP, &stop);
    assert_eq!(cause(&told(&mut rig, &stopped).1), Cause::Cancelled);
    for job in [&failed, &late, &stopped] {
        assert_eq!(files(&rig, job), [("f".to_owned(), b"kept\n".to_vec())]);
    }
}

#[test]
fn what_is_left_out_is_said_in_the_output_and_the_job_ends_well() {
    let mut rig = Rig::with(|_| vec!["--out-max".to_owned(), "100".to_owned()]);
    let script = "cd $REEVE_OUT_DIR; ln -s /etc/passwd link; mkfifo pipe; head -c 200 /dev/zero > large; echo x > \"$(printf 'a\\033[2Jb')\"";
    let job = job(&mut rig, script, &[]);
    rig.send(kind::START, &job);
    let (artifacts, end) = told(&mut rig, &job);
    let errors = errors(&end);
    assert_eq!((cause(&end), artifacts.count), (Cause::Ok, 1));
    for part in ["link was left out: it is a link", "pipe was left out: it is no plain file", "--out-max"] {
        assert!(errors.contains(part), "{errors}");
    }
    assert_eq!(
        files(&rig, &job)[0].0,
        "a\u{1b}[2Jb",
        "its name is the job's own; whoever shows it cleans it"
    );
}

#[test]
fn they_outlive_the_keeper_and_are_told_again() {
    let mut rig = Rig::new();
    let job = job(&mut rig, "echo kept > $REEVE_OUT_DIR/f", &[]);
    rig.send(kind::START, &job);
    told(&mut rig, &job);
    rig.kill_keeper();
    rig.start_keeper();
    let report = reeve_protocol::wire::Reconcile {
        verdicts: vec![(job.attempt, reeve_protocol::wire::Verdict::Report)],
    };
    rig.send(kind::RECONCILE, &report);
    let (artifacts, end) = told(&mut rig, &job);
    assert_eq!((artifacts.count, cause(&end)), (1, Cause::Ok));
    assert_eq!(files(&rig, &job), [("f".to_owned(), b"kept\n".to_vec())]);
    rig.forget(job.attempt);
    until("the files are gone", || (!rig.has_files(job.attempt)).then_some(()));
}

#[test]
fn of_a_killed_guardian_nothing_is_left() {
    let mut rig = Rig::new();
    let job = job(&mut rig, "echo lost > $REEVE_OUT_DIR/f; sleep 100", &[]);
    rig.start(&job);
    let out = until("it has written", || {
        let dir = std::fs::read_dir(rig.root.join("work")).ok()?.flatten();
        dir.map(|e| e.path().join("f")).find(|f| f.exists())
    });
    let guardian = rig.guardian(job.attempt).state().guardian_pid;
    let pid = rustix::process::Pid::from_raw(guardian.cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    assert_eq!(cause(&rig.finish(job.attempt)), Cause::KeeperLost);
    until("its directory is gone", || (!out.exists()).then_some(()));
}
