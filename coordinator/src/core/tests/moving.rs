//! `move`: what waits in one queue waits in another, in its order.
use super::*;
use reeve_protocol::api::QueueSettings;

fn message(text: &str, delay_ms: u64) -> NewMessage {
    NewMessage {
        kind: 1,
        body: text.as_bytes().into(),
        headers: "{}".into(),
        priority: 0,
        delay_ms,
        ttl_ms: None,
        key: None,
    }
}

fn put(from: &str, to: &str, ids: Option<Vec<u64>>, dry_run: bool) -> Call {
    Call::MoveQueue { from: from.into(), to: to.into(), ids, dry_run }
}

fn moved(answer: Result<Reply, Problem>) -> (u64, u64) {
    match answer {
        Ok(Reply::Returned(moved, left)) => (moved, left),
        other => panic!("{other:?}"),
    }
}

fn counts(w: &mut World, queue: &str) -> (u64, u64, u64) {
    let Ok(Reply::Count(c)) = w.ask(Call::CountQueueMessages { queue: queue.into() }) else { panic!() };
    (c.ready, c.delayed, c.leased)
}

#[test]
fn messages_keep_their_order_and_their_delay_and_what_is_held_stays() {
    let mut w = World::new();
    let messages = vec![message("a", 0), message("b", 0), message("c", 1_000), message("d", 0)];
    w.ask(Call::PublishMany { queue: "q".into(), messages }).unwrap();
    w.ask_as(1000, Call::ReceiveMessage { queue: "q".into(), max: 1, wait_ms: 0, lease_ms: 10_000 });
    w.ask(Call::PublishMany { queue: "r".into(), messages: vec![message("x", 0)] }).unwrap();
    assert_eq!(moved(w.ask(put("q", "r", None, true))), (3, 0), "counted, and nothing happened");
    assert_eq!((counts(&mut w, "q"), counts(&mut w, "r")), ((2, 1, 1), (1, 0, 0)));
    assert_eq!(moved(w.ask(put("q", "r", Some(vec![3, 4, 99]), false))), (2, 0));
    assert!(w.facts.contains(&Fact::MessagesMoved("r".into(), vec![3, 4], false)));
    assert_eq!((counts(&mut w, "q"), counts(&mut w, "r")), ((1, 0, 1), (2, 1, 0)));
    assert_eq!(w.audit.last().unwrap().object, "queue:q to r, 2 moved");
    w.wait(1_001);
    w.leased.clear();
    w.ask_as(1000, Call::ReceiveMessage { queue: "r".into(), max: 9, wait_ms: 0, lease_ms: 10_000 });
    assert_eq!(w.leased.iter().map(|l| l.id).collect::<Vec<_>>(), [3, 4, 5]);
}

#[test]
fn what_does_not_fit_or_is_of_another_kind_is_not_moved_at_all() {
    let mut w = World::new();
    w.ask(Call::PublishMany { queue: "q".into(), messages: vec![message("a", 0), message("b", 0)] }).unwrap();
    let small = QueueSettings { max_len: Some(1), ..QueueSettings::default() };
    w.ask(Call::SetQueue { queue: "small".into(), settings: small, ingress_uid: None }).unwrap();
    assert_eq!(code(w.ask(put("q", "small", None, false))), "queue-state");
    w.submit(JobSpec { queue: Some("jobs".into()), ..spec() });
    assert_eq!(code(w.ask(put("q", "jobs", None, false))), "queue-kind");
    assert_eq!(code(w.ask(put("q", "q", None, false))), "bad-value");
    assert_eq!(code(w.ask(put("nowhere", "q", None, false))), "unknown-queue");
    let memory = QueueSettings {
        kind: Some("messages".into()),
        backend: Some("memory".into()),
        ..QueueSettings::default()
    };
    w.ask(Call::SetQueue { queue: "memory".into(), settings: memory, ingress_uid: None }).unwrap();
    assert_eq!(code(w.ask(put("q", "memory", None, false))), "backend-cannot");
    assert_eq!(counts(&mut w, "q"), (2, 0, 0));
}

#[test]
fn waiting_jobs_change_their_queue_and_those_that_somebody_has_stay() {
    let mut w = World::new();
    for _ in 0..3 {
        w.submit(JobSpec { queue: Some("q".into()), ..spec() });
    }
    w.submit(JobSpec { queue: Some("q".into()), hold: true, ..spec() });
    let array = Some(ArraySpec { from: 1, to: 4, limit: None });
    w.submit(JobSpec { queue: Some("q".into()), array, ..spec() });
    let take =
        |queue: &str| Call::ReceiveMessage { queue: queue.into(), max: 9, wait_ms: 0, lease_ms: 10_000 };
    let one = Call::ReceiveMessage { queue: "q".into(), max: 1, wait_ms: 0, lease_ms: 10_000 };
    assert!(matches!(w.ask(one), Ok(Reply::ReceivedJobs(items)) if items[0].0.job == 1));
    assert_eq!(moved(w.ask(put("q", "r", None, true))), (4, 0));
    assert_eq!(moved(w.ask(put("q", "r", None, false))), (4, 0));
    assert!(w.facts.contains(&Fact::JobRequeued(2, "r".into())));
    assert_eq!((counts(&mut w, "q"), counts(&mut w, "r")), ((0, 0, 1), (6, 1, 0)));
    let Ok(Reply::ReceivedJobs(items)) = w.ask(take("r")) else { panic!() };
    let order: Vec<_> = items.iter().map(|i| (i.0.job, i.0.index)).collect();
    assert_eq!(order, [(2, None), (3, None), (5, Some(1)), (5, Some(2)), (5, Some(3)), (5, Some(4))]);
    assert_eq!(moved(w.ask(put("r", "q", None, false))), (1, 0), "what is held waits there now");
    assert!(matches!(w.ask(take("q")), Ok(Reply::ReceivedJobs(items)) if items.is_empty()));
}

#[test]
fn parked_jobs_move_without_being_read_and_a_row_from_before_is_not_believed() {
    let mut w = World::new();
    w.core.set_window(1);
    for queue in ["r", "q", "q", "q", "q", "r"] {
        w.submit(JobSpec { queue: Some(queue.into()), ..spec() });
    }
    let before = w.row(5);
    assert!(w.core.queues.find_parked(5).is_some());
    assert_eq!(moved(w.ask(put("q", "r", Some(vec![4, 5]), false))), (2, 0));
    assert_eq!((counts(&mut w, "q"), counts(&mut w, "r")), ((2, 0, 0), (4, 0, 0)));
    let hold = |stored| Call::HoldJob { target: target(5), hold: true, stored };
    assert_eq!(code(w.ask(hold(before))), "unavailable", "it is read again");
    let now = w.row(5);
    w.ask(hold(now)).unwrap();
    let mut order = Vec::new();
    for queue in ["r", "r", "r", "q", "q"] {
        let take = Call::ReceiveMessage { queue: queue.into(), max: 1, wait_ms: 0, lease_ms: 10_000 };
        let Ok(Reply::ReceivedJobs(items)) = w.ask(take) else { panic!() };
        order.extend(items.iter().map(|i| i.0.job));
    }
    assert_eq!(order, [1, 4, 6, 2, 3], "and 5 is held");
}
