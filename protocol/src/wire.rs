//! What coordinator, agent and keeper say to each other, over QUIC and over the keeper's socket.
//!
//! One control stream per session: Hello -> Welcome -> Machine, Inventory.., InventoryEnd -> Reconcile -> normal
//! traffic. The agent relays the frames about attempts between coordinator and keeper without looking into them,
//! except that it uploads spooled output before it passes a Finished on. A changed body is a new kind, numbers are never
//! reused, Hello is frozen for ever; `protocol/golden` holds the bytes of every kind.
use crate::artifact::Artifact;
use crate::cause::WireCause;
use crate::ids::AttemptId;
use serde::{Deserialize, Serialize};

mod replicas;
pub use replicas::*;

/// The numbers of the kinds, by hand. Direction: C coordinator, A agent, K keeper.
pub mod kind {
    /// A -> C, first frame of a session. Frozen.
    pub const HELLO: u16 = 1;
    /// C -> A, the session is accepted.
    pub const WELCOME: u16 = 2;
    /// C -> A, the session is refused; the stream ends after it.
    pub const REFUSED: u16 = 3;
    /// A -> C, what the machine is and has.
    pub const MACHINE: u16 = 4;
    /// K -> A -> C, a page of attempts that live or wait to be forgotten.
    pub const INVENTORY: u16 = 5;
    /// K -> A -> C, the inventory is complete.
    pub const INVENTORY_END: u16 = 6;
    /// C -> A -> K, what becomes of each attempt.
    pub const RECONCILE: u16 = 7;
    /// A -> C, every two seconds.
    pub const BEAT: u16 = 8;
    /// C -> A, the answer to a beat.
    pub const BEAT_ECHO: u16 = 9;
    /// C -> A -> K, start an attempt.
    pub const START: u16 = 10;
    /// K -> A -> C, its process exists.
    pub const STARTED: u16 = 11;
    /// K -> A -> C, what the job says about itself.
    pub const PROGRESS: u16 = 12;
    /// K -> A -> C, it has ended.
    pub const FINISHED: u16 = 13;
    /// C -> A -> K, its end is on disk: forget it.
    pub const FORGET: u16 = 14;
    /// C -> A -> K, end it.
    pub const STOP: u16 = 15;
    /// C -> A -> K, give it back if it has not started.
    pub const REVOKE: u16 = 16;
    /// K -> A -> C, it had not started and never will.
    pub const RETURNED: u16 = 17;
    /// C -> A, send its output from an offset on a stream of its own.
    pub const FOLLOW: u16 = 18;
    /// C -> A, no more of that.
    pub const UNFOLLOW: u16 = 19;
    /// A -> C, how busy the machine is. Optional.
    pub const SAMPLE: u16 = 20;
    /// A -> C, ask to become a machine of this cluster (on a connection without a client certificate).
    pub const JOIN: u16 = 21;
    /// C -> A, the certificate.
    pub const JOINED: u16 = 22;
    /// A -> C, first frame of a stream that carries output; the raw tape follows.
    pub const OUTPUT_HEAD: u16 = 23;
    /// A -> K, ask for the inventory.
    pub const INVENTORY_ASK: u16 = 24;
    /// K -> A, first frame of the keeper's socket.
    pub const KEEPER_HELLO: u16 = 25;
    /// A -> K, what may run at once.
    pub const LIMITS: u16 = 26;
    /// K -> A -> C, resources used so far. Optional.
    pub const USAGE: u16 = 27;
    /// A -> K, end every attempt, then leave.
    pub const SHUTDOWN: u16 = 28;
    /// A -> C, this machine leaves the cluster.
    pub const LEAVE: u16 = 29;

    /// A -> C, a request for a new certificate with a new key. Optional.
    pub const RENEW: u16 = 30;
    /// C -> A, the new certificate. Optional.
    pub const RENEWED: u16 = 31;
    /// A -> C, it is on disk with its key, and will be shown from the next connection on. Optional.
    pub const RENEWAL_KEPT: u16 = 32;
    /// Both ways: there is none, or it could not be kept. Optional.
    pub const RENEWAL_FAILED: u16 = 33;
    /// C -> A -> K, start an attempt in a checkout.
    pub const START_GIT: u16 = 34;
    /// K -> A -> C, what comes before the command of an attempt has begun. Optional.
    pub const PREPARING: u16 = 35;
    /// K -> A -> C, the commit that its ref was found to name. Optional.
    pub const RESOLVED: u16 = 36;
    /// C -> A, with the answer to a beat: how far the store is. Optional.
    pub const RECORDED: u16 = 37;
    /// K -> A -> C, its whole tree has ended, and what it left is still on its way. Optional.
    pub const EXITED: u16 = 60;
    /// K -> A -> C, whether new attempts may start there. Optional.
    pub const TAKING: u16 = 61;
    /// K -> A -> C, after the inventory: what the machine enforces, and how. Optional.
    pub const ENFORCED: u16 = 50;
    /// A -> C, the state of the machine's gpus: at once, when one goes into quarantine or comes out, and with samples.
    /// Optional.
    pub const GPUS: u16 = 51;
    /// K -> A -> C, how long an attempt has done nothing, with its usage. Optional.
    pub const QUIET: u16 = 52;

    /// C -> A -> K, start a replica of a static worker.
    pub const START_REPLICA: u16 = 40;
    /// A -> C, how far replicas are.
    pub const REPLICAS: u16 = 41;
    /// C -> A, requests to replicas.
    pub const REQUESTS: u16 = 42;
    /// A -> C, what replicas answered.
    pub const ANSWERS: u16 = 43;
    /// C -> A, nobody wants these answers any more.
    pub const CANCEL_REQUESTS: u16 = 44;
    /// A -> C, after the inventory: the requests that this agent knows of.
    pub const IN_FLIGHT: u16 = 45;
    /// C -> A -> K, start a replica that has a checkout, or takes its requests in batches.
    pub const LAUNCH_REPLICA: u16 = 46;

    /// C -> A -> K, before the Start of an attempt: which files are collected at its end. Optional.
    pub const COLLECT: u16 = 62;
    /// K -> A -> C, before a Finished: artifacts come on a stream first. Optional.
    pub const ARTIFACTS: u16 = 63;
    /// A -> C, first frame of a stream that carries artifacts; their bytes follow.
    pub const ARTIFACTS_HEAD: u16 = 64;

    /// The kinds a receiver of this version knows.
    pub const KNOWN: [u16; 52] = [
        1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27,
        28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 40, 41, 42, 43, 44, 45, 60, 61, 50, 51, 52, 62, 63, 64, 46,
    ];
}

/// The protocol version spoken; the one before is spoken too once there is one.
pub const VERSION: u16 = 1;
/// ALPN of the agents' port.
pub const ALPN: &[u8] = b"reeve/1";
/// Application close codes of a QUIC connection.
pub mod close {
    /// Ended on purpose.
    pub const DONE: u32 = 0;
    /// No common version, or an unknown kind that is not optional.
    pub const VERSION: u32 = 1;
    /// A frame or list above its limit.
    pub const TOO_LARGE: u32 = 2;
    /// A body that does not decode.
    pub const MALFORMED: u32 = 3;
    /// A frame at the wrong time.
    pub const UNEXPECTED: u32 = 4;
    /// Not the machine that the certificate names.
    pub const UNAUTHORISED: u32 = 5;
    /// A newer session of the same machine took over.
    pub const SUPERSEDED: u32 = 6;
    /// Too many frames.
    pub const RATE: u32 = 7;
    /// The machine was removed.
    pub const REVOKED: u32 = 8;
    /// Another cluster.
    pub const WRONG_CLUSTER: u32 = 9;
    /// The store is older than what the agent has seen.
    pub const STORE_REGRESSED: u32 = 10;
    /// The coordinator stops.
    pub const STOPPING: u32 = 11;
}

/// Frozen. An agent introduces itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Lowest protocol version it speaks.
    pub version_min: u16,
    /// Highest protocol version it speaks.
    pub version_max: u16,
    /// The cluster it joined.
    pub cluster: String,
    /// Its own identity.
    pub machine: String,
    /// The life of the machine: boot id, pid namespace and start of pid 1. When it changes, no process lives.
    pub life: String,
    /// Which keeper it speaks for: a random word the keeper drew when its runtime directory was made.
    pub keeper: String,
    /// The store lineage seen last; empty at first.
    pub lineage_seen: String,
    /// The highest epoch seen.
    pub epoch_seen: u64,
    /// The highest event number seen.
    pub seq_seen: u64,
    /// The agent's version, for people.
    pub agent_version: String,
    /// Kinds it knows beyond those of `version_min`.
    pub kinds: Vec<u16>,
}

/// The session is accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The version both speak.
    pub version: u16,
    /// Counts sessions since the coordinator started.
    pub session: u64,
    /// The store's lineage.
    pub lineage: String,
    /// Counts the coordinator's starts.
    pub epoch: u64,
    /// The last event's number.
    pub seq: u64,
    /// Milliseconds between beats.
    pub beat_ms: u32,
    /// The machine's name now.
    pub name: String,
}

/// The session is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// One of [`close`].
    pub code: u32,
    /// For people.
    pub reason: String,
}

/// What a machine is and has. Sent once per session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Its host name.
    pub hostname: String,
    /// Thousandths of usable cpus: the least of affinity and cgroup quota.
    pub cpu_milli: u32,
    /// Usable bytes of memory: the least of the machine's and the cgroup's.
    pub memory_bytes: u64,
    /// UUIDs of its gpus.
    pub gpus: Vec<String>,
    /// Named counters.
    pub named: Vec<(String, u64)>,
    /// Labels.
    pub labels: Vec<(String, String)>,
    /// What it can and cannot enforce: `tree_kill`, `memory_limit`, `run_as`, each with a word.
    pub capabilities: Vec<(String, String)>,
    /// Distribution and kernel, for people.
    pub os: String,
    /// Whether its keeper answers; without one nothing can start.
    pub keeper: bool,
}

/// One attempt that a keeper knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InventoryItem {
    /// Which.
    pub attempt: AttemptId,
    /// The store lineage it came from.
    pub lineage: String,
    /// 0 waiting in the keeper, 1 running, 2 stopping, 3 ended and not forgotten.
    pub phase: u16,
    /// Its first process, 0 if none.
    pub pid: u32,
    /// When it started, in wall milliseconds, 0 if it has not.
    pub started_ms: i64,
}

/// A page of at most 1,000 attempts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    /// The attempts.
    pub items: Vec<InventoryItem>,
}

/// The inventory is complete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InventoryEnd {
    /// How many items all pages had.
    pub count: u32,
}

/// What becomes of an attempt of the inventory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// It goes on.
    Keep,
    /// A newer attempt exists: stop it; its end is kept as late.
    Fence,
    /// Send its Finished again.
    Report,
    /// Its end is on disk already.
    Forget,
    /// Nobody here knows it: leave it alone and show it.
    Orphan,
}

/// Verdicts for the whole inventory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reconcile {
    /// One for each item.
    pub verdicts: Vec<(AttemptId, Verdict)>,
}

/// A beat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beat {
    /// Counts from 1 in a session.
    pub number: u64,
    /// The last number received from the other side, so that a one-way partition is seen by both.
    pub echo: u64,
}

/// How far the store is. A machine remembers the last of it: an older copy that is put in the store's place is found out
/// by whoever has seen more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorded {
    /// The last event on disk.
    pub seq: u64,
}

/// Start one attempt.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// Which; the fence of everything after.
    pub attempt: AttemptId,
    /// The store's lineage: part of the spool's path.
    pub lineage: String,
    /// The argument vector.
    pub command: Vec<String>,
    /// The whole environment but what only the machine knows (PATH, HOME, TMPDIR, REEVE_MACHINE..): the keeper
    /// completes it. Later entries win.
    pub env: Vec<(String, String)>,
    /// Absolute; `None`: a fresh directory.
    pub cwd: Option<String>,
    /// What the command reads.
    pub stdin: Option<Vec<u8>>,
    /// Becomes the file `REEVE_PAYLOAD`.
    pub payload: Option<Vec<u8>>,
    /// The submitter's uid and name.
    pub owner_uid: u32,
    /// The submitter's name.
    pub owner: String,
    /// The user to run as; `None`: the owner where the keeper may change users, else the keeper's own user.
    pub run_as: Option<String>,
    /// Thousandths of cpus, reserved.
    pub cpu_milli: u32,
    /// Bytes, 0 for no limit.
    pub memory_bytes: u64,
    /// UUIDs of its gpus.
    pub gpus: Vec<String>,
    /// Longest run, 0 for none. Counted on the monotonic clock.
    pub timeout_ms: u64,
    /// Between TERM and KILL.
    pub grace_ms: u64,
    /// Stop by the guardian's own clock when the coordinator was not heard this long; 0 for never (exclusive jobs).
    pub stop_after_ms: u64,
    /// Output kept, head and tail together.
    pub output_cap: u64,
}

/// Where the code of an attempt comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkout {
    /// The repository.
    pub url: String,
    /// A branch, tag or commit; `None`: the repository's HEAD.
    pub reference: Option<String>,
    /// What the ref was when it was resolved; `None`: resolve it and say so.
    pub commit: Option<String>,
    /// The directory inside it where the command starts.
    pub subdir: Option<String>,
    /// Runs with `sh -c` before the command.
    pub setup: Option<String>,
    /// Check submodules out too.
    pub submodules: bool,
    /// Fetch what Git LFS holds.
    pub lfs: bool,
    /// Applied to the checkout.
    pub patch: Option<Vec<u8>>,
}

/// Start one attempt in a checkout.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartGit {
    /// As without a checkout; `cwd` is `None`.
    pub start: Start,
    /// What is checked out first.
    pub checkout: Checkout,
}

/// What comes before the command has begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preparing {
    /// Which.
    pub attempt: AttemptId,
    /// Wall milliseconds, for display.
    pub at_ms: i64,
}

/// The commit that the ref of an attempt was found to name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolved {
    /// Which.
    pub attempt: AttemptId,
    /// 40 or 64 hexadecimal digits.
    pub commit: String,
}

/// What a machine's keeper enforces, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enforced {
    /// Names as in [`Machine::capabilities`], each with words for people: `memory_limit`, `cpu_limit`, `process_limit`,
    /// `tree_kill`.
    pub words: Vec<(String, String)>,
}

/// The state of a machine's gpus.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gpus {
    /// Each.
    pub devices: Vec<Gpu>,
}

/// The state of one gpu.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gpu {
    /// As in [`Machine::gpus`].
    pub uuid: String,
    /// What it is, for people.
    pub model: String,
    /// Bytes of its memory; 0 if that is not known.
    pub memory_bytes: u64,
    /// Bytes of it in use.
    pub memory_used: u64,
    /// How much of the time since the last word it was busy, in thousandths; `None`: nobody can say.
    pub busy_permille: Option<u16>,
    /// Why nothing may be given to it now; `None`: it may.
    pub quarantine: Option<String>,
}

/// An attempt does nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quiet {
    /// Which.
    pub attempt: AttemptId,
    /// For how long it has written nothing and used no cpu, in milliseconds; 0: it works.
    pub quiet_ms: u64,
}

/// Its process exists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// Which.
    pub attempt: AttemptId,
    /// Its first process.
    pub pid: u32,
    /// Wall milliseconds, for display.
    pub at_ms: i64,
}

/// What the job wrote into `REEVE_STATUS`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Which.
    pub attempt: AttemptId,
    /// 0 to 1.
    pub fraction: Option<f64>,
    /// At most 1 KiB.
    pub message: Option<String>,
}

/// It has ended, and so has its whole tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finished {
    /// Which.
    pub attempt: AttemptId,
    /// Why.
    pub cause: WireCause,
    /// When it started, in wall milliseconds; 0 if it never did.
    pub started_ms: i64,
    /// When it ended, in wall milliseconds.
    pub ended_ms: i64,
    /// Its first process; 0 if none.
    pub pid: u32,
    /// Cpu time of the whole tree, in milliseconds.
    pub cpu_ms: u64,
    /// Largest resident set of one process, in bytes.
    pub rss_peak: u64,
    /// The tape (see [`crate::tape`]), if it is small.
    pub output: Vec<u8>,
    /// Length of the tape when it is not small: it comes on a stream first. 0 otherwise.
    pub spooled: u64,
    /// JSON from `REEVE_RESULT`, at most 256 KiB.
    pub result: Option<Vec<u8>>,
}

/// Its whole tree has ended; what it left is being sent, and its Finished comes after that. Said so that its room is
/// free at once, however long the rest takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exited {
    /// Which.
    pub attempt: AttemptId,
    /// As in the inventory: 3.
    pub phase: u16,
}

/// Whether new attempts may start on the machine. Until this is said they may.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taking {
    /// Why not, for people, at most 1 KiB; `None`: they may.
    pub refuses: Option<String>,
}

/// Which files are collected of an attempt at its end, beside those in its own directory for them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collect {
    /// Which.
    pub attempt: AttemptId,
    /// Patterns (see [`crate::artifact`]), relative to where its command started.
    pub globs: Vec<String>,
    /// Bytes of all files together.
    pub max_bytes: u64,
}

/// Artifacts of an attempt that has ended are there to be sent: its Finished is not complete without them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifacts {
    /// Which.
    pub attempt: AttemptId,
    /// Files.
    pub count: u32,
    /// Bytes of all files.
    pub total: u64,
}

/// The head of a stream that carries artifacts; the bytes of the files follow in this order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArtifactsHead {
    /// Of which attempt.
    pub attempt: AttemptId,
    /// The files.
    pub files: Vec<Artifact>,
}

/// Largest tape that rides inside Finished.
pub const INLINE_OUTPUT: usize = 4096;

/// The ends of these are on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forget {
    /// Which.
    pub attempts: Vec<AttemptId>,
}

/// End an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    /// Which.
    pub attempt: AttemptId,
    /// The cause its end will have: cancelled, timeout, drained, preempted, fenced.
    pub cause: WireCause,
    /// Between TERM and KILL.
    pub grace_ms: u64,
}

/// Give an attempt back if it has not started; also the body of Returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revoke {
    /// Which.
    pub attempt: AttemptId,
}

/// Send output while it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Follow {
    /// Chosen by the coordinator; named in the stream's head.
    pub id: u64,
    /// Of which attempt.
    pub attempt: AttemptId,
    /// From this byte of the tape.
    pub from: u64,
}

/// No more of that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unfollow {
    /// As in Follow.
    pub id: u64,
}

/// The head of a stream that carries output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputHead {
    /// Of which attempt.
    pub attempt: AttemptId,
    /// `Some`: the answer to that Follow. `None`: the whole tape of an ended attempt, before its Finished.
    pub follow: Option<u64>,
    /// First byte of the tape that follows.
    pub from: u64,
    /// Length of the whole tape when it is known (always for an ended attempt), else 0.
    pub total: u64,
}

/// How busy a machine is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Busy share of its usable cpus, 0 to 1.
    pub cpu: f64,
    /// Bytes of memory in use.
    pub memory_used: u64,
    /// Load average of one minute.
    pub load1: f64,
    /// Used share of the disk with the spool, 0 to 1.
    pub disk: f64,
}

/// Resources an attempt has used so far.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Which.
    pub attempt: AttemptId,
    /// Cpu time of the tree, in milliseconds.
    pub cpu_ms: u64,
    /// Resident bytes of the tree now.
    pub rss: u64,
    /// Largest seen.
    pub rss_peak: u64,
}

/// Ask to join. The secret is sent only after the client has compared the hash of the server's CA.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    /// Names the token.
    pub token_id: String,
    /// Proves it.
    pub secret: String,
    /// A PKCS#10 request, DER: only its public key counts.
    pub csr: Vec<u8>,
    /// The name wished for.
    pub name: String,
}

/// Joined.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    /// The identity given.
    pub machine: String,
    /// Its name.
    pub name: String,
    /// The certificate, DER.
    pub certificate: Vec<u8>,
}

/// Ask for a new certificate, within a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renew {
    /// A PKCS#10 request, DER: only its public key counts.
    pub csr: Vec<u8>,
}

/// The new certificate. The old one is taken until this one has been used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renewed {
    /// DER.
    pub certificate: Vec<u8>,
}

/// The new certificate is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewalKept {
    /// SHA-256 of the certificate, hex.
    pub fingerprint: String,
}

/// There is no new certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewalFailed {
    /// For people, at most 1 KiB.
    pub reason: String,
}

/// The keeper introduces itself to the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeeperHello {
    /// Drawn when its runtime directory was made.
    pub keeper: String,
    /// As in Hello.
    pub life: String,
    /// Its process.
    pub pid: u32,
    /// Its version.
    pub version: String,
}

/// What may run at once on the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Thousandths of cpus.
    pub cpu_milli: u32,
    /// Bytes.
    pub memory_bytes: u64,
    /// The machine's name, for REEVE_MACHINE.
    pub machine: String,
    /// For exclusive jobs: up to when the coordinator is known to have heard this machine, in milliseconds of the boot-time
    /// clock, which agent, keeper and guardians share: however long this lies in a socket, it does not become later. 0:
    /// nothing is known.
    pub heard_boot_ms: u64,
}

/// End every attempt with this cause, then leave when empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shutdown {
    /// Usually drained.
    pub cause: WireCause,
}

impl Default for AttemptId {
    fn default() -> Self {
        crate::ids::TaskId::single(0).attempt(1)
    }
}

#[cfg(test)]
#[path = "wire_golden_test.rs"]
mod golden;
