//! Static workers under load while their parts are killed one by one: no tracked request is lost or counts twice, each run of
//! one beyond the first is explained by a loss, and every call gets its own answer or a clear error.
#![allow(clippy::unwrap_used, reason = "tests")]

use reeve_tests::machine::Agent;
use reeve_tests::outage::{Cluster, keeper, kill, parent};
use reeve_tests::{binary, eventually, eventually_or, processes_with};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

/// Tracked requests of one test.
const JOBS: usize = 60;

struct Bench {
    cluster: Cluster,
    agent: Agent,
    jobs: Vec<String>,
    notes: PathBuf,
}

impl Bench {
    /// A machine with one ready replica, and jobs that are under way.
    fn start() -> Self {
        let cluster = Cluster::start();
        let agent = cluster.machine("m1");
        let dir = cluster.c.dir.path().to_owned();
        let (program, place) = (binary("modelbank"), dir.to_str().unwrap());
        let register =
            ["worker", "register", "bank", "--static", "--cpus", "0.1", "--max-ongoing", "4", "--"];
        let command = [program.to_str().unwrap(), "stdio", "--in", place];
        cluster.ok(&[&register[..], &command[..]].concat());
        cluster.ok(&["worker", "launch", "bank"]);
        let notes = dir.join("notes");
        let line = |k: usize| {
            let payload = json!({"note": notes, "k": k, "sleep_ms": 20});
            format!("{}\n", json!({"worker": "bank", "payload": payload}))
        };
        let file = dir.join("jobs.jsonl");
        std::fs::write(&file, (0..JOBS).map(line).collect::<String>()).unwrap();
        let bench = Self { cluster, agent, jobs: Vec::new(), notes };
        bench.until(|s| s["ready"] == 1);
        let answers = bench.cluster.ok(&["submit", "--file", file.to_str().unwrap(), "--json"]);
        let ids = answers.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok()?["id"].as_u64());
        let jobs: Vec<String> = ids.map(|id| id.to_string()).collect();
        assert_eq!(jobs.len(), JOBS);
        Self { jobs, ..bench }
    }

    fn status(&self) -> Value {
        let text = self.cluster.ok(&["worker", "show", "bank", "--json"]);
        serde_json::from_str::<Value>(&text).unwrap()["status"].clone()
    }

    fn until(&self, stands: impl Fn(&Value) -> bool) -> Value {
        eventually_or(|| format!("the bank: {}", self.status()), || Some(self.status()).filter(&stands))
    }

    /// The processes of the replica.
    fn bank(&self) -> Vec<u32> {
        processes_with(&["modelbank", self.cluster.c.dir.path().to_str().unwrap()])
    }

    /// How often each request was worked on, by the worker's own account.
    fn runs(&self) -> HashMap<u64, usize> {
        let text = std::fs::read_to_string(&self.notes).unwrap_or_default();
        let mut runs = HashMap::new();
        for k in text.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok()?["k"].as_u64()) {
            *runs.entry(k).or_default() += 1;
        }
        runs
    }

    /// Breaks something while jobs and calls are under way, then looks at the books. `survives`: whether the replica does.
    fn under_load(mut self, survives: bool, break_it: impl FnOnce(&mut Self)) {
        let before = self.bank();
        assert_eq!(before.len(), 1, "{before:?}");
        let done = AtomicBool::new(false);
        let socket = self.cluster.c.socket();
        let calls = std::thread::scope(|scope| {
            let caller = |first: u64| {
                let (socket, done) = (&socket, &done);
                scope.spawn(move || {
                    let mut outcomes = (0, 0);
                    for n in (first..).step_by(2) {
                        if done.load(Ordering::Relaxed) {
                            break;
                        }
                        let answered = call(socket, n);
                        outcomes = (outcomes.0 + usize::from(answered), outcomes.1 + usize::from(!answered));
                    }
                    outcomes
                })
            };
            let callers = [caller(1), caller(2)];
            eventually("some work", || (self.runs().len() > 10).then_some(()));
            break_it(&mut self);
            self.jobs_are_done_once();
            done.store(true, Ordering::Relaxed);
            callers.map(|caller| caller.join().unwrap())
        });
        assert!(calls.iter().all(|(answered, _)| *answered > 0), "{calls:?}");
        let status = self.until(|s| s["ready"] == 1);
        let attempt = status["replicas"][0]["attempt"].as_u64().unwrap();
        if survives {
            assert_eq!((self.bank(), attempt), (before, 1), "the replica is the same process");
        } else {
            assert!(self.bank() != before && attempt == 2, "{status}");
        }
        assert!(call(&socket, 7), "it answers");
        self.cluster.ok(&["worker", "stop", "bank"]);
        eventually("its processes to go", || self.bank().is_empty().then_some(()));
    }

    /// Every job has ended with its own result, and each attempt before the one that counts was lost.
    fn jobs_are_done_once(&self) {
        let mut attempts = HashMap::new();
        for id in &self.jobs {
            let job = self.cluster.until(id, "COMPLETED", "");
            let list = job["attempts"].as_array().unwrap();
            let causes: Vec<&str> = list.iter().filter_map(|a| a["cause"]["kind"].as_str()).collect();
            let (last, lost) = causes.split_last().unwrap();
            assert_eq!((*last, causes.len()), ("ok", list.len()), "{job}");
            assert!(lost.iter().all(|kind| ["worker_lost", "lost"].contains(kind)), "{job}");
            let k = job["spec"]["payload"]["k"].as_u64().unwrap();
            assert_eq!(job["result"]["k"], k, "the answer to its own question: {job}");
            attempts.insert(k, list.len());
        }
        for (k, runs) in self.runs() {
            let known = attempts[&k];
            assert!(runs <= known, "request {k} was worked on {runs} times in {known} attempts");
        }
        assert_eq!(self.runs().len(), JOBS, "each was worked on");
    }
}

/// A call that is answered with its own number, or refused with words; whether it was answered.
fn call(socket: &std::path::Path, n: u64) -> bool {
    let number = n.to_string();
    let words = ["worker", "call", "bank", &number, "--deadline", "30s"];
    let output = Command::new(binary("reeve"))
        .args(words)
        .env("REEVE_HOST", socket)
        .env("NO_COLOR", "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    match output.status.code() {
        Some(0) => assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), number),
        Some(1) => assert!(
            ["worker-lost", "no-replicas", "unavailable"].iter().any(|code| said.contains(code)),
            "{said}"
        ),
        // The coordinator is away.
        code => assert!(code == Some(125) && !said.trim().is_empty(), "{code:?}: {said}"),
    }
    output.status.success()
}

fn kill_agent(bench: &mut Bench) {
    bench.agent.daemon.take().unwrap().kill();
}

#[test]
fn a_killed_agent_loses_no_request() {
    Bench::start().under_load(true, |bench| {
        kill_agent(bench);
        bench.agent.run();
    });
}

#[test]
fn a_killed_coordinator_loses_no_request() {
    Bench::start().under_load(true, |bench| {
        bench.cluster.kill();
        bench.cluster.again();
    });
}

#[test]
fn agent_and_coordinator_killed_together_lose_no_request() {
    Bench::start().under_load(true, |bench| {
        kill_agent(bench);
        bench.cluster.kill();
        bench.agent.run();
        bench.cluster.again();
    });
}

#[test]
fn a_killed_keeper_loses_no_request() {
    Bench::start().under_load(true, |bench| kill(keeper(&bench.agent)));
}

#[test]
fn a_killed_guardian_costs_its_replica_and_loses_no_request() {
    Bench::start().under_load(false, |bench| kill(parent(bench.bank()[0])));
}

#[test]
fn a_killed_replica_is_started_again_and_loses_no_request() {
    Bench::start().under_load(false, |bench| kill(bench.bank()[0]));
}
