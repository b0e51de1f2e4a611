//! Cordon, drain, removal, and certificates that take each other's place.
use super::*;
use crate::row::SpareCertificate;

fn one() -> AttemptId {
    TaskId::single(1).attempt(1)
}

fn cordon(cordon: bool) -> Call {
    Call::CordonMachine { machine: "lab-1".into(), cordon }
}

fn drain(deadline_ms: Option<u64>) -> Call {
    Call::DrainMachine { machine: "lab-1".into(), deadline_ms }
}

fn remove(force: bool) -> Call {
    Call::RemoveMachine { machine: "lab-1".into(), force }
}

fn shown(w: &mut World) -> reeve_protocol::api::MachineView {
    match w.ask(Call::ListMachines) {
        Ok(Reply::Machines(machines)) => machines[0].clone(),
        other => panic!("{other:?}"),
    }
}

fn noted(w: &World, what: &str) -> usize {
    w.events.iter().filter(|e| e.kind == "machine" && e.what.as_deref() == Some(what)).count()
}

/// The machine's row as it was recorded last.
fn row_of_machine(w: &World) -> MachineRow {
    let rows =
        w.facts.iter().rev().find_map(|f| if let Fact::MachinePut(row) = f { Some(row) } else { None });
    (**rows.expect("it was recorded")).clone()
}

#[test]
fn a_cordoned_machine_gets_nothing_until_it_is_uncordoned_and_why_says_so() {
    let mut w = World::with_machine(2);
    w.submit(spec());
    w.start(one());
    assert!(matches!(w.ask(cordon(true)), Ok(Reply::Machine(m)) if m.state == "cordoned" && m.cordoned));
    w.submit(spec());
    assert_eq!(w.standing(1), (State::Running, Some(Substate::Running)), "what runs goes on");
    assert_eq!(w.standing(2), (State::Queued, Some(Substate::Waiting)));
    let Ok(Reply::Why(why)) = w.ask(Call::Why { target: target(2), stored: Stored::default() }) else {
        panic!("why answers")
    };
    assert!(why.reasons.iter().any(|r| r.text.contains("is cordoned")), "{:?}", why.reasons);
    w.ask(cordon(true)).unwrap();
    assert_eq!((noted(&w, "cordoned"), row_of_machine(&w).cordoned), (1, true), "again changes nothing");
    w.ask(cordon(false)).unwrap();
    assert_eq!(w.started_frames().len(), 2);
    assert!(!row_of_machine(&w).cordoned);
}

#[test]
fn a_drained_machine_lets_what_runs_end_and_then_says_that_it_is_empty() {
    let mut w = World::with_machine(1);
    w.submit(spec());
    w.start(one());
    w.submit(spec());
    assert!(matches!(w.ask(drain(None)), Ok(Reply::Machine(m)) if m.state == "draining"));
    w.pass(3_600_000);
    assert_eq!(w.standing(1).0, State::Running, "without a deadline nothing is stopped");
    assert_eq!(noted(&w, "drained"), 0);
    w.finish(1, one(), Cause::Ok);
    assert_eq!((shown(&mut w).state.as_str(), noted(&w, "drained")), ("drained", 1));
    assert_eq!(w.standing(2), (State::Queued, Some(Substate::Waiting)));
    w.ask(cordon(false)).unwrap();
    assert_eq!(shown(&mut w).state, "up");
    assert_eq!(w.started_frames().len(), 2);
}

#[test]
fn after_the_deadline_of_a_drain_what_runs_is_stopped_and_queued_again_at_no_charge() {
    let mut w = World::with_machine(1);
    w.submit(spec());
    w.start(one());
    w.ask(drain(Some(60_000))).unwrap();
    w.pass(59_000);
    assert!(!w.sent.iter().any(|f| matches!(f, ToAgent::Stop(_))));
    w.pass(2_000);
    let stop = |w: &World| {
        w.sent.iter().filter(|f| matches!(f, ToAgent::Stop(s) if s.attempt == one() && Cause::from_wire(s.cause.clone()) == Cause::Drained)).count()
    };
    assert_eq!(stop(&w), 1);
    // It was away when it was told: it hears again when it is back.
    w.says(1, vec![AgentSaid::Closed]);
    w.connect(2, "life", "keeper", 1, vec![item(one(), 1)]);
    assert_eq!(stop(&w), 2);
    w.finish(2, one(), Cause::Drained);
    assert_eq!(w.standing(1), (State::Queued, Some(Substate::Waiting)));
    let moved = w.facts.iter().rev().find_map(|f| if let Fact::JobMoved(1, s) = f { Some(s) } else { None });
    assert_eq!(moved.map(|s| (s.tries, s.losses)), Some((0, 1)));
    assert_eq!(noted(&w, "drained"), 1);
}

#[test]
fn cordon_and_drain_survive_a_restart() {
    let mut w = World::with_machine(1);
    w.ask(drain(Some(60_000))).unwrap();
    let row = row_of_machine(&w);
    assert!(row.cordoned && row.draining && row.drain_until == Some(w.now.wall + 60_000));
    let loaded = Loaded { machines: vec![row], next_job: 1, ..Loaded::default() };
    let mut again = World { core: Core::restore(loaded, "s".into(), w.now), now: w.now, ..World::new() };
    assert!(shown(&mut again).cordoned && again.core.next_due().is_some());
    again.connect(1, "life", "keeper", 1, vec![]);
    again.submit(spec());
    assert_eq!(again.standing(1), (State::Queued, Some(Substate::Waiting)));
    assert_eq!(noted(&again, "drained"), 1);
}

#[test]
fn a_machine_with_work_is_removed_only_by_force_and_its_work_runs_again() {
    let mut w = World::with_machine(1);
    w.submit(spec());
    w.start(one());
    let refused = w.ask(remove(false)).unwrap_err();
    assert!(refused.detail.contains("1 attempt runs") && refused.hint.contains("drain"), "{refused:?}");
    assert!(matches!(w.ask(remove(true)), Ok(Reply::Removed(_, 1))));
    assert_eq!(w.closed, [(1, wire::close::REVOKED)]);
    assert_eq!(w.standing(1), (State::Queued, Some(Substate::Waiting)), "at once: it can never come back");
    assert!(row_of_machine(&w).revoked);
    assert_eq!(w.ask(Call::ListMachines), Ok(Reply::Machines(vec![])));
    assert_eq!(code(w.ask(remove(true))), "not-found", "once");
    // Whatever that session still says is dropped, and no other is opened.
    w.finish(1, one(), Cause::Ok);
    assert_eq!(w.standing(1).0, State::Queued);
}

#[test]
fn an_exclusive_job_of_a_removed_machine_waits_until_its_guardian_has_certainly_stopped_it() {
    let mut w = World::with_machine(1);
    w.submit(JobSpec { exclusive: true, ..spec() });
    w.start(one());
    w.ask(remove(true)).unwrap();
    assert_eq!(w.standing(1), (State::Running, Some(Substate::Unconfirmed)));
    w.pass(299_000);
    assert_eq!(w.standing(1).0, State::Running);
    w.pass(3_000);
    assert_eq!(w.standing(1), (State::Queued, Some(Substate::Waiting)));
}

#[test]
fn a_removed_machine_is_refused_after_a_restart_and_its_name_is_free() {
    let mut w = World::with_machine(1);
    w.ask(remove(false)).unwrap();
    let loaded = Loaded { machines: vec![row_of_machine(&w)], next_job: 1, ..Loaded::default() };
    let mut again = World { core: Core::restore(loaded, "s".into(), w.now), now: w.now, ..World::new() };
    assert!(
        matches!(again.ask(open(&w, "f", 7)), Ok(Reply::Refused(r)) if r.code == wire::close::REVOKED),
        "the same certificate, for ever"
    );
    assert!(!again.core.cluster.name_taken("lab-1", "m2"));
}

fn open(w: &World, fingerprint: &str, session: u64) -> Call {
    let hello = wire::Hello {
        version_min: 1,
        version_max: 1,
        cluster: "c".into(),
        machine: MACHINE.into(),
        life: "life".into(),
        keeper: "keeper".into(),
        lineage_seen: String::new(),
        epoch_seen: 0,
        seq_seen: w.events.len() as u64,
        agent_version: "v".into(),
        kinds: vec![],
    };
    Call::OpenSession {
        machine: MACHINE.into(),
        fingerprint: fingerprint.into(),
        session,
        hello: Box::new(hello),
        address: "a".into(),
    }
}

#[test]
fn a_renewed_certificate_is_taken_beside_the_old_one_until_it_has_been_used() {
    let mut w = World::with_machine(1);
    let renew = |fingerprint: &str, session| Call::RenewCertificate {
        machine: MACHINE.into(),
        session,
        fingerprint: fingerprint.into(),
        until: 99,
    };
    assert_eq!(code(w.ask(renew("g", 9))), "wrong-state", "of a session that is over");
    w.ask(renew("g", 1)).unwrap();
    assert_eq!(
        row_of_machine(&w).spares,
        [SpareCertificate { fingerprint: "g".into(), until: 99, kept: false }]
    );
    w.says(1, vec![AgentSaid::RenewalKept("g".into())]);
    assert!(matches!(w.ask(open(&w, "f", 2)), Ok(Reply::Welcome(_))), "the old one still opens a session");
    assert!(matches!(w.ask(open(&w, "g", 3)), Ok(Reply::Welcome(_))));
    assert_eq!(row_of_machine(&w).fingerprint, "g");
    assert_eq!(noted(&w, "certificate_renewed"), 1);
    assert!(
        matches!(w.ask(open(&w, "f", 4)), Ok(Reply::Refused(r)) if r.code == wire::close::UNAUTHORISED),
        "and is over once the new one was used"
    );
}

#[test]
fn a_renewal_that_fails_is_shown_since_when_and_why_until_one_succeeds() {
    let mut w = World::with_machine(1);
    w.says(1, vec![AgentSaid::RenewalFailed("disk\u{1b} full".into())]);
    let since = w.now.wall;
    w.wait(5_000);
    w.says(1, vec![AgentSaid::RenewalFailed("still full".into())]);
    let view = shown(&mut w);
    assert_eq!(view.renewal_failed_at.map(|at| at.0), Some(since));
    assert_eq!(view.renewal_error.as_deref(), Some("still full"));
    let Ok(Reply::Stats(stats)) = w.ask(Call::GetQueueStats) else { panic!("statistics") };
    assert!(
        stats.alerts.iter().any(|a| a.level == 2 && a.text.contains("not renewed since")),
        "{:?}",
        stats.alerts
    );
    let (session, until) = (1, 99);
    let call = Call::RenewCertificate { machine: MACHINE.into(), session, fingerprint: "g".into(), until };
    w.ask(call).unwrap();
    assert!(shown(&mut w).renewal_error.is_some(), "it is not kept yet");
    w.says(1, vec![AgentSaid::RenewalKept("g".into())]);
    let view = shown(&mut w);
    assert_eq!((view.renewal_error, view.certificate_until.map(|at| at.0)), (None, Some(99)));
}

#[test]
fn a_machine_that_leaves_gives_up_its_work_at_once() {
    let mut w = World::with_machine(1);
    w.submit(spec());
    w.start(one());
    w.says(1, vec![AgentSaid::Leave]);
    assert_eq!(w.standing(1), (State::Queued, Some(Substate::Waiting)));
    assert_eq!(w.closed, [(1, wire::close::DONE)]);
    assert!(row_of_machine(&w).revoked);
    assert_eq!(w.audit.last().map(|row| (row.call, row.uid)), Some(("leave", None)));
}
