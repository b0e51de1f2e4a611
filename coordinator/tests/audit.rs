//! Every change that the API acknowledges has exactly one line in the audit: a table over all routes of the running
//! coordinator, so that a route that is not in it fails.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests too")]
use reeve_coordinator::{Config, Ready, init, run};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

struct Head {
    ready: Ready,
    stop: watch::Sender<bool>,
    running: JoinHandle<Result<(), reeve_coordinator::Error>>,
}

impl Head {
    async fn start(dir: &Path) -> Self {
        let config = Config::for_dir(dir.join("data"));
        if !reeve_coordinator::is_initialised(&config) {
            init(&config).unwrap();
        }
        let (stop, shutdown) = watch::channel(false);
        let (tx, ready) = oneshot::channel();
        let running = tokio::spawn(run(config, move |r| drop(tx.send(r.clone())), shutdown));
        Self { ready: ready.await.unwrap(), stop, running }
    }

    async fn stop(self) {
        self.stop.send(true).unwrap();
        self.running.await.unwrap().unwrap();
    }

    /// Status and body of one request. `headers` are whole lines.
    async fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> (u16, String) {
        let mut stream = tokio::net::UnixStream::connect(&self.ready.socket).await.unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}content-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all((head + body).as_bytes()).await.unwrap();
        let mut text = String::new();
        let read = stream.read_to_string(&mut text);
        tokio::time::timeout(Duration::from_mins(1), read).await.expect("an answer within a minute").unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    async fn json(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let headers = if body.is_empty() { "" } else { "content-type: application/json\r\n" };
        let (status, text) = self.ask(method, path, headers, body).await;
        let start = text.find(['{', '[']).unwrap_or_else(|| panic!("{method} {path}: no JSON in {text:?}"));
        let value = serde_json::Deserializer::from_str(&text[start..]).into_iter().next().unwrap().unwrap();
        (status, value)
    }

    /// The audit from a line on.
    async fn audit(&self, from: u64) -> Vec<Value> {
        let (_, list) = self.json("GET", &format!("/v1/audit?from={}&limit=1000", from + 1), "").await;
        list["items"].as_array().unwrap().clone()
    }

    async fn last(&self) -> u64 {
        self.json("GET", "/v1/audit?limit=1", "").await.1["total"]["value"].as_u64().unwrap()
    }
}

/// A route that changes something, a request to it that succeeds, and the line that it leaves. `LEASE` in a body is
/// replaced by the lease that was received last.
struct Row {
    route: &'static str,
    path: &'static str,
    body: &'static str,
    call: &'static str,
    object: &'static str,
}

const fn row(
    route: &'static str,
    path: &'static str,
    body: &'static str,
    call: &'static str,
    object: &'static str,
) -> Row {
    Row { route, path, body, call, object }
}

/// In this order: later rows use what earlier ones made.
const CHANGES: &[Row] = &[
    row("post /v1/jobs", "/v1/jobs", r#"{"command":["true"]}"#, "submit", "job:1"),
    row("post /v1/jobs", "/v1/jobs", r#"[{"command":["true"]},{"command":["true"]}]"#, "submit", "jobs:2-3"),
    row(
        "post /v1/jobs/register",
        "/v1/jobs/register",
        r#"{"id":"mine","cluster_id":1}"#,
        "register_job",
        "job:1 @mine",
    ),
    row("post /v1/jobs/register", "/v1/jobs/register", r#"{"id":"away"}"#, "register_job", "job:4 @away"),
    row(
        "post /v1/jobs/{job}/status",
        "/v1/jobs/4/status",
        r#"{"state":"RUNNING"}"#,
        "update_job_status",
        "job:4",
    ),
    row("post /v1/jobs/{job}/hold", "/v1/jobs/1/hold", "", "hold", "job:1"),
    row("post /v1/jobs/{job}/release", "/v1/jobs/1/release", "", "release", "job:1"),
    row("post /v1/jobs/{job}/cancel", "/v1/jobs/1/cancel", "", "cancel_job", "job:1"),
    row("post /v1/jobs/{job}/restart", "/v1/jobs/1/restart", "", "restart_job", "job:1"),
    row(
        "post /v1/plans",
        "/v1/plans",
        r#"{"action":"hold","ids":["2","3"]}"#,
        "plan",
        "plan:1 hold of 2 jobs",
    ),
    row("post /v1/plans/{plan}/run", "/v1/plans/1/run", "", "bulk_action", "plan:1 hold jobs:2-3"),
    row("put /v1/queues/{queue}", "/v1/queues/vision", r#"{"weight":3}"#, "set_queue", "queue:vision"),
    row("post /v1/queues/{queue}/pause", "/v1/queues/vision/pause", "", "pause_queue", "queue:vision"),
    row("post /v1/queues/{queue}/resume", "/v1/queues/vision/resume", "", "resume_queue", "queue:vision"),
    row(
        "post /v1/queues/{queue}/messages",
        "/v1/queues/m/messages",
        r#"{"body":1}"#,
        "publish",
        "queue:m message:1",
    ),
    row(
        "post /v1/queues/{queue}/messages",
        "/v1/queues/m/messages",
        r#"{"body":2}"#,
        "publish",
        "queue:m message:2",
    ),
    row(
        "post /v1/queues/{queue}/receive",
        "/v1/queues/m/receive",
        r#"{"max":1}"#,
        "receive_message",
        "queue:m messages:1",
    ),
    row(
        "post /v1/queues/{queue}/extend",
        "/v1/queues/m/extend",
        r#"{"lease":"LEASE","lease_s":60}"#,
        "extend",
        "queue:m 1",
    ),
    row("post /v1/queues/{queue}/nack", "/v1/queues/m/nack", r#"{"lease":"LEASE"}"#, "nack", "queue:m 1"),
    row(
        "post /v1/queues/{queue}/receive",
        "/v1/queues/m/receive",
        r#"{"max":1}"#,
        "receive_message",
        "queue:m messages:1",
    ),
    row("post /v1/queues/{queue}/ack", "/v1/queues/m/ack", r#"{"lease":"LEASE"}"#, "ack", "queue:m 1"),
    row(
        "post /v1/queues/{queue}/receive",
        "/v1/queues/m/receive",
        r#"{"max":1}"#,
        "receive_message",
        "queue:m messages:2",
    ),
    row(
        "post /v1/queues/{queue}/nack",
        "/v1/queues/m/nack",
        r#"{"leases":["LEASE","x"]}"#,
        "nack",
        "queue:m, 1 settled, 1 refused",
    ),
    row(
        "post /v1/queues/{queue}/move",
        "/v1/queues/m/move",
        r#"{"to":"m2"}"#,
        "move_queue",
        "queue:m to m2, 1 moved",
    ),
    row(
        "post /v1/queues/{queue}/move",
        "/v1/queues/m2/move",
        r#"{"to":"m"}"#,
        "move_queue",
        "queue:m2 to m, 1 moved",
    ),
    row("post /v1/queues/{queue}/clean", "/v1/queues/m/clean", "", "clean_queue", "queue:m, 1 removed"),
    row(
        "put /v1/workers/{worker}",
        "/v1/workers/w",
        r#"{"spec":{"command":["true"]}}"#,
        "register_worker",
        "worker:w",
    ),
    row(
        "put /v1/workers/{worker}",
        "/v1/workers/bank",
        r#"{"kind":"static","spec":{"command":["cat"],"on":["nowhere"]},"serving":{"protocol":"stdio","replicas":1}}"#,
        "register_worker",
        "worker:bank",
    ),
    row("post /v1/workers/{worker}/launch", "/v1/workers/bank/launch", "{}", "launch_worker", "worker:bank"),
    row(
        "post /v1/workers/{worker}/scale",
        "/v1/workers/bank/scale",
        r#"{"replicas":2}"#,
        "scale_worker",
        "worker:bank",
    ),
    row("post /v1/workers/{worker}/drain", "/v1/workers/bank/drain", "", "drain_worker", "worker:bank"),
    row("post /v1/workers/{worker}/stop", "/v1/workers/bank/stop", "", "stop_worker", "worker:bank"),
    row("delete /v1/workers/{worker}", "/v1/workers/bank", "", "remove_worker", "worker:bank"),
    row(
        "put /v1/routes",
        "/v1/routes",
        r#"{"routes":[{"name":"all","labels":{},"queues":["m"]}]}"#,
        "put_routes",
        "1 routes",
    ),
    row(
        "post /v1/publish",
        "/v1/publish",
        r#"{"labels":{"a":"b"},"message":{"body":3}}"#,
        "publish",
        "by labels: queue:m message:3",
    ),
    row(
        "post /v1/queues/{queue}/dead/return",
        "/v1/queues/m/dead/return",
        "",
        "return_dead",
        "queue:m, 0 returned",
    ),
    row(
        "post /v1/queues/{queue}/migrate",
        "/v1/queues/vision/migrate",
        r#"{"to":"memory"}"#,
        "migrate_queue",
        "queue:vision to memory",
    ),
    row("post /v1/machines/token", "/v1/machines/token", r#"{"ttl_s":60}"#, "machine_token", "token:"),
    row("post /v1/machines/{machine}/cordon", "/v1/machines/lab/cordon", "", "cordon_machine", "machine:lab"),
    row(
        "post /v1/machines/{machine}/uncordon",
        "/v1/machines/lab/uncordon",
        "",
        "uncordon_machine",
        "machine:lab",
    ),
    row(
        "post /v1/machines/{machine}/drain",
        "/v1/machines/lab/drain",
        r#"{"deadline_s":60}"#,
        "drain_machine",
        "machine:lab",
    ),
    row("delete /v1/machines/{machine}", "/v1/machines/lab", "", "remove_machine", "machine:lab"),
];

/// Routes whose method says that they change something, and which do not.
const NO_CHANGE: &[&str] =
    &["post /v1/views", "post /v1/routes/explain", "post /v1/workers/{worker}/requests"];

async fn join(head: &Head, name: &str) {
    let (_, token) = head.json("POST", "/v1/machines/token", "{}").await;
    let token: reeve_protocol::token::Token = token["token"].as_str().unwrap().parse().unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let csr = rcgen::CertificateParams::default().serialize_request(&key).unwrap().der().to_vec();
    let (config, _) = reeve_protocol::quic::joining_config(token.ca_hash.clone()).unwrap();
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let server = reeve_protocol::quic::server_name(&token.cluster);
    let connection = endpoint.connect_with(config, head.ready.listen, &server).unwrap().await.unwrap();
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    let mut bytes = Vec::new();
    let join =
        reeve_protocol::wire::Join { token_id: token.id, secret: token.secret, csr, name: name.into() };
    reeve_protocol::frame::append(reeve_protocol::wire::kind::JOIN, 0, &join, &mut bytes).unwrap();
    send.write_all(&bytes).await.unwrap();
    let answer = recv.read_chunk(4096, true).await.unwrap().unwrap();
    assert_eq!(answer.bytes[4], 22, "JOINED");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_acknowledged_change_of_every_route_has_exactly_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let head = Head::start(dir.path()).await;
    join(&head, "lab").await;
    let mut lease = String::new();
    for row in CHANGES {
        let before = head.last().await;
        let method = row.route.split(' ').next().unwrap().to_uppercase();
        let (status, answer) = head.json(&method, row.path, &row.body.replace("LEASE", &lease)).await;
        assert!((200..300).contains(&status), "{} {}: {status} {answer}", row.route, row.path);
        if let Some(given) = answer["items"][0]["lease"].as_str() {
            lease = given.to_owned();
        }
        let lines = head.audit(before).await;
        assert_eq!(lines.len(), 1, "{} left {lines:?}", row.route);
        let line = &lines[0];
        assert_eq!(line["call"], row.call, "{}", row.route);
        assert!(line["object"].as_str().unwrap().starts_with(row.object), "{}: {line}", row.route);
        assert_eq!((&line["via"], &line["refused"]), (&json!("socket"), &Value::Null));
        assert_eq!(line["uid"], rustix::process::geteuid().as_raw());
    }
    // Every other route: it is known not to change anything, or to be of a later version.
    let (_, api) = head.json("GET", "/v1/openapi.json", "").await;
    for (path, methods) in api["paths"].as_object().unwrap() {
        for (method, described) in methods.as_object().unwrap() {
            let route = format!("{method} {path}");
            let later = described["summary"].as_str().unwrap().contains("not in this version");
            let known = CHANGES.iter().any(|row| row.route == route) || NO_CHANGE.contains(&route.as_str());
            assert!(method == "get" || later || known, "{route} is in neither table of this test");
        }
    }
    head.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_lines_have_one_line_and_repeats_refusals_and_reads_leave_what_they_should() {
    let dir = tempfile::tempdir().unwrap();
    let head = Head::start(dir.path()).await;
    let body = "{\"command\":[\"true\"]}\n".repeat(900);
    let (status, _) = head.ask("POST", "/v1/jobs", "content-type: application/x-ndjson\r\n", &body).await;
    assert_eq!(status, 200);
    let lines = head.audit(0).await;
    // What had arrived together is one group: at most a few, and all 900 are in them.
    let first = lines[0]["object"].as_str().unwrap();
    assert!(lines.len() <= 20 && first.starts_with("jobs:1-"), "{} lines, {first}", lines.len());
    assert!(lines.last().unwrap()["object"].as_str().unwrap().contains("900"));
    let before = head.last().await;
    let body = "{\"body\":1}\n".repeat(900);
    let ndjson = "content-type: application/x-ndjson\r\n";
    let (_, text) = head.ask("POST", "/v1/queues/lines/messages", ndjson, &body).await;
    let lines = head.audit(before).await;
    assert!((1..=20).contains(&lines.len()) && text.contains(r#""done":true"#), "{text}");
    assert!(lines[0]["object"].as_str().unwrap().starts_with("queue:lines messages:1-"), "{}", lines[0]);
    let before = head.last().await;
    let keyed = "content-type: application/json\r\nidempotency-key: k-1\r\n";
    for _ in 0..3 {
        assert!(head.ask("POST", "/v1/jobs", keyed, r#"{"command":["true"]}"#).await.0 < 300);
    }
    let named = "content-type: application/json\r\nx-request-id: r-1\r\n";
    assert_eq!(head.ask("POST", "/v1/jobs/99999/cancel", named, "{}").await.0, 404);
    head.json("GET", "/v1/jobs", "").await;
    // A refusal is answered before it is noted.
    let mut lines = head.audit(before).await;
    let end = std::time::Instant::now() + Duration::from_mins(1);
    while lines.len() < 2 && std::time::Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(5)).await;
        lines = head.audit(before).await;
    }
    let told: Vec<_> = lines.iter().map(|l| (&l["call"], &l["request"], &l["refused"])).collect();
    assert_eq!(
        told,
        [
            (&json!("submit"), &json!("k-1"), &Value::Null),
            (&json!("request"), &json!("r-1"), &json!("not-found")),
        ]
    );
    head.stop().await;
    // What was written is a chain, across a restart too, and a hand in it is found.
    let head = Head::start(dir.path()).await;
    head.json("POST", "/v1/jobs", r#"{"command":["true"]}"#).await;
    let total = head.last().await;
    head.stop().await;
    let data = dir.path().join("data");
    assert_eq!(reeve_coordinator::store::maintain::verify(&data).unwrap().seq, total);
    let db = rusqlite::Connection::open(data.join("reeve.db")).unwrap();
    db.execute("UPDATE audit SET name = 'nobody' WHERE seq = 2", []).unwrap();
    let found = reeve_coordinator::store::maintain::verify(&data).unwrap_err().to_string();
    assert!(found.contains("row 2"), "{found}");
}
