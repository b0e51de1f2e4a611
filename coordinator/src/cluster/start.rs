//! From a spec to the frame that starts an attempt. The environment is complete but for what only the machine knows.
use reeve_protocol::artifact;
use reeve_protocol::resources::Resources;
use reeve_protocol::spec::{JobSpec, LostAfter};
use reeve_protocol::{AttemptId, Cause, wire};
use std::fmt::Write as _;

/// Output kept per attempt.
pub const OUTPUT_CAP: u64 = 64 * 1024 * 1024;

/// What a start needs beside the spec.
pub struct Facts<'a> {
    /// Which.
    pub attempt: AttemptId,
    /// The store's lineage.
    pub lineage: &'a str,
    /// The submitter.
    pub owner_uid: u32,
    /// The submitter.
    pub owner: &'a str,
    /// Where it waited.
    pub queue: &'a str,
    /// The worker it was made from.
    pub worker: Option<&'a str>,
    /// What is reserved.
    pub ask: &'a Resources,
    /// Its gpus.
    pub gpus: Vec<String>,
    /// How the attempt before ended.
    pub previous: Option<&'a Cause>,
    /// Between TERM and KILL.
    pub grace_ms: u64,
}

/// The frame.
pub fn start(spec: &JobSpec, facts: Facts<'_>) -> wire::Start {
    wire::Start {
        env: environment(spec, &facts),
        attempt: facts.attempt,
        lineage: facts.lineage.to_owned(),
        command: spec.command.clone().unwrap_or_default(),
        cwd: spec.cwd.clone(),
        stdin: spec.stdin.as_ref().map(|s| s.clone().into_bytes()),
        payload: spec.payload.as_ref().and_then(|p| serde_json::to_vec(p).ok()),
        owner_uid: facts.owner_uid,
        owner: facts.owner.to_owned(),
        run_as: spec.run_as.clone(),
        cpu_milli: facts.ask.cpu_milli,
        memory_bytes: facts.ask.memory_bytes,
        gpus: facts.gpus,
        timeout_ms: spec.timeout_s.map_or(0, |s| (s * 1000.0).max(1.0) as u64),
        grace_ms: facts.grace_ms,
        stop_after_ms: stop_after_ms(spec, facts.grace_ms),
        output_cap: OUTPUT_CAP,
    }
}

/// What the machine checks out first; `None`: the job has no repository.
pub fn checkout(spec: &JobSpec) -> Option<wire::Checkout> {
    let git = spec.git.as_ref()?;
    Some(wire::Checkout {
        url: git.url.clone(),
        reference: git.reference.clone(),
        commit: git.commit.clone(),
        subdir: git.subdir.clone(),
        setup: git.setup.clone(),
        submodules: git.submodules,
        lfs: git.lfs,
        patch: git.patch.as_ref().and_then(reeve_protocol::patch::Patch::bytes),
    })
}

/// Which files are collected at the end; `None`: those that every job may leave.
pub fn collect(spec: &JobSpec, attempt: AttemptId) -> Option<wire::Collect> {
    if spec.out.is_empty() && spec.out_max_bytes.is_none() {
        return None;
    }
    let plain = |glob: &String| artifact::check_glob(glob).ok().map(str::to_owned);
    Some(wire::Collect {
        attempt,
        globs: spec.out.iter().filter_map(plain).collect(),
        max_bytes: spec.out_max_bytes.unwrap_or(artifact::DEFAULT_MAX_BYTES),
    })
}

/// The job's own variables first, then reeve's, which win.
fn environment(spec: &JobSpec, facts: &Facts<'_>) -> Vec<(String, String)> {
    let mut env: Vec<(String, String)> = spec.env.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
    let task = facts.attempt.task;
    let mut set = |name: &str, value: String| env.push((name.to_owned(), value));
    set("REEVE", "1".to_owned());
    set("REEVE_JOB_ID", task.job.to_string());
    set("REEVE_ATTEMPT", facts.attempt.attempt.to_string());
    set("REEVE_QUEUE", facts.queue.to_owned());
    set("REEVE_USER", facts.owner.to_owned());
    set("REEVE_PRIORITY", spec.priority.to_string());
    set("REEVE_CPUS", facts.ask.cpus().to_string());
    set("REEVE_MEM_BYTES", facts.ask.memory_bytes.to_string());
    set("REEVE_GPUS", facts.ask.gpus().to_string());
    if let Some(name) = &spec.name {
        set("REEVE_JOB_NAME", name.clone());
    }
    if let Some(index) = task.index {
        set("REEVE_ARRAY_ID", task.job.to_string());
        set("REEVE_INDEX", index.to_string());
    }
    if !facts.gpus.is_empty() {
        set("REEVE_GPU_UUIDS", facts.gpus.join(","));
    }
    if let Some(worker) = facts.worker {
        set("REEVE_WORKER", worker.to_owned());
    }
    if let Some(cause) = facts.previous {
        set("REEVE_PREV_CAUSE", cause.kind().to_owned());
    }
    if let Some(git) = &spec.git {
        set("REEVE_REPO", git.url.clone());
        set("REEVE_REF", git.reference.clone().unwrap_or_else(|| "HEAD".to_owned()));
    }
    for (key, value) in &spec.labels {
        set(&label_variable(key), value.clone());
    }
    env
}

/// `team` -> `REEVE_LABEL_TEAM`; what cannot stand in a variable's name becomes `_`.
fn label_variable(key: &str) -> String {
    key.chars().fold("REEVE_LABEL_".to_owned(), |mut name, c| {
        let _ = write!(name, "{}", if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' });
        name
    })
}

/// When an exclusive attempt must stop by its own clock: before the coordinator may start another, with 5 s to spare
/// and clocks that differ by 1 %: `stop_after = (lost_after - grace - 5 s) / 1.01`. 0: never.
fn stop_after_ms(spec: &JobSpec, grace_ms: u64) -> u64 {
    if !spec.exclusive {
        return 0;
    }
    let lost_after_ms = match spec.lost_after_s {
        Some(LostAfter::Never) => return 0,
        Some(LostAfter::Seconds(s)) => (s * 1000.0) as u64,
        None => crate::job_manager::LOST_AFTER_MS,
    };
    (lost_after_ms.saturating_sub(grace_ms + 5_000) * 100 / 101).max(1_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use reeve_protocol::TaskId;

    fn facts(attempt: AttemptId, ask: &Resources) -> Facts<'_> {
        Facts {
            attempt,
            lineage: "l",
            owner_uid: 1000,
            owner: "ana",
            queue: "q",
            worker: None,
            ask,
            gpus: vec!["GPU-1".into()],
            previous: Some(&Cause::Lost),
            grace_ms: 15_000,
        }
    }

    #[test]
    fn reeves_own_variables_come_last_and_name_everything() {
        let spec = JobSpec {
            command: Some(vec!["true".into()]),
            name: Some("n".into()),
            env: [("A".to_owned(), "b".to_owned())].into(),
            labels: [("my-team".to_owned(), "vision".to_owned())].into(),
            timeout_s: Some(1.5),
            ..JobSpec::default()
        };
        let ask = Resources { cpu_milli: 500, gpu_milli: 1000, ..Resources::default() };
        let start = start(&spec, facts(TaskId::of_array(7, 3).attempt(2), &ask));
        let get = |k: &str| start.env.iter().find(|(n, _)| n == k).map(|(_, v)| v.as_str());
        assert_eq!(start.env[0], ("A".to_owned(), "b".to_owned()));
        for (name, value) in [
            ("REEVE_JOB_ID", "7"),
            ("REEVE_INDEX", "3"),
            ("REEVE_ATTEMPT", "2"),
            ("REEVE_CPUS", "0.5"),
            ("REEVE_GPUS", "1"),
            ("REEVE_GPU_UUIDS", "GPU-1"),
            ("REEVE_PREV_CAUSE", "lost"),
            ("REEVE_LABEL_MY_TEAM", "vision"),
            ("REEVE_JOB_NAME", "n"),
        ] {
            assert_eq!(get(name), Some(value), "{name}");
        }
        assert_eq!((start.timeout_ms, start.stop_after_ms), (1500, 0));
    }

    #[test]
    fn an_exclusive_attempt_stops_itself_before_another_may_start() {
        let spec = |lost| JobSpec { exclusive: true, lost_after_s: lost, ..JobSpec::default() };
        assert!(stop_after_ms(&spec(None), 15_000) * 101 / 100 + 15_000 + 5_000 <= 300_000);
        assert_eq!(stop_after_ms(&spec(Some(LostAfter::Never)), 15_000), 0);
        assert_eq!(stop_after_ms(&spec(Some(LostAfter::Seconds(10.0))), 15_000), 1_000);
    }
}
