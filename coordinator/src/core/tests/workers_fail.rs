//! Static workers when something goes wrong: replicas that die, hang or never load, machines and agents that go away.
use super::workers::static_request;
use super::*;
use reeve_protocol::wire::{RequestId, outcome, replica_phase as phase};
use serde_json::json;

fn stops(w: &mut World) -> Vec<(AttemptId, Cause)> {
    w.pick_sent(|f| {
        if let ToAgent::Stop(s) = f { Some((s.attempt, Cause::from_wire(s.cause.clone()))) } else { None }
    })
}

#[test]
fn a_dead_replica_costs_only_its_own_requests_and_tracked_ones_go_elsewhere() {
    let (mut w, _) = World::with_bank(1, 2);
    let (one, two) = (w.for_bank(json!(1)), w.for_bank(json!(2)));
    let asked = w.requests();
    w.finish(1, asked[0].replica, Cause::Signal { signal: 9 });
    assert_eq!(w.standing(one), (State::Queued, Some(Substate::Waiting)));
    assert_eq!(w.standing(two), (State::Running, Some(Substate::Running)));
    w.answers(1, &asked[1], outcome::RESULT, "2");
    let again = w.requests().remove(0);
    assert_eq!((again.replica, again.id.attempt), (asked[1].replica, Some(TaskId::single(one).attempt(2))));
    let lost = w.facts.iter().any(|f| matches!(f, Fact::AttemptEnded(e) if e.attempt == TaskId::single(one).attempt(1) && e.cause == Cause::WorkerLost));
    assert!(lost);
    w.answers(1, &again, outcome::RESULT, "1");
    assert_eq!(w.standing(one).0, State::Completed);
}

#[test]
fn a_call_on_a_dead_replica_is_answered_with_what_is_known() {
    let (mut w, replicas) = World::with_bank(1, 1);
    w.call_bank(None);
    w.finish(1, replicas[0], Cause::Exit { code: 3 });
    let problem = w.answers.remove(&w.ticket.clone()).unwrap().unwrap_err();
    assert!(
        problem.is(Code::WorkerLost) && problem.outcome == reeve_protocol::error::Outcome::Unknown,
        "{problem:?}"
    );
}

#[test]
fn a_replica_that_ends_is_started_again_after_a_growing_pause() {
    let (mut w, replicas) = World::with_bank(1, 1);
    let mut attempt = replicas[0];
    for pause in [1_000, 2_000, 4_000] {
        w.finish(1, attempt, Cause::Exit { code: 1 });
        let status = w.bank().status.unwrap();
        assert!(
            status.phase == "failed" && status.replicas[0].reason.as_ref().unwrap().contains('1'),
            "{status:?}"
        );
        w.wait(pause - 1);
        assert!(w.pick_sent(|f| matches!(f, ToAgent::StartReplica(_)).then_some(())).is_empty());
        w.wait(1);
        attempt = w.ready(1).remove(0);
    }
    assert_eq!(attempt.attempt, 4);
    w.pass(600_000);
    w.finish(1, attempt, Cause::Ok);
    w.wait(1_000);
    assert_eq!(w.ready(1).len(), 1, "ten good minutes forgive what was before");
}

#[test]
fn loading_without_progress_ends_and_with_progress_goes_on() {
    let mut w = World::with_machine(4);
    w.register("bank", static_request(1, 1.0)).unwrap();
    w.launch("bank", None).unwrap();
    let attempt =
        w.pick_sent(|f| if let ToAgent::StartReplica(s) = f { Some(s.start.attempt) } else { None })[0];
    w.start(attempt);
    for percent in 0..5 {
        let fraction = Some(f64::from(percent) / 10.0);
        let state =
            wire::ReplicaState { attempt, phase: phase::LOADING, fraction, message: Some("weights".into()) };
        w.says(1, vec![AgentSaid::Replicas(vec![state])]);
        w.pass(400_000);
    }
    assert!(stops(&mut w).is_empty());
    assert_eq!(w.bank().status.unwrap().phase, "loading");
    w.pass(201_000);
    assert!(
        matches!(&stops(&mut w)[..], [(a, Cause::Error { detail })] if *a == attempt && detail.contains("no progress"))
    );
    w.pass(31_000);
    assert_eq!(stops(&mut w).len(), 1, "until it has ended");
}

#[test]
fn a_replica_that_hangs_is_started_again_after_the_request_is_given_up() {
    let (mut w, replicas) = World::with_bank(1, 1);
    w.call_bank(Some(1_000));
    w.wait(1_000);
    w.pass(29_000);
    assert!(stops(&mut w).is_empty());
    w.pass(2_000);
    assert!(
        matches!(&stops(&mut w)[..], [(a, Cause::Error { detail })] if *a == replicas[0] && detail.contains("hangs"))
    );
}

#[test]
fn a_replica_that_hangs_is_told_to_stop_until_it_has_ended_and_not_judged_while_its_machine_is_silent() {
    let (mut w, replicas) = World::with_bank(1, 1);
    w.call_bank(Some(1_000));
    let call = w.core.call_id(w.ticket);
    w.pass(2_000);
    w.says(1, vec![AgentSaid::Closed]);
    w.pass(45_000);
    assert!(stops(&mut w).is_empty(), "it may have answered");
    let item =
        wire::InventoryItem { attempt: replicas[0], lineage: "l".into(), phase: 1, pid: 9, started_ms: 5 };
    w.connect(2, "life", "keeper", 4, vec![item.clone()]);
    let asked = (replicas[0], call);
    w.says(2, vec![AgentSaid::InFlight(vec![asked], true)]);
    w.pass(31_000);
    assert_eq!(stops(&mut w).len(), 1);
    // The machine has not heard of it.
    w.says(2, vec![AgentSaid::Closed]);
    w.connect(3, "life", "keeper", 4, vec![item]);
    w.says(3, vec![AgentSaid::InFlight(vec![asked], true)]);
    w.pass(31_000);
    assert_eq!(stops(&mut w).len(), 1);
    w.finish(3, replicas[0], Cause::Signal { signal: 15 });
    w.pass(120_000);
    assert!(stops(&mut w).is_empty());
}

#[test]
fn a_tracked_request_has_the_jobs_time_limit_and_can_be_cancelled() {
    let (mut w, _) = World::with_bank(2, 1);
    let spec =
        JobSpec { worker: Some("bank".into()), timeout_s: Some(5.0), retries: Some(0), ..JobSpec::default() };
    let slow = w.submit(spec).id;
    let other = w.for_bank(json!(1));
    w.wait(5_000);
    assert_eq!(w.standing(slow), (State::Failed, None));
    let target = Target { job: other, tasks: None };
    w.ask(Call::CancelJob { target, grace_ms: None, stored: Stored::default() }).unwrap();
    assert_eq!(w.standing(other), (State::Cancelled, None));
    let cancels = w.pick_sent(|f| if let ToAgent::CancelRequest(_, id) = f { id.attempt } else { None });
    assert_eq!(cancels.len(), 2);
    w.for_bank(json!(2));
    assert_eq!(w.requests().len(), 2, "both places are taken until the replica has answered");
}

#[test]
fn nonsense_stops_the_replica_and_a_bad_answer_fails_its_request() {
    let (mut w, replicas) = World::with_bank(1, 1);
    let spec = JobSpec { worker: Some("bank".into()), retries: Some(0), ..JobSpec::default() };
    let job = w.submit(spec).id;
    let request = w.requests().remove(0);
    w.answers(1, &request, outcome::BAD, "not JSON");
    assert_eq!(w.standing(job).0, State::Failed);
    w.phase(1, replicas[0], phase::BROKEN);
    assert!(matches!(&stops(&mut w)[..], [(a, Cause::Error { .. })] if *a == replicas[0]));
}

#[test]
fn what_an_agent_does_not_know_of_is_asked_again() {
    let (mut w, replicas) = World::with_bank(3, 1);
    let (one, two) = (w.for_bank(json!(1)), w.for_bank(json!(2)));
    w.call_bank(None);
    let call = w.ticket;
    w.requests();
    let item =
        wire::InventoryItem { attempt: replicas[0], lineage: "l".into(), phase: 1, pid: 9, started_ms: 5 };
    w.connect(2, "life", "keeper", 4, vec![item]);
    assert!(w.requests().is_empty(), "nothing before the replica is told of");
    let known = (replicas[0], RequestId { attempt: Some(TaskId::single(one).attempt(1)), call: 0 });
    let strange = (replicas[0], RequestId { attempt: None, call: 99 });
    w.phase(2, replicas[0], phase::READY);
    w.says(2, vec![AgentSaid::InFlight(vec![known], false), AgentSaid::InFlight(vec![strange], true)]);
    assert_eq!(w.standing(one).0, State::Running);
    assert!(w.answers.remove(&call).unwrap().unwrap_err().is(Code::WorkerLost));
    assert_eq!(w.requests()[0].id.attempt, Some(TaskId::single(two).attempt(2)));
    assert_eq!(
        w.pick_sent(|f| if let ToAgent::CancelRequest(_, id) = f { Some(*id) } else { None }),
        [strange.1]
    );
}

#[test]
fn requests_of_a_silent_machine_go_elsewhere_after_a_minute_and_late_answers_are_stale() {
    let (mut w, _) = World::with_bank(1, 1);
    let job = w.for_bank(json!(1));
    let request = w.requests().remove(0);
    w.says(1, vec![AgentSaid::Closed]);
    w.pass(59_000);
    assert_eq!(w.standing(job).0, State::Running);
    w.pass(2_000);
    assert_eq!(w.standing(job), (State::Queued, Some(Substate::Waiting)));
    let item = wire::InventoryItem {
        attempt: request.replica,
        lineage: "l".into(),
        phase: 1,
        pid: 9,
        started_ms: 5,
    };
    w.connect(2, "life", "keeper", 4, vec![item]);
    w.phase(2, request.replica, phase::READY);
    w.says(2, vec![AgentSaid::InFlight(vec![(request.replica, request.id)], true)]);
    assert!(w.requests().is_empty(), "what it works on still takes its only place");
    w.answers(2, &request, outcome::RESULT, "old");
    assert!(!w.facts.iter().any(|f| matches!(f, Fact::ResultKept(..))));
    let again = w.requests().remove(0);
    assert_eq!(again.id.attempt, Some(TaskId::single(job).attempt(2)));
    w.answers(2, &request, outcome::RESULT, "old, again");
    assert_eq!(w.standing(job).0, State::Running);
    w.answers(2, &again, outcome::RESULT, "new");
    assert!(w.facts.contains(&Fact::ResultKept(TaskId::single(job), "new".into())));
}

#[test]
fn a_session_that_never_tells_what_replicas_work_on_strands_none() {
    let (mut w, replicas) = World::with_bank(1, 1);
    let held = |replica: AttemptId| wire::InventoryItem {
        attempt: replica,
        lineage: "l".into(),
        phase: 1,
        pid: 9,
        started_ms: 5,
    };
    w.connect(2, "life", "keeper", 4, vec![held(replicas[0])]);
    w.phase(2, replicas[0], phase::READY);
    let job = w.for_bank(json!(1));
    w.pass(50_000);
    assert!(w.requests().is_empty(), "it may still tell");
    // The time of a session before is nothing to the next one.
    w.connect(3, "life", "keeper", 4, vec![held(replicas[0])]);
    w.phase(3, replicas[0], phase::READY);
    w.pass(20_000);
    assert!(w.requests().is_empty());
    w.pass(41_000);
    assert_eq!(w.requests().remove(0).id.attempt, Some(TaskId::single(job).attempt(1)));
}

#[test]
fn an_unready_replica_gets_nothing_until_it_is_ready_again() {
    let (mut w, replicas) = World::with_bank(1, 1);
    w.phase(1, replicas[0], phase::UNREADY);
    w.for_bank(json!(1));
    assert!(w.requests().is_empty());
    w.phase(1, replicas[0], phase::READY);
    assert_eq!(w.requests().len(), 1);
}

#[test]
fn a_replica_whose_machine_restarted_is_placed_again_with_its_requests() {
    let (mut w, _) = World::with_bank(1, 1);
    let job = w.for_bank(json!(1));
    w.requests();
    w.says(1, vec![AgentSaid::Closed]);
    w.connect(2, "another life", "keeper", 4, vec![]);
    assert_eq!(w.standing(job).0, State::Queued);
    assert_eq!(w.ready(2).len(), 1);
    assert_eq!(w.requests()[0].id.attempt, Some(TaskId::single(job).attempt(2)));
}

#[test]
fn cancelling_a_replica_gives_another_one() {
    let (mut w, replicas) = World::with_bank(1, 1);
    let target = Target { job: replicas[0].task.job, tasks: None };
    w.ask(Call::CancelJob { target, grace_ms: None, stored: Stored::default() }).unwrap();
    w.finish(1, replicas[0], Cause::Cancelled);
    let new = w.ready(1);
    assert!(new.len() == 1 && new[0].task.job != replicas[0].task.job);
}

#[test]
fn a_replica_whose_gpus_are_not_fit_is_given_back_and_started_again() {
    let mut w = World::with_machine(4);
    w.register("bank", static_request(1, 1.0)).unwrap();
    w.launch("bank", None).unwrap();
    let first = TaskId::single(1).attempt(1);
    w.says(1, vec![AgentSaid::Returned(first)]);
    assert!(w.facts.contains(&Fact::AttemptReturned(first, w.now.wall)));
    w.pick_sent(|f| matches!(f, ToAgent::StartReplica(s) if s.start.attempt == first).then_some(()));
    let again = w.ready(1);
    assert_eq!(again, [first.task.attempt(2)], "it is nobody's fault: at once, wherever it fits");
    assert_eq!(w.bank().status.unwrap().ready, 1);
}

#[test]
fn what_kills_its_replica_twice_goes_alone_and_does_not_fail_its_neighbours() {
    let (mut w, replicas) = World::with_bank(4, 1);
    let jobs: Vec<u64> = (0..4).map(|n| w.for_bank(json!(n))).collect();
    let mut replica = replicas[0];
    let mut answered = Vec::new();
    let poison = jobs[1];
    for _ in 0..60 {
        let asked = w.requests();
        if asked.is_empty() {
            w.wait(1_000);
            w.ready(1).into_iter().for_each(|attempt| replica = attempt);
            continue;
        }
        let of = |r: &wire::Request| r.id.attempt.unwrap();
        if let Some(third) = asked.iter().find(|r| of(r).attempt > 2) {
            assert_eq!((asked.len(), third.replica), (1, replica), "nobody is beside it");
        }
        if asked.iter().any(|r| of(r).task.job == poison) {
            w.finish(1, replica, Cause::Signal { signal: 9 });
            continue;
        }
        for request in asked {
            answered.push(of(&request).task.job);
            w.answers(1, &request, outcome::RESULT, "1");
        }
    }
    assert_eq!(answered, [jobs[0], jobs[2], jobs[3]]);
    assert_eq!(w.standing(poison).0, State::Failed);
    assert!([0, 2, 3].iter().all(|n| w.standing(jobs[*n]).0 == State::Completed));
}
