//! The agent between a coordinator played by the test and a real keeper.
#![allow(clippy::unwrap_used, clippy::panic, reason = "test code: a panic is the report")]
mod common;
#[path = "common/head.rs"]
mod head;
use common::{PATIENCE, decoded, lives, processes_with};
use head::{Cleanup, Head, Machine, Session, configured, within};
use reeve_protocol::ids::TaskId;
use reeve_protocol::wire::{
    Beat, Finished, Follow, Forget, Reconcile, Renew, RenewalFailed, RenewalKept, Renewed, Start, Started,
    Unfollow, Verdict, close, kind,
};
use reeve_protocol::{AttemptId, Cause};

fn sh(job: u64, script: &str) -> Start {
    Start {
        attempt: TaskId::single(job).attempt(1),
        lineage: "l1".into(),
        command: ["sh", "-c", script].map(str::to_owned).into(),
        cwd: Some("/".into()),
        owner: "root".into(),
        owner_uid: rustix::process::getuid().as_raw(),
        cpu_milli: 1000,
        grace_ms: 100,
        output_cap: 64 << 20,
        ..Start::default()
    }
}

async fn rig() -> (Head, Machine, Session, tempfile::TempDir, Cleanup) {
    let dir = tempfile::tempdir().unwrap();
    let cleanup = Cleanup(dir.path().to_path_buf());
    let head = Head::start();
    let machine = head.machine(dir.path()).await;
    let (session, items) = head.session().await;
    assert!(items.is_empty());
    (head, machine, session, dir, cleanup)
}

async fn finish(session: &mut Session, attempt: AttemptId) -> Finished {
    loop {
        let finished: Finished = session.expect(kind::FINISHED).await;
        if finished.attempt == attempt {
            return finished;
        }
    }
}

#[tokio::test]
async fn a_machine_joins_runs_a_job_and_beats() {
    let (head, machine, mut session, _dir, _cleanup) = rig().await;
    assert_eq!((&session.hello.cluster, &session.hello.machine), (&head.cluster, &machine.identity.machine));
    assert!(!session.hello.keeper.is_empty() && !session.hello.life.is_empty());
    let job = sh(1, "echo hello");
    session.say(kind::START, &job).await;
    let started: Started = session.expect(kind::STARTED).await;
    let end = finish(&mut session, job.attempt).await;
    assert_eq!((Cause::from_wire(end.cause.clone()), end.pid), (Cause::Ok, started.pid));
    assert_eq!(decoded(&end.output).0, b"hello\n");
    session.say(kind::FORGET, &Forget { attempts: vec![job.attempt] }).await;
    session.say(kind::BEAT_ECHO, &Beat { number: 41, echo: 1 }).await;
    loop {
        let beat: Beat = session.expect(kind::BEAT).await;
        if beat.echo == 41 {
            break;
        }
    }
}

#[tokio::test]
async fn a_token_that_is_refused_leaves_no_identity() {
    let dir = tempfile::tempdir().unwrap();
    let head = Head::start();
    let token = head.token();
    let (result, join) = tokio::join!(reeve_agent::join(&token, "m1", dir.path()), head.admit(Some("no")));
    assert!(result.unwrap_err().to_string().contains("no"));
    assert_eq!((join.secret, join.name.as_str()), (token.secret.clone(), "m1"));
    let mut wrong = head.token();
    wrong.ca_hash = "0".repeat(64);
    let (result, _) = tokio::join!(reeve_agent::join(&wrong, "m1", dir.path()), async {
        within(head.endpoint.accept()).await.unwrap().await.err()
    });
    assert!(result.is_err());
    let left: Vec<_> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(left, ["join.pem"], "the key to ask with, and nothing that makes it a member");
}

#[tokio::test]
async fn large_output_comes_on_a_stream_before_the_end_is_told() {
    let (_head, _machine, mut session, _dir, _cleanup) = rig().await;
    let job = sh(1, "head -c 3000000 /dev/zero | tr '\\0' x");
    session.say(kind::START, &job).await;
    let (head, mut stream, mut tape) = session.output().await;
    assert_eq!((head.attempt, head.follow, head.from), (job.attempt, None, 0));
    tape.extend(within(stream.read_to_end(8 << 20)).await.unwrap());
    assert_eq!(tape.len() as u64, head.total);
    let end = finish(&mut session, job.attempt).await;
    assert_eq!((end.spooled, end.output.len()), (head.total, 0));
    assert_eq!(decoded(&tape).0.len(), 3_000_000);
}

#[tokio::test]
async fn output_is_followed_from_before_the_start_to_the_end() {
    let (_head, _machine, mut session, dir, _cleanup) = rig().await;
    let gate = dir.path().join("gate");
    let job = sh(1, &format!("echo one; while ! test -e {}; do sleep 0.02; done; echo two", gate.display()));
    session.say(kind::FOLLOW, &Follow { id: 7, attempt: job.attempt, from: 0 }).await;
    let (head, mut stream, mut tape) = session.output().await;
    assert_eq!((head.follow, head.total), (Some(7), 0));
    session.say(kind::START, &job).await;
    while decoded(&tape).0 != b"one\n" {
        tape.extend(within(stream.read_chunk(4096, true)).await.unwrap().unwrap().bytes);
    }
    session.say(kind::FOLLOW, &Follow { id: 8, attempt: job.attempt, from: 0 }).await;
    let (_, mut other, _) = session.output().await;
    session.say(kind::UNFOLLOW, &Unfollow { id: 8 }).await;
    let _ = within(other.read_to_end(1 << 20)).await;
    std::fs::write(gate, "").unwrap();
    tape.extend(within(stream.read_to_end(1 << 20)).await.unwrap());
    assert_eq!(decoded(&tape).0, b"one\ntwo\n");
}

#[tokio::test]
async fn a_broken_connection_is_made_again_and_nothing_is_lost() {
    let (head, _machine, mut session, _dir, _cleanup) = rig().await;
    let (running, ended) = (sh(1, "sleep 1000"), sh(2, "exit 4"));
    session.say(kind::START, &running).await;
    let started: Started = session.expect(kind::STARTED).await;
    session.say(kind::START, &ended).await;
    finish(&mut session, ended.attempt).await;
    session.connection.close(close::STOPPING.into(), b"stop");
    let (mut session, items) = head.session().await;
    assert_eq!((session.hello.lineage_seen.as_str(), session.hello.seq_seen), ("l1", 5));
    let item = |id| items.iter().find(|i| i.attempt == id).unwrap();
    assert_eq!((item(running.attempt).phase, item(running.attempt).pid), (1, started.pid));
    assert_eq!(item(ended.attempt).phase, 3);
    let verdicts = vec![(running.attempt, Verdict::Keep), (ended.attempt, Verdict::Report)];
    session.say(kind::RECONCILE, &Reconcile { verdicts }).await;
    assert_eq!(Cause::from_wire(finish(&mut session, ended.attempt).await.cause), Cause::Exit { code: 4 });
}

#[tokio::test]
async fn a_killed_keeper_is_started_again_and_told_of_in_a_new_session() {
    let (head, machine, mut session, _dir, _cleanup) = rig().await;
    let job = sh(1, "sleep 1000");
    session.say(kind::START, &job).await;
    let started: Started = session.expect(kind::STARTED).await;
    let mut parent = started.pid;
    // The guardian is the parent of the command, and the keeper the parent of the guardian.
    for _ in 0..2 {
        let stat = std::fs::read_to_string(format!("/proc/{parent}/stat")).unwrap();
        parent = stat[stat.rfind(')').unwrap() + 4..].split(' ').next().unwrap().parse().unwrap();
    }
    assert!(processes_with(&machine.config.runtime_dir).contains(&parent));
    let keeper = rustix::process::Pid::from_raw(parent.cast_signed()).unwrap();
    rustix::process::kill_process(keeper, rustix::process::Signal::KILL).unwrap();
    let (session, items) = head.session().await;
    assert_eq!((items.len(), items[0].pid, items[0].phase), (1, started.pid, 1));
    assert!(lives(started.pid));
    drop(session);
}

#[tokio::test]
async fn a_stopped_agent_leaves_attempts_alone_and_stopping_them_ends_all() {
    let (head, machine, mut session, _dir, _cleanup) = rig().await;
    let job = sh(1, "sleep 1000");
    session.say(kind::START, &job).await;
    let started: Started = session.expect(kind::STARTED).await;
    let (config, identity) = machine.stop().await;
    assert!(lives(started.pid));
    let machine = Machine::start(config, identity);
    let (session, items) = head.session().await;
    assert_eq!(items[0].pid, started.pid);
    let (config, _) = machine.stop().await;
    drop(session);
    reeve_agent::stop_jobs(&config.runtime_dir, &Cause::Drained, PATIENCE).await.unwrap();
    assert!(!lives(started.pid));
    reeve_agent::stop_jobs(&config.runtime_dir, &Cause::Drained, PATIENCE).await.unwrap();
}

#[tokio::test]
async fn unknown_kinds_are_skipped_if_optional_and_end_the_session_otherwise() {
    let (_head, _machine, mut session, _dir, _cleanup) = rig().await;
    let mut optional = Vec::new();
    reeve_protocol::frame::append(900, reeve_protocol::frame::OPTIONAL, &(), &mut optional).unwrap();
    session.raw(&optional).await;
    let _: Beat = session.expect(kind::BEAT).await;
    session.say(901, &()).await;
    match within(session.connection.closed()).await {
        quinn::ConnectionError::ApplicationClosed(closed) => {
            assert_eq!(closed.error_code, close::VERSION.into());
        }
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn an_answer_to_join_that_was_lost_is_asked_for_again_with_the_same_key() {
    let (head, dir) = (Head::start(), tempfile::tempdir().unwrap());
    let token = head.token();
    let (joined, (first, second)) = tokio::join!(reeve_agent::join(&token, "m1", dir.path()), async {
        (head.forget().await, head.admit(None).await)
    });
    joined.unwrap();
    assert_eq!(first, second, "word for word the same request");
    assert!(!dir.path().join("join.pem").exists());
    // A run that was interrupted goes on with its key, too; one that was refused starts anew.
    let other = tempfile::tempdir().unwrap();
    let nowhere = reeve_protocol::token::Token { addresses: vec!["127.0.0.1:1".into()], ..token.clone() };
    tokio::select! {
        biased;
        _ = reeve_agent::join(&nowhere, "m2", other.path()) => panic!("nobody answers there"),
        () = std::future::ready(()) => {}
    }
    let key = || std::fs::read_to_string(other.path().join("join.pem")).unwrap_or_default();
    let before = key();
    assert!(before.contains("PRIVATE KEY"));
    let refused =
        tokio::join!(reeve_agent::join(&token, "m2", other.path()), async { head.admit(Some("no")).await });
    assert!(refused.0.is_err());
    assert_ne!(key(), before);
}

#[tokio::test]
async fn a_certificate_is_renewed_in_session_and_shown_from_the_next_connection_on() {
    let (head, dir) = (Head::start(), tempfile::tempdir().unwrap());
    let _cleanup = Cleanup(dir.path().to_path_buf());
    let config = configured(dir.path());
    let token = head.token();
    let (identity, _) =
        tokio::join!(reeve_agent::join(&token, "m1", &config.state_dir), head.admit_for_a_while());
    let machine = Machine::start(config.clone(), identity.unwrap());
    let mut session = head.welcome().await;
    let first = head.shown.lock().unwrap().clone().unwrap();
    let renew: Renew = session.expect(kind::RENEW).await;
    let job = sh(1, "sleep 1000");
    session.say(kind::RECONCILE, &Reconcile { verdicts: vec![] }).await;
    session.say(kind::START, &job).await;
    let started: Started = session.expect(kind::STARTED).await;
    // A refusal is said back, for the record, and asked again.
    let reason = "the disk is full".to_owned();
    session.say(kind::RENEWAL_FAILED, &RenewalFailed { reason: reason.clone() }).await;
    assert_eq!(session.expect::<RenewalFailed>(kind::RENEWAL_FAILED).await.reason, reason);
    let again: Renew = session.expect(kind::RENEW).await;
    assert_ne!(renew, again, "another key");
    // One for another key is not kept.
    session.say(kind::RENEWED, &Renewed { certificate: head.certificate(&renew.csr) }).await;
    let refused: RenewalFailed = session.expect(kind::RENEWAL_FAILED).await;
    assert!(refused.reason.contains("not for the key"), "{}", refused.reason);
    let third: Renew = session.expect(kind::RENEW).await;
    let certificate = head.certificate(&third.csr);
    session.say(kind::RENEWED, &Renewed { certificate: certificate.clone() }).await;
    let kept: RenewalKept = session.expect(kind::RENEWAL_KEPT).await;
    assert_eq!(kept.fingerprint, reeve_protocol::token::sha256_hex(&certificate));
    session.connection.close(0u32.into(), b"");
    let (session, items) = head.session().await;
    assert_eq!(head.shown.lock().unwrap().clone().unwrap(), certificate);
    assert_ne!(first, certificate);
    assert_eq!((items.len(), items[0].pid), (1, started.pid), "nothing that runs noticed");
    drop(session);
    machine.stop().await;
}

#[tokio::test]
async fn a_removed_machine_ends_its_jobs_and_does_not_come_back_at_once() {
    let (head, machine, mut session, _dir, _cleanup) = rig().await;
    let job = sh(1, "sleep 1000");
    session.say(kind::START, &job).await;
    let started: Started = session.expect(kind::STARTED).await;
    session.connection.close(close::REVOKED.into(), b"removed");
    within(async {
        while lives(started.pid) {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await;
    // Ten times the usual pause.
    let again = tokio::time::timeout(std::time::Duration::from_secs(2), head.endpoint.accept()).await;
    assert!(again.is_err(), "no storm of connections");
    machine.stop().await;
}

#[tokio::test]
async fn leaving_tells_the_coordinator_and_forgets_the_identity() {
    let (head, machine, session, _dir, _cleanup) = rig().await;
    let (config, _) = machine.stop().await;
    drop(session);
    let (left, ()) = tokio::join!(reeve_agent::leave(&config, false), async {
        let mut session = head.welcome().await;
        let _: () = session.expect(kind::LEAVE).await;
    });
    left.unwrap();
    let (_stop, shutdown) = tokio::sync::watch::channel(false);
    assert!(matches!(reeve_agent::run(config, shutdown).await, Err(reeve_agent::Error::Identity(_))));
}
