//! The bodies about static workers: their replicas, and what these are asked and answer.
use super::{Checkout, Start};
use crate::ids::AttemptId;
use serde::{Deserialize, Serialize};

/// How a replica of a static worker is spoken to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replica {
    /// 0: JSON lines over its standard streams; 1: HTTP.
    pub protocol: u16,
    /// HTTP: the path that answers 200 when it is ready; `None`: it is ready when its port accepts.
    pub ready: Option<String>,
    /// HTTP: where requests are posted.
    pub path: String,
    /// HTTP: the port that the agent has chosen; 0 until then.
    pub port: u16,
}

/// Start one replica.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartReplica {
    /// As any attempt.
    pub start: Start,
    /// How it is spoken to.
    pub replica: Replica,
}

/// How requests to one replica are gathered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// At most so many go together; 0: each goes by itself, as it is.
    pub size: u32,
    /// A batch that is not full waits so long for more, milliseconds.
    pub delay_ms: u64,
}

/// Start one replica that has a checkout, or takes its requests in batches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchReplica {
    /// As any attempt.
    pub start: Start,
    /// How it is spoken to.
    pub replica: Replica,
    /// How its requests are gathered.
    pub batch: Batch,
    /// What it runs in.
    pub checkout: Option<Checkout>,
}

/// Where a replica stands.
pub mod replica_phase {
    /// Its process exists.
    pub const STARTING: u16 = 0;
    /// It has told how far it is.
    pub const LOADING: u16 = 1;
    /// It has loaded, and does not take requests yet.
    pub const WARMING: u16 = 2;
    /// It takes requests.
    pub const READY: u16 = 3;
    /// It took requests before; its readiness probe fails now.
    pub const UNREADY: u16 = 4;
    /// What it says makes no sense: it has to be started anew.
    pub const BROKEN: u16 = 5;
}

/// How far one replica is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReplicaState {
    /// Which.
    pub attempt: AttemptId,
    /// One of [`replica_phase`].
    pub phase: u16,
    /// 0 to 1.
    pub fraction: Option<f64>,
    /// At most 1 KiB.
    pub message: Option<String>,
}

/// How far replicas are; at most 1,000.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Replicas {
    /// One each.
    pub items: Vec<ReplicaState>,
}

/// Names a request: the attempt of a tracked job, else the number of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestId {
    /// The tracked job's.
    pub attempt: Option<AttemptId>,
    /// The call's: never the same in another life of the coordinator. 0 for jobs.
    pub call: u64,
}

/// One request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// To which replica.
    pub replica: AttemptId,
    /// Which.
    pub id: RequestId,
    /// JSON, at most 256 KiB.
    pub payload: Vec<u8>,
    /// Milliseconds until nobody waits any more; 0: somebody always does.
    pub timeout_ms: u64,
}

/// Requests, as many as fit a frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requests {
    /// In order.
    pub items: Vec<Request>,
}

/// What became of a request.
pub mod outcome {
    /// The body is the result, JSON.
    pub const RESULT: u16 = 0;
    /// The body is the worker's own words about why not.
    pub const ERROR: u16 = 1;
    /// The replica went away before it answered.
    pub const LOST: u16 = 2;
    /// The replica's answer makes no sense; the body says why.
    pub const BAD: u16 = 3;
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// From which replica.
    pub replica: AttemptId,
    /// To what.
    pub id: RequestId,
    /// One of [`outcome`].
    pub outcome: u16,
    /// At most 256 KiB.
    pub body: Vec<u8>,
    /// Another try may succeed.
    pub retry: bool,
}

/// Answers, as many as fit a frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answers {
    /// In order.
    pub items: Vec<Answer>,
}

/// Nobody wants these answers any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CancelRequests {
    /// Replica and request.
    pub items: Vec<(AttemptId, RequestId)>,
}

/// A page of at most 1,000 requests that the agent knows of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InFlight {
    /// Replica and request.
    pub items: Vec<(AttemptId, RequestId)>,
    /// There are no more.
    pub last: bool,
}
