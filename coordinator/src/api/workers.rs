//! Workers: `register_worker`, `launch_worker`, calls to static ones, and how many replicas they have.
use super::App;
use super::reply::{Answer, Failure, JSON, json, missing, unexpected};
use super::request::{Cx, Nothing, millis};
use crate::effect::Reply;
use crate::input::{Call, Scale};
use crate::row::Caller;
use crate::store::workers::registration;
use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use reeve_protocol::api::{LaunchRequest, List, ScaleRequest, Total, WorkerRequest, WorkerView};
use reeve_protocol::spec_check::{MAX_PAYLOAD, check_name};
use reeve_protocol::{Code, Problem};
use serde_json::json;
use serde_json::value::RawValue;

/// Longest deadline of a call: a day.
const LONGEST_CALL: f64 = 86_400.0;
/// When whoever was refused for too much work may come again, seconds.
const AGAIN_S: &str = "1";

/// `GET /v1/workers`.
pub(super) async fn list(cx: Cx) -> Answer {
    cx.query(&[])?;
    let (app, caller) = (cx.app.clone(), cx.caller.clone());
    let workers = all(&app, &caller).await?;
    let total = Total { value: workers.len() as u64, exact: true };
    Ok(json(&List::new("WorkerList", workers, None, total)))
}

async fn all(app: &App, caller: &Caller) -> Result<Vec<WorkerView>, Failure> {
    match app.ask(caller, Call::ListWorkers).await? {
        Reply::Workers(workers) => Ok(workers),
        other => Err(unexpected(&other)),
    }
}

/// `GET /v1/workers/{worker}`: as it is now, or one of its registrations.
pub(super) async fn show(cx: Cx) -> Answer {
    let query = cx.query(&["version"])?;
    let name = cx.param(0);
    if let Some(version) = query.number("version", 1..=u32::MAX)? {
        let found = cx.app.reads.point(|conn| registration(conn, name, version))?;
        let problem = || {
            let short = reeve_protocol::text::Clean::short(name, 64);
            Problem::new(Code::NotFound, format!("worker {:?} has no version {version}", short.as_str()))
                .hint("without a version the newest is shown")
        };
        return Ok(json(&found.ok_or_else(problem)?));
    }
    let (app, caller, name) = (cx.app.clone(), cx.caller.clone(), name.to_owned());
    let workers = all(&app, &caller).await?;
    match workers.iter().find(|w| w.name == name) {
        Some(worker) => Ok(json(worker)),
        None => Err(missing(Code::NotFound, "worker", &name, workers.iter().map(|w| w.name.as_str()))),
    }
}

/// `PUT /v1/workers/{worker}`.
pub(super) async fn register_worker(cx: Cx) -> Answer {
    cx.query(&[])?;
    let (app, caller, name) = (cx.app.clone(), cx.caller.clone(), cx.param(0).to_owned());
    check_name("worker", &name)?;
    let request: WorkerRequest = cx.json().await?;
    // A script takes the command's place; the rest of the spec has the same bounds.
    let mut spec = request.spec.clone();
    if let Some(script) = &request.shell {
        spec.command.get_or_insert_with(|| reeve_protocol::template::shell(script));
    }
    spec.validate()?;
    worker(app.ask(&caller, Call::RegisterWorker { name, request: Box::new(request) }).await?)
}

/// `POST /v1/workers/{worker}/launch`.
pub(super) async fn launch_worker(cx: Cx) -> Answer {
    cx.query(&[])?;
    let (app, caller, name) = (cx.app.clone(), cx.caller.clone(), cx.param(0).to_owned());
    let request: LaunchRequest = cx.json_or_default().await?;
    worker(app.ask(&caller, Call::LaunchWorker { name, request: Box::new(request) }).await?)
}

/// `POST /v1/workers/{worker}/scale`.
pub(super) async fn scale(cx: Cx) -> Answer {
    cx.query(&[])?;
    let (app, caller, name) = (cx.app.clone(), cx.caller.clone(), cx.param(0).to_owned());
    let how = match cx.json().await? {
        ScaleRequest { replicas: Some(n), min: None, max: None } => Scale::To(n),
        ScaleRequest { replicas: None, min, max } if min.is_some() || max.is_some() => {
            Scale::Between(min, max)
        }
        _ => {
            let problem = Problem::new(Code::BadValue, "either replicas is given, or min and max");
            return Err(problem.hint(r#"{"replicas":2}, or {"min":0,"max":4}"#).into());
        }
    };
    worker(app.ask(&caller, Call::ScaleWorker { name, how }).await?)
}

/// `POST /v1/workers/{worker}/drain`.
pub(super) async fn drain(cx: Cx) -> Answer {
    end(cx, Scale::Drain).await
}

/// `POST /v1/workers/{worker}/stop`.
pub(super) async fn stop(cx: Cx) -> Answer {
    end(cx, Scale::Stop).await
}

async fn end(cx: Cx, how: Scale) -> Answer {
    cx.query(&[])?;
    let (app, caller, name) = (cx.app.clone(), cx.caller.clone(), cx.param(0).to_owned());
    let Nothing {} = cx.json_or_default().await?;
    worker(app.ask(&caller, Call::ScaleWorker { name, how }).await?)
}

/// `DELETE /v1/workers/{worker}`.
pub(super) async fn remove(cx: Cx) -> Answer {
    let force = cx.query(&["force"])?.flag("force")?;
    let (app, caller, name) = (cx.app.clone(), cx.caller.clone(), cx.param(0).to_owned());
    match app.ask(&caller, Call::RemoveWorker { name: name.clone(), force }).await? {
        Reply::Done(seq) => Ok(json(&json!({"name": name, "removed": true, "seq": seq}))),
        other => Err(unexpected(&other)),
    }
}

fn worker(reply: Reply) -> Answer {
    match reply {
        Reply::Worker(worker) => Ok(json(&worker)),
        other => Err(unexpected(&other)),
    }
}

/// `POST /v1/workers/{worker}/requests`: the answer is the worker's own. A caller that goes away cancels it.
pub(super) async fn call(cx: Cx) -> Answer {
    cx.query(&[])?;
    let (app, caller, name) = (cx.app.clone(), cx.caller.clone(), cx.param(0).to_owned());
    let request: Request = cx.json().await?;
    let deadline_ms =
        request.deadline_s.map(|s| millis("deadline_s", s, 0.001..=LONGEST_CALL)).transpose()?;
    let payload = request.payload.as_ref().map_or("null", |p| p.get());
    if payload.len() > MAX_PAYLOAD {
        let problem = Problem::new(
            Code::TooLarge,
            format!("the payload has {} bytes, at most {MAX_PAYLOAD} are taken", payload.len()),
        );
        return Err(problem.hint("put large data where the worker can read it, and send its path").into());
    }
    match app.ask(&caller, Call::CallWorker { name, payload: payload.as_bytes().into(), deadline_ms }).await {
        Ok(Reply::Called(result)) => Ok(called(result)),
        Ok(other) => Err(unexpected(&other)),
        Err(failure) => {
            let busy = failure.0.is(Code::Busy) || failure.0.is(Code::NoReplicas);
            let mut response = failure.into_response();
            if busy {
                response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static(AGAIN_S));
            }
            Ok(response)
        }
    }
}

/// As `protocol::api::CallRequest`, but the payload goes on as it came.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    payload: Option<Box<RawValue>>,
    #[serde(default)]
    deadline_s: Option<f64>,
}

fn called(result: Vec<u8>) -> Response {
    let mut body = Vec::with_capacity(result.len() + 12);
    body.extend_from_slice(b"{\"result\":");
    body.extend_from_slice(&result);
    body.push(b'}');
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::OK;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(JSON));
    response
}
