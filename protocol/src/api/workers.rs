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
/// Seconds that a request waits before there are more replicas.
const SCALE_UP_WAIT_S: f64 = 1.0;
/// Seconds in which a replica was not needed before there is one less.
const SCALE_DOWN_AFTER_S: f64 = 300.0;
/// Milliseconds that a batch waits for more requests.
const BATCH_DELAY_MS: u32 = 10;
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
    /// The number of replicas follows the load, and is never less; 0: the first request starts one. 1 if only `max` is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min: Option<u32>,
    /// The number of replicas follows the load, and is never more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<u32>,
    /// There are more replicas when a request has waited so long; 1 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale_up_wait_s: Option<f64>,
    /// There is one replica less when it was not needed for so long; 300 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale_down_after_s: Option<f64>,
    /// Without any request for so long all replicas end; the next request brings them back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_unload_s: Option<f64>,
    /// Requests to one replica are handed over together, at most so many; absent: each by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_max_size: Option<u32>,
    /// A batch that is not full waits so long for more; 10 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_max_delay_ms: Option<u32>,
}

/// Between which numbers the replicas of a worker follow its load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// Never less, unless it is unloaded.
    pub least: u32,
    /// Never more.
    pub most: u32,
    /// Milliseconds without a request after which it is unloaded.
    pub idle_ms: Option<u64>,
}

impl Range {
    /// Whether there may be no replica at all until somebody asks.
    pub const fn may_unload(&self) -> bool {
        self.least == 0 || self.idle_ms.is_some()
    }
}

impl Serving {
    /// Whether requests go over HTTP.
    pub fn is_http(&self) -> bool {
        self.protocol.as_deref() == Some("http")
    }

    /// Requests at one replica at once.
    pub fn ongoing(&self) -> usize {
        self.max_ongoing.or(self.batch_max_size).unwrap_or(ONGOING.0) as usize
    }

    /// How requests to one replica are gathered.
    pub fn batch(&self) -> crate::wire::Batch {
        let delay_ms = u64::from(self.batch_max_delay_ms.unwrap_or(BATCH_DELAY_MS));
        self.batch_max_size
            .map_or_else(crate::wire::Batch::default, |size| crate::wire::Batch { size, delay_ms })
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

    /// Milliseconds that a request waits before there are more replicas.
    pub fn scale_up_wait_ms(&self) -> u64 {
        ms(self.scale_up_wait_s.unwrap_or(SCALE_UP_WAIT_S))
    }

    /// Milliseconds after which a replica that is not needed goes.
    pub fn scale_down_after_ms(&self) -> u64 {
        ms(self.scale_down_after_s.unwrap_or(SCALE_DOWN_AFTER_S))
    }

    /// Between which numbers the replicas follow the load; `None`: their number is fixed.
    pub fn range(&self) -> Option<Range> {
        let idle_ms = self.idle_unload_s.map(ms);
        if self.max.is_none() && idle_ms.is_none() {
            return None;
        }
        let most = self.max.or(self.replicas).unwrap_or(1).max(1);
        let least = self.min.unwrap_or(if self.max.is_some() { 1 } else { most }).min(most);
        Some(Range { least, most, idle_ms })
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
        bounds("deadline_s", self.deadline_s.unwrap_or(DEADLINE_S), 0.001, 86_400.0)?;
        bounds("max", f64::from(self.max.unwrap_or(1)), 1.0, f64::from(MAX_REPLICAS))?;
        bounds("scale_up_wait_s", self.scale_up_wait_s.unwrap_or(SCALE_UP_WAIT_S), 0.0, 3_600.0)?;
        bounds("scale_down_after_s", self.scale_down_after_s.unwrap_or(SCALE_DOWN_AFTER_S), 0.1, 604_800.0)?;
        bounds("idle_unload_s", self.idle_unload_s.unwrap_or(SCALE_DOWN_AFTER_S), 0.1, 2_592_000.0)?;
        bounds("batch_max_size", f64::from(self.batch_max_size.unwrap_or(1)), 1.0, 1_024.0)?;
        bounds("batch_max_delay_ms", f64::from(self.batch_max_delay_ms.unwrap_or(0)), 0.0, 60_000.0)?;
        if self.batch_max_delay_ms.is_some() && self.batch_max_size.is_none() {
            return wrong("a delay is for batches, and there are none".to_owned(), "add: --batch-max-size N");
        }
        if let (Some(size), Some(ongoing)) = (self.batch_max_size, self.max_ongoing)
            && size > ongoing
        {
            let detail =
                format!("a batch of {size} is never full: a replica has at most {ongoing} requests at once");
            return wrong(detail, "max_ongoing is at least batch_max_size");
        }
        if self.max.is_none()
            && (self.min.is_some() || self.scale_up_wait_s.is_some() || self.scale_down_after_s.is_some())
        {
            let detail = "the number of replicas follows the load only up to a max, and there is none";
            return wrong(detail.to_owned(), "add: --max N");
        }
        if self.min > self.max {
            let hint = "the number of replicas lies between min and max";
            return wrong(
                format!("min is {}, and max {}", self.min.unwrap_or(0), self.max.unwrap_or(0)),
                hint,
            );
        }
        Ok(())
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
    /// How many; absent: as many as run, else what the registration says. Without `max` the number is fixed from now on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u32>,
    /// The number follows the load, and is never less: instead of what the registration says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min: Option<u32>,
    /// The number follows the load, and is never more: instead of what the registration says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<u32>,
}

/// The body of `scale`: a number, or the bounds between which it follows the load.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScaleRequest {
    /// How many from now on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u32>,
    /// Never less.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min: Option<u32>,
    /// Never more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<u32>,
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
    /// How many replicas there shall be now.
    pub desired: u32,
    /// Their number follows the load, and is never less.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<u32>,
    /// Their number follows the load, and is never more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<u32>,
    /// The commit that its replicas run, once it is known: of workers from git.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// Seconds without a request after which all of them end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_unload_s: Option<f64>,
    /// How many take requests.
    pub ready: u32,
    /// The worker as a whole: `stopped`, `unloaded`, `starting`, `loading`, `warming`, `ready`, `draining` or `failed`.
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

impl WorkerStatus {
    /// In words how the number of replicas follows the load, if it does.
    pub fn follows(&self) -> Option<String> {
        let range = self.min.zip(self.max).map(|(min, max)| format!("{min} to {max}, as the load needs"));
        let idle = self.idle_unload_s.map(|s| format!("none after {s} s without a request"));
        let words: Vec<String> = range.into_iter().chain(idle).collect();
        (!words.is_empty()).then(|| words.join("; "))
    }
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
            (r#"{"batch_max_size":0}"#, "batch_max_size"),
            (r#"{"batch_max_size":8,"max_ongoing":4}"#, "never full"),
            (r#"{"batch_max_delay_ms":5}"#, "there are none"),
            (r#"{"min":1}"#, "there is none"),
            (r#"{"scale_down_after_s":1}"#, "there is none"),
            (r#"{"min":3,"max":2}"#, "min is 3"),
            (r#"{"max":0}"#, "max"),
            (r#"{"idle_unload_s":0}"#, "idle_unload_s"),
        ] {
            let problem = of(bad).unwrap_err();
            assert!(problem.detail.contains(part), "{problem:?}");
        }
    }

    #[test]
    fn the_number_follows_the_load_only_between_bounds() {
        let of = |text: &str| {
            serde_json::from_str::<Serving>(text).unwrap().range().map(|r| (r.least, r.most, r.idle_ms))
        };
        assert_eq!(of(r#"{"replicas":3}"#), None);
        assert_eq!(of(r#"{"max":4}"#), Some((1, 4, None)));
        assert_eq!(of(r#"{"min":0,"max":4}"#), Some((0, 4, None)));
        assert_eq!(of(r#"{"replicas":3,"idle_unload_s":60}"#), Some((3, 3, Some(60_000))));
        assert_eq!(of(r#"{"min":1,"max":2,"idle_unload_s":1}"#), Some((1, 2, Some(1_000))));
    }
}
