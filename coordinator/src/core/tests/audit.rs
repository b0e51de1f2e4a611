//! Who asked for what: one line for each change that was answered, in the step that answers it.
use super::*;

fn lines(w: &World) -> Vec<(&'static str, &str, Option<&str>)> {
    w.audit.iter().map(|row| (row.call, row.object.as_str(), row.refused.as_deref())).collect()
}

#[test]
fn every_answered_change_has_one_line_and_reads_have_none() {
    let mut w = World::with_machine(1);
    w.submit(spec());
    w.ask(Call::ListMachines).unwrap();
    w.ask(Call::Why { target: target(1), stored: Stored::default() }).unwrap();
    w.ask(Call::HoldJob { target: target(1), hold: true, stored: Stored::default() }).ok();
    let cancel = Call::CancelJob { target: target(1), grace_ms: None, stored: Stored::default() };
    w.ask(cancel.clone()).unwrap();
    w.ask(Call::CancelJob { target: target(9), grace_ms: None, stored: Stored::default() }).unwrap_err();
    assert_eq!(lines(&w), [("submit", "job:1", None), ("cancel_job", "job:1", None),]);
    assert!(w.audit.iter().all(|row| row.uid == Some(1000) && &*row.name == "u1000"));
}

#[test]
fn a_batch_has_one_line_with_its_range_and_a_repeat_none() {
    let mut w = World::with_machine(1);
    let specs = (0..1_000).map(|_| (spec(), None)).collect();
    w.ask(Call::SubmitMany { specs, atomic: true }).unwrap();
    let key = Some(crate::input::Key { key: "k".into(), digest: "d".into() });
    let again = Call::Submit { spec: Box::new(spec()), key };
    w.ask(again.clone()).unwrap();
    assert!(matches!(w.ask(again), Ok(Reply::Submitted(_, true))));
    assert_eq!(lines(&w), [("submit", "jobs:1-1000", None), ("submit", "job:1001", None)]);
}

#[test]
fn a_receiver_that_waited_has_its_line_when_it_is_given_something_and_none_when_it_went_away() {
    let mut w = World::new();
    let message = |key| {
        Box::new(NewMessage {
            kind: 1,
            body: Arc::from(*b"x"),
            headers: "{}".into(),
            priority: 0,
            delay_ms: 0,
            ttl_ms: None,
            key,
        })
    };
    let receive = Call::ReceiveMessage { queue: "q".into(), max: 1, wait_ms: 10_000, lease_ms: 60_000 };
    w.ask(Call::Publish { queue: "q".into(), message: message(None) }).unwrap();
    assert!(w.ask_as(1000, receive.clone()).is_none(), "messages are read back after the commit");
    assert_eq!(lines(&w)[1], ("receive_message", "queue:q messages:1", None));
    assert!(w.ask_as(1000, receive.clone()).is_none(), "it waits");
    w.feed(vec![Input::Gone(w.ticket)]);
    assert!(w.ask_as(1001, receive.clone()).is_none(), "another waits");
    assert_eq!(w.audit.len(), 2);
    w.ask(Call::Publish { queue: "q".into(), message: message(None) }).unwrap();
    let found: Vec<_> = w.audit[2..].iter().map(|row| (row.call, row.uid)).collect();
    assert!(found.contains(&("receive_message", Some(1001))) && found.len() == 2, "{found:?}");
    w.ask_as(1000, receive);
    w.wait(10_001);
    assert_eq!(w.audit.len(), 4, "one that got nothing changed nothing");
}

#[test]
fn what_was_refused_is_noted_within_bounds() {
    let mut w = World::new();
    let away = |uid| Input::Refused {
        caller: Caller::new(uid, "eve"),
        object: "POST /v1/jobs".into(),
        code: "single-user".into(),
    };
    w.feed((0..500).map(|_| away(1001)).collect());
    let written = w.audit.len();
    assert!((1..=60).contains(&written), "{written}");
    w.pass(61_000);
    w.feed(vec![away(1002)]);
    let last = w.audit.last().unwrap();
    assert_eq!((last.uid, last.unwritten as usize), (Some(1002), 500 - written));
}
