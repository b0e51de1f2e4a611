//! What is done: submits of every kind, changes, waiting, bulk, queues.
use super::*;
use crate::input::{Settle, Target};
use reeve_protocol::{Code, TaskId};
use tokio::sync::mpsc;

const KEY: (&str, &str) = ("idempotency-key", "once");
const JSON: (&str, &str) = ("content-type", "application/json");
const LINES: (&str, &str) = ("content-type", "application/x-ndjson");

#[tokio::test]
async fn a_job_is_submitted_and_a_key_makes_it_once() {
    let bench = Bench::new();
    bench.engine(numbering());
    let body = r#"{"command":["true"],"labels":{"b":"1","a":"2"}}"#;
    let first = bench.ask("POST", "/v1/jobs", &[JSON, KEY], body).await;
    assert_eq!((first.status, &first.json()["id"]), (201, &Value::from(100)));
    let Some(Call::Submit { key: Some(key), .. }) = bench.asked().pop() else {
        panic!("not submitted with its key")
    };
    bench.fixture.job(100, "ana", "default", 0, NOW, body);
    bench.fixture.run(&format!(
        "UPDATE jobs SET owner_uid = {}, key = 'once', digest = '{}' WHERE id = 100",
        uid(),
        key.digest
    ));
    let spelt_otherwise = r#"{"labels":{"a":"2","b":"1"},"command":["true"],"name":null}"#;
    let again = bench.ask("POST", "/v1/jobs", &[JSON, KEY], spelt_otherwise).await;
    assert_eq!(
        (again.status, again.header("idempotency-replayed"), &again.json()["id"]),
        (200, "true", &Value::from(100))
    );
    let other = bench.ask("POST", "/v1/jobs", &[JSON, KEY], r#"{"command":["false"]}"#).await;
    assert_eq!((other.status, &other.json()["code"]), (409, &Value::from("key-reused")));
    assert_eq!(bench.asked().len(), 1);
}

#[tokio::test]
async fn an_array_is_taken_whole_or_not_at_all() {
    let bench = Bench::new();
    bench.engine(numbering());
    let many = bench.post("/v1/jobs", r#" [{"command":["a"]},{"command":["b"]}]"#).await;
    assert_eq!(
        (many.status, &many.json()["first"], &many.json()["last"]),
        (201, &Value::from(100), &Value::from(101))
    );
    let bad = bench.post("/v1/jobs", r#"[{"command":["a"]},{"command":["b"],"priority":1.5}]"#).await;
    assert_eq!(bad.status, 400);
    assert!(
        matches!(bench.asked().as_slice(), [Call::SubmitMany { atomic: true, specs }] if specs.len() == 2)
    );
}

#[tokio::test]
async fn lines_are_answered_in_order_with_a_bad_one_between() {
    let bench = Bench::new();
    bench.engine(numbering());
    let mut body: String =
        (0..2500).map(|n| format!("{{\"command\":[\"{n}\"]}}\n")).collect::<Vec<_>>().concat();
    body.insert_str(body.find("{\"command\":[\"1200\"]}").unwrap(), "{\"comand\":1}\n\n");
    let answer = bench.ask("POST", "/v1/jobs", &[LINES], &body).await;
    let lines = answer.lines();
    assert_eq!((answer.status, lines.len()), (200, 2501));
    let mut numbers: Vec<u64> = lines.iter().map(|l| l["line"].as_u64().unwrap()).collect();
    numbers.dedup();
    assert_eq!(numbers.len(), 2501);
    assert!(numbers.is_sorted());
    assert_eq!(lines[1200]["error"]["code"], "unknown-field");
    assert_eq!(lines[1201]["line"], 1203, "the blank line was counted");
    let ids: Vec<u64> = lines.iter().filter_map(|l| l["id"].as_u64()).collect();
    assert_eq!(ids, (100..2600).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_line_is_answered_before_the_next_is_sent() {
    let bench = Bench::new();
    bench.engine(numbering());
    let stream = UnixStream::connect(bench.socket()).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let (tx, mut rx) = mpsc::channel::<Bytes>(1);
    let pieces = futures_util::stream::poll_fn(move |cx| {
        rx.poll_recv(cx).map(|b| b.map(|b| Ok::<_, std::convert::Infallible>(hyper::body::Frame::data(b))))
    });
    let body = http_body_util::StreamBody::new(pieces);
    let request = Request::post("/v1/jobs").header("host", "x").header(LINES.0, LINES.1).body(body).unwrap();
    tx.send(Bytes::from("{\"command\":[\"a\"]}\n{\"comm")).await.unwrap();
    let mut lines = Lines::new(timeout(BOUND, sender.send_request(request)).await.unwrap().unwrap());
    assert_eq!(lines.json().await["id"], 100);
    tx.send(Bytes::from("and\":[\"b\"]}\n")).await.unwrap();
    assert_eq!(lines.json().await["id"], 101);
    tx.send(Bytes::from("{\"command\":[\"no line feed\"]}")).await.unwrap();
    drop(tx);
    assert_eq!(lines.json().await["id"], 102);
    assert_eq!(lines.next().await, None);
}

#[tokio::test]
async fn a_stale_row_is_read_again_and_the_change_goes_through() {
    let bench = Bench::new();
    let tries = Mutex::new(0);
    bench.engine(move |call| {
        let mut tries = tries.lock().unwrap();
        *tries += 1;
        let Call::RestartJob { target, latest: false, stored } = call else { panic!("{call:?}") };
        assert_eq!((target.job, stored.tasks.len()), (6, 1), "an array brings its failed task");
        if *tries < 3 {
            return Err(Problem::new(Code::Unavailable, "read again: the row is older than the engine"));
        }
        let changed = serde_json::json!({"id": 6, "state": "RUNNING", "substate": null, "attempt": 0, "tasks": 2, "seq": 12});
        Ok(Reply::Changed(serde_json::from_value(changed).unwrap()))
    });
    let answer = bench.ask("POST", "/v1/jobs/6/restart", &[], "").await;
    assert_eq!((answer.status, &answer.json()["tasks"]), (200, &Value::from(2)));
    assert_eq!(bench.asked().len(), 3);
}

#[tokio::test]
async fn a_change_names_its_tasks_and_its_grace() {
    let bench = Bench::new();
    bench.engine(|_| Err(Problem::new(Code::WrongState, "it has ended")));
    let answer = bench.post("/v1/jobs/6.2-3/cancel", r#"{"grace_s":1.5,"reason":"tidy"}"#).await;
    assert_eq!((answer.status, &answer.json()["code"]), (409, &Value::from("wrong-state")));
    let Some(Call::CancelJob { target, grace_ms, stored }) = bench.asked().pop() else { panic!("not asked") };
    assert_eq!((target, grace_ms), (Target { job: 6, tasks: Some((2, 3)) }, Some(1500)));
    assert_eq!(stored.tasks.iter().map(|t| t.index).collect::<Vec<_>>(), [2, 3]);
    let alias = bench.post("/v1/jobs/@mgr-42/hold", "{}").await;
    assert_eq!(alias.status, 409);
    assert!(matches!(
        bench.asked().pop(),
        Some(Call::HoldJob { target: Target { job: 1, tasks: None }, hold: true, .. })
    ));
}

#[tokio::test]
async fn a_long_poll_is_answered_by_the_end_of_its_job() {
    let bench = Bench::new();
    let poll = bench.get("/v1/jobs/4?wait_s=3600");
    let finish = async {
        // A commit that ends nothing must not end the poll.
        bench.commit(11, &[]);
        bench.fixture.run("UPDATE jobs SET state = 2, substate = NULL WHERE id = 4");
        bench.commit(12, &[TaskId::single(4)]);
    };
    let (answer, ()) = tokio::join!(poll, finish);
    assert_eq!(answer.json()["state"], "COMPLETED");
    let over = bench.get("/v1/jobs/5?wait_s=0.01").await;
    assert_eq!((over.status, &over.json()["state"]), (200, &Value::from("QUEUED")));
}

#[tokio::test]
async fn lists_page_and_count() {
    let bench = Bench::new();
    let page = bench.get("/v1/jobs?filter=user%3Aana&limit=2&order=id").await.json();
    assert_eq!(
        (page["kind"].as_str(), page["total"]["value"].as_u64(), page["items"].as_array().unwrap().len()),
        (Some("JobList"), Some(5), 2)
    );
    let next = page["next"].as_str().unwrap();
    let second =
        bench.get(&format!("/v1/jobs?filter=user%3Aana&limit=2&order=id&cursor={next}")).await.json();
    assert_eq!(second["items"][0]["id"], 3);
    assert_eq!(second["total"]["value"], 5);
    let tasks = bench.get("/v1/jobs?filter=id%3A6&tasks=true").await.json();
    assert_eq!(tasks["items"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn a_plan_fixes_its_set_and_is_run_once() {
    let bench = Bench::new();
    bench.engine(|call| match call {
        Call::PutPlan { mut plan, ids, .. } => {
            plan.id = 3;
            assert_eq!(ids, ["2-3", "6"]);
            Ok(Reply::Plan(plan))
        }
        Call::BulkAction { jobs, .. } => {
            assert!(jobs.iter().all(|(_, stored)| stored.job.is_some()));
            let each = |(target, _): &(Target, _)| {
                if target.job == 3 { Err(Problem::new(Code::WrongState, "moved on")) } else { Ok(1) }
            };
            Ok(Reply::Bulk(jobs.iter().map(each).collect()))
        }
        Call::PlanDone { plan, .. } => Ok(Reply::Done(plan)),
        other => panic!("{other:?}"),
    });
    let plan = bench.post("/v1/plans", r#"{"action":"restart","filter":"user:ana","except":[5]}"#).await;
    let shown = plan.json();
    assert_eq!((plan.status, shown["kind"].as_str()), (201, Some("BulkPlan")));
    assert_eq!(
        (shown["matched"].as_u64(), shown["will_change"].as_u64()),
        (Some(103), Some(4)),
        "tasks of arrays are counted"
    );
    assert_eq!(shown["no_change"]["completed"], 2);
    let now = crate::clock::now().wall;
    let row = |ran: &str| {
        format!(
            "INSERT OR REPLACE INTO plans VALUES (3, 'restart', {}, 'ana', {now}, {ran}, '{shown}', '[\"2-3\",\"6\"]', NULL, NULL)",
            uid()
        )
    };
    bench.fixture.run(&row("NULL"));
    let result = bench.post("/v1/plans/3/run", "{}").await.json();
    assert_eq!((&result["changed"], &result["skipped"]), (&Value::from(2), &Value::from(1)));
    assert_eq!(result["reasons"]["wrong-state"], 1);
    bench.fixture.run(&row("1"));
    assert_eq!(bench.post("/v1/plans/3/run", "").await.json()["code"], "plan-gone");
    assert_eq!(bench.get("/v1/plans/3").await.json()["action"], "restart");
}

#[tokio::test]
async fn the_fields_of_a_body_say_whether_it_is_a_message_or_a_job() {
    let bench = Bench::new();
    let submit = numbering();
    bench.engine(move |call| match call {
        Call::Publish { queue, .. } => {
            let published = serde_json::json!({"id": "1", "queue": queue, "seq": 11, "created": true});
            Ok(Reply::Published(serde_json::from_value(published).unwrap(), false))
        }
        call => submit(call),
    });
    let message = bench.post("/v1/queues/team%2Fmsgs/messages", r#"{"body":{"a":1}}"#).await;
    assert_eq!((message.status, &message.json()["queue"]), (201, &Value::from("team/msgs")));
    let job = bench.post("/v1/queues/work/messages", r#"{"command":["true"]}"#).await;
    assert_eq!((job.status, &job.json()["id"]), (201, &Value::from(100)));
    assert!(
        matches!(bench.asked().pop(), Some(Call::Submit { spec, .. }) if spec.queue.as_deref() == Some("work"))
    );
    let other = bench.post("/v1/queues/work/messages", r#"{"command":["true"],"queue":"else"}"#).await;
    assert_eq!(other.status, 400);
}

#[tokio::test]
async fn consumers_get_jobs_and_settle_them() {
    let bench = Bench::new();
    bench.engine(|call| match call {
        Call::ReceiveMessage { max, wait_ms, lease_ms, .. } => {
            assert_eq!((max, wait_ms, lease_ms), (2, 1500, 60_000));
            Ok(Reply::ReceivedJobs(vec![(TaskId::single(4), 1, "l1".into(), NOW)]))
        }
        Call::Settle { how: Settle::Ack, request, .. } => Ok(Reply::Settled(request.lease)),
        Call::Peek { .. } => {
            Ok(Reply::Peeked { ids: vec![5, 99], are_messages: false, kept: vec![], broker: None })
        }
        other => panic!("{other:?}"),
    });
    let received = bench.post("/v1/queues/default/receive", r#"{"max":2,"wait_s":1.5}"#).await.json();
    assert_eq!(
        (&received["items"][0]["job"]["id"], &received["items"][0]["lease"]),
        (&Value::from(4), &Value::from("l1"))
    );
    let settled = bench.post("/v1/queues/default/ack", r#"{"lease":"l1","result":{"ok":1}}"#).await.json();
    assert_eq!(settled, serde_json::json!({"ok": true, "id": "l1"}));
    assert_eq!(bench.post("/v1/queues/default/ack", "{}").await.status, 400);
    let peeked = bench.get("/v1/queues/default/peek").await.json();
    assert_eq!(peeked["items"].as_array().unwrap().len(), 1, "what is gone by now is left out");
}

#[tokio::test]
async fn a_token_carries_the_cluster_and_its_secret_is_stored_nowhere() {
    let bench = Bench::new();
    bench.engine(|_| Ok(Reply::Done(1)));
    let answer = bench.post("/v1/machines/token", r#"{"ttl_s":60}"#).await;
    let token: reeve_protocol::token::Token = answer.json()["token"].as_str().unwrap().parse().unwrap();
    assert_eq!((answer.status, token.addresses.as_slice()), (201, &["head:7373".to_owned()][..]));
    let Some(Call::PutToken { id, secret_hash, .. }) = bench.asked().pop() else { panic!("not stored") };
    assert_eq!(
        (id, secret_hash),
        (token.id.clone(), reeve_protocol::token::sha256_hex(token.secret.as_bytes()))
    );
    assert_eq!(bench.post("/v1/machines/token", r#"{"ttl_s":0}"#).await.json()["code"], "out-of-range");
}

#[tokio::test]
async fn queues_and_health_come_from_the_engine() {
    let bench = Bench::new();
    let queue =
        reeve_protocol::api::QueueView { name: "vision".into(), counts: counts(3), ..Default::default() };
    bench.engine(move |call| match call {
        Call::ListQueues => Ok(Reply::Queues(vec![queue.clone()])),
        Call::GetQueueStats => Ok(Reply::Stats(Box::new(reeve_protocol::api::Stats {
            queues: vec![queue.clone()],
            ..Default::default()
        }))),
        Call::ListMachines | Call::Top => Ok(Reply::Machines(Vec::new())),
        other => panic!("{other:?}"),
    });
    assert_eq!(bench.get("/v1/queues").await.json()["items"][0]["counts"]["QUEUED"], 3);
    let missing = bench.get("/v1/queues/vison").await.json();
    assert_eq!(
        (missing["code"].as_str(), missing["hint"].as_str()),
        (Some("unknown-queue"), Some("did you mean \"vision\"?"))
    );
    let health = bench.get("/v1/health").await.json();
    assert_eq!(
        (health["status"].as_str(), health["epoch"].as_u64(), health["seq"].as_u64()),
        (Some("ok"), Some(3), Some(10))
    );
    assert!(health["store_bytes"].as_u64().unwrap() > 0);
    assert!(bench.get("/metrics").await.text.contains("reeve_jobs{queue=\"vision\",state=\"QUEUED\"} 3"));
    let mut stats = Lines::new(bench.open("GET", "/v1/stats?follow=true", &[], "").await);
    assert_eq!(stats.json().await["queues"][0]["name"], "vision");
    bench.commit(11, &[]);
    assert_eq!(stats.json().await["queues"][0]["name"], "vision");
}
