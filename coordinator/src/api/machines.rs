//! Machines, their join tokens, and registered workers.
use super::reply::{Answer, Failure, json, json_with, missing, unexpected};
use super::request::{Cx, Nothing, millis};
use super::{App, now};
use crate::effect::Reply;
use crate::input::Call;
use crate::row::Caller;
use axum::http::StatusCode;
use reeve_protocol::api::{List, MachineRemoved, MachineView, TokenReply, Total};
use reeve_protocol::time::Wall;
use reeve_protocol::token::{Token, random_hex, sha256_hex};
use reeve_protocol::{Code, Problem};
use serde::Deserialize;
use std::sync::Arc;

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
    let machines = with_attempts(&cx.app, &cx.caller).await?;
    let wanted = cx.param(0);
    match machines.iter().find(|m| m.name == wanted).or_else(|| machines.iter().find(|m| m.id == wanted)) {
        Some(machine) => Ok(json(machine)),
        None => Err(missing(Code::NotFound, "machine", wanted, machines.iter().map(|m| m.name.as_str()))),
    }
}

/// `GET /v1/top`.
pub(super) async fn top(cx: Cx) -> Answer {
    cx.query(&[])?;
    let machines = with_attempts(&cx.app, &cx.caller).await?;
    let total = Total { value: machines.len() as u64, exact: true };
    Ok(json(&List::new("MachineList", machines, None, total)))
}

async fn with_attempts(app: &App, caller: &Caller) -> Result<Vec<MachineView>, Failure> {
    match app.ask(caller, Call::Top).await? {
        Reply::Machines(machines) => Ok(machines),
        other => Err(unexpected(&other)),
    }
}

pub(super) async fn all(app: &App, caller: &Caller) -> Result<Vec<MachineView>, Failure> {
    match app.ask(caller, Call::ListMachines).await? {
        Reply::Machines(machines) => Ok(machines),
        other => Err(unexpected(&other)),
    }
}

/// Longest life of a join token, seconds: a day.
const LONGEST_TOKEN: f64 = 86_400.0;
/// Longest deadline of a drain, seconds: a year.
const LONGEST_DRAIN: f64 = 31_536_000.0;

/// `POST /v1/machines/{machine}/cordon`.
pub(super) async fn cordon(cx: Cx) -> Answer {
    set_cordon(cx, true).await
}

/// `POST /v1/machines/{machine}/uncordon`.
pub(super) async fn uncordon(cx: Cx) -> Answer {
    set_cordon(cx, false).await
}

async fn set_cordon(cx: Cx, cordon: bool) -> Answer {
    cx.query(&[])?;
    let (app, caller, machine) = begin(&cx);
    let Nothing {} = cx.json_or_default().await?;
    changed(&app, &caller, Call::CordonMachine { machine, cordon }).await
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct DrainRequest {
    deadline_s: Option<f64>,
}

/// `POST /v1/machines/{machine}/drain`.
pub(super) async fn drain(cx: Cx) -> Answer {
    cx.query(&[])?;
    let (app, caller, machine) = begin(&cx);
    let request: DrainRequest = cx.json_or_default().await?;
    let deadline_ms = request.deadline_s.map(|s| millis("deadline_s", s, 0.0..=LONGEST_DRAIN)).transpose()?;
    changed(&app, &caller, Call::DrainMachine { machine, deadline_ms }).await
}

/// `DELETE /v1/machines/{machine}`.
pub(super) async fn remove(cx: Cx) -> Answer {
    let force = cx.query(&["force"])?.flag("force")?;
    let (app, caller, machine) = begin(&cx);
    match app.ask(&caller, Call::RemoveMachine { machine, force }).await? {
        Reply::Removed(id, lost) => Ok(json(&MachineRemoved { id, lost })),
        other => Err(unexpected(&other)),
    }
}

fn begin(cx: &Cx) -> (Arc<App>, Caller, String) {
    (cx.app.clone(), cx.caller.clone(), cx.param(0).to_owned())
}

async fn changed(app: &App, caller: &Caller, call: Call) -> Answer {
    match app.ask(caller, call).await? {
        Reply::Machine(machine) => Ok(json(&*machine)),
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
    let ttl = millis("ttl_s", request.ttl_s, 1.0..=LONGEST_TOKEN)?;
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
        secret: random_hex(32),
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
