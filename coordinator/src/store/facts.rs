//! Facts as SQL. Each must change exactly one row (the second lock on the door that the life cycle holds): anything
//! else means that memory and disk disagree, and ends the process.
mod attempts;

use super::{Error, queue_facts};
use crate::effect::Fact;
use crate::row::{ArrayRow, JobRow, Standing};
use reeve_protocol::intervals::Intervals;
use reeve_protocol::{AttemptId, Cause, JobId, TaskId};
use rusqlite::{Connection, ToSql, params};

pub(super) type Sql<'a> = &'a Connection;

/// Writes one fact inside the open transaction.
///
/// # Errors
/// From SQLite, or [`Error::Rows`].
#[expect(clippy::too_many_lines, reason = "one arm per fact, so that a new fact cannot be forgotten")]
pub fn apply(db: Sql<'_>, fact: &Fact) -> Result<(), Error> {
    match fact {
        Fact::JobAdded(row) => job_added(db, row),
        Fact::JobMoved(id, standing) => job_moved(db, *id, standing),
        Fact::ArrayMoved(id, standing, array) => array_moved(db, *id, standing, array),
        Fact::TaskMoved(task, standing) => task_moved(db, *task, standing),
        // Nothing in place of a commit takes it out of the JSON.
        Fact::CommitResolved(id, commit) => one(
            db,
            "UPDATE jobs SET spec = json_patch(spec, json_object('git', json_object('commit', ?2))) WHERE id = ?1",
            params![id, commit],
        ),
        Fact::ResultKept(task, json) => of_task(db, *task, "result = ?3", &[json]),
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

fn job_added(db: Sql<'_>, row: &JobRow) -> Result<(), Error> {
    let s = &row.standing;
    let array = row.array.as_ref();
    let counts = array.map(|a| a.counts).unwrap_or_default();
    let (key, digest) = (row.key.as_ref().map(|k| &k.0), row.key.as_ref().map(|k| &k.1));
    let (worker, version) = (row.worker.as_ref().map(|w| &w.0), row.worker.as_ref().map(|w| w.1));
    one(
        db,
        "INSERT INTO jobs (id, owner_uid, owner, alias, name, title, queue, worker, worker_version, state, substate, priority, created_at,
           run_at, expires_at, external, spec, definition, key, digest, array_from, array_to, array_limit, array_next, n_queued, array_held)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23, ?24, ?25, ?26)",
        params![
            row.id,
            row.owner_uid,
            &*row.owner,
            row.alias,
            row.name,
            row.title,
            &*row.queue,
            worker,
            version,
            s.state as i64,
            s.substate.map(|s| s as i64),
            row.priority,
            row.created_at,
            s.run_at,
            row.expires_at,
            row.external,
            &*row.spec,
            row.definition,
            key,
            digest,
            array.map(|a| a.from),
            array.map(|a| a.to),
            array.and_then(|a| a.limit),
            array.map(|a| a.next),
            counts.queued,
            array.and_then(|a| set(&a.held)),
        ],
    )
}

/// A job moves only while its row is not behind it: attempts never decrease.
fn job_moved(db: Sql<'_>, id: JobId, s: &Standing) -> Result<(), Error> {
    let (cause, kind, exit) = cause(s.cause.as_ref());
    one(
        db,
        "UPDATE jobs SET state = ?2, substate = ?3, cause = ?4, cause_kind = ?5, exit_code = ?6, attempt = ?7, tries = ?8, losses = ?9,
           run_at = ?10, started_at = ?11, ended_at = ?12, machine = ?13, generation = generation + 1,
           warning = CASE ?2 WHEN 1 THEN warning END WHERE id = ?1 AND attempt <= ?7",
        params![
            id,
            s.state as i64,
            s.substate.map(|s| s as i64),
            cause,
            kind,
            exit,
            s.attempt,
            s.tries,
            s.losses,
            s.run_at,
            s.started_at,
            s.ended_at,
            s.machine.as_deref()
        ],
    )
}

fn array_moved(db: Sql<'_>, id: JobId, s: &Standing, a: &ArrayRow) -> Result<(), Error> {
    let (cause, kind, exit) = cause(s.cause.as_ref());
    let c = &a.counts;
    one(
        db,
        "UPDATE jobs SET state = ?2, substate = ?3, cause = ?4, cause_kind = ?5, exit_code = ?6, run_at = ?7, started_at = ?8, ended_at = ?9,
           array_next = ?10, n_queued = ?11, n_running = ?12, n_completed = ?13, n_failed = ?14, n_cancelled = ?15, array_held = ?16,
           array_cancelled = ?17, generation = generation + 1 WHERE id = ?1 AND array_next <= ?10",
        params![
            id,
            s.state as i64,
            s.substate.map(|s| s as i64),
            cause,
            kind,
            exit,
            s.run_at,
            s.started_at,
            s.ended_at,
            a.next,
            c.queued,
            c.running,
            c.completed,
            c.failed,
            c.cancelled,
            set(&a.held),
            set(&a.cancelled)
        ],
    )
}

fn task_moved(db: Sql<'_>, task: TaskId, s: &Standing) -> Result<(), Error> {
    let (cause, kind, exit) = cause(s.cause.as_ref());
    one(
        db,
        "INSERT INTO tasks (job, idx, state, substate, cause, cause_kind, exit_code, attempt, tries, losses, run_at, started_at, ended_at, machine)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)
         ON CONFLICT (job, idx) DO UPDATE SET state = ?3, substate = ?4, cause = ?5, cause_kind = ?6, exit_code = ?7, attempt = ?8, tries = ?9,
           losses = ?10, run_at = ?11, started_at = ?12, ended_at = ?13, machine = ?14, warning = CASE ?3 WHEN 1 THEN warning END
         WHERE attempt <= ?8",
        params![
            task.job,
            task.index_key(),
            s.state as i64,
            s.substate.map(|s| s as i64),
            cause,
            kind,
            exit,
            s.attempt,
            s.tries,
            s.losses,
            s.run_at,
            s.started_at,
            s.ended_at,
            s.machine.as_deref()
        ],
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
fn cause(cause: Option<&Cause>) -> (Option<String>, Option<&'static str>, Option<i32>) {
    match cause {
        None => (None, None, None),
        Some(c) => (serde_json::to_string(c).ok(), Some(c.kind()), c.process_exit_code()),
    }
}

fn set(intervals: &Intervals) -> Option<String> {
    (!intervals.is_empty()).then(|| serde_json::to_string(intervals).unwrap_or_default())
}

pub(super) fn json<T: serde::Serialize>(value: &T) -> Result<String, Error> {
    serde_json::to_string(value).map_err(|e| Error::Value(e.to_string()))
}
