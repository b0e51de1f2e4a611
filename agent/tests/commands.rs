//! What becomes of a command: its output, its environment, and every way it can end or fail to start.
#![allow(clippy::unwrap_used, clippy::panic, reason = "test code: a panic is the report")]
mod common;
use common::{Rig, decoded, stdout, until};
use reeve_protocol::Cause;
use reeve_protocol::wire::kind;
use std::os::unix::fs::PermissionsExt as _;

#[test]
fn true_ends_well_and_forgetting_it_leaves_nothing() {
    let mut rig = Rig::new();
    let job = rig.job(&["true"]);
    let end = rig.run(&job);
    assert_eq!(Cause::from_wire(end.cause), Cause::Ok);
    assert!(end.pid > 1 && end.started_ms > 0 && end.ended_ms >= end.started_ms && end.rss_peak > 0);
    assert!(rig.has_files(job.attempt));
    rig.forget(job.attempt);
    until("the files are gone", || (!rig.has_files(job.attempt)).then_some(()));
}

#[test]
fn exit_codes_and_signals_are_the_commands_own() {
    let mut rig = Rig::new();
    for (script, wanted) in [
        ("exit 3", Cause::Exit { code: 3 }),
        ("exit 255", Cause::Exit { code: 255 }),
        ("kill -TERM $$", Cause::Signal { signal: 15 }),
        ("kill -KILL $$", Cause::Signal { signal: 9 }),
    ] {
        let job = rig.sh(script);
        assert_eq!(rig.cause(&job), wanted, "{script}");
    }
}

#[test]
fn small_output_rides_along_with_both_streams_apart() {
    let mut rig = Rig::new();
    let job = rig.sh("echo out; echo err >&2");
    let end = rig.run(&job);
    let (out, err, missing) = decoded(&end.output);
    assert_eq!((out.as_slice(), err.as_slice(), missing, end.spooled), (&b"out\n"[..], &b"err\n"[..], 0, 0));
}

#[test]
fn a_mebibyte_is_spooled_and_comes_back_whole() {
    let mut rig = Rig::new();
    let job = rig.sh("head -c 1048576 /dev/zero | tr '\\0' x");
    let end = rig.run(&job);
    assert!(end.output.is_empty() && end.spooled > 1 << 20);
    let tape = rig.guardian(job.attempt).tape();
    assert_eq!(tape.len() as u64, end.spooled);
    let (out, _, missing) = decoded(&tape);
    assert_eq!((out.len(), missing), (1 << 20, 0));
    assert!(out.iter().all(|b| *b == b'x'));
    rig.forget(job.attempt);
    until("the spool is gone", || (!rig.has_files(job.attempt)).then_some(()));
}

#[test]
fn a_flood_costs_bounded_disk_and_says_what_is_missing() {
    let mut rig = Rig::new();
    let mut job = rig.sh("head -c 20000000 /dev/zero | tr '\\0' y; echo the end");
    job.output_cap = 1 << 20;
    let end = rig.run(&job);
    assert_eq!(Cause::from_wire(end.cause), Cause::Ok);
    let spool = rig.root.join("spool/l1").join(job.attempt.file_name());
    assert!(std::fs::metadata(spool).unwrap().len() <= (1 << 20) + 65_536);
    let (out, _, missing) = decoded(&rig.guardian(job.attempt).tape());
    assert_eq!(out.len() as u64 + missing, 20_000_000 + 8);
    assert!(out.ends_with(b"the end\n"));
}

#[test]
fn output_can_be_followed_while_it_is_written() {
    let mut rig = Rig::new();
    let gate = rig.root.join("gate");
    let job =
        rig.sh(&format!("echo first; while ! test -e {}; do sleep 0.02; done; echo last", gate.display()));
    rig.start(&job);
    let mut link = rig.guardian(job.attempt);
    assert_eq!(link.state().phase, 1);
    let ask = |from| reeve_protocol::guardian::Output { from, bytes: Vec::new(), end: false };
    link.send(reeve_protocol::guardian::kind::OUTPUT, &ask(0));
    let first: reeve_protocol::guardian::Output = link.next().unwrap().decode().unwrap();
    assert_eq!((decoded(&first.bytes).0, first.end), (b"first\n".to_vec(), false));
    std::fs::write(&gate, "").unwrap();
    assert_eq!(decoded(&link.tape()).0, b"first\nlast\n");
}

#[test]
fn what_cannot_start_says_why() {
    let mut rig = Rig::new();
    let script = rig.root.join("script");
    std::fs::write(&script, "echo no shebang\n").unwrap();
    let path = script.to_str().unwrap().to_owned();
    let told = |cause: Cause| match cause {
        Cause::Spawn { errno, detail } => (errno, detail),
        other => panic!("{other:?}"),
    };
    let missing = rig.job(&["no-such-program"]);
    let (errno, detail) = told(rig.cause(&missing));
    assert_eq!(errno, "ENOENT");
    assert!(detail.contains("no-such-program") && detail.contains("m1"), "{detail}");
    let plain = rig.job(&[&path]);
    assert_eq!(told(rig.cause(&plain)).0, "EACCES");
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let executable = rig.clone_with_new_id(&plain);
    assert_eq!(told(rig.cause(&executable)).0, "ENOEXEC");
    let mut nowhere = rig.job(&["true"]);
    nowhere.cwd = Some("/no/such/directory".into());
    let end = rig.run(&nowhere);
    let (errno, detail) = told(Cause::from_wire(end.cause));
    assert_eq!((errno.as_str(), end.pid, end.started_ms), ("cwd", 0, 0));
    assert!(detail.contains("/no/such/directory") && detail.contains("m1"), "{detail}");
    let empty = rig.job(&[]);
    assert_eq!(told(rig.cause(&empty)).0, "ENOENT");
}

#[test]
fn the_environment_is_exactly_what_was_said_and_what_the_machine_adds() {
    let mut rig = Rig::new();
    let mut job = rig.sh("env; pwd; umask; cat; cat $REEVE_PAYLOAD; echo '{\"loss\":1}' > $REEVE_RESULT");
    job.env = vec![("A".into(), "1".into()), ("LANG".into(), "xx".into())];
    job.cwd = None;
    job.stdin = Some(b"from stdin\n".to_vec());
    job.payload = Some(b"the payload\n".to_vec());
    let end = rig.run(&job);
    let text = stdout(&end);
    let lines: Vec<&str> = text.lines().collect();
    let work = lines.iter().find_map(|line| line.strip_prefix("REEVE_WORKDIR=")).unwrap();
    assert!(work.starts_with(rig.root.join("work").to_str().unwrap()), "{work}");
    for wanted in
        ["A=1", "LANG=xx", "REEVE_MACHINE=m1", "CUDA_VISIBLE_DEVICES=", "from stdin", "the payload", "0022"]
    {
        assert!(lines.contains(&wanted), "{wanted} in {text}");
    }
    assert!(lines.contains(&format!("TMPDIR={work}").as_str()) && lines.contains(&work));
    assert!(!text.contains("CARGO"), "nothing of the keeper's own environment: {text}");
    assert_eq!(end.result.as_deref(), Some(&b"{\"loss\":1}\n"[..]));
}

#[test]
fn a_result_that_is_not_json_is_ignored_with_a_note() {
    let mut rig = Rig::new();
    let job = rig.sh("echo nonsense > $REEVE_RESULT");
    let end = rig.run(&job);
    assert_eq!((Cause::from_wire(end.cause), end.result), (Cause::Ok, None));
    assert!(String::from_utf8(decoded(&end.output).1).unwrap().contains("not JSON"));
}

#[test]
fn progress_is_told_while_it_runs() {
    let mut rig = Rig::new();
    let job = rig.sh("echo '{\"progress\":0.4,\"message\":\"half\"}' > $REEVE_STATUS; sleep 100");
    rig.start(&job);
    let progress: reeve_protocol::wire::Progress = rig.expect(kind::PROGRESS);
    assert_eq!((progress.fraction, progress.message.as_deref()), (Some(0.4), Some("half")));
}

#[test]
fn what_a_short_job_said_last_is_told_before_its_end() {
    let mut rig = Rig::new();
    let job =
        rig.sh("printf '\\377\\n{\"progress\":0.9,\"message\":\"done\"}\\n{\"progress\":' >> $REEVE_STATUS");
    rig.send(kind::START, &job);
    let progress: reeve_protocol::wire::Progress = rig.expect(kind::PROGRESS);
    assert_eq!((progress.fraction, progress.message.as_deref()), (Some(0.9), Some("done")));
    assert_eq!(Cause::from_wire(rig.finish(job.attempt).cause), Cause::Ok);
}

#[test]
fn a_result_that_is_a_link_is_not_followed() {
    let mut rig = Rig::new();
    let job = rig.sh("ln -s /etc/hostname $REEVE_RESULT");
    let end = rig.run(&job);
    assert_eq!((Cause::from_wire(end.cause), end.result), (Cause::Ok, None));
    assert!(String::from_utf8(decoded(&end.output).1).unwrap().contains("it is a link"));
}

#[test]
fn one_guardian_holds_one_attempt_after_the_other_and_nothing_is_carried_over() {
    let mut rig = Rig::new();
    let first = rig.sh("echo secret > $TMPDIR/left; echo out");
    let end = rig.run(&first);
    assert_eq!(stdout(&end), "out\n");
    let guardian = rig.guardian(first.attempt).state().guardian_pid;
    rig.forget(first.attempt);
    until("the files are gone", || (!rig.has_files(first.attempt)).then_some(()));
    // The next one may be forked if the guardian was not done in time; the third time it surely is.
    let reused = (0..50).any(|_| {
        let job = rig.sh("ls -A $TMPDIR; echo next >&2; exit 2");
        let end = rig.run(&job);
        assert_eq!(decoded(&end.output), (Vec::new(), b"next\n".to_vec(), 0));
        assert_eq!(Cause::from_wire(end.cause), Cause::Exit { code: 2 });
        let holder = rig.guardian(job.attempt).state().guardian_pid;
        rig.forget(job.attempt);
        until("the files are gone", || (!rig.has_files(job.attempt)).then_some(()));
        holder == guardian
    });
    assert!(reused);
}

#[test]
fn with_root_a_job_runs_as_the_user_it_names_and_gains_nothing() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: only root can change users");
        return;
    }
    let mut rig = Rig::new();
    let outer = rig.root.ancestors().take_while(|dir| dir.starts_with(std::env::temp_dir()));
    for dir in outer.filter(|dir| *dir != std::env::temp_dir()) {
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o711)).unwrap();
    }
    let mut job =
        rig.sh("id -un; grep NoNewPrivs /proc/self/status; touch $TMPDIR/x && ls $TMPDIR; echo $HOME");
    job.run_as = Some("nobody".into());
    let text = stdout(&rig.run(&job));
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!((lines[0], lines[2]), ("nobody", "x"), "{text}");
    assert!(lines[1].ends_with('1'), "{text}");
    let mut unknown = rig.sh("true");
    unknown.run_as = Some("no-such-user".into());
    assert!(matches!(rig.cause(&unknown), Cause::Rejected { .. }));
}
