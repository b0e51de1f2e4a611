//! What a backlog of a million jobs costs the coordinator.
use super::jobs::lines;
use super::look::Brokers;
use super::{Table, keep};
use crate::server::Server;
use std::time::Instant;

const BACKLOG: usize = 1_000_000;

/// Resident memory of a process, MiB.
fn resident(pid: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kib = text.lines().find_map(|l| l.strip_prefix("VmRSS:")).and_then(|l| l.split_whitespace().next());
    kib.and_then(|n| n.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}

/// A million single jobs wait in a queue at Redis.
pub fn backlog(table: &mut Table) {
    let Some(brokers) = Brokers::start() else { return };
    let server = Server::start();
    keep(&server, "work", "jobs", &brokers.redis.url());
    server.ok(&["queue", "pause", "work"]);
    let file = lines(&server, "work", BACKLOG);
    let before = resident(server.pid());
    let began = Instant::now();
    server.ok(&["submit", "--file", file.to_str().unwrap()]);
    let rate = BACKLOG as f64 / began.elapsed().as_secs_f64();
    brokers.until("redis", "reeve:jobs:work", BACKLOG as u64 - super::jobs::AT_HAND);
    let took = began.elapsed().as_secs_f64();
    let grown = (resident(server.pid()) - before).max(0.0);
    table.row(
        "1,000,000 jobs on redis: coordinator RSS above an empty one",
        format!("{grown:.0} MiB"),
        format!("{before:.0} MiB empty"),
        "<= 30 MB",
        grown * 1.048_576 <= 30.0,
    );
    table.row(
        "the same: submitted; until all hints lie there",
        format!("{rate:.0} /s; {took:.1} s"),
        "-".into(),
        "-",
        true,
    );
}
