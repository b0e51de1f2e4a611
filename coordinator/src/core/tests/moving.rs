//! `move`: what waits in one queue waits in another, in its order.
use super::brokers::incoming;
use super::*;
use crate::orchestrator::link::{Order, Said};
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
fn what_comes_moves_and_is_handed_out_in_one_step_is_written_in_that_order() {
    let mut w = World::new();
    w.ask(Call::PublishMany { queue: "r".into(), messages: vec![message("x", 0)] }).unwrap();
    w.ask_as(1, Call::ReceiveMessage { queue: "r".into(), max: 1, wait_ms: 0, lease_ms: 90_000 });
    w.ask_as(2, Call::ReceiveMessage { queue: "r".into(), max: 1, wait_ms: 90_000, lease_ms: 90_000 });
    w.facts.clear();
    let publish = Call::PublishMany { queue: "q".into(), messages: vec![message("a", 0)] };
    let calls = [publish, put("q", "r", None, false)];
    let inputs = calls.into_iter().zip(100..);
    w.feed(inputs.map(|(call, ticket)| Input::Call { ticket, caller: Caller::internal(), call }).collect());
    let about = |f: &Fact| match f {
        Fact::MessageAdded(row) => Some(format!("added, leased {}", row.lease.is_some())),
        Fact::MessagesMoved(..) => Some("moved".to_owned()),
        Fact::MessageMoved { lease, .. } => Some(format!("leased {}", lease.is_some())),
        _ => None,
    };
    let told: Vec<String> = w.facts.iter().filter_map(about).collect();
    assert_eq!(told, ["added, leased false", "moved", "leased true"]);
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

impl World {
    /// Asks for a move out of the queue at the broker, and says for the broker how much lies there.
    fn moves(&mut self, dry_run: bool, depth: u64) -> Ticket {
        assert!(self.ask_as(1000, put("q", "r", None, dry_run)).is_none());
        let ticket = self.ticket;
        assert!(self.orders.contains(&Order::Depth("q".into(), ticket)), "{:?}", self.orders);
        self.orders.clear();
        self.broker(Said::Depth { queue: "q".into(), depth, coming: 0, ticket: Some(ticket) });
        ticket
    }

    /// The broker gives so many.
    fn gives(&mut self, names: &[&str]) {
        let messages = names.iter().map(|name| incoming(name, None)).collect();
        self.broker(Said::Messages("q".into(), messages));
    }

    fn asked(&mut self) -> Vec<u64> {
        let orders = std::mem::take(&mut self.orders);
        orders.into_iter().filter_map(|o| if let Order::Room(_, n) = o { Some(n) } else { None }).collect()
    }
}

/// Of the queue at the broker: what the coordinator has of it. Counting would ask the broker.
fn here(w: &World) -> (u64, u64, u64) {
    let (ready, delayed, leased, _) = w.core.queues.get("q").unwrap().messages.counts();
    (ready, delayed, leased)
}

#[test]
fn what_lies_at_a_broker_is_counted_fetched_and_moves_in_the_step_that_takes_it_in() {
    let mut w = World::with_broker("messages", 0);
    let dry = w.moves(true, 3);
    assert_eq!((moved(w.answers.remove(&dry).unwrap()), w.asked()), ((3, 0), vec![]));
    let ticket = w.moves(false, 3);
    assert_eq!((w.asked(), w.answers.contains_key(&ticket)), (vec![3], false));
    w.gives(&["a", "b"]);
    assert_eq!((counts(&mut w, "r"), w.answers.contains_key(&ticket)), ((2, 0, 0), false));
    let places: Vec<_> = w.facts.iter().filter(|f| matches!(f, Fact::MessagesMoved(..))).collect();
    assert_eq!(places, [&Fact::MessagesMoved("r".into(), vec![1, 2], false)]);
    w.gives(&["c"]);
    assert_eq!(moved(w.answers.remove(&ticket).unwrap()), (3, 0));
    assert_eq!(w.audit.last().unwrap().object, "queue:q to r, 3 moved");
    assert_eq!((counts(&mut w, "r"), w.asked()), ((3, 0, 0), vec![]), "nothing more is asked for");
}

#[test]
fn what_is_under_way_to_the_broker_is_confirmed_before_it_is_counted() {
    let mut w = World::with_broker("messages", 0);
    assert!(w.ask_as(1, Call::PublishMany { queue: "q".into(), messages: vec![message("a", 0)] }).is_none());
    let ids = w.forwarded();
    assert!(w.ask_as(1000, put("q", "r", None, true)).is_none());
    let ticket = w.ticket;
    assert_eq!(w.orders, []);
    w.broker(Said::Confirmed("q".into(), ids));
    assert_eq!(w.orders, [Order::Depth("q".into(), ticket)]);
    w.broker(Said::Depth { queue: "q".into(), depth: 1, coming: 0, ticket: Some(ticket) });
    assert_eq!(moved(w.answers.remove(&ticket).unwrap()), (1, 0));
}

#[test]
fn more_than_a_portion_is_told_as_left_and_whoever_waits_there_is_served_at_once() {
    let mut w = World::with_broker("messages", 0);
    w.ask(Call::PublishMany { queue: "r".into(), messages: vec![message("x", 0)] }).unwrap();
    let take = Call::ReceiveMessage { queue: "r".into(), max: 1, wait_ms: 90_000, lease_ms: 90_000 };
    w.ask_as(1, take.clone());
    w.ask_as(2, take);
    let ticket = w.moves(false, 1_500);
    assert_eq!(w.asked(), [1_000]);
    let names: Vec<String> = (0..1_000).map(|n| n.to_string()).collect();
    w.gives(&names.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(moved(w.answers.remove(&ticket).unwrap()), (1_000, 500));
    assert_eq!((w.leased.len(), counts(&mut w, "r")), (2, (999, 0, 2)));
}

#[test]
fn a_broker_that_gives_nothing_ends_the_move_with_what_was_moved() {
    let mut w = World::with_broker("messages", 0);
    assert!(w.ask_as(1000, put("q", "r", None, false)).is_none());
    let silent = w.ticket;
    let slow = w.moves(false, 2);
    w.gives(&["a"]);
    w.wait(2_001);
    assert_eq!(code(w.answers.remove(&silent).unwrap()), "backend-unusable");
    assert!(!w.answers.contains_key(&slow), "one came: it is waited for the other");
    w.orders.clear();
    w.wait(2_001);
    assert_eq!((moved(w.answers.remove(&slow).unwrap()), w.asked()), ((1, 1), vec![0]));
    // What comes late stays.
    w.gives(&["b"]);
    assert_eq!((here(&w), counts(&mut w, "r")), ((1, 0, 0), (1, 0, 0)));
}

#[test]
fn a_caller_that_goes_away_moves_no_more_and_leaves_a_line() {
    let mut w = World::with_broker("messages", 0);
    let ticket = w.moves(false, 2);
    w.gives(&["a"]);
    w.feed(vec![Input::Gone(ticket)]);
    assert_eq!(w.audit.last().unwrap().object, "queue:q to r, 1 moved");
    w.gives(&["b"]);
    assert_eq!((here(&w), counts(&mut w, "r")), ((1, 0, 0), (1, 0, 0)));
}

#[test]
fn what_does_not_fit_cannot_be_searched_or_lies_at_a_broker_that_is_away_is_refused() {
    let mut w = World::with_broker("messages", 0);
    let small = QueueSettings { max_len: Some(2), ..QueueSettings::default() };
    w.ask(Call::SetQueue { queue: "r".into(), settings: small, ingress_uid: None }).unwrap();
    let ticket = w.moves(false, 3);
    assert_eq!(code(w.answers.remove(&ticket).unwrap()), "queue-state");
    let filtered = Some(vec![1]);
    assert_eq!(code(w.ask(put("q", "r", filtered, false))), "backend-cannot");
    // It fills up meanwhile.
    let ticket = w.moves(false, 2);
    w.ask(Call::PublishMany { queue: "r".into(), messages: vec![message("x", 0)] }).unwrap();
    w.gives(&["a", "b"]);
    assert_eq!(moved(w.answers.remove(&ticket).unwrap()), (0, 2));
    w.broker(Said::Depth { queue: "q".into(), depth: 2, coming: 0, ticket: None });
    w.broker(Said::Down("gone".into()));
    assert_eq!(code(w.ask(put("q", "r", None, false))), "backend-unusable");
}
