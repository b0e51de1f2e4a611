//! The JSON of the API (CONTRACT, section JSON). Fields are only ever added. Clients ignore fields they do not know;
//! requests with unknown fields are refused.
mod cluster;
mod queues;
mod workers;

pub use cluster::*;
pub use queues::*;
pub use workers::*;

use crate::cause::Cause;
use crate::ids::JobId;
use crate::spec::JobSpec;
use crate::state::{State, Substate};
use crate::time::Wall;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// Counts per state. Every state is always present.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE", default)]
pub struct StateCounts {
    /// Waiting, for whatever.
    pub queued: u64,
    /// With an attempt.
    pub running: u64,
    /// Ended well.
    pub completed: u64,
    /// Ended badly.
    pub failed: u64,
    /// Ended on request.
    pub cancelled: u64,
}

impl StateCounts {
    /// The counter of a state.
    pub const fn get(&self, state: State) -> u64 {
        match state {
            State::Queued => self.queued,
            State::Running => self.running,
            State::Completed => self.completed,
            State::Failed => self.failed,
            State::Cancelled => self.cancelled,
        }
    }

    /// The counter of a state, to change.
    pub const fn get_mut(&mut self, state: State) -> &mut u64 {
        match state {
            State::Queued => &mut self.queued,
            State::Running => &mut self.running,
            State::Completed => &mut self.completed,
            State::Failed => &mut self.failed,
            State::Cancelled => &mut self.cancelled,
        }
    }

    /// Moves `n` from one state to another.
    pub const fn shift(&mut self, from: State, to: State, n: u64) {
        *self.get_mut(from) -= n;
        *self.get_mut(to) += n;
    }

    /// The sum.
    pub const fn total(&self) -> u64 {
        self.queued + self.running + self.completed + self.failed + self.cancelled
    }

    /// Those that have ended.
    pub const fn ended(&self) -> u64 {
        self.completed + self.failed + self.cancelled
    }
}

/// The answer to `submit`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submitted {
    /// The job.
    pub id: JobId,
    /// QUEUED.
    pub state: State,
    /// Why it waits.
    pub substate: Option<Substate>,
    /// The number of the event that registered it: subscribe from here without a gap.
    pub seq: u64,
    /// Whether its queue was made by this call.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub created: bool,
}

/// The answer to a JSON array of jobs: all or nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubmittedMany {
    /// First id.
    pub first: JobId,
    /// Last id; all between belong to this call.
    pub last: JobId,
    /// As in [`Submitted`].
    pub seq: u64,
}

/// One line of the answer to NDJSON, in order, each after its own commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineReply {
    /// From 1.
    pub line: u64,
    /// The job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<JobId>,
    /// Or what is wrong with the line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<crate::Problem>,
}

/// A job as it is shown: `GET /v1/jobs/{id}` and each item of a list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobView {
    /// Its number.
    pub id: JobId,
    /// The caller's own name, without the `@`.
    pub alias: Option<String>,
    /// For people.
    pub name: Option<String>,
    /// Who submitted it.
    pub owner: String,
    /// Where it waits or waited.
    pub queue: String,
    /// An array's state: RUNNING while any task runs, QUEUED while any waits, else the worst end.
    pub state: State,
    /// What it waits for or does.
    pub substate: Option<Substate>,
    /// Why it ended.
    pub cause: Option<Cause>,
    /// The current attempt; 0 before the first.
    pub attempt: u32,
    /// Higher first.
    pub priority: i32,
    /// When it was submitted.
    pub created_at: Wall,
    /// When its first attempt started.
    #[serde(default)]
    pub started_at: Option<Wall>,
    /// When it ended.
    #[serde(default)]
    pub ended_at: Option<Wall>,
    /// When it may start, if that is in the future.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_at: Option<Wall>,
    /// The machine of the current attempt.
    #[serde(default)]
    pub machine: Option<String>,
    /// Oldest first. Left out in lists.
    #[serde(default)]
    pub attempts: Vec<AttemptView>,
    /// 0 to 1.
    pub progress: Option<f64>,
    /// What the job said last.
    #[serde(default)]
    pub message: Option<String>,
    /// What somebody should look at while it runs: `idle-gpu` or `silent`, with words behind a colon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
    /// What it left behind.
    pub result: Option<Value>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// As submitted, defaults left out.
    pub spec: JobSpec,
    /// What `register_job` kept beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub definition: Option<Value>,
    /// For arrays, and only for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub array: Option<ArrayView>,
    /// For a task of an array.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<u32>,
    /// For a list item: the task of an array is shown as `7.3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
}

/// What an array has beside a job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArrayView {
    /// How many tasks.
    pub total: u64,
    /// Tasks per state.
    pub counts: StateCounts,
    /// First index.
    #[serde(default)]
    pub from: u32,
    /// Last index.
    #[serde(default)]
    pub to: u32,
    /// At most this many at once.
    #[serde(default)]
    pub limit: Option<u32>,
}

/// One attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AttemptView {
    /// From 1.
    pub attempt: u32,
    /// For a task of an array.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<u32>,
    /// The machine's name, or `consumer:USER`.
    pub machine: String,
    /// When it was handed out.
    #[serde(default)]
    pub dispatched_at: Option<Wall>,
    /// When its process started.
    pub started_at: Option<Wall>,
    /// When it ended.
    pub ended_at: Option<Wall>,
    /// Why.
    pub cause: Option<Cause>,
    /// The kernel's, when there was one.
    pub exit_code: Option<i32>,
    /// Cpu time of its tree, in seconds.
    pub cpu_s: f64,
    /// Largest resident set, in bytes.
    pub rss_peak_bytes: u64,
    /// Its first process.
    #[serde(default)]
    pub pid: Option<u32>,
    /// Bytes of output kept.
    #[serde(default)]
    pub output_bytes: u64,
    /// Files that it left and that are kept.
    #[serde(default)]
    pub artifacts: u32,
    /// Bytes of these.
    #[serde(default)]
    pub artifact_bytes: u64,
    /// UUIDs of the gpus it got.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gpus: Vec<String>,
    /// How it ended after a newer attempt had been dispatched; without effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub late: Option<Cause>,
}

/// A file that an attempt left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArtifactView {
    /// Of which attempt.
    pub attempt: u32,
    /// The file.
    #[serde(flatten)]
    pub file: crate::artifact::Artifact,
}

/// A page of a list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct List<T> {
    /// `v1`.
    pub api: String,
    /// `JobList`, `QueueList`, `MachineList`, `WorkerList`.
    pub kind: String,
    /// The page.
    pub items: Vec<T>,
    /// The cursor of the next page.
    pub next: Option<String>,
    /// How many there are.
    pub total: Total,
}

impl<T> List<T> {
    /// A page of the given kind.
    pub fn new(kind: &str, items: Vec<T>, next: Option<String>, total: Total) -> Self {
        Self { api: "v1".to_owned(), kind: kind.to_owned(), items, next, total }
    }
}

/// How many there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Total {
    /// The count.
    pub value: u64,
    /// Whether it is that, or only at least that.
    pub exact: bool,
}

/// Something that became true. One line of `/v1/events`. A run of like events of neighbouring jobs, or of tasks of one
/// array, is one event with `count` or `indices`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Gapless, from 1.
    pub seq: u64,
    /// When.
    pub at: Wall,
    /// `job`, `queue`, `message`, `machine`, `worker`, `token`, `plan`, `coordinator`.
    pub kind: String,
    /// The job; the first of `count`.
    #[serde(default)]
    pub id: Option<JobId>,
    /// The task, when it is one.
    #[serde(default)]
    pub index: Option<u32>,
    /// Several tasks of one array: `1-4,7`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub indices: Option<String>,
    /// How many neighbouring jobs, when more than one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// The attempt.
    #[serde(default)]
    pub attempt: Option<u32>,
    /// The state before.
    #[serde(default)]
    pub from: Option<State>,
    /// The state after.
    #[serde(default)]
    pub to: Option<State>,
    /// The substate after.
    #[serde(default)]
    pub substate: Option<Substate>,
    /// Why.
    #[serde(default)]
    pub cause: Option<Cause>,
    /// `user:ana`, `agent:gpu-07`, `consumer:ana`, `coordinator`.
    pub actor: String,
    /// What it is about when it is not a job: a queue's, machine's or worker's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The verb when it is not a change of state: `created`, `paused`, `joined`, `disconnected`..
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub what: Option<String>,
}

/// `GET /v1/whoami`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhoAmI {
    /// The kernel's word.
    pub uid: u32,
    /// Its name.
    pub name: String,
    /// Whether it may change anything.
    pub role: String,
}

/// `GET /v1/health` and `reeve status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Health {
    /// `ok` or `degraded`.
    pub status: String,
    /// Why it is degraded.
    pub reasons: Vec<String>,
    /// The coordinator's version.
    pub version: String,
    /// The cluster's id.
    pub cluster: String,
    /// The store's lineage.
    pub lineage: String,
    /// Counts starts.
    pub epoch: u64,
    /// The last event.
    pub seq: u64,
    /// Its process.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime_s: f64,
    /// Bytes of the store, its log included.
    pub store_bytes: u64,
    /// Bytes of output kept.
    pub output_bytes: u64,
    /// Where agents connect, UDP.
    pub listen: String,
    /// The data directory.
    pub dir: String,
}

/// `GET /version`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// The coordinator's version.
    pub version: String,
    /// Versions of the API: `["v1"]`.
    pub api: Vec<String>,
}

/// The body of `POST /v1/views`: rows that stay up to date.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ViewRequest {
    /// `jobs`; `tasks` with `id` for the tasks of one array.
    pub of: String,
    /// As in lists.
    pub filter: String,
    /// As in lists: `id`, `-id`, `priority`, `-priority`, `name`, `created`..
    pub order: String,
    /// Rows left out at the top.
    pub offset: u64,
    /// Rows wanted, 1 to 500.
    pub limit: u32,
    /// Least milliseconds between two changes, 100 to 10,000; 0 means 500.
    pub every_ms: u32,
    /// The array, with `of: tasks`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<JobId>,
}

/// One line of a view: the first carries every row, later ones only what changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ViewUpdate {
    /// `snapshot`, `diff` or `beat`.
    pub kind: String,
    /// The last event this takes into account.
    pub seq: u64,
    /// How many rows match.
    pub total: Total,
    /// The ids of the window, in order; absent in a beat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<Vec<RowId>>,
    /// New or changed rows.
    #[serde(default)]
    pub rows: Vec<JobView>,
}

/// What identifies a row: a job, or a task of an array.
pub type RowId = (JobId, Option<u32>);

/// One piece of a log in JSON: `GET /v1/jobs/{id}/logs` with `Accept: application/x-ndjson`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// The tape's byte after this piece: ask `from` here to go on.
    pub next: u64,
    /// When it was written.
    pub at: Option<Wall>,
    /// `stdout`, `stderr` or `gap`.
    pub stream: String,
    /// What was written; invalid UTF-8 replaced.
    pub text: String,
    /// For a gap: bytes left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<u64>,
}

/// The answer to `machine token`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenReply {
    /// One line, shown once.
    pub token: String,
    /// When it stops working.
    pub expires_at: Wall,
}

/// One verdict of `why`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhyLine {
    /// The machine, or absent for the job itself.
    pub machine: Option<String>,
    /// In a sentence.
    pub text: String,
}

/// `GET /v1/jobs/{id}/why`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Why {
    /// The job.
    pub id: JobId,
    /// Its state.
    pub state: State,
    /// Its substate.
    pub substate: Option<Substate>,
    /// Most important first.
    pub reasons: Vec<WhyLine>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delivery_is_told_apart_by_its_fields() {
        let message = r#"{"id":"12","queue":"msgs","body":{"a":1},"headers":{},"priority":0,"deliveries":1,"lease":"x","lease_until":"2026-11-24T10:00:00Z"}"#;
        assert!(
            matches!(serde_json::from_str::<Delivery>(message).unwrap(), Delivery::Message(m) if m.id == "12")
        );
    }

    #[test]
    fn counters_are_spelt_as_states() {
        let json = serde_json::to_string(&StateCounts { queued: 990, ..Default::default() }).unwrap();
        assert!(json.starts_with(r#"{"QUEUED":990,"RUNNING":0"#), "{json}");
    }
}
