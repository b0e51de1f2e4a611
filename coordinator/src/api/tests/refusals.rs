//! What is refused, how it is said, and connections that do not behave.
use super::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Method, path, headers, body; status, code, and a part of the hint.
type Case = (
    &'static str,
    &'static str,
    &'static [(&'static str, &'static str)],
    &'static str,
    u16,
    &'static str,
    &'static str,
);

const JSON: &[(&str, &str)] = &[("content-type", "application/json")];
/// Stands for a body above every bound but a batch's.
const LARGE: &str = "large";

const CASES: &[Case] = &[
    ("POST", "/v1/jobs", JSON, "{\"command\":", 400, "json-syntax", "json.tool"),
    ("POST", "/v1/jobs", JSON, r#"{"comand":["x"]}"#, 400, "unknown-field", "command"),
    ("POST", "/v1/jobs", JSON, r#"{"name":"x"}"#, 400, "bad-command", "command"),
    ("POST", "/v1/jobs", JSON, "", 400, "body-required", "JSON"),
    ("POST", "/v1/jobs?dry_rum=true", JSON, "{}", 400, "unknown-parameter", "dry_run"),
    (
        "POST",
        "/v1/jobs",
        &[("content-type", "application/x-www-form-urlencoded")],
        "{}",
        415,
        "media-type",
        "application/json",
    ),
    (
        "POST",
        "/v1/jobs",
        &[("content-type", "application/json"), ("content-encoding", "gzip")],
        "x",
        415,
        "media-type",
        "compression",
    ),
    ("POST", "/v1/jobs", JSON, LARGE, 413, "too-large", ""),
    (
        "POST",
        "/v1/jobs",
        &[("content-type", "application/json"), ("idempotency-key", "")],
        "{}",
        400,
        "bad-key",
        "ASCII",
    ),
    ("POST", "/v1/queues/q/receive", JSON, LARGE, 413, "too-large", "ndjson"),
    ("DELETE", "/v1/jobs", &[], "", 405, "method-not-allowed", "GET, POST"),
    ("GET", "/v1/jbos", &[], "", 404, "unknown-path", "/v1/jobs"),
    ("GET", "/v1/jobs/99", &[], "", 404, "not-found", "reeve ls"),
    ("GET", "/v1/jobs/6.101", &[], "", 404, "not-found", ""),
    ("GET", "/v1/jobs/seven", &[], "", 400, "bad-id", "@NAME"),
    ("GET", "/v1/jobs/1-3", &[], "", 400, "bad-id", "plans"),
    ("GET", "/v1/jobs/6.1-3", &[], "", 400, "bad-id", "6.1"),
    ("GET", "/v1/jobs/@nobody", &[], "", 404, "not-found", ""),
    ("GET", "/v1/jobs/6/logs", &[], "", 400, "bad-id", "6.1"),
    ("GET", "/v1/jobs/1/logs?attempt=9", &[], "", 404, "not-found", ""),
    ("GET", "/v1/jobs?limit=0", &[], "", 400, "out-of-range", ""),
    ("GET", "/v1/jobs?order=size", &[], "", 400, "bad-value", "priority"),
    ("GET", "/v1/jobs?filter=stat%3Afailed", &[], "", 400, "bad-filter", "fields"),
    ("GET", "/v1/jobs?cursor=00", &[], "", 400, "bad-cursor", "next"),
    ("GET", "/v1/jobs/1?wait_s=1e9", &[], "", 400, "out-of-range", ""),
    ("POST", "/v1/queues/q/messages", JSON, "{}", 400, "bad-value", "body_text"),
    ("POST", "/v1/queues/q%20x/messages", JSON, "{}", 400, "bad-name", ""),
    ("POST", "/v1/plans", JSON, r#"{"action":"cancel"}"#, 400, "bad-value", "filter"),
    ("GET", "/v1/plans/5", &[], "", 404, "not-found", "POST /v1/plans"),
    ("POST", "/v1/views", JSON, r#"{"of":"jobs","limit":501}"#, 400, "out-of-range", ""),
    ("POST", "/v1/workers/bank/scale", JSON, "{}", 400, "bad-value", "replicas"),
    ("GET", "/v1/workers/bank?version=1", &[], "", 404, "not-found", "newest"),
];

#[tokio::test]
async fn every_mistake_has_its_status_code_and_hint() {
    let bench = Bench::new();
    let large = format!(r#"{{"command":["{}"]}}"#, "x".repeat(1024 * 1024));
    for (method, path, headers, body, status, code, hint) in CASES {
        let body = if *body == LARGE { &large } else { *body };
        let answer = bench.ask(method, path, headers, body).await;
        let problem = answer.json();
        assert_eq!(
            (answer.status, problem["code"].as_str().unwrap()),
            (*status, *code),
            "{method} {path}: {problem}"
        );
        assert_eq!(answer.header("content-type"), "application/problem+json", "{path}");
        assert!(problem["hint"].as_str().unwrap().contains(hint), "{method} {path}: {problem}");
        assert_eq!(problem["outcome"], "rejected");
    }
    assert!(bench.asked().is_empty(), "the engine was not bothered with any of it");
}

#[tokio::test]
async fn a_request_id_comes_back_and_any_host_will_do() {
    let bench = Bench::new();
    let answer = bench.ask("GET", "/version", &[("x-request-id", "abc-1")], "").await;
    assert_eq!((answer.status, answer.header("x-request-id")), (200, "abc-1"));
    assert_eq!(answer.json()["api"][0], "v1");
    let whoami = bench.get("/v1/whoami").await.json();
    assert_eq!(whoami["uid"], uid());
    assert_eq!(bench.get("/v1/openapi.json").await.json()["openapi"], "3.1.0");
}

async fn raw(bench: &Bench) -> UnixStream {
    UnixStream::connect(bench.socket()).await.unwrap()
}

async fn read_all(stream: &mut UnixStream) -> String {
    let mut text = Vec::new();
    let _ = timeout(BOUND, stream.read_to_end(&mut text)).await.unwrap();
    String::from_utf8_lossy(&text).into_owned()
}

#[tokio::test]
async fn requests_in_pieces_and_several_at_once_are_answered_in_order() {
    let bench = Bench::new();
    let mut stream = raw(&bench).await;
    let text = b"GET /version HTTP/1.1\r\nhost: x\r\n\r\nGET /v1/jobs/1 HTTP/1.1\r\nhost: x\r\n\r\nGET /nowhere HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    for piece in text.chunks(17) {
        stream.write_all(piece).await.unwrap();
        tokio::task::yield_now().await;
    }
    let answers = read_all(&mut stream).await;
    let statuses: Vec<&str> = answers.split("HTTP/1.1 ").skip(1).map(|a| &a[..3]).collect();
    assert_eq!(statuses, ["200", "200", "404"], "{answers}");
}

#[tokio::test]
async fn headers_without_end_are_refused() {
    let bench = Bench::new();
    let mut stream = raw(&bench).await;
    let head = format!("GET /version HTTP/1.1\r\nhost: x\r\nx-large: {}\r\n\r\n", "y".repeat(80 * 1024));
    // The answer may come, and the connection go, before all of it is written.
    let _ = stream.write_all(head.as_bytes()).await;
    assert!(read_all(&mut stream).await.starts_with("HTTP/1.1 431"));
}

#[tokio::test]
async fn http_2_without_tls_is_told_apart() {
    let bench = Bench::new();
    let executor = hyper_util::rt::TokioExecutor::new();
    let stream = TokioIo::new(raw(&bench).await);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, stream).await.unwrap();
    tokio::spawn(connection);
    let request =
        |path| Request::get(format!("http://anything{path}")).body(Full::<Bytes>::default()).unwrap();
    let (one, two) = tokio::join!(
        sender.clone().send_request(request("/version")),
        sender.send_request(request("/v1/jobs/6"))
    );
    assert_eq!((one.unwrap().status().as_u16(), two.unwrap().status().as_u16()), (200, 200));
}

#[tokio::test]
async fn stopping_ends_followers_and_long_polls() {
    let bench = Bench::new();
    let mut events = Lines::new(bench.open("GET", "/v1/events?follow=true", &[], "").await);
    let poll = bench.get("/v1/jobs/4?wait_s=3600");
    let (poll, ()) = tokio::join!(poll, async {
        bench.commit(11, &[]);
        assert_eq!(events.json().await["seq"], 11);
        bench.stop().await;
    });
    assert_eq!(events.next().await, None);
    assert!(poll.status == 200 && poll.json()["state"] == "RUNNING", "the present state is the answer");
}
