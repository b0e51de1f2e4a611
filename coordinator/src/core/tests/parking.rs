//! Jobs beyond the window are parked; every call treats them as if they were not.
use super::*;
use crate::orchestrator::link::{Hint, Said};

fn small(window: usize, cpus: u32) -> World {
    let mut w = if cpus == 0 { World::new() } else { World::with_machine(cpus) };
    w.core.set_window(window);
    w
}

fn parked(w: &World) -> Vec<u64> {
    let mut ids: Vec<u64> =
        w.core.queues.iter().flat_map(|q| q.parked.iter()).map(|(place, _)| place.job).collect();
    ids.sort_unstable();
    ids
}

/// Ends whatever starts, until nothing does; the jobs in the order of their starts.
fn run_all(w: &mut World) -> Vec<u64> {
    let mut ended = 0;
    while let Some(attempt) = w.started_frames().get(ended).copied() {
        w.start(attempt);
        w.finish(1, attempt, Cause::Ok);
        ended += 1;
    }
    w.started_frames().iter().map(|a| a.task.job).collect()
}

fn of_priority(priority: i32) -> JobSpec {
    JobSpec { priority, ..spec() }
}

#[test]
fn beyond_the_window_jobs_are_parked_and_all_run_in_order() {
    let mut w = small(2, 1);
    for _ in 0..12 {
        w.submit(spec());
    }
    assert!(parked(&w).len() >= 7, "{:?}", parked(&w));
    assert!(w.core.jobs.len() <= 5, "only the window is in memory");
    assert_eq!(run_all(&mut w), (1..=12).collect::<Vec<u64>>());
    assert!((1..=12).all(|n| w.standing(n).0 == State::Completed));
    assert_eq!((w.core.jobs.len(), parked(&w).len()), (0, 0));
}

#[test]
fn a_higher_priority_comes_to_hand_past_all_that_is_parked() {
    let mut w = small(2, 0);
    for _ in 0..6 {
        w.submit(spec());
    }
    let urgent = w.submit(of_priority(5)).id;
    assert!(!parked(&w).contains(&urgent));
    let low = w.submit(of_priority(-5)).id;
    assert!(parked(&w).contains(&low));
    w.connect(1, "life", "keeper", 1, vec![]);
    let order = run_all(&mut w);
    assert_eq!(order, [urgent, 1, 2, 3, 4, 5, 6, low]);
}

#[test]
fn a_flood_of_a_higher_priority_parks_what_was_at_hand() {
    let mut w = small(2, 0);
    for _ in 0..4 {
        w.submit(of_priority(-1));
    }
    for _ in 0..20 {
        w.submit(of_priority(1));
    }
    assert!(w.core.jobs.len() <= 5, "{} in memory", w.core.jobs.len());
    let order: Vec<u64> = match w.ask(Call::Peek { queue: "default".into(), max: 100, dead: false }) {
        Ok(Reply::Peeked { ids, .. }) => ids,
        other => panic!("{other:?}"),
    };
    assert_eq!(order, (5..=24).chain(1..=4).collect::<Vec<u64>>());
}

#[test]
fn nothing_overtakes_what_is_being_read() {
    let mut w = small(2, 0);
    w.holds_loads = true;
    for _ in 0..6 {
        w.submit(spec());
    }
    w.connect(1, "life", "keeper", 8, vec![]);
    let at_hand = w.started_frames().len() as u64;
    assert!(at_hand < 6, "the others are parked");
    let low = w.submit(of_priority(-1)).id;
    let expiring = w.submit(JobSpec { expires_s: Some(1000.0), priority: -2, ..spec() }).id;
    assert_eq!(w.started_frames().len() as u64, at_hand, "whatever is at hand waits for those before it");
    w.holds_loads = false;
    w.answer_loads();
    let order: Vec<u64> = w.started_frames().iter().map(|a| a.task.job).collect();
    assert_eq!(order, [1, 2, 3, 4, 5, 6, low, expiring]);
}

#[test]
fn calls_treat_a_parked_job_as_any_other() {
    let mut w = small(1, 0);
    for _ in 0..8 {
        w.submit(spec());
    }
    let ids = parked(&w);
    assert!(ids.len() >= 6);
    let [.., a, b, c] = ids[..] else { unreachable!() };
    let why = w.ask(Call::Why { target: target(a), stored: w.row(a) });
    assert!(matches!(why, Ok(Reply::Why(why)) if why.state == State::Queued));
    assert!(parked(&w).contains(&a), "looking at it does not touch it");
    assert_eq!(code(w.ask(Call::Why { target: target(a), stored: Stored::default() })), "unavailable");
    let stored = w.row(a);
    assert!(w.ask(Call::CancelJob { target: target(a), grace_ms: None, stored }).is_ok());
    assert_eq!(w.standing(a), (State::Cancelled, None));
    let stored = w.row(b);
    assert!(w.ask(Call::HoldJob { target: target(b), hold: true, stored }).is_ok());
    assert_eq!(w.standing(b), (State::Queued, Some(Substate::Held)));
    let stored = w.row(b);
    assert!(w.ask(Call::HoldJob { target: target(b), hold: false, stored }).is_ok());
    assert_eq!(w.standing(b), (State::Queued, Some(Substate::Waiting)));
    let stored = w.row(c);
    assert_eq!(code(w.ask(Call::RestartJob { target: target(c), latest: false, stored })), "wrong-state");
    let stored = w.row(ids[0]);
    let foreign = w.ask_as(7, Call::CancelJob { target: target(ids[0]), grace_ms: None, stored }).unwrap();
    assert_eq!(code(foreign), "single-user");
}

#[test]
fn a_row_that_is_older_than_the_parking_is_read_again() {
    let mut w = small(1, 0);
    w.holds_loads = true;
    let first = w.submit(spec()).id;
    let stored = w.row(first);
    w.ask(Call::HoldJob { target: target(first), hold: true, stored }).unwrap();
    let held = w.row(first);
    for priority in [1, 2] {
        w.submit(of_priority(priority));
    }
    w.ask(Call::HoldJob { target: target(first), hold: false, stored: held.clone() }).unwrap();
    assert!(parked(&w).contains(&first), "it waits untouched, behind the window: {:?}", parked(&w));
    let late = Call::CancelJob { target: target(first), grace_ms: None, stored: held };
    assert!(w.ask(late).unwrap_err().detail.starts_with("read again"));
    let stored = w.row(first);
    assert!(w.ask(Call::CancelJob { target: target(first), grace_ms: None, stored }).is_ok());
    w.holds_loads = false;
    w.answer_loads();
    assert_eq!(w.standing(first), (State::Cancelled, None), "a row that comes late changes nothing");
}

fn clean(ids: Option<Vec<u64>>, dry_run: bool) -> Call {
    Call::CleanQueue { queue: "default".into(), ids, dead: false, dry_run }
}

fn removed(answer: Option<Result<Reply, Problem>>) -> u64 {
    match answer {
        Some(Ok(Reply::Cleaned(cleaned, _))) => cleaned.removed,
        other => panic!("{other:?}"),
    }
}

#[test]
fn parked_jobs_are_read_before_their_queue_is_cleaned_of_them() {
    let mut w = small(2, 0);
    w.holds_loads = true;
    for _ in 0..9 {
        w.submit(spec());
    }
    assert_eq!(removed(w.ask_as(0, clean(None, true))), 9);
    assert_eq!(code(w.ask_as(7, clean(None, false)).unwrap()), "single-user");
    assert!((1..=9).all(|id| w.standing(id).0 == State::Queued), "all of it, or nothing");
    assert_eq!(w.ask_as(0, clean(Some(vec![1, 8]), false)), None, "the eighth is read first");
    let first = w.ticket;
    assert_eq!(w.ask_as(0, clean(None, false)), None);
    let second = w.ticket;
    let late = w.submit(spec()).id;
    while !w.loads.is_empty() {
        w.answer_loads();
    }
    assert_eq!(removed(w.answers.remove(&first)), 2);
    assert_eq!(removed(w.answers.remove(&second)), 7, "once each, whoever asked first");
    assert!((1..=9).all(|id| w.standing(id).0 == State::Cancelled));
    assert_eq!(w.standing(late).0, State::Queued, "it came after the call");
    assert_eq!(w.core.cleaning.len(), 0);
}

#[test]
fn a_large_queue_is_cleaned_in_steps_whatever_happens_to_its_jobs_meanwhile() {
    let mut w = small(2, 0);
    w.holds_loads = true;
    let specs = (0..2_600).map(|_| (spec(), None)).collect();
    w.ask(Call::SubmitMany { specs, atomic: true }).unwrap();
    assert_eq!(w.ask_as(0, clean(None, false)), None);
    let ticket = w.ticket;
    w.feed(vec![Input::Gone(ticket)]);
    let ended = |w: &World| {
        w.facts.iter().filter(|f| matches!(f, Fact::JobMoved(_, s) if s.state == State::Cancelled)).count()
    };
    let stored = w.row(2_000);
    w.ask(Call::HoldJob { target: target(2_000), hold: true, stored }).unwrap();
    let stored = w.row(2_001);
    w.ask(Call::CancelJob { target: target(2_001), grace_ms: None, stored }).unwrap();
    let mut steps = 0;
    while !w.answers.contains_key(&ticket) {
        let before = ended(&w);
        let loads = std::mem::take(&mut w.loads);
        for (queue, portion, mut jobs) in loads {
            // Some portions are cut short.
            jobs.truncate(if steps % 2 == 0 { 700 } else { 1_000 });
            let rows = jobs.iter().filter_map(|id| w.row(*id).job).map(|row| *row).collect();
            w.feed(vec![Input::Loaded { queue, portion, jobs, rows }]);
        }
        w.wait(1);
        let n = ended(&w) - before;
        assert!(n <= 2_000, "{n} in two steps");
        steps += 1;
        assert!(steps < 20);
    }
    assert!(steps > 2);
    assert_eq!(removed(w.answers.remove(&ticket)), 2_599);
    assert!((1..=2_600).all(|id| w.standing(id).0 == State::Cancelled));
    assert_eq!(w.core.jobs.len(), 0);
    let lines: Vec<_> =
        w.audit.iter().filter(|row| row.call == "clean_queue").map(|row| &*row.object).collect();
    assert_eq!(lines, ["queue:default, 2600 jobs, begun", "queue:default, 2599 removed"]);
}

#[test]
fn a_parked_job_that_nobody_can_read_does_not_hold_a_cleaning_up() {
    let mut w = small(1, 0);
    w.holds_loads = true;
    for _ in 0..6 {
        w.submit(spec());
    }
    assert_eq!(w.ask_as(0, clean(None, false)), None);
    let ticket = w.ticket;
    let loads = std::mem::take(&mut w.loads);
    let wanted = loads.into_iter().find(|(_, portion, _)| matches!(portion, Portion::Clean(_)));
    let (queue, portion, jobs) = wanted.unwrap();
    let mut rows: Vec<_> = jobs.iter().filter_map(|id| w.row(*id).job).map(|row| *row).collect();
    rows.pop();
    rows[0].spec = "{".into();
    w.feed(vec![Input::Loaded { queue, portion, jobs: jobs.clone(), rows }]);
    assert_eq!(removed(w.answers.remove(&ticket)), 6 - 2);
    assert!(w.core.queues.find_parked(jobs[0]).is_none());
}

#[test]
fn a_receiver_gets_parked_jobs_too_even_if_it_does_not_wait() {
    let mut w = small(1, 0);
    for _ in 0..5 {
        w.submit(spec());
    }
    w.holds_loads = true;
    let mut got = Vec::new();
    for _ in 0..5 {
        let receive = Call::ReceiveMessage { queue: "default".into(), max: 1, wait_ms: 0, lease_ms: 60_000 };
        let mut answer = w.ask_as(1000, receive);
        if answer.is_none() {
            w.answer_loads();
            answer = w.answers.remove(&w.ticket);
        }
        match answer {
            Some(Ok(Reply::ReceivedJobs(jobs))) => got.extend(jobs.into_iter().map(|(task, ..)| task.job)),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(got, [1, 2, 3, 4, 5]);
}

#[test]
fn a_parked_job_without_a_row_is_forgotten_and_counted_no_more() {
    let mut w = small(1, 0);
    w.holds_loads = true;
    for _ in 0..4 {
        w.submit(spec());
    }
    let (queue, portion, jobs) = w.loads.remove(0);
    w.feed(vec![Input::Loaded { queue, portion, jobs: jobs.clone(), rows: vec![] }]);
    assert!(!parked(&w).contains(&jobs[0]));
    assert!(w.events.iter().any(|e| e.id == Some(jobs[0]) && e.what.as_deref() == Some("unreadable")));
}

/// A world whose queue at a broker has a window of two and eight jobs, and their hints.
fn at_broker(cpus: u32) -> (World, Vec<Hint>) {
    let mut w = World::with_broker("jobs", cpus);
    w.core.set_window(2);
    for _ in 0..8 {
        w.job();
    }
    let hints = w.hints();
    assert_eq!(hints.iter().map(|h| h.job).collect::<Vec<u64>>(), (1..=8).collect::<Vec<u64>>());
    (w, hints)
}

#[test]
fn at_a_broker_parked_jobs_have_hints_as_all_others_and_run_when_these_come() {
    let (mut w, hints) = at_broker(8);
    assert_eq!((w.core.jobs.len(), w.view().hints), (2, Some(8)), "only two are in memory");
    for (n, hint) in hints.iter().enumerate() {
        w.broker(Said::Hints("q".into(), vec![hint.clone()]));
        assert_eq!(w.started_frames().len(), n + 1);
        w.broker(Said::Hints("q".into(), vec![hint.clone()]));
        assert_eq!(w.started_frames().len(), n + 1, "a doubled hint is nothing");
    }
    assert_eq!(w.view().hints, None);
}

#[test]
fn parked_jobs_whose_hints_do_not_come_are_read_from_the_store() {
    let (mut w, _) = at_broker(8);
    w.pass(6_000);
    assert_eq!(w.started_frames().len(), 8, "the broker says nothing");

    let (mut w, hints) = at_broker(8);
    w.broker(Said::Down("it was killed".into()));
    assert_eq!(w.started_frames().len(), 8);
    w.broker(Said::Up { version: "v".into(), capabilities: BTreeMap::new(), confirms_fast: true });
    w.broker(Said::Hints("q".into(), hints));
    assert_eq!(w.started_frames().len(), 8, "hints that come late are nothing");
}

#[test]
fn after_a_flush_the_hints_of_parked_jobs_are_made_anew() {
    let (mut w, old) = at_broker(8);
    w.broker(Said::Hints("q".into(), old[..1].to_vec()));
    w.broker(Said::Lost("q".into()));
    let anew = w.hints();
    assert_eq!(anew.iter().map(|h| h.job).collect::<Vec<u64>>(), (2..=8).collect::<Vec<u64>>());
    w.broker(Said::Hints("q".into(), anew));
    assert_eq!(w.started_frames().len(), 8);
}

#[test]
fn a_call_on_a_parked_job_voids_its_hint() {
    let (mut w, hints) = at_broker(8);
    let stored = w.row(5);
    w.ask(Call::CancelJob { target: target(5), grace_ms: None, stored }).unwrap();
    let stored = w.row(6);
    w.ask(Call::HoldJob { target: target(6), hold: true, stored }).unwrap();
    w.broker(Said::Hints("q".into(), hints.clone()));
    let stored = w.row(6);
    w.ask(Call::HoldJob { target: target(6), hold: false, stored }).unwrap();
    w.broker(Said::Hints("q".into(), hints));
    let started: Vec<u64> = w.started_frames().iter().map(|a| a.task.job).collect();
    assert_eq!(started, [1, 2, 3, 4, 7, 8], "6 was offered again");
    let anew = w.hints();
    assert_eq!(anew.len(), 1);
    w.broker(Said::Hints("q".into(), anew));
    assert_eq!(w.started_frames().last().unwrap().task.job, 6);
}

#[test]
fn a_queue_that_moves_takes_its_parked_jobs_along() {
    let mut w = small(2, 0);
    for _ in 0..8 {
        w.job();
    }
    let to = |backend: &str| Call::SetQueue {
        queue: "q".into(),
        settings: reeve_protocol::api::QueueSettings {
            backend: Some(backend.into()),
            ..reeve_protocol::api::QueueSettings::default()
        },
        ingress_uid: None,
    };
    w.ask(to("fast")).unwrap();
    w.broker(Said::Up { version: "v".into(), capabilities: BTreeMap::new(), confirms_fast: true });
    let first = w.hints();
    assert!(!first.is_empty(), "what is parked has hints there");
    w.ask(to("local")).unwrap();
    assert_eq!(w.view().hints, None);
    w.broker(Said::Hints("q".into(), first));
    w.connect(1, "life", "keeper", 8, vec![]);
    let started: Vec<u64> = w.started_frames().iter().map(|a| a.task.job).collect();
    assert_eq!(started, (1..=8).collect::<Vec<u64>>());
}
