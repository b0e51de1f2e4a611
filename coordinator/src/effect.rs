//! Everything that can go out: facts to record, and effects to release once the facts are on disk.
use crate::input::{Kept, Segment, Ticket};
use crate::orchestrator::link::Order;
use crate::row::{
    ArrayRow, AuditRow, DeploymentRow, JobRow, MachineRow, MessageRow, QueueRow, Standing, WorkerRow,
};
use reeve_protocol::api::{
    Changed, Cleaned, Event, MachineView, Plan, Published, QueueCount, QueueView, RefusedLease, Route, Stats,
    Submitted, Why, WhyLine, WorkerView,
};
use reeve_protocol::wire;
use reeve_protocol::{AttemptId, Cause, JobId, Problem, Substate, TaskId};
use std::collections::HashMap;
use std::sync::Arc;

/// What one batch of inputs led to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Step {
    /// Recorded together, in this order.
    pub facts: Vec<Fact>,
    /// Recorded with the facts: what observers are told.
    pub events: Vec<Event>,
    /// Recorded with the facts: who asked for what, and what was decided.
    pub audit: Vec<AuditRow>,
    /// Released in this order once both are on disk.
    pub effects: Vec<Effect>,
    /// Where in `facts` the messages stand that can be handed out since this step.
    pub(crate) ready: HashMap<u64, usize>,
}

impl Step {
    /// A message that can be handed out gets a row.
    pub(crate) fn add_ready(&mut self, row: MessageRow) {
        self.ready.insert(row.id, self.facts.len());
        self.facts.push(Fact::MessageAdded(Box::new(row)));
    }

    /// Something else is written about a message: what follows stands after that.
    pub(crate) fn touch(&mut self, id: u64) {
        self.ready.remove(&id);
    }

    /// A message was handed out: one that came with this step is written once, as it is then.
    pub(crate) fn hand_out(&mut self, id: u64, deliveries: u32, lease: (String, i64)) {
        let at = self.ready.get(&id).copied();
        if let Some(Fact::MessageAdded(row)) = at.and_then(|at| self.facts.get_mut(at))
            && row.id == id
            && row.lease.is_none()
            && row.dead.is_none()
        {
            (row.deliveries, row.lease) = (deliveries, Some(lease));
            return;
        }
        self.facts.push(Fact::MessageMoved { id, deliveries, lease: Some(lease), run_at: None, dead: None });
    }

    /// Whether nothing has to be written.
    pub fn is_read_only(&self) -> bool {
        self.facts.is_empty() && self.events.is_empty() && self.audit.is_empty()
    }

    /// What it is mostly about: which of the crash points of a commit this one reaches.
    pub(crate) fn kind(&self) -> &'static str {
        let rank = |fact: &Fact| match fact {
            Fact::AttemptEnded(_) => (5, "end"),
            Fact::JobAdded(_) => (4, "submit"),
            Fact::JobMoved(_, standing) if standing.substate == Some(Substate::Cancelling) => (3, "cancel"),
            Fact::AttemptDispatched { .. } => (2, "dispatch"),
            Fact::AttemptStarted(..) => (1, "start"),
            _ => (0, "other"),
        };
        self.facts.iter().map(rank).max().map_or("other", |(_, kind)| kind)
    }
}

impl From<Vec<Fact>> for Step {
    fn from(facts: Vec<Fact>) -> Self {
        Self { facts, ..Self::default() }
    }
}

/// Something that is true from now on. Each becomes SQL in `store::facts` and must change exactly one row.
#[derive(Clone, Debug, PartialEq)]
pub enum Fact {
    /// A job exists.
    JobAdded(Box<JobRow>),
    /// A job that is no array has moved.
    JobMoved(JobId, Box<Standing>),
    /// An array has moved.
    ArrayMoved(JobId, Box<Standing>, Box<ArrayRow>),
    /// A task of an array has moved; its row may be new.
    TaskMoved(TaskId, Box<Standing>),
    /// A git job's ref was resolved, or is to be resolved again.
    CommitResolved(JobId, Option<String>),
    /// What it left behind, JSON.
    ResultKept(TaskId, String),
    /// What it says about itself.
    ProgressMade(TaskId, Option<f64>, Option<String>),
    /// What somebody should look at: it does nothing. `None`: that is over.
    WarningSet(TaskId, Option<String>),
    /// A job got the caller's own name.
    JobNamed(JobId, String, Option<String>),
    /// An attempt exists: the fence is raised.
    AttemptDispatched {
        /// Which.
        attempt: AttemptId,
        /// The machine's identity; `None` for a consumer or an outside caller.
        machine_id: Option<String>,
        /// The machine's name, or `consumer:USER`.
        machine: Arc<str>,
        /// A consumer's lease, or the replica that has it.
        lease: Option<String>,
        /// It has begun with that: nobody tells of a start.
        started: bool,
        /// UUIDs of the gpus it got.
        gpus: Vec<String>,
        /// Wall milliseconds.
        at: i64,
    },
    /// Its process exists.
    AttemptStarted(AttemptId, u32, i64),
    /// It has ended.
    AttemptEnded(Box<Ended>),
    /// Files that it has left; in the step that records its end.
    ArtifactsKept(Box<Kept>),
    /// It ended after a newer one had been dispatched.
    AttemptLate {
        /// Which.
        attempt: AttemptId,
        /// Whose word it is: kept only if that machine held the attempt.
        machine: String,
        /// Why.
        cause: Cause,
    },
    /// It was given back before it started.
    AttemptReturned(AttemptId, i64),
    /// A queue exists or has other settings.
    QueuePut(Box<QueueRow>),
    /// What was so until now, and what is so from now on: `(kind, subject, began, actor)`.
    Interval(&'static str, String, bool, String),
    /// A message exists.
    MessageAdded(Box<MessageRow>),
    /// A message was handed out, taken back, delayed or given up.
    MessageMoved {
        /// Which.
        id: u64,
        /// Times handed out.
        deliveries: u32,
        /// The holder's lease and its end.
        lease: Option<(String, i64)>,
        /// Not before.
        run_at: Option<i64>,
        /// Why it was given up.
        dead: Option<String>,
    },
    /// Numbers below this one may have been given to messages that have no row.
    MessageNumbersUsed(u64),
    /// A message came back from the queue's broker: it is the store's again.
    MessageArrived(u64),
    /// These messages are to be given to the queue's broker.
    MessagesOutgoing(Vec<u64>),
    /// These messages are in this queue from now on, and are to be given to its broker or not.
    MessagesMoved(Arc<str>, Vec<u64>, bool),
    /// A job waits in this queue from now on.
    JobRequeued(JobId, Arc<str>),
    /// A key was used to publish.
    MessageKeyUsed {
        /// By whom.
        owner_uid: u32,
        /// In which queue.
        queue: Arc<str>,
        /// The key.
        key: String,
        /// Of the message.
        digest: String,
        /// The message.
        id: u64,
        /// Wall milliseconds.
        at: i64,
    },
    /// A message of another program was taken: which, and when, wall milliseconds.
    InboxNoted(String, i64),
    /// The rules that say which queues a message goes to, all of them.
    RoutesPut(Vec<Route>),
    /// A message is no more.
    MessageGone(u64),
    /// These messages of a queue are no more.
    MessagesCleaned(Arc<str>, Vec<u64>),
    /// A worker was registered.
    WorkerPut(Box<WorkerRow>),
    /// A worker is no more: every registration of it.
    WorkerRemoved(String, i64),
    /// So many replicas of a static worker are wanted.
    DeploymentPut(Box<DeploymentRow>),
    /// A machine joined, or said something that is kept.
    MachinePut(Box<MachineRow>),
    /// A token exists.
    TokenAdded {
        /// Names it.
        id: String,
        /// SHA-256 of its secret.
        secret_hash: String,
        /// Wall milliseconds.
        expires_at: i64,
        /// Who made it.
        owner_uid: u32,
        /// Who made it.
        owner: Arc<str>,
    },
    /// A token was used.
    TokenUsed {
        /// Which.
        id: String,
        /// By whom.
        machine: String,
        /// SHA-256 of the key.
        key_hash: String,
        /// Wall milliseconds.
        at: i64,
    },
    /// A plan exists.
    PlanAdded {
        /// As shown.
        plan: Box<Plan>,
        /// The fixed set.
        ids: Vec<String>,
        /// Why.
        reason: Option<String>,
        /// Who.
        owner_uid: u32,
        /// Who.
        owner: Arc<str>,
    },
    /// A plan was run.
    PlanRan(u64, String),
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Ended {
    /// Which.
    pub attempt: AttemptId,
    /// Why.
    pub cause: Cause,
    /// Wall milliseconds, if it started.
    pub started_at: Option<i64>,
    /// Wall milliseconds.
    pub ended_at: i64,
    /// Its first process.
    pub pid: Option<u32>,
    /// Cpu time of its tree.
    pub cpu_ms: u64,
    /// Largest resident set.
    pub rss_peak: u64,
    /// The tape, if it is small.
    pub output: Vec<u8>,
    /// Where the tape lies, if it is not.
    pub segment: Option<Segment>,
}

/// Something to do once the facts of its step are on disk.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Answer a caller.
    Reply(Ticket, Box<Result<Reply, Problem>>),
    /// Answer a receiver with messages, whose bodies are read from the store now.
    ReplyMessages(Ticket, Vec<Leased>),
    /// Tell a machine, in this session.
    Send(String, u64, ToAgent),
    /// End a session.
    Close(String, u64, u32, String),
    /// Tell whoever speaks to this broker.
    Broker(Arc<str>, Order),
    /// Read parked jobs of a queue, and hand them in: [`crate::input::Input::Loaded`].
    Load(Arc<str>, Portion, Vec<JobId>),
}

/// What parked jobs are read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Portion {
    /// Those with this need come next.
    Need(u32),
    /// They are to be cancelled for this caller.
    Clean(Ticket),
}

/// A message that was handed out.
#[derive(Clone, Debug, PartialEq)]
pub struct Leased {
    /// Which.
    pub id: u64,
    /// Shown to its holder.
    pub lease: String,
    /// Wall milliseconds.
    pub until: i64,
    /// The message, when it has no row.
    pub kept: Option<Arc<MessageRow>>,
}

/// What the coordinator tells a machine; one frame each.
#[derive(Clone, Debug, PartialEq)]
pub enum ToAgent {
    /// Start an attempt.
    Start(Box<wire::Start>),
    /// Start one in a checkout.
    StartGit(Box<wire::StartGit>),
    /// Start a replica of a static worker.
    StartReplica(Box<wire::StartReplica>),
    /// Start one that has a checkout, or takes its requests in batches.
    LaunchReplica(Box<wire::LaunchReplica>),
    /// A request to a replica.
    Request(Box<wire::Request>),
    /// Nobody waits for that answer any more.
    CancelRequest(AttemptId, wire::RequestId),
    /// End one.
    Stop(wire::Stop),
    /// What is collected of the attempt whose Start follows.
    Collect(wire::Collect),
    /// Their ends are on disk.
    Forget(Vec<AttemptId>),
    /// Give it back if it has not started.
    Revoke(AttemptId),
    /// What becomes of each attempt.
    Reconcile(Vec<(AttemptId, wire::Verdict)>),
}

/// The answer to a call.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// submit: the job, and whether the key had been used for it before.
    Submitted(Submitted, bool),
    /// submit of many: one result per spec in order, and the last event.
    Many(Vec<Result<JobId, Problem>>, u64),
    /// register_job: the job, and whether it is new.
    Registered(JobId, bool),
    /// A job changed.
    Changed(Changed),
    /// publish, and whether the key had been used for it before.
    Published(Published, bool),
    /// publish of many: for each its number and whether the key had been used for it before; whether the queue is new.
    PublishedMany(Vec<Result<(u64, bool), Problem>>, bool),
    /// receive_message from a queue of jobs: `(job, attempt, lease, until)`.
    ReceivedJobs(Vec<(TaskId, u32, String, i64)>),
    /// receive_message from a queue of messages: ids read back by the recorder.
    ReceivedMessages(Vec<reeve_protocol::api::MessageView>),
    /// ack, nack, extend: the message's or job's id.
    Settled(String),
    /// The same of many leases: how many were settled, and each that was not.
    SettledMany(u64, Vec<RefusedLease>),
    /// clean_queue. More lies at this broker: so much, as last heard.
    Cleaned(Cleaned, Option<(Arc<str>, u64)>),
    /// count_queue_messages.
    Count(QueueCount),
    /// A queue, and whether it is new.
    Queue(Box<QueueView>, bool),
    /// What would come next.
    Peeked {
        /// Those with rows.
        ids: Vec<u64>,
        /// They are messages, else jobs.
        are_messages: bool,
        /// Messages without rows.
        kept: Vec<Arc<MessageRow>>,
        /// More lie at this broker.
        broker: Option<Arc<str>>,
    },
    /// get_queue_stats.
    Stats(Box<Stats>),
    /// Messages that were given up, returned to their queue, or what was moved: how many, and how many are left.
    Returned(u64, u64),
    /// The rules that say which queues a message goes to.
    Routes(Vec<Route>),
    /// Which rule decides, and where it leads.
    Routed(Option<Route>),
    /// publish by labels: one message per queue, and whether the key had been used for it before.
    Fanned(Vec<Published>, bool),
    /// Every queue.
    Queues(Vec<QueueView>),
    /// Every machine.
    Machines(Vec<MachineView>),
    /// Why it is not running.
    Why(Why),
    /// What would become of a spec: queue, machines that fit, reasons of the others.
    DryRun(String, Vec<String>, Vec<WhyLine>),
    /// register_worker, launch_worker: the worker as it is now.
    Worker(Box<WorkerView>),
    /// Every worker.
    Workers(Vec<WorkerView>),
    /// A call to a static worker: its result, JSON.
    Called(Vec<u8>),
    /// bulk_action: the plan.
    Plan(Box<Plan>),
    /// bulk_action: one result per job.
    Bulk(Vec<Result<u64, Problem>>),
    /// Done.
    Done(u64),
    /// One machine, after a change.
    Machine(Box<MachineView>),
    /// A machine was removed: its identity, and how many attempts counted as lost.
    Removed(String, u64),
    /// Whether it is held.
    Held(bool),
    /// join: the name given, and the machine's identity.
    Joined(String, String),
    /// A session is open.
    Welcome(Box<wire::Welcome>),
    /// A session is refused.
    Refused(wire::Refused),
}
