//! Facts as SQL. Each must change exactly one row (the second lock on the door that the life cycle holds): anything
//! else means that memory and disk disagree, and ends the process.
mod attempts;
mod jobs;

use super::{Error, queue_facts};
use crate::effect::Fact;
use reeve_protocol::intervals::Intervals;
use reeve_protocol::{AttemptId, Cause, JobId, TaskId};
use rusqlite::{Connection, ToSql, params};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// The commonest cause as JSON.
const OK: &str = r#"{"kind":"ok"}"#;

pub(super) type Sql<'a> = &'a Connection;

/// Writes the facts of a step inside the open transaction. A job's result and the move that follows are one change of
/// its row.
///
/// # Errors
/// From SQLite, or [`Error::Rows`].
pub fn apply_all(db: Sql<'_>, facts: &[Fact]) -> Result<(), Error> {
    let mut results: BTreeMap<JobId, &str> = BTreeMap::new();
    for fact in facts {
        match fact {
            Fact::ResultKept(TaskId { job, index: None }, json) => drop(results.insert(*job, json)),
            Fact::JobMoved(id, standing) => jobs::job_moved(db, *id, standing, results.remove(id))?,
            fact => apply(db, fact)?,
        }
    }
    results.into_iter().try_for_each(|(job, json)| result_kept(db, TaskId::single(job), json))
}

fn result_kept(db: Sql<'_>, task: TaskId, json: &str) -> Result<(), Error> {
    of_task(db, task, "result = ?3", &[&json])
}

/// Writes one fact.
#[expect(clippy::too_many_lines, reason = "one arm per fact, so that a new fact cannot be forgotten")]
fn apply(db: Sql<'_>, fact: &Fact) -> Result<(), Error> {
    match fact {
        Fact::JobAdded(row) => jobs::job_added(db, row),
        Fact::JobMoved(id, standing) => jobs::job_moved(db, *id, standing, None),
        Fact::ArrayMoved(id, standing, array) => jobs::array_moved(db, *id, standing, array),
        Fact::TaskMoved(task, standing) => jobs::task_moved(db, *task, standing),
        // Nothing in place of a commit takes it out of the JSON.
        Fact::CommitResolved(id, commit) => one(
            db,
            "UPDATE jobs SET spec = json_patch(spec, json_object('git', json_object('commit', ?2))) WHERE id = ?1",
            params![id, commit],
        ),
        Fact::ResultKept(task, json) => result_kept(db, *task, json),
        Fact::ProgressMade(task, fraction, message) => of_task(
            db,
            *task,
            "progress = coalesce(?3, progress), message = coalesce(?4, message)",
            &[fraction, message],
        ),
        Fact::WarningSet(task, warning) => of_task(db, *task, "warning = ?3", &[warning]),
        Fact::JobNamed(id, alias, definition) => one(
            db,
            "UPDATE jobs SET alias = ?2, definition = coalesce(?3, definition) WHERE id = ?1",
            params![id, alias, definition],
        ),
        Fact::AttemptDispatched { attempt, machine_id, machine, lease, started, gpus, at } => one(
            db,
            "INSERT INTO attempts (job, idx, attempt, machine_id, machine, lease, dispatched_at, started_at, gpus) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            params![
                attempt.task.job,
                attempt.task.index_key(),
                attempt.attempt,
                machine_id,
                &**machine,
                lease,
                at,
                started.then_some(at),
                (!gpus.is_empty()).then(|| gpus.join(","))
            ],
        ),
        Fact::AttemptStarted(attempt, pid, at) => {
            of_attempt(db, *attempt, "started_at = ?4, pid = ?5", &[at, pid])
        }
        Fact::ArtifactsKept(kept) => attempts::artifacts_kept(db, kept),
        Fact::AttemptEnded(ended) => attempts::attempt_ended(db, ended),
        Fact::AttemptLate { attempt, machine, cause } => attempts::attempt_late(db, *attempt, machine, cause),
        Fact::AttemptReturned(attempt, at) => of_attempt(
            db,
            *attempt,
            "ended_at = ?4, cause = '{\"kind\":\"rejected\",\"detail\":\"not started, given back\"}'",
            &[at],
        ),
        Fact::QueuePut(row) => queue_facts::queue_put(db, row),
        Fact::Interval(kind, subject, began, actor) => interval(db, kind, subject, *began, actor),
        Fact::MessageAdded(row) => queue_facts::message_added(db, row),
        Fact::MessageMoved { id, deliveries, lease, run_at, dead } => one(
            db,
            "UPDATE messages SET deliveries = ?2, lease = ?3, lease_until = ?4, run_at = ?5, dead = ?6, outgoing = 0 WHERE id = ?1",
            params![id, deliveries, lease.as_ref().map(|l| &l.0), lease.as_ref().map(|l| l.1), run_at, dead],
        ),
        Fact::MessageGone(id) => one(db, "DELETE FROM messages WHERE id = ?1", params![id]),
        Fact::MessageArrived(id) => {
            one(db, "UPDATE messages SET outgoing = 0 WHERE id = ?1 AND outgoing = 1", params![id])
        }
        Fact::MessagesOutgoing(ids) => {
            for id in ids {
                one(db, "UPDATE messages SET outgoing = 1 WHERE id = ?1", params![id])?;
            }
            Ok(())
        }
        Fact::MessagesMoved(queue, ids, outgoing) => {
            for id in ids {
                one(
                    db,
                    "UPDATE messages SET queue = ?2, outgoing = ?3 WHERE id = ?1",
                    params![id, &**queue, outgoing],
                )?;
            }
            Ok(())
        }
        Fact::JobRequeued(id, queue) => one(
            db,
            "UPDATE jobs SET queue = ?2, spec = json_set(spec, '$.queue', ?2), generation = generation + 1 WHERE id = ?1",
            params![id, &**queue],
        ),
        Fact::MessageKeyUsed { owner_uid, queue, key, digest, id, at } => {
            queue_facts::forget(db, "DELETE FROM message_keys WHERE at < ?1", *at)?;
            one(
                db,
            "INSERT INTO message_keys (owner_uid, queue, key, digest, id, at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT DO UPDATE SET digest = ?4, id = ?5, at = ?6",
            params![owner_uid, &**queue, key, digest, id, at],
            )
        }
        Fact::MessageNumbersUsed(next) => queue_facts::message_numbers_used(db, *next),
        Fact::InboxNoted(source, at) => {
            queue_facts::forget(db, "DELETE FROM inbox WHERE at < ?1", *at)?;
            one(db, "INSERT INTO inbox (source, at) VALUES (?1, ?2)", params![source, at])
        }
        Fact::RoutesPut(routes) => queue_facts::routes_put(db, routes),
        Fact::MessagesCleaned(queue, ids) => {
            for id in ids {
                one(db, "DELETE FROM messages WHERE id = ?1 AND queue = ?2", params![id, &**queue])?;
            }
            Ok(())
        }
        Fact::WorkerPut(row) => super::workers::put(db, row),
        Fact::WorkerRemoved(name, at) => super::workers::remove(db, name, *at),
        Fact::DeploymentPut(row) => super::workers::deploy(db, row),
        Fact::MachinePut(row) => super::machines::put(db, row),
        Fact::TokenAdded { id, secret_hash, expires_at, owner_uid, owner } => one(
            db,
            "INSERT INTO tokens (id, secret_hash, created_at, expires_at, owner_uid, owner) VALUES (?1, ?2, ?3, ?3, ?4, ?5)",
            params![id, secret_hash, expires_at, owner_uid, &**owner],
        ),
        Fact::TokenUsed { id, machine, key_hash, at } => one(
            db,
            "UPDATE tokens SET used_at = ?4, machine = ?2, bound_key = ?3 WHERE id = ?1 AND used_at IS NULL",
            params![id, machine, key_hash, at],
        ),
        Fact::PlanAdded { plan, ids, reason, owner_uid, owner } => {
            let (view, ids) = (json(plan)?, json(ids)?);
            one(
                db,
                "INSERT INTO plans (id, action, owner_uid, owner, created_at, view, ids, reason) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                params![
                    plan.id,
                    plan.action,
                    owner_uid,
                    &**owner,
                    crate::clock::now().wall,
                    view,
                    ids,
                    reason
                ],
            )
        }
        Fact::PlanRan(id, result) => one(
            db,
            "UPDATE plans SET ran_at = ?2, result = ?3 WHERE id = ?1 AND ran_at IS NULL",
            params![id, crate::clock::now().wall, result],
        ),
    }
}

/// Runs a cached statement that must change one row.
pub(super) fn one(db: Sql<'_>, sql: &str, values: &[&dyn ToSql]) -> Result<(), Error> {
    match db.prepare_cached(sql)?.execute(values)? {
        1 => Ok(()),
        n => Err(Error::Rows(sql.chars().take(80).collect(), n)),
    }
}

fn of_task(db: Sql<'_>, task: TaskId, set: &str, values: &[&dyn ToSql]) -> Result<(), Error> {
    let (job, index) = (task.job, task.index_key());
    let mut all: Vec<&dyn ToSql> = vec![&job, &index];
    all.extend(values);
    // Both statements name ?2, so that numbering is the same for jobs and tasks.
    match task.index {
        None => one(db, &format!("UPDATE jobs SET {set} WHERE id = ?1 AND ?2 = -1"), &all),
        Some(_) => {
            one(db, &format!("UPDATE tasks SET {set} WHERE job = ?1 AND idx = ?2"), &all).or_else(|error| {
                match error {
                    // A task's row is written at the end of its step; what it left behind may come first.
                    Error::Rows(_, 0) => {
                        db.prepare_cached("INSERT INTO tasks (job, idx, state) VALUES (?1, ?2, 0)")?
                            .execute(params![job, index])?;
                        one(db, &format!("UPDATE tasks SET {set} WHERE job = ?1 AND idx = ?2"), &all)
                    }
                    other => Err(other),
                }
            })
        }
    }
}

fn of_attempt(db: Sql<'_>, attempt: AttemptId, set: &str, values: &[&dyn ToSql]) -> Result<(), Error> {
    let (job, index, n) = (attempt.task.job, attempt.task.index_key(), attempt.attempt);
    let mut all: Vec<&dyn ToSql> = vec![&job, &index, &n];
    all.extend(values);
    one(
        db,
        &format!(
            "UPDATE attempts SET {set} WHERE job = ?1 AND idx = ?2 AND attempt = ?3 AND ended_at IS NULL"
        ),
        &all,
    )
}

fn interval(db: Sql<'_>, kind: &str, subject: &str, began: bool, actor: &str) -> Result<(), Error> {
    let now = crate::clock::now().wall;
    if began {
        db.prepare_cached(
            "INSERT OR IGNORE INTO intervals (kind, subject, since, actor) VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute(params![kind, subject, now, actor])?;
    } else {
        db.prepare_cached(
            "UPDATE intervals SET until = ?3 WHERE kind = ?1 AND subject = ?2 AND until IS NULL",
        )?
        .execute(params![kind, subject, now])?;
    }
    Ok(())
}

/// Cause as JSON, its kind, and the process's exit code.
fn cause(cause: Option<&Cause>) -> (Option<Cow<'static, str>>, Option<&'static str>, Option<i32>) {
    match cause {
        None => (None, None, None),
        Some(Cause::Ok) => (Some(OK.into()), Some(Cause::Ok.kind()), Cause::Ok.process_exit_code()),
        Some(c) => (serde_json::to_string(c).ok().map(Cow::from), Some(c.kind()), c.process_exit_code()),
    }
}

fn set(intervals: &Intervals) -> Option<String> {
    (!intervals.is_empty()).then(|| serde_json::to_string(intervals).unwrap_or_default())
}

pub(super) fn json<T: serde::Serialize>(value: &T) -> Result<String, Error> {
    serde_json::to_string(value).map_err(|e| Error::Value(e.to_string()))
}

#[cfg(test)]
#[path = "facts/facts_test.rs"]
mod tests;
