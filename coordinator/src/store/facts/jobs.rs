//! Facts about jobs, arrays and tasks as SQL.
use super::{Error, Sql, cause, one, set};
use crate::row::{ArrayRow, JobRow, Standing};
use reeve_protocol::{JobId, TaskId};
use rusqlite::params;

pub(super) fn job_added(db: Sql<'_>, row: &JobRow) -> Result<(), Error> {
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
pub(super) fn job_moved(db: Sql<'_>, id: JobId, s: &Standing, result: Option<&str>) -> Result<(), Error> {
    let (cause, kind, exit) = cause(s.cause.as_ref());
    one(
        db,
        "UPDATE jobs SET state = ?2, substate = ?3, cause = ?4, cause_kind = ?5, exit_code = ?6, attempt = ?7, tries = ?8, losses = ?9,
           run_at = ?10, started_at = ?11, ended_at = ?12, machine = ?13, generation = generation + 1,
           warning = CASE ?2 WHEN 1 THEN warning END, result = coalesce(?14, result) WHERE id = ?1 AND attempt <= ?7",
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
            s.machine.as_deref(),
            result
        ],
    )
}

pub(super) fn array_moved(db: Sql<'_>, id: JobId, s: &Standing, a: &ArrayRow) -> Result<(), Error> {
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

pub(super) fn task_moved(db: Sql<'_>, task: TaskId, s: &Standing) -> Result<(), Error> {
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
