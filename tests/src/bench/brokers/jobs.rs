//! Jobs through brokers: how fast short ones run, and how fast waiting ones move.
use super::look::Brokers;
use super::{Table, keep, middle, ratio};
use crate::bench::{median, seconds};
use crate::eventually;
use crate::server::Server;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const JOBS: usize = 10_000;
const ROUNDS: usize = 3;
const WAITING: usize = 100_000;

/// Lines of `true` for one queue.
pub(super) fn lines(server: &Server, queue: &str, n: usize) -> PathBuf {
    let file = server.scratch().join(format!("{queue}.jsonl"));
    let mut out = std::io::BufWriter::new(std::fs::File::create(&file).unwrap());
    for _ in 0..n {
        writeln!(out, "{{\"command\":[\"true\"],\"queue\":\"{queue}\"}}").unwrap();
    }
    out.flush().unwrap();
    file
}

fn completed(server: &Server, queue: &str) -> u64 {
    let view = server.get(&format!("/v1/queues/{queue}")).json();
    view["counts"]["COMPLETED"].as_u64().unwrap_or(0)
}

/// 10,000 single jobs from their submit until the last has ended.
pub fn jobs(table: &mut Table) {
    let Some(brokers) = Brokers::start() else { return };
    let server = Server::start();
    let backends = brokers.backends();
    for (name, backend) in &backends {
        keep(&server, name, "jobs", backend);
        server.ok(&["submit", "--wait", "--queue", name, "--", "true"]);
    }
    let files = backends.each_ref().map(|(name, _)| lines(&server, name, JOBS));
    let mut rates: [Vec<f64>; 3] = Default::default();
    for _ in 0..ROUNDS {
        for (at, (name, _)) in backends.iter().enumerate() {
            let wanted = completed(&server, name) + JOBS as u64;
            let took = seconds(|| {
                server.ok(&["submit", "--file", files[at].to_str().unwrap()]);
                while completed(&server, name) < wanted {
                    std::thread::sleep(Duration::from_millis(10));
                }
            });
            rates[at].push(JOBS as f64 / took);
        }
    }
    let local = median(rates[0].clone());
    for (at, bar) in [(1, 0.9), (2, 0.75)] {
        let share = middle(&rates[at], &rates[0]);
        table.row(
            &format!("{JOBS} `true` through {}", backends[at].0),
            ratio(share * local, local),
            format!("{local:.0} jobs/s local"),
            &format!(">= {bar}"),
            share >= bar,
        );
    }
}

/// Jobs that the coordinator keeps at hand, and a few more that it reads.
pub(super) const AT_HAND: u64 = 4_096;

/// Waiting jobs go from one backend to the next, until each has its hint there, but for those at hand.
pub fn moves(table: &mut Table) {
    let Some(brokers) = Brokers::start() else { return };
    let server = Server::start();
    keep(&server, "work", "jobs", "local");
    server.ok(&["queue", "pause", "work"]);
    server.ok(&["submit", "--file", lines(&server, "work", WAITING).to_str().unwrap()]);
    let backends = brokers.backends();
    let ready = || server.get("/v1/queues/work/count").json()["ready"].as_u64();
    for (from, to) in [(0, 1), (1, 2), (2, 0)] {
        let (name, backend) = &backends[to];
        let began = Instant::now();
        server.ok(&["queue", "migrate", "work", "--to", backend]);
        if *name != "local" {
            // What is at hand when a broker is used for the first time stays there.
            brokers.until(name, "reeve:jobs:work", WAITING as u64 - AT_HAND);
        }
        let took = began.elapsed().as_secs_f64();
        assert_eq!(ready(), Some(WAITING as u64), "the counts are balanced");
        table.row(
            &format!("{WAITING} waiting jobs, {} -> {name}", backends[from].0),
            format!("{took:.2} s"),
            "-".into(),
            "<= 10 s",
            took <= 10.0,
        );
    }
    server.ok(&["queue", "resume", "work"]);
    eventually("jobs run", || (completed(&server, "work") > 100).then_some(()));
    server.ok(&["queue", "clean", "work"]);
}
