//! Static workers on real binaries: both protocols, every way in, what bad workers do, and what survives what.
#![allow(clippy::unwrap_used, reason = "tests")]

use reeve_tests::bank::Bank;
use reeve_tests::server::Server;
use reeve_tests::{binary, eventually, processes_with};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

#[test]
fn a_bank_is_registered_launched_called_and_given_tracked_jobs() {
    let server = Server::start();
    let bank = Bank::launch(
        &server,
        "bank",
        &["--load", "300", "--steps", "3"],
        &["--replicas", "2", "--max-ongoing", "2"],
    );
    assert_eq!(bank.call(json!({"x": [1, null]})), json!({"x": [1, null]}), "it waits while replicas load");
    let id = server.ok(&["submit", "--worker", "bank", "--payload", "{\"y\":2}"]);
    let job = server.until(&id, "COMPLETED");
    assert_eq!(
        (&job["result"], &job["attempt"], &job["worker"]),
        (&json!({"y": 2}), &json!(1), &json!("bank"))
    );
    assert!(job["attempts"][0]["machine"].is_string());
    let published = server.post("/v1/queues/jobs.bank/messages", r#"{"worker":"bank","payload":5}"#);
    server.until(&published.json()["id"].to_string(), "COMPLETED");
    bank.until(|s| s["ready"] == 2);
    assert_eq!(server.ok(&["ls", "--json"]).matches(".replicas").count(), 0);
    assert_eq!(server.ok(&["ls", "--replicas"]).lines().count(), 3, "a line of head, two of replicas");
    let shown = server.ok(&["worker", "show", "bank"]);
    assert!(shown.contains("2/2") && shown.contains("ready"), "{shown}");
}

#[test]
fn an_http_worker_is_given_a_port_probed_and_asked() {
    let server = Server::start();
    let bank =
        Bank::launch_http(&server, "web", &["--load", "400"], &["--ready", "/health", "--path", "/v1/infer"]);
    assert_eq!(bank.call(json!({"a": 1})), json!({"a": 1}));
    for (payload, code, word) in [
        (json!({"status": 400}), "worker-error", "would not help"),
        (json!({"status": 503}), "worker-error", "may succeed"),
        (json!({"junk": 1}), "worker-lost", "not JSON"),
        (json!({"half": 1}), "worker-lost", "went away"),
        (json!({"big": 300_000}), "worker-lost", "more than 256 KiB"),
    ] {
        let problem = bank.refused(&payload);
        assert_eq!(problem["code"], code, "{payload}: {problem}");
        assert!(problem.to_string().contains(word), "{payload}: {problem}");
    }
    assert_eq!(bank.call(json!({"a": 2})), json!({"a": 2}), "nobody else noticed");
    let started = std::time::Instant::now();
    let problem = bank.refused_within(&json!({"hang": 1}), 0.3);
    assert_eq!(problem["code"], "deadline-exceeded");
    assert!(started.elapsed().as_secs() < 30);
    bank.until(|s| s["outstanding"] == 0);
    assert_eq!(bank.call(json!(3)), json!(3), "its connection was closed, so that its place is free");
}

/// Reference: what a worker may do wrong. Each touches its own request alone.
#[test]
fn nonsense_from_a_worker_touches_only_its_own_request() {
    let server = Server::start();
    let bank = Bank::launch(&server, "bank", &[], &["--max-ongoing", "1"]);
    let problem = bank.refused(&json!({"error": "no such image"}));
    assert_eq!((&problem["code"], &problem["detail"]), (&json!("worker-error"), &json!("no such image")));
    assert_eq!(bank.refused(&json!({"half": 1}))["code"], "worker-lost");
    let large = bank.refused(&json!({"big": 10_000_000}));
    assert!(large["detail"].as_str().unwrap().contains("256 KiB"), "{large}");
    assert_eq!(bank.call(json!({"twice": 1})), json!({"twice": 1}));
    assert_eq!(bank.call(json!(1)), json!(1), "the second answer went to nobody");
    assert_eq!(bank.refused_within(&json!({"wrong_id": 1}), 0.5)["code"], "deadline-exceeded");
    let before = bank.status()["replicas"][0]["attempt"].clone();
    assert_eq!(before, 1, "none of it was worth a restart");
    bank.refused_within(&json!({"junk": 3}), 20.0);
    bank.until(|s| s["replicas"][0]["attempt"] == 2 && s["ready"] == 1);
    assert_eq!(
        bank.call(json!({"stderr": 2_000_000})),
        json!({"stderr": 2_000_000}),
        "its log is capped, not its life"
    );
    let why = server.ok(&["worker", "show", "bank"]);
    assert!(!why.contains('\u{1b}'), "{why}");
}

#[test]
fn a_worker_that_closes_its_output_and_lives_on_is_started_again() {
    let server = Server::start();
    let script = "echo '{\"ready\":true}'; read line; exec >&-; while read line; do :; done; sleep 1000";
    server.ok(&["worker", "register", "mute", "--static", "--retries", "0", "--", "sh", "-c", script]);
    server.ok(&["worker", "launch", "mute"]);
    let id = server.ok(&["submit", "--worker", "mute", "--payload", "1"]);
    let job = server.until(&id, "FAILED");
    assert_eq!(job["cause"]["kind"], "worker_lost", "{job}");
    let view = || server.get("/v1/workers/mute").json();
    reeve_tests::eventually_or(
        || view().to_string(),
        || {
            view()["status"]["replicas"][0]["reason"]
                .as_str()?
                .contains("closed its standard output")
                .then_some(())
        },
    );
}

#[test]
fn a_worker_that_never_loads_or_dies_at_once_says_why() {
    let server = Server::start();
    let stuck = Bank::launch(&server, "stuck", &["--never-ready"], &["--stall", "1s"]);
    stuck.until(|s| s["replicas"][0]["reason"].as_str().is_some_and(|r| r.contains("no progress for 1 s")));
    let dead = Bank::launch(&server, "dead", &["--crash-at-start"], &[]);
    dead.until(|s| {
        s["phase"] == "failed" && s["reason"].as_str().is_some_and(|r| r.contains("no weights here"))
    });
    dead.until(|s| s["replicas"][0]["attempt"].as_u64() > Some(2));
    let none = Bank::register(&server, "none", &["--static"], "stdio", &[]);
    assert_eq!(none.refused(&json!(1))["code"], "no-replicas");
    assert_eq!(server.post("/v1/workers/none/requests", r#"{"payload":1}"#).header("retry-after"), Some("1"));
    let (code, error) = server.fails(&["worker", "call", "nobody", "1"]);
    assert!(code == 1 && error.contains("registered workers"), "{error}");
}

#[test]
fn more_than_may_wait_is_busy_and_what_waits_has_a_deadline() {
    let server = Server::start();
    let bank = Bank::launch(&server, "bank", &[], &["--max-ongoing", "1"]);
    bank.until(|s| s["ready"] == 1);
    let open = server.scratch().join("open");
    std::thread::scope(|scope| {
        let slow: Vec<_> =
            (0..5).map(|_| scope.spawn(|| bank.ask(&json!({"wait_for": open}), 60.0))).collect();
        bank.until(|s| s["calls_waiting"] == 4 && s["outstanding"] == 1);
        let busy = bank.refused(&json!(1));
        assert_eq!((&busy["code"], &busy["status"]), (&json!("busy"), &json!(503)));
        std::fs::write(&open, "").unwrap();
        for call in slow {
            assert_eq!(call.join().unwrap().status, 200);
        }
    });
}

#[test]
fn a_new_version_takes_over_without_an_error_to_a_caller() {
    let server = Server::start();
    let bank = Bank::launch(&server, "bank", &["--tag", "one"], &["--replicas", "2"]);
    bank.until(|s| s["ready"] == 2);
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let callers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut tags = Vec::new();
                    while !done.load(std::sync::atomic::Ordering::Relaxed) {
                        let answer = bank.ask(&json!({"tag": 1, "sleep_ms": 5}), 60.0);
                        assert_eq!(answer.status, 200, "{}", answer.text());
                        tags.push(answer.json()["result"]["tag"].as_str().unwrap().to_owned());
                    }
                    tags
                })
            })
            .collect();
        Bank::register(
            &server,
            "bank",
            &["--static", "--replicas", "2"],
            "stdio",
            &["--tag", "two", "--load", "300"],
        );
        server.ok(&["worker", "launch", "bank"]);
        bank.until(|s| s["version"] == 2 && s["ready"] == 2 && s["replicas"].as_array().unwrap().len() == 2);
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        for caller in callers {
            let tags = caller.join().unwrap();
            let first_two = tags.iter().position(|t| t == "two");
            assert!(tags[0] == "one" || first_two == Some(0), "{tags:?}");
        }
    });
    assert_eq!(bank.call(json!({"tag": 1}))["tag"], "two");
}

/// Jobs whose notes tell how often each was worked on.
fn tracked(server: &Server, n: usize) -> (Vec<String>, std::path::PathBuf) {
    let notes = server.scratch().join("notes");
    let lines: String = (0..n)
        .map(|k| format!("{}\n", json!({"worker": "bank", "payload": {"note": notes, "k": k, "sleep_ms": 20}, "lost_after_s": 30})))
        .collect();
    let file = server.scratch().join("jobs.jsonl");
    std::fs::write(&file, lines).unwrap();
    let answers = server.ok(&["submit", "--file", file.to_str().unwrap(), "--json"]);
    let ids = answers
        .lines()
        .filter_map(|l| Some(serde_json::from_str::<Value>(l).ok()?["id"].as_u64()?.to_string()));
    (ids.collect(), notes)
}

fn all_completed(server: &Server, ids: &[String]) -> u64 {
    let mut attempts = 0;
    for id in ids {
        let job = server.until(id, "COMPLETED");
        let list = job["attempts"].as_array().unwrap();
        assert_eq!(job["attempt"], list.len() as u64, "{job}");
        attempts += list.len() as u64;
        let good = list.iter().filter(|a| a["cause"]["kind"] == "ok").count();
        assert_eq!(good, 1, "exactly one attempt counts: {job}");
        for attempt in &list[..list.len() - 1] {
            let kind = attempt["cause"]["kind"].as_str().unwrap();
            assert!(["worker_lost", "lost"].contains(&kind), "{job}");
        }
        assert!(job["result"]["k"].is_u64(), "{job}");
    }
    attempts
}

fn kill(pid: u32) {
    if let Some(pid) = Pid::from_raw(pid as i32) {
        let _ = kill_process(pid, Signal::KILL);
    }
}

#[test]
fn killed_replicas_lose_no_tracked_job() {
    let server = Server::start();
    let bank =
        Bank::launch(&server, "bank", &["--tag", "victim"], &["--replicas", "2", "--max-ongoing", "4"]);
    bank.until(|s| s["ready"] == 2);
    let (ids, notes) = tracked(&server, 300);
    assert_eq!(ids.len(), 300);
    for round in 0..2 {
        eventually("some work", || {
            std::fs::read_to_string(&notes).ok().filter(|t| t.lines().count() > 10 + 30 * round)
        });
        let victims = processes_with(&["modelbank", "victim"]);
        kill(victims[round % victims.len()]);
    }
    let attempts = all_completed(&server, &ids);
    assert!(attempts > 300, "a kill costs an attempt");
}

#[test]
fn tracked_jobs_outlive_the_coordinator_and_the_agent() {
    let mut server = Server::start();
    Bank::launch(&server, "bank", &[], &["--replicas", "1", "--max-ongoing", "4"]).until(|s| s["ready"] == 1);
    let pid = processes_with(&["modelbank", server.scratch().to_str().unwrap()]);
    let (ids, notes) = tracked(&server, 100);
    eventually("some work", || std::fs::read_to_string(&notes).ok().filter(|t| t.lines().count() > 10));
    // `up` is coordinator and agent in one process: both die at one instruction.
    server.signal(Signal::KILL);
    server.up();
    all_completed(&server, &ids);
    assert_eq!(
        processes_with(&["modelbank", server.scratch().to_str().unwrap()]),
        pid,
        "the replica is the same process"
    );
    let bank = Bank::of(&server, "bank");
    assert_eq!(bank.status()["replicas"][0]["attempt"], 1);
    assert_eq!(bank.call(json!(7)), json!(7));
}

#[test]
fn a_killed_keeper_keeps_its_replicas() {
    let server = Server::start();
    let bank = Bank::launch(&server, "bank", &[], &["--max-ongoing", "4"]);
    bank.until(|s| s["ready"] == 1);
    let (ids, notes) = tracked(&server, 60);
    eventually("some work", || std::fs::read_to_string(&notes).ok().filter(|t| t.lines().count() > 10));
    let lock = find(server.runtime(), "keeper.lock").expect("a keeper's lock");
    let keeper = reeve_tests::lock_holder(&lock).expect("a keeper");
    kill_process(keeper, Signal::KILL).unwrap();
    all_completed(&server, &ids);
    assert_eq!(bank.status()["replicas"][0]["attempt"], 1);
}

fn find(dir: &std::path::Path, name: &str) -> Option<std::path::PathBuf> {
    std::fs::read_dir(dir).ok()?.flatten().find_map(|entry| {
        let path = entry.path();
        if entry.file_name() == name {
            Some(path)
        } else if path.is_dir() {
            find(&path, name)
        } else {
            None
        }
    })
}

#[test]
fn stopping_a_worker_ends_its_whole_tree_and_rm_refuses_before() {
    let server = Server::start();
    let bank = Bank::launch(&server, "bank", &["--tag", "gone"], &[]);
    bank.until(|s| s["ready"] == 1);
    let (_, error) = server.fails(&["worker", "rm", "bank"]);
    assert!(error.contains("replicas") && error.contains("--force"), "{error}");
    server.ok(&["worker", "stop", "bank"]);
    bank.until(|s| s["phase"] == "stopped");
    assert!(processes_with(&["modelbank", "gone", binary("modelbank").to_str().unwrap()]).is_empty());
    server.ok(&["worker", "rm", "bank"]);
    assert_eq!(server.get("/v1/workers/bank").status, 404);
    assert_eq!(server.get("/v1/workers/bank?version=1").status, 200);
}
