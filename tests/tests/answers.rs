//! Programs that know nothing of reeve submit jobs and hear what became of them: the examples with the brokers' ordinary
//! clients against real servers, answers that outlive crashes, and the history queue.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]
use reeve_tests::broker::Redis;
use reeve_tests::machine::Coordinator;
use reeve_tests::rabbitmq::RabbitServer;
use reeve_tests::server::Server;
use reeve_tests::{eventually, eventually_or, skip};
use rustix::process::Signal;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The distribution's Python, for which its packages are.
const PYTHON: &str = "/usr/bin/python3";

fn has(module: &str) -> bool {
    let asked = Command::new(PYTHON).args(["-c", &format!("import {module}")]).stderr(Stdio::null()).status();
    asked.is_ok_and(|status| status.success())
}

fn example(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(path)
}

/// Runs an example to its end: whether it ended well, and what it printed.
fn run(path: &str, words: &[&str], env: (&str, &str)) -> (bool, String) {
    let out =
        Command::new(PYTHON).arg(example(path)).args(words).env(env.0, env.1).stdin(Stdio::null()).output();
    let out = out.unwrap();
    let said = [out.stdout, out.stderr].concat();
    (out.status.success(), String::from_utf8_lossy(&said).into_owned())
}

fn until_usable(server: &Server, name: &str) {
    let show = || server.get(&format!("/v1/queues/{name}")).json();
    eventually_or(
        || show().to_string(),
        || {
            let show = show();
            // Before the first connection there is no trouble yet, and nothing else.
            (show["degraded"].is_null() && show["backend_version"].is_string()).then_some(())
        },
    );
}

fn me(server: &Server) -> String {
    server.get("/v1/whoami").json()["name"].as_str().unwrap().to_owned()
}

/// Submits through an example and waits there: every change of state comes, with the result at the end.
fn jobs_are_answered(server: &Server, path: &str, env: (&str, &str)) {
    let (fine, said) = eventually("a place for jobs of others", || {
        let ran = run(path, &["--wait", "sh", "-c", "echo 42 >$REEVE_RESULT"], env);
        Some(ran).filter(|(_, said)| !said.contains("there is no queue"))
    });
    assert!(fine, "{said}");
    let changes: Vec<&str> = said.lines().skip(1).collect();
    assert_eq!(changes, ["QUEUED null", "RUNNING null", "COMPLETED 42"], "{said}");
    let (fine, said) = run(path, &["--wait", "sh", "-c", "exit 3"], env);
    assert!(!fine && said.trim().ends_with("FAILED null"), "{said}");
    for _ in 0..2 {
        assert!(run(path, &["--id", "order-17", "true"], env).0);
    }
    let orders = || server.get("/v1/jobs?filter=queue:work%20state:completed").json();
    let n = || orders()["items"].as_array().unwrap().len();
    eventually_or(|| orders().to_string(), || (n() == 2).then_some(()));
}

#[test]
fn programs_with_pika_submit_jobs_and_read_their_results() {
    const TEST: &str = "programs_with_pika_submit_jobs_and_read_their_results";
    if !has("pika") {
        return skip(TEST, "no python3-pika");
    }
    let Some(rabbit) = RabbitServer::start() else { return skip(TEST, "no rabbitmq-server") };
    let server = Server::start();
    let url = rabbit.url();
    server.ok(&["queue", "set", "work", "--backend", &url, "--ingress", &format!("as={}", me(&server))]);
    server.ok(&["queue", "set", "msgs", "--kind", "messages", "--backend", &url]);
    until_usable(&server, "work");
    until_usable(&server, "msgs");
    let amqp = format!("{}/%2f", url.replace("amqp://", "amqp://guest:guest@"));
    jobs_are_answered(&server, "rabbitmq/jobs.py", ("AMQP_URL", &amqp));
    // What has no place to go to is counted and shown, and holds nothing up.
    for place in ["/nobody-has-this", "no-such-exchange/key"] {
        let to = format!("backend:{url}#{place}");
        server.ok(&["submit", "--reply-to", &to, "--correlation-id", "7", "--wait", "--", "true"]);
    }
    let alerts = || server.get("/v1/stats").json()["alerts"].to_string();
    eventually_or(alerts, || alerts().contains("answers to jobs had no place").then_some(()));
    messages_go_both_ways(&server, "rabbitmq/messages.py", ("AMQP_URL", &amqp));
    command_line_clients(&server, &amqp);
}

fn messages_go_both_ways(server: &Server, path: &str, env: (&str, &str)) {
    assert!(run(path, &["publish", r#"{"n":1}"#], env).0);
    let got = server.ok(&["queue", "receive", "msgs", "--wait", "30s", "--ack", "--json"]);
    assert!(got.contains(r#""body":{"n":1}"#), "{got}");
    server.ok(&["queue", "publish", "msgs", r#"{"n":2}"#]);
    let mut said = String::new();
    eventually("the example takes it", || {
        said.push_str(&run(path, &["consume"], env).1);
        (said.contains("took") && said.contains(r#"{"n":2}"#)).then_some(())
    });
}

/// The lines of docs/queues.md.
fn command_line_clients(server: &Server, amqp: &str) {
    let tool =
        |name: &str, words: &[&str]| Command::new(name).arg(format!("--url={amqp}")).args(words).output();
    let spec = r#"{"command":["true"],"name":"by-hand"}"#;
    let words = ["-r", "reeve:q:work:in", "-p", "-H", "message_id: hand-1", "-b", spec];
    let Ok(out) = tool("amqp-publish", &words) else { return skip("command_line_clients", "no amqp-tools") };
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let jobs = || server.get("/v1/jobs?filter=name:by-hand%20state:completed").json();
    eventually_or(|| jobs().to_string(), || (jobs()["items"].as_array().unwrap().len() == 1).then_some(()));
    server.ok(&["queue", "publish", "msgs", "for amqp-get"]);
    eventually("amqp-get takes it", || {
        let out = tool("amqp-get", &["-q", "reeve:q:msgs"]).unwrap();
        String::from_utf8_lossy(&out.stdout).contains("for amqp-get").then_some(())
    });
}

#[test]
fn programs_with_redis_py_submit_jobs_and_read_their_results() {
    const TEST: &str = "programs_with_redis_py_submit_jobs_and_read_their_results";
    if !has("redis") {
        return skip(TEST, "no python3-redis");
    }
    let Some(redis) = Redis::start() else { return skip(TEST, "no redis-server") };
    let server = Server::start();
    let url = redis.url();
    server.ok(&["queue", "set", "work", "--backend", &url, "--ingress", &format!("as={}", me(&server))]);
    server.ok(&["queue", "set", "msgs", "--kind", "messages", "--backend", &url]);
    until_usable(&server, "work");
    until_usable(&server, "msgs");
    jobs_are_answered(&server, "redis/jobs.py", ("REDIS_URL", &url));
    messages_go_both_ways(&server, "redis/messages.py", ("REDIS_URL", &url));
}

#[test]
fn answers_outlive_the_broker_and_the_coordinator() {
    let Some(mut redis) = Redis::start() else {
        return skip("answers_outlive_the_broker_and_the_coordinator", "no redis-server");
    };
    let mut server = Server::start();
    let to = format!("backend:{}#answers", redis.url());
    let submit = ["submit", "--reply-to", &to, "--correlation-id", "c-1", "--wait", "--", "true"];
    server.ok(&submit);
    let lie = |redis: &Redis, n: &str| redis.cli(&["xlen", "answers"]) == n;
    eventually("three changes came", || lie(&redis, "3").then_some(()));
    redis.kill();
    server.ok(&submit);
    server.signal(Signal::KILL);
    server.up();
    redis.up();
    // This Redis keeps what it had, or begins anew: either way the three that were not given to it come.
    let range = || redis.cli(&["xrange", "answers", "-", "+"]);
    eventually_or(range, || range().contains(r#""job":2"#).then_some(()));
    let ended = |range: &str| range.lines().any(|l| l.contains(r#""job":2"#) && l.contains("COMPLETED"));
    eventually_or(range, || ended(&range()).then_some(()));
    assert!(range().contains("c-1"), "{}", range());
    // A key that is no stream takes nothing, and holds nothing up.
    redis.cli(&["set", "text", "x"]);
    let wrong = format!("backend:{}#text", redis.url());
    server.ok(&["submit", "--reply-to", &wrong, "--wait", "--", "true"]);
    let alerts = || server.get("/v1/stats").json()["alerts"].to_string();
    eventually_or(alerts, || alerts().contains("no stream").then_some(()));
    server.ok(&submit);
    eventually_or(range, || range().contains(r#""job":4"#).then_some(()));
    let unknown = server.fails(&["submit", "--reply-to", "backend:nowhere#x", "--", "true"]).1;
    assert!(unknown.contains("no backend nowhere"), "{unknown}");
}

#[test]
fn answers_and_the_history_are_messages_of_queues_here() {
    let base = tempfile::Builder::new().prefix("reeve-test-").tempdir().unwrap();
    let mut coordinator = Coordinator::init(base);
    coordinator.env.push(("REEVE_HISTORY_QUEUE".to_owned(), "history".to_owned()));
    coordinator.run("127.0.0.1:0", &[]);
    let reeve = |words: &[&str]| {
        let out = coordinator.reeve(words);
        assert!(out.status.success(), "{words:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    reeve(&["submit", "--reply-to", "answers", "--correlation-id", "c-1", "--name", "gone", "--", "true"]);
    reeve(&["cancel", "1"]);
    let taken = |queue: &str| -> Value {
        let all = reeve(&["queue", "receive", queue, "--max", "10", "--ack", "--json"]);
        serde_json::from_str(&all).unwrap()
    };
    let answers = taken("answers");
    let states: Vec<_> =
        answers["items"].as_array().unwrap().iter().map(|m| m["body"]["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["QUEUED", "CANCELLED"], "{answers}");
    assert_eq!(answers["items"][1]["headers"]["correlation_id"], "c-1");
    let history = taken("history");
    let record = &history["items"][0]["body"];
    assert_eq!(
        (&record["job"], &record["state"], &record["spec"]["name"]),
        (&1.into(), &"CANCELLED".into(), &"gone".into()),
        "{history}"
    );
}
