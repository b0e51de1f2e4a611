//! What a broker's trouble costs: the longest pause of dispatch, and how long until it is shown.
use super::jobs::lines;
use super::look::Brokers;
use super::{Table, with_queue};
use crate::broker::Redis;
use crate::chaos::proxy::tcp::TcpProxy;
use crate::chaos::proxy::{Faults, Way};
use crate::chaos::rng::Rng;
use crate::eventually;
use crate::server::Server;
use rustix::process::Signal;
use std::time::{Duration, Instant};

/// More than can run while it is looked at.
const LOAD: usize = 60_000;
const LOOK: Duration = Duration::from_secs(10);

fn completed(server: &Server) -> u64 {
    server.get("/v1/queues/work").json()["counts"]["COMPLETED"].as_u64().unwrap_or(0)
}

/// The longest time in which nothing ended, from now on.
fn longest_pause(server: &Server) -> f64 {
    let began = Instant::now();
    let (mut last, mut longest) = ((completed(server), began), Duration::ZERO);
    while began.elapsed() < LOOK {
        let now = completed(server);
        if now > last.0 {
            longest = longest.max(last.1.elapsed());
            last = (now, Instant::now());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    longest.max(last.1.elapsed()).as_secs_f64()
}

/// A broker is killed, and frozen, while short jobs run one after the other.
pub fn pauses(table: &mut Table) {
    let Some(mut brokers) = Brokers::start() else { return };
    for (name, backend) in brokers.backends().into_iter().skip(1) {
        for how in ["killed", "frozen"] {
            let server = with_queue("work", "jobs", &backend);
            server.ok(&["submit", "--file", lines(&server, "work", LOAD).to_str().unwrap()]);
            eventually("the load to run", || (completed(&server) > 500).then_some(()));
            let usual = longest_pause(&server);
            match (name, how) {
                ("redis", "killed") => brokers.redis.kill(),
                ("redis", _) => brokers.redis.signal(Signal::STOP),
                (_, "killed") => brokers.rabbit.kill(),
                _ => brokers.rabbit.signal(Signal::STOP),
            }
            let pause = longest_pause(&server);
            match (name, how) {
                ("redis", "killed") => brokers.redis.up(),
                ("redis", _) => brokers.redis.signal(Signal::CONT),
                (_, "killed") => brokers.rabbit.up(),
                _ => brokers.rabbit.signal(Signal::CONT),
            }
            table.row(
                &format!("{name} {how} under load: longest pause of dispatch"),
                format!("{pause:.2} s"),
                format!("{usual:.2} s while it lives"),
                "<= 1 s",
                pause <= 1.0,
            );
        }
    }
}

/// Seconds until the queue is shown as degraded.
fn shown(server: &Server, since: Instant) -> (f64, String) {
    let why = eventually("it to be shown", || {
        server.get("/v1/queues/work").json()["degraded"].as_str().map(str::to_owned)
    });
    (since.elapsed().as_secs_f64(), why)
}

fn until_usable(server: &Server) {
    eventually("the broker to be used again", || {
        let view = server.get("/v1/queues/work").json();
        (view["degraded"].is_null() && view["backend_version"].is_string()).then_some(())
    });
}

fn noticed_row(table: &mut Table, what: &str, (took, why): &(f64, String)) {
    let figure = format!("{what}: degraded after");
    table.row(&figure, format!("{took:.1} s"), why.chars().take(50).collect(), "<= 10 s", *took <= 10.0);
}

/// A quiet broker gets into trouble of each kind.
pub fn noticed(table: &mut Table) {
    let Some(mut brokers) = Brokers::start() else { return };
    let server = with_queue("work", "jobs", &brokers.redis.url());
    let since = Instant::now();
    brokers.redis.kill();
    noticed_row(table, "redis killed", &shown(&server, since));
    brokers.redis.up();
    until_usable(&server);
    let since = Instant::now();
    brokers.redis.signal(Signal::STOP);
    noticed_row(table, "redis frozen", &shown(&server, since));
    brokers.redis.signal(Signal::CONT);
    drop(server);
    half_open(table, &brokers.redis);
    let server = with_queue("work", "jobs", &brokers.rabbit.url());
    let troubles: [(&str, &[&str], &[&str]); 3] = [
        ("stop_app", &["stop_app"], &["start_app"]),
        (
            "out of memory",
            &["set_vm_memory_high_watermark", "absolute", "1MB"],
            &["set_vm_memory_high_watermark", "0.4"],
        ),
        ("out of disk", &["set_disk_free_limit", "900GB"], &["set_disk_free_limit", "1MB"]),
    ];
    for (what, worse, better) in troubles {
        // The control program itself takes a second to start.
        let since = Instant::now();
        brokers.rabbit.ctl(worse);
        noticed_row(table, &format!("rabbitmq {what}"), &shown(&server, since));
        brokers.rabbit.ctl(better);
        until_usable(&server);
    }
    let since = Instant::now();
    brokers.rabbit.signal(Signal::STOP);
    noticed_row(table, "rabbitmq frozen", &shown(&server, since));
    brokers.rabbit.signal(Signal::CONT);
    until_usable(&server);
    let since = Instant::now();
    brokers.rabbit.kill();
    noticed_row(table, "rabbitmq killed", &shown(&server, since));
}

/// A line that passes nothing more, and ends nowhere.
fn half_open(table: &mut Table, redis: &Redis) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let at = |port| std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let proxy = runtime.block_on(TcpProxy::start(at(0), at(redis.port()), &Rng::new(1))).unwrap();
    let server = with_queue("work", "jobs", &format!("redis://127.0.0.1:{}", proxy.address().port()));
    let since = Instant::now();
    for way in [Way::Up, Way::Down] {
        proxy.set(way, Faults::blackhole());
    }
    noticed_row(table, "redis behind a half-open line", &shown(&server, since));
    for way in [Way::Up, Way::Down] {
        proxy.set(way, Faults::default());
    }
    drop(server);
    let _entered = runtime.enter();
    drop(proxy);
}
