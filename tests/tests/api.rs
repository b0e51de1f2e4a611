//! The API as a script sees it: the seed's sequence, and nonsense of every kind. After each nonsense the coordinator
//! answers as before.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]
use reeve_tests::eventually_or;
use reeve_tests::http::{post, raw, request};
use reeve_tests::server::Server;

#[test]
fn the_seeds_sequence_by_hand() {
    let s = Server::start();
    let submitted = s.post("/v1/jobs", r#"{"command":["detect"],"queue":"vbrain"}"#);
    // Nobody may run it before the consumer: the queue is paused at once, what was handed out is given back by cancel and restart.
    s.post("/v1/queues/vbrain/pause", "{}");
    assert_eq!(submitted.status, 201, "{}", submitted.text());
    s.post("/v1/jobs/1/cancel", "");
    let second = s.post("/v1/jobs", r#"{"command":["detect"],"queue":"consumed"}"#).json()["id"].clone();
    let _ = second;
    let paused = s.post("/v1/queues/work/messages", r#"{"command":["detect"],"hold":true,"name":"detect"}"#);
    assert_eq!(paused.status, 201, "{}", paused.text());
    let id = paused.json()["id"].as_u64().unwrap();
    let named = s.post(
        "/v1/jobs/register",
        &format!(r#"{{"id":"mgr-42","definition":{{"model":"x"}},"cluster_id":{id}}}"#),
    );
    assert!(named.status < 300, "{}", named.text());
    assert_eq!(s.get("/v1/jobs/@mgr-42").json()["id"], id);
    let outside = s.post("/v1/jobs/register", r#"{"id":"outside","definition":{}}"#);
    assert_eq!(outside.status, 201, "{}", outside.text());
    let update = |body: &str| s.post("/v1/jobs/@outside/status", body);
    assert_eq!(update(r#"{"state":"RUNNING"}"#).json()["state"], "RUNNING");
    assert_eq!(update(r#"{"state":"COMPLETED","result":{"found":3}}"#).json()["state"], "COMPLETED");
    assert_eq!(update(r#"{"state":"RUNNING"}"#).code(), "wrong-state");
    assert_eq!(s.get("/v1/jobs/@outside").json()["result"]["found"], 3);
    let failed = s.get("/v1/jobs?filter=state:failed").json();
    assert_eq!(failed["kind"], "JobList");
    let restarted = s.post("/v1/jobs/@outside/restart", "{}");
    assert_eq!(restarted.json()["state"], "QUEUED", "{}", restarted.text());
    let stats = s.get("/v1/stats").json();
    assert!(stats["queues"].as_array().unwrap().iter().any(|q| q["name"] == "work"), "{stats}");
    let plan = s.post("/v1/plans", r#"{"action":"cancel","filter":"queue:work"}"#);
    assert_eq!(plan.json()["will_change"], 1, "{}", plan.text());
    let ran = s.post(&format!("/v1/plans/{}/run", plan.json()["id"]), "{}");
    assert_eq!(ran.json()["changed"], 1, "{}", ran.text());
    assert_eq!(s.post("/v1/workers/bank/launch", "{}").code(), "not-found");
    let worker =
        request(s.socket(), "PUT", "/v1/workers/say", Some(r#"{"spec":{"command":["echo","hello"]}}"#));
    assert!(worker.status < 300, "{}", worker.text());
    let by_worker = s.post("/v1/jobs", r#"{"worker":"say"}"#).json()["id"].to_string();
    s.until(&by_worker, "COMPLETED");
    assert_eq!(s.ok(&["logs", &by_worker]), "hello");
}

#[test]
fn a_consumer_takes_a_job_from_the_queue_the_scheduler_draws_from() {
    let s = Server::start();
    // Larger than the machine: only a consumer can take it.
    let job = s.post("/v1/jobs", r#"{"command":["x"],"queue":"big","resources":{"cpus":4000}}"#);
    assert_eq!(job.status, 201, "{}", job.text());
    // Until the machine has said how large it is, it is only not connected.
    let why = || s.get("/v1/jobs/1/why").text();
    eventually_or(why, || {
        (why().contains("can never") || why().contains("no machine can ever")).then_some(())
    });
    let got = s.post("/v1/queues/big/receive", r#"{"max":1,"wait_s":5}"#).json();
    let lease = got["items"][0]["lease"].as_str().unwrap().to_owned();
    assert_eq!(got["items"][0]["attempt"], 1);
    assert_eq!(s.job("1")["state"], "RUNNING");
    assert!(s.job("1")["machine"].as_str().unwrap().starts_with("consumer:"));
    let done = s.post("/v1/queues/big/ack", &format!(r#"{{"lease":"{lease}","result":{{"ok":true}}}}"#));
    assert_eq!(done.status, 200, "{}", done.text());
    assert_eq!(
        (s.job("1")["state"].clone(), s.job("1")["result"]["ok"].clone()),
        ("COMPLETED".into(), true.into())
    );
    assert_eq!(s.post("/v1/queues/big/ack", &format!(r#"{{"lease":"{lease}"}}"#)).code(), "no-lease");
}

#[test]
fn a_file_of_messages_is_published_and_what_was_received_is_settled_together() {
    let s = Server::start();
    let file = s.scratch().join("messages.ndjson");
    let lines =
        (0..1_500).map(|n| format!("{{\"body\":{n},\"headers\":{{\"k\":\"v\"}}}}\n")).collect::<String>();
    std::fs::write(&file, lines + "{\"bdy\":1}\n").unwrap();
    let file = file.to_str().unwrap();
    for said in ["1,500 published, 1 failed", "line 1501: ", "did you mean \"body\"?"] {
        let words = ["queue", "publish", "many", "--file", file, "--key", "f-1"];
        let (code, text) = s.fails(&words);
        assert!(code == 1 && text.contains(said), "{code} {text}");
    }
    assert_eq!(s.get("/v1/queues/many/count").json()["ready"], 1_500, "the key published once");
    let taken = s.ok(&["queue", "receive", "many", "--max", "1000", "--ack"]);
    assert_eq!(taken.lines().count(), 1_000);
    let held = s.ok(&["queue", "receive", "many", "--max", "3"]);
    let leases: Vec<&str> = held.lines().filter_map(|line| line.split(' ').nth(1)).collect();
    assert_eq!(s.ok(&[&["queue", "ack", "many"], &leases[..]].concat()), "3 settled");
    let (code, text) = s.fails(&[&["queue", "nack", "many"], &leases[..]].concat());
    assert!(code == 1 && text.contains("none of 3 leases"), "{code} {text}");
    assert_eq!(s.get("/v1/queues/many/count").json()["ready"], 497);
}

#[test]
fn waiting_jobs_and_messages_are_moved_by_filter_and_stay_there_after_a_restart() {
    let mut s = Server::start();
    s.ok(&["queue", "set", "slow", "--kind", "jobs"]);
    s.ok(&["queue", "pause", "slow"]);
    for name in ["train", "test", "train"] {
        s.ok(&["submit", "--queue", "slow", "--name", name, "--", "true"]);
    }
    assert_eq!(s.ok(&["queue", "move", "slow", "fast", "-f", "name:train", "--dry-run"]), "2 would be moved");
    assert_eq!(s.ok(&["queue", "move", "slow", "fast", "-f", "name:train"]), "2 moved");
    s.until("1", "COMPLETED");
    s.until("3", "COMPLETED");
    assert_eq!((&s.job("1")["queue"], &s.job("2")["queue"]), (&"fast".into(), &"slow".into()));
    assert_eq!(s.ok(&["queue", "move", "slow", "later"]), "1 moved");
    s.ok(&["queue", "publish", "m", "a", "--header", "k=v"]);
    s.ok(&["queue", "publish", "m", "b"]);
    assert_eq!(s.ok(&["queue", "move", "m", "n", "-f", "header.k=v"]), "1 moved");
    assert_eq!(s.ok(&["queue", "clean", "m", "-f", "text:b"]), "1 removed");
    s.signal(rustix::process::Signal::KILL);
    s.up();
    assert_eq!(s.until("2", "COMPLETED")["queue"], "later");
    assert_eq!(s.job("2")["spec"]["queue"], "later");
    assert_eq!(s.get("/v1/queues/n/count").json()["ready"], 1);
    assert!(s.fails(&["queue", "move", "n", "slow"]).1.contains("holds jobs"));
}

#[test]
fn messages_for_anybody() {
    let s = Server::start();
    assert_eq!(s.post("/v1/queues/msgs/messages", r#"{"body":{"a":1}}"#).status, 201);
    s.ok(&["queue", "publish", "msgs", "plain text"]);
    assert_eq!(s.get("/v1/queues/msgs/count").json()["ready"], 2);
    assert_eq!(s.get("/v1/queues/msgs/peek?limit=5").json()["items"].as_array().unwrap().len(), 2);
    let got = s.post("/v1/queues/msgs/receive", r#"{"max":2}"#).json();
    assert_eq!(got["items"][0]["body"]["a"], 1);
    assert_eq!(got["items"][1]["body_text"], "plain text");
    let lease = got["items"][0]["lease"].as_str().unwrap();
    assert_eq!(s.post("/v1/queues/msgs/nack", &format!(r#"{{"lease":"{lease}"}}"#)).status, 200);
    assert_eq!(s.get("/v1/queues/msgs/count").json()["ready"], 1);
    assert_eq!(s.post("/v1/queues/msgs/clean", "{}").json()["removed"], 1);
    assert_eq!(s.get("/v1/queues/mgs/count").code(), "unknown-queue");
    assert!(s.get("/v1/queues/mgs/count").text().contains("msgs"), "the nearest name");
}

#[test]
fn a_key_makes_one_job_however_often_it_is_sent_and_after_a_restart() {
    let mut s = Server::start();
    let send = |s: &Server, body: &str| {
        let head = format!(
            "POST /v1/jobs HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\nidempotency-key: k1\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        raw(s.socket(), head.as_bytes())
    };
    assert_eq!(send(&s, r#"{"command":["true"]}"#).status, 201);
    let again = send(&s, r#"{ "command" : ["true"] }"#);
    assert_eq!((again.status, again.json()["id"].as_u64()), (200, Some(1)), "canonical content, not bytes");
    assert!(again.head.to_lowercase().contains("idempotency-replayed: true"));
    assert_eq!(send(&s, r#"{"command":["false"]}"#).code(), "key-reused");
    s.signal(rustix::process::Signal::KILL);
    s.up();
    assert_eq!(send(&s, r#"{"command":["true"]}"#).json()["id"], 1);
}

#[test]
fn nonsense_is_refused_with_its_code_and_nothing_is_lost() {
    let s = Server::start();
    let deep = format!(r#"{{"command":["true"],"payload":{}1{}}}"#, "[".repeat(10_000), "]".repeat(10_000));
    let long_argument = format!(r#"{{"command":["x","{}"]}}"#, "y".repeat(900_000));
    let cases: [(&str, &str); 22] = [
        ("", "body-required"),
        ("{", "json-syntax"),
        (r#"{"command":["true"]} x"#, "json-syntax"),
        (r#"{"command":["true"],"priorty":1}"#, "unknown-field"),
        (r#"{"command":["true"],"name":"a","name":"b"}"#, "duplicate-field"),
        (r#"{"command":"true"}"#, "bad-value"),
        ("{}", "bad-command"),
        (r#"{"command":[]}"#, "bad-command"),
        (r#"{"command":["a\u0000b"]}"#, "bad-command"),
        (r#"{"command":["true"],"name":"\u001b[2J"}"#, "bad-name"),
        (r#"{"command":["true"],"name":"\u202etxt.exe"}"#, "bad-name"),
        (r#"{"command":["true"],"queue":"../../x"}"#, "bad-name"),
        (r#"{"command":["true"],"timeout_s":-1}"#, "out-of-range"),
        (r#"{"command":["true"],"resources":{"cpus":1e9}}"#, "out-of-range"),
        (r#"{"command":["true"],"array":{"from":9,"to":1}}"#, "out-of-range"),
        (r#"{"command":["true"],"env":{"A=B":"c"}}"#, "bad-env"),
        (r#"{"command":["true"],"cwd":"relative"}"#, "bad-value"),
        (r#"{"command":["true"],"worker":"nobody"}"#, "not-found"),
        (r#"{"command":["true"],"git":{"url":"https://x"}}"#, "bad-url"),
        (r#"{"command":["true"],"priority":1e400}"#, "json-syntax"),
        (&deep, "json-syntax"),
        (&long_argument, "too-large"),
    ];
    for (body, code) in cases {
        let answer = s.post("/v1/jobs", body);
        let shown: String = body.chars().take(60).collect();
        if body.is_empty() {
            assert!((400..500).contains(&answer.status), "{shown}");
            continue;
        }
        assert_eq!(answer.code(), code, "{shown}: {}", answer.text());
        // Either the detail itself says what must be, or the hint does.
        let told = format!("{}{}", answer.json()["detail"], answer.json()["hint"]);
        assert!(told.len() > 20, "{shown}: {told}");
        assert_eq!(answer.json()["outcome"], "rejected");
    }
    for (method, path, status) in [
        ("GET", "/v1/jbos", 404),
        ("DELETE", "/v1/jobs", 405),
        ("GET", "/v1/jobs?filtr=x", 400),
        ("GET", "/v1/jobs/0", 400),
        ("GET", "/v1/jobs/..%2F..", 400),
        ("GET", "/v1/jobs/999", 404),
        ("GET", "/v1/jobs?cursor=zz", 400),
        ("GET", "/v1/jobs?filter=stat:x", 400),
        ("GET", "/v1/events?from=-1", 400),
    ] {
        assert_eq!(request(s.socket(), method, path, None).status, status, "{method} {path}");
    }
    let huge = vec![b'x'; 3 << 20];
    let mut request = b"POST /v1/jobs HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: 3145728\r\n\r\n".to_vec();
    request.extend(huge);
    assert_eq!(raw(s.socket(), &request).status, 413);
    assert!(raw(s.socket(), b"\x16\x03\x01nonsense\r\n\r\n").status / 100 != 2);
    assert_eq!(s.get("/v1/jobs").json()["total"]["value"], 0, "nothing came of any of it");
    assert_eq!(s.post("/v1/jobs", r#"{"command":["true"]}"#).status, 201);
}

#[test]
fn another_users_uid_is_told_that_this_serves_one_user() {
    if !rustix::process::getuid().is_root() {
        reeve_tests::skip(
            "another_users_uid_is_told_that_this_serves_one_user",
            "only root can ask as another user",
        );
        return;
    }
    let s = Server::start();
    // The directory and the socket keep others out; even if they did not, the kernel says who asks.
    open_up(s.socket());
    let output = std::process::Command::new("setpriv")
        .args(["--reuid", "65534", "--clear-groups", "curl", "-s", "--unix-socket"])
        .arg(s.socket())
        .arg("http://reeve/v1/jobs")
        .output();
    match output {
        Ok(output) if !output.stdout.is_empty() => {
            let answer = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(answer.contains("single-user"), "{answer}");
        }
        other => reeve_tests::skip(
            "another_users_uid_is_told_that_this_serves_one_user",
            &format!("setpriv or curl cannot be used: {other:?}"),
        ),
    }
}

fn open_up(socket: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;
    let is_private = |path: &std::path::Path| path.to_string_lossy().contains("reeve-test-");
    for path in socket.ancestors().take_while(|path| is_private(path)) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
    }
}

#[test]
fn events_have_no_gap_and_a_follower_from_a_submit_misses_nothing() {
    let s = Server::start();
    let seq = s.post("/v1/jobs", r#"{"command":["true"]}"#).json()["seq"].as_u64().unwrap();
    s.until("1", "COMPLETED");
    let events = s.get(&format!("/v1/events?from={seq}")).text();
    let list: Vec<serde_json::Value> = events.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    for (at, event) in list.iter().enumerate() {
        assert_eq!(event["seq"].as_u64(), Some(seq + at as u64));
    }
    let states: Vec<_> =
        list.iter().filter(|e| e["id"] == 1).map(|e| e["to"].as_str().unwrap_or("").to_owned()).collect();
    assert_eq!(states, ["QUEUED", "QUEUED", "RUNNING", "COMPLETED"]);
    let _ = post;
}

#[test]
fn publish_of_a_job_and_receive_of_one_do_what_they_say_on_a_fresh_server() {
    let s = Server::start();
    let id = s.ok(&["queue", "publish", "jobs.vbrain", r#"{"command":["echo","seen"]}"#]);
    s.ok(&["wait", id.trim()]);
    assert_eq!(s.ok(&["logs", id.trim()]).trim(), "seen");
    // Nothing here has so much: it waits for whoever takes it.
    let big = r#"{"command":["detect"],"resources":{"cpus":999}}"#;
    let id = s.ok(&["queue", "publish", "jobs.detection", big]);
    let taken = s.ok(&["queue", "receive", "jobs.detection", "--ack"]);
    assert!(taken.starts_with(id.trim()) && taken.contains("detect"), "{taken}");
    let job = s.get(&format!("/v1/jobs/{}", id.trim())).json();
    assert_eq!(job["state"], "COMPLETED");
    // A message says so where the name speaks for jobs.
    s.ok(&["queue", "publish", "jobs.text", "no object", "--kind", "messages"]);
    assert_eq!(s.get("/v1/queues/jobs.text").json()["kind"], "messages");
}
