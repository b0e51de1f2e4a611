//! Queues, messages and deliveries in JSON.
use super::{JobView, StateCounts};
use crate::ids::JobId;
use crate::state::{State, Substate};
use crate::time::Wall;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

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
    /// Why it was given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead: Option<String>,
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
    /// 1 to 1,000. An answer holds at most 8 MiB of bodies and headers: beyond that it has fewer, and at least one.
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

/// The body of `ack`, `nack` and `extend`: one lease, or several.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LeaseRequest {
    /// From `receive`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub lease: String,
    /// In place of `lease`, up to 1,000 of them: settled in one commit, each for itself.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub leases: Vec<String>,
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
    /// As in [`super::Submitted`].
    pub seq: u64,
    /// Whether its queue was made by this call.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub created: bool,
}

/// What became of a portion of lines of messages, after its commit; and, with `done`, of all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PublishedLines {
    /// The first line, from 1.
    pub from: u64,
    /// The last line.
    pub to: u64,
    /// How many of them are messages now.
    pub published: u64,
    /// How many had been published before with the same key.
    #[serde(skip_serializing_if = "is_zero")]
    pub replayed: u64,
    /// How many were refused; each was answered with a [`super::LineReply`] of its own.
    #[serde(skip_serializing_if = "is_zero")]
    pub failed: u64,
    /// The number of the first message, as text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first: Option<String>,
    /// The number of the last. Numbers between belong to this portion alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<String>,
    /// As in [`super::Submitted`].
    pub seq: u64,
    /// Whether its queue was made by this call.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub created: bool,
    /// This is the end of the answer, and counts all lines.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub done: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
const fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// The answer to `ack`, `nack` and `extend` of several leases.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettledMany {
    /// Whether none was refused.
    pub ok: bool,
    /// How many were settled.
    pub settled: u64,
    /// The others, and why.
    #[serde(default)]
    pub refused: Vec<RefusedLease>,
}

/// A lease that could not be settled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedLease {
    /// The lease.
    pub lease: String,
    /// Why.
    pub error: crate::Problem,
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
    /// Why the queue's backend cannot be asked: what lies there is as last heard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub degraded: Option<String>,
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

/// A rule: a message with all these labels goes to these queues.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Its name.
    pub name: String,
    /// What the message must have, each exactly; none: every message.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// One or several; each gets the message.
    pub queues: Vec<String>,
}

/// The rules, in order: the first that matches decides.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Routes {
    /// In order.
    pub routes: Vec<Route>,
}

/// Labels to be looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExplainRequest {
    /// As a message would have them.
    pub labels: BTreeMap<String, String>,
}

/// Where a message with these labels would go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explained {
    /// The rule that decides; absent: none, and publishing is refused.
    pub route: Option<Route>,
    /// Each rule before it, and why it does not match.
    pub passed: Vec<String>,
}

/// A message that goes where its labels say.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoutedRequest {
    /// Decide where it goes.
    pub labels: BTreeMap<String, String>,
    /// What goes there.
    pub message: PublishRequest,
}

/// The answer: one message per queue.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoutedReply {
    /// In the order of the rule.
    pub published: Vec<Published>,
}

/// The body of `migrate`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MigrateRequest {
    /// `local`, or a broker's name or URL.
    pub to: String,
}

/// The body of `move`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MoveRequest {
    /// Into which queue; it is made if there is none of that name.
    pub to: String,
    /// Only what matches: a filter of jobs, or of messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// Only count.
    #[serde(default)]
    pub dry_run: bool,
}

/// The answer to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// How many were moved, or would be in all.
    pub moved: u64,
    /// How many that matched are left: a call moves at most 2,000.
    pub left: u64,
    /// Whether nothing was done.
    pub dry_run: bool,
}

/// The body of `dead/return`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReturnRequest {
    /// Which; absent: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ids: Option<Vec<String>>,
    /// Only count.
    pub dry_run: bool,
}

/// The answer to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReturnedReply {
    /// How many can be received again, or could.
    pub returned: u64,
    /// How many dead ones are left: a call returns at most 2,000.
    pub left: u64,
}

/// The body of `pause` and `resume`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PauseRequest {
    /// Why, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The body of `PUT /v1/queues/{queue}`; absent fields stay.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QueueSettings {
    /// `jobs` or `messages`: only while it is unset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// `local`, `memory`, the name of a configured broker, or a URL `redis://host:port`, `amqp://host:port`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// `as=USER`: messages that other programs publish for it become jobs of that user; `off`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress: Option<String>,
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
    /// `local`, `memory`, or the broker's name or URL.
    pub backend: String,
    /// Why the backend cannot be relied on now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub degraded: Option<String>,
    /// Since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub degraded_since: Option<Wall>,
    /// The broker and its version, as it says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend_version: Option<String>,
    /// What the backend can and cannot do.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub capabilities: BTreeMap<String, String>,
    /// The broker that is emptied first, while the queue moves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moving_from: Option<String>,
    /// What still lies there, as last heard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moving_left: Option<u64>,
    /// Whose jobs the messages of other programs become.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<String>,
    /// Waiting jobs that stand at the broker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hints: Option<u64>,
    /// Handing nothing out.
    pub paused: bool,
    /// Who paused it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused_by: Option<String>,
    /// In that user's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused_why: Option<String>,
    /// Since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused_at: Option<Wall>,
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
