//! Messages that go to a broker without a row: who hears what, and when the store takes them after all.
use super::brokers::{incoming, number, plain};
use super::*;
use crate::orchestrator::link::{Forwarded, Order, Said};

fn publish(texts: &[&str]) -> Call {
    Call::PublishMany { queue: "q".into(), messages: texts.iter().map(|t| plain(t)).collect() }
}

fn up() -> Said {
    Said::Up { version: "v".into(), capabilities: BTreeMap::new(), confirms_fast: true }
}

impl World {
    /// Publishes without a key: the ticket that waits.
    fn passes(&mut self, texts: &[&str]) -> Ticket {
        assert!(self.ask_as(1000, publish(texts)).is_none());
        self.ticket
    }

    fn heard(&mut self, ticket: Ticket) -> Option<usize> {
        match self.answers.remove(&ticket)? {
            Ok(Reply::PublishedMany(results, _)) => Some(results.iter().filter(|r| r.is_ok()).count()),
            other => panic!("{other:?}"),
        }
    }

    /// Messages that got a row, and those whose row went away.
    fn rows(&mut self) -> (Vec<u64>, Vec<u64>) {
        let (mut added, mut gone) = (vec![], vec![]);
        for fact in std::mem::take(&mut self.facts) {
            match fact {
                Fact::MessageAdded(row) => added.push(row.id),
                Fact::MessageGone(id) => gone.push(id),
                _ => {}
            }
        }
        (added, gone)
    }
}

#[test]
fn a_message_that_the_broker_confirms_never_has_a_row_and_its_publisher_hears_then() {
    let mut w = World::with_broker("messages", 0);
    w.facts.clear();
    let ticket = w.passes(&["a", "b"]);
    let orders = std::mem::take(&mut w.orders);
    let given =
        orders.iter().find_map(|o| if let Order::Forward(_, m) = o { Some(m) } else { None }).unwrap();
    assert!(given.iter().all(|m| matches!(m, Forwarded::Whole(_))), "{given:?}");
    let ids: Vec<u64> = given.iter().map(number).collect();
    let used = |f: &Fact| matches!(f, Fact::MessageNumbersUsed(n) if *n > ids[1]);
    assert!(w.facts.iter().any(used), "before it leaves: a restart gives no number twice");
    w.broker(Said::Confirmed("q".into(), vec![ids[0]]));
    assert_eq!(w.heard(ticket), None, "the second is nowhere yet");
    w.broker(Said::Confirmed("q".into(), vec![ids[1]]));
    assert_eq!(w.heard(ticket), Some(2));
    assert_eq!(w.rows(), (vec![], vec![]));
    assert_eq!((w.core.queues.get("q").unwrap().depth, w.events.last().unwrap().count), (2, Some(2)));
    assert_eq!(w.audit.last().unwrap().call, "publish");
}

#[test]
fn a_broker_that_does_not_confirm_in_time_costs_one_publisher_half_a_second_and_nobody_else() {
    let mut w = World::with_broker("messages", 0);
    let first = w.passes(&["a"]);
    let id = w.forwarded()[0];
    w.wait(501);
    assert_eq!((w.heard(first), w.rows()), (Some(1), (vec![id], vec![])));
    let Ok(Reply::PublishedMany(..)) = w.ask(publish(&["b"])) else { panic!("stored at once") };
    let second = w.forwarded();
    w.broker(Said::Confirmed("q".into(), [vec![id], second].concat()));
    assert_eq!(w.rows().1.len(), 2, "both had rows");
    let third = w.passes(&["c"]);
    assert_eq!(w.heard(third), None, "it answers again: the next passes");
}

#[test]
fn what_passes_when_the_broker_or_the_queue_is_lost_is_the_stores_and_given_again() {
    for lost in [Said::Down("gone".into()), Said::Trouble("q".into(), Some("full".into()))] {
        let mut w = World::with_broker("messages", 0);
        let ticket = w.passes(&["a", "b"]);
        let ids = w.forwarded();
        w.broker(Said::Confirmed("q".into(), vec![ids[0]]));
        w.rows();
        w.broker(lost.clone());
        assert_eq!((w.heard(ticket), w.rows()), (Some(2), (vec![ids[1]], vec![])));
        w.orders.clear();
        w.broker(up());
        w.broker(Said::Trouble("q".into(), None));
        assert_eq!(w.forwarded(), [ids[1]]);
        w.broker(Said::Confirmed("q".into(), vec![ids[1]]));
        assert_eq!(w.rows(), (vec![], vec![ids[1]]));
    }
}

#[test]
fn a_publisher_that_goes_away_leaves_its_message_its_event_and_its_line_of_the_audit() {
    let mut w = World::with_broker("messages", 0);
    let ticket = w.passes(&["a"]);
    let ids = w.forwarded();
    w.feed(vec![Input::Gone(ticket)]);
    let before = w.audit.len();
    w.broker(Said::Confirmed("q".into(), ids));
    assert_eq!((w.audit.len(), w.events.last().unwrap().what.as_deref()), (before + 1, Some("published")));
}

#[test]
fn what_overtakes_its_confirmation_is_answered_and_handed_out_once() {
    let mut w = World::with_broker("messages", 0);
    let ticket = w.passes(&["a"]);
    let ids = w.forwarded();
    assert!(w.take(5_000).is_none());
    w.broker(Said::Messages("q".into(), vec![incoming("1-0", Some(ids[0]))]));
    assert_eq!((w.heard(ticket), w.leased.len()), (Some(1), 1));
    w.broker(Said::Confirmed("q".into(), ids));
    assert_eq!((w.rows().1, w.core.queues.get("q").unwrap().depth), (vec![], 0), "it is leased");
}

#[test]
fn clean_move_and_migrate_meet_what_passes_as_rows() {
    let clean = Call::CleanQueue { queue: "q".into(), ids: None, dead: false, dry_run: false };
    let moved = Call::MoveQueue { from: "q".into(), to: "r".into(), ids: Some(vec![]), dry_run: false };
    let migrated = Call::MigrateQueue { queue: "q".into(), to: "local".into() };
    for (call, holds) in [(clean, 1), (moved, 1), (migrated, 2)] {
        let mut w = World::with_broker("messages", 0);
        // One on its way, and one that waits behind as many as may be on their way.
        let ticket = w.passes(&vec!["a"; crate::orchestrator::link::OUTGOING]);
        let behind = w.passes(&["b"]);
        w.ask(call.clone()).unwrap();
        assert!(w.heard(ticket).is_some() && w.heard(behind).is_some(), "{call:?}");
        let (added, _) = w.rows();
        assert_eq!(added.len(), crate::orchestrator::link::OUTGOING + 1);
        assert!(w.ask(publish(&["c"])).is_ok(), "{holds} {call:?}: it is stored");
    }
}

#[test]
fn a_key_a_delay_and_a_route_want_the_store_and_a_life_that_ends_on_the_way_is_told_as_published() {
    let mut w = World::with_broker("messages", 0);
    let delayed = NewMessage { delay_ms: 1_000, ..plain("a") };
    assert!(w.ask(Call::Publish { queue: "q".into(), message: Box::new(delayed) }).is_ok());
    let route = Route { name: "all".into(), queues: vec!["q".into()], ..Route::default() };
    w.ask(Call::PutRoutes { routes: vec![route] }).unwrap();
    let routed = Call::PublishRouted { labels: BTreeMap::new(), message: Box::new(plain("a")) };
    assert!(w.ask(routed).is_ok());
    let all = w.forwarded();
    w.broker(Said::Confirmed("q".into(), all));
    w.passes(&vec!["a"; crate::orchestrator::link::OUTGOING]);
    let short = NewMessage { ttl_ms: Some(100), ..plain("b") };
    let call = Call::PublishMany { queue: "q".into(), messages: vec![short] };
    assert!(w.ask_as(1000, call).is_none());
    let ticket = w.ticket;
    w.wait(101);
    assert_eq!(w.heard(ticket), Some(1));
    assert!(w.events.iter().any(|e| e.what.as_deref() == Some("expired")));
}
