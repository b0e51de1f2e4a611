//! The benchmark: every figure beside its raw limit, measured in the same run and interleaved with it, so that ratios
//! hold on noisy machines. Run it with `tests/bench`; nothing here fails a test.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::missing_panics_doc,
    reason = "a benchmark, not the product"
)]

use reeve_tests::bench::{
    Table, agents, brokers, cpu_ticks, git, keeper_of, median, outage, pss, restart, seconds, workers,
};
use reeve_tests::children_named;
use reeve_tests::server::Server;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

const ROUNDS: usize = 5;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let only = |name: &str| words.is_empty() || words.iter().any(|w| w == name);
    let mut table = Table::default();
    if only("array") {
        array(&mut table);
    }
    if only("wait") {
        submit_wait(&mut table);
    }
    if only("submits") {
        separate_submits(&mut table);
    }
    if only("ndjson") {
        ndjson(&mut table);
    }
    if only("million") {
        million(&mut table);
    }
    if only("idle") {
        idle(&mut table);
    }
    if only("restart") {
        restart::restart(&mut table);
    }
    if only("agents") {
        agents::agents(&mut table);
    }
    if only("outage") {
        outage::outage(&mut table);
    }
    if only("agent-kill") {
        outage::agent_kill(&mut table);
    }
    if only("git") {
        git::git(&mut table);
    }
    if only("tracked") {
        workers::tracked(&mut table);
    }
    if only("calls") {
        workers::calls(&mut table);
    }
    if only("roundtrip") {
        workers::roundtrip(&mut table);
    }
    if only("static-idle") {
        workers::idle(&mut table);
    }
    for (word, run) in brokers::ALL {
        if only(word) || words.iter().any(|w| w == "brokers") {
            run(&mut table);
        }
    }
    print!("{}", table.text());
}

/// `posix_spawn` and `waitpid` of `/bin/true`, `n` times.
#[expect(unsafe_code, reason = "the raw limit is the bare system call, without what std adds")]
fn spawn_loop(n: usize) {
    let path = c"/bin/true";
    let argv = [path.as_ptr().cast_mut(), std::ptr::null_mut()];
    let envp = [std::ptr::null_mut()];
    for _ in 0..n {
        let mut pid = 0;
        let mut status = 0;
        // SAFETY: every pointer is to a live, NUL-terminated value or a NULL-terminated array.
        let rc = unsafe {
            libc::posix_spawn(
                &raw mut pid,
                path.as_ptr(),
                std::ptr::null(),
                std::ptr::null(),
                argv.as_ptr(),
                envp.as_ptr(),
            )
        };
        assert_eq!(rc, 0);
        // SAFETY: `pid` is our own child.
        unsafe { libc::waitpid(pid, &raw mut status, 0) };
    }
}

/// The raw limit of running processes: two loops at once.
fn spawn_rate(n: usize) -> f64 {
    let took = seconds(|| {
        std::thread::scope(|scope| {
            scope.spawn(|| spawn_loop(n / 2));
            scope.spawn(|| spawn_loop(n / 2));
        });
    });
    n as f64 / took
}

/// 10,000 `true` as one array through one agent with two cpus, durable, output kept.
fn array(table: &mut Table) {
    const N: usize = 10_000;
    let server = Server::start();
    let words = format!("1-{N}");
    let (mut ours, mut raw) = (Vec::new(), Vec::new());
    server.ok(&["submit", "--wait", "--array", "1-500", "--", "true"]);
    for _ in 0..ROUNDS {
        raw.push(spawn_rate(N / 2));
        ours.push(
            N as f64
                / seconds(|| {
                    server.ok(&["submit", "--wait", "--array", &words, "--", "true"]);
                }),
        );
    }
    let ratio = median(ours.iter().zip(&raw).map(|(a, b)| a / b).collect());
    let (ours, raw) = (median(ours), median(raw));
    table.row(
        "array of 10,000 true",
        format!("{ours:.0} jobs/s = {ratio:.2}"),
        format!("{raw:.0} spawn+wait/s"),
        ">= 0.6",
        ratio >= 0.6,
    );
}

/// `reeve submit --wait -- true` as a whole process, beside `reeve --version` and a bare spawn.
fn submit_wait(table: &mut Table) {
    let server = Server::start();
    let (mut ours, mut version, mut spawn) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..60 {
        ours.push(1e3 * seconds(|| drop(server.ok(&["submit", "--wait", "--", "true"]))));
        version.push(1e3 * seconds(|| drop(server.ok(&["--version"]))));
        spawn.push(1e3 * seconds(|| spawn_loop(1)));
    }
    let (ours, version, spawn) = (median(ours), median(version), median(spawn));
    table.row(
        "submit --wait -- true, median",
        format!("{ours:.1} ms"),
        format!("{version:.1} + {spawn:.1} ms"),
        "<= 10 ms",
        ours <= 10.0,
    );
    let above = ours - version - spawn;
    table.row(
        "the same above --version + spawn",
        format!("{above:.1} ms"),
        "-".into(),
        "<= 4 ms",
        above <= 4.0,
    );
}

/// 200 `reeve submit -- true`, one process each, two at a time.
fn separate_submits(table: &mut Table) {
    let server = Server::start();
    server.ok(&["queue", "set", "default"]);
    server.ok(&["queue", "pause", "default"]);
    let xargs = |words: &[&str]| {
        let command = server.command(words);
        let line: Vec<String> = std::iter::once(command.get_program())
            .chain(command.get_args())
            .map(|w| w.to_string_lossy().into_owned())
            .collect();
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(format!("seq 200 | xargs -P2 -n1 {} >/dev/null", line.join(" ")));
        for (key, value) in command.get_envs() {
            if let Some(value) = value {
                shell.env(key, value);
            }
        }
        200.0 / seconds(|| assert!(shell.stdin(Stdio::null()).status().unwrap().success()))
    };
    let (mut ours, mut raw) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        raw.push(xargs(&["--version"]));
        ours.push(xargs(&["submit", "--", "true"]));
    }
    let (ours, raw) = (median(ours), median(raw));
    table.row(
        "200 submits, xargs -P2",
        format!("{ours:.0} /s"),
        format!("{raw:.0} --version/s"),
        ">= 400 /s",
        ours >= 400.0,
    );
}

/// An NDJSON stream of 200,000 lines, each answered after its own commit; beside SQLite's bare insert of such rows.
fn ndjson(table: &mut Table) {
    const N: usize = 200_000;
    let server = Server::start();
    server.ok(&["queue", "set", "default"]);
    server.ok(&["queue", "pause", "default"]);
    let file = server.scratch().join("jobs.jsonl");
    let mut out = std::io::BufWriter::new(std::fs::File::create(&file).unwrap());
    for _ in 0..N {
        out.write_all(b"{\"command\":[\"true\"]}\n").unwrap();
    }
    out.flush().unwrap();
    let (mut ours, mut raw) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        raw.push(insert_rate(server.scratch(), N));
        ours.push(N as f64 / seconds(|| drop(server.ok(&["submit", "--file", file.to_str().unwrap()]))));
        server.ok(&["queue", "clean", "default"]);
    }
    let (ours, raw) = (median(ours), median(raw));
    table.row(
        "NDJSON, each line durable",
        format!("{ours:.0} lines/s"),
        format!("{raw:.0} bare inserts/s"),
        ">= 50,000 /s",
        ours >= 50_000.0,
    );
}

/// The same rows into the same schema, a thousand per synced transaction, nothing else.
fn insert_rate(dir: &std::path::Path, n: usize) -> f64 {
    let path = dir.join("raw.db");
    let _ = std::fs::remove_file(&path);
    let mut db = rusqlite::Connection::open(&path).unwrap();
    db.execute_batch("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;").unwrap();
    for sql in reeve_coordinator::store::open::MIGRATIONS {
        db.execute_batch(sql).unwrap();
    }
    let took = seconds(|| {
        for chunk in 0..n / 1000 {
            let tx = db.transaction().unwrap();
            {
                let mut insert = tx
                    .prepare_cached("INSERT INTO jobs (id, owner_uid, owner, title, queue, state, substate, created_at, spec) VALUES (?1, 0, 'u', 'true', 'default', 0, 3, 1, ?2)")
                    .unwrap();
                for at in 0..1000 {
                    insert.execute(((chunk * 1000 + at + 1) as i64, "{\"command\":[\"true\"]}")).unwrap();
                }
            }
            tx.commit().unwrap();
        }
    });
    n as f64 / took
}

/// One array of a million tasks: from request to answer, and what it costs in memory.
fn million(table: &mut Table) {
    let server = Server::start();
    server.ok(&["queue", "set", "default"]);
    server.ok(&["queue", "pause", "default"]);
    let before = pss(server.pid());
    let mut took = Vec::new();
    for _ in 0..9 {
        took.push(
            1e3 * seconds(|| {
                assert_eq!(
                    server.post("/v1/jobs", r#"{"command":["true"],"array":{"from":1,"to":1000000}}"#).status,
                    201
                );
            }),
        );
    }
    let grown = (pss(server.pid()) - before).max(0.0) / 9.0;
    let took = median(took);
    table.row("array of 1,000,000: submit", format!("{took:.1} ms"), "-".into(), "<= 20 ms", took <= 20.0);
    table.row("array of 1,000,000: memory", format!("{grown:.2} MB"), "-".into(), "<= 5 MB", grown <= 5.0);
}

/// Idle: coordinator and agent as processes of their own, one minute after the start.
fn idle(table: &mut Table) {
    use reeve_tests::machine::{Coordinator, Daemon, agent};
    let mut coordinator = Coordinator::start("127.0.0.1:0");
    let dir = coordinator.dir.path().join("agent");
    let token = coordinator.dir.path().join("token");
    std::fs::write(&token, coordinator.token()).unwrap();
    let join = agent(&dir, &["join", "127.0.0.1", "--token-file", token.to_str().unwrap()]).output().unwrap();
    assert!(join.status.success(), "{}", String::from_utf8_lossy(&join.stderr));
    let config = coordinator.dir.path().join("agent.toml");
    std::fs::write(&config, "allow_root = true\n").unwrap();
    let daemon = Daemon::spawn(
        agent(&dir, &["run", "--config", config.to_str().unwrap()]),
        &coordinator.dir.path().join("agent.log"),
    );
    let done = coordinator.reeve(&["submit", "--wait", "--", "true"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    std::thread::sleep(Duration::from_mins(1));
    let pid = coordinator.daemon.as_ref().unwrap().pid();
    let keeper = keeper_of(&dir);
    let zygote = children_named(keeper, "reeve-zygote");
    let pids = [pid, daemon.pid(), keeper];
    let before: Vec<f64> = pids.iter().map(|p| cpu_ticks(*p)).collect();
    std::thread::sleep(Duration::from_mins(1));
    let share: Vec<f64> = pids.iter().zip(before).map(|(p, b)| (cpu_ticks(*p) - b) / 60.0).collect();
    let (c, a) = (pss(pid), [daemon.pid(), keeper].iter().chain(&zygote).map(|pid| pss(*pid)).sum::<f64>());
    table.row("idle Pss: coordinator", format!("{c:.1} MB"), "-".into(), "<= 20 MB", c <= 20.0);
    table.row("idle Pss: agent + keeper + zygote", format!("{a:.1} MB"), "-".into(), "<= 15 MB", a <= 15.0);
    let (c, a) = (share[0], share[1] + share[2]);
    table.row("idle CPU: coordinator", format!("{c:.3} %"), "-".into(), "<= 0.05 %", c <= 0.05);
    table.row("idle CPU: agent + keeper", format!("{a:.3} %"), "-".into(), "<= 0.05 %", a <= 0.05);
    coordinator.daemon = None;
}
