//! Queues and messages.
use super::*;
use reeve_protocol::api::QueueSettings;

#[expect(clippy::unnecessary_box_returns, reason = "the call takes a box")]
fn message(text: &str) -> Box<NewMessage> {
    Box::new(NewMessage {
        kind: 1,
        body: text.as_bytes().into(),
        headers: "{}".into(),
        priority: 0,
        delay_ms: 0,
        ttl_ms: None,
        key: None,
    })
}

fn receive(wait_ms: u64) -> Call {
    Call::ReceiveMessage { queue: "q".into(), max: 1, wait_ms, lease_ms: 10_000 }
}

fn settle(how: Settle, lease: &str) -> Call {
    Call::Settle {
        queue: "q".into(),
        how,
        request: Box::new(LeaseRequest { lease: lease.into(), ..LeaseRequest::default() }),
    }
}

#[test]
fn a_message_is_leased_and_acked() {
    let mut w = World::new();
    w.ask(Call::Publish { queue: "q".into(), message: message("a") }).unwrap();
    assert!(w.ask_as(1000, receive(0)).is_none(), "the recorder answers with the body");
    let lease = w.leased[0].lease.clone();
    assert!(matches!(w.ask(receive(0)), Ok(Reply::ReceivedMessages(items)) if items.is_empty()));
    w.ask(settle(Settle::Ack, &lease)).unwrap();
    assert_eq!(code(w.ask(settle(Settle::Ack, &lease))), "no-lease");
    assert!(w.facts.contains(&Fact::MessageGone(1)));
}

#[test]
fn a_lease_that_ends_gives_the_message_back_until_it_is_dead() {
    let mut w = World::new();
    w.ask(Call::Publish { queue: "q".into(), message: message("a") }).unwrap();
    for delivery in 1..=4 {
        w.ask_as(1000, receive(0));
        assert_eq!(w.leased.len(), delivery);
        w.wait(10_001);
    }
    let Ok(Reply::Count(count)) = w.ask(Call::CountQueueMessages { queue: "q".into() }) else { panic!() };
    assert_eq!((count.ready, count.leased, count.dead), (0, 0, 1));
    w.ask(Call::CleanQueue { queue: "q".into(), ids: None, dead: true, dry_run: false }).unwrap();
    assert!(w.facts.contains(&Fact::MessagesCleaned("q".into(), vec![1])));
}

#[test]
fn a_receiver_waits_until_something_comes_or_the_time_is_over_or_it_leaves() {
    let mut w = World::new();
    w.ask(Call::SetQueue {
        queue: "q".into(),
        settings: QueueSettings { kind: Some("messages".into()), ..Default::default() },
        ingress_uid: None,
    })
    .unwrap();
    assert!(w.ask_as(1000, receive(5_000)).is_none());
    let first = w.ticket;
    w.ask(Call::Publish { queue: "q".into(), message: message("a") }).unwrap();
    assert_eq!(w.leased.len(), 1, "it was served at once");
    assert!(w.ask_as(1000, receive(5_000)).is_none());
    let second = w.ticket;
    w.wait(5_001);
    assert!(
        matches!(w.answers.remove(&second), Some(Ok(Reply::ReceivedMessages(items))) if items.is_empty())
    );
    assert!(!w.answers.contains_key(&first));
    assert!(w.ask_as(1000, receive(5_000)).is_none());
    w.feed(vec![Input::Gone(w.ticket)]);
    w.ask(Call::Publish { queue: "q".into(), message: message("b") }).unwrap();
    assert_eq!(w.leased.len(), 1, "nobody waits any more");
}

#[test]
fn delayed_messages_come_when_due_and_expired_ones_never() {
    let mut w = World::new();
    let delayed = Box::new(NewMessage { delay_ms: 1_000, ..*message("later") });
    let short = Box::new(NewMessage { ttl_ms: Some(500), ..*message("short") });
    w.ask(Call::Publish { queue: "q".into(), message: delayed }).unwrap();
    w.ask(Call::Publish { queue: "q".into(), message: short }).unwrap();
    w.wait(600);
    assert!(w.facts.contains(&Fact::MessageGone(2)));
    assert!(matches!(w.ask(receive(0)), Ok(Reply::ReceivedMessages(items)) if items.is_empty()));
    w.wait(500);
    w.ask_as(1000, receive(0));
    assert_eq!(w.leased.len(), 1);
}

#[test]
fn the_first_use_fixes_the_kind() {
    let mut w = World::new();
    w.submit(JobSpec { queue: Some("work".into()), ..spec() });
    let problem = w.ask(Call::Publish { queue: "work".into(), message: message("a") }).unwrap_err();
    assert_eq!(problem.code, "queue-kind");
    assert_eq!(code(w.ask(Call::CountQueueMessages { queue: "wrok".into() })), "unknown-queue");
    let problem = w.ask(Call::PauseQueue { queue: "wrok".into(), paused: true, reason: None }).unwrap_err();
    assert!(problem.hint.contains("work"), "{problem}");
}

#[test]
fn a_paused_queue_takes_in_and_hands_nothing_out() {
    let mut w = World::with_machine(4);
    w.ask(Call::SetQueue { queue: "default".into(), settings: QueueSettings::default(), ingress_uid: None })
        .unwrap();
    w.ask(Call::PauseQueue { queue: "default".into(), paused: true, reason: None }).unwrap();
    w.submit(spec());
    assert!(w.started_frames().is_empty());
    let Ok(Reply::Why(why)) = w.ask(Call::Why { target: target(1), stored: Stored::default() }) else {
        panic!()
    };
    assert!(why.reasons[0].text.contains("paused"), "{why:?}");
    w.ask(Call::PauseQueue { queue: "default".into(), paused: false, reason: None }).unwrap();
    assert_eq!(w.started_frames().len(), 1);
}

#[test]
fn limit_and_bound_of_a_queue_hold() {
    let mut w = World::with_machine(4);
    let settings = QueueSettings { limit: Some(1), max_len: Some(2), ..Default::default() };
    w.ask(Call::SetQueue { queue: "default".into(), settings, ingress_uid: None }).unwrap();
    w.submit(spec());
    w.start(TaskId::single(1).attempt(1));
    w.submit(spec());
    w.submit(spec());
    assert_eq!(w.started_frames().len(), 1);
    assert_eq!(code(w.ask(Call::Submit { spec: Box::new(spec()), key: None })), "queue-state");
}

#[test]
fn cleaning_a_queue_of_jobs_cancels_what_waits() {
    let mut w = World::with_machine(1);
    for _ in 0..3 {
        w.submit(spec());
    }
    w.start(TaskId::single(1).attempt(1));
    let clean = |dry_run| Call::CleanQueue { queue: "default".into(), ids: None, dead: false, dry_run };
    assert!(matches!(w.ask(clean(true)), Ok(Reply::Cleaned(c, None)) if c.removed == 2 && c.dry_run));
    assert!(matches!(w.ask(clean(false)), Ok(Reply::Cleaned(c, None)) if c.removed == 2));
    assert_eq!(
        (w.standing(1).0, w.standing(2).0, w.standing(3).0),
        (State::Running, State::Cancelled, State::Cancelled)
    );
}

#[test]
fn a_consumer_that_gives_back_or_vanishes_returns_the_job() {
    let mut w = World::new();
    w.submit(JobSpec { queue: Some("q".into()), ..spec() });
    let Ok(Reply::ReceivedJobs(items)) = w.ask(receive(0)) else { panic!() };
    w.ask(settle(Settle::Nack, &items[0].2)).unwrap();
    assert_eq!(w.standing(1), (State::Queued, Some(Substate::Waiting)));
    let Ok(Reply::ReceivedJobs(items)) = w.ask(receive(0)) else { panic!() };
    assert_eq!(items[0].1, 2, "a new attempt");
    w.wait(10_001);
    assert_eq!(w.standing(1).0, State::Queued);
    let Ok(Reply::ReceivedJobs(items)) = w.ask(receive(0)) else { panic!() };
    assert_eq!(items[0].1, 3);
    w.ask(settle(Settle::Ack, &items[0].2)).unwrap();
    assert_eq!(w.standing(1), (State::Completed, None));
}
