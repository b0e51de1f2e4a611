//! Everything that can come in. Inputs are plain comparable data: a run can be written down and replayed.
use crate::effect::Portion;
use crate::orchestrator::link::Said;
use crate::row::{Caller, JobRow, TaskRow};
use reeve_protocol::api::{
    LaunchRequest, LeaseRequest, Plan, QueueSettings, Route, StatusRequest, WorkerRequest,
};
use reeve_protocol::artifact::Artifact;
use reeve_protocol::wire;
use reeve_protocol::{AttemptId, JobId, JobSpec};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Names a waiting caller; the engine's table turns it back into a channel.
pub type Ticket = u64;

/// The two clocks, read once per batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Now {
    /// Boot-time milliseconds (counts suspend): leases, loss, delays within this run.
    pub mono: u64,
    /// Wall milliseconds: display, `run_at`, what is stored.
    pub wall: i64,
}

/// Something happened outside.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// Somebody asks, and waits for the answer.
    Call {
        /// Where the answer goes.
        ticket: Ticket,
        /// Who asks.
        caller: Caller,
        /// What.
        call: Call,
    },
    /// The caller behind this ticket went away.
    Gone(Ticket),
    /// A request of the socket was refused, by whichever part: noted for the audit.
    Refused {
        /// Who.
        caller: Caller,
        /// What it asked for, such as `POST /v1/jobs`.
        object: String,
        /// The code of the refusal.
        code: String,
    },
    /// A machine spoke, in this order.
    Agent {
        /// Which machine.
        machine: String,
        /// In which session; anything of an older session is dropped.
        session: u64,
        /// What it said.
        said: Vec<AgentSaid>,
    },
    /// A broker spoke, in this order.
    Broker {
        /// As queues name it.
        name: Arc<str>,
        /// What it said.
        said: Vec<Said>,
    },
    /// The disk is too full for anything new, or has room again.
    Disk {
        /// Which of the two.
        full: bool,
    },
    /// Parked jobs were read: what [`crate::effect::Effect::Load`] asked for.
    Loaded {
        /// Their queue.
        queue: Arc<str>,
        /// What for.
        portion: Portion,
        /// Those of them that were read; the others of those that were asked for were too large to come along.
        jobs: Vec<JobId>,
        /// The rows that there are.
        rows: Vec<JobRow>,
    },
    /// The time asked for has come, or nothing else did.
    Tick,
}

/// What the net layer tells about a machine.
#[derive(Clone, Debug, PartialEq)]
pub enum AgentSaid {
    /// What it is and has.
    Machine(wire::Machine),
    /// A page of its inventory.
    Inventory(Vec<wire::InventoryItem>),
    /// The inventory is complete.
    InventoryEnd(u32),
    /// A process exists.
    Started(wire::Started),
    /// What comes before an attempt's command has begun.
    Preparing(wire::Preparing),
    /// The commit that an attempt's ref was found to name.
    Resolved(AttemptId, String),
    /// What a job says about itself.
    Progress(wire::Progress),
    /// What an attempt has left, right before its end: the files are in a segment by now.
    Artifacts(Box<Kept>),
    /// It has ended; spooled output is in a segment by now.
    Finished(Box<wire::Finished>, Option<Segment>),
    /// Its whole tree has ended; its output and its end follow.
    Exited(AttemptId),
    /// Whether new attempts may start there; `Some`: why not.
    Taking(Option<String>),
    /// It had not started and never will.
    Returned(AttemptId),
    /// Resources used so far.
    Usage(wire::Usage),
    /// How far replicas are.
    Replicas(Vec<wire::ReplicaState>),
    /// What replicas answered.
    Answers(Vec<wire::Answer>),
    /// The requests that its agent knows of; more come unless it is the last page.
    InFlight(Vec<(AttemptId, wire::RequestId)>, bool),
    /// How busy it is.
    Sample(wire::Sample),
    /// What its keeper enforces, and how.
    Enforced(Vec<(String, String)>),
    /// The state of its gpus.
    Gpus(Vec<wire::Gpu>),
    /// How long an attempt has done nothing.
    Quiet(wire::Quiet),
    /// No beat for 10 s.
    Silent,
    /// A beat again.
    Heard {
        /// Round trip, microseconds.
        rtt_us: u64,
    },
    /// The session ended.
    Closed,
    /// It leaves the cluster for good.
    Leave,
    /// The new certificate with this fingerprint is on its disk.
    RenewalKept(String),
    /// It could not get or keep a new certificate.
    RenewalFailed(String),
}

/// Where a tape lies in the segment files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Number of the file.
    pub file: u64,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
}

/// Artifacts of an attempt, in a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Which.
    pub attempt: AttemptId,
    /// The files, in the order of their bytes.
    pub files: Vec<Artifact>,
    /// Where these lie.
    pub segment: Segment,
}

/// Which tasks of a job are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The job.
    pub job: JobId,
    /// Tasks of an array, both ends included; `None`: the whole job.
    pub tasks: Option<(u32, u32)>,
}

/// A job that may have left memory: the store's row, read by the asking side just before. The core uses it only when
/// it does not hold the job itself.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Stored {
    /// The job.
    pub job: Option<Box<JobRow>>,
    /// The tasks that the call is about.
    pub tasks: Vec<TaskRow>,
    /// The last event that was on disk before they were read: rows of what has ended since are not believed.
    pub seq: u64,
}

/// A submission's idempotency key with the digest of its request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// As sent.
    pub key: String,
    /// SHA-256 of the canonical request, hex.
    pub digest: String,
}

/// A message to publish.
#[derive(Clone, Debug, PartialEq)]
pub struct NewMessage {
    /// 0 JSON, 1 text, 2 bytes.
    pub kind: u8,
    /// At most 256 KiB.
    pub body: Arc<[u8]>,
    /// JSON object.
    pub headers: Arc<str>,
    /// Higher first.
    pub priority: i32,
    /// Milliseconds from now.
    pub delay_ms: u64,
    /// Milliseconds from now.
    pub ttl_ms: Option<u64>,
    /// Idempotency.
    pub key: Option<Key>,
}

/// What callers ask. The fifteen named calls keep their names in every layer; reads that need the live picture are here
/// too, since their answers are released in order, after every earlier change is on disk.
#[derive(Clone, Debug, PartialEq)]
pub enum Call {
    /// Cluster: `submit`. The spec is valid.
    Submit {
        /// What to run.
        spec: Box<JobSpec>,
        /// Idempotency.
        key: Option<Key>,
    },
    /// `submit`, many at once; at most 2,000.
    SubmitMany {
        /// What to run.
        specs: Vec<(JobSpec, Option<Key>)>,
        /// All or nothing.
        atomic: bool,
    },
    /// Cluster: `register_worker`.
    RegisterWorker {
        /// Its name.
        name: String,
        /// What its jobs are made of.
        request: Box<WorkerRequest>,
    },
    /// Cluster: `launch_worker`.
    LaunchWorker {
        /// Which.
        name: String,
        /// Where, and how many.
        request: Box<LaunchRequest>,
    },
    /// Other numbers of replicas: `worker scale`, `drain`, `stop`.
    ScaleWorker {
        /// Which.
        name: String,
        /// How.
        how: Scale,
    },
    /// A worker is no more.
    RemoveWorker {
        /// Which.
        name: String,
        /// Although replicas run or jobs wait: these are cancelled.
        force: bool,
    },
    /// A call to a static worker: nothing of it is stored.
    CallWorker {
        /// Which.
        name: String,
        /// JSON.
        payload: Arc<[u8]>,
        /// Milliseconds until the caller no longer waits.
        deadline_ms: Option<u64>,
    },
    /// Every worker as shown.
    ListWorkers,
    /// Cluster: `cancel_job`.
    CancelJob {
        /// Which.
        target: Target,
        /// Between TERM and KILL, milliseconds; `None`: the job's own.
        grace_ms: Option<u64>,
        /// The store's row.
        stored: Stored,
    },
    /// Job Manager: `register_job`. With `cluster_id`: names the job in `stored`; without: records one.
    RegisterJob {
        /// The caller's own name.
        id: String,
        /// JSON to keep.
        definition: Option<String>,
        /// The job to name.
        cluster_id: Option<JobId>,
        /// The store's row of `cluster_id`.
        stored: Stored,
    },
    /// Job Manager: `update_job_status`.
    UpdateJobStatus {
        /// Which.
        target: Target,
        /// To what.
        request: Box<StatusRequest>,
        /// The store's row.
        stored: Stored,
    },
    /// Job Manager: `restart_job`.
    RestartJob {
        /// Which.
        target: Target,
        /// Resolve its ref again, instead of the same commit.
        latest: bool,
        /// The store's row, and its tasks that ended FAILED or CANCELLED.
        stored: Stored,
    },
    /// Hold a job, or release it.
    HoldJob {
        /// Which.
        target: Target,
        /// Hold, or release.
        hold: bool,
        /// The store's row.
        stored: Stored,
    },
    /// Orchestrator: `publish` of a message.
    Publish {
        /// Where.
        queue: String,
        /// What.
        message: Box<NewMessage>,
    },
    /// `publish` of many messages, each for itself, in one commit; at most 2,000.
    PublishMany {
        /// Where.
        queue: String,
        /// What.
        messages: Vec<NewMessage>,
    },
    /// Orchestrator: `receive_message`; waits in the core until something comes or the time is over.
    ReceiveMessage {
        /// From where.
        queue: String,
        /// At most this many.
        max: u32,
        /// How long to wait.
        wait_ms: u64,
        /// How long the lease holds.
        lease_ms: u64,
    },
    /// `ack`, `nack` or `extend` of what was received.
    Settle {
        /// From where it was received.
        queue: String,
        /// Which of the three.
        how: Settle,
        /// The lease and what comes with it.
        request: Box<LeaseRequest>,
    },
    /// Orchestrator: `clean_queue`.
    CleanQueue {
        /// Which.
        queue: String,
        /// Jobs that match the filter; `None`: everything that waits.
        ids: Option<Vec<JobId>>,
        /// The dead messages instead.
        dead: bool,
        /// Only count.
        dry_run: bool,
    },
    /// Orchestrator: `count_queue_messages`.
    CountQueueMessages {
        /// Which.
        queue: String,
    },
    /// Make a queue, or change its settings.
    SetQueue {
        /// Which.
        queue: String,
        /// What changes.
        settings: QueueSettings,
        /// The uid of the user that `settings.ingress` names.
        ingress_uid: Option<u32>,
    },
    /// Keep a queue elsewhere from now on, with what waits in it.
    MigrateQueue {
        /// Which.
        queue: String,
        /// Where to.
        to: String,
    },
    /// What waits in one queue waits in another from now on; at most 2,000 at once.
    MoveQueue {
        /// Of which queue.
        from: String,
        /// Into which.
        to: String,
        /// Which jobs or messages; `None`: all that wait.
        ids: Option<Vec<u64>>,
        /// Only count.
        dry_run: bool,
    },
    /// Messages that were given up can be received again; at most 2,000 at once.
    ReturnDead {
        /// Of which queue.
        queue: String,
        /// Which; `None`: all.
        ids: Option<Vec<u64>>,
        /// Only count.
        dry_run: bool,
    },
    /// The rules that say which queues a message goes to, all of them.
    PutRoutes {
        /// In order.
        routes: Vec<Route>,
    },
    /// The rules.
    ListRoutes,
    /// Which rule decides about these labels.
    ExplainRoute {
        /// As a message would have them.
        labels: BTreeMap<String, String>,
    },
    /// `publish` to where the labels say, in one step.
    PublishRouted {
        /// As the message has them.
        labels: BTreeMap<String, String>,
        /// What.
        message: Box<NewMessage>,
    },
    /// Pause or resume a queue.
    PauseQueue {
        /// Which.
        queue: String,
        /// Pause, or resume.
        paused: bool,
        /// Why, for people.
        reason: Option<String>,
    },
    /// The ids of messages that would come next.
    Peek {
        /// Where.
        queue: String,
        /// At most this many.
        max: u32,
        /// Those that were given up instead.
        dead: bool,
    },
    /// Job Manager: `get_queue_stats`.
    GetQueueStats,
    /// Every queue as shown.
    ListQueues,
    /// Every machine as shown.
    ListMachines,
    /// The same with what each attempt holds and uses.
    Top,
    /// Why it is not running.
    Why {
        /// Which.
        target: Target,
        /// The store's row.
        stored: Stored,
    },
    /// What would become of a spec: its queue, and a verdict per machine. Changes nothing.
    DryRun {
        /// The spec.
        spec: Box<JobSpec>,
    },
    /// Job Manager: `bulk_action`, the plan.
    PutPlan {
        /// As shown.
        plan: Box<Plan>,
        /// The fixed set, as selectors.
        ids: Vec<String>,
        /// Why.
        reason: Option<String>,
    },
    /// Job Manager: `bulk_action`, one portion of at most 1,000.
    BulkAction {
        /// The plan.
        plan: u64,
        /// `cancel`, `restart`, `hold` or `release`.
        action: String,
        /// The jobs, each with its row.
        jobs: Vec<(Target, Stored)>,
    },
    /// The plan has been run.
    PlanDone {
        /// The plan.
        plan: u64,
        /// JSON of its result.
        result: String,
    },
    /// A join token was made.
    PutToken {
        /// Names it.
        id: String,
        /// SHA-256 of its secret.
        secret_hash: String,
        /// Wall milliseconds.
        expires_at: i64,
    },
    /// A machine shows a token (its secret has been compared) and a key.
    Join {
        /// The token.
        token_id: String,
        /// SHA-256 of the secret shown.
        secret_hash: String,
        /// SHA-256 of the public key.
        key_hash: String,
        /// The identity that was made for it.
        machine: String,
        /// The name wished for.
        name: String,
        /// SHA-256 of the certificate made for it.
        fingerprint: String,
        /// That certificate's end, wall milliseconds.
        until: i64,
    },
    /// A certificate was made for a machine over its session. Answered once both are on disk: from then on it is taken.
    RenewCertificate {
        /// Whose.
        machine: String,
        /// In which session it asked.
        session: u64,
        /// SHA-256 of the certificate.
        fingerprint: String,
        /// Its end, wall milliseconds.
        until: i64,
    },
    /// A machine gets no new work, or does again.
    CordonMachine {
        /// Its name or identity.
        machine: String,
        /// Cordon, or uncordon (which ends a drain as well).
        cordon: bool,
    },
    /// A machine gets no new work, and what runs there may end.
    DrainMachine {
        /// Its name or identity.
        machine: String,
        /// After so many milliseconds what still runs is stopped and queued again; `None`: never.
        deadline_ms: Option<u64>,
    },
    /// A machine is no longer one of the cluster.
    RemoveMachine {
        /// Its name or identity.
        machine: String,
        /// Although attempts run there: they count as lost.
        force: bool,
    },
    /// Whether a machine has this attempt: a read, before output of it is stored.
    HoldsAttempt {
        /// The machine.
        machine: String,
        /// In which session it says so.
        session: u64,
        /// Which.
        attempt: AttemptId,
    },
    /// A machine opens a session. Answered with Welcome or Refused.
    OpenSession {
        /// The machine that the certificate belongs to.
        machine: String,
        /// SHA-256 of the certificate that it showed.
        fingerprint: String,
        /// Chosen by the net layer, rising.
        session: u64,
        /// What it said.
        hello: Box<wire::Hello>,
        /// Where from.
        address: String,
    },
}

/// How many replicas of a static worker are wanted from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// So many.
    To(u32),
    /// As many as the load needs, between a least and a most number; what is absent stays.
    Between(Option<u32>, Option<u32>),
    /// None; what they work on is answered first.
    Drain,
    /// None, at once.
    Stop,
}

/// The three ways to settle a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settle {
    /// Done.
    Ack,
    /// Not done: back into the queue.
    Nack,
    /// More time.
    Extend,
}
