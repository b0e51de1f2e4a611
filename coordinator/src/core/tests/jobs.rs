//! Jobs and arrays from submit to end, cancel, restart, hold, register, update.
use super::*;

#[test]
fn a_job_runs_on_the_machine_that_is_free_and_its_end_is_recorded_before_it_is_forgotten() {
    let mut w = World::with_machine(2);
    let s = w.submit(spec());
    assert_eq!((s.id, s.state, s.substate, s.created), (1, State::Queued, Some(Substate::Waiting), true));
    let attempt = TaskId::single(1).attempt(1);
    assert_eq!(w.started_frames(), [attempt]);
    assert_eq!(w.standing(1), (State::Queued, Some(Substate::Assigned)));
    w.start(attempt);
    assert_eq!(w.standing(1), (State::Running, Some(Substate::Running)));
    w.finish(1, attempt, Cause::Ok);
    assert_eq!(w.standing(1), (State::Completed, None));
    assert!(w.sent.contains(&ToAgent::Forget(vec![attempt])));
    assert!(w.core.jobs.is_empty(), "what has ended leaves memory");
    let states: Vec<_> =
        w.events.iter().filter(|e| e.id == Some(1)).map(|e| (e.from, e.to, e.substate)).collect();
    let q = Some(State::Queued);
    let r = Some(State::Running);
    assert_eq!(
        states,
        [
            (None, q, Some(Substate::Waiting)),
            (q, q, Some(Substate::Assigned)),
            (q, r, Some(Substate::Running)),
            (r, Some(State::Completed), None)
        ]
    );
}

#[test]
fn no_more_than_fits_is_dispatched_and_the_rest_waits_in_order() {
    let mut w = World::with_machine(2);
    for priority in [0, 0, 0, 5] {
        w.submit(JobSpec { priority, ..spec() });
    }
    assert_eq!(w.started_frames().iter().map(|a| a.task.job).collect::<Vec<_>>(), [1, 2]);
    w.finish(1, TaskId::single(1).attempt(1), Cause::Ok);
    assert!(w.started_frames().iter().any(|a| a.task.job == 4), "higher priority before older");
}

#[test]
fn a_job_that_fails_is_retried_on_its_own_budget_and_then_failed() {
    let mut w = World::with_machine(1);
    w.submit(JobSpec { retries: Some(1), ..spec() });
    w.finish(1, TaskId::single(1).attempt(1), Cause::Exit { code: 3 });
    assert_eq!(w.standing(1), (State::Queued, Some(Substate::Retrying)));
    w.wait(600_000);
    w.finish(1, TaskId::single(1).attempt(2), Cause::Exit { code: 3 });
    assert_eq!(w.standing(1), (State::Failed, None));
}

#[test]
fn delay_hold_and_expiry() {
    let mut w = World::with_machine(4);
    w.submit(JobSpec { delay_s: Some(60.0), ..spec() });
    w.submit(JobSpec { hold: true, ..spec() });
    w.submit(JobSpec { hold: true, expires_s: Some(30.0), ..spec() });
    assert!(w.started_frames().is_empty());
    w.wait(59_000);
    assert_eq!(w.standing(1), (State::Queued, Some(Substate::Delayed)));
    assert_eq!(w.standing(3), (State::Failed, None));
    w.wait(2_000);
    assert_eq!(w.started_frames().len(), 1);
    let call = Call::HoldJob { target: target(2), hold: false, stored: Stored::default() };
    assert!(matches!(w.ask(call), Ok(Reply::Changed(Changed { id: 2, .. }))));
    assert_eq!(w.started_frames().len(), 2);
    let again = Call::HoldJob { target: target(2), hold: false, stored: Stored::default() };
    assert_eq!(code(w.ask(again)), "wrong-state");
}

#[test]
fn cancelling_what_waits_is_at_once_and_what_runs_ends_with_its_tree() {
    let mut w = World::with_machine(1);
    w.submit(spec());
    w.submit(spec());
    w.start(TaskId::single(1).attempt(1));
    let cancel = |job| Call::CancelJob { target: target(job), grace_ms: None, stored: Stored::default() };
    w.ask(cancel(2)).unwrap();
    assert_eq!(w.standing(2), (State::Cancelled, None));
    w.ask(cancel(1)).unwrap();
    assert_eq!(w.standing(1), (State::Running, Some(Substate::Cancelling)));
    assert!(
        w.sent
            .iter()
            .any(|f| matches!(f, ToAgent::Stop(s) if s.attempt.task.job == 1 && s.grace_ms == 15_000))
    );
    w.finish(1, TaskId::single(1).attempt(1), Cause::Cancelled);
    assert_eq!(w.standing(1), (State::Cancelled, None));
    assert_eq!(
        code(w.ask(Call::CancelJob { target: target(1), grace_ms: None, stored: w.row(1) })),
        "wrong-state"
    );
    assert_eq!(code(w.ask(cancel(99))), "not-found");
}

#[test]
fn an_end_that_came_before_the_stop_is_the_true_end_and_is_not_retried() {
    let mut w = World::with_machine(1);
    w.submit(JobSpec { retries: Some(5), ..spec() });
    w.start(TaskId::single(1).attempt(1));
    w.ask(Call::CancelJob { target: target(1), grace_ms: None, stored: Stored::default() }).unwrap();
    w.finish(1, TaskId::single(1).attempt(1), Cause::Exit { code: 1 });
    assert_eq!(w.standing(1), (State::Failed, None));
}

#[test]
fn another_user_cannot_touch_it() {
    let mut w = World::new();
    w.submit(spec());
    let call = Call::CancelJob { target: target(1), grace_ms: None, stored: Stored::default() };
    assert_eq!(code(w.ask_as(2000, call.clone()).unwrap()), "single-user");
    assert!(w.ask_as(0, call).unwrap().is_ok(), "root may");
}

#[test]
fn a_cancel_before_the_start_is_on_record_so_that_a_new_coordinator_knows_it() {
    let mut w = World::with_machine(1);
    w.submit(spec());
    assert_eq!(w.standing(1), (State::Queued, Some(Substate::Assigned)));
    w.facts.clear();
    w.ask(Call::CancelJob { target: target(1), grace_ms: None, stored: Stored::default() }).unwrap();
    let kept = w.facts.iter().find_map(|fact| match fact {
        Fact::JobMoved(1, standing) => Some(standing.clone()),
        _ => None,
    });
    let kept = kept.expect("the intent is a fact of the step that answers");
    assert!(crate::job_manager::Task::restore(&kept).is_some_and(|task| task.cancel));
    w.says(1, vec![AgentSaid::Returned(TaskId::single(1).attempt(1))]);
    assert_eq!(w.standing(1), (State::Cancelled, None));
}

#[test]
fn restart_keeps_the_job_and_its_attempts() {
    let mut w = World::with_machine(1);
    w.submit(spec());
    w.finish(1, TaskId::single(1).attempt(1), Cause::Exit { code: 1 });
    let stored = w.row(1);
    w.ask(Call::RestartJob { target: target(1), latest: false, stored }).unwrap();
    assert!(
        w.started_frames().contains(&TaskId::single(1).attempt(2)),
        "the next attempt has the next number"
    );
    assert_eq!(
        code(w.ask(Call::RestartJob { target: target(1), latest: false, stored: Stored::default() })),
        "wrong-state"
    );
    let stale = Stored { job: w.row(1).job, ..Stored::default() };
    w.finish(1, TaskId::single(1).attempt(2), Cause::Ok);
    assert_eq!(
        code(w.ask(Call::RestartJob { target: target(1), latest: false, stored: stale })),
        "unavailable",
        "a row that is behind is read again"
    );
}

#[test]
fn rows_that_were_read_before_the_last_end_are_not_believed() {
    let mut w = World::with_machine(1);
    w.submit(spec());
    w.submit(JobSpec { array: Some(ArraySpec { from: 1, to: 9, limit: None }), ..spec() });
    let end = |w: &mut World, attempt| w.finish(1, attempt, Cause::Exit { code: 1 });
    end(&mut w, TaskId::single(1).attempt(1));
    end(&mut w, TaskId::of_array(2, 1).attempt(1));
    let before = [w.row(1), w.row(2)];
    let restart = |job: u64, stored: Stored| Call::RestartJob { target: target(job), latest: false, stored };
    for (at, attempt) in
        [TaskId::single(1).attempt(2), TaskId::of_array(2, 1).attempt(2)].into_iter().enumerate()
    {
        w.ask(restart(at as u64 + 1, before[at].clone())).unwrap();
        end(&mut w, TaskId::of_array(2, 2).attempt(1));
        end(&mut w, attempt);
        assert!(w.started_frames().contains(&attempt));
        // Somebody else had read the same rows: the number of its next attempt would be one that is taken.
        assert_eq!(code(w.ask(restart(at as u64 + 1, before[at].clone()))), "unavailable");
        let fresh = w.row(at as u64 + 1);
        w.ask(restart(at as u64 + 1, fresh)).unwrap();
        end(&mut w, attempt.task.attempt(3));
    }
}

#[test]
fn a_cancel_of_what_was_handed_out_survives_until_the_machine_has_said_what_became_of_it() {
    let mut w = World::with_machine(1);
    w.submit(spec());
    w.says(1, vec![AgentSaid::Closed]);
    w.ask(Call::CancelJob { target: target(1), grace_ms: None, stored: Stored::default() }).unwrap();
    assert!(
        w.facts.iter().any(|f| matches!(f, Fact::JobMoved(1, s) if s.cause == Some(Cause::Cancelled) && s.state == State::Queued)),
        "the intent is on disk: it may run there already"
    );
    w.connect(2, "life", "keeper", 1, vec![]);
    assert_eq!(w.standing(1).0, State::Cancelled);
    assert!(w.facts.iter().any(|f| matches!(f, Fact::JobMoved(1, s) if s.cause == Some(Cause::Cancelled))));
}

#[test]
fn tasks_that_come_to_lie_behind_the_cursor_get_rows() {
    let mut w = World::with_machine(1);
    w.submit(JobSpec { array: Some(ArraySpec { from: 1, to: 4, limit: None }), ..spec() });
    let some = |from, to| Target { job: 1, tasks: Some((from, to)) };
    let stored = Stored::default();
    w.ask(Call::HoldJob { target: some(2, 2), hold: true, stored: stored.clone() }).unwrap();
    w.ask(Call::CancelJob { target: some(3, 3), grace_ms: None, stored: stored.clone() }).unwrap();
    w.finish(1, TaskId::of_array(1, 1).attempt(1), Cause::Ok);
    let has_row = |w: &World, index| {
        w.facts.iter().any(|f| matches!(f, Fact::TaskMoved(t, _) if *t == TaskId::of_array(1, index)))
    };
    assert!(has_row(&w, 4) && has_row(&w, 2), "the cursor passed what is held");
    assert!(!has_row(&w, 3));
    let row = w.row(1);
    w.ask(Call::RestartJob { target: some(3, 3), latest: false, stored: row }).unwrap();
    assert!(has_row(&w, 3), "revived behind the cursor");
}

#[test]
fn a_delayed_array_that_was_cancelled_runs_when_it_is_restarted() {
    let mut w = World::with_machine(1);
    let array = Some(ArraySpec { from: 1, to: 3, limit: None });
    w.submit(JobSpec { array, delay_s: Some(60.0), ..spec() });
    let cancel = |tasks| Call::CancelJob {
        target: Target { job: 1, tasks },
        grace_ms: None,
        stored: Stored::default(),
    };
    // A part of it that comes back waits with the others.
    w.ask(cancel(Some((2, 2)))).unwrap();
    let restart = |w: &World, tasks| Call::RestartJob {
        target: Target { job: 1, tasks },
        latest: false,
        stored: w.row(1),
    };
    let part = restart(&w, Some((2, 2)));
    w.ask(part).unwrap();
    w.wait(1_000);
    assert!(w.started_frames().is_empty());
    w.ask(cancel(None)).unwrap();
    assert_eq!(w.standing(1).0, State::Cancelled);
    let whole = restart(&w, None);
    w.ask(whole).unwrap();
    assert_eq!(w.started_frames(), [TaskId::of_array(1, 1).attempt(1)], "it was over: now means now");
    w.pass(61_000);
}

#[test]
fn an_array_of_a_million_costs_one_row_and_tasks_get_rows_when_they_run() {
    let mut w = World::with_machine(2);
    w.submit(JobSpec { array: Some(ArraySpec { from: 1, to: 1_000_000, limit: None }), ..spec() });
    assert_eq!(w.facts.iter().filter(|f| matches!(f, Fact::JobAdded(_))).count(), 1);
    assert_eq!(w.started_frames().len(), 2);
    for index in 1..=2 {
        w.finish(1, TaskId::of_array(1, index).attempt(1), Cause::Ok);
    }
    let stats = w.core.stats(w.now);
    assert_eq!(stats.counts.completed, 2);
    assert_eq!(stats.counts.total(), 1_000_000);
    w.ask(Call::CancelJob { target: target(1), grace_ms: None, stored: Stored::default() }).unwrap();
    for attempt in w.started_frames() {
        w.finish(1, attempt, Cause::Cancelled);
    }
    assert_eq!(w.standing(1), (State::Cancelled, None));
    assert!(w.core.jobs.is_empty());
}

#[test]
fn restart_of_an_array_is_its_failed_and_cancelled_tasks() {
    let mut w = World::with_machine(8);
    w.submit(JobSpec { array: Some(ArraySpec { from: 1, to: 4, limit: None }), ..spec() });
    for (index, cause) in [(1, Cause::Ok), (2, Cause::Exit { code: 1 }), (3, Cause::Ok)] {
        w.finish(1, TaskId::of_array(1, index).attempt(1), cause);
    }
    w.ask(Call::CancelJob {
        target: Target { job: 1, tasks: Some((4, 4)) },
        grace_ms: None,
        stored: Stored::default(),
    })
    .unwrap();
    w.finish(1, TaskId::of_array(1, 4).attempt(1), Cause::Cancelled);
    assert_eq!(w.standing(1), (State::Failed, None));
    w.sent.clear();
    let stored = w.row(1);
    assert!(matches!(
        w.ask(Call::RestartJob { target: target(1), latest: false, stored }),
        Ok(Reply::Changed(Changed { tasks: Some(2), .. }))
    ));
    let mut again: Vec<_> = w.started_frames();
    again.sort_unstable();
    assert_eq!(again, [TaskId::of_array(1, 2).attempt(2), TaskId::of_array(1, 4).attempt(2)]);
    for attempt in again {
        w.finish(1, attempt, Cause::Ok);
    }
    assert_eq!(w.standing(1), (State::Completed, None));
}

#[test]
fn the_same_key_is_the_same_job_and_another_content_is_refused() {
    let mut w = World::new();
    let key = |digest: &str| Some(crate::input::Key { key: "k".into(), digest: digest.into() });
    let submit = |digest| Call::Submit { spec: Box::new(spec()), key: key(digest) };
    assert!(matches!(w.ask(submit("a")), Ok(Reply::Submitted(Submitted { id: 1, .. }, false))));
    assert!(matches!(w.ask(submit("a")), Ok(Reply::Submitted(Submitted { id: 1, .. }, true))));
    assert_eq!(code(w.ask(submit("b"))), "key-reused");
    assert!(
        matches!(w.ask_as(2000, submit("b")).unwrap(), Ok(Reply::Submitted(Submitted { id: 2, .. }, false))),
        "keys are per user"
    );
}

#[test]
fn many_at_once_share_one_event_and_atomic_ones_are_all_or_nothing() {
    let mut w = World::new();
    let specs: Vec<_> = (0..500).map(|_| (spec(), None)).collect();
    assert!(
        matches!(w.ask(Call::SubmitMany { specs, atomic: false }), Ok(Reply::Many(ids, _)) if ids.len() == 500)
    );
    assert_eq!(w.events.iter().filter(|e| e.kind == "job").map(|e| e.count).collect::<Vec<_>>(), [Some(500)]);
    let bad = vec![(spec(), None), (JobSpec { worker: Some("nobody".into()), ..JobSpec::default() }, None)];
    assert_eq!(code(w.ask(Call::SubmitMany { specs: bad, atomic: true })), "not-found");
    assert_eq!(w.core.jobs.len(), 500);
}

#[test]
fn the_seeds_sequence() {
    let mut w = World::new();
    let id = w.submit(JobSpec { queue: Some("vbrain".into()), ..spec() }).id;
    let request = RegisterRequest { id: "mgr-42".into(), definition: None, cluster_id: Some(id) };
    let register = |w: &mut World, cluster_id| {
        w.ask(Call::RegisterJob {
            id: request.id.clone(),
            definition: Some("{}".into()),
            cluster_id,
            stored: Stored::default(),
        })
    };
    assert_eq!(register(&mut w, Some(id)), Ok(Reply::Registered(1, false)));
    assert_eq!(register(&mut w, Some(id)), Ok(Reply::Registered(1, false)), "the same again");
    w.submit(spec());
    assert_eq!(code(register(&mut w, Some(2))), "name-taken");
    let receive = Call::ReceiveMessage { queue: "vbrain".into(), max: 1, wait_ms: 0, lease_ms: 60_000 };
    let Ok(Reply::ReceivedJobs(items)) = w.ask(receive) else { panic!("a job") };
    let (task, attempt, lease, _) = items[0].clone();
    assert_eq!((task, attempt), (TaskId::single(1), 1));
    assert_eq!(w.standing(1), (State::Running, Some(Substate::Running)));
    let update = |state, lease: Option<String>| {
        let request = StatusRequest {
            state,
            lease,
            result: Some(serde_json::json!({"ok": 1})),
            ..StatusRequest::default()
        };
        Call::UpdateJobStatus { target: target(1), request: Box::new(request), stored: Stored::default() }
    };
    w.ask(update(Some(State::Running), Some(lease.clone()))).unwrap();
    assert_eq!(code(w.ask(update(Some(State::Completed), Some("wrong".into())))), "no-lease");
    w.ask(update(Some(State::Completed), Some(lease))).unwrap();
    assert_eq!(w.standing(1), (State::Completed, None));
    assert!(
        w.facts.iter().any(|f| matches!(f, Fact::ResultKept(t, json) if *t == task && json.contains("ok")))
    );
    let stored = w.row(1);
    w.ask(Call::RestartJob { target: target(1), latest: false, stored }).unwrap();
    assert_eq!(w.standing(1), (State::Queued, Some(Substate::Waiting)));
}

#[test]
fn a_job_that_runs_elsewhere_is_recorded_and_moved_by_its_updates() {
    let mut w = World::with_machine(4);
    let call = Call::RegisterJob {
        id: "outside".into(),
        definition: None,
        cluster_id: None,
        stored: Stored::default(),
    };
    assert_eq!(w.ask(call), Ok(Reply::Registered(1, true)));
    assert!(w.started_frames().is_empty(), "it is never dispatched");
    let update = |state, error: Option<&str>| {
        let request =
            StatusRequest { state: Some(state), error: error.map(Into::into), ..StatusRequest::default() };
        Call::UpdateJobStatus { target: target(1), request: Box::new(request), stored: Stored::default() }
    };
    w.ask(update(State::Running, None)).unwrap();
    w.ask(update(State::Failed, Some("boom"))).unwrap();
    assert_eq!(w.standing(1), (State::Failed, None));
    let late = Call::UpdateJobStatus {
        target: target(1),
        request: Box::new(StatusRequest { state: Some(State::Running), ..StatusRequest::default() }),
        stored: w.row(1),
    };
    assert_eq!(code(w.ask(late)), "wrong-state");
}

#[test]
fn what_a_machine_holds_only_that_machine_reports_on() {
    let mut w = World::with_machine(1);
    w.submit(spec());
    w.start(TaskId::single(1).attempt(1));
    let request = StatusRequest { state: Some(State::Completed), ..StatusRequest::default() };
    let problem = w
        .ask(Call::UpdateJobStatus {
            target: target(1),
            request: Box::new(request),
            stored: Stored::default(),
        })
        .unwrap_err();
    assert_eq!(problem.code, "wrong-state");
    assert!(problem.detail.contains("RUNNING") && problem.detail.contains("lab-1"), "{problem}");
}

#[test]
fn a_worker_is_a_recipe_and_its_queue_routes_to_it() {
    let mut w = World::with_machine(4);
    let request = reeve_protocol::api::WorkerRequest {
        kind: None,
        spec: JobSpec { command: Some(vec!["echo".into()]), ..JobSpec::default() },
        ..Default::default()
    };
    w.ask(Call::RegisterWorker { name: "say".into(), request: Box::new(request) }).unwrap();
    w.submit(JobSpec { worker: Some("say".into()), ..JobSpec::default() });
    w.submit(JobSpec {
        queue: Some("jobs.say".into()),
        worker: None,
        payload: Some(serde_json::json!(1)),
        ..JobSpec::default()
    });
    let commands: Vec<_> = w
        .sent
        .iter()
        .filter_map(|f| if let ToAgent::Start(s) = f { Some(s.command.clone()) } else { None })
        .collect();
    assert_eq!(commands, [["echo"], ["echo"]]);
}
