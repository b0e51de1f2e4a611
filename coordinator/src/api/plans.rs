//! `bulk_action` in two steps: a plan fixes the set and counts what would happen; running it changes exactly that set.
mod draft;

use super::listing::asker;
use super::reply::{Answer, Failure, json, json_with, unexpected};
use super::request::{Cx, Nothing};
use super::select::{self, With, is_stale, no_such_job};
use super::{App, now};
use crate::effect::Reply;
use crate::input::{Call, Stored, Target};
use crate::row::Caller;
use crate::store;
use crate::store::query::records::{self, StoredPlan};
use axum::http::StatusCode;
use draft::{Choice, Draft, check_action, targets};
use reeve_protocol::api::{Plan, PlanRequest, PlanResult};
use reeve_protocol::text::Clean;
use reeve_protocol::{Code, JobId, Problem};
use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

/// Longest search for a set; a plan may look at every job there is.
const SEARCH: Duration = Duration::from_secs(10);
/// Jobs changed by one call to the engine.
const PORTION: usize = 1000;
/// A plan that is older is not what anybody looks at any more.
const FRESH_MS: i64 = 10 * 60 * 1000;
/// `POST /v1/plans`.
pub(super) async fn create(cx: Cx) -> Answer {
    cx.query(&[])?;
    let (app, caller, asker) = (cx.app.clone(), cx.caller.clone(), asker(&cx));
    let request: PlanRequest = cx.json().await?;
    let action = check_action(&request.action)?;
    let choice = Choice::from(&request)?;
    // Read before the set: what changes meanwhile is then after the plan's event.
    let seq = app.seq();
    let except: HashSet<JobId> = request.except.iter().copied().collect();
    let found = app.reads.scan(SEARCH, move |conn| choice.find(conn, asker)).await?;
    let mut draft = Draft::new(action, seq);
    for chosen in found.into_iter().filter(|c| !except.contains(&c.candidate.id)) {
        draft.take(&chosen, &caller);
    }
    let ids = draft.ids.finish();
    match app.ask(&caller, Call::PutPlan { plan: Box::new(draft.plan), ids, reason: request.reason }).await? {
        Reply::Plan(plan) => Ok(json_with(StatusCode::CREATED, &plan)),
        other => Err(unexpected(&other)),
    }
}

/// `GET /v1/plans/{plan}`.
pub(super) async fn show(cx: Cx) -> Answer {
    cx.query(&[])?;
    Ok(json(&load(&cx.app, cx.param(0))?.plan))
}

fn load(app: &App, text: &str) -> Result<StoredPlan, Failure> {
    let id = text.parse::<u32>().ok().map(u64::from);
    let found = id.map(|id| app.reads.point(|conn| records::plan(conn, id))).transpose()?.flatten();
    found.ok_or_else(|| {
        let problem = Problem::new(Code::NotFound, format!("there is no plan {}", Clean::short(text, 40)));
        problem.hint("make one: POST /v1/plans").into()
    })
}

/// `POST /v1/plans/{plan}/run`.
pub(super) async fn run(cx: Cx) -> Answer {
    cx.query(&[])?;
    let (app, caller, stored) = (cx.app.clone(), cx.caller.clone(), load(&cx.app, cx.param(0))?);
    let Nothing {} = cx.json_or_default().await?;
    let gone = |why: &str| {
        let problem = Problem::new(Code::PlanGone, format!("plan {} {why}", stored.plan.id));
        Failure(problem.hint("make a new plan: it counts what is so now"))
    };
    if stored.owner_uid != caller.uid && caller.uid != 0 {
        return Err(no_such_job(&format!("plan {}", stored.plan.id)));
    }
    if stored.ran {
        return Err(gone("was run already"));
    }
    if now().0 - stored.created_at > FRESH_MS {
        return Err(gone("is older than ten minutes"));
    }
    let Some(_running) = Running::begin(&app, stored.plan.id) else { return Err(gone("is being run")) };
    Ok(json(&carry_out(&app, &caller, &stored).await?))
}

async fn carry_out(app: &App, caller: &Caller, stored: &StoredPlan) -> Result<PlanResult, Failure> {
    let plan = &stored.plan;
    let mut result = PlanResult { id: plan.id, changed: 0, skipped: 0, reasons: BTreeMap::new(), seq: 0 };
    let all: Vec<Target> = targets(&stored.ids).collect();
    for portion in all.chunks(PORTION) {
        for outcome in portion_of(app, caller, plan, portion).await? {
            match outcome {
                Ok(changed) => result.changed += changed,
                Err(problem) => {
                    result.skipped += 1;
                    *result.reasons.entry(problem.code).or_default() += 1;
                }
            }
        }
    }
    result.seq = app.seq();
    let text = serde_json::to_string(&result).unwrap_or_default();
    app.ask(caller, Call::PlanDone { plan: plan.id, result: text }).await?;
    result.seq = app.seq();
    Ok(result)
}

/// Runs one portion; jobs whose rows became stale on the way are asked for again.
async fn portion_of(
    app: &App,
    caller: &Caller,
    plan: &Plan,
    portion: &[Target],
) -> Result<Vec<Result<u64, Problem>>, Failure> {
    let (mut outcomes, mut left) = (Vec::with_capacity(portion.len()), portion.to_vec());
    for last in [false, false, true] {
        let jobs = rows_of(app, &plan.action, &left)?;
        let reply =
            app.ask(caller, Call::BulkAction { plan: plan.id, action: plan.action.clone(), jobs }).await?;
        let Reply::Bulk(results) = reply else { return Err(unexpected(&reply)) };
        let mut again = Vec::new();
        for (target, outcome) in left.iter().zip(results) {
            match outcome {
                Err(problem) if !last && is_stale(&problem) => again.push(*target),
                outcome => outcomes.push(outcome),
            }
        }
        left = again;
        if left.is_empty() {
            break;
        }
    }
    Ok(outcomes)
}

fn rows_of(app: &App, action: &str, targets: &[Target]) -> Result<Vec<(Target, Stored)>, Failure> {
    let with = if action == "restart" { With::Bad } else { With::Named };
    let each = |target: &Target| {
        let stored = app.reads.point(|conn| select::stored(conn, *target, with))?;
        Ok((*target, stored))
    };
    targets.iter().map(each).collect::<Result<_, store::Error>>().map_err(Failure::from)
}

/// Marks a plan as being run for as long as it lives.
struct Running {
    app: Arc<App>,
    plan: u64,
}

impl Running {
    fn begin(app: &Arc<App>, plan: u64) -> Option<Self> {
        let new = app.running_plans.lock().unwrap_or_else(PoisonError::into_inner).insert(plan);
        new.then(|| Self { app: app.clone(), plan })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.app.running_plans.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.plan);
    }
}
