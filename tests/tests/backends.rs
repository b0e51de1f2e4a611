//! Every backend against the conformance suite, and what real brokers do: killed, frozen, flushed, restarted, not what they
//! were said to be.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]
use reeve_tests::broker::Redis;
use reeve_tests::conformance::Bench;
use reeve_tests::machine::Coordinator;
use reeve_tests::server::Server;
use reeve_tests::{eventually, eventually_or};
use rustix::process::Signal;
use serde_json::Value;

#[test]
fn the_store_conforms() {
    Bench::new(Server::start(), "local").run();
}

#[test]
fn memory_conforms() {
    Bench::new(Server::start(), "memory").run();
}

#[test]
fn redis_conforms() {
    let Some(redis) = Redis::start() else { return reeve_tests::skip("redis_conforms", "no redis-server") };
    Bench::new(Server::start(), &redis.url()).run();
}

/// A coordinator and a Redis with a queue of jobs.
fn with_redis(test: &str) -> Option<(Server, Redis)> {
    let Some(redis) = Redis::start() else {
        reeve_tests::skip(test, "no redis-server");
        return None;
    };
    let server = Server::start();
    server.ok(&["queue", "set", "work", "--kind", "jobs", "--backend", &redis.url()]);
    server.ok(&["queue", "set", "msgs", "--kind", "messages", "--backend", &redis.url()]);
    Some((server, redis))
}

fn queue(server: &Server, name: &str) -> Value {
    server.get(&format!("/v1/queues/{name}")).json()
}

fn until_degraded(server: &Server, name: &str, word: &str) {
    let told = || queue(server, name)["degraded"].as_str().map(str::to_owned);
    eventually_or(
        || format!("degraded with {word:?}, not {:?}", told()),
        || told().filter(|w| w.contains(word)),
    );
}

fn until_usable(server: &Server, name: &str) {
    eventually_or(
        || queue(server, name).to_string(),
        || {
            let view = queue(server, name);
            (view["degraded"].is_null() && view["backend_version"].is_string()).then_some(())
        },
    );
}

/// Each ran once: one attempt, completed.
fn ran_once(server: &Server, ids: &[String]) {
    for id in ids {
        let job = server.until(id, "COMPLETED");
        assert_eq!(job["attempt"], 1, "{job}");
    }
}

fn submit(server: &Server, n: usize) -> Vec<String> {
    (0..n).map(|_| server.ok(&["submit", "--queue", "work", "--", "true"])).collect()
}

#[test]
fn jobs_run_while_their_broker_is_killed_frozen_flushed_and_started_again() {
    let Some((server, mut redis)) = with_redis("jobs_run_while_their_broker_is_killed") else { return };
    until_usable(&server, "work");
    ran_once(&server, &submit(&server, 5));
    // Killed.
    redis.kill();
    ran_once(&server, &submit(&server, 5));
    until_degraded(&server, "work", "refused");
    let health = server.get("/v1/health").json();
    assert!(health["reasons"].to_string().contains("queue work"), "{health}");
    ran_once(&server, &submit(&server, 5));
    redis.up();
    until_usable(&server, "work");
    ran_once(&server, &submit(&server, 5));
    // Frozen: it is connected, and says nothing.
    redis.signal(Signal::STOP);
    ran_once(&server, &submit(&server, 5));
    until_degraded(&server, "work", "no answer");
    redis.signal(Signal::CONT);
    until_usable(&server, "work");
    // Flushed while jobs wait there.
    server.ok(&["queue", "pause", "work", "--reason", "flush"]);
    let waiting = submit(&server, 20);
    eventually("their hints lie there", || (redis.cli(&["xlen", "reeve:jobs:work"]) != "0").then_some(()));
    redis.cli(&["flushall"]);
    let more = submit(&server, 3);
    server.ok(&["queue", "resume", "work"]);
    ran_once(&server, &waiting);
    ran_once(&server, &more);
    assert_eq!(server.get("/v1/queues/work/count").json()["ready"], 0);
}

#[test]
fn messages_that_a_broker_cannot_take_now_are_taken_later_and_come_once() {
    let Some((server, mut redis)) = with_redis("messages_that_a_broker_cannot_take_now") else { return };
    until_usable(&server, "msgs");
    redis.kill();
    until_degraded(&server, "msgs", "refused");
    for n in 0..10 {
        server.ok(&["queue", "publish", "msgs", &format!("m{n}")]);
    }
    let count = server.get("/v1/queues/msgs/count").json();
    assert_eq!((count["ready"].as_u64(), count["degraded"].is_string()), (Some(10), true), "{count}");
    // Whoever must go on now is served from the store.
    let first = server.post("/v1/queues/msgs/receive", r#"{"max":1}"#).json();
    assert_eq!(first["items"][0]["body_text"], "m0", "{first}");
    redis.up();
    until_usable(&server, "msgs");
    eventually("the rest lies at the broker", || (redis.cli(&["xlen", "reeve:q:msgs"]) == "9").then_some(()));
    let mut had = Vec::new();
    while had.len() < 9 {
        let some = server.post("/v1/queues/msgs/receive", r#"{"max":9,"wait_s":20}"#).json();
        had.extend(
            some["items"].as_array().unwrap().iter().map(|m| m["body_text"].as_str().unwrap().to_owned()),
        );
    }
    assert_eq!(had, (1..10).map(|n| format!("m{n}")).collect::<Vec<_>>());
    eventually("what was taken is removed", || (redis.cli(&["xlen", "reeve:q:msgs"]) == "0").then_some(()));
}

#[test]
fn a_program_with_an_ordinary_client_publishes_and_consumes_beside_reeve() {
    let Some((server, redis)) = with_redis("a_program_with_an_ordinary_client") else { return };
    until_usable(&server, "msgs");
    redis.cli(&["xadd", "reeve:q:msgs", "*", "body", r#"{"image":"a.png"}"#, "headers", r#"{"trace":"7"}"#]);
    redis.cli(&["xadd", "reeve:q:msgs", "*", "text", "what is this"]);
    let items = eventually("both were taken", || {
        let got = server.post("/v1/queues/msgs/receive", r#"{"max":2,"wait_s":5}"#).json();
        got["items"].as_array().filter(|i| !i.is_empty()).cloned()
    });
    assert_eq!((&items[0]["body"]["image"], &items[0]["headers"]["trace"]), (&"a.png".into(), &"7".into()));
    eventually("what makes no sense is among the dead", || {
        let count = server.get("/v1/queues/msgs/count").json();
        // It is taken when somebody asks for more.
        server.post("/v1/queues/msgs/receive", "{}");
        (count["dead"] == 1).then_some(())
    });
    server.ok(&["queue", "publish", "msgs", "for you"]);
    let read = eventually("the message lies there", || {
        let read = redis.cli(&["xrange", "reeve:q:msgs", "-", "+"]);
        read.contains("for you").then_some(read)
    });
    assert!(read.contains("body"), "{read}");
}

#[test]
fn what_is_no_usable_broker_is_refused_with_what_was_tried_and_answered() {
    let Some((server, redis)) = with_redis("what_is_no_usable_broker") else { return };
    until_usable(&server, "msgs");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let other = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        use std::io::{Read as _, Write as _};
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 64]);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    redis.cli(&["set", "reeve:q:taken", "a text"]);
    let dead = reeve_tests::broker::free_port();
    for (name, backend, wanted) in [
        ("x", format!("redis://127.0.0.1:{dead}"), "refused"),
        ("x", format!("redis://{other}"), "tried redis://127.0.0.1"),
        ("x", "redis+sentinel://h/m".to_owned(), "Sentinel"),
        ("x", "redis://:hush@h".to_owned(), "no password"),
        ("x", "fast".to_owned(), "no backend fast"),
        ("taken", redis.url(), "no stream"),
    ] {
        let (code, said) = server.fails(&["queue", "set", name, "--kind", "messages", "--backend", &backend]);
        assert_eq!(code, 1, "{said}");
        assert!(said.contains(wanted) && !said.contains("hush"), "{backend}: {said}");
    }
    assert_eq!(server.get("/v1/queues/x").status, 404, "nothing was made");
}

#[test]
fn a_password_comes_from_its_file_and_its_change_is_noticed() {
    let words = ["--requirepass", "first", "--appendonly", "yes"];
    let Some(redis) = Redis::start_with(&words) else {
        return reeve_tests::skip("a_password_comes_from_its_file", "no redis-server");
    };
    let base = tempfile::Builder::new().prefix("reeve-test-").tempdir().unwrap();
    let file = base.path().join("password");
    std::fs::write(&file, "wrong\n").unwrap();
    let mut coordinator = Coordinator::init(base);
    let config = format!(
        "[backends.fast]\nurl = \"{}\"\npassword_file = \"{}\"\nprefix = \"lab\"\n",
        redis.url(),
        file.display()
    );
    let path = coordinator.dir.path().join("coordinator.toml");
    std::fs::write(&path, config).unwrap();
    coordinator.env.push(("REEVE_CONFIG".to_owned(), path.display().to_string()));
    coordinator.run("127.0.0.1:0", &[]);
    let set = ["queue", "set", "work", "--kind", "jobs", "--backend", "fast"];
    let refused = coordinator.reeve(&set);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("authentication failed"), "{said}");
    std::fs::write(&file, "first\n").unwrap();
    assert!(coordinator.reeve(&set).status.success());
    assert!(!coordinator.log().contains("first"), "no password is logged");
}

#[test]
fn what_other_programs_publish_becomes_a_job_once_and_nonsense_is_kept_with_the_reason() {
    let Some((server, redis)) = with_redis("what_other_programs_publish_becomes_a_job") else { return };
    until_usable(&server, "work");
    let me = server.get("/v1/whoami").json()["name"].as_str().unwrap().to_owned();
    assert!(server.fails(&["queue", "set", "work", "--ingress", "as=nobody-here"]).1.contains("no user"));
    assert!(
        server
            .fails(&["queue", "set", "plain", "--ingress", &format!("as={me}")])
            .1
            .contains("backend-cannot")
    );
    server.ok(&["queue", "set", "work", "--ingress", &format!("as={me}")]);
    let spec = r#"{"command":["echo","from outside"],"name":"outside"}"#;
    for _ in 0..2 {
        redis.cli(&["xadd", "reeve:q:work:in", "*", "id", "m-1", "body", spec]);
    }
    redis.cli(&["xadd", "reeve:q:work:in", "*", "body", r#"{"comand":["true"]}"#]);
    redis.cli(&["xadd", "reeve:q:work:in", "*", "body", r#"{"command":["true"],"queue":"other"}"#]);
    let named = || server.get("/v1/jobs?filter=name:outside").json()["items"].as_array().unwrap().clone();
    let id = eventually("the job is there", || Some(named().first()?["id"].to_string()));
    let job = server.until(&id, "COMPLETED");
    assert_eq!(job["owner"].as_str(), Some(me.as_str()));
    let dead = eventually("what is no job is kept", || {
        let dead = server.get("/v1/queues/work/dead").json();
        (dead["items"].as_array().unwrap().len() == 2).then_some(dead)
    });
    assert!(
        dead.to_string().contains("comand") && dead.to_string().contains("names another queue"),
        "{dead}"
    );
    eventually("all of it was taken", || (redis.cli(&["xlen", "reeve:q:work:in"]) == "0").then_some(()));
    assert_eq!(named().len(), 1, "a message id counts once");
    let audit = server.get("/v1/audit?limit=1000").json();
    let lines = audit["items"].as_array().unwrap().iter().filter(|l| l["call"] == "ingress");
    let objects: Vec<&str> = lines.map(|l| l["object"].as_str().unwrap()).collect();
    let made = objects.iter().filter(|o| o.starts_with(&format!("queue:work jobs:{id}"))).count();
    let refused: u32 =
        objects.iter().filter_map(|o| o.split(", ").nth(1)?.split(' ').next()?.parse::<u32>().ok()).sum();
    assert_eq!((made, refused), (1, 2), "{objects:?}");
    assert_eq!(server.get("/v1/queues/work/count").json()["dead"], 2);
    assert!(server.fails(&["queue", "dead", "work", "--return"]).1.contains("never was a job"));
    server.ok(&["queue", "clean", "work", "--dead"]);
    server.ok(&["queue", "set", "work", "--ingress", "off"]);
    redis.cli(&["xadd", "reeve:q:work:in", "*", "body", spec]);
    server.ok(&["submit", "--queue", "work", "--wait", "--", "true"]);
    assert_eq!(redis.cli(&["xlen", "reeve:q:work:in"]), "1", "nobody reads it now");
}

#[test]
fn a_message_goes_where_its_labels_say_to_all_of_them_or_to_none() {
    let server = Server::start();
    let route = |words: &[&str]| server.ok(&[&["queue", "route"], words].concat());
    assert!(server.fails(&["queue", "route", "publish", "x"]).1.contains("unroutable"));
    route(&["set", "pictures", "--label", "kind=picture", "--to", "small,large"]);
    route(&[
        "set",
        "urgent",
        "--label",
        "kind=picture",
        "--label",
        "rush=yes",
        "--to",
        "fast",
        "--before",
        "pictures",
    ]);
    let explained = route(&["--explain", "kind=picture"]);
    assert!(
        explained.contains("not urgent: rush is missing") && explained.contains("pictures -> small, large")
    );
    let published = route(&["publish", "a.png", "--label", "kind=picture", "--key", "k"]);
    assert_eq!(published.lines().count(), 2, "{published}");
    assert_eq!(route(&["publish", "a.png", "--label", "kind=picture", "--key", "k"]), published);
    assert_eq!(
        route(&["publish", "b.png", "--label", "kind=picture", "--label", "rush=yes"]).lines().count(),
        1
    );
    let ready = |name: &str| server.get(&format!("/v1/queues/{name}/count")).json()["ready"].as_u64();
    assert_eq!([ready("small"), ready("large"), ready("fast")], [Some(1); 3]);
    // One of them is full: neither gets it.
    server.ok(&["queue", "set", "large", "--max-len", "1"]);
    assert!(
        server
            .fails(&["queue", "route", "publish", "c", "--label", "kind=picture"])
            .1
            .contains("queue-state")
    );
    assert_eq!([ready("small"), ready("large")], [Some(1); 2]);
    server.ok(&["submit", "--queue", "jobs", "--", "true"]);
    assert!(server.fails(&["queue", "route", "set", "x", "--to", "jobs"]).1.contains("queue-kind"));
    route(&["rm", "urgent"]);
    assert!(!route(&[]).contains("urgent"));
}

#[test]
fn queues_move_between_backends_with_what_waits_in_them_though_the_coordinator_is_killed() {
    let Some((mut server, redis)) = with_redis("queues_move_between_backends") else { return };
    until_usable(&server, "msgs");
    // Jobs: under load, there and back.
    let mut ids = submit(&server, 5);
    for backend in ["local", &redis.url(), "local", &redis.url()] {
        server.ok(&["queue", "migrate", "work", "--to", backend]);
        ids.extend(submit(&server, 5));
    }
    ran_once(&server, &ids);
    // What waits leaves nothing at the broker that it has left.
    server.ok(&["queue", "pause", "work"]);
    let waiting = submit(&server, 20);
    let lies = |n: &str| (redis.cli(&["xlen", "reeve:jobs:work"]) == n).then_some(());
    eventually("their hints lie at the broker", || lies("20"));
    server.ok(&["queue", "migrate", "work", "--to", "local"]);
    eventually("the hints are gone", || lies("0"));
    server.ok(&["queue", "migrate", "work", "--to", &redis.url()]);
    eventually("they lie there again", || lies("20"));
    server.ok(&["queue", "resume", "work"]);
    ran_once(&server, &waiting);
    // Messages: from Redis to the store, killed in between, and back.
    for n in 0..300 {
        let body = format!(r#"{{"body":{n}}}"#);
        assert_eq!(server.post("/v1/queues/msgs/messages", &body).status, 201);
    }
    let moved = server.ok(&["queue", "migrate", "msgs", "--to", "local"]);
    assert!(moved.contains("before: 300 ready"), "{moved}");
    server.signal(Signal::KILL);
    server.up();
    eventually_or(
        || queue(&server, "msgs").to_string(),
        || queue(&server, "msgs")["moving_from"].is_null().then_some(()),
    );
    assert_eq!(redis.cli(&["xlen", "reeve:q:msgs"]), "0");
    server.post("/v1/queues/msgs/messages", r#"{"body":300}"#);
    server.ok(&["queue", "migrate", "msgs", "--to", &redis.url()]);
    eventually("they lie at the broker", || (redis.cli(&["xlen", "reeve:q:msgs"]) == "301").then_some(()));
    let mut had = Vec::new();
    while had.len() < 301 {
        let some = server.post("/v1/queues/msgs/receive", r#"{"max":100,"wait_s":20}"#).json();
        had.extend(some["items"].as_array().unwrap().iter().map(|m| m["body"].as_u64().unwrap()));
    }
    assert_eq!(had, (0..301).collect::<Vec<_>>());
}
