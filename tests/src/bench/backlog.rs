//! What a long backlog costs: memory, and the rates of submits and ends with it.
use super::{Table, pss};
use crate::broker::Redis;
use crate::server::Server;
use std::io::Write as _;
use std::time::{Duration, Instant};

const JOBS: usize = 1_000_000;
/// Jobs whose ends are timed.
const ENDS: u64 = 20_000;

/// 1,000,000 single jobs that wait, in the store and at a Redis.
pub fn backlog(table: &mut Table) {
    one(table, "local", None);
    match Redis::start() {
        Some(redis) => one(table, "redis", Some(redis)),
        None => eprintln!("no Redis is installed: its figures are left out"),
    }
}

fn one(table: &mut Table, name: &str, redis: Option<Redis>) {
    let server = Server::start();
    server.ok(&["queue", "set", "default"]);
    if let Some(redis) = &redis {
        server.ok(&["queue", "set", "default", "--backend", &redis.url()]);
    }
    server.ok(&["submit", "--wait", "--", "true"]);
    let few = drain(&server, &write(&server, ENDS as usize));
    let before = pss(server.pid());
    server.ok(&["queue", "pause", "default"]);
    let file = write(&server, JOBS);
    let begin = Instant::now();
    server.ok(&["submit", "--file", &file]);
    let rate = JOBS as f64 / begin.elapsed().as_secs_f64();
    let hints = || server.get("/v1/queues").json()["queues"][0]["hints"].as_u64();
    while redis.is_some() && hints() < Some(JOBS as u64) {
        std::thread::sleep(Duration::from_millis(100));
    }
    let grown = pss(server.pid()) - before;
    table.row(
        &format!("1,000,000 jobs wait, {name}: memory above none"),
        format!("{grown:.1} MB"),
        "-".into(),
        "<= 30 MB",
        grown <= 30.0,
    );
    table.row(
        &format!("the same: submitted as NDJSON, {name}"),
        format!("{rate:.0} /s"),
        "-".into(),
        "-",
        true,
    );
    let many = ends(&server);
    table.row(
        &format!("20,000 `true` with 1,000,000 behind them, {name}"),
        format!("{many:.0} /s"),
        format!("{few:.0} /s with none"),
        ">= 0.83 x",
        many >= few / 1.2,
    );
}

fn write(server: &Server, n: usize) -> String {
    let file = server.scratch().join("jobs.jsonl");
    let mut out = std::io::BufWriter::new(std::fs::File::create(&file).expect("a file"));
    for _ in 0..n {
        out.write_all(b"{\"command\":[\"true\"]}\n").expect("room on the disk");
    }
    out.flush().expect("room on the disk");
    file.to_string_lossy().into_owned()
}

/// The same jobs with nothing behind them.
fn drain(server: &Server, file: &str) -> f64 {
    server.ok(&["queue", "pause", "default"]);
    server.ok(&["submit", "--file", file]);
    ends(server)
}

/// Resumes the queue, and counts ends per second.
fn ends(server: &Server) -> f64 {
    let done = || server.get("/v1/stats").json()["counts"]["COMPLETED"].as_u64().unwrap_or(0);
    let (first, begin) = (done(), Instant::now());
    server.ok(&["queue", "resume", "default"]);
    while done() < first + ENDS {
        std::thread::sleep(Duration::from_millis(20));
    }
    ENDS as f64 / begin.elapsed().as_secs_f64()
}
