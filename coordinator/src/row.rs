//! Rows of the store as plain data: what a fact carries and what a restart reads back.
use reeve_protocol::api::{StateCounts, WorkerView};
use reeve_protocol::intervals::Intervals;
use reeve_protocol::time::Wall;
use reeve_protocol::{Cause, JobId, State, Substate};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The door that a caller came in by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// The API's socket: uid and name are the kernel's word.
    Socket,
    /// The agents' port: the name is a machine's identity or an address, the uid means nothing.
    Agents,
    /// reeve itself.
    Inside,
}

impl Via {
    /// The word in the audit.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Socket => "socket",
            Self::Agents => "agents",
            Self::Inside => "inside",
        }
    }
}

/// Whoever asks: the kernel's word for callers of the socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Peer uid.
    pub uid: u32,
    /// Its name.
    pub name: Arc<str>,
    /// How it came in.
    pub via: Via,
    /// What it calls this request: its idempotency key, else its request id.
    pub request: Option<Arc<str>>,
}

impl Caller {
    /// A user of the API's socket.
    pub fn new(uid: u32, name: impl Into<Arc<str>>) -> Self {
        Self { uid, name: name.into(), via: Via::Socket, request: None }
    }

    /// Whoever speaks on the agents' port: a machine's identity, or an address that has none yet.
    pub fn of_agents_port(name: impl Into<Arc<str>>) -> Self {
        Self { uid: 0, name: name.into(), via: Via::Agents, request: None }
    }

    /// reeve itself.
    pub fn internal() -> Self {
        Self { uid: 0, name: "coordinator".into(), via: Via::Inside, request: None }
    }

    /// How events name it.
    pub fn actor(&self) -> String {
        format!("user:{}", self.name)
    }
}

/// Everything about a job or task that changes.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// The public state.
    pub state: State,
    /// What is waited for or done; `None` when ended.
    pub substate: Option<Substate>,
    /// Why it ended, or why the last attempt did.
    pub cause: Option<Cause>,
    /// The current attempt, 0 before the first.
    pub attempt: u32,
    /// Own failures so far.
    pub tries: u32,
    /// Infrastructure failures so far.
    pub losses: u32,
    /// Not before, wall milliseconds.
    pub run_at: Option<i64>,
    /// First start of the current attempt, wall milliseconds.
    pub started_at: Option<i64>,
    /// Wall milliseconds.
    pub ended_at: Option<i64>,
    /// Name of the machine of the current or last attempt.
    pub machine: Option<Arc<str>>,
}

impl Standing {
    /// A new job's.
    pub fn new(state: State, substate: Option<Substate>) -> Self {
        Self {
            state,
            substate,
            cause: None,
            attempt: 0,
            tries: 0,
            losses: 0,
            run_at: None,
            started_at: None,
            ended_at: None,
            machine: None,
        }
    }
}

/// The part of an array that changes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ArrayRow {
    /// First index.
    pub from: u32,
    /// Last index.
    pub to: u32,
    /// At most this many at once.
    pub limit: Option<u32>,
    /// The first index that was never dispatched nor passed.
    pub next: u32,
    /// Tasks per state.
    pub counts: StateCounts,
    /// Indices that wait for a release.
    pub held: Intervals,
    /// Indices cancelled before they were ever dispatched.
    pub cancelled: Intervals,
}

/// A job, whole.
#[derive(Clone, Debug, PartialEq)]
pub struct JobRow {
    /// Its number.
    pub id: JobId,
    /// Who submitted it.
    pub owner_uid: u32,
    /// Who submitted it.
    pub owner: Arc<str>,
    /// Where it waits.
    pub queue: Arc<str>,
    /// Higher first.
    pub priority: i32,
    /// The spec as JSON, defaults left out.
    pub spec: Arc<str>,
    /// The spec's name.
    pub name: Option<String>,
    /// Name, else command.
    pub title: String,
    /// The registered worker it was made from.
    pub worker: Option<(String, u32)>,
    /// The caller's own name.
    pub alias: Option<String>,
    /// JSON that `register_job` kept.
    pub definition: Option<String>,
    /// Runs elsewhere.
    pub external: bool,
    /// Wall milliseconds.
    pub created_at: i64,
    /// Wall milliseconds.
    pub expires_at: Option<i64>,
    /// Idempotency key and the digest of its request.
    pub key: Option<(String, String)>,
    /// Everything that changes.
    pub standing: Standing,
    /// For arrays.
    pub array: Option<ArrayRow>,
}

/// A task of an array that was dispatched once.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskRow {
    /// Its index.
    pub index: u32,
    /// Everything that changes.
    pub standing: Standing,
}

/// A queue.
#[derive(Clone, Debug, PartialEq)]
pub struct QueueRow {
    /// Its name.
    pub name: Arc<str>,
    /// What it holds.
    pub kind: QueueKind,
    /// Where what waits is kept.
    pub backend: Backend,
    /// Handing nothing out.
    pub paused: bool,
    /// Who paused it, why, and when, wall milliseconds.
    pub paused_by: Option<Box<Paused>>,
    /// The broker that is emptied first, while the queue moves.
    pub moving_from: Option<Arc<str>>,
    /// Whose jobs the messages become that other programs publish for it.
    pub ingress: Option<(u32, Arc<str>)>,
    /// Share among queues.
    pub weight: u32,
    /// Jobs at once; 0 for no limit.
    pub limit: u32,
    /// Things waiting at once; 0 for no limit.
    pub max_len: u64,
    /// Who made it.
    pub owner_uid: u32,
    /// Who made it.
    pub owner: Arc<str>,
    /// Wall milliseconds.
    pub created_at: i64,
}

impl QueueRow {
    /// A new one, with no bounds and a weight of 1. `owner`: uid and name; `created_at`: wall milliseconds.
    pub fn new(
        name: Arc<str>,
        kind: QueueKind,
        backend: Backend,
        (owner_uid, owner): (u32, &Arc<str>),
        created_at: i64,
    ) -> Self {
        Self {
            name,
            kind,
            backend,
            paused: false,
            paused_by: None,
            moving_from: None,
            ingress: None,
            weight: 1,
            limit: 0,
            max_len: 0,
            owner_uid,
            owner: owner.clone(),
            created_at,
        }
    }
}

/// Who keeps a queue from handing out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paused {
    /// The user.
    pub by: Arc<str>,
    /// In that user's words.
    pub why: Option<String>,
    /// Wall milliseconds.
    pub at: i64,
}

/// Where a queue keeps what waits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// In the store.
    #[default]
    Local,
    /// Messages in memory alone, gone with the process.
    Memory,
    /// At a broker, named as in the configuration or by its URL.
    Broker(Arc<str>),
}

impl Backend {
    /// The word in store and API.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Local => "local",
            Self::Memory => "memory",
            Self::Broker(name) => name,
        }
    }

    /// The inverse.
    pub fn of(word: &str) -> Self {
        match word {
            "local" => Self::Local,
            "memory" => Self::Memory,
            name => Self::Broker(name.into()),
        }
    }

    /// The broker's name.
    pub const fn broker(&self) -> Option<&Arc<str>> {
        match self {
            Self::Broker(name) => Some(name),
            Self::Local | Self::Memory => None,
        }
    }
}

/// What a queue holds, fixed by its first use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueKind {
    /// Nothing yet.
    Unset,
    /// Jobs.
    Jobs,
    /// Messages.
    Messages,
}

impl QueueKind {
    /// The word in store and API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unset => "unset",
            Self::Jobs => "jobs",
            Self::Messages => "messages",
        }
    }

    /// The inverse.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Unset, Self::Jobs, Self::Messages].into_iter().find(|k| k.as_str() == word)
    }
}

/// A message as it was published.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MessageRow {
    /// Its number.
    pub id: u64,
    /// Its queue.
    pub queue: Arc<str>,
    /// Who published it.
    pub owner_uid: u32,
    /// Who published it.
    pub owner: Arc<str>,
    /// 0 JSON, 1 text, 2 bytes.
    pub kind: u8,
    /// At most 1 MiB.
    pub body: Arc<[u8]>,
    /// JSON object.
    pub headers: Arc<str>,
    /// Higher first.
    pub priority: i32,
    /// Wall milliseconds.
    pub published_at: i64,
    /// Wall milliseconds.
    pub run_at: Option<i64>,
    /// Wall milliseconds.
    pub expires_at: Option<i64>,
    /// Times handed out.
    pub deliveries: u32,
    /// The holder's lease and when it ends, wall milliseconds.
    pub lease: Option<(String, i64)>,
    /// Why it was given up.
    pub dead: Option<String>,
    /// On its way to the queue's broker.
    pub outgoing: bool,
    /// What the queue's broker called it, if others published it there.
    pub source: Option<String>,
    /// Idempotency key and digest.
    pub key: Option<(String, String)>,
}

impl MessageRow {
    /// Bytes of its body and headers.
    pub fn bytes(&self) -> u32 {
        (self.body.len() + self.headers.len()) as u32
    }
}

/// A certificate that was issued beside the one in use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpareCertificate {
    /// SHA-256 of it.
    pub fingerprint: String,
    /// Its end, wall milliseconds.
    pub until: i64,
    /// The machine has it on its disk.
    pub kept: bool,
}

/// A machine that has joined.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MachineRow {
    /// Its identity.
    pub id: String,
    /// Its name.
    pub name: Arc<str>,
    /// SHA-256 of the certificate in use.
    pub fingerprint: String,
    /// Its end, wall milliseconds; 0 when it is not known.
    pub certificate_until: i64,
    /// Certificates that may take its place: issued, and not used yet.
    pub spares: Vec<SpareCertificate>,
    /// Since when its renewal fails, wall milliseconds, and why.
    pub renewal_failed: Option<(i64, String)>,
    /// JSON of protocol::wire::Machine as last said.
    pub info: String,
    /// Gets no new work.
    pub cordoned: bool,
    /// Being emptied: what runs may end.
    pub draining: bool,
    /// What still runs then is stopped, wall milliseconds.
    pub drain_until: Option<i64>,
    /// Wall milliseconds.
    pub joined_at: i64,
    /// Its life when last heard.
    pub life: Option<String>,
    /// Its keeper when last heard.
    pub keeper: Option<String>,
    /// Removed.
    pub revoked: bool,
}

/// A join token as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRow {
    /// Names it.
    pub id: String,
    /// SHA-256 of the secret, hex.
    pub secret_hash: String,
    /// Wall milliseconds.
    pub expires_at: i64,
    /// Who used it: SHA-256 of the key, and the machine that was made of it.
    pub bound: Option<(String, String)>,
}

/// One change that somebody asked for, and what was decided: a line of the audit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRow {
    /// Wall milliseconds.
    pub at: i64,
    /// Peer uid, for callers of the socket.
    pub uid: Option<u32>,
    /// Who: a user, a machine's identity, an address.
    pub name: Arc<str>,
    /// The door.
    pub via: Via,
    /// The call, by its name in the contract.
    pub call: &'static str,
    /// What it was about, for example `job:7` or `jobs:8-1007`.
    pub object: String,
    /// The caller's own name for the request.
    pub request: Option<Arc<str>>,
    /// `None`: done; else the code of the refusal.
    pub refused: Option<String>,
    /// Refusals before this one that were not written down, because there were too many.
    pub unwritten: u32,
    /// The last event of the step it was decided in.
    pub seq: u64,
}

/// The queue that holds the jobs of replicas. Nobody can make one of that name, and lists show it only when it is named.
pub const REPLICAS: &str = ".replicas";

/// A registered worker.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkerRow {
    /// Its name.
    pub name: String,
    /// Counts registrations.
    pub version: u32,
    /// `command`.
    pub kind: String,
    /// Its queue.
    pub queue: String,
    /// Who registered it.
    pub owner_uid: u32,
    /// Who registered it.
    pub owner: Arc<str>,
    /// JSON of its spec.
    pub spec: Arc<str>,
    /// The script, if its command goes through a shell.
    pub shell: Option<Arc<str>>,
    /// Static ones: JSON of how they are spoken to.
    pub serving: Option<Arc<str>>,
    /// Wall milliseconds.
    pub created_at: i64,
}

impl WorkerRow {
    /// As shown, without where it stands.
    pub fn view(&self) -> WorkerView {
        WorkerView {
            name: self.name.clone(),
            version: self.version,
            kind: self.kind.clone(),
            owner: self.owner.to_string(),
            queue: self.queue.clone(),
            spec: serde_json::from_str(&self.spec).unwrap_or_default(),
            shell: self.shell.as_ref().map(ToString::to_string),
            serving: self.serving.as_ref().and_then(|text| serde_json::from_str(text).ok()),
            created_at: Wall(self.created_at),
            status: None,
        }
    }
}

/// What is wanted of a static worker that was launched once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeploymentRow {
    /// The worker's name.
    pub worker: String,
    /// The registration that was launched last.
    pub version: u32,
    /// How many replicas.
    pub replicas: u32,
    /// Machines that were named at launch; empty: those of the registration.
    pub on: Vec<String>,
    /// JSON of how that registration is spoken to.
    pub serving: String,
    /// Of a worker from git: the commit that the ref of that registration was found to name.
    pub commit: Option<String>,
    /// Wall milliseconds.
    pub changed_at: i64,
}

/// An attempt that had not ended when the store was read.
#[derive(Clone, Debug, PartialEq)]
pub struct LiveAttempt {
    /// Which.
    pub attempt: reeve_protocol::AttemptId,
    /// The machine that holds it; `None` for a consumer or an outside caller.
    pub machine_id: Option<String>,
    /// A consumer's lease.
    pub lease: Option<String>,
    /// UUIDs of its gpus.
    pub gpus: Vec<String>,
    /// Wall milliseconds.
    pub dispatched_at: i64,
    /// Wall milliseconds.
    pub started_at: Option<i64>,
}
