//! Machines, their join tokens, and registered workers.
use super::reply::{Answer, Failure, json, json_with, missing, unexpected};
use super::request::{Cx, millis};
use super::{App, now};
use crate::effect::Reply;
use crate::input::Call;
use crate::row::Caller;
use crate::store::query::records;
use axum::http::StatusCode;
use reeve_protocol::api::{List, MachineView, TokenReply, Total, WorkerRequest};
use reeve_protocol::spec_check::check_name;
use reeve_protocol::time::Wall;
use reeve_protocol::token::{Token, random_hex, sha256_hex};
use reeve_protocol::{Code, Problem};
use serde::Deserialize;

/// `GET /v1/machines`.
pub(super) async fn list(cx: Cx) -> Answer {
    cx.query(&[])?;
    let machines = all(&cx.app, &cx.caller).await?;
    let total = Total { value: machines.len() as u64, exact: true };
    Ok(json(&List::new("MachineList", machines, None, total)))
}

/// `GET /v1/machines/{machine}`, by name or id.
pub(super) async fn show(cx: Cx) -> Answer {
    cx.query(&[])?;
    let machines = all(&cx.app, &cx.caller).await?;
    let wanted = cx.param(0);
    match machines.iter().find(|m| m.name == wanted).or_else(|| machines.iter().find(|m| m.id == wanted)) {
        Some(machine) => Ok(json(machine)),
        None => Err(missing(Code::NotFound, "machine", wanted, machines.iter().map(|m| m.name.as_str()))),
    }
}

pub(super) async fn all(app: &App, caller: &Caller) -> Result<Vec<MachineView>, Failure> {
    match app.ask(caller, Call::ListMachines).await? {
        Reply::Machines(machines) => Ok(machines),
        other => Err(unexpected(&other)),
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct TokenRequest {
    ttl_s: f64,
}

impl Default for TokenRequest {
    fn default() -> Self {
        Self { ttl_s: 900.0 }
    }
}

/// `POST /v1/machines/token`. The secret is in this one answer and nowhere else: the store has its hash.
pub(super) async fn token(cx: Cx) -> Answer {
    cx.query(&[])?;
    let (app, caller) = (cx.app.clone(), cx.caller.clone());
    let request: TokenRequest = cx.json_or_default().await?;
    let ttl = millis("ttl_s", request.ttl_s, 1.0..=604_800.0)?;
    let mint = &app.mint;
    if mint.addresses.is_empty() {
        let problem = Problem::new(
            Code::Unavailable,
            "no address is known under which machines reach this coordinator",
        );
        return Err(problem.hint("set advertise in the coordinator's configuration").into());
    }
    let token = Token {
        cluster: mint.cluster.clone(),
        id: random_hex(8),
        secret: random_hex(16),
        ca_hash: mint.ca_hash.clone(),
        addresses: mint.addresses.clone(),
    };
    let expires_at = now().0 + ttl as i64;
    let secret_hash = sha256_hex(token.secret.as_bytes());
    match app.ask(&caller, Call::PutToken { id: token.id.clone(), secret_hash, expires_at }).await? {
        Reply::Done(_) => {
            let reply = TokenReply { token: token.to_string(), expires_at: Wall(expires_at) };
            Ok(json_with(StatusCode::CREATED, &reply))
        }
        other => Err(unexpected(&other)),
    }
}

/// `GET /v1/workers`.
pub(super) async fn workers(cx: Cx) -> Answer {
    cx.query(&[])?;
    let workers = cx.app.reads.point(records::workers)?;
    let total = Total { value: workers.len() as u64, exact: true };
    Ok(json(&List::new("WorkerList", workers, None, total)))
}

/// `GET /v1/workers/{worker}`.
pub(super) async fn worker(cx: Cx) -> Answer {
    cx.query(&[])?;
    let name = cx.param(0);
    if let Some(worker) = cx.app.reads.point(|conn| records::worker(conn, name))? {
        return Ok(json(&worker));
    }
    let known = cx.app.reads.point(records::workers)?;
    Err(missing(Code::NotFound, "worker", name, known.iter().map(|w| w.name.as_str())))
}

/// `PUT /v1/workers/{worker}`.
pub(super) async fn register_worker(cx: Cx) -> Answer {
    cx.query(&[])?;
    let (app, caller, name) = (cx.app.clone(), cx.caller.clone(), cx.param(0).to_owned());
    check_name("worker", &name)?;
    let request: WorkerRequest = cx.json().await?;
    if let Some(kind @ ("git" | "static")) = request.kind.as_deref() {
        let problem = Problem::new(Code::NotYet, format!("workers of kind {kind} are not in this version"));
        return Err(problem.hint("register a command").into());
    }
    request.spec.validate()?;
    match app.ask(&caller, Call::RegisterWorker { name, request: Box::new(request) }).await? {
        Reply::Worker(worker) => Ok(json(&worker)),
        other => Err(unexpected(&other)),
    }
}
