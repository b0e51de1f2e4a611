//! Statistics, machines, workers and bulk changes in JSON.
use super::workers::{Serving, WorkerStatus};
use super::{QueueView, StateCounts};
use crate::ids::JobId;
use crate::spec::JobSpec;
use crate::state::State;
use crate::time::Wall;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// `get_queue_stats`: everything the overview shows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// The cluster's id.
    pub cluster: String,
    /// When.
    pub at: Option<Wall>,
    /// The last event this takes into account.
    pub as_of_seq: u64,
    /// All jobs and tasks.
    pub counts: StateCounts,
    /// QUEUED ones per substate.
    pub waiting: BTreeMap<String, u64>,
    /// Changes of state per second over the last ten seconds.
    pub changes_per_s: f64,
    /// Every queue.
    pub queues: Vec<QueueView>,
    /// Machines per state.
    pub machines: BTreeMap<String, u64>,
    /// Cpus in use and in all, thousandths.
    pub cpu_milli_used: u64,
    /// Of machines that are up.
    pub cpu_milli_total: u64,
    /// Bytes reserved.
    pub memory_used: u64,
    /// Of machines that are up.
    pub memory_total: u64,
    /// Ends per cause since the coordinator started.
    pub causes: BTreeMap<String, u64>,
    /// Messages about attempts that were no longer current.
    pub stale: u64,
    /// What needs attention, worst first.
    pub alerts: Vec<Alert>,
}

/// Something that needs attention.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alert {
    /// 1 look at it, 2 act now.
    pub level: u8,
    /// The machine, queue or part.
    pub subject: String,
    /// In a sentence.
    pub text: String,
}

/// A machine as it is shown.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MachineView {
    /// Its identity.
    pub id: String,
    /// Its name.
    pub name: String,
    /// `up`, `disconnected`, `cordoned`, `draining`, `drained`, `offline` (never seen since the coordinator started).
    pub state: String,
    /// Its host name.
    pub hostname: String,
    /// Where it connects from.
    pub address: Option<String>,
    /// The agent's version.
    pub agent_version: String,
    /// Distribution and kernel.
    pub os: String,
    /// Thousandths.
    pub cpu_milli: u32,
    /// Reserved.
    pub cpu_milli_used: u32,
    /// Bytes.
    pub memory_bytes: u64,
    /// Reserved.
    pub memory_used: u64,
    /// UUIDs.
    pub gpus: Vec<String>,
    /// Reserved.
    pub gpus_used: u32,
    /// Attempts on it.
    pub running: u32,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// What it can and cannot enforce.
    pub capabilities: BTreeMap<String, String>,
    /// Its gpus, one by one.
    #[serde(default)]
    pub devices: Vec<GpuView>,
    /// What each attempt holds and uses. Left out in lists.
    #[serde(default)]
    pub attempts: Vec<HeldView>,
    /// Busy share of its cpus, 0 to 1, as measured.
    pub cpu_busy: Option<f64>,
    /// Bytes in use, as measured.
    pub memory_busy: Option<u64>,
    /// Load average of one minute.
    pub load1: Option<f64>,
    /// Used share of its disk.
    pub disk: Option<f64>,
    /// Seconds since it was heard; absent before.
    pub seen_s: Option<f64>,
    /// Round trip, milliseconds.
    pub rtt_ms: Option<f64>,
    /// When it joined.
    pub joined_at: Option<Wall>,
    /// Attempts it holds that nobody here knows.
    pub orphans: u32,
    /// Attempts that have ended there, and whose output waits to be stored.
    #[serde(default)]
    pub unrecorded: u32,
    /// Why nothing starts there at the moment, as the machine says.
    #[serde(default)]
    pub refuses: Option<String>,
    /// What somebody should look at, in words.
    #[serde(default)]
    pub warning: Option<String>,
    /// Gets no new work.
    pub cordoned: bool,
    /// What still runs then is stopped; with `draining`.
    pub drain_until: Option<Wall>,
    /// The end of its certificate.
    pub certificate_until: Option<Wall>,
    /// Since when the renewal of its certificate fails.
    pub renewal_failed_at: Option<Wall>,
    /// Why.
    pub renewal_error: Option<String>,
}

/// A gpu as it is shown.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GpuView {
    /// Its UUID.
    pub uuid: String,
    /// What it is; empty if nobody says.
    pub model: String,
    /// Bytes of its memory; 0 if nobody says.
    pub memory_bytes: u64,
    /// Bytes in use, as measured.
    pub memory_used: u64,
    /// Busy share, 0 to 1, as measured.
    pub busy: Option<f64>,
    /// The share that no attempt holds, 0 to 1.
    pub free: f64,
    /// Why nothing is given to it.
    pub quarantine: Option<String>,
    /// Attempts that hold a share, such as `7` and `9.3`.
    pub holders: Vec<String>,
}

/// What an attempt holds on a machine, and what it uses.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HeldView {
    /// Its job.
    pub job: JobId,
    /// For a task of an array.
    pub index: Option<u32>,
    /// Which attempt.
    pub attempt: u32,
    /// Thousandths of cpus it holds.
    pub cpu_milli: u32,
    /// Bytes it holds.
    pub memory_bytes: u64,
    /// Gpus it holds, or a part of one.
    pub gpu: f64,
    /// UUIDs of them.
    pub gpus: Vec<String>,
    /// Thousandths of cpus in use lately; absent before two looks.
    pub cpu_milli_used: Option<u64>,
    /// Bytes resident now.
    pub rss_bytes: Option<u64>,
    /// Its warning's kind: `idle-gpu` or `silent`.
    pub warning: Option<String>,
}

/// One line of the audit: who asked for what, and what was decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// Its number, without a gap.
    pub seq: u64,
    /// When.
    pub at: Wall,
    /// Uid of a caller of the socket.
    pub uid: Option<u32>,
    /// Who: a user, a machine's identity, an address.
    pub name: String,
    /// `socket`, `agents` (the agents' port) or `inside`.
    pub via: String,
    /// The call, by its name in the contract.
    pub call: String,
    /// What it was about: `job:7`, `jobs:8-1007`, `queue:vision`, `machine:gpu-07`.
    pub object: String,
    /// The caller's idempotency key or request id.
    pub request: Option<String>,
    /// `null`: done; else the code of the refusal.
    pub refused: Option<String>,
    /// Refusals before this one that were too many to be written.
    pub unwritten: u32,
    /// The last event of the step in which it was decided.
    pub event: u64,
}

/// The answer to the removal of a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineRemoved {
    /// Its identity.
    pub id: String,
    /// Attempts that ran there, and count as lost.
    pub lost: u64,
}

/// A registered worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerView {
    /// Its name.
    pub name: String,
    /// Counts registrations, from 1. A job keeps the one it was submitted with.
    pub version: u32,
    /// `command`, `git` or `static`.
    pub kind: String,
    /// Who registered it.
    pub owner: String,
    /// Submissions to this queue run it.
    pub queue: String,
    /// What its jobs are made of; for a static one, its replicas.
    pub spec: JobSpec,
    /// The script, if its command goes through a shell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shell: Option<String>,
    /// How a static worker is spoken to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serving: Option<Serving>,
    /// When.
    pub created_at: Wall,
    /// A static worker that was launched once: where it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<WorkerStatus>,
}

/// The body of `register_worker`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WorkerRequest {
    /// `command` if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// What its jobs are made of; `spec.queue` defaults to `jobs.NAME`.
    pub spec: JobSpec,
    /// Instead of `spec.command`: a script for `sh -c`. Fields of the payload become its positional parameters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shell: Option<String>,
    /// How a static worker is spoken to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serving: Option<Serving>,
}

/// The body of `POST /v1/plans`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PlanRequest {
    /// `cancel` or `restart`; also `hold`, `release`.
    pub action: String,
    /// The jobs that match now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// Or these: selectors such as `7`, `7.3`, `5-9`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ids: Vec<String>,
    /// Of those that match, not these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<JobId>,
    /// Kept in the audit event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A bulk change: a fixed set, counted before anything happens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// `BulkPlan`.
    pub kind: String,
    /// Its number.
    pub id: u64,
    /// What would be done.
    pub action: String,
    /// The event at which the set was fixed.
    pub seq: u64,
    /// How many were chosen.
    pub matched: u64,
    /// How many would change.
    pub will_change: u64,
    /// How many would stay, per reason.
    pub no_change: BTreeMap<String, u64>,
    /// How many may not be changed, per reason.
    pub refused: BTreeMap<String, u64>,
    /// A few of them.
    pub sample: Vec<PlanSample>,
    /// How many of those that would change are RUNNING.
    #[serde(default)]
    pub running: u64,
}

/// One job of a plan's sample.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanSample {
    /// The job.
    pub id: JobId,
    /// Its name or command.
    pub name: String,
    /// Its state.
    pub state: State,
}

/// The answer to `POST /v1/plans/{id}/run`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanResult {
    /// The plan.
    pub id: u64,
    /// How many changed.
    pub changed: u64,
    /// How many had moved on since the plan was made, or were refused.
    pub skipped: u64,
    /// Why, per code.
    pub reasons: BTreeMap<String, u64>,
    /// The number of the last event.
    pub seq: u64,
}
