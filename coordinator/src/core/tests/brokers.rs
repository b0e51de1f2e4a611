//! Queues at a broker: hints that come, or do not; messages on their way there and back.
use super::*;
use crate::orchestrator::link::{Forwarded, Hint, Incoming, Order, SILENT_MS, Said, Tag};
use reeve_protocol::api::QueueSettings;

const BROKER: &str = "fast";

impl World {
    pub(super) fn with_broker(kind: &str, cpus: u32) -> Self {
        let mut world = Self::with_machine(cpus);
        let settings = QueueSettings {
            kind: Some(kind.into()),
            backend: Some(BROKER.into()),
            ..QueueSettings::default()
        };
        world.ask(Call::SetQueue { queue: "q".into(), settings, ingress_uid: None }).unwrap();
        world.broker(Said::Up { version: "v".into(), capabilities: BTreeMap::new(), confirms_fast: true });
        world
    }

    pub(super) fn broker(&mut self, said: Said) {
        self.feed(vec![Input::Broker { name: BROKER.into(), said: vec![said] }]);
    }

    /// The hints given to the broker since the last look.
    pub(super) fn hints(&mut self) -> Vec<Hint> {
        let orders = std::mem::take(&mut self.orders);
        orders.into_iter().flat_map(|o| if let Order::Hints(_, hints) = o { hints } else { vec![] }).collect()
    }

    pub(super) fn job(&mut self) -> u64 {
        self.submit(JobSpec { queue: Some("q".into()), ..spec() }).id
    }

    pub(super) fn view(&mut self) -> reeve_protocol::api::QueueView {
        let Ok(Reply::Queues(mut queues)) = self.ask(Call::ListQueues) else { panic!() };
        queues.remove(0)
    }

    /// Publishes with a key: such a message has a row until the broker has it.
    fn publish_one(&mut self, text: &str) -> u64 {
        let key = crate::input::Key { key: format!("k{}", self.ticket), digest: text.to_owned() };
        let message = NewMessage { key: Some(key), ..plain(text) };
        match self.ask(Call::Publish { queue: "q".into(), message: Box::new(message) }) {
            Ok(Reply::Published(published, _)) => published.id.parse().unwrap(),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn forwarded(&mut self) -> Vec<u64> {
        let orders = std::mem::take(&mut self.orders);
        let messages = orders.into_iter().flat_map(|o| if let Order::Forward(_, m) = o { m } else { vec![] });
        messages.map(|m| number(&m)).collect()
    }

    pub(super) fn take(&mut self, wait_ms: u64) -> Option<Result<Reply, Problem>> {
        self.ask_as(1000, Call::ReceiveMessage { queue: "q".into(), max: 1, wait_ms, lease_ms: 10_000 })
    }
}

pub(super) fn plain(text: &str) -> NewMessage {
    NewMessage {
        kind: 1,
        body: text.as_bytes().into(),
        headers: "{}".into(),
        priority: 0,
        delay_ms: 0,
        ttl_ms: None,
        key: None,
    }
}

/// Of a message that is given to a broker, with a row or without.
pub(super) fn number(message: &Forwarded) -> u64 {
    match message {
        Forwarded::Row(id) => *id,
        Forwarded::Whole(row) => row.id,
    }
}

pub(super) fn incoming(name: &str, id: Option<u64>) -> Incoming {
    let tag = Tag { band: crate::orchestrator::link::Band::Normal, name: name.into() };
    Incoming {
        unique: Some(name.into()),
        tag,
        id,
        kind: 1,
        body: (*b"a").into(),
        headers: "{}".into(),
        priority: 0,
        expires_at: None,
        unusable: None,
        reply: None,
    }
}

#[test]
fn a_job_waits_for_its_hint_and_starts_when_it_comes() {
    let mut w = World::with_broker("jobs", 4);
    let job = w.job();
    let hints = w.hints();
    assert_eq!((hints.len(), hints[0].job, w.started_frames().len()), (1, job, 0));
    w.broker(Said::Hints("q".into(), hints.clone()));
    assert_eq!(w.started_frames().len(), 1);
    w.broker(Said::Hints("q".into(), hints));
    assert_eq!(w.started_frames().len(), 1, "a doubled hint is nothing");
}

#[test]
fn hints_of_another_store_or_an_earlier_offer_are_nothing() {
    let mut w = World::with_broker("jobs", 4);
    let job = w.job();
    let hint = w.hints().remove(0);
    w.broker(Said::Hints("q".into(), vec![Hint { lineage: "other".into(), ..hint.clone() }]));
    w.ask(Call::HoldJob { target: target(job), hold: true, stored: Stored::default() }).unwrap();
    w.broker(Said::Hints("q".into(), vec![hint.clone()]));
    w.ask(Call::HoldJob { target: target(job), hold: false, stored: Stored::default() }).unwrap();
    w.broker(Said::Hints("q".into(), vec![hint]));
    assert!(w.started_frames().is_empty());
    let fresh = w.hints();
    w.broker(Said::Hints("q".into(), fresh));
    assert_eq!(w.started_frames().len(), 1);
}

#[test]
fn a_broker_that_says_nothing_is_not_waited_for_longer_than_a_moment() {
    let mut w = World::with_broker("jobs", 4);
    w.wait(10_000);
    w.job();
    w.wait(SILENT_MS / 2);
    assert!(w.started_frames().is_empty());
    w.wait(SILENT_MS);
    assert_eq!(w.started_frames().len(), 1);
    assert!(w.view().degraded.unwrap().contains("says nothing"));
    w.job();
    assert_eq!(w.started_frames().len(), 2, "from now on nothing is waited for");
    w.broker(Said::Heard);
    assert_eq!(w.view().degraded, None);
    w.job();
    assert_eq!(w.started_frames().len(), 2, "it is relied on again");
}

#[test]
fn a_lost_hint_is_made_up_for_from_the_store_while_others_come() {
    let mut w = World::with_broker("jobs", 4);
    let lost = w.job();
    w.hints();
    for _ in 0..60 {
        w.wait(100);
        w.broker(Said::Heard);
    }
    assert_eq!(w.started_frames(), [TaskId::single(lost).attempt(1)]);
}

#[test]
fn while_the_broker_is_down_everything_is_taken_from_the_store() {
    let mut w = World::with_broker("jobs", 4);
    w.job();
    w.broker(Said::Down("refused".into()));
    assert_eq!(w.started_frames().len(), 1);
    w.job();
    assert_eq!(w.started_frames().len(), 2);
    let view = w.view();
    assert_eq!(view.degraded.as_deref(), Some("refused"));
    assert!(view.degraded_since.is_some());
}

#[test]
fn after_a_flush_the_hints_of_what_still_waits_are_made_anew() {
    let mut w = World::with_broker("jobs", 0);
    let jobs: Vec<u64> = (0..3).map(|_| w.job()).collect();
    let first = w.hints();
    w.broker(Said::Hints("q".into(), first[..1].to_vec()));
    w.broker(Said::Lost("q".into()));
    let again: Vec<u64> = w.hints().iter().map(|h| h.job).collect();
    assert_eq!(again, jobs[1..]);
}

#[test]
fn one_queue_that_cannot_be_kept_there_goes_on_alone() {
    let mut w = World::with_broker("jobs", 4);
    w.broker(Said::Trouble("q".into(), Some("no stream".into())));
    w.job();
    assert_eq!(w.started_frames().len(), 1);
    assert_eq!(w.view().degraded.as_deref(), Some("no stream"));
    w.broker(Said::Trouble("q".into(), None));
    w.job();
    assert_eq!(w.started_frames().len(), 1);
}

#[test]
fn a_consumer_gets_jobs_of_a_broker_too() {
    let mut w = World::with_broker("jobs", 0);
    assert!(w.take(5_000).is_none());
    let waiter = w.ticket;
    w.job();
    let hints = w.hints();
    w.broker(Said::Hints("q".into(), hints));
    assert!(matches!(w.answers.remove(&waiter), Some(Ok(Reply::ReceivedJobs(jobs))) if jobs.len() == 1));
}

#[test]
fn a_queue_that_moves_between_backends_takes_its_jobs_along() {
    let mut w = World::with_broker("jobs", 0);
    for _ in 0..3 {
        w.job();
    }
    let set = |backend: &str| Call::SetQueue {
        queue: "q".into(),
        settings: QueueSettings { backend: Some(backend.into()), ..QueueSettings::default() },
        ingress_uid: None,
    };
    w.ask(set("local")).unwrap();
    assert_eq!(w.view().hints, None);
    assert!(w.orders.iter().any(|o| matches!(o, Order::Leave(_))));
    w.hints();
    w.ask(set(BROKER)).unwrap();
    assert_eq!((w.view().hints, w.hints().len()), (Some(3), 3));
}

#[test]
fn a_message_is_the_stores_until_the_broker_has_it_and_again_once_it_is_taken_back() {
    let mut w = World::with_broker("messages", 0);
    let id = w.publish_one("a");
    assert_eq!(w.forwarded(), [id]);
    w.broker(Said::Confirmed("q".into(), vec![id]));
    assert!(w.facts.contains(&Fact::MessageGone(id)));
    assert!(w.take(5_000).is_none());
    assert!(w.orders.iter().any(|o| *o == Order::Room("q".into(), 1)), "{:?}", w.orders);
    w.broker(Said::Messages("q".into(), vec![incoming("1-0", Some(id))]));
    assert_eq!((w.leased.len(), w.leased[0].id), (1, id), "it keeps its number");
    assert!(w.orders.iter().any(|o| matches!(o, Order::Taken(_, tags) if tags.len() == 1)));
    w.broker(Said::Messages("q".into(), vec![incoming("1-0", Some(id))]));
    assert!(w.take(0).is_none(), "the broker is asked");
    assert_eq!(w.leased.len(), 1, "what comes again is not taken twice");
}

#[test]
fn a_message_that_overtakes_its_confirmation_is_one_message() {
    let mut w = World::with_broker("messages", 0);
    let id = w.publish_one("a");
    assert!(w.take(5_000).is_none());
    w.broker(Said::Messages("q".into(), vec![incoming("1-0", Some(id))]));
    assert_eq!(w.leased.len(), 1);
    w.broker(Said::Confirmed("q".into(), vec![id]));
    assert!(!w.facts.contains(&Fact::MessageGone(id)), "it is leased");
}

#[test]
fn what_a_broker_may_have_is_given_again_and_what_it_never_had_is_handed_out() {
    let mut w = World::with_broker("messages", 0);
    let first = w.publish_one("a");
    w.broker(Said::Down("gone".into()));
    let second = w.publish_one("b");
    assert!(w.take(0).is_none());
    assert_eq!(w.leased[0].id, second, "the first may lie at the broker");
    w.orders.clear();
    w.broker(Said::Up { version: "v".into(), capabilities: BTreeMap::new(), confirms_fast: true });
    assert_eq!(w.forwarded(), [first]);
}

#[test]
fn what_was_handed_out_while_the_broker_was_away_does_not_go_there_when_it_is_given_back() {
    let mut w = World::with_broker("messages", 0);
    w.broker(Said::Down("gone".into()));
    let id = w.publish_one("a");
    assert!(w.take(0).is_none());
    let later = LeaseRequest { lease: w.leased[0].lease.clone(), delay_s: Some(0.1), ..Default::default() };
    w.ask(Call::Settle { queue: "q".into(), how: Settle::Nack, request: Box::new(later) }).unwrap();
    w.wait(200);
    w.orders.clear();
    w.broker(Said::Up { version: "v".into(), capabilities: BTreeMap::new(), confirms_fast: true });
    assert!(w.forwarded().is_empty(), "its deliveries are the store's");
    w.facts.clear();
    assert!(w.take(0).is_none());
    assert_eq!((w.leased.len(), w.leased[1].id), (2, id));
    assert!(!w.facts.contains(&Fact::MessageArrived(id)), "it is said once, or the store refuses the step");
}

#[test]
fn what_a_broker_refused_of_one_queue_is_given_again_when_the_queue_can_be_used() {
    let mut w = World::with_broker("messages", 0);
    let id = w.publish_one("a");
    assert_eq!(w.forwarded(), [id]);
    assert!(w.take(5_000).is_none());
    let asked = |w: &mut World| std::mem::take(&mut w.orders).contains(&Order::Room("q".into(), 1));
    assert!(asked(&mut w));
    w.broker(Said::Trouble("q".into(), Some("full".into())));
    assert!(w.forwarded().is_empty());
    w.broker(Said::Trouble("q".into(), None));
    assert!(w.orders.contains(&Order::Forward("q".into(), vec![Forwarded::Row(id)])), "{:?}", w.orders);
    assert!(asked(&mut w), "and what somebody waits for is asked again");
}

#[test]
fn what_others_publish_without_sense_is_kept_among_the_dead_with_the_reason() {
    let mut w = World::with_broker("messages", 0);
    let broken = Incoming { unusable: Some("no body".into()), ..incoming("5-0", None) };
    w.broker(Said::Messages("q".into(), vec![broken]));
    let dead =
        w.facts.iter().find_map(|f| if let Fact::MessageAdded(row) = f { row.dead.clone() } else { None });
    assert_eq!(dead.as_deref(), Some("no body"));
    assert_eq!(w.view().counts.failed, 1);
}

#[test]
fn counting_asks_the_broker_and_waits_for_it_only_so_long() {
    let mut w = World::with_broker("messages", 0);
    let count = || Call::CountQueueMessages { queue: "q".into() };
    assert!(w.ask_as(1000, count()).is_none());
    let asked = w.ticket;
    w.broker(Said::Depth { queue: "q".into(), depth: 7, coming: 0, ticket: Some(asked) });
    assert!(matches!(w.answers.remove(&asked), Some(Ok(Reply::Count(c))) if c.ready == 7));
    assert!(w.ask_as(1000, count()).is_none());
    let asked = w.ticket;
    w.wait(2_001);
    assert!(matches!(w.answers.remove(&asked), Some(Ok(Reply::Count(c))) if c.ready == 7));
}

#[test]
fn whoever_does_not_want_to_wait_hears_that_nothing_is_there() {
    let mut w = World::with_broker("messages", 0);
    assert!(w.take(0).is_none());
    let asked = w.ticket;
    w.broker(Said::Depth { queue: "q".into(), depth: 0, coming: 0, ticket: Some(asked) });
    assert!(matches!(w.answers.remove(&asked), Some(Ok(Reply::ReceivedMessages(m))) if m.is_empty()));
}

#[test]
fn messages_in_memory_leave_nothing_in_the_store() {
    let mut w = World::new();
    let settings = QueueSettings {
        kind: Some("messages".into()),
        backend: Some("memory".into()),
        ..QueueSettings::default()
    };
    w.ask(Call::SetQueue { queue: "q".into(), settings, ingress_uid: None }).unwrap();
    w.ask(Call::Publish { queue: "q".into(), message: Box::new(plain("a")) }).unwrap();
    assert!(w.take(0).is_none());
    assert_eq!(
        w.leased[0].kept.as_ref().map(|row| (row.body.to_vec(), row.deliveries)),
        Some((b"a".to_vec(), 1))
    );
    let lease = LeaseRequest { lease: w.leased[0].lease.clone(), ..LeaseRequest::default() };
    w.ask(Call::Settle { queue: "q".into(), how: Settle::Nack, request: Box::new(lease) }).unwrap();
    assert!(!w.facts.iter().any(|f| matches!(f, Fact::MessageAdded(_) | Fact::MessageMoved { .. })));
}

#[test]
fn what_others_publish_for_a_queue_of_jobs_becomes_a_job_of_the_user_named_for_it() {
    let mut w = World::with_broker("jobs", 4);
    let settings = QueueSettings { ingress: Some("as=ana".into()), ..QueueSettings::default() };
    w.ask(Call::SetQueue { queue: "q".into(), settings, ingress_uid: Some(7) }).unwrap();
    assert!(w.orders.iter().any(|o| matches!(o, Order::Use(place, _) if &**place == "q:in")));
    assert!(w.orders.iter().any(|o| matches!(o, Order::Room(place, n) if &**place == "q:in" && *n > 0)));
    let spec = |body: &str| Incoming { body: body.as_bytes().into(), ..incoming("1-0", None) };
    let good = spec(r#"{"command":["true"]}"#);
    w.broker(Said::Messages("q:in".into(), vec![good.clone(), good]));
    let owners: Vec<u32> = w
        .facts
        .iter()
        .filter_map(|f| if let Fact::JobAdded(row) = f { Some(row.owner_uid) } else { None })
        .collect();
    assert_eq!(owners, [7], "the same message is one job");
    assert!(
        w.orders
            .iter()
            .any(|o| matches!(o, Order::Taken(place, tags) if &**place == "q:in" && tags.len() == 2))
    );
    let reply = Some(Box::new(("/amq.gen-1".to_owned(), Some("c-9".to_owned()))));
    let bad = Incoming { unique: Some("2-0".into()), reply, ..spec("{}") };
    w.broker(Said::Messages("q:in".into(), vec![bad]));
    assert_eq!(w.view().counts.queued + w.view().counts.running, 1);
    let Ok(Reply::Count(count)) = w.ask(Call::CountQueueMessages { queue: "q".into() }) else { panic!() };
    assert_eq!(count.dead, 1);
    let refusal = |f: &Fact| match f {
        Fact::MessageAdded(row) if row.queue.starts_with(".replies:") => Some(row.clone()),
        _ => None,
    };
    let refusal = w.facts.iter().find_map(refusal).expect("who named a place for answers is told");
    assert!(refusal.headers.contains("/amq.gen-1") && refusal.headers.contains("c-9"), "{}", refusal.headers);
    assert!(String::from_utf8_lossy(&refusal.body).contains("REFUSED"));
    // It might come again, and nobody could tell: it is no job.
    let nameless = Incoming { unique: None, ..spec(r#"{"command":["true"]}"#) };
    w.broker(Said::Messages("q:in".into(), vec![nameless]));
    let Ok(Reply::Count(count)) = w.ask(Call::CountQueueMessages { queue: "q".into() }) else { panic!() };
    assert_eq!(count.dead, 2);
}

fn migrate(to: &str) -> Call {
    Call::MigrateQueue { queue: "q".into(), to: to.into() }
}

#[test]
fn messages_of_the_store_go_to_a_broker_in_their_order() {
    let mut w = World::with_machine(0);
    let settings = QueueSettings { kind: Some("messages".into()), ..QueueSettings::default() };
    w.ask(Call::SetQueue { queue: "q".into(), settings, ingress_uid: None }).unwrap();
    let mut ids: Vec<u64> = (0..3).map(|_| w.publish_one("a")).collect();
    w.ask(migrate(BROKER)).unwrap();
    assert!(w.facts.contains(&Fact::MessagesOutgoing(ids.clone())));
    w.broker(Said::Up { version: "v".into(), capabilities: BTreeMap::new(), confirms_fast: true });
    ids.push(w.publish_one("b"));
    assert_eq!(w.forwarded(), ids);
}

#[test]
fn an_old_broker_is_emptied_first_and_what_is_published_meanwhile_comes_behind() {
    let mut w = World::with_broker("messages", 0);
    let old = w.publish_one("old");
    w.broker(Said::Confirmed("q".into(), vec![old]));
    w.orders.clear();
    w.ask(migrate("local")).unwrap();
    assert!(w.orders.iter().any(|o| matches!(o, Order::Room(_, n) if *n > 0)), "{:?}", w.orders);
    let new = w.publish_one("new");
    assert!(w.take(5_000).is_none());
    let waiter = w.ticket;
    assert!(w.leased.is_empty(), "the new one waits behind");
    w.broker(Said::Depth { queue: "q".into(), depth: 1, coming: 0, ticket: None });
    assert_eq!(w.view().moving_left, Some(1));
    w.broker(Said::Messages("q".into(), vec![incoming("1-0", Some(old))]));
    assert_eq!(w.leased[0].id, old);
    assert!(!w.answers.contains_key(&waiter));
    w.broker(Said::Depth { queue: "q".into(), depth: 0, coming: 0, ticket: None });
    assert_eq!((w.view().moving_from, w.view().backend.as_str()), (None, "local"));
    assert!(w.orders.iter().any(|o| matches!(o, Order::Leave(_))));
    w.take(0);
    assert_eq!(w.leased[1].id, new);
}

#[test]
fn what_was_taken_from_a_broker_and_given_to_it_again_comes_a_second_time_and_no_third() {
    let mut w = World::with_broker("messages", 0);
    let named = |id| Incoming { unique: Some("id l/1".into()), ..incoming("1-0", id) };
    assert!(w.take(5_000).is_none());
    w.broker(Said::Messages("q".into(), vec![named(None)]));
    let id = w.leased[0].id;
    let lease = LeaseRequest { lease: w.leased[0].lease.clone(), ..LeaseRequest::default() };
    w.ask(Call::Settle { queue: "q".into(), how: Settle::Nack, request: Box::new(lease) }).unwrap();
    for _ in 0..2 {
        w.broker(Said::Messages("q".into(), vec![named(Some(id))]));
        assert_eq!(w.core.queues.get("q").unwrap().messages.at_hand(), 1, "it is here: a copy is nothing");
        w.ask(Call::MoveQueue { from: "q".into(), to: "r".into(), ids: Some(vec![id]), dry_run: false })
            .unwrap();
        w.forwarded();
        w.ask(Call::MoveQueue { from: "r".into(), to: "q".into(), ids: None, dry_run: false }).unwrap();
        assert_eq!(w.forwarded(), [id]);
        w.broker(Said::Confirmed("q".into(), vec![id]));
        assert_eq!(w.core.queues.get("q").unwrap().messages.at_hand(), 0);
        w.broker(Said::Messages("q".into(), vec![named(Some(id)), named(Some(id))]));
        assert_eq!(w.core.queues.get("q").unwrap().messages.at_hand(), 1);
    }
}

#[test]
fn what_came_before_its_confirmation_may_come_again_once_it_is_given_to_the_broker_again() {
    let mut w = World::with_broker("messages", 0);
    let named = |id| Incoming { unique: Some("own 1".into()), ..incoming("1-0", id) };
    let id = w.publish_one("a");
    assert!(w.take(5_000).is_none());
    w.broker(Said::Messages("q".into(), vec![named(Some(id))]));
    w.broker(Said::Confirmed("q".into(), vec![id]));
    let lease = LeaseRequest { lease: w.leased[0].lease.clone(), ..LeaseRequest::default() };
    w.ask(Call::Settle { queue: "q".into(), how: Settle::Nack, request: Box::new(lease) }).unwrap();
    w.ask(Call::MoveQueue { from: "q".into(), to: "r".into(), ids: Some(vec![id]), dry_run: false }).unwrap();
    w.forwarded();
    w.ask(Call::MoveQueue { from: "r".into(), to: "q".into(), ids: None, dry_run: false }).unwrap();
    assert_eq!(w.forwarded(), [id]);
    w.broker(Said::Confirmed("q".into(), vec![id]));
    w.broker(Said::Messages("q".into(), vec![named(Some(id))]));
    assert_eq!(w.core.queues.get("q").unwrap().messages.at_hand(), 1, "else it were lost");
}

#[test]
fn while_a_queue_moves_it_is_not_cleaned_and_says_what_it_waits_for() {
    let mut w = World::with_broker("messages", 0);
    let old = w.publish_one("old");
    w.broker(Said::Confirmed("q".into(), vec![old]));
    w.ask(migrate("local")).unwrap();
    let clean = |dead| Call::CleanQueue { queue: "q".into(), ids: None, dead, dry_run: false };
    assert_eq!(code(w.ask(clean(false))), "queue-state");
    assert!(w.ask(clean(true)).is_ok(), "the dead are in one place");
    assert_eq!(w.view().degraded, None);
    w.broker(Said::Down("gone".into()));
    let why = w.view().degraded.unwrap();
    assert!(why.contains(BROKER) && why.contains("gone"), "{why}");
}

#[test]
fn no_queue_has_the_name_of_another_ones_place_at_a_broker() {
    let mut w = World::with_machine(0);
    for name in ["q:high", "q:low", "q:in"] {
        let settings = QueueSettings { kind: Some("messages".into()), ..QueueSettings::default() };
        let set = Call::SetQueue { queue: name.into(), settings, ingress_uid: None };
        assert_eq!(code(w.ask(set)), "bad-name", "{name}");
    }
    let settings = QueueSettings { kind: Some("messages".into()), ..QueueSettings::default() };
    w.ask(Call::SetQueue { queue: "q:inn".into(), settings, ingress_uid: None }).unwrap();
}

#[test]
fn a_move_is_given_up_by_moving_back_and_goes_on_after_a_restart() {
    let mut w = World::with_broker("messages", 0);
    w.ask(migrate("local")).unwrap();
    assert_eq!(code(w.ask(migrate("other"))), "queue-state");
    let row = w
        .facts
        .iter()
        .rev()
        .find_map(|f| if let Fact::QueuePut(row) = f { Some((**row).clone()) } else { None });
    assert_eq!(row.unwrap().moving_from.as_deref(), Some(BROKER));
    let parked = w.publish_one("a");
    w.orders.clear();
    w.ask(migrate(BROKER)).unwrap();
    assert_eq!((w.view().moving_from, w.forwarded()), (None, vec![parked]));
    assert_eq!(code(w.ask(migrate("memory"))), "backend-cannot");
}

#[test]
fn what_a_broker_delivers_beyond_an_answers_bound_stays_at_hand() {
    let mut w = World::with_broker("messages", 4);
    let many = Call::ReceiveMessage { queue: "q".into(), max: 100, wait_ms: 5_000, lease_ms: 10_000 };
    assert!(w.ask_as(1000, many.clone()).is_none());
    let large = |n: u32| Incoming { body: vec![b'x'; 1 << 20].into(), ..incoming(&n.to_string(), None) };
    w.broker(Said::Messages("q".into(), (0..10).map(large).collect()));
    let at_hand = w.core.queues.get("q").map(|q| q.messages.at_hand());
    assert_eq!((w.leased.len(), at_hand), (7, Some(3)));
    assert!(w.ask_as(1000, many).is_none());
    assert_eq!(w.leased.len(), 10);
}
