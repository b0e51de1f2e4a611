//! Room of attempts that have ended and are not recorded yet, and machines on which nothing may start.
use super::*;
use crate::cluster::machine::EXITED_MAX;

fn first(job: u64) -> AttemptId {
    TaskId::single(job).attempt(1)
}

fn frames(w: &World, job: u64) -> usize {
    w.started_frames().iter().filter(|a| a.task.job == job).count()
}

#[test]
fn dispatch_goes_on_while_ends_wait_for_their_output() {
    let mut w = World::with_machine(1);
    for _ in 0..3 {
        w.submit(spec());
    }
    w.start(first(1));
    assert_eq!(frames(&w, 2), 0, "one cpu");
    w.says(1, vec![AgentSaid::Exited(first(1))]);
    assert_eq!(w.standing(1), (State::Running, Some(Substate::Running)), "its record is not complete");
    assert_eq!(frames(&w, 2), 1);
    w.start(first(2));
    w.says(1, vec![AgentSaid::Exited(first(1)), AgentSaid::Exited(first(2)), AgentSaid::Exited(first(2))]);
    assert_eq!(frames(&w, 3), 1);
    assert_eq!(w.core.machine_views(w.now)[0].unrecorded, 2);
    // Room comes for the output: each end is taken once, and gives no room back a second time.
    w.finish(1, first(1), Cause::Ok);
    w.finish(1, first(2), Cause::Exit { code: 3 });
    assert_eq!((w.standing(1).0, w.standing(2).0), (State::Completed, State::Failed));
    let view = &w.core.machine_views(w.now)[0];
    assert_eq!((view.unrecorded, view.cpu_milli_used), (0, 1000), "job 3 has the one cpu");
}

#[test]
fn after_a_restart_the_inventory_says_that_the_room_is_free() {
    let mut w = World::with_machine(1);
    w.submit(spec());
    w.submit(spec());
    w.start(first(1));
    w.says(1, vec![AgentSaid::Exited(first(1))]);
    w.says(1, vec![AgentSaid::Closed]);
    assert_eq!(frames(&w, 2), 1);
    // The second never arrived; the first has ended and tells so.
    let verdicts = w.connect(2, "life", "keeper", 1, vec![item(first(1), 3)]);
    assert_eq!(verdicts, [(first(1), Verdict::Report)]);
    assert!(w.started_frames().contains(&TaskId::single(2).attempt(2)), "the room of job 1 is free");
    w.finish(2, first(1), Cause::Ok);
    assert_eq!(w.standing(1).0, State::Completed);
}

#[test]
fn an_attempt_that_has_exited_can_still_be_lost_and_come_back() {
    let mut w = World::with_machine(1);
    w.submit(spec());
    w.start(first(1));
    w.says(1, vec![AgentSaid::Exited(first(1)), AgentSaid::Closed]);
    w.pass(301_000);
    assert_eq!(w.standing(1).0, State::Queued, "lost");
    w.ask(Call::PauseQueue { queue: "default".into(), paused: true, reason: None }).unwrap();
    w.connect(2, "life", "keeper", 1, vec![item(first(1), 3)]);
    w.finish(2, first(1), Cause::Ok);
    assert_eq!(w.standing(1).0, State::Completed, "nothing was dispatched meanwhile: its end counts");
}

#[test]
fn at_the_bound_an_ended_attempt_keeps_its_room() {
    let mut w = World::with_machine(1);
    let tiny = || JobSpec {
        resources: reeve_protocol::resources::ResourceAsk { cpus: Some(1.0), ..Default::default() },
        ..spec()
    };
    for _ in 0..EXITED_MAX + 2 {
        w.submit(tiny());
    }
    for job in 1..=EXITED_MAX as u64 + 1 {
        assert_eq!(frames(&w, job), 1, "job {job}");
        w.start(first(job));
        w.says(1, vec![AgentSaid::Exited(first(job))]);
    }
    assert_eq!(frames(&w, EXITED_MAX as u64 + 2), 0);
    w.finish(1, first(1), Cause::Ok);
    w.finish(1, first(EXITED_MAX as u64 + 1), Cause::Ok);
    assert_eq!(frames(&w, EXITED_MAX as u64 + 2), 1);
}

#[test]
fn only_the_machine_that_has_an_attempt_may_send_its_output() {
    let mut w = World::with_machine(1);
    w.submit(spec());
    let held = |w: &mut World, session, attempt| {
        w.ask(Call::HoldsAttempt { machine: MACHINE.into(), session, attempt }) == Ok(Reply::Held(true))
    };
    assert!(held(&mut w, 1, first(1)));
    assert!(!held(&mut w, 2, first(1)), "of another session");
    assert!(!held(&mut w, 1, TaskId::single(1).attempt(2)) && !held(&mut w, 1, first(9)));
    w.start(first(1));
    w.says(1, vec![AgentSaid::Exited(first(1))]);
    assert!(held(&mut w, 1, first(1)));
    w.finish(1, first(1), Cause::Ok);
    assert!(!held(&mut w, 1, first(1)), "its record is complete");
}

#[test]
fn a_result_that_could_not_be_shown_is_not_kept() {
    let mut w = World::with_machine(4);
    let deep = format!("{}{}", "[".repeat(1000), "]".repeat(1000)).into_bytes();
    let results =
        [br#""\ud800""#.to_vec(), deep, b"\xff".to_vec(), b"NaN".to_vec(), br#"{"loss":0.5}"#.to_vec()];
    for (at, result) in results.into_iter().enumerate() {
        w.submit(spec());
        let end =
            wire::Finished { result: Some(result), ..finished(first(at as u64 + 1), Cause::Ok, w.now.wall) };
        w.says(1, vec![AgentSaid::Finished(Box::new(end), None)]);
        assert_eq!(w.standing(at as u64 + 1).0, State::Completed);
    }
    let kept: Vec<_> = w.facts.iter().filter(|f| matches!(f, Fact::ResultKept(..))).collect();
    assert_eq!(kept, [&Fact::ResultKept(TaskId::single(5), r#"{"loss":0.5}"#.to_owned())]);
}

#[test]
fn a_machine_whose_jobs_are_stopped_gets_nothing_and_says_why() {
    let mut w = World::with_machine(2);
    w.submit(spec());
    w.submit(spec());
    w.start(first(1));
    w.says(1, vec![AgentSaid::Taking(Some("its jobs are\u{1b} stopped".into()))]);
    let revoked: Vec<_> = w
        .sent
        .iter()
        .filter_map(|f| if let ToAgent::Revoke(attempt) = f { Some(*attempt) } else { None })
        .collect();
    assert_eq!(revoked, [first(2)], "what has started is drained by the machine itself");
    w.says(1, vec![AgentSaid::Returned(first(2))]);
    assert_eq!((w.standing(2), w.started_frames().len()), ((State::Queued, Some(Substate::Waiting)), 2));
    let stored = w.row(2);
    let Ok(Reply::Why(why)) = w.ask(Call::Why { target: target(2), stored }) else { panic!("no reason") };
    assert!(format!("{why:?}").contains("takes no jobs: its jobs are"), "{why:?}");
    let view = &w.core.machine_views(w.now)[0];
    assert!(view.refuses.as_ref().is_some_and(|why| !why.contains('\u{1b}')));
    let Ok(Reply::Stats(stats)) = w.ask(Call::GetQueueStats) else { panic!("no statistics") };
    assert!(stats.alerts.iter().any(|a| a.text.contains("takes no jobs")));
    w.says(1, vec![AgentSaid::Taking(None)]);
    assert_eq!(w.started_frames().len(), 3);
    assert!(w.events.iter().any(|e| format!("{e:?}").contains("takes_no_jobs")));
    // Another session starts without what was said in the one before.
    w.says(1, vec![AgentSaid::Taking(Some("x".into())), AgentSaid::Closed]);
    w.connect(2, "life", "keeper", 2, vec![item(first(1), 1)]);
    assert_eq!(w.core.machine_views(w.now)[0].refuses, None);
}
