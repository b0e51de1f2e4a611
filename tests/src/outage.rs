//! A cluster whose parts are killed, stopped and put back by a test: who holds which attempt, what became of it, and what
//! the processes themselves say about how often they ran.
use crate::machine::{Agent, Coordinator};
use crate::{alive, eventually, eventually_or};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A coordinator by hand, at an address that it keeps.
pub struct Cluster {
    /// It.
    pub c: Coordinator,
    address: String,
}

impl Cluster {
    /// One without machines.
    pub fn start() -> Self {
        let c = Coordinator::start("127.0.0.1:0");
        let address = eventually("its address", || {
            let log = c.log();
            let at = log.split("listen=").nth(1)?;
            at.split_whitespace().next().map(|a| a.trim_matches('"').to_owned())
        });
        Self { c, address }
    }

    /// A machine that has joined and is up.
    pub fn machine(&self, name: &str) -> Agent {
        let agent = Agent::start(self.c.dir.path(), name, &self.c.token(), &[]);
        self.up(name);
        agent
    }

    /// Waits until a machine is up.
    pub fn up(&self, name: &str) {
        let state = || self.c.machine(name)["state"].as_str().map(str::to_owned);
        eventually_or(|| format!("{name} up, it is {:?}", state()), || (state()? == "up").then_some(()));
    }

    /// Kills the coordinator.
    pub fn kill(&mut self) {
        if let Some(mut daemon) = self.c.daemon.take() {
            daemon.kill();
        }
    }

    /// Starts it again where it was.
    pub fn again(&mut self) {
        let address = self.address.clone();
        let _ = std::fs::remove_file(self.c.socket());
        self.c.run(&address, &[]);
    }

    /// Submits; the job's number.
    pub fn submit(&self, words: &[&str]) -> String {
        self.ok(&[&["submit"], words].concat())
    }

    /// Submits a script that first puts its attempt and process on record, see [`Cluster::ran`].
    pub fn script(&self, options: &[&str], script: &str) -> String {
        let ledger = self.c.dir.path().join("ledger");
        let script = format!("echo $REEVE_JOB_ID.$REEVE_ATTEMPT $$ >> {}; {script}", ledger.display());
        self.submit(&[options, &["--", "sh", "-c", &script]].concat())
    }

    /// Every start of a job by its own account: `(attempt, process)`.
    pub fn ran(&self, id: &str) -> Vec<(u64, u32)> {
        let text = std::fs::read_to_string(self.c.dir.path().join("ledger")).unwrap_or_default();
        let line = |line: &str| {
            let (attempt, pid) = line.split_once(' ')?;
            let (job, attempt) = attempt.split_once('.')?;
            (job == id).then_some((attempt.parse().ok()?, pid.parse().ok()?))
        };
        text.lines().filter_map(line).collect()
    }

    /// The process of an attempt, once it is on record.
    pub fn process(&self, id: &str, attempt: u64) -> u32 {
        eventually_or(
            || format!("attempt {attempt} of job {id} to start; {}", self.c.job(id)),
            || self.ran(id).iter().find(|(n, _)| *n == attempt).map(|(_, pid)| *pid),
        )
    }

    /// Runs the command line; it must end well.
    pub fn ok(&self, words: &[&str]) -> String {
        let output = self.c.reeve(words);
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Waits until a job is in this state and substate (empty: any), and gives it.
    pub fn until(&self, id: &str, state: &str, substate: &str) -> Value {
        let is = |job: &Value| job["state"] == state && (substate.is_empty() || job["substate"] == substate);
        eventually_or(
            || format!("job {id} {state} {substate}; it is {}", self.c.job(id)),
            || Some(self.c.job(id)).filter(is),
        )
    }

    /// `(cause, late)` of each attempt, by their kinds; empty where there is none.
    pub fn attempts(&self, id: &str) -> Vec<(String, String)> {
        let kind = |value: &Value| value["kind"].as_str().unwrap_or("").to_owned();
        let job = self.c.job(id);
        let attempts = job["attempts"].as_array().cloned().unwrap_or_default();
        attempts.iter().map(|a| (kind(&a["cause"]), kind(&a["late"]))).collect()
    }

    /// Every event so far.
    pub fn events(&self) -> Vec<Value> {
        let text = self.ok(&["events", "--json"]);
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// How often a job is said to have come to a state.
    pub fn came_to(&self, id: &str, state: &str) -> usize {
        let id: u64 = id.parse().unwrap();
        // Neighbours that move in one step are one event.
        let has = |e: &Value| {
            e["id"]
                .as_u64()
                .is_some_and(|first| (first..first + e["count"].as_u64().unwrap_or(1)).contains(&id))
        };
        let is = |e: &&Value| has(e) && e["to"] == state && e["from"] != state;
        self.events().iter().filter(is).count()
    }

    /// A file for scripts to wait for.
    pub fn gate(&self, name: &str) -> PathBuf {
        self.c.dir.path().join(name)
    }
}

/// The wait of a script for a file.
pub fn until_file(path: &Path) -> String {
    format!("until test -e {}; do sleep 0.05; done", path.display())
}

/// Lets time pass: what is tested is that nothing happens in it.
pub fn pass(time: Duration) {
    let begin = Instant::now();
    eventually("time to pass", || (begin.elapsed() >= time).then_some(()));
}

/// Sends a signal to a process.
pub fn signal(pid: u32, signal: Signal) {
    if let Some(process) = Pid::from_raw(pid.cast_signed()).filter(|_| pid > 1) {
        let _ = kill_process(process, signal);
    }
}

/// Kills a process and waits until it is gone.
pub fn kill(pid: u32) {
    signal(pid, Signal::KILL);
    eventually("a killed process to go", || (!alive(pid)).then_some(()));
}

/// A process's parent.
pub fn parent(pid: u32) -> u32 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    parent.and_then(|p| p.trim().parse().ok()).unwrap_or(0)
}

/// The keepers and guardians of a machine: whoever was forked from `reeve-agent keeper` with its directory.
pub fn keepers(agent: &Agent) -> Vec<u32> {
    let dir = agent.dir.join("state").to_string_lossy().into_owned();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let is_ours = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        line.contains("\0keeper\0") && line.contains(&dir)
    };
    numbers.filter(is_ours).collect()
}

/// The keeper of a machine.
pub fn keeper(agent: &Agent) -> u32 {
    eventually("a keeper", || {
        let all = keepers(agent);
        // A guardian's parent is a keeper, or what adopts orphans; the keeper's is its agent or that.
        all.iter().copied().find(|pid| !all.contains(&parent(*pid)))
    })
}
