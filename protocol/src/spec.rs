//! What a job is: the body of `submit`, one line of a batch, the `spec` of every job shown.
//!
//! The stored form is this JSON with every default left out. [`JobSpec::validate`](crate::spec_check) holds the
//! bounds.
use crate::resources::ResourceAsk;
use crate::time::Wall;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// A job as its submitter describes it. One of `command` and `worker` is required; with `git` the command runs in a
/// checkout.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct JobSpec {
    /// The argument vector: never goes through a shell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// For people; need not be unique.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where it waits; `default` if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    /// A registered worker that runs it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
    /// Given to the job as a file named in `REEVE_PAYLOAD`; at most 256 KiB as JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload: Option<Value>,
    /// Run in a checkout of this commit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub git: Option<GitSpec>,
    /// What it needs.
    #[serde(skip_serializing_if = "ResourceAsk::is_default")]
    pub resources: ResourceAsk,
    /// Machines it may run on: globs of names, or `label.key=value`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub on: Vec<String>,
    /// Machines it must not run on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_on: Vec<String>,
    /// Higher first, then oldest; -1,000,000 to 1,000,000.
    #[serde(skip_serializing_if = "is_zero")]
    pub priority: i32,
    /// How often a failure of its own is tried again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retries: Option<u32>,
    /// Longest run, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_s: Option<f64>,
    /// Start no sooner than this many seconds from now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay_s: Option<f64>,
    /// Start no sooner than this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<Wall>,
    /// Give up if it has not started within this many seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_s: Option<f64>,
    /// Seconds without its machine before it may run elsewhere (default 300), or `"never"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost_after_s: Option<LostAfter>,
    /// Never two attempts at once: the machine stops it before another may start.
    #[serde(skip_serializing_if = "is_false")]
    pub exclusive: bool,
    /// Jobs that must end first.
    #[serde(skip_serializing_if = "After::is_empty")]
    pub after: After,
    /// Many tasks from one spec.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub array: Option<ArraySpec>,
    /// One task per item, given in `REEVE_ITEM`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub items: Option<Vec<Value>>,
    /// At most this many at once of all jobs with the same name here.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<String, u32>,
    /// Environment variables, beside those that reeve sets.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Where the command starts; an own fresh directory if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// What the command reads; at most 256 KiB. Absent: nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stdin: Option<String>,
    /// Files to collect at the end of an attempt: patterns relative to where the command starts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub out: Vec<String>,
    /// Bytes of all collected files of an attempt (default 1 GiB).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub out_max_bytes: Option<u64>,
    /// Free pairs to filter by.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Wait for `release`.
    #[serde(skip_serializing_if = "is_false")]
    pub hold: bool,
    /// The user it runs as; the submitter if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_as: Option<String>,
    /// Where its changes of state and its result are sent: a queue of messages, or a place at a broker; see
    /// [`ReplyTo`](crate::reply_to::ReplyTo).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<String>,
    /// Given back with each of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    /// Seconds between TERM and KILL when it is stopped (default 15).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace_s: Option<f64>,
}

/// Where code comes from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GitSpec {
    /// The repository.
    pub url: String,
    /// A branch, tag or commit.
    #[serde(rename = "ref", default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// The directory inside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subdir: Option<String>,
    /// Run with `sh -c` in the checkout before the command; its result is kept per machine for the same lock files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub setup: Option<String>,
    /// Check submodules out too.
    #[serde(default, skip_serializing_if = "is_false")]
    pub submodules: bool,
    /// Fetch what Git LFS holds; the machine needs `git-lfs`.
    #[serde(default, skip_serializing_if = "is_false")]
    pub lfs: bool,
    /// What the ref was when it was resolved: every attempt gets this commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// Uncommitted work, applied to the checkout; needs `commit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patch: Option<crate::patch::Patch>,
}

/// Dependencies on other jobs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct After {
    /// These must have COMPLETED.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ok: Vec<u64>,
    /// These must have ended in any way.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub any: Vec<u64>,
    /// These must have FAILED.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fail: Vec<u64>,
}

impl After {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ok.is_empty() && self.any.is_empty() && self.fail.is_empty()
    }
}

/// A range of tasks, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArraySpec {
    /// First index.
    pub from: u32,
    /// Last index; at least `from`.
    pub to: u32,
    /// At most this many at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

impl ArraySpec {
    /// How many tasks.
    pub const fn len(&self) -> u64 {
        (self.to as u64 + 1).saturating_sub(self.from as u64)
    }

    /// Whether the range is empty (it is refused then).
    pub const fn is_empty(&self) -> bool {
        self.to < self.from
    }
}

/// `lost_after_s`: seconds, or never.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LostAfter {
    /// Seconds.
    Seconds(f64),
    /// Wait for the machine for ever.
    Never,
}

impl Serialize for LostAfter {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Seconds(s) => serializer.serialize_f64(*s),
            Self::Never => serializer.serialize_str("never"),
        }
    }
}

impl<'de> Deserialize<'de> for LostAfter {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::Number(n) => Ok(Self::Seconds(n.as_f64().unwrap_or(f64::NAN))),
            Value::String(s) if s == "never" => Ok(Self::Never),
            _ => Err(serde::de::Error::custom("lost_after_s must be a number of seconds or \"never\"")),
        }
    }
}

impl JobSpec {
    /// The queue's name when none is given.
    pub const DEFAULT_QUEUE: &'static str = "default";

    /// Where it waits.
    pub fn queue_name(&self) -> &str {
        self.queue.as_deref().unwrap_or(Self::DEFAULT_QUEUE)
    }

    /// Whether a static worker is asked, and nothing is started: a worker, and nothing to run. Holds for specs whose worker
    /// was resolved.
    pub const fn is_request(&self) -> bool {
        self.worker.is_some() && self.command.is_none()
    }

    /// What tables show: the name, else the command, else the worker that is asked.
    pub fn title(&self) -> String {
        let command = || self.command.as_ref().map(|c| c.join(" "));
        self.name.clone().or_else(command).or_else(|| self.worker.clone()).unwrap_or_default()
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(n: &i32) -> bool {
    *n == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(b: &bool) -> bool {
    !*b
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::parse_json;

    #[test]
    fn the_contracts_example_parses_and_defaults_are_not_stored() {
        let body = br#"{"command":["python","train.py"],"name":"train","queue":"default","worker":null,"payload":null,
          "git":{"url":"https://x","ref":"main","subdir":null},"resources":{"cpus":4,"memory_bytes":4294967296,"gpus":1,"named":{"licence":1}},
          "on":["gpu-*","label.a=b"],"not_on":[],"priority":0,"retries":0,"timeout_s":1800,"delay_s":null,"at":null,"expires_s":null,
          "lost_after_s":300,"exclusive":false,"after":{"ok":[3],"any":[],"fail":[]},"array":{"from":1,"to":1000,"limit":50},"items":null,
          "limits":{"db":4},"env":{"K":"V"},"cwd":"/home/ana/x","stdin":null,"labels":{"team":"vision"},"hold":false,"run_as":null}"#;
        let spec: JobSpec = parse_json(body).unwrap();
        assert_eq!(spec.array.unwrap().len(), 1000);
        let stored =
            serde_json::to_string(&JobSpec { command: Some(vec!["true".into()]), ..Default::default() })
                .unwrap();
        assert_eq!(stored, r#"{"command":["true"]}"#);
        let again: JobSpec = serde_json::from_str(&serde_json::to_string(&spec).unwrap()).unwrap();
        assert_eq!(again, spec);
    }

    #[test]
    fn lost_after_takes_never() {
        let spec: JobSpec = parse_json(br#"{"lost_after_s":"never"}"#).unwrap();
        assert_eq!(spec.lost_after_s, Some(LostAfter::Never));
        assert!(parse_json::<JobSpec>(br#"{"lost_after_s":"soon"}"#).is_err());
    }
}
