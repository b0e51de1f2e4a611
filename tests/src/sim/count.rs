//! What a run has exercised. A path that no seed ever took is a hole in the simulator, and fails its test.
use reeve_protocol::wire::Verdict;
use reeve_protocol::{AttemptId, Cause, State, Substate};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// Faults and paths that a long run must have met.
pub const PATHS: [&str; 102] = [
    "fault: session broken",
    "fault: partition",
    "fault: partition of one direction",
    "fault: slow network",
    "fault: agent killed",
    "fault: keeper killed",
    "fault: guardian killed",
    "fault: machine rebooted",
    "fault: machine frozen",
    "fault: machine resized",
    "fault: coordinator killed before a commit",
    "fault: coordinator killed with nothing released",
    "fault: coordinator killed with half released",
    "fault: coordinator killed with all released",
    "fault: coordinator frozen",
    "fault: wall clock set",
    "fault: broker killed",
    "fault: broker frozen",
    "fault: broker flushed",
    "fault: disk full",
    "fault: gpu sick",
    "gpu held",
    "gpu shared",
    "gpu unfit, attempt given back",
    "hints at the broker",
    "parked jobs read",
    "parked jobs read to be cancelled",
    "lost",
    "revived after the loss",
    "fence",
    "late outcome",
    "attempt given back",
    "adopted by a new keeper",
    "frame of an older session",
    "process doubled after a loss",
    "verdict Keep",
    "verdict Fence",
    "verdict Report",
    "verdict Orphan",
    "stop",
    "revoke",
    "ended ok",
    "ended exit",
    "ended signal",
    "ended timeout",
    "ended lost",
    "ended cancelled",
    "ended rebooted",
    "ended drained",
    "ended keeper_lost",
    "ended reported",
    "state QUEUED held",
    "state QUEUED delayed",
    "state QUEUED waiting",
    "state QUEUED retrying",
    "state QUEUED assigned",
    "state RUNNING running",
    "state RUNNING unconfirmed",
    "state RUNNING cancelling",
    "state COMPLETED",
    "state FAILED",
    "state CANCELLED",
    "ended, output follows",
    "machine takes no jobs",
    "files to collect",
    "files kept",
    "call submitted",
    "call replayed",
    "call cancelled",
    "call restarted",
    "call held",
    "call released",
    "call received a job",
    "call received a message",
    "call settled",
    "call refused",
    "call refused: disk full",
    "delivery held, disk full",
    "call published many",
    "jobs moved",
    "messages moved",
    "job of another program",
    "call read again",
    "tracked job at a replica",
    "two versions of a worker",
    "worker replaced",
    "worker loaded",
    "worker unloaded",
    "worker scaled_up",
    "worker scaled_down",
    "request taken back",
    "request to no replica",
    "answers of a session before",
    "answer said twice",
    "ended worker_lost",
    "ended error",
    "worker called",
    "worker called: busy",
    "worker called: worker-lost",
    "worker called: deadline-exceeded",
    "worker called: no-replicas",
    "restore compared",
];

/// Counters by name.
#[derive(Clone, Debug, Default)]
pub struct Count {
    /// Steps that were decided.
    pub steps: u64,
    /// Inputs that were decided.
    pub inputs: u64,
    /// Invariants that were walked.
    pub checks: u64,
    /// By name.
    pub hits: BTreeMap<String, u64>,
    /// Attempts that were taken for lost.
    pub was_lost: BTreeSet<AttemptId>,
}

impl Count {
    /// One more.
    pub fn hit(&mut self, what: &str) {
        self.add(what, 1);
    }

    /// So many more.
    pub fn add(&mut self, what: &str, n: u64) {
        match self.hits.get_mut(what) {
            Some(count) => *count += n,
            None => drop(self.hits.insert(what.to_owned(), n)),
        }
    }

    pub(super) fn cause(&mut self, cause: &Cause) {
        self.hit(&format!("ended {}", cause.kind()));
    }

    pub(super) fn verdict(&mut self, verdict: Verdict) {
        self.hit(&format!("verdict {verdict:?}"));
    }

    pub(super) fn state(&mut self, state: State, substate: Option<Substate>) {
        self.hit(&match substate {
            Some(substate) => format!("state {state} {substate}"),
            None => format!("state {state}"),
        });
    }

    /// Adds another run's.
    pub fn merge(&mut self, other: &Self) {
        self.steps += other.steps;
        self.inputs += other.inputs;
        self.checks += other.checks;
        for (what, n) in &other.hits {
            self.add(what, *n);
        }
    }

    /// The paths that were never taken.
    pub fn missed(&self) -> Vec<&'static str> {
        PATHS.into_iter().filter(|path| !self.hits.contains_key(*path)).collect()
    }

    /// For people.
    pub fn table(&self) -> String {
        let mut text = format!(
            "{} steps, {} inputs, {} walks over the invariants\n",
            self.steps, self.inputs, self.checks
        );
        for (what, n) in &self.hits {
            let _ = writeln!(text, "{n:>10}  {what}");
        }
        text
    }
}
