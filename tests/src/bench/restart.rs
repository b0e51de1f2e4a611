//! How long a coordinator with a long history and a long queue takes to serve again.
use super::{Table, median};
use crate::http;
use crate::machine::Coordinator;
use crate::outage::Cluster;
use rustix::process::Signal;
use std::time::{Duration, Instant};

const FINISHED: i64 = 1_000_000;
const QUEUED: i64 = 100_000;
const ROUNDS: usize = 5;

/// A store of 1,000,000 finished and 100,000 queued single jobs; from the start of the process to its first answer.
pub fn restart(table: &mut Table) {
    let mut cluster = Cluster::start();
    cluster.ok(&["submit", "--hold", "--", "true"]);
    assert_eq!(cluster.c.stop(), Some(0));
    fill(&cluster.c);
    // The first start brings the file into memory and settles what was written by hand.
    start(&mut cluster);
    for (name, signal) in [("stopped", Signal::TERM), ("killed", Signal::KILL)] {
        let mut took = Vec::new();
        for _ in 0..ROUNDS {
            let daemon = cluster.c.daemon.take().expect("it runs");
            daemon.finish(signal);
            took.push(start(&mut cluster));
        }
        let took = median(took);
        table.row(
            &format!("restart after it was {name}, 1,000,000 ended + 100,000 queued"),
            format!("{took:.2} s"),
            "-".into(),
            "<= 2 s",
            took <= 2.0,
        );
    }
    let queued = http::get(&cluster.c.socket(), "/v1/stats").json()["counts"]["QUEUED"].as_i64();
    assert_eq!(queued, Some(QUEUED + 1), "it has taken in all of them");
}

/// From the start of the process until a call is answered.
fn start(cluster: &mut Cluster) -> f64 {
    let begin = Instant::now();
    cluster.again();
    let socket = cluster.c.socket();
    while http::get(&socket, "/v1/stats").status != 200 {
        std::thread::sleep(Duration::from_millis(2));
    }
    begin.elapsed().as_secs_f64()
}

/// Writes the rows that so many submits and ends would have written.
fn fill(c: &Coordinator) {
    let db = rusqlite::Connection::open(c.data().join("reeve.db")).expect("the store that was just closed");
    let last = FINISHED + 1;
    let sql = format!(
        "BEGIN;
         WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < {last})
         INSERT INTO jobs (id, owner_uid, owner, title, queue, state, cause, cause_kind, exit_code, attempt, created_at, started_at, ended_at, machine, spec)
         SELECT i, 0, 'root', 'python train.py --step ' || i, 'default', CASE WHEN i % 50 = 0 THEN 3 ELSE 2 END,
                CASE WHEN i % 50 = 0 THEN '{{\"kind\":\"exit\",\"code\":1}}' ELSE '{{\"kind\":\"ok\"}}' END,
                CASE WHEN i % 50 = 0 THEN 'exit' ELSE 'ok' END, CASE WHEN i % 50 = 0 THEN 1 ELSE 0 END, 1,
                1700000000000 + i, 1700000000000 + i, 1700000000000 + i, 'gpu-07',
                '{{\"command\":[\"python\",\"train.py\",\"--step\",\"' || i || '\"],\"cwd\":\"/home/ana/project\"}}' FROM n;
         WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < {last})
         INSERT INTO attempts (job, idx, attempt, machine_id, machine, dispatched_at, started_at, ended_at, pid, cause, exit_code, cpu_ms, rss_peak)
         SELECT i, -1, 1, '0123456789abcdef', 'gpu-07', 1700000000000 + i, 1700000000000 + i, 1700000000000 + i, 4242,
                '{{\"kind\":\"ok\"}}', 0, 10, 1000000 FROM n;
         WITH RECURSIVE n(i) AS (SELECT {last} + 1 UNION ALL SELECT i + 1 FROM n WHERE i < {last} + {QUEUED})
         INSERT INTO jobs (id, owner_uid, owner, title, queue, state, substate, created_at, spec)
         SELECT i, 0, 'root', 'python train.py --step ' || i, 'default', 0, 3, 1700000000000 + i,
                '{{\"command\":[\"python\",\"train.py\",\"--step\",\"' || i || '\"],\"cwd\":\"/home/ana/project\"}}' FROM n;
         COMMIT;
         PRAGMA wal_checkpoint(TRUNCATE);"
    );
    db.execute_batch(&sql).expect("the rows fit the schema");
}
