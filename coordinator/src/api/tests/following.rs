//! Answers that go on: events, logs, views.
use super::*;
use crate::net::sessions::Outgoing;
use reeve_protocol::{TaskId, tape};

const JSON: (&str, &str) = ("content-type", "application/json");

#[tokio::test]
async fn events_go_from_the_store_to_what_happens_without_a_gap() {
    let bench = Bench::new();
    for n in 5..=10 {
        bench.fixture.run(&format!("INSERT INTO events VALUES ({n}, 0, 4, '{}');", event_text(n)));
    }
    let mut events = Lines::new(bench.open("GET", "/v1/events?from=7&follow=true", &[], "").await);
    for seq in 7..=10 {
        assert_eq!(events.json().await["seq"], seq);
    }
    for seq in 11..=13 {
        bench.commit(seq, &[]);
        assert_eq!(events.json().await["seq"], seq);
    }
    let all = bench.get("/v1/events").await.lines();
    assert_eq!((all.len(), &all[0]["seq"]), (9, &Value::from(5)));
    let pruned = bench.get("/v1/events?from=4").await;
    assert_eq!((pruned.status, &pruned.json()["code"]), (410, &Value::from("pruned")));
    let stream = bench.ask("GET", "/v1/events?from=13", &[("accept", "text/event-stream")], "").await;
    assert_eq!(stream.header("content-type"), "text/event-stream");
    assert!(stream.text.starts_with("id: 13\ndata: {"), "{}", stream.text);
    let resumed = bench.ask("GET", "/v1/events", &[("last-event-id", "12")], "").await.lines();
    assert_eq!(resumed[0]["seq"], 13);
}

fn piece(stream: u8, text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    tape::append(stream, 1000, text.as_bytes(), &mut out);
    out
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().concat()
}

#[tokio::test]
async fn kept_output_comes_from_the_store_or_a_segment() {
    let bench = Bench::new();
    let small = [piece(1, "out\n"), piece(2, "err\n")].concat();
    let mut writer = bench.segments.begin().unwrap();
    writer.append(&piece(1, "large\n")).unwrap();
    let segment = bench.segments.finish(writer).unwrap();
    bench.fixture.run(&format!(
        "INSERT INTO attempts (job, idx, attempt, machine_id, machine, dispatched_at, ended_at, out_seg, out_off, out_len) VALUES
           (1, -1, 1, 'm', 'gpu-01', 0, 1, NULL, NULL, 0), (6, 2, 2, 'm', 'gpu-09', 0, 1, {}, {}, {});
         INSERT INTO outputs VALUES (1, -1, 1, x'{}');",
        segment.file, segment.offset, segment.len, hex(&small)
    ));
    let whole = bench.get("/v1/jobs/1/logs").await;
    assert_eq!(whole.text, "out\nerr\n");
    assert_eq!((whole.header("reeve-attempt"), whole.header("reeve-state")), ("1", "COMPLETED"));
    assert_eq!(bench.get("/v1/jobs/@mgr-42/logs?stream=stderr").await.text, "err\n");
    assert_eq!(bench.get("/v1/jobs/1/logs?tail=1&follow=true").await.text, "err\n");
    assert_eq!(bench.get("/v1/jobs/6.2/logs").await.text, "large\n");
    let lines = bench.ask("GET", "/v1/jobs/1/logs", &[("accept", "application/x-ndjson")], "").await.lines();
    assert_eq!(
        (lines[1]["text"].as_str(), lines[1]["next"].as_u64()),
        (Some("err\n"), Some(small.len() as u64))
    );
    assert_eq!(bench.get("/v1/jobs/5/logs").await.text, "", "a job that never ran has no output");
}

#[tokio::test]
async fn a_follower_goes_from_the_machine_to_the_store_and_ends_with_the_attempt() {
    let bench = Bench::new();
    bench.fixture.run("INSERT INTO attempts (job, idx, attempt, machine_id, machine, dispatched_at) VALUES (4, -1, 1, 'm1', 'cpu-01', 0)");
    let mut outgoing = bench.sessions.enter("m1", 1);
    bench.sessions.accept("m1", 1);
    let mut log = Lines::new(bench.open("GET", "/v1/jobs/4/logs?follow=true", &[], "").await);
    let Some(Outgoing::Follow { from, into, .. }) = timeout(BOUND, outgoing.recv()).await.unwrap() else {
        panic!("not asked")
    };
    assert_eq!(from, 0);
    into.send(piece(1, "live\n")).await.unwrap();
    assert_eq!(log.next().await.as_deref(), Some("live"));
    let tape = [piece(1, "live\n"), piece(1, "last\n")].concat();
    bench.fixture.run(&format!(
        "UPDATE attempts SET ended_at = 1 WHERE job = 4; INSERT INTO outputs VALUES (4, -1, 1, x'{}')",
        hex(&tape)
    ));
    drop(into);
    bench.commit(11, &[TaskId::single(4)]);
    assert_eq!(log.next().await.as_deref(), Some("last"));
    assert_eq!(log.next().await, None);
}

#[tokio::test]
async fn a_view_sends_a_snapshot_and_then_what_changed() {
    let bench = Bench::new();
    let body = r#"{"of":"jobs","filter":"user:ana","limit":3,"every_ms":100}"#;
    let mut view = Lines::new(bench.open("POST", "/v1/views", &[JSON], body).await);
    let snapshot = view.json().await;
    assert_eq!(
        (snapshot["kind"].as_str(), snapshot["rows"].as_array().unwrap().len()),
        (Some("snapshot"), 3)
    );
    assert_eq!(snapshot["order"], serde_json::json!([[6, null], [5, null], [3, null]]));
    bench.fixture.run("UPDATE jobs SET priority = 9 WHERE id = 5");
    bench.commit(11, &[]);
    let diff = view.json().await;
    assert_eq!(
        (diff["kind"].as_str(), diff["rows"].as_array().unwrap().len(), &diff["rows"][0]["priority"]),
        (Some("diff"), 1, &Value::from(9))
    );
    let tasks =
        bench.open("POST", "/v1/views", &[JSON], r#"{"of":"tasks","id":6,"limit":10,"order":"id"}"#).await;
    assert_eq!(Lines::new(tasks).json().await["order"], serde_json::json!([[6, 1], [6, 2], [6, 3]]));
    let none = bench.post("/v1/views", r#"{"of":"tasks","id":99,"limit":10}"#).await;
    assert_eq!(none.status, 404);
}
