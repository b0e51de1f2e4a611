//! Clients that send what no client sends. Each gets an honest refusal (status, code, hint; no inside of the coordinator)
//! or its connection closed; the next client is served, nothing is lost, memory stays.
//!
//! Rows of the catalogue of bad input (A1 to A40) in the table: A1 to A3, A6 to A23, A26 to A30, A34, A37, A39, A40; by hand:
//! A4, A5, A31 to A33. Elsewhere: A24, A25 `api.rs`; A35 `coordinator/src/api/server.rs`; A36, A38 wait for roles and
//! secrets. Where this version answers otherwise than the catalogue wished, the table says what it answers: nesting is
//! cut at 128 (A8), a thing that no machine can run is accepted with a reason (A21), a limit above the bound is refused
//! (A28), a filter is a value and never SQL (A29).
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]
use reeve_tests::evil::rss;
use reeve_tests::h2;
use reeve_tests::http::{self, Answer};
use reeve_tests::machine::Coordinator;
use reeve_tests::{PATIENCE, eventually, skip};
use serde_json::Value;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// The coordinator answers, and takes a job.
fn serves(c: &Coordinator, after: &str) {
    assert_eq!(http::get(&c.socket(), "/v1/health").status, 200, "after {after}");
    let held = http::post(&c.socket(), "/v1/jobs", r#"{"command":["true"],"hold":true}"#);
    assert_eq!(held.status, 201, "after {after}: {}", held.text());
}

fn pid(c: &Coordinator) -> u32 {
    c.daemon.as_ref().unwrap().pid()
}

/// A refusal as it has to be.
fn is_honest(c: &Coordinator, what: &str, answer: &Answer) -> Value {
    let head = answer.head.to_ascii_lowercase();
    assert!(
        head.contains("content-type: application/problem+json"),
        "{what}: {} {}",
        answer.head,
        answer.text()
    );
    let problem = answer.json();
    assert_eq!(problem["status"], answer.status, "{what}: {problem}");
    for field in ["code", "hint", "detail", "title"] {
        assert!(
            problem[field].as_str().is_some_and(|text| !text.is_empty()),
            "{what}: no {field}: {problem}"
        );
    }
    let text = answer.text();
    assert!(text.len() < 3000, "{what}: {} bytes", text.len());
    let data = c.data().display().to_string();
    for inside in [data.as_str(), "/src/", ".rs:", "SELECT", "sqlite", "panicked", "backtrace"] {
        assert!(!text.contains(inside), "{what} shows {inside}: {text}");
    }
    let bad = |c: char| reeve_protocol::text::is_hostile(c) || c == '\n';
    assert!(!problem["detail"].as_str().unwrap().chars().any(bad), "{what}: {problem}");
    problem
}

/// What is asked, and the status and code it must get. A body is JSON; `None`: nothing is sent.
type Case = (&'static str, String, Option<Vec<u8>>, u16, &'static str);

fn case(method: &'static str, path: &str, body: Option<&str>, status: u16, code: &'static str) -> Case {
    (method, path.to_owned(), body.map(|b| b.as_bytes().to_vec()), status, code)
}

fn submit(body: &str, status: u16, code: &'static str) -> Case {
    case("POST", "/v1/jobs", Some(body), status, code)
}

fn bytes(body: &[u8], code: &'static str) -> Case {
    ("POST", "/v1/jobs".to_owned(), Some(body.to_vec()), 400, code)
}

/// `{"command":["true"],FIELD}`.
fn with(field: &str, code: &'static str) -> Case {
    submit(&format!(r#"{{"command":["true"],{field}}}"#), 400, code)
}

fn bodies() -> Vec<Case> {
    [syntax(), numbers(), words(), lists()].concat()
}

fn syntax() -> Vec<Case> {
    vec![
        submit("", 400, "body-required"),
        submit("  \n ", 400, "body-required"),
        submit("{", 400, "json-syntax"),
        submit("{}x", 400, "json-syntax"),
        submit("null", 400, "bad-value"),
        submit("7", 400, "bad-value"),
        submit("\"text\"", 400, "bad-value"),
        bytes(b"{\"command\":[\"\xff\xfe\"]}", "json-syntax"),
        bytes(b"\xff\xfe{\x00}\x00", "json-syntax"),
        bytes(b"\xef\xbb\xbf{}", "json-syntax"),
        submit(&"[".repeat(10_000), 400, "bad-value"),
        submit(&format!("{{\"payload\":{}", "[".repeat(10_000)), 400, "json-syntax"),
        submit(
            &format!(
                "{{\"command\":[\"x\"],\"payload\":{}1{}}}",
                "{\"a\":".repeat(10_000),
                "}".repeat(10_000)
            ),
            400,
            "json-syntax",
        ),
        submit(&format!("[{}\"\"]", "\"\",".repeat(300_000)), 400, "bad-value"),
        submit(r#"{"command":["true"],"queue":"a","queue":"b"}"#, 400, "duplicate-field"),
        submit(r#"{"command":["true"],"priorty":1}"#, 400, "unknown-field"),
        submit(&format!(r#"{{"command":["true"],"{}":1}}"#, "x".repeat(100_000)), 400, "unknown-field"),
        submit(r#"{"command":["true"],"\u001b[2J\u202e":1}"#, 400, "unknown-field"),
    ]
}

fn numbers() -> Vec<Case> {
    vec![
        with(r#""timeout_s":1e400"#, "json-syntax"),
        with(r#""timeout_s":NaN"#, "json-syntax"),
        with(r#""timeout_s":Infinity"#, "json-syntax"),
        with(r#""timeout_s":"NaN""#, "bad-value"),
        with(r#""timeout_s":-0"#, "out-of-range"),
        with(r#""timeout_s":0"#, "out-of-range"),
        with(r#""timeout_s":-5"#, "out-of-range"),
        with(r#""timeout_s":1e300"#, "out-of-range"),
        with(r#""delay_s":-0.001"#, "out-of-range"),
        with(r#""expires_s":0"#, "out-of-range"),
        with(r#""lost_after_s":1"#, "out-of-range"),
        with(r#""lost_after_s":"soon""#, "bad-value"),
        with(r#""priority":18446744073709551616"#, "bad-value"),
        with(r#""priority":1.5"#, "bad-value"),
        with(r#""priority":2147483647"#, "out-of-range"),
        with(r#""retries":-1"#, "bad-value"),
        with(r#""retries":1000000000"#, "out-of-range"),
        with(r#""at":"+1000000-01-01T00:00:00Z""#, "bad-value"),
        with(r#""at":"2026-01-01T00:00:00""#, "bad-value"),
        with(r#""at":5"#, "bad-value"),
    ]
}

fn words() -> Vec<Case> {
    vec![
        with(r#""name":"""#, "bad-name"),
        with(r#""name":"   ""#, "bad-name"),
        with(&format!(r#""name":"{}""#, "n".repeat(257)), "bad-name"),
        with(r#""name":"a\u0000b""#, "bad-name"),
        with(r#""name":"a\nb""#, "bad-name"),
        with(r#""name":"\u001b]0;x\u0007""#, "bad-name"),
        with(r#""name":"\u202e""#, "bad-name"),
        with(r#""name":"\ud800""#, "json-syntax"),
        with(r#""queue":"../../etc""#, "bad-name"),
        with(r#""queue":"-x""#, "bad-name"),
        with(r#""queue":"a b""#, "bad-name"),
        with(&format!(r#""queue":"{}""#, "q".repeat(129)), "bad-name"),
        with(r#""labels":{"a\n":"b"}"#, "bad-name"),
        with(r#""labels":{"a":"\u001b[31m"}"#, "bad-name"),
    ]
}

fn lists() -> Vec<Case> {
    vec![
        submit(r#"{"command":[]}"#, 400, "bad-command"),
        submit(r#"{"command":[""]}"#, 400, "bad-command"),
        submit(r#"{"command":["a\u0000b"]}"#, 400, "bad-command"),
        submit(r#"{"command":"true"}"#, 400, "bad-value"),
        submit(&format!(r#"{{"command":["{}"]}}"#, "x".repeat(131_072)), 413, "too-large"),
        submit(&format!(r#"{{"command":["x"{}]}}"#, ",\"yyyyyyy\"".repeat(90_000)), 413, "too-large"),
        with(r#""env":{"":"x"}"#, "bad-env"),
        with(r#""env":{"A=B":"x"}"#, "bad-env"),
        with(r#""env":{"A":"x\u0000"}"#, "bad-env"),
        with(r#""env":{"REEVE_JOB_ID":"1"}"#, "bad-env"),
        with(r#""cwd":"relative""#, "bad-value"),
        with(r#""cwd":"/a\u0000b""#, "bad-value"),
        with(&format!(r#""cwd":"/{}""#, "d".repeat(5000)), "bad-value"),
        with(r#""run_as":"root\n""#, "bad-name"),
        with(r#""run_as":"""#, "bad-name"),
        with(&format!(r#""run_as":"{}""#, "u".repeat(300)), "bad-name"),
        with(r#""resources":{"cpus":-1}"#, "out-of-range"),
        with(r#""resources":{"memory_bytes":-1}"#, "bad-value"),
        with(r#""resources":{"memory_bytes":18446744073709551615}"#, "out-of-range"),
        with(r#""resources":{"gpus":0.5}"#, "out-of-range"),
        with(r#""resources":{"cores":1}"#, "unknown-field"),
        with(r#""array":{"from":5,"to":1}"#, "out-of-range"),
        with(r#""array":{"from":0,"to":4294967295}"#, "out-of-range"),
        with(r#""array":{"from":0,"to":9,"limit":0}"#, "out-of-range"),
        with(r#""array":{"from":-1,"to":9}"#, "bad-value"),
        submit(r#"[{"command":["true"]},{"command":[]}]"#, 400, "bad-command"),
        submit("[]", 400, "body-required"),
    ]
}

/// A path that is no path of an id: each in every place where an id can stand.
const IDS: [&str; 16] = [
    "x",
    "-1",
    "0",
    "7.x",
    "7[",
    "9-5",
    "%00",
    "%1b%5b2J",
    "..%2f..%2fetc%2fpasswd",
    "%2e%2e",
    "18446744073709551616",
    "99999999999999999999999999",
    "1%20OR%201=1",
    "7;DROP",
    "@",
    "@%0a",
];

fn paths() -> Vec<Case> {
    let mut cases = vec![
        case("GET", "/", None, 404, "unknown-path"),
        case("GET", "/v1/../etc/passwd", None, 404, "unknown-path"),
        case("GET", "/v1/jobs/../../etc/passwd", None, 404, "unknown-path"),
        case("GET", "//v1/jobs", None, 404, "unknown-path"),
        case("GET", "/v1/jobs/%ff", None, 404, "unknown-path"),
        case("BREW", "/v1/jobs", None, 405, "method-not-allowed"),
        case("TRACE", "/v1/jobs", None, 405, "method-not-allowed"),
        case("PUT", "/v1/jobs/1", Some("{}"), 405, "method-not-allowed"),
        case("GET", "/v1/jobs?limit=-1", None, 400, "bad-value"),
        case("GET", "/v1/jobs?limit=1000000000", None, 400, "out-of-range"),
        case("GET", "/v1/jobs?limit=5&limit=5", None, 400, "duplicate-field"),
        case("GET", "/v1/jobs?cursor=AAAA", None, 400, "bad-cursor"),
        case("GET", "/v1/jobs?cursor=%00%1b", None, 400, "bad-cursor"),
        case("GET", "/v1/jobs?filter=%1b%5b2J:", None, 400, "bad-filter"),
        case("GET", "/v1/jobs?filter=exit:99999999999", None, 400, "bad-filter"),
        case("GET", "/v1/jobs?filter=id:18446744073709551615", None, 400, "bad-filter"),
        case("GET", &format!("/v1/jobs?filter={}", "a".repeat(9000)), None, 400, "bad-filter"),
        case("GET", "/v1/jobs?sort=name", None, 400, "unknown-parameter"),
        case("GET", "/v1/events?from=-1", None, 400, "bad-value"),
        case("GET", "/v1/events?from=18446744073709551615", None, 400, "out-of-range"),
        case("GET", "/v1/events?follow=maybe", None, 400, "bad-value"),
        case("GET", "/v1/jobs/1?wait_s=NaN", None, 400, "out-of-range"),
        case("GET", "/v1/jobs/1?wait_s=-1", None, 400, "out-of-range"),
        case("GET", "/v1/jobs/1/logs?attempt=0", None, 400, "out-of-range"),
        case("GET", "/v1/jobs/1/logs?attempt=4294967295", None, 404, "not-found"),
        case("GET", "/v1/jobs/1/logs?from=18446744073709551615", None, 400, "out-of-range"),
        case("GET", "/v1/jobs/1/logs?stream=stdin", None, 400, "bad-value"),
        case("GET", "/v1/jobs/999999999999999999", None, 404, "not-found"),
        case("POST", "/v1/jobs/999999/cancel", Some("{}"), 404, "not-found"),
        case("POST", "/v1/jobs/1/cancel", Some("{\"force\":true}"), 400, "unknown-field"),
        case("POST", "/v1/jobs/1/status", Some("{\"progress\":1e300}"), 400, "out-of-range"),
        case("POST", "/v1/jobs/1/status", Some("{\"state\":\"DONE\"}"), 400, "bad-value"),
        case("POST", "/v1/jobs/register", Some("{\"id\":\"\\u001b\",\"definition\":{}}"), 400, "bad-key"),
        case("GET", "/v1/plans/x", None, 404, "not-found"),
        case("GET", "/v1/plans/18446744073709551615", None, 404, "not-found"),
        case("POST", "/v1/plans/18446744073709551615/run", Some("{}"), 404, "not-found"),
        case("POST", "/v1/plans", Some("{\"action\":\"explode\",\"filter\":\"\"}"), 400, "bad-value"),
        case("POST", "/v1/views", Some("{\"of\":\"secrets\"}"), 400, "bad-value"),
        case("GET", "/v1/queues/nowhere/count", None, 404, "unknown-queue"),
        case("POST", "/v1/queues/nowhere/receive", Some("{}"), 404, "unknown-queue"),
        case("POST", "/v1/queues/%1b/messages", Some("{\"body\":1}"), 400, "bad-name"),
        case("PUT", "/v1/queues/q", Some("{\"weight\":1e300}"), 400, "bad-value"),
        case("PUT", "/v1/queues/q", Some("{\"backend\":\"redis://u:secret@h/\"}"), 501, "not-yet"),
        case("GET", "/v1/machines/nobody", None, 404, "not-found"),
        case("POST", "/v1/machines/token", Some("{\"ttl_s\":1e300}"), 400, "out-of-range"),
        case("POST", "/v1/machines/token", Some("{\"ttl_s\":-1}"), 400, "out-of-range"),
        case("GET", "/v1/workers/nobody", None, 404, "not-found"),
    ];
    for id in IDS {
        for (method, rest) in [("GET", ""), ("GET", "/logs"), ("GET", "/why"), ("POST", "/cancel")] {
            // Zero is refused as an id like any other word; nothing of it reaches the store.
            cases.push(case(
                method,
                &format!("/v1/jobs/{id}{rest}"),
                (method == "POST").then_some("{}"),
                400,
                "bad-id",
            ));
        }
    }
    cases
}

#[test]
fn every_mistake_is_told_honestly_and_costs_nobody_anything() {
    let c = Coordinator::start("127.0.0.1:0");
    serves(&c, "the start");
    let jobs = || http::get(&c.socket(), "/v1/jobs?limit=500").json()["items"].clone();
    let (before, memory) = (jobs(), rss(pid(&c)));
    let mut wrong = Vec::new();
    for (method, path, body, status, code) in bodies().into_iter().chain(paths()) {
        let what: String =
            format!("{method} {path} {}", String::from_utf8_lossy(body.as_deref().unwrap_or(b"")));
        let what: String = what.chars().take(160).collect();
        let body = body.unwrap_or_default();
        let kind = if method == "GET" { "" } else { "content-type: application/json\r\n" };
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: reeve\r\nconnection: close\r\n{kind}content-length: {}\r\n\r\n",
            body.len()
        );
        let answer = http::raw(&c.socket(), &[head.as_bytes(), &body].concat());
        if answer.status < 400 {
            wrong.push(format!("{what}: {} {}", answer.status, answer.text()));
            continue;
        }
        let problem = is_honest(&c, &what, &answer);
        if (answer.status, problem["code"].as_str()) != (status, Some(code)) {
            wrong.push(format!("{what}: {problem}, not {status} {code}"));
        }
    }
    assert!(wrong.is_empty(), "{} answers are not what they should be:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(jobs(), before, "no refused request has left a job");
    let grew = rss(pid(&c)).saturating_sub(memory);
    assert!(grew < 64 << 20, "{grew} bytes more");
    serves(&c, "all mistakes");
}

/// What is not HTTP, or not as HTTP is spoken, and the statuses it may get; 0: closed without an answer.
const BROKEN: [(&str, &str, &[u16]); 21] = [
    (
        "a length and a coding",
        "POST /v1/jobs HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        &[400],
    ),
    ("no HTTP", "hello\r\n\r\n", &[400]),
    ("half a request line", "GET\r\n\r\n", &[400]),
    ("another version", "GET /version HTTP/3.0\r\nhost: x\r\n\r\n", &[400]),
    ("a bad method", "G(T /version HTTP/1.1\r\nhost: x\r\n\r\n", &[400]),
    ("a space in the path", "GET /ver sion HTTP/1.1\r\nhost: x\r\n\r\n", &[400]),
    ("a control character in the path", "GET /\u{1b}[2J HTTP/1.1\r\nhost: x\r\n\r\n", &[400]),
    ("a NUL in a header", "GET /version HTTP/1.1\r\nhost: a\0b\r\n\r\n", &[400]),
    ("a header without a colon", "GET /version HTTP/1.1\r\nhost\r\n\r\n", &[400]),
    ("a space before the colon", "GET /version HTTP/1.1\r\nhost : x\r\n\r\n", &[400]),
    ("a folded header", "GET /version HTTP/1.1\r\nhost: x\r\nx-a: 1\r\n 2\r\n\r\n", &[400]),
    (
        "two lengths",
        "POST /v1/jobs HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}",
        &[400],
    ),
    ("a length of words", "POST /v1/jobs HTTP/1.1\r\nhost: x\r\ncontent-length: two\r\n\r\n{}", &[400]),
    ("a negative length", "POST /v1/jobs HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n{}", &[400]),
    ("a length with a sign", "POST /v1/jobs HTTP/1.1\r\nhost: x\r\ncontent-length: +2\r\n\r\n{}", &[400]),
    (
        "a coding that is not chunked last",
        "POST /v1/jobs HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
        &[400],
    ),
    (
        "a chunk of no number",
        "POST /v1/jobs HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
        &[400],
    ),
    (
        "a chunk of 2^64 bytes",
        "POST /v1/jobs HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n{}\r\n",
        &[400],
    ),
    (
        "a chunk that is longer than it says",
        "POST /v1/jobs HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n1\r\n{}\r\n0\r\n\r\n",
        &[400],
    ),
    ("a tunnel", "CONNECT example.org:443 HTTP/1.1\r\nhost: x\r\n\r\n", &[400, 404, 405]),
    (
        "an upgrade",
        "PATCH /v1/jobs HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        &[400, 405],
    ),
];

#[test]
fn what_is_not_http_is_refused_with_a_body_and_the_connection_closed() {
    let c = Coordinator::start("127.0.0.1:0");
    for (what, request, statuses) in BROKEN {
        let answer = one_answer(&c.socket(), request.as_bytes());
        assert!(statuses.contains(&answer.status), "{what}: {} {}", answer.head, answer.text());
        is_honest(&c, what, &answer);
        serves(&c, what);
    }
    let many: String = (0..2000).map(|n| format!("x-{n}: y\r\n")).collect();
    let cases = [
        (
            "a path of 70 kB",
            format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "p".repeat(70_000)),
            [404, 414, 431],
        ),
        (
            "a header of 70 kB",
            format!("GET /version HTTP/1.1\r\nx: {}\r\n\r\n", "h".repeat(70_000)),
            [431; 3],
        ),
        ("2000 headers", format!("GET /version HTTP/1.1\r\n{many}\r\n"), [431; 3]),
    ];
    for (what, request, statuses) in cases {
        let answer = one_answer(&c.socket(), request.as_bytes());
        assert!(statuses.contains(&answer.status), "{what}: {}", answer.head);
        is_honest(&c, what, &answer);
        serves(&c, what);
    }
    // The first of two requests in one packet is answered before the second is refused.
    let two = "GET /version HTTP/1.1\r\nhost: x\r\n\r\nnonsense\r\n\r\n";
    let all = everything(&c.socket(), two.as_bytes());
    let statuses: Vec<&str> = all.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).take(2).collect();
    assert_eq!(statuses, ["200", "400"], "{all}");
    assert!(all.contains("\"bad-request\""), "{all}");
}

/// Sends, and reads one answer: the connection may stay open after it.
fn one_answer(socket: &Path, request: &[u8]) -> Answer {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let _ = stream.write_all(request);
    let mut all = Vec::new();
    let mut piece = [0; 4096];
    loop {
        if let Some(at) = all.windows(4).position(|w| w == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&all[..at]).into_owned();
            let len = head
                .to_ascii_lowercase()
                .split("content-length: ")
                .nth(1)
                .and_then(|n| n.lines().next().and_then(|n| n.parse::<usize>().ok()));
            if len.is_none_or(|len| all.len() >= at + 4 + len) {
                let status = head.split_whitespace().nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
                return Answer { status, head, body: all[at + 4..].to_vec() };
            }
        }
        match stream.read(&mut piece) {
            Ok(n) if n > 0 => all.extend_from_slice(&piece[..n]),
            _ => {
                return Answer {
                    status: 0,
                    head: String::from_utf8_lossy(&all).into_owned(),
                    body: Vec::new(),
                };
            }
        }
    }
}

/// Sends, and reads until the other side closes.
fn everything(socket: &Path, request: &[u8]) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let _ = stream.write_all(request);
    let mut all = Vec::new();
    let _ = stream.read_to_end(&mut all);
    String::from_utf8_lossy(&all).into_owned()
}

#[test]
fn bodies_beyond_every_bound_are_refused_as_soon_as_that_is_known() {
    let c = Coordinator::start("127.0.0.1:0");
    serves(&c, "the start");
    let memory = rss(pid(&c));
    let head = |rest: &str| {
        format!("POST /v1/jobs HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n{rest}\r\n")
    };
    for len in ["67108865", "9223372036854775807", "18446744073709551614"] {
        let answer = one_answer(&c.socket(), head(&format!("content-length: {len}\r\n")).as_bytes());
        // A length that no number holds is the HTTP library's to refuse.
        let wanted = if len.len() < 20 { (413, Some("too-large")) } else { (431, Some("headers-too-large")) };
        assert_eq!((answer.status, is_honest(&c, len, &answer)["code"].as_str()), wanted);
    }
    // The same without a length: the connection takes no more than the limit.
    let mut stream = UnixStream::connect(c.socket()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(head("transfer-encoding: chunked\r\n").as_bytes()).unwrap();
    let piece = [b"100000\r\n".as_slice(), &vec![b' '; 0x10_0000], b"\r\n"].concat();
    let taken = (0..80).take_while(|_| stream.write_all(&piece).is_ok()).count();
    assert!(taken <= 70, "{taken} MiB were taken");
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 413"), "{answer}");
    // Types and codings that are not taken.
    for (rest, status) in [
        ("content-encoding: gzip\r\ncontent-length: 2\r\n", 415),
        ("transfer-encoding: gzip, chunked\r\n", 400),
        ("idempotency-key: \r\ncontent-length: 2\r\n", 400),
        ("content-length: 2\r\nexpect: 200-maybe\r\n", 400),
    ] {
        let answer = one_answer(&c.socket(), (head(rest) + "{}").as_bytes());
        assert_eq!(answer.status, status, "{rest}: {}", answer.text());
        is_honest(&c, rest, &answer);
    }
    let form = "POST /v1/jobs HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-www-form-urlencoded\r\ncontent-length: 2\r\n\r\n{}";
    assert_eq!(one_answer(&c.socket(), form.as_bytes()).status, 415);
    serves(&c, "large bodies");
    let grew = rss(pid(&c)).saturating_sub(memory);
    assert!(grew < 256 << 20, "{grew} bytes more");
}

#[test]
fn clients_that_dawdle_or_never_read_are_let_go_and_the_next_one_is_served() {
    let c = Coordinator::start("127.0.0.1:0");
    let open = |start: &str| {
        let mut stream = UnixStream::connect(c.socket()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(start.as_bytes()).unwrap();
        stream
    };
    let mut slow: Vec<UnixStream> = (0..50).map(|_| open("GET /version HTTP/1.1\r\nx-slow: ")).collect();
    let mut stalled = open(
        "POST /v1/jobs HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{\"command\"",
    );
    let mut lines = open(
        "POST /v1/jobs HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{\"com\r\n",
    );
    // Never read: followers, and answers to a batch of lines.
    let deaf: Vec<UnixStream> = (0..50)
        .map(|n| {
            let path = ["/v1/events?follow=true&from=0", "/v1/stats?follow=true"][n % 2];
            open(&format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n"))
        })
        .collect();
    let mut batch = open(
        "POST /v1/jobs HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-ndjson\r\ncontent-length: 100000000\r\n\r\n",
    );
    batch.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
    let wrong = "{}\n".repeat(50_000);
    let taken = (0..100).take_while(|_| batch.write_all(wrong.as_bytes()).is_ok()).count();
    assert!(taken < 100, "answers that nobody reads hold the questions back");
    serves(&c, "clients that dawdle");
    // A byte now and then does not help.
    let dripping = std::thread::spawn(move || {
        eventually("slow headers to be given up", || {
            slow.retain_mut(|stream| stream.write_all(b"y").is_ok());
            slow.is_empty().then_some(())
        });
    });
    let mut answer = String::new();
    let _ = stalled.read_to_string(&mut answer);
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("\"request-timeout\""), "{answer}");
    let mut answer = String::new();
    let _ = lines.read_to_string(&mut answer);
    assert!(answer.contains("request-timeout"), "{answer}");
    dripping.join().unwrap();
    serves(&c, "all of it");
    assert!(rss(pid(&c)) < 400 << 20, "{} bytes", rss(pid(&c)));
    drop(deaf);
}

#[test]
fn floods_of_http_2_end_their_own_connection_at_most() {
    let c = Coordinator::start("127.0.0.1:0");
    serves(&c, "the start");
    let memory = rss(pid(&c));
    let ids = || (0..).map(|n: u32| 2 * n + 1);
    let opened = |n: usize| -> Vec<u8> {
        ids().take(n).flat_map(|id| h2::frame(h2::HEADERS, h2::END, id, h2::GET_VERSION)).collect()
    };
    // One honest request, so that the bytes below are known to be what they should be.
    let mut honest = h2::connect(&c.socket(), &[]);
    honest.write_all(&opened(1)).unwrap();
    let answer = h2::read_until(&mut honest, b"\"api\"");
    assert!(answer.windows(5).any(|w| w == b"\"api\""), "{}", String::from_utf8_lossy(&answer));

    let reset: Vec<u8> = ids()
        .take(20_000)
        .flat_map(|id| {
            [
                h2::frame(h2::HEADERS, h2::END, id, h2::GET_VERSION),
                h2::frame(h2::RST_STREAM, 0, id, &[0, 0, 0, 8]),
            ]
            .concat()
        })
        .collect();
    let endless = [
        h2::frame(h2::HEADERS, 1, 1, h2::GET_VERSION),
        h2::frame(h2::CONTINUATION, 0, 1, &b"\x40\x01a\x01b".repeat(3000)).repeat(500),
    ]
    .concat();
    let settings = h2::frame(h2::SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 1].repeat(2000)).repeat(300);
    let followers: Vec<u8> =
        ids().take(1000).flat_map(|id| h2::frame(h2::HEADERS, h2::END, id, h2::FOLLOW)).collect();
    let large = h2::frame(h2::HEADERS, h2::END, 1, &b"\x40\x01a\x7f\x00".repeat(10));
    for (what, bytes) in [
        ("rapid reset", reset),
        ("headers without end", endless),
        ("settings", settings),
        ("pings", h2::frame(h2::PING, 0, 0, &[7; 8]).repeat(100_000)),
        ("streams", opened(5000)),
        ("followers without a window", followers),
        ("a frame of 16 MiB", vec![0xff; 100_000]),
        ("a stream of the other side", h2::frame(h2::HEADERS, h2::END, 2, h2::GET_VERSION)),
        ("a block that is none", large),
        ("only the preface", Vec::new()),
    ] {
        // No window: nothing that is asked for can be sent.
        let mut stream = h2::connect(&c.socket(), &[0, 4, 0, 0, 0, 0]);
        stream.set_nonblocking(false).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
        let _ = stream.write_all(&bytes);
        serves(&c, what);
    }
    let grew = rss(pid(&c)).saturating_sub(memory);
    assert!(grew < 128 << 20, "{grew} bytes more");
}

#[test]
fn ten_thousand_silent_connections_keep_nobody_out() {
    const NAME: &str = "ten_thousand_silent_connections_keep_nobody_out";
    const MANY: usize = 10_000;
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let now = getrlimit(Resource::Nofile);
    let wanted = MANY as u64 + 500;
    if now.maximum.is_some_and(|most| most < wanted) {
        return skip(NAME, &format!("at most {:?} open files are allowed here", now.maximum));
    }
    // For this process: the coordinator never holds more than a thousand.
    let current = Some(now.current.unwrap_or(wanted).max(wanted));
    setrlimit(Resource::Nofile, Rlimit { current, maximum: now.maximum }).unwrap();
    let c = Coordinator::start("127.0.0.1:0");
    serves(&c, "the start");
    let memory = rss(pid(&c));
    let mut silent = Vec::with_capacity(MANY);
    for n in 0..MANY {
        silent.push(UnixStream::connect(c.socket()).unwrap());
        if n % 2500 == 2499 {
            serves(&c, &format!("{n} silent connections"));
        }
    }
    serves(&c, "ten thousand silent connections");
    let grew = rss(pid(&c)).saturating_sub(memory);
    assert!(grew < 128 << 20, "{grew} bytes more");
}
