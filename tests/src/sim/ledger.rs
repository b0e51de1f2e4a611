//! What really happened: every simulated process writes down that it began and how it ended. At the end of a run this is
//! held against what the coordinator says.
use reeve_protocol::{AttemptId, Cause, TaskId};
use std::collections::{BTreeMap, BTreeSet};

/// One process.
#[derive(Clone, Debug)]
pub struct Run {
    /// Where.
    pub host: String,
    /// Virtual milliseconds.
    pub began: u64,
    /// How it ended.
    pub end: Option<Cause>,
    exclusive: bool,
}

/// Every process of a run.
#[derive(Default)]
pub struct Ledger {
    /// By attempt: one attempt has one process.
    pub runs: BTreeMap<AttemptId, Run>,
    alive: BTreeMap<TaskId, BTreeSet<AttemptId>>,
    /// Attempts on machines that were stopped as a whole: nobody can stop those.
    pub excused: BTreeSet<AttemptId>,
    /// Moments at which a task had two processes that were not exclusive.
    pub doubles: u64,
    /// What must never be.
    pub wrong: Vec<String>,
}

impl Ledger {
    /// A process exists.
    pub fn begins(&mut self, id: AttemptId, host: &str, exclusive: bool, now: u64) {
        let run = Run { host: host.to_owned(), began: now, end: None, exclusive };
        if let Some(first) = self.runs.insert(id, run) {
            self.wrong.push(format!(
                "attempt {id} was started twice: at {} on {}, now on {host}",
                first.began, first.host
            ));
        }
        let alive = self.alive.entry(id.task).or_default();
        let others: Vec<_> = alive.iter().filter(|other| !self.excused.contains(other)).copied().collect();
        if let Some(other) = others.first() {
            if exclusive {
                let at = &self.runs[other];
                self.wrong.push(format!(
                    "{id} began on {host} while {other} of the exclusive job runs on {} since {}",
                    at.host, at.began
                ));
            } else {
                self.doubles += 1;
            }
        }
        alive.insert(id);
    }

    /// Its tree is gone.
    pub fn ends(&mut self, id: AttemptId, cause: Cause) {
        if let Some(run) = self.runs.get_mut(&id) {
            run.end = Some(cause);
        }
        if let Some(alive) = self.alive.get_mut(&id.task) {
            alive.remove(&id);
        }
    }

    /// What runs on a machine cannot be stopped now, by anybody.
    pub fn excuse(&mut self, host: &str) {
        let runs = self.runs.iter().filter(|(_, r)| r.host == host && r.end.is_none() && r.exclusive);
        self.excused.extend(runs.map(|(id, _)| *id));
    }

    /// How many processes live.
    pub fn alive(&self) -> usize {
        self.alive.values().map(BTreeSet::len).sum()
    }
}
