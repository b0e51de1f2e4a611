//! One job: `get_job_status`, `cancel_job`, `restart_job`, hold and release, `update_job_status`, `register_job`, `why`.
use super::App;
use super::reply::{Answer, Failure, json, json_with, unexpected};
use super::request::{Cx, Nothing, millis};
use super::select::{self, With, no_array, no_such_job};
use crate::effect::Reply;
use crate::input::{Call, Stored, Target};
use crate::row::Caller;
use crate::store::query::{self, Detail};
use crate::store::read;
use axum::http::StatusCode;
use reeve_protocol::api::{JobView, RegisterRequest, StatusRequest};
use reeve_protocol::spec_check::{MAX_PAYLOAD, check_key};
use reeve_protocol::{Code, JobId, Problem, State, TaskId};
use serde::Deserialize;
use serde_json::Value;
use std::time::Duration;
use tokio::time::Instant;

/// Bytes of what a job or consumer may say about itself.
const MAX_MESSAGE: usize = 4096;

/// `GET /v1/jobs/{job}`, perhaps waiting for its end.
pub(super) async fn get_job_status(cx: Cx) -> Answer {
    let wait = cx.query(&["wait_s"])?.number("wait_s", 0.0..=3600.0)?;
    let task = select::one(&cx.app, &cx.caller, cx.param(0))?;
    if let Some(seconds) = wait {
        await_end(&cx.app, task, Instant::now() + Duration::from_secs_f64(seconds)).await?;
    }
    Ok(json(&view(&cx.app, task)?))
}

/// A job or task as it is shown, with its attempts.
pub(super) fn view(app: &App, task: TaskId) -> Result<JobView, Failure> {
    let Some(index) = task.index else {
        let view = app.reads.point(|conn| query::job_view(conn, task.job, Detail::Whole))?;
        return view.ok_or_else(|| no_such_job(&task.to_string()));
    };
    let view = app.reads.point(|conn| query::task_view(conn, task.job, index, Detail::Whole))?;
    match view {
        Some(view) => Ok(view),
        None => Err(no_such_task(app, task)),
    }
}

/// Why there is no such task: its job is no array, has another range, or does not exist.
fn no_such_task(app: &App, task: TaskId) -> Failure {
    match app.reads.point(|conn| read::job_row(conn, task.job)) {
        Ok(Some(job)) if job.array.is_none() => no_array(task.job).into(),
        Ok(_) => no_such_job(&task.to_string()),
        Err(error) => error.into(),
    }
}

/// Between two looks at one task of an array.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// Returns when the job or task has ended, when the time is over or when the coordinator stops.
async fn await_end(app: &App, task: TaskId, until: Instant) -> Result<(), Failure> {
    loop {
        // Subscribed before the look, so that no end falls between.
        let ended = app.hub.ended(task);
        if has_ended(app, task)? {
            return Ok(());
        }
        tokio::select! {
            _ = ended => {}
            // Tasks that are cancelled before they ever ran have no end of their own to be told of.
            () = tokio::time::sleep(LOOK_AGAIN), if task.index.is_some() => {}
            () = tokio::time::sleep_until(until) => return Ok(()),
            () = app.stopped() => return Ok(()),
        }
    }
}

/// Whether a job or task has ended; reads one number where it can.
pub(super) fn has_ended(app: &App, task: TaskId) -> Result<bool, Failure> {
    match app.reads.point(|conn| read::state_of(conn, task.job, task.index))? {
        Some(state) => Ok(state.is_terminal()),
        None => Ok(view(app, task)?.state.is_terminal()),
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct CancelRequest {
    grace_s: Option<f64>,
    /// For the people who read the log; the engine has no use for it.
    reason: Option<String>,
}

/// `POST /v1/jobs/{job}/cancel`.
pub(super) async fn cancel_job(cx: Cx) -> Answer {
    let (app, caller, target) = begin(&cx)?;
    let request: CancelRequest = cx.json_or_default().await?;
    let grace_ms = request.grace_s.map(|s| millis("grace_s", s, 0.0..=86_400.0)).transpose()?;
    if let Some(reason) = &request.reason {
        let reason = reeve_protocol::text::Clean::short(reason, 200);
        tracing::info!(job = target.job, user = %caller.name, %reason, "cancel asked for");
    }
    change(&app, &caller, target, With::Named, |stored| Call::CancelJob { target, grace_ms, stored }).await
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RestartRequest {
    /// What the ref names now, instead of the same commit.
    latest: bool,
}

/// `POST /v1/jobs/{job}/restart`.
pub(super) async fn restart_job(cx: Cx) -> Answer {
    let (app, caller, target) = begin(&cx)?;
    let RestartRequest { latest } = cx.json_or_default().await?;
    change(&app, &caller, target, With::Bad, |stored| Call::RestartJob { target, latest, stored }).await
}

/// `POST /v1/jobs/{job}/hold`.
pub(super) async fn hold(cx: Cx) -> Answer {
    set_held(cx, true).await
}

/// `POST /v1/jobs/{job}/release`.
pub(super) async fn release(cx: Cx) -> Answer {
    set_held(cx, false).await
}

async fn set_held(cx: Cx, hold: bool) -> Answer {
    let (app, caller, target) = begin(&cx)?;
    let Nothing {} = cx.json_or_default().await?;
    change(&app, &caller, target, With::Named, |stored| Call::HoldJob { target, hold, stored }).await
}

/// `POST /v1/jobs/{job}/status`.
pub(super) async fn update_job_status(cx: Cx) -> Answer {
    cx.query(&[])?;
    let (app, caller) = (cx.app.clone(), cx.caller.clone());
    let task = select::one(&app, &caller, cx.param(0))?;
    let target = Target { job: task.job, tasks: task.index.map(|index| (index, index)) };
    let request: StatusRequest = cx.json().await?;
    check_status(&request)?;
    let call = |stored| Call::UpdateJobStatus { target, request: Box::new(request.clone()), stored };
    change(&app, &caller, target, With::Named, call).await
}

fn check_status(request: &StatusRequest) -> Result<(), Problem> {
    if request.progress.is_some_and(|p| !(0.0..=1.0).contains(&p)) {
        return Err(Problem::new(Code::OutOfRange, "progress must be between 0 and 1"));
    }
    if request.state == Some(State::Queued) {
        return Err(Problem::new(Code::BadValue, "nothing can be reported back to QUEUED")
            .hint("restart it, or nack its lease: POST /v1/queues/{queue}/nack"));
    }
    let long = |text: &Option<String>| text.as_ref().is_some_and(|t| t.len() > MAX_MESSAGE);
    if long(&request.message) || long(&request.error) {
        return Err(Problem::new(
            Code::TooLarge,
            format!("message and error take at most {MAX_MESSAGE} bytes each"),
        ));
    }
    check_size("result", request.result.as_ref())
}

/// Payloads, results and definitions lie in the store: each has the same bound.
pub(super) fn check_size(what: &str, value: Option<&Value>) -> Result<(), Problem> {
    if value.is_some_and(|v| v.to_string().len() > MAX_PAYLOAD) {
        return Err(Problem::new(
            Code::TooLarge,
            format!("{what} takes at most {MAX_PAYLOAD} bytes as JSON"),
        )
        .hint("put it into a file and name that"));
    }
    Ok(())
}

/// `GET /v1/jobs/{job}/why`.
pub(super) async fn why(cx: Cx) -> Answer {
    cx.query(&[])?;
    let task = select::one(&cx.app, &cx.caller, cx.param(0))?;
    let target = Target { job: task.job, tasks: task.index.map(|index| (index, index)) };
    match select::ask(&cx.app, &cx.caller, target, With::Named, |stored| Call::Why { target, stored }).await?
    {
        Reply::Why(why) => Ok(json(&why)),
        other => Err(unexpected(&other)),
    }
}

/// `POST /v1/jobs/register`.
pub(super) async fn register_job(cx: Cx) -> Answer {
    cx.query(&[])?;
    let (app, caller) = (cx.app.clone(), cx.caller.clone());
    let RegisterRequest { id, definition, cluster_id } = cx.json().await?;
    check_key("id", &id)?;
    check_size("definition", definition.as_ref())?;
    let definition = definition.map(|d| d.to_string());
    let call =
        |stored| Call::RegisterJob { id: id.clone(), definition: definition.clone(), cluster_id, stored };
    let reply = match cluster_id {
        Some(job) => {
            let target = Target { job: job_number(job)?, tasks: None };
            select::ask(&app, &caller, target, With::Named, call).await?
        }
        // Without a job of its own the row that may matter is the one that has this name already.
        None => app.ask(&caller, call(named(&app, &caller, &id)?)).await?,
    };
    match reply {
        Reply::Registered(job, new) => {
            let status = if new { StatusCode::CREATED } else { StatusCode::OK };
            Ok(json_with(status, &view(&app, TaskId::single(job))?))
        }
        other => Err(unexpected(&other)),
    }
}

fn named(app: &App, caller: &Caller, alias: &str) -> Result<Stored, Failure> {
    let stored = app.reads.point(|conn| match read::by_alias(conn, caller.uid, alias)? {
        Some(job) => select::stored(conn, Target { job, tasks: None }, With::Named),
        None => Ok(Stored::default()),
    })?;
    Ok(stored)
}

/// A number from a body that names a job.
fn job_number(job: JobId) -> Result<JobId, Failure> {
    if i64::try_from(job).is_ok_and(|job| job > 0) { Ok(job) } else { Err(no_such_job(&job.to_string())) }
}

fn begin(cx: &Cx) -> Result<(std::sync::Arc<App>, Caller, Target), Failure> {
    cx.query(&[])?;
    let target = select::target(&cx.app, &cx.caller, cx.param(0))?;
    Ok((cx.app.clone(), cx.caller.clone(), target))
}

async fn change(
    app: &App,
    caller: &Caller,
    target: Target,
    with: With,
    call: impl Fn(Stored) -> Call,
) -> Answer {
    match select::ask(app, caller, target, with, call).await? {
        Reply::Changed(changed) => Ok(json(&changed)),
        other => Err(unexpected(&other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_held_to_its_bounds() {
        let check = |json: &str| check_status(&serde_json::from_str(json).unwrap()).map_err(|p| p.code);
        assert_eq!(check(r#"{"state":"RUNNING","progress":0.4,"message":"half"}"#), Ok(()));
        assert_eq!(check(r#"{"progress":1.5}"#), Err("out-of-range".into()));
        assert_eq!(check(r#"{"state":"QUEUED"}"#), Err("bad-value".into()));
        let long = format!(r#"{{"message":"{}"}}"#, "x".repeat(MAX_MESSAGE + 1));
        assert_eq!(check(&long), Err("too-large".into()));
        let large = format!(r#"{{"result":"{}"}}"#, "x".repeat(MAX_PAYLOAD));
        assert_eq!(check(&large), Err("too-large".into()));
    }
}
