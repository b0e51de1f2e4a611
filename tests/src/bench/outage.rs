//! What an outage costs: of the coordinator under load, and of the agent in the middle of a job that writes.
use super::Table;
use crate::eventually;
use crate::outage::{Cluster, pass, until_file};
use std::time::{Duration, Instant};

const AWAY: Duration = Duration::from_mins(1);
const KILLS: usize = 50;
const LONG: usize = 20;

/// The coordinator is gone for a minute while jobs run and wait: how many run again, and how long nothing is dispatched.
pub fn outage(table: &mut Table) {
    let mut cluster = Cluster::start();
    let _box = cluster.machine("box");
    let gate = cluster.gate("gate");
    let long: Vec<String> =
        (0..LONG).map(|_| cluster.script(&["--cpus", "0.01"], &until_file(&gate))).collect();
    for id in &long {
        cluster.process(id, 1);
    }
    // More than can be done: there is something to dispatch at every moment.
    let load = cluster.submit(&["--array", "1-1000000", "--cpus", "0.5", "--", "true"]);
    let ended =
        |cluster: &Cluster| cluster.c.job(&load)["array"]["counts"]["COMPLETED"].as_u64().unwrap_or(0);
    eventually("the load to run", || (ended(&cluster) > 100).then_some(()));
    cluster.kill();
    pass(AWAY);
    cluster.again();
    let back = Instant::now();
    let before = ended(&cluster);
    // What ended unheard is told first; only dispatch brings more than what was under way.
    let mut last = (before, back);
    let mut longest = Duration::ZERO;
    while back.elapsed() < Duration::from_secs(10) {
        let now = ended(&cluster);
        if now > last.0 {
            longest = longest.max(last.1.elapsed());
            last = (now, Instant::now());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    longest = longest.max(last.1.elapsed());
    std::fs::write(&gate, "").expect("a file in our directory");
    let again: usize = long
        .iter()
        .map(|id| {
            cluster.until(id, "COMPLETED", "");
            cluster.ran(id).len() - 1
        })
        .sum();
    cluster.ok(&["cancel", &load]);
    let pause = longest.as_secs_f64();
    table.row(
        "coordinator away for 60 s: jobs run again",
        format!("{again} of {LONG}"),
        "-".into(),
        "0",
        again == 0,
    );
    table.row(
        "the same: longest pause after its return",
        format!("{pause:.2} s"),
        "-".into(),
        "<= 3 s",
        pause <= 3.0,
    );
}

/// The agent is killed again and again while a job writes numbered lines.
pub fn agent_kill(table: &mut Table) {
    let cluster = Cluster::start();
    let mut agent = cluster.machine("box");
    let gate = cluster.gate("gate");
    let script = format!(
        "i=0; until test -e {}; do i=$((i+1)); echo $i; done; echo $i > {}.count",
        gate.display(),
        gate.display()
    );
    let id = cluster.script(&[], &script);
    cluster.process(&id, 1);
    for round in 2..KILLS + 2 {
        if let Some(daemon) = agent.daemon.as_mut() {
            daemon.kill();
        }
        agent.run();
        eventually("it is back", || (agent.log().matches("connected name").count() >= round).then_some(()));
    }
    std::fs::write(&gate, "").expect("a file in our directory");
    cluster.until(&id, "COMPLETED", "");
    let count = std::fs::read_to_string(gate.with_extension("count")).unwrap_or_default();
    let written: usize =
        (1..=count.trim().parse::<usize>().unwrap_or(0)).map(|n| n.to_string().len() + 1).sum();
    let log = cluster.c.reeve(&["logs", &id]).stdout;
    let kept = log.len();
    let whole = written > 0
        && kept == written
        && log
            .split(|b| *b == b'\n')
            .zip(1..=count.trim().parse().unwrap_or(0))
            .all(|(line, n): (&[u8], usize)| line == n.to_string().as_bytes());
    table.row(
        &format!("agent killed {KILLS} times under a job that writes: bytes lost"),
        format!("{} of {written}", written.abs_diff(kept)),
        "-".into(),
        "0",
        whole && cluster.ran(&id).len() == 1,
    );
}
