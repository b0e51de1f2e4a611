//! The JSON of the API (CONTRACT, section JSON). Fields are only ever added. Clients ignore fields they do not know;
//! requests with unknown fields are refused.
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
    /// How it ended after a newer attempt had been dispatched; without effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub late: Option<Cause>,
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

/// A message as `receive` gives it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MessageView {
    /// Its number, as text.
    pub id: String,
    /// Its queue.
    pub queue: String,
    /// JSON, if it was published as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<Value>,
    /// Text, if it was published as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_text: Option<String>,
    /// Anything else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_base64: Option<String>,
    /// Free pairs.
    pub headers: BTreeMap<String, String>,
    /// Higher first.
    pub priority: i32,
    /// How often it was handed out, this time included.
    pub deliveries: u32,
    /// Shown to nobody but its holder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<String>,
    /// When it goes back unless extended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_until: Option<Wall>,
    /// When it was published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub published_at: Option<Wall>,
}

/// A job handed to a consumer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobDelivery {
    /// The job.
    pub job: JobView,
    /// The attempt that was opened for the consumer.
    pub attempt: u32,
    /// To be named in ack, nack, extend and status.
    pub lease: String,
    /// When it is taken back unless extended.
    pub lease_until: Wall,
}

/// One thing received.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Delivery {
    /// From a queue of jobs.
    Job(Box<JobDelivery>),
    /// From a queue of messages.
    Message(Box<MessageView>),
}

/// The answer to `receive`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Received {
    /// Empty when nothing came within `wait_s`.
    pub items: Vec<Delivery>,
}

/// The body of `receive`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReceiveRequest {
    /// 1 to 1,000.
    pub max: u32,
    /// 0 to 3,600 seconds.
    pub wait_s: f64,
    /// How long the lease holds, 1 to 86,400 seconds.
    pub lease_s: f64,
}

impl Default for ReceiveRequest {
    fn default() -> Self {
        Self { max: 1, wait_s: 0.0, lease_s: 60.0 }
    }
}

/// The body of `ack`, `nack` and `extend`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LeaseRequest {
    /// From `receive`.
    pub lease: String,
    /// ack of a job: its result.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
    /// nack: not before this many seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay_s: Option<f64>,
    /// extend: from now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease_s: Option<f64>,
    /// nack: why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The body of `publish` of a message: exactly one of the three bodies.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PublishRequest {
    /// JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<Value>,
    /// Text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_text: Option<String>,
    /// Anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_base64: Option<String>,
    /// Free pairs.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// Higher first.
    pub priority: i32,
    /// Not before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay_s: Option<f64>,
    /// Gone after.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl_s: Option<f64>,
}

/// The answer to `publish` of a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// Its number, as text.
    pub id: String,
    /// Its queue.
    pub queue: String,
    /// As in [`Submitted`].
    pub seq: u64,
    /// Whether its queue was made by this call.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub created: bool,
}

/// The body of `update_job_status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StatusRequest {
    /// RUNNING, COMPLETED, FAILED or CANCELLED; absent: only progress.
    pub state: Option<State>,
    /// 0 to 1.
    pub progress: Option<f64>,
    /// For people.
    pub message: Option<String>,
    /// With COMPLETED.
    pub result: Option<Value>,
    /// With FAILED.
    pub error: Option<String>,
    /// The current attempt; absent: whichever is current.
    pub attempt: Option<u32>,
    /// When a consumer holds it.
    pub lease: Option<String>,
}

/// The body of `register_job`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RegisterRequest {
    /// The caller's own name for the job.
    pub id: String,
    /// Kept beside the spec.
    pub definition: Option<Value>,
    /// The job to name; absent: a job that runs elsewhere is recorded.
    pub cluster_id: Option<JobId>,
}

/// The answer to a change of one job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// The job.
    pub id: JobId,
    /// The state after.
    pub state: State,
    /// The substate after.
    pub substate: Option<Substate>,
    /// The current attempt.
    pub attempt: u32,
    /// Tasks of an array that changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tasks: Option<u64>,
    /// The number of the last event.
    pub seq: u64,
}

/// `count_queue_messages`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QueueCount {
    /// The queue.
    pub queue: String,
    /// `jobs` or `messages`; `unset` before the first use.
    pub kind: String,
    /// Can be handed out now.
    pub ready: u64,
    /// Later.
    pub delayed: u64,
    /// Handed out.
    pub leased: u64,
    /// Given up.
    pub dead: u64,
    /// Of the oldest ready one.
    pub oldest_age_s: Option<f64>,
    /// The last event this takes into account.
    pub as_of_seq: u64,
}

/// The answer to `clean_queue`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cleaned {
    /// How many were removed (messages) or cancelled (jobs), or would be.
    pub removed: u64,
    /// Whether nothing was done.
    pub dry_run: bool,
}

/// The body of `clean_queue`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CleanRequest {
    /// Only what matches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// The dead ones instead.
    pub dead: bool,
    /// Only count.
    pub dry_run: bool,
}

/// The body of `PUT /v1/queues/{queue}`; absent fields stay.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QueueSettings {
    /// `jobs` or `messages`: only while it is unset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// `local`; others in later versions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// Share among queues, 1 to 1,000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// Jobs at once; 0 for no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Things waiting at once; 0 for no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_len: Option<u64>,
}

/// A queue as it is shown.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct QueueView {
    /// Its name.
    pub name: String,
    /// `jobs`, `messages` or `unset`.
    pub kind: String,
    /// `local`.
    pub backend: String,
    /// Handing nothing out.
    pub paused: bool,
    /// Share among queues.
    pub weight: u32,
    /// Jobs at once; 0 for no limit.
    pub limit: u32,
    /// Things waiting at once; 0 for no limit.
    pub max_len: u64,
    /// Jobs, or tasks of arrays, per state. For messages: ready and delayed count as QUEUED, leased as RUNNING, dead as
    /// FAILED.
    pub counts: StateCounts,
    /// QUEUED ones per substate, those that are not zero.
    #[serde(default)]
    pub waiting: BTreeMap<String, u64>,
    /// Of the oldest waiting one.
    pub oldest_age_s: Option<f64>,
    /// Attempts started per second over the last minute.
    pub started_per_s: f64,
    /// Jobs ended per second over the last minute.
    pub ended_per_s: f64,
    /// Jobs failed per second over the last minute.
    pub failed_per_s: f64,
    /// Median seconds from submit to start, of the last 1,000 or so starts.
    #[serde(default)]
    pub wait_p50_s: Option<f64>,
    /// Its 95th percentile.
    #[serde(default)]
    pub wait_p95_s: Option<f64>,
    /// Who made it.
    #[serde(default)]
    pub owner: String,
    /// Finished per ten seconds, the last ten minutes, oldest first.
    #[serde(default)]
    pub history: Vec<u32>,
}

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
    /// `up`, `disconnected`, `lost`, `cordoned`, `offline` (never seen since the coordinator started).
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
}

/// A registered worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerView {
    /// Its name.
    pub name: String,
    /// Counts registrations, from 1. A job keeps the one it was submitted with.
    pub version: u32,
    /// `command`; `git` and `static` in later versions.
    pub kind: String,
    /// Who registered it.
    pub owner: String,
    /// Submissions to this queue run it.
    pub queue: String,
    /// What its jobs are made of.
    pub spec: JobSpec,
    /// When.
    pub created_at: Wall,
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
