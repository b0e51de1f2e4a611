//! What goes wrong between the coordinator and a broker that lives: connections that pass nothing more and end nowhere, slow
//! ones, reset ones; passwords that change; a Redis that is not what it was; TLS.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]
use reeve_tests::broker::Redis;
use reeve_tests::chaos::proxy::tcp::TcpProxy;
use reeve_tests::chaos::proxy::{Faults, Way};
use reeve_tests::chaos::rng::Rng;
use reeve_tests::machine::Coordinator;
use reeve_tests::rabbitmq::RabbitServer;
use reeve_tests::server::Server;
use reeve_tests::{eventually, eventually_or};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;

/// A proxy in front of a broker, whose port it hides.
struct Between {
    runtime: tokio::runtime::Runtime,
    proxy: Option<TcpProxy>,
}

impl Between {
    fn of(port: u16) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let server = ([127, 0, 0, 1], port).into();
        let rng = Rng::new(1);
        let started = TcpProxy::start(([127, 0, 0, 1], 0).into(), server, &rng);
        let proxy = Some(runtime.block_on(started).unwrap());
        Self { runtime, proxy }
    }

    fn proxy(&self) -> &TcpProxy {
        self.proxy.as_ref().unwrap()
    }

    fn port(&self) -> u16 {
        self.proxy().address().port()
    }

    fn both(&self, faults: &Faults) {
        for way in [Way::Up, Way::Down] {
            self.proxy().set(way, faults.clone());
        }
    }
}

impl Drop for Between {
    fn drop(&mut self) {
        let _entered = self.runtime.enter();
        self.proxy.take();
    }
}

fn queue(server: &Server, name: &str) -> Value {
    server.get(&format!("/v1/queues/{name}")).json()
}

/// With one of these reasons.
fn until_degraded(server: &Server, name: &str, words: &[&str]) {
    let told = || queue(server, name)["degraded"].as_str().map(str::to_owned);
    eventually_or(
        || format!("degraded with one of {words:?}, not {:?}", told()),
        || told().filter(|told| words.iter().any(|word| told.contains(word))),
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

/// Submits some, and sees each run once.
fn jobs_run(server: &Server) {
    let ids: Vec<String> = (0..4).map(|_| server.ok(&["submit", "--queue", "work", "--", "true"])).collect();
    for id in ids {
        let job = server.until(&id, "COMPLETED");
        assert_eq!(job["attempt"], 1, "{job}");
    }
}

fn with_queues(url: &str) -> Server {
    let server = Server::start();
    for (name, kind) in [("work", "jobs"), ("msgs", "messages")] {
        server.ok(&["queue", "set", name, "--kind", kind, "--backend", url]);
        until_usable(&server, name);
    }
    server
}

fn publish(server: &Server, from: u64, to: u64) {
    for n in from..to {
        let answer = server.post("/v1/queues/msgs/messages", &json!({"body": n}).to_string());
        assert_eq!(answer.status, 201, "{}", answer.text());
    }
}

/// Receives and acknowledges until there were so many; all of them, each once.
fn all_come(server: &Server, n: u64) {
    let mut had = Vec::new();
    while (had.len() as u64) < n {
        let body = json!({"max": 100, "wait_s": 20}).to_string();
        let answer = server.post("/v1/queues/msgs/receive", &body).json();
        let items = answer["items"].as_array().unwrap();
        assert!(!items.is_empty(), "{} of {n} came: {}", had.len(), queue(server, "msgs"));
        for item in items {
            let lease = json!({"lease": item["lease"]}).to_string();
            assert_eq!(server.post("/v1/queues/msgs/ack", &lease).status, 200);
            had.push(item["body"].as_u64().unwrap());
        }
    }
    assert_eq!(had.len() as u64, n, "{had:?}");
    assert_eq!(had.into_iter().collect::<BTreeSet<_>>(), (0..n).collect());
}

/// Half open: what is sent arrives nowhere, and nobody says so. In one direction, in the other, in both; then resets, and
/// a line that is slow.
fn a_line_that_fails(server: &Server, between: &Between) {
    jobs_run(server);
    publish(server, 0, 20);
    let hole = Faults::blackhole();
    for (up, down) in [(true, true), (true, false), (false, true)] {
        between.proxy().set(Way::Up, if up { hole.clone() } else { Faults::default() });
        between.proxy().set(Way::Down, if down { hole.clone() } else { Faults::default() });
        jobs_run(server);
        until_degraded(server, "work", &["no answer", "does not come back", "no connection"]);
        jobs_run(server);
        between.both(&Faults::default());
        until_usable(server, "work");
    }
    publish(server, 20, 40);
    for _ in 0..3 {
        between.proxy().reset();
        jobs_run(server);
        until_usable(server, "work");
    }
    let spread = (Duration::from_millis(20), Duration::from_millis(80));
    between.both(&Faults { delay: spread, rate: Some(200_000), ..Faults::default() });
    publish(server, 40, 60);
    jobs_run(server);
    all_come(server, 60);
    between.both(&Faults::default());
    until_usable(server, "msgs");
    assert_eq!(server.get("/v1/queues/msgs/count").json()["ready"], 0);
}

#[test]
fn a_line_to_redis_that_passes_nothing_more_costs_a_pause_and_nothing_is_lost_or_doubled() {
    let Some(redis) = Redis::start() else { return reeve_tests::skip("a_line_to_redis", "no redis-server") };
    let between = Between::of(redis.port());
    let server = with_queues(&format!("redis://127.0.0.1:{}", between.port()));
    a_line_that_fails(&server, &between);
}

#[test]
fn a_line_to_rabbitmq_that_passes_nothing_more_costs_a_pause_and_nothing_is_lost_or_doubled() {
    let Some(rabbit) = RabbitServer::start() else {
        return reeve_tests::skip("a_line_to_rabbitmq", "no rabbitmq-server");
    };
    let between = Between::of(rabbit.port());
    let server = with_queues(&format!("amqp://127.0.0.1:{}", between.port()));
    a_line_that_fails(&server, &between);
    a_policy_refuses_what_is_published(&rabbit);
}

/// A length limit that an operator has set: the server refuses what is published beyond it.
fn a_policy_refuses_what_is_published(rabbit: &RabbitServer) {
    let server = with_queues(&rabbit.url());
    server.ok(&["queue", "set", "free", "--kind", "messages", "--backend", &rabbit.url()]);
    until_usable(&server, "free");
    let limit = r#"{"max-length":5,"overflow":"reject-publish"}"#;
    rabbit.ctl(&["set_policy", "short", "^reeve:q:msgs$", limit, "--apply-to", "queues"]);
    let is_set = || {
        let told = rabbit.ctl(&["list_queues", "name", "policy"]);
        told.lines().any(|l| l.starts_with("reeve:q:msgs\t") && l.ends_with("short")).then_some(())
    };
    eventually("the policy to hold", is_set);
    let mut n = 0;
    eventually("more is published than it takes", || {
        publish(&server, n, n + 5);
        n += 5;
        queue(&server, "msgs")["degraded"].as_str().filter(|w| w.contains("basic.nack")).map(|_| ())
    });
    assert!(queue(&server, "free")["degraded"].is_null(), "the others go on");
    jobs_run(&server);
    publish(&server, n, n + 5);
    n += 5;
    assert_eq!(server.get("/v1/queues/msgs/count").json()["ready"], n, "what was refused waits in the store");
    rabbit.ctl(&["clear_policy", "short"]);
    until_usable(&server, "msgs");
    all_come(&server, n);
}

/// A coordinator with a broker of its configuration.
fn configured(base: tempfile::TempDir, backend: &str) -> Coordinator {
    let mut coordinator = Coordinator::init(base);
    let path = coordinator.dir.path().join("coordinator.toml");
    std::fs::write(&path, backend).unwrap();
    coordinator.env.push(("REEVE_CONFIG".to_owned(), path.display().to_string()));
    coordinator.run("127.0.0.1:0", &[]);
    coordinator
}

fn show(coordinator: &Coordinator) -> String {
    let out = coordinator.reeve(&["queue", "show", "msgs", "--json"]);
    String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned()
}

fn until_shows(coordinator: &Coordinator, word: &str, wanted: bool) {
    eventually_or(
        || format!("{word} {wanted}: {}", show(coordinator)),
        || (show(coordinator).contains(word) == wanted).then_some(()),
    );
}

const SET: [&str; 7] = ["queue", "set", "msgs", "--kind", "messages", "--backend", "fast"];

#[test]
fn a_password_of_redis_that_is_changed_degrades_the_queue_until_the_file_has_the_new_one() {
    let Some(redis) = Redis::start_with(&["--appendonly", "yes", "--requirepass", "first"]) else {
        return reeve_tests::skip("a_password_of_redis_that_is_changed", "no redis-server");
    };
    let base = tempfile::Builder::new().prefix("reeve-test-").tempdir().unwrap();
    let file = base.path().join("password");
    std::fs::write(&file, "first\n").unwrap();
    let backend =
        format!("[backends.fast]\nurl = \"{}\"\npassword_file = \"{}\"\n", redis.url(), file.display());
    let coordinator = configured(base, &backend);
    assert!(coordinator.reeve(&SET).status.success());
    until_shows(&coordinator, "\"redis 7", true);
    let as_first = ["-a", "first", "--no-auth-warning"];
    redis.cli(&[&as_first[..], &["config", "set", "requirepass", "second"]].concat());
    // Whoever is connected stays so; a connection that ends is not made again with the old one.
    let as_second = ["-a", "second", "--no-auth-warning"];
    redis.cli(&[&as_second[..], &["client", "kill", "type", "normal", "skipme", "yes"]].concat());
    until_shows(&coordinator, "authentication failed", true);
    assert!(coordinator.reeve(&["queue", "publish", "msgs", "kept"]).status.success());
    std::fs::write(&file, "second\n").unwrap();
    until_shows(&coordinator, "\"degraded\"", false);
    let got = coordinator.reeve(&["queue", "receive", "msgs", "--wait", "20s", "--ack"]);
    assert!(String::from_utf8_lossy(&got.stdout).contains("kept"), "{got:?}");
    let log = coordinator.log();
    assert!(!log.contains("first") && !log.contains("second"), "no password is logged");
}

#[test]
fn a_redis_that_restarts_empty_or_older_or_repeats_itself_loses_and_doubles_no_job() {
    let Some(mut redis) = Redis::start() else {
        return reeve_tests::skip("a_redis_that_restarts_empty", "no redis-server");
    };
    let server = with_queues(&redis.url());
    jobs_run(&server);
    // Empty: what it kept is gone with its files.
    server.ok(&["queue", "pause", "work", "--reason", "wiped"]);
    let submit = || server.ok(&["submit", "--queue", "work", "--", "true"]);
    let mut ids: Vec<String> = (0..20).map(|_| submit()).collect();
    let lie_there = |redis: &Redis| redis.cli(&["xlen", "reeve:jobs:work"]).parse::<u32>().unwrap();
    eventually("their hints lie there", || (lie_there(&redis) > 0).then_some(()));
    redis.kill();
    redis.wipe();
    redis.up();
    until_usable(&server, "work");
    eventually("the hints are made anew", || (lie_there(&redis) == 20).then_some(()));
    // Older: what came after a copy of its files is forgotten, what was taken since is there again.
    redis.signal(Signal::STOP);
    let copy = tempfile::Builder::new().prefix("reeve-redis-").tempdir().unwrap();
    redis.keep_copy(copy.path());
    redis.signal(Signal::CONT);
    server.ok(&["queue", "resume", "work"]);
    ids.extend((0..5).map(|_| submit()));
    for id in &ids {
        assert_eq!(server.until(id, "COMPLETED")["attempt"], 1);
    }
    redis.kill();
    redis.bring_back(copy.path());
    redis.up();
    until_usable(&server, "work");
    jobs_run(&server);
    // It repeats itself: hints that were taken, again and again.
    let hint = ids.iter().map(|id| format!("{} {id} 4294967297 4294967297", lineage(&server)));
    for one in hint.cycle().take(200) {
        redis.cli(&["xadd", "reeve:jobs:work", "*", "hint", &one]);
    }
    jobs_run(&server);
    eventually("all of them were taken", || (lie_there(&redis) == 0).then_some(()));
    for id in &ids {
        assert_eq!(server.job(id)["attempt"], 1, "it ran once");
    }
    assert_eq!(server.get("/v1/queues/work/count").json()["ready"], 0);
}

/// The store's name for itself, from the log.
fn lineage(server: &Server) -> String {
    let said = server.stderr();
    said.split("lineage=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap().to_owned()
}

#[test]
fn tls_to_redis_is_checked_against_the_authority_that_is_named() {
    let base = tempfile::Builder::new().prefix("reeve-test-").tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (cert, key) = (base.path().join("cert.pem"), base.path().join("key.pem"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let Some(redis) = Redis::start_tls(&cert, &key) else {
        return reeve_tests::skip("tls_to_redis", "no redis-server, or one without TLS");
    };
    let url = redis.tls_url();
    let backend = format!(
        "[backends.fast]\nurl = \"{url}\"\nca = \"{}\"\n[backends.strange]\nurl = \"{url}\"\n",
        cert.display()
    );
    let coordinator = configured(base, &backend);
    let strange = coordinator.reeve(&["queue", "set", "msgs", "--kind", "messages", "--backend", "strange"]);
    let said = String::from_utf8_lossy(&strange.stderr).into_owned();
    assert!(!strange.status.success() && said.to_lowercase().contains("certificate"), "{said}");
    let plain = format!("redis://localhost:{}", url.rsplit(':').next().unwrap());
    let refused = coordinator.reeve(&["queue", "set", "msgs", "--kind", "messages", "--backend", &plain]);
    assert!(!refused.status.success(), "it speaks TLS alone");
    let set = coordinator.reeve(&SET);
    assert!(set.status.success(), "{}", String::from_utf8_lossy(&set.stderr));
    assert!(coordinator.reeve(&["queue", "publish", "msgs", "sealed"]).status.success());
    let got = coordinator.reeve(&["queue", "receive", "msgs", "--wait", "20s", "--ack"]);
    assert!(String::from_utf8_lossy(&got.stdout).contains("sealed"), "{got:?}");
}
