//! Static workers in JSON: how they are spoken to, what is asked of them, where they stand.
use crate::error::{Code, Problem};
use crate::ids::JobId;
use crate::time::Wall;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

/// Requests at one replica when nothing is said, and the most that may be said.
const ONGOING: (u32, u32) = (1, 10_000);
/// Replicas of one worker.
pub const MAX_REPLICAS: u32 = 1_000;
/// Seconds without progress while loading.
const STALL_S: f64 = 600.0;
/// Seconds that a replica has for what it works on when it is to end.
const DRAIN_S: f64 = 30.0;
/// Seconds for an answer to a call.
const DEADLINE_S: f64 = 60.0;
/// Calls that may wait, for each request that may be worked on.
pub const QUEUE_FACTOR: u64 = 4;

/// How a static worker is spoken to. Times are seconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Serving {
    /// `stdio` (the default): JSON lines; `http`: it gets a port in `PORT`, requests are posted to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// HTTP: the path that answers 200 when it is ready; without it: when its port accepts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<String>,
    /// HTTP: where requests are posted; `/` if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Replicas at launch when the launch says nothing; 1 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u32>,
    /// Requests at one replica at once; 1 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_ongoing: Option<u32>,
    /// Without progress for so long before it is ready it counts as stuck; 600 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stall_s: Option<f64>,
    /// What it works on may take so long when it is to end; 30 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain_s: Option<f64>,
    /// For an answer to a call that names no deadline; 60 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline_s: Option<f64>,
}

impl Serving {
    /// Whether requests go over HTTP.
    pub fn is_http(&self) -> bool {
        self.protocol.as_deref() == Some("http")
    }

    /// Requests at one replica at once.
    pub fn ongoing(&self) -> usize {
        self.max_ongoing.unwrap_or(ONGOING.0) as usize
    }

    /// Milliseconds without progress.
    pub fn stall_ms(&self) -> u64 {
        ms(self.stall_s.unwrap_or(STALL_S))
    }

    /// Milliseconds to drain.
    pub fn drain_ms(&self) -> u64 {
        ms(self.drain_s.unwrap_or(DRAIN_S))
    }

    /// Milliseconds for a call.
    pub fn deadline_ms(&self) -> u64 {
        ms(self.deadline_s.unwrap_or(DEADLINE_S))
    }

    /// Checks every bound.
    ///
    /// # Errors
    /// The first mistake.
    pub fn validate(&self) -> Result<(), Problem> {
        let wrong = |detail: String, hint: &str| Err(Problem::new(Code::BadValue, detail).hint(hint));
        if let Some(other) = self.protocol.as_deref().filter(|p| !["stdio", "http"].contains(p)) {
            let shown = crate::text::Clean::short(other, 32);
            return wrong(format!("there is no protocol {:?}", shown.as_str()), "protocols: stdio, http");
        }
        for (name, path) in [("ready", &self.ready), ("path", &self.path)] {
            let Some(path) = path else { continue };
            if !self.is_http() {
                return wrong(format!("{name} belongs to protocol http"), "add: --protocol http");
            }
            if !path.starts_with('/') || path.len() > 512 || !path.bytes().all(|b| b.is_ascii_graphic()) {
                return wrong(
                    format!("{name} is no path of a URL"),
                    "a path starts with /, such as /v2/health/ready",
                );
            }
        }
        let bounds = |name: &str, found: f64, from: f64, to: f64| {
            if (from..=to).contains(&found) {
                return Ok(());
            }
            Err(Problem::new(Code::OutOfRange, format!("{name} is {found}"))
                .hint(format!("between {from} and {to}")))
        };
        bounds("replicas", f64::from(self.replicas.unwrap_or(1)), 0.0, f64::from(MAX_REPLICAS))?;
        bounds("max_ongoing", f64::from(self.max_ongoing.unwrap_or(1)), 1.0, f64::from(ONGOING.1))?;
        bounds("stall_s", self.stall_s.unwrap_or(STALL_S), 1.0, 604_800.0)?;
        bounds("drain_s", self.drain_s.unwrap_or(DRAIN_S), 0.0, 86_400.0)?;
        bounds("deadline_s", self.deadline_s.unwrap_or(DEADLINE_S), 0.001, 86_400.0)
    }
}

fn ms(seconds: f64) -> u64 {
    (seconds * 1000.0) as u64
}

/// The body of `launch_worker`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LaunchRequest {
    /// Machines it may run on, instead of those of its registration: globs of names, or `label.key=value`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub on: Vec<String>,
    /// How many; absent: as many as run, else what the registration says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u32>,
}

/// The body of `scale`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScaleRequest {
    /// How many.
    pub replicas: u32,
}

/// The body of `POST /v1/workers/{name}/requests`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CallRequest {
    /// What the worker gets.
    pub payload: Value,
    /// Seconds until nobody waits any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline_s: Option<f64>,
}

/// Its answer.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct CallReply {
    /// What the worker answered, as it wrote it.
    pub result: Box<RawValue>,
}

/// Where a static worker stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// The registration that was launched last.
    pub version: u32,
    /// How many replicas there shall be.
    pub desired: u32,
    /// How many take requests.
    pub ready: u32,
    /// The worker as a whole: `stopped`, `starting`, `loading`, `warming`, `ready`, `draining` or `failed`.
    pub phase: String,
    /// Requests that replicas work on.
    pub outstanding: u64,
    /// Calls that wait for a replica.
    pub calls_waiting: u64,
    /// Answers a second, over ten seconds.
    pub rate: f64,
    /// What is wrong, or what is waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Every replica.
    pub replicas: Vec<ReplicaView>,
}

/// One replica.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ReplicaView {
    /// `REEVE_REPLICA`.
    pub replica: u32,
    /// The job that holds it: `reeve logs JOB` shows what it wrote to standard error.
    pub job: JobId,
    /// Counts its starts.
    pub attempt: u32,
    /// The registration that it was made from.
    pub version: u32,
    /// Where.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<String>,
    /// `starting`, `loading`, `warming`, `ready`, `unready`, `unconfirmed`, `draining` or `failed`.
    pub phase: String,
    /// How far it has loaded, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<f64>,
    /// What it says about itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Requests that it works on.
    pub outstanding: u64,
    /// Answers it has given.
    pub answered: u64,
    /// Why it ended last, or is not ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When it is started again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart_at: Option<Wall>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_served_is_refused_by_name() {
        let of = |text: &str| serde_json::from_str::<Serving>(text).unwrap().validate();
        for good in ["{}", r#"{"protocol":"http","ready":"/health","path":"/v1/infer","replicas":0}"#] {
            assert_eq!(of(good), Ok(()), "{good}");
        }
        for (bad, part) in [
            (r#"{"protocol":"grpc"}"#, "grpc"),
            (r#"{"ready":"/x"}"#, "protocol http"),
            (r#"{"protocol":"http","path":"x"}"#, "no path"),
            (r#"{"protocol":"http","path":"/a b"}"#, "no path"),
            (r#"{"max_ongoing":0}"#, "max_ongoing"),
            (r#"{"replicas":100000}"#, "replicas"),
            (r#"{"deadline_s":0}"#, "deadline_s"),
        ] {
            let problem = of(bad).unwrap_err();
            assert!(problem.detail.contains(part), "{problem:?}");
        }
    }
}
