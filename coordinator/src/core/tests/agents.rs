//! Machines that go, come back, forget, repeat and lie.
use super::*;

fn one() -> AttemptId {
    TaskId::single(1).attempt(1)
}

#[test]
fn anything_of_an_older_session_is_dropped_and_a_stale_attempt_changes_nothing() {
    let mut w = World::with_machine(1);
    w.submit(spec());
    w.finish(7, one(), Cause::Ok);
    assert_eq!(w.standing(1).0, State::Queued, "no session 7 was opened");
    w.finish(1, TaskId::single(1).attempt(9), Cause::Ok);
    w.finish(1, TaskId::single(999).attempt(1), Cause::Ok);
    assert_eq!((w.standing(1).0, w.core.stale), (State::Queued, 2));
    w.finish(1, one(), Cause::Ok);
    w.finish(1, one(), Cause::Exit { code: 1 });
    assert_eq!(w.standing(1).0, State::Completed, "the first end stands");
    assert_eq!(w.core.stale, 3);
}

#[test]
fn a_machine_that_is_away_shortly_changes_nothing_but_what_is_shown() {
    let mut w = World::with_machine(1);
    w.submit(spec());
    w.start(one());
    w.says(1, vec![AgentSaid::Closed]);
    w.pass(11_000);
    assert_eq!(w.standing(1), (State::Running, Some(Substate::Unconfirmed)));
    assert_eq!(w.connect(2, "life", "keeper", 1, vec![item(one(), 1)]), [(one(), Verdict::Keep)]);
    assert_eq!(w.standing(1), (State::Running, Some(Substate::Running)));
    w.wait(400_000);
    assert_eq!(w.standing(1), (State::Running, Some(Substate::Running)), "the old verdict is void");
    w.finish(2, one(), Cause::Ok);
    assert_eq!(w.standing(1).0, State::Completed);
}

#[test]
fn a_lost_attempt_counts_if_it_comes_back_before_the_next_is_dispatched() {
    let mut w = World::with_machine(1);
    w.submit(spec());
    w.start(one());
    w.says(1, vec![AgentSaid::Closed]);
    w.pass(301_000);
    assert_eq!(w.standing(1), (State::Queued, Some(Substate::Waiting)));
    assert_eq!(w.connect(2, "life", "keeper", 1, vec![item(one(), 1)]), [(one(), Verdict::Keep)]);
    assert_eq!(w.standing(1), (State::Running, Some(Substate::Running)));
    assert_eq!(w.started_frames(), [one()], "no second attempt");
}

#[test]
fn an_end_reported_after_the_loss_counts_as_long_as_nothing_newer_was_dispatched() {
    let mut w = World::with_machine(1);
    w.submit(spec());
    w.start(one());
    w.says(1, vec![AgentSaid::Closed]);
    w.pass(301_000);
    assert_eq!(w.standing(1).0, State::Queued);
    w.ask(Call::PauseQueue { queue: "default".into(), paused: true, reason: None }).unwrap();
    assert_eq!(w.connect(2, "life", "keeper", 1, vec![item(one(), 3)]), [(one(), Verdict::Report)]);
    w.finish(2, one(), Cause::Exit { code: 4 });
    assert_eq!(w.standing(1), (State::Failed, None));
}

#[test]
fn once_the_next_attempt_is_dispatched_the_old_one_is_fenced_and_its_end_is_late() {
    let mut w = World::with_machine(1);
    w.submit(spec());
    w.start(one());
    w.says(1, vec![AgentSaid::Closed]);
    w.pass(301_000);
    // A consumer takes it meanwhile: attempt 2.
    let receive = Call::ReceiveMessage { queue: "default".into(), max: 1, wait_ms: 0, lease_ms: 60_000 };
    assert!(matches!(w.ask(receive), Ok(Reply::ReceivedJobs(items)) if items[0].1 == 2));
    assert!(
        w.facts
            .iter()
            .any(|f| matches!(f, Fact::AttemptEnded(e) if e.attempt == one() && e.cause == Cause::Lost))
    );
    assert_eq!(w.connect(2, "life", "keeper", 1, vec![item(one(), 1)]), [(one(), Verdict::Fence)]);
    w.finish(2, one(), Cause::Ok);
    assert_eq!(w.standing(1).0, State::Running, "attempt 2 is untouched");
    assert!(
        w.facts
            .iter()
            .any(|f| matches!(f, Fact::AttemptLate { attempt, cause: Cause::Ok, .. } if *attempt == one()))
    );
}

#[test]
fn a_rebooted_machine_has_lost_what_ran_and_a_start_that_never_arrived_costs_nothing() {
    let mut w = World::with_machine(2);
    w.submit(spec());
    w.submit(spec());
    w.start(one());
    w.says(1, vec![AgentSaid::Closed]);
    w.connect(2, "life", "keeper", 2, vec![item(one(), 1)]);
    assert!(
        w.facts.iter().any(|f| matches!(f, Fact::AttemptReturned(a, _) if a.task.job == 2)),
        "assigned, never arrived"
    );
    assert!(w.started_frames().contains(&TaskId::single(2).attempt(2)));
    w.says(2, vec![AgentSaid::Closed]);
    w.connect(3, "another life", "keeper 2", 2, vec![]);
    assert!(
        w.facts
            .iter()
            .any(|f| matches!(f, Fact::AttemptEnded(e) if e.attempt == one() && e.cause == Cause::Rebooted))
    );
    assert!(w.started_frames().contains(&TaskId::single(1).attempt(2)), "infrastructure pays for the retry");
}

#[test]
fn attempts_of_another_lineage_or_of_no_known_job_are_left_alone() {
    let mut w = World::new();
    let foreign = wire::InventoryItem { lineage: "other".into(), ..item(one(), 1) };
    let unknown = item(TaskId::single(500).attempt(1), 1);
    let verdicts = w.connect(1, "life", "keeper", 1, vec![foreign, unknown.clone()]);
    assert_eq!(verdicts, [(one(), Verdict::Orphan), (unknown.attempt, Verdict::Orphan)]);
    assert_eq!(w.core.machine_views(w.now)[0].orphans, 2);
}

#[test]
fn a_cancel_while_the_machine_is_away_is_told_when_it_comes_back() {
    let mut w = World::with_machine(1);
    w.submit(spec());
    w.start(one());
    w.says(1, vec![AgentSaid::Closed]);
    w.ask(Call::CancelJob { target: target(1), grace_ms: None, stored: Stored::default() }).unwrap();
    assert_eq!(w.standing(1), (State::Running, Some(Substate::Cancelling)));
    w.sent.clear();
    w.connect(2, "life", "keeper", 1, vec![item(one(), 1)]);
    assert!(w.sent.iter().any(|f| matches!(f, ToAgent::Stop(s) if s.attempt == one())));
    w.finish(2, one(), Cause::Cancelled);
    assert_eq!(w.standing(1).0, State::Cancelled);
}

#[test]
fn a_cancelled_job_whose_machine_is_lost_has_an_ended_attempt_and_a_late_outcome() {
    let mut w = World::with_machine(1);
    w.submit(spec());
    w.start(one());
    w.says(1, vec![AgentSaid::Closed]);
    w.ask(Call::CancelJob { target: target(1), grace_ms: None, stored: Stored::default() }).unwrap();
    w.pass(301_000);
    assert_eq!(w.standing(1).0, State::Cancelled);
    assert!(w.facts.iter().any(|f| matches!(f, Fact::AttemptEnded(e) if e.attempt == one())));
    assert_eq!(w.connect(2, "life", "keeper", 1, vec![item(one(), 1)]), [(one(), Verdict::Fence)]);
    w.finish(2, one(), Cause::Ok);
    assert_eq!(w.standing(1).0, State::Cancelled);
}

#[test]
fn a_coordinator_that_was_frozen_judges_nobody_on_waking() {
    let mut w = World::with_machine(1);
    w.submit(spec());
    w.start(one());
    w.says(1, vec![AgentSaid::Closed]);
    w.wait(10_001);
    // 10 minutes in one leap: the verdict is handled far too late.
    w.wait(600_000);
    assert_eq!(w.standing(1).0, State::Running);
    w.pass(299_000);
    assert_eq!(w.standing(1).0, State::Running, "the window starts anew");
    w.pass(2_000);
    assert_eq!(w.standing(1), (State::Queued, Some(Substate::Waiting)));
}

#[test]
fn a_freeze_is_noticed_even_when_the_verdict_came_due_a_moment_before_its_end() {
    let mut w = World::with_machine(1);
    w.submit(spec());
    w.start(one());
    w.says(1, vec![AgentSaid::Closed]);
    w.pass(295_000);
    w.wait(6_000);
    assert_eq!(w.standing(1).0, State::Running, "it could not be heard for most of the last seconds");
    w.pass(299_000);
    assert_eq!(w.standing(1).0, State::Running);
    w.pass(2_000);
    assert_eq!(w.standing(1).0, State::Queued);
}

#[test]
fn nobody_wakes_to_watch_while_there_is_nobody_to_judge() {
    let mut w = World::with_machine(1);
    w.submit(spec());
    w.start(one());
    assert_eq!(w.core.watch_at, None);
    w.says(1, vec![AgentSaid::Closed]);
    assert!(w.core.watch_at.is_some());
    w.pass(302_000);
    assert_eq!((w.standing(1).0, w.core.watch_at), (State::Queued, None));
}

#[test]
fn a_session_that_took_over_and_ended_before_it_told_anything_leaves_nobody_unjudged() {
    let mut w = World::with_machine(1);
    w.submit(spec());
    w.start(one());
    assert!(matches!(w.ask(open(2, &hello("life", "keeper"))), Ok(Reply::Welcome(_))));
    w.says(2, vec![AgentSaid::Closed]);
    w.pass(302_000);
    assert_eq!(w.standing(1), (State::Queued, Some(Substate::Waiting)));
}

#[test]
fn a_silent_session_that_is_heard_after_a_loss_has_to_tell_what_runs() {
    let mut w = World::with_machine(1);
    w.submit(spec());
    w.start(one());
    w.says(1, vec![AgentSaid::Silent]);
    w.pass(302_000);
    assert_eq!(w.standing(1), (State::Queued, Some(Substate::Waiting)));
    w.says(1, vec![AgentSaid::Heard { rtt_us: 1 }]);
    assert_eq!((w.closed.len(), w.started_frames().len()), (1, 1), "nothing new before that");
    w.says(1, vec![AgentSaid::Closed]);
    assert_eq!(w.connect(2, "life", "keeper", 1, vec![item(one(), 1)]), [(one(), Verdict::Keep)]);
    assert_eq!(w.standing(1), (State::Running, Some(Substate::Running)));
    w.says(2, vec![AgentSaid::Silent, AgentSaid::Heard { rtt_us: 1 }]);
    assert_eq!(w.closed.len(), 1, "a short silence asks for nothing");
}

fn hello(life: &str, keeper: &str) -> wire::Hello {
    wire::Hello {
        version_min: 1,
        version_max: 1,
        cluster: "c".into(),
        machine: MACHINE.into(),
        life: life.into(),
        keeper: keeper.into(),
        lineage_seen: String::new(),
        epoch_seen: 0,
        seq_seen: 0,
        agent_version: "v".into(),
        kinds: vec![],
    }
}

fn open(session: u64, hello: &wire::Hello) -> Call {
    Call::OpenSession {
        machine: MACHINE.into(),
        fingerprint: "f".into(),
        session,
        hello: Box::new(hello.clone()),
        address: "a".into(),
    }
}

#[test]
fn a_machine_that_has_seen_more_than_the_store_holds_waits_for_somebody() {
    let mut w = World::with_machine(1);
    let seq = w.core.seq();
    let seen = |epoch_seen, seq_seen| wire::Hello {
        lineage_seen: "l".into(),
        epoch_seen,
        seq_seen,
        ..hello("life", "keeper")
    };
    // The last one: in the meantime the old store has caught up by itself, which proves nothing.
    for ahead in [seen(9, 0), seen(1, seq + 1_000), seen(1, 0)] {
        let answer = w.ask(open(2, &ahead));
        assert!(
            matches!(&answer, Ok(Reply::Refused(r)) if r.code == wire::close::STORE_REGRESSED && r.reason.contains("--accept-loss")),
            "{answer:?}"
        );
    }
    let alarms = w.events.iter().filter(|e| e.what.as_deref() == Some("refused: recovery required")).count();
    assert_eq!(alarms, 1);
}

#[test]
fn a_cloned_machine_is_refused_while_the_first_one_beats() {
    let mut w = World::with_machine(1);
    // Another directory on the same machine; and a copy of the whole machine, which has everything but its life.
    for (life, keeper) in [("life", "another keeper"), ("another life", "keeper")] {
        let refused = w.ask(open(2, &hello(life, keeper)));
        assert!(matches!(refused, Ok(Reply::Refused(r)) if r.code == wire::close::SUPERSEDED));
    }
    let alarms = w.events.iter().filter(|e| e.what.as_deref() == Some("refused_clone")).count();
    assert_eq!(alarms, 1, "it comes again every few seconds, and is noted once");
    let warning = w.core.machine_views(w.now)[0].warning.clone();
    assert!(warning.is_some_and(|text| text.contains("copy of this machine")));
    assert!(
        matches!(w.ask(open(2, &hello("life", "keeper"))), Ok(Reply::Welcome(_))),
        "a restarted agent of the same keeper takes over"
    );
    w.says(2, vec![AgentSaid::Silent]);
    assert!(
        matches!(w.ask(open(3, &hello("another life", "keeper 2"))), Ok(Reply::Welcome(_))),
        "once the first is silent the second may come"
    );
}

#[test]
fn a_token_admits_one_machine_once() {
    let mut w = World::new();
    w.ask(Call::PutToken { id: "t".into(), secret_hash: "h".into(), expires_at: w.now.wall + 1000 }).unwrap();
    let join = |secret: &str, machine: &str, name: &str| Call::Join {
        token_id: "t".into(),
        secret_hash: secret.into(),
        key_hash: format!("key of {machine}"),
        machine: machine.into(),
        name: name.into(),
        fingerprint: machine.into(),
        until: 9,
    };
    assert_eq!(code(w.ask(join("wrong", "m2", "lab-2"))), "not-found");
    assert_eq!(code(w.ask(join("h", "m2", "lab-1"))), "name-taken");
    assert_eq!(w.ask(join("h", "m2", "lab-2")), Ok(Reply::Joined("lab-2".into(), "m2".into())));
    assert_eq!(code(w.ask(join("h", "m3", "lab-3"))), "not-found", "used");
    w.wait(999);
    assert_eq!(
        w.ask(join("h", "m2", "whatever")),
        Ok(Reply::Joined("lab-2".into(), "m2".into())),
        "the same key may ask again: its answer may have been lost"
    );
    w.wait(1);
    assert_eq!(code(w.ask(join("h", "m2", "lab-2"))), "not-found", "expired for that key, too");
    w.ask(Call::PutToken { id: "old".into(), secret_hash: "h".into(), expires_at: w.now.wall - 1 }).unwrap();
    let mut late = join("h", "m4", "lab-4");
    if let Call::Join { token_id, .. } = &mut late {
        *token_id = "old".into();
    }
    assert_eq!(code(w.ask(late)), "not-found", "expired");
}

#[test]
fn of_a_hundred_machines_with_one_token_one_gets_in() {
    let mut w = World::new();
    w.ask(Call::PutToken { id: "t".into(), secret_hash: "h".into(), expires_at: w.now.wall + 1000 }).unwrap();
    let joins = (0..100).map(|n| Input::Call {
        ticket: 1_000 + n,
        caller: Caller::of_agents_port("10.0.0.9:1"),
        call: Call::Join {
            token_id: "t".into(),
            secret_hash: "h".into(),
            key_hash: format!("k{n}"),
            machine: format!("m{n}"),
            name: format!("lab-{n}"),
            fingerprint: format!("f{n}"),
            until: 9,
        },
    });
    w.feed(joins.collect());
    let won = w.answers.values().filter(|a| a.is_ok()).count();
    assert_eq!((won, w.answers.len()), (1, 100));
    assert_eq!(w.facts.iter().filter(|f| matches!(f, Fact::TokenUsed { .. })).count(), 1);
    let refused: Vec<_> = w.audit.iter().filter(|row| row.refused.is_some()).collect();
    assert!(!refused.is_empty() && refused.iter().all(|r| r.call == "join" && &*r.name == "10.0.0.9:1"));
}

#[test]
fn short_jobs_are_handed_ahead_and_taken_back_when_they_wait() {
    let mut w = World::with_machine(1);
    w.submit(JobSpec { array: Some(ArraySpec { from: 1, to: 100, limit: None }), ..spec() });
    assert_eq!(w.started_frames().len(), 1, "nothing is known of their length yet");
    w.finish(1, TaskId::of_array(1, 1).attempt(1), Cause::Ok);
    assert!(w.started_frames().len() > 10, "they are short: {}", w.started_frames().len());
    w.wait(1_500);
    let revoked: Vec<_> =
        w.sent.iter().filter_map(|f| if let ToAgent::Revoke(a) = f { Some(*a) } else { None }).collect();
    assert!(!revoked.is_empty());
    // Its machine may not have heard of that.
    let item = |attempt, phase| wire::InventoryItem {
        attempt,
        lineage: "l".into(),
        phase,
        pid: phase.into(),
        started_ms: 5,
    };
    let mut items = vec![item(TaskId::of_array(1, 2).attempt(1), 1)];
    items.extend(revoked.iter().map(|attempt| item(*attempt, 0)));
    w.says(1, vec![AgentSaid::Closed]);
    w.sent.clear();
    w.connect(2, "life", "keeper", 1, items);
    w.wait(1_000);
    let mut again: Vec<_> =
        w.sent.iter().filter_map(|f| if let ToAgent::Revoke(a) = f { Some(*a) } else { None }).collect();
    again.sort_unstable();
    assert_eq!(again, revoked);
    let first = revoked[0];
    w.says(2, revoked.into_iter().map(AgentSaid::Returned).collect());
    assert!(w.facts.contains(&Fact::AttemptReturned(first, w.now.wall)));
    // They have shown that what runs there is not short: they are not handed there again before something ends.
    let handed = w.started_frames().len();
    w.wait(60_000);
    assert_eq!(w.started_frames().len(), handed);
    w.finish(2, TaskId::of_array(1, 2).attempt(1), Cause::Ok);
    assert!(w.started_frames().len() > handed);
}

#[test]
fn what_waits_in_the_keeper_of_a_machine_that_came_back_smaller_goes_elsewhere() {
    let mut w = World::with_machine(2);
    w.submit(spec());
    w.submit(spec());
    let attempt = |job| TaskId::single(job).attempt(1);
    w.start(attempt(1));
    let item = |job, phase| wire::InventoryItem {
        attempt: attempt(job),
        lineage: "l".into(),
        phase,
        pid: phase.into(),
        started_ms: 5,
    };
    w.says(1, vec![AgentSaid::Closed]);
    w.connect(2, "life", "keeper", 1, vec![item(2, 0), item(1, 1)]);
    w.wait(1_000);
    assert!(w.sent.contains(&ToAgent::Revoke(attempt(2))));
    w.says(2, vec![AgentSaid::Returned(attempt(2))]);
    assert_eq!(w.standing(2), (State::Queued, Some(Substate::Waiting)));
    assert_eq!(w.standing(1).0, State::Running);
}

#[test]
fn a_machine_that_is_heard_before_it_tells_has_its_whole_time_again_for_what_is_not_lost_yet() {
    let mut w = World::with_machine(2);
    let brief = JobSpec { lost_after_s: Some(reeve_protocol::spec::LostAfter::Seconds(20.0)), ..spec() };
    w.submit(brief);
    let other = w.submit(spec()).id;
    for attempt in w.started_frames() {
        w.start(attempt);
    }
    w.says(1, vec![AgentSaid::Silent]);
    w.pass(280_000);
    assert_eq!((w.standing(1).0, w.standing(other).0), (State::Queued, State::Running));
    w.says(1, vec![AgentSaid::Heard { rtt_us: 1 }]);
    w.says(1, vec![AgentSaid::Closed]);
    w.pass(290_000);
    assert_eq!(w.standing(other).0, State::Running, "it may go on there: it was heard, and heard us");
    w.pass(12_000);
    assert_eq!(w.standing(other).0, State::Queued);
}
