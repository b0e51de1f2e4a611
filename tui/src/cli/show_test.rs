//! What `show` says of a job. Other tests of the command line start from [`job`] as well.
use super::*;
use reeve_protocol::{JobSpec, State, Substate};
use serde_json::json;

/// A job with nothing special about it.
pub fn job() -> JobView {
    serde_json::from_value(json!({
        "id": 7, "alias": null, "name": null, "owner": "ana", "queue": "default", "state": "RUNNING",
        "substate": null, "cause": null, "attempt": 1, "priority": 0, "created_at": "1970-01-01T00:00:00Z",
        "progress": null, "result": null, "labels": {}, "spec": {"command": ["true"]}
    }))
    .unwrap()
}

fn fact(job: &JobView, key: &str) -> Option<String> {
    facts(job, Wall(60_000), false).into_iter().find(|(k, _)| *k == key).map(|(_, v)| v)
}

#[test]
fn only_what_is_known_is_shown() {
    let keys: Vec<_> = facts(&job(), Wall(60_000), false).into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, ["job", "state", "command", "queue", "owner", "submitted", "needs"]);
}

#[test]
fn each_fact_is_in_words() {
    let spec: JobSpec = serde_json::from_value(json!({
        "command": ["echo", "a b"], "cwd": "/x",
        "resources": {"cpus": 2.0, "memory_bytes": 1_073_741_824, "gpus": 1.0, "named": {"lic": 2}}
    }))
    .unwrap();
    let job = JobView {
        state: State::Queued,
        substate: Some(Substate::Delayed),
        progress: Some(0.25),
        started_at: Some(Wall(30_000)),
        labels: [("team".to_owned(), "vision".to_owned())].into(),
        result: Some(json!({"a": 1})),
        spec,
        ..job()
    };
    for (key, wanted) in [
        ("state", "QUEUED (delayed)"),
        ("command", "echo 'a b'"),
        ("directory", "/x"),
        ("needs", "2 cpu, 1.0 GiB memory, 1 gpu, 2 lic"),
        ("labels", "team=vision"),
        ("progress", "25 %"),
        ("ran", "30.0s"),
        ("result", "{\"a\":1}"),
    ] {
        assert_eq!(fact(&job, key).as_deref(), Some(wanted), "{key}");
    }
}

#[test]
fn causes_are_explained_or_quoted() {
    for (cause, wanted) in [
        (Cause::Exit { code: 3 }, "exit 3"),
        (Cause::Lost, "lost (its machine was not heard for too long)"),
        (
            Cause::Spawn { errno: "ENOENT".into(), detail: "program x not found".into() },
            "spawn ENOENT: program x not found",
        ),
    ] {
        assert_eq!(cause_words(&cause), wanted);
    }
}

#[test]
fn hostile_names_and_results_are_cleaned() {
    let job = JobView { name: Some("a\u{1b}[2J".into()), message: Some("b\u{7}".into()), ..job() };
    for (key, value) in facts(&job, Wall(0), false) {
        assert!(!value.contains(['\u{1b}', '\u{7}']), "{key}: {value:?}");
    }
}

#[test]
fn an_attempt_shows_its_end_or_its_process() {
    let mut attempt: AttemptView = serde_json::from_value(json!({
        "attempt": 2, "machine": "m", "started_at": null, "ended_at": null, "cause": null, "exit_code": null,
        "cpu_s": 0.0, "rss_peak_bytes": 0, "pid": 42
    }))
    .unwrap();
    assert_eq!(attempt_row(&attempt)[4], "pid 42");
    attempt.cause = Some(Cause::Lost);
    attempt.late = Some(Cause::Ok);
    assert_eq!(attempt_row(&attempt)[4], "lost (late: ok)");
}

#[test]
fn the_end_in_one_line() {
    let ended = |state, cause| end_words(&JobView { state, cause, ..job() });
    assert_eq!(ended(State::Completed, Some(Cause::Ok)), "COMPLETED");
    assert_eq!(ended(State::Failed, Some(Cause::Exit { code: 3 })), "FAILED: exit 3");
    assert_eq!(ended(State::Cancelled, None), "CANCELLED");
}
