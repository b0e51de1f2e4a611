//! Workers: payload fields in commands, static workers from registration to answers, and how their number changes.
use super::*;
use crate::input::Scale;
use reeve_protocol::api::{LaunchRequest, Serving, WorkerRequest, WorkerView};
use reeve_protocol::wire::{Answer, Request, RequestId, outcome, replica_phase as phase};
use serde_json::json;

pub(super) fn static_request(ongoing: u32, cpus: f64) -> WorkerRequest {
    let resources = reeve_protocol::resources::ResourceAsk { cpus: Some(cpus), ..Default::default() };
    WorkerRequest {
        kind: Some("static".into()),
        spec: JobSpec { command: Some(vec!["bank".into()]), resources, ..JobSpec::default() },
        serving: Some(Serving { max_ongoing: Some(ongoing), ..Serving::default() }),
        ..WorkerRequest::default()
    }
}

impl World {
    pub(super) fn register(&mut self, name: &str, request: WorkerRequest) -> Result<Reply, Problem> {
        self.ask(Call::RegisterWorker { name: name.into(), request: Box::new(request) })
    }

    pub(super) fn launch(&mut self, name: &str, replicas: Option<u32>) -> Result<Reply, Problem> {
        self.ask(Call::LaunchWorker {
            name: name.into(),
            request: Box::new(LaunchRequest { replicas, ..LaunchRequest::default() }),
        })
    }

    /// Replicas that were told to start since the last look, each started and ready.
    pub(super) fn ready(&mut self, session: u64) -> Vec<AttemptId> {
        let started: Vec<AttemptId> =
            self.pick_sent(|f| if let ToAgent::StartReplica(s) = f { Some(s.start.attempt) } else { None });
        for attempt in &started {
            self.says(
                session,
                vec![AgentSaid::Started(wire::Started { attempt: *attempt, pid: 9, at_ms: self.now.wall })],
            );
            self.phase(session, *attempt, phase::READY);
        }
        started
    }

    pub(super) fn phase(&mut self, session: u64, attempt: AttemptId, phase: u16) {
        let state = wire::ReplicaState { attempt, phase, fraction: None, message: None };
        self.says(session, vec![AgentSaid::Replicas(vec![state])]);
    }

    pub(super) fn pick_sent<T>(&mut self, pick: impl Fn(&ToAgent) -> Option<T>) -> Vec<T> {
        let (taken, rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.sent).into_iter().partition(|f| pick(f).is_some());
        self.sent = rest;
        taken.iter().filter_map(pick).collect()
    }

    pub(super) fn requests(&mut self) -> Vec<Request> {
        self.pick_sent(|f| if let ToAgent::Request(r) = f { Some((**r).clone()) } else { None })
    }

    pub(super) fn answers(&mut self, session: u64, request: &Request, code: u16, body: &str) {
        let (replica, id) = (request.replica, request.id);
        let answer = Answer { replica, id, outcome: code, body: body.as_bytes().to_vec(), retry: false };
        self.says(session, vec![AgentSaid::Answers(vec![answer])]);
    }

    pub(super) fn for_bank(&mut self, payload: serde_json::Value) -> u64 {
        self.submit(JobSpec { worker: Some("bank".into()), payload: Some(payload), ..JobSpec::default() }).id
    }

    pub(super) fn call_bank(&mut self, deadline_ms: Option<u64>) -> Option<Result<Reply, Problem>> {
        self.ask_as(1000, Call::CallWorker { name: "bank".into(), payload: b"{}"[..].into(), deadline_ms })
    }

    pub(super) fn bank(&mut self) -> WorkerView {
        match self.ask(Call::ListWorkers) {
            Ok(Reply::Workers(mut all)) => all.remove(0),
            other => panic!("{other:?}"),
        }
    }

    /// A bank with so many ready replicas.
    pub(super) fn with_bank(ongoing: u32, replicas: u32) -> (Self, Vec<AttemptId>) {
        let mut w = Self::with_machine(4);
        w.register("bank", static_request(ongoing, 0.5)).unwrap();
        w.launch("bank", Some(replicas)).unwrap();
        let ready = w.ready(1);
        assert_eq!(ready.len(), replicas as usize);
        (w, ready)
    }
}

#[test]
fn fields_of_the_payload_become_arguments_and_a_missing_one_refuses_the_job() {
    let mut w = World::with_machine(4);
    let spec =
        JobSpec { command: Some(vec!["resize".into(), "{payload.file}".into()]), ..JobSpec::default() };
    w.register("resize", WorkerRequest { spec, ..WorkerRequest::default() }).unwrap();
    let job =
        |payload| JobSpec { worker: Some("resize".into()), payload: Some(payload), ..JobSpec::default() };
    w.submit(job(json!({"file": "a b; rm -rf /"})));
    let commands = w.pick_sent(|f| if let ToAgent::Start(s) = f { Some(s.command.clone()) } else { None });
    assert_eq!(commands, [["resize", "a b; rm -rf /"]]);
    let refused = w.ask(Call::Submit { spec: Box::new(job(json!({"fil": 1}))), key: None }).unwrap_err();
    assert!(refused.is(Code::BadValue) && refused.detail.contains("payload.file"), "{refused:?}");
    let script = WorkerRequest { shell: Some("echo {payload.x}".into()), ..WorkerRequest::default() };
    w.register("say", script).unwrap();
    w.submit(JobSpec {
        worker: Some("say".into()),
        payload: Some(json!({"x": "$(id)"})),
        ..JobSpec::default()
    });
    let commands = w.pick_sent(|f| if let ToAgent::Start(s) = f { Some(s.command.clone()) } else { None });
    assert_eq!(commands, [["sh", "-c", "echo ${1}", "sh", "$(id)"]]);
}

#[test]
fn a_job_keeps_the_version_that_it_was_submitted_with() {
    let mut w = World::new();
    let of = |word: &str| WorkerRequest {
        spec: JobSpec { command: Some(vec![word.into()]), ..JobSpec::default() },
        ..WorkerRequest::default()
    };
    w.register("say", of("one")).unwrap();
    let first = w.submit(JobSpec { worker: Some("say".into()), ..JobSpec::default() }).id;
    w.register("say", of("two")).unwrap();
    let second = w.submit(JobSpec { worker: Some("say".into()), ..JobSpec::default() }).id;
    let row = |id: u64| {
        w.facts.iter().find_map(|f| match f {
            Fact::JobAdded(row) if row.id == id => {
                Some((row.worker.clone().unwrap().1, row.spec.contains("one")))
            }
            _ => None,
        })
    };
    assert_eq!((row(first), row(second)), (Some((1, true)), Some((2, false))));
}

#[test]
fn a_tracked_job_runs_on_the_replica_and_ends_with_its_answer() {
    let (mut w, replicas) = World::with_bank(1, 1);
    let (one, two) = (w.for_bank(json!({"x": 1})), w.for_bank(json!([2])));
    let request = w.requests().remove(0);
    assert_eq!((request.replica, &request.payload[..]), (replicas[0], &br#"{"x":1}"#[..]));
    assert_eq!(w.standing(one), (State::Running, Some(Substate::Running)));
    assert_eq!(w.standing(two), (State::Queued, Some(Substate::Waiting)), "one at a time");
    w.answers(1, &request, outcome::RESULT, r#"{"y":2}"#);
    assert_eq!(w.standing(one), (State::Completed, None));
    assert!(w.facts.contains(&Fact::ResultKept(TaskId::single(one), r#"{"y":2}"#.into())));
    let request = w.requests().remove(0);
    assert_eq!(request.id, RequestId { attempt: Some(TaskId::single(two).attempt(1)), call: 0 });
    w.answers(1, &request, outcome::ERROR, "no such image");
    assert_eq!(w.standing(two), (State::Failed, None));
    assert_eq!(w.core.jobs.len(), 1, "the replica lives");
}

#[test]
fn an_answer_twice_or_to_nobody_or_from_elsewhere_changes_nothing() {
    let (mut w, _) = World::with_bank(2, 2);
    w.for_bank(json!(1));
    let request = w.requests().remove(0);
    let elsewhere = Request { replica: TaskId::single(2).attempt(1), ..request.clone() };
    let other =
        if elsewhere.replica == request.replica { TaskId::single(1).attempt(1) } else { elsewhere.replica };
    w.answers(1, &Request { replica: other, ..request.clone() }, outcome::RESULT, "0");
    w.answers(
        1,
        &Request { id: RequestId { attempt: None, call: 77 }, ..request.clone() },
        outcome::RESULT,
        "0",
    );
    let facts = w.facts.len();
    w.answers(1, &request, outcome::RESULT, "1");
    assert!(w.facts.len() > facts);
    let facts = w.facts.len();
    w.answers(1, &request, outcome::RESULT, "2");
    assert_eq!(w.facts.len(), facts);
    assert!(w.core.stale >= 3);
}

#[test]
fn a_call_costs_no_fact_and_is_answered_by_the_least_loaded() {
    let (mut w, _) = World::with_bank(2, 2);
    let facts = w.facts.len();
    assert!(w.call_bank(None).is_none(), "it waits for its answer");
    let first = w.ticket;
    assert!(w.call_bank(None).is_none());
    let asked = w.requests();
    assert_ne!(asked[0].replica, asked[1].replica);
    w.answers(1, &asked[0], outcome::RESULT, "7");
    assert_eq!(w.answers.remove(&first), Some(Ok(Reply::Called(b"7".to_vec()))));
    w.answers(1, &asked[1], outcome::ERROR, "bad input");
    let refused = w.answers.remove(&w.ticket.clone()).unwrap().unwrap_err();
    assert!(refused.is(Code::WorkerError) && refused.detail == "bad input", "{refused:?}");
    assert_eq!(w.facts.len(), facts);
}

#[test]
fn calls_wait_in_a_bounded_queue_until_their_deadline() {
    let (mut w, _) = World::with_bank(1, 1);
    assert!(w.call_bank(Some(5_000)).is_none());
    let running = w.ticket;
    let waiting: Vec<Ticket> =
        (0..4).map(|_| w.call_bank(Some(2_000)).map_or(w.ticket, |a| panic!("{a:?}"))).collect();
    let refused = w.call_bank(None).unwrap().unwrap_err();
    assert!(refused.is(Code::Busy) && refused.status == 503, "{refused:?}");
    w.wait(2_000);
    for ticket in waiting {
        let late = w.answers.remove(&ticket).unwrap().unwrap_err();
        assert!(late.is(Code::DeadlineExceeded) && late.status == 504, "{late:?}");
    }
    let asked = w.requests();
    assert_eq!((asked.len(), asked[0].timeout_ms), (1, 5_000));
    w.wait(3_000);
    assert!(w.answers.remove(&running).unwrap().unwrap_err().is(Code::DeadlineExceeded));
    assert_eq!(w.pick_sent(|f| matches!(f, ToAgent::CancelRequest(..)).then_some(())).len(), 1);
    assert_eq!(w.bank().status.unwrap().outstanding, 1, "the replica works on it still");
    w.answers(1, &asked[0], outcome::RESULT, "late");
    assert_eq!(w.bank().status.unwrap().outstanding, 0);
}

#[test]
fn a_caller_that_goes_away_is_not_waited_for() {
    let (mut w, _) = World::with_bank(1, 1);
    w.call_bank(None);
    let first = w.ticket;
    w.call_bank(None);
    w.feed(vec![Input::Gone(w.ticket)]);
    assert_eq!(w.bank().status.unwrap().calls_waiting, 0);
    w.feed(vec![Input::Gone(first)]);
    assert_eq!(w.pick_sent(|f| matches!(f, ToAgent::CancelRequest(..)).then_some(())).len(), 1);
}

#[test]
fn calls_before_a_replica_is_ready_wait_and_without_replicas_are_refused() {
    let mut w = World::with_machine(4);
    let unknown = w.call_bank(None).unwrap().unwrap_err();
    assert!(unknown.is(Code::NotFound), "{unknown:?}");
    w.register("bank", static_request(1, 0.5)).unwrap();
    let none = w.call_bank(None).unwrap().unwrap_err();
    assert!(none.is(Code::NoReplicas) && none.hint.contains("worker launch bank"), "{none:?}");
    let job = w.for_bank(json!(1));
    assert_eq!(w.standing(job), (State::Queued, Some(Substate::Waiting)));
    w.launch("bank", None).unwrap();
    assert!(w.call_bank(None).is_none());
    assert!(w.requests().is_empty());
    w.ready(1);
    let first = w.requests();
    assert!(first[0].id.attempt.is_none(), "somebody waits for the call");
    w.answers(1, &first[0], outcome::RESULT, "1");
    assert_eq!(w.requests()[0].id.attempt, Some(TaskId::single(job).attempt(1)));
}

#[test]
fn only_static_workers_are_launched_and_they_take_no_command() {
    let mut w = World::with_machine(4);
    let spec = JobSpec { command: Some(vec!["true".into()]), ..JobSpec::default() };
    w.register("say", WorkerRequest { spec: spec.clone(), ..WorkerRequest::default() }).unwrap();
    assert!(w.launch("say", None).unwrap_err().is(Code::WrongState));
    assert!(w.launch("nobody", None).unwrap_err().hint.contains("say"));
    w.register("bank", static_request(1, 1.0)).unwrap();
    let wrong = JobSpec { worker: Some("bank".into()), ..spec.clone() };
    assert!(w.ask(Call::Submit { spec: Box::new(wrong), key: None }).unwrap_err().is(Code::BadCommand));
    for (request, part) in [
        (WorkerRequest { kind: Some("x".into()), ..static_request(1, 1.0) }, "kind"),
        (WorkerRequest { kind: None, ..static_request(1, 1.0) }, "static"),
        (WorkerRequest { shell: Some("x".into()), ..static_request(1, 1.0) }, "not both"),
        (WorkerRequest::default(), "needs a command"),
        (static_request(0, 1.0), "max_ongoing"),
    ] {
        let problem = w.register("x", request).unwrap_err();
        assert!(problem.detail.contains(part), "{problem:?}");
    }
}

#[test]
fn publishing_to_the_workers_queue_is_submitting_to_it() {
    let (mut w, _) = World::with_bank(1, 1);
    let spec = JobSpec { queue: Some("jobs.bank".into()), payload: Some(json!(5)), ..JobSpec::default() };
    w.submit(spec);
    assert_eq!(w.requests()[0].payload, b"5");
}

#[test]
fn scale_drain_and_stop_change_how_many_there_are() {
    let (mut w, _) = World::with_bank(1, 2);
    let scale = |w: &mut World, how| w.ask(Call::ScaleWorker { name: "bank".into(), how });
    let job = w.for_bank(json!(1));
    let busy = w.requests().remove(0);
    scale(&mut w, Scale::To(1)).unwrap();
    let stopped = w.pick_sent(|f| if let ToAgent::Stop(s) = f { Some(s.attempt) } else { None });
    assert!(stopped.len() == 1 && stopped[0] != busy.replica, "the idle one goes");
    w.finish(1, stopped[0], Cause::Cancelled);
    scale(&mut w, Scale::Drain).unwrap();
    assert!(w.pick_sent(|f| matches!(f, ToAgent::Stop(_)).then_some(())).is_empty(), "it works on something");
    let later = w.for_bank(json!(2));
    assert!(w.requests().is_empty(), "a draining replica gets nothing new");
    w.answers(1, &busy, outcome::RESULT, "1");
    assert_eq!(w.standing(job).0, State::Completed);
    assert_eq!(w.pick_sent(|f| matches!(f, ToAgent::Stop(_)).then_some(())).len(), 1);
    w.finish(1, busy.replica, Cause::Cancelled);
    assert_eq!((w.bank().status.unwrap().phase.as_str(), w.standing(later).0), ("stopped", State::Queued));
    scale(&mut w, Scale::To(1)).unwrap();
    w.ready(1);
    assert_eq!(w.requests().len(), 1);
    scale(&mut w, Scale::Stop).unwrap();
    assert_eq!(w.pick_sent(|f| matches!(f, ToAgent::Stop(_)).then_some(())).len(), 1, "at once");
}

#[test]
fn a_drain_that_takes_too_long_ends_all_the_same() {
    let (mut w, _) = World::with_bank(1, 1);
    w.for_bank(json!(1));
    w.ask(Call::ScaleWorker { name: "bank".into(), how: Scale::Drain }).unwrap();
    w.pass(29_000);
    assert!(w.pick_sent(|f| matches!(f, ToAgent::Stop(_)).then_some(())).is_empty());
    w.pass(2_000);
    assert_eq!(w.pick_sent(|f| matches!(f, ToAgent::Stop(_)).then_some(())).len(), 1);
}

#[test]
fn a_new_version_is_ready_before_the_old_one_goes() {
    let (mut w, old) = World::with_bank(1, 2);
    w.register("bank", static_request(1, 0.5)).unwrap();
    assert!(
        w.pick_sent(|f| matches!(f, ToAgent::StartReplica(_)).then_some(())).is_empty(),
        "nothing before the launch"
    );
    w.launch("bank", None).unwrap();
    for round in 0..2 {
        assert!(w.pick_sent(|f| matches!(f, ToAgent::Stop(_)).then_some(())).is_empty(), "round {round}");
        assert_eq!(w.bank().status.unwrap().ready, 2);
        let new = w.ready(1);
        assert_eq!(new.len(), 1, "one more at a time");
        let stopped = w.pick_sent(|f| if let ToAgent::Stop(s) = f { Some(s.attempt) } else { None });
        assert!(stopped.len() == 1 && old.contains(&stopped[0]));
        w.finish(1, stopped[0], Cause::Cancelled);
    }
    let status = w.bank().status.unwrap();
    assert!(
        status.version == 2 && status.replicas.iter().all(|r| r.version == 2) && status.ready == 2,
        "{status:?}"
    );
}

#[test]
fn replicas_of_the_old_version_are_spoken_to_as_they_were_launched() {
    let (mut w, old) = World::with_bank(1, 2);
    let serving = Serving { max_ongoing: Some(8), protocol: Some("http".into()), ..Serving::default() };
    let request = WorkerRequest { serving: Some(serving), ..static_request(1, 0.5) };
    w.register("bank", request).unwrap();
    w.launch("bank", None).unwrap();
    for n in 0..4 {
        w.for_bank(json!(n));
    }
    assert_eq!(w.requests().len(), 2, "one for each, as before");
    let started = |f: &ToAgent| match f {
        ToAgent::StartReplica(s) => Some((s.start.attempt.task, s.replica.protocol)),
        _ => None,
    };
    assert!(w.pick_sent(started).iter().all(|(_, protocol)| *protocol == 1), "the new version's own");
    w.finish(1, old[0], Cause::Exit { code: 1 });
    w.pass(2_000);
    assert_eq!(w.pick_sent(started), [(old[0].task, 0)], "it is the old one still");
}

#[test]
fn where_both_versions_do_not_fit_one_makes_room_and_that_is_said() {
    let mut w = World::with_machine(1);
    w.register("bank", static_request(1, 1.0)).unwrap();
    w.launch("bank", None).unwrap();
    let old = w.ready(1);
    w.register("bank", static_request(1, 1.0)).unwrap();
    w.launch("bank", None).unwrap();
    assert!(w.pick_sent(|f| matches!(f, ToAgent::Stop(_)).then_some(())).is_empty());
    w.wait(600);
    assert_eq!(w.pick_sent(|f| if let ToAgent::Stop(s) = f { Some(s.attempt) } else { None }), old);
    assert!(w.bank().status.unwrap().reason.unwrap().contains("swapped"));
    w.finish(1, old[0], Cause::Cancelled);
    assert_eq!(w.ready(1).len(), 1);
    assert_eq!(w.bank().status.unwrap().reason, None);
}

#[test]
fn a_new_version_that_fits_nowhere_leaves_the_old_one_alone() {
    let mut w = World::with_machine(1);
    w.register("bank", static_request(1, 1.0)).unwrap();
    w.launch("bank", None).unwrap();
    w.ready(1);
    w.register("bank", static_request(1, 64.0)).unwrap();
    w.launch("bank", None).unwrap();
    w.pass(5_000);
    assert!(w.pick_sent(|f| matches!(f, ToAgent::Stop(_)).then_some(())).is_empty());
    let status = w.bank().status.unwrap();
    assert!(status.ready == 1 && status.reason.unwrap().contains("can never fit"));
}

#[test]
fn a_worker_is_removed_only_when_nothing_needs_it_unless_forced() {
    let (mut w, replicas) = World::with_bank(1, 1);
    let job = w.for_bank(json!(1));
    let remove = |w: &mut World, force| w.ask(Call::RemoveWorker { name: "bank".into(), force });
    let refused = remove(&mut w, false).unwrap_err();
    assert!(refused.is(Code::WrongState) && refused.detail.contains(&job.to_string()), "{refused:?}");
    remove(&mut w, true).unwrap();
    assert_eq!(w.standing(job).0, State::Cancelled);
    w.finish(1, replicas[0], Cause::Cancelled);
    assert!(w.core.jobs.is_empty());
    assert!(remove(&mut w, true).unwrap_err().is(Code::NotFound));
    let Ok(Reply::Worker(again)) = w.register("bank", static_request(1, 0.5)) else {
        panic!("not registered")
    };
    assert_eq!(again.version, 2, "a version is never used twice");
}
