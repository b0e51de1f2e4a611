//! What brokers deliver: jobs of other programs, and nothing at all while the disk is full.
use super::brokers::incoming;
use super::queues::message;
use super::*;
use crate::orchestrator::link::{Incoming, Order, Said};
use reeve_protocol::api::QueueSettings;

const IN: &str = "q:in";

impl World {
    fn with_ingress() -> Self {
        let mut world = Self::with_broker("jobs", 4);
        let settings = QueueSettings { ingress: Some("as=ana".into()), ..QueueSettings::default() };
        world.ask(Call::SetQueue { queue: "q".into(), settings, ingress_uid: Some(1234) }).unwrap();
        world
    }

    /// The rooms given for a place since the last look.
    fn rooms(&mut self, place: &str) -> Vec<u64> {
        let orders = std::mem::take(&mut self.orders);
        let room = |o| match o {
            Order::Room(of, n) if &*of == place => Some(n),
            _ => None,
        };
        orders.into_iter().filter_map(room).collect()
    }

    fn full(&mut self, full: bool) {
        self.feed(vec![Input::Disk { full }]);
    }

    fn deliver(&mut self, messages: Vec<Incoming>) {
        self.broker(Said::Messages(IN.into(), messages));
    }

    fn jobs_added(&self) -> usize {
        self.facts.iter().filter(|f| matches!(f, Fact::JobAdded(_))).count()
    }

    fn taken(&self) -> usize {
        let tags = |o: &Order| if let Order::Taken(_, tags) = o { tags.len() } else { 0 };
        self.orders.iter().map(tags).sum()
    }
}

fn job(name: &str) -> Incoming {
    Incoming { body: (*br#"{"command":["true"]}"#).into(), ..incoming(name, None) }
}

#[test]
fn settings_of_a_queue_are_changed_together_or_not_at_all() {
    let mut w = World::with_broker("jobs", 4);
    w.ask(Call::Publish { queue: "m".into(), message: message("x") }).unwrap();
    w.ask_as(1, Call::CleanQueue { queue: "m".into(), ids: None, dead: false, dry_run: false });
    w.facts.clear();
    let settings = |backend: &str| QueueSettings {
        backend: Some(backend.into()),
        ingress: Some("as=ana".into()),
        ..QueueSettings::default()
    };
    let mut set = |queue: &str, settings| {
        w.ask(Call::SetQueue { queue: queue.into(), settings, ingress_uid: Some(7) }).unwrap_err()
    };
    assert!(set("m", settings("jobs")).is(Code::QueueKind), "it holds messages");
    assert!(set("new", settings("local")).is(Code::BackendCannot));
    let Ok(Reply::Queues(queues)) = w.ask(Call::ListQueues) else { panic!() };
    assert!(w.facts.is_empty() && queues.iter().all(|q| q.name != "new"));
    assert_eq!(queues.iter().find(|q| q.name == "m").unwrap().backend, "local");
}

#[test]
fn what_comes_between_off_and_on_comes_again() {
    let mut w = World::with_ingress();
    w.orders.clear();
    let set = |word: &str, ingress_uid| {
        let settings = QueueSettings { ingress: Some(word.into()), ..QueueSettings::default() };
        let call = Call::SetQueue { queue: "q".into(), settings, ingress_uid };
        Input::Call { ticket: 900 + u64::from(ingress_uid.is_some()), caller: Caller::internal(), call }
    };
    let came = Said::Messages(IN.into(), vec![job("a")]);
    let came = Input::Broker { name: "fast".into(), said: vec![came] };
    w.feed(vec![set("off", None), came, set("as=ana", Some(1234))]);
    let told: Vec<&Order> = w.orders.iter().filter(|o| format!("{o:?}").contains(IN)).collect();
    assert!(
        matches!(told[..], [Order::Leave(_), Order::Use(..), Order::Room(_, 256)]),
        "it was read, and nobody has taken it: {told:?}"
    );
    w.deliver(vec![job("a")]);
    assert_eq!((w.jobs_added(), w.taken()), (1, 1));
}

#[test]
fn while_the_disk_is_full_jobs_of_other_programs_wait_at_their_broker_and_come_afterwards() {
    let mut w = World::with_ingress();
    assert_eq!(w.rooms(IN), [256]);
    w.full(true);
    assert_eq!(w.rooms(IN), [0], "nothing more is asked for");
    // It was on its way.
    w.deliver(vec![job("a"), job("b")]);
    w.wait(5_000);
    assert_eq!((w.jobs_added(), w.taken(), w.rooms(IN)), (0, 0, vec![]));
    w.full(false);
    assert_eq!((w.jobs_added(), w.taken(), w.rooms(IN)), (2, 2, vec![256]));
    w.deliver(vec![job("a")]);
    assert_eq!(w.jobs_added(), 2, "once each");
}

#[test]
fn what_is_taken_in_leaves_one_line_for_each_portion_and_what_comes_again_none() {
    let mut w = World::with_ingress();
    let before = w.audit.len();
    let junk = |name| Incoming { body: (*b"{}").into(), ..incoming(name, None) };
    w.deliver(vec![job("a"), job("b"), junk("c"), Incoming { unique: None, ..job("d") }]);
    w.deliver(vec![job("a"), junk("c")]);
    w.deliver(vec![job("e")]);
    w.deliver(vec![junk("f")]);
    let causes: Vec<_> = w
        .facts
        .iter()
        .filter_map(|f| if let Fact::MessageAdded(row) = f { row.dead.clone() } else { None })
        .collect();
    let wanted = "nothing to run: none of command, worker and git is given [bad-command]";
    assert!(causes.contains(&wanted.to_owned()), "a line each, without the hint: {causes:?}");
    let lines: Vec<_> = w.audit[before..].iter().map(|l| (l.call, l.object.as_str(), &*l.name)).collect();
    let wanted = [
        "queue:q jobs:1-2 from fast, 2 refused",
        "queue:q jobs:3 from fast",
        "queue:q jobs:none from fast, 1 refused",
    ];
    assert_eq!(lines, wanted.map(|object| ("ingress", object, "ana")));
    assert!(w.audit[before..].iter().all(|l| l.via == crate::row::Via::Inside && l.uid.is_none()));
}

#[test]
fn what_is_held_comes_again_with_a_new_connection() {
    let mut w = World::with_ingress();
    w.full(true);
    w.deliver(vec![job("a"), Incoming { unique: None, ..job("b") }]);
    w.broker(Said::Down("gone".into()));
    w.broker(Said::Up { version: "v".into(), capabilities: BTreeMap::new(), confirms_fast: true });
    assert_eq!(w.rooms(IN), [256, 0]);
    w.full(false);
    assert_eq!((w.jobs_added(), w.taken()), (0, 0), "the new connection has them");
    w.deliver(vec![job("a"), Incoming { unique: None, ..job("b") }]);
    let dead = w.facts.iter().filter(|f| matches!(f, Fact::MessageAdded(_))).count();
    assert_eq!((w.jobs_added(), dead, w.taken()), (1, 1, 2));
}

#[test]
fn a_number_that_was_never_given_is_not_believed() {
    let mut w = World::with_broker("messages", 4);
    let receive = Call::ReceiveMessage { queue: "q".into(), max: 3, wait_ms: 60_000, lease_ms: 10_000 };
    assert!(w.ask_as(1000, receive).is_none());
    w.broker(Said::Messages("q".into(), vec![incoming("x", Some(u64::MAX)), incoming("y", Some(0))]));
    assert_eq!(w.leased.iter().map(|l| l.id).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn no_more_is_asked_of_a_broker_than_answers_hold_by_the_size_of_the_last() {
    let mut w = World::with_broker("messages", 4);
    let receive = Call::ReceiveMessage { queue: "q".into(), max: 900, wait_ms: 60_000, lease_ms: 10_000 };
    let deliver = |w: &mut World, name: &str, bytes: usize| {
        let message = Incoming { body: vec![b'x'; bytes].into(), ..incoming(name, None) };
        w.broker(Said::Messages("q".into(), vec![message]));
    };
    assert!(w.ask_as(1000, receive.clone()).is_none());
    assert_eq!(w.rooms("q"), [900], "nothing is known");
    deliver(&mut w, "x", 1 << 20);
    assert_eq!(w.rooms("q"), [0], "it was served");
    assert!(w.ask_as(1000, receive.clone()).is_none());
    assert!(w.ask_as(1000, receive.clone()).is_none());
    assert_eq!(w.rooms("q"), [7, 7]);
    deliver(&mut w, "y", 10);
    assert_eq!(w.rooms("q"), [887], "small ones: all that the one who still waits has asked for");
}

#[test]
fn a_full_disk_takes_no_messages_of_a_broker_and_still_gives_it_its_own() {
    let mut w = World::with_broker("messages", 4);
    w.full(true);
    let receive = |wait_ms| Call::ReceiveMessage { queue: "q".into(), max: 3, wait_ms, lease_ms: 10_000 };
    assert!(matches!(w.ask(receive(0)), Ok(Reply::ReceivedMessages(none)) if none.is_empty()));
    assert!(w.ask_as(1000, receive(60_000)).is_none());
    assert!(w.rooms("q").is_empty());
    w.broker(Said::Messages("q".into(), vec![incoming("x", None)]));
    assert_eq!(w.leased.len(), 0);
    w.full(false);
    assert_eq!((w.leased.len(), w.taken()), (1, 1));
    assert!(w.ask_as(1000, Call::Publish { queue: "q".into(), message: message("y") }).is_none());
    w.full(true);
    assert!(w.orders.iter().any(|o| matches!(o, Order::Forward(..))), "what it has leaves the store");
}
