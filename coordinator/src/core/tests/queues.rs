//! Queues and messages.
use super::*;
use reeve_protocol::api::QueueSettings;

#[expect(clippy::unnecessary_box_returns, reason = "the call takes a box")]
pub(super) fn message(text: &str) -> Box<NewMessage> {
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
fn a_lease_that_is_not_held_says_what_has_become_of_what_it_was_of() {
    let mut w = World::new();
    let said = |w: &mut World, lease: &str| w.ask(settle(Settle::Ack, lease)).unwrap_err().detail;
    w.ask(Call::Publish { queue: "q".into(), message: message("a") }).unwrap();
    assert!(w.ask_as(1000, receive(0)).is_none());
    let first = w.leased[0].lease.clone();
    w.ask(settle(Settle::Nack, &first)).unwrap();
    assert!(said(&mut w, &first).ends_with("message 1 is ready again"));
    assert!(w.ask_as(1000, receive(0)).is_none());
    assert!(said(&mut w, &first).ends_with("message 1 is held under another lease"));
    let second = w.leased[1].lease.clone();
    w.ask(Call::Publish { queue: "other".into(), message: message("b") }).unwrap();
    let of_other = Call::Settle {
        queue: "other".into(),
        how: Settle::Ack,
        request: Box::new(LeaseRequest { lease: second.clone(), ..LeaseRequest::default() }),
    };
    assert!(w.ask(of_other).unwrap_err().detail.ends_with("it is of queue q"));
    w.ask(settle(Settle::Ack, &second)).unwrap();
    assert!(said(&mut w, &second).contains("message 1 was settled"));
    for strange in ["x", "x-y", "7.x-y", "-", "18446744073709551616-a"] {
        assert!(said(&mut w, strange).ends_with("nothing here had it"), "{strange}");
    }
}

#[test]
fn a_lease_of_a_job_that_is_not_held_says_the_jobs_state() {
    let mut w = World::new();
    w.submit(JobSpec { queue: Some("q".into()), ..spec() });
    let Ok(Reply::ReceivedJobs(items)) = w.ask(receive(0)) else { panic!("a job") };
    let lease = items[0].2.clone();
    w.ask(settle(Settle::Nack, &lease)).unwrap();
    let detail = w.ask(settle(Settle::Ack, &lease)).unwrap_err().detail;
    assert!(detail.contains("job 1 "), "{detail}");
    let never = w.ask(settle(Settle::Ack, "77-x")).unwrap_err().detail;
    assert!(never.contains("job 77 has ended and is no longer at hand, or never was here"), "{never}");
}

#[test]
fn an_answer_has_a_bound_in_bytes_and_the_rest_stays() {
    let mut w = World::new();
    let large = "x".repeat(1_000_000);
    for backend in ["local", "memory"] {
        let settings = QueueSettings { backend: Some(backend.into()), ..QueueSettings::default() };
        w.ask(Call::SetQueue { queue: backend.into(), settings, ingress_uid: None }).unwrap();
        for _ in 0..10 {
            w.ask(Call::Publish { queue: backend.into(), message: message(&large) }).unwrap();
        }
        w.leased.clear();
        let many = Call::ReceiveMessage { queue: backend.into(), max: 1_000, wait_ms: 0, lease_ms: 10_000 };
        assert!(w.ask_as(1000, many.clone()).is_none());
        assert_eq!(w.leased.len(), 8, "of {backend}");
        assert!(w.ask_as(1000, many).is_none());
        assert_eq!(w.leased.len(), 10, "the rest of {backend} comes with the next");
    }
}

#[test]
fn jobs_are_received_within_the_same_bound_but_at_least_one() {
    let mut w = World::new();
    for size in [9_000_000, 3_000_000, 3_000_000, 3_000_000] {
        let env = [("LARGE".to_owned(), "x".repeat(size))].into();
        w.submit(JobSpec { queue: Some("q".into()), env, ..spec() });
    }
    let many = Call::ReceiveMessage { queue: "q".into(), max: 100, wait_ms: 0, lease_ms: 10_000 };
    let mut got = |n: usize| match w.ask(many.clone()) {
        Ok(Reply::ReceivedJobs(jobs)) => assert_eq!(jobs.len(), n),
        other => panic!("{other:?}"),
    };
    got(1);
    got(2);
    got(1);
    got(0);
}

#[test]
fn a_message_in_memory_never_has_a_number_that_was_given_before_a_restart() {
    let mut w = World::new();
    let settings = QueueSettings { backend: Some("memory".into()), ..QueueSettings::default() };
    w.ask(Call::SetQueue { queue: "q".into(), settings, ingress_uid: None }).unwrap();
    let store = crate::store::read::fixture::Fixture::empty();
    let (mut conn, mut last) = (store.conn, 0);
    conn.execute_batch("INSERT INTO meta (key, value) VALUES ('next_job', '1')").unwrap();
    for start in 0..3 {
        for n in 0..1_500 {
            let Ok(Reply::Published(published, _)) =
                w.ask(Call::Publish { queue: "q".into(), message: message("a") })
            else {
                panic!()
            };
            let id: u64 = published.id.parse().unwrap();
            assert!(id > last, "message {n} after start {start} has number {id} again");
            last = id;
        }
        let facts = std::mem::take(&mut w.facts);
        let noted = facts.iter().filter(|f| matches!(f, Fact::MessageNumbersUsed(_))).count();
        assert_eq!(noted, 2, "not one for each message");
        let step = Step { facts, ..Step::default() };
        let head = crate::store::audit::head(&conn).unwrap();
        crate::store::writer::write(&mut conn, head, &step).unwrap();
        let identity = w.core.identity.clone();
        let loaded = crate::store::load::load(&conn, identity, w.core.seq()).unwrap();
        assert!(loaded.next_message > last && loaded.next_message <= last + 1_000);
        let restored = Core::restore(loaded, "seed".into(), w.now);
        let message_line = |core: &Core| core.picture().into_iter().find(|line| line.starts_with("next job"));
        assert_eq!(message_line(&restored), message_line(&w.core));
        w.core = restored;
    }
}

#[test]
fn many_are_published_and_settled_in_one_step_with_one_event() {
    let mut w = World::new();
    let key = |text: &str| Some(crate::input::Key { key: text.into(), digest: text.into() });
    let keyed = |text: &str| NewMessage { key: key(text), ..*message(text) };
    let messages = vec![keyed("a"), keyed("b"), keyed("a"), *message("c")];
    let settings = QueueSettings { max_len: Some(2), ..QueueSettings::default() };
    w.ask(Call::SetQueue { queue: "q".into(), settings, ingress_uid: None }).unwrap();
    let Ok(Reply::PublishedMany(results, false)) = w.ask(Call::PublishMany { queue: "q".into(), messages })
    else {
        panic!()
    };
    let seen: Vec<_> = results.iter().map(|r| r.as_ref().map_err(|p| p.code.clone()).copied()).collect();
    assert_eq!(seen, [Ok((1, false)), Ok((2, false)), Ok((1, true)), Err("queue-state".to_owned())]);
    let published = |e: &&Event| e.what.as_deref() == Some("published");
    let events: Vec<_> = w.events.iter().filter(published).map(|e| e.count).collect();
    assert_eq!(events, [Some(2)]);
    assert_eq!(w.audit.last().unwrap().object, "queue:q messages:1-2, 1 refused");
    w.ask_as(1000, Call::ReceiveMessage { queue: "q".into(), max: 9, wait_ms: 0, lease_ms: 10_000 });
    let mut leases: Vec<String> = w.leased.iter().map(|l| l.lease.clone()).collect();
    leases.push("foreign".into());
    let request = Box::new(LeaseRequest { leases, ..LeaseRequest::default() });
    let many = Call::Settle { queue: "q".into(), how: Settle::Ack, request };
    let Ok(Reply::SettledMany(2, refused)) = w.ask(many.clone()) else { panic!() };
    assert_eq!((refused.len(), refused[0].lease.as_str()), (1, "foreign"));
    assert_eq!(w.events.last().map(|e| (e.what.as_deref(), e.count)), Some((Some("acked"), Some(2))));
    assert_eq!(w.audit.last().unwrap().object, "queue:q, 2 settled, 1 refused");
    let before = w.audit.len();
    assert!(matches!(w.ask(many), Ok(Reply::SettledMany(0, refused)) if refused.len() == 3));
    assert_eq!(w.audit.len(), before, "nothing was changed");
}

#[test]
fn several_jobs_of_a_consumer_are_settled_together() {
    let mut w = World::new();
    for _ in 0..3 {
        w.submit(JobSpec { queue: Some("q".into()), ..spec() });
    }
    let many = Call::ReceiveMessage { queue: "q".into(), max: 3, wait_ms: 0, lease_ms: 10_000 };
    let Ok(Reply::ReceivedJobs(items)) = w.ask(many) else { panic!() };
    let mut leases: Vec<String> = items.iter().map(|i| i.2.clone()).collect();
    leases.push(items[0].2.clone());
    let request = Box::new(LeaseRequest { leases, ..LeaseRequest::default() });
    let all = Call::Settle { queue: "q".into(), how: Settle::Ack, request };
    assert!(matches!(w.ask(all), Ok(Reply::SettledMany(3, refused)) if refused.len() == 1));
    assert!([1, 2, 3].iter().all(|id| w.standing(*id).0 == State::Completed));
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
