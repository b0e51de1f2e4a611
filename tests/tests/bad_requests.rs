//! Requests that are wrong: one table of all mistakes and the code that each is answered with. No answer shows anything of
//! the inside, none leaves anything behind.
//!
//! Rows of the catalogue of bad input (A1 to A40) here: A1 to A3, A7 to A23, A26 to A30, A34, A37, A39, A40; connections that
//! misbehave (A4 to A6, A31 to A33) in `evil_client.rs`; A24, A25 in `api.rs`; A35 in `coordinator/src/api/server.rs`; A36
//! and A38 wait for roles and secrets. Where this version answers otherwise than the catalogue wished, the table says what
//! it answers: nesting is cut at 128 (A8), what no machine can run is accepted with a reason (A21), a limit above the bound
//! is refused (A28), a filter is a value and never SQL (A29).
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]
use reeve_tests::evil::rss;
use reeve_tests::http;
use reeve_tests::machine::Coordinator;
use reeve_tests::refusals::{is_honest, pid, serves};

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
        submit(&"[".repeat(10_000), 400, "json-syntax"),
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
        with(r#""resources":{"gpus":1.5}"#, "out-of-range"),
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

/// RabbitMQ has no room for a name of 256 bytes.
fn long_header() -> String {
    format!(r#"{{"body":1,"headers":{{"{}":"v"}}}}"#, "h".repeat(256))
}

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
        case("POST", "/v1/queues/q/messages", Some(&long_header()), 413, "too-large"),
        case("PUT", "/v1/queues/q", Some("{\"weight\":1e300}"), 400, "bad-value"),
        case("PUT", "/v1/queues/q", Some("{\"backend\":\"redis://u:secret@h/\"}"), 400, "bad-value"),
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
