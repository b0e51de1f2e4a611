//! Egress: what `reply_to` is told, the history queue, and answers that wait for a broker.
use super::brokers::number;
use super::*;
use crate::orchestrator::link::{Order, Said};
use reeve_protocol::api::QueueSettings;
use serde_json::{Value, json};
use std::collections::BTreeMap;

const OUTBOX: &str = ".replies:fast";

/// Messages of a queue that have a row, in order: headers and body.
fn messages(w: &World, queue: &str) -> Vec<(Value, Value)> {
    let row = |fact: &Fact| match fact {
        Fact::MessageAdded(row) if &*row.queue == queue => {
            Some((serde_json::from_str(&row.headers).unwrap(), serde_json::from_slice(&row.body).unwrap()))
        }
        _ => None,
    };
    w.facts.iter().filter_map(row).collect()
}

fn told(to: &str) -> JobSpec {
    JobSpec {
        queue: Some("q".into()),
        reply_to: Some(to.into()),
        correlation_id: Some("c-1".into()),
        ..spec()
    }
}

/// A consumer takes the next job of `q`, and says that it is done.
fn consume(w: &mut World, result: Option<Value>) {
    let take = Call::ReceiveMessage { queue: "q".into(), max: 1, wait_ms: 0, lease_ms: 10_000 };
    let Ok(Reply::ReceivedJobs(items)) = w.ask(take) else { panic!() };
    let request = Box::new(LeaseRequest { lease: items[0].2.clone(), result, ..LeaseRequest::default() });
    w.ask(Call::Settle { queue: "q".into(), how: Settle::Ack, request }).unwrap();
}

#[test]
fn every_change_of_state_and_the_result_become_messages_in_the_step_that_makes_them_true() {
    let mut w = World::new();
    w.submit(told("answers"));
    consume(&mut w, Some(json!({"y": 2})));
    let all = messages(&w, "answers");
    let states: Vec<_> = all.iter().map(|(_, body)| body["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["QUEUED", "RUNNING", "COMPLETED"]);
    assert!(all.iter().all(|(headers, body)| headers["correlation_id"] == "c-1" && body["job"] == 1));
    assert!(all[1].1["result"].is_null());
    let end = &all[2].1;
    assert_eq!(
        (&end["result"], &end["cause"]["kind"], &end["correlation_id"]),
        (&json!({"y": 2}), &json!("ok"), &json!("c-1"))
    );
    for (_, body) in &all {
        let seq = body["seq"].as_u64().unwrap();
        let event = w.events.iter().find(|e| e.seq == seq).unwrap();
        assert_eq!(
            (event.id, event.to.map(|s| s.to_string())),
            (Some(1), body["state"].as_str().map(str::to_owned))
        );
    }
    let Ok(Reply::Count(count)) = w.ask(Call::CountQueueMessages { queue: "answers".into() }) else {
        panic!()
    };
    assert_eq!(count.ready, 3);
}

#[test]
fn tasks_of_an_array_are_told_one_by_one_and_the_array_at_its_end() {
    let mut w = World::new();
    let array = Some(ArraySpec { from: 1, to: 3, limit: None });
    w.submit(JobSpec { array, ..told("answers") });
    consume(&mut w, None);
    w.ask(Call::CancelJob { target: target(1), grace_ms: None, stored: Stored::default() }).unwrap();
    let all: Vec<Value> = messages(&w, "answers").into_iter().map(|(_, body)| body).collect();
    let seen: Vec<_> = all
        .iter()
        .map(|b| (b["index"].as_u64(), b["indices"].as_str(), b["state"].as_str().unwrap()))
        .collect();
    assert_eq!(
        seen,
        [
            (None, None, "QUEUED"),
            (Some(1), None, "RUNNING"),
            (Some(1), None, "COMPLETED"),
            (None, Some("2-3"), "CANCELLED"),
            (None, None, "CANCELLED"),
        ]
    );
    assert_eq!(
        all[4]["counts"],
        json!({"QUEUED": 0, "RUNNING": 0, "COMPLETED": 1, "FAILED": 0, "CANCELLED": 2})
    );
}

#[test]
fn whoever_waits_for_an_answer_has_it_with_the_step_that_makes_it() {
    let mut w = World::new();
    let settings = QueueSettings { kind: Some("messages".into()), ..QueueSettings::default() };
    w.ask(Call::SetQueue { queue: "answers".into(), settings, ingress_uid: None }).unwrap();
    let wait = Call::ReceiveMessage { queue: "answers".into(), max: 5, wait_ms: 5_000, lease_ms: 10_000 };
    assert!(w.ask_as(1000, wait).is_none());
    w.submit(told("answers"));
    assert_eq!(w.leased.len(), 1);
}

#[test]
fn a_queue_for_answers_holds_messages_from_the_submit_on() {
    let mut w = World::new();
    w.submit(JobSpec { queue: Some("jobs".into()), ..spec() });
    let submit = |to: &str| Call::Submit { spec: Box::new(told(to)), key: None };
    assert_eq!(code(w.ask(submit("jobs"))), "queue-kind");
    w.ask(submit("answers")).unwrap();
    let job = Call::Submit { spec: Box::new(JobSpec { queue: Some("answers".into()), ..spec() }), key: None };
    assert_eq!(code(w.ask(job)), "queue-kind");
}

#[test]
fn answers_wait_for_their_broker_and_what_has_no_place_there_is_counted() {
    let mut w = World::new();
    w.submit(told("backend:fast#topics/a.b"));
    let all = messages(&w, OUTBOX);
    assert_eq!((&all[0].0["reeve-to"], &all[0].0["correlation_id"]), (&json!("topics/a.b"), &json!("c-1")));
    assert!(w.orders.iter().any(|o| matches!(o, Order::Use(queue, _) if &**queue == OUTBOX)));
    let forwarded = |w: &World| {
        let ids = |o: &Order| match o {
            Order::Forward(queue, list) if &**queue == OUTBOX => {
                Some(list.iter().map(number).collect::<Vec<_>>())
            }
            _ => None,
        };
        w.orders.iter().filter_map(ids).flatten().collect::<Vec<u64>>()
    };
    assert!(forwarded(&w).is_empty(), "it is not there yet");
    let broker =
        |w: &mut World, said: Said| w.feed(vec![Input::Broker { name: "fast".into(), said: vec![said] }]);
    let up = || Said::Up { version: "v".into(), capabilities: BTreeMap::new(), confirms_fast: true };
    broker(&mut w, up());
    let ids = forwarded(&w);
    assert_eq!(ids.len(), 1);
    // The connection was lost before the word that it has it: once more.
    broker(&mut w, Said::Down("gone".into()));
    let Ok(Reply::Stats(stats)) = w.ask(Call::GetQueueStats) else { panic!() };
    let waits = |a: &reeve_protocol::api::Alert| a.text.contains("1 answers to jobs wait for it: gone");
    assert!(stats.alerts.iter().any(waits), "{:?}", stats.alerts);
    broker(&mut w, up());
    assert_eq!(forwarded(&w), [ids[0], ids[0]]);
    broker(&mut w, Said::Unroutable(1, "no queue takes it".into()));
    broker(&mut w, Said::Confirmed(OUTBOX.into(), ids.clone()));
    assert!(w.facts.contains(&Fact::MessageGone(ids[0])));
    let Ok(Reply::Stats(stats)) = w.ask(Call::GetQueueStats) else { panic!() };
    assert!(
        stats.alerts.iter().any(|a| a.text.contains("1 answers to jobs had no place")),
        "{:?}",
        stats.alerts
    );
    assert!(stats.queues.iter().all(|q| q.name != OUTBOX), "nobody sees it");
}

#[test]
fn the_record_of_every_end_goes_into_the_history_queue() {
    let mut w = World::new();
    w.core.keep_history_in(Some("history".into()));
    w.submit(JobSpec { queue: Some("q".into()), name: Some("train".into()), ..spec() });
    consume(&mut w, Some(json!(7)));
    w.submit(JobSpec {
        queue: Some("q".into()),
        array: Some(ArraySpec { from: 1, to: 2, limit: None }),
        ..spec()
    });
    w.ask(Call::CancelJob { target: target(2), grace_ms: None, stored: Stored::default() }).unwrap();
    let all: Vec<Value> = messages(&w, "history").into_iter().map(|(_, body)| body).collect();
    assert_eq!(all.len(), 2, "one per job, tasks of an array are counted");
    let first = &all[0];
    assert_eq!(
        (&first["job"], &first["state"], &first["result"]),
        (&json!(1), &json!("COMPLETED"), &json!(7))
    );
    assert_eq!(
        (&first["spec"]["name"], &first["owner"], &first["queue"]),
        (&json!("train"), &json!("u1000"), &json!("q"))
    );
    assert!(first["ended_at"].is_string() && first["started_at"].is_string(), "{first}");
    assert_eq!((&all[1]["job"], &all[1]["counts"]["CANCELLED"]), (&json!(2), &json!(2)));
}

#[test]
fn a_job_that_has_somebody_to_tell_is_never_parked_and_parked_ones_have_a_record_when_they_are_removed() {
    let mut w = World::new();
    w.core.set_window(1);
    w.core.keep_history_in(Some("history".into()));
    for _ in 0..3 {
        w.submit(JobSpec { queue: Some("q".into()), ..spec() });
    }
    w.submit(told("answers"));
    assert_eq!(messages(&w, "answers").len(), 1, "it is told that it waits");
    assert!(w.core.queues.find_parked(3).is_some() && w.core.queues.find_parked(4).is_none());
    let clean = Call::CleanQueue { queue: "q".into(), ids: None, dead: false, dry_run: false };
    assert!(w.ask(clean).is_ok());
    let records = messages(&w, "history");
    let mut jobs: Vec<_> = records.iter().map(|(_, body)| body["job"].as_u64().unwrap()).collect();
    jobs.sort_unstable();
    assert_eq!(jobs, [1, 2, 3, 4]);
    let parked = records.iter().find(|(_, body)| body["job"] == 3).map(|(_, body)| body.clone()).unwrap();
    assert!(parked["state"] == "CANCELLED" && parked["created_at"].is_string(), "{parked}");
    assert_eq!(parked["spec"]["queue"], "q", "it was read before it was removed");
    assert_eq!(messages(&w, "answers").last().unwrap().1["state"], "CANCELLED");
}
