//! What is shown: job views from rows. Lists are in [`list`], other records in [`records`], sets for bulk in [`sets`],
//! and the one encoding that JSON needs for bytes in [`base64`].
pub mod artifacts;
pub mod base64;
pub mod list;
pub mod messages;
pub mod records;
pub mod sets;

use super::Error;
use super::filter::Rows;
use super::read::{self, json, state, substate};
use crate::row::{ArrayRow, JobRow};
use reeve_protocol::api::{ArrayView, AttemptView, JobView, StateCounts};
use reeve_protocol::time::Wall;
use reeve_protocol::{JobId, JobSpec, State, Substate};
use rusqlite::{Connection, Row, params};

/// Attempts shown with a job; the newest ones.
const ATTEMPTS: u32 = 20;
/// Above this a spec is shown in lists without its large parts.
const LARGE: u32 = 4096;

/// How much of a job is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// All of it.
    Whole,
    /// What a row of a list needs: of a large spec neither payload, standard input, items nor environment.
    Row,
}

/// The columns of a view, for jobs or for tasks with their jobs.
fn columns(rows: Rows, detail: Detail) -> String {
    let (own, index) = (rows.alias(), rows.index());
    let spec = match detail {
        Detail::Whole => "j.spec".to_owned(),
        Detail::Row => format!(
            "CASE WHEN length(j.spec) > {LARGE} \
             THEN json_remove(j.spec, '$.payload', '$.stdin', '$.items', '$.env') ELSE j.spec END"
        ),
    };
    format!(
        "j.id, {index}, j.alias, j.name, j.owner, j.queue, {own}.state, {own}.substate, {own}.cause, \
         {own}.attempt, j.priority, j.created_at, {own}.started_at, {own}.ended_at, {own}.run_at, {own}.machine, \
         {own}.progress, {own}.message, {own}.result, {spec}, j.definition, j.worker, j.array_from, j.array_to, \
         j.array_limit, j.n_queued, j.n_running, j.n_completed, j.n_failed, j.n_cancelled, {own}.warning"
    )
}

/// Reads the columns of [`columns`].
fn view_of(row: &Row<'_>) -> Result<JobView, Error> {
    let index = u32::try_from(row.get::<_, i64>(1)?).ok();
    let state = state(row.get(6)?)?;
    let spec: JobSpec = json(row.get_ref(19)?.as_str().map_err(rusqlite::Error::from)?)?;
    let wall = |at| row.get::<_, Option<i64>>(at).map(|t| t.map(Wall));
    let text = |at| row.get::<_, Option<String>>(at);
    Ok(JobView {
        id: row.get::<_, i64>(0)? as u64,
        alias: text(2)?,
        name: text(3)?,
        owner: row.get(4)?,
        queue: row.get(5)?,
        state,
        substate: row.get::<_, Option<i64>>(7)?.map(substate).transpose()?,
        cause: text(8)?.as_deref().map(json).transpose()?,
        attempt: row.get(9)?,
        priority: row.get(10)?,
        created_at: Wall(row.get(11)?),
        started_at: wall(12)?,
        ended_at: wall(13)?,
        // A time that has come, or that the state has passed, says nothing any more.
        run_at: wall(14)?.filter(|_| state == State::Queued),
        machine: text(15)?,
        attempts: Vec::new(),
        progress: row.get(16)?,
        message: text(17)?,
        result: text(18)?.as_deref().map(json).transpose()?,
        labels: spec.labels.clone(),
        spec,
        definition: text(20)?.as_deref().map(json).transpose()?,
        array: if index.is_none() { array_view(row)? } else { None },
        index,
        worker: text(21)?,
        warning: text(30)?,
    })
}

fn array_view(row: &Row<'_>) -> Result<Option<ArrayView>, Error> {
    let Some(from) = row.get::<_, Option<u32>>(22)? else { return Ok(None) };
    let to = row.get::<_, Option<u32>>(23)?.unwrap_or(from);
    let count = |at| row.get::<_, i64>(at).map(|n| n as u64);
    let counts = StateCounts {
        queued: count(25)?,
        running: count(26)?,
        completed: count(27)?,
        failed: count(28)?,
        cancelled: count(29)?,
    };
    Ok(Some(ArrayView { total: u64::from(to) + 1 - u64::from(from), counts, from, to, limit: row.get(24)? }))
}

/// A job as it is shown, with its newest attempts.
///
/// # Errors
/// From SQLite, or a value that makes no sense.
pub fn job_view(conn: &Connection, id: JobId, detail: Detail) -> Result<Option<JobView>, Error> {
    let sql = format!("SELECT {} FROM jobs AS j WHERE j.id = ?1", columns(Rows::Jobs, detail));
    let mut view = {
        let mut statement = conn.prepare_cached(&sql)?;
        let mut rows = statement.query([id as i64])?;
        let Some(row) = rows.next()? else { return Ok(None) };
        view_of(row)?
    };
    if detail == Detail::Whole && view.array.is_none() {
        view.attempts = attempts(conn, id, None)?;
    }
    Ok(Some(view))
}

/// A task of an array as it is shown; one that was never dispatched is made up from its array. `None` when the job does
/// not exist or has no such task.
///
/// # Errors
/// From SQLite, or a value that makes no sense.
pub fn task_view(conn: &Connection, id: JobId, index: u32, detail: Detail) -> Result<Option<JobView>, Error> {
    let sql = format!(
        "SELECT {} FROM tasks AS t JOIN jobs AS j ON j.id = t.job WHERE t.job = ?1 AND t.idx = ?2",
        columns(Rows::Tasks, Detail::Row)
    );
    {
        let mut statement = conn.prepare_cached(&sql)?;
        let mut rows = statement.query(params![id as i64, index])?;
        if let Some(row) = rows.next()? {
            let mut view = view_of(row)?;
            if detail == Detail::Whole {
                view.attempts = attempts(conn, id, Some(index))?;
            }
            return Ok(Some(view));
        }
    }
    let (Some(job), Some(view)) = (read::job_row(conn, id)?, job_view(conn, id, Detail::Row)?) else {
        return Ok(None);
    };
    let Some(array) = job.array.as_ref().filter(|a| (a.from..=a.to).contains(&index)) else {
        return Ok(None);
    };
    Ok(Some(undispatched(view, &job, array, index)))
}

/// Where a task stands that has no row yet.
pub fn undispatched_standing(job: &JobRow, array: &ArrayRow, index: u32) -> (State, Option<Substate>) {
    if array.cancelled.contains(index) {
        return (State::Cancelled, None);
    }
    if array.held.contains(index) {
        return (State::Queued, Some(Substate::Held));
    }
    match job.standing.state {
        // The array runs or has ended, so what it waits for itself says nothing about this task.
        State::Queued => (State::Queued, job.standing.substate),
        State::Running => (State::Queued, Some(Substate::Waiting)),
        ended => (ended, None),
    }
}

fn undispatched(mut view: JobView, job: &JobRow, array: &ArrayRow, index: u32) -> JobView {
    let (state, substate) = undispatched_standing(job, array, index);
    view.array = None;
    view.index = Some(index);
    view.state = state;
    view.substate = substate;
    view.attempt = 0;
    (view.started_at, view.machine, view.progress, view.message, view.result) =
        (None, None, None, None, None);
    if state != State::Cancelled {
        view.cause = None;
        view.ended_at = None;
    }
    view
}

/// The newest attempts, oldest first.
fn attempts(conn: &Connection, id: JobId, index: Option<u32>) -> Result<Vec<AttemptView>, Error> {
    let mut statement = conn.prepare_cached(
        "SELECT a.attempt, machine, dispatched_at, started_at, ended_at, cause, exit_code, cpu_ms, rss_peak, pid, \
         out_len, late, coalesce(files, 0), coalesce(bytes, 0), gpus FROM attempts AS a LEFT JOIN artifacts USING (job, idx, attempt) \
         WHERE job = ?1 AND idx = ?2 ORDER BY a.attempt DESC LIMIT ?3",
    )?;
    let mut rows = statement.query(params![id as i64, index.map_or(-1, i64::from), ATTEMPTS])?;
    let mut views = Vec::new();
    while let Some(row) = rows.next()? {
        let wall = |at| row.get::<_, Option<i64>>(at).map(|t| t.map(Wall));
        views.push(AttemptView {
            attempt: row.get(0)?,
            index,
            machine: row.get(1)?,
            dispatched_at: wall(2)?,
            started_at: wall(3)?,
            ended_at: wall(4)?,
            cause: row.get::<_, Option<String>>(5)?.as_deref().map(json).transpose()?,
            exit_code: row.get(6)?,
            cpu_s: row.get::<_, i64>(7)? as f64 / 1000.0,
            rss_peak_bytes: row.get::<_, i64>(8)? as u64,
            pid: row.get(9)?,
            output_bytes: row.get::<_, i64>(10)? as u64,
            late: row.get::<_, Option<String>>(11)?.as_deref().map(json).transpose()?,
            artifacts: row.get(12)?,
            artifact_bytes: row.get::<_, i64>(13)? as u64,
            gpus: row
                .get::<_, Option<String>>(14)?
                .map_or_else(Vec::new, |uuids| uuids.split(',').map(str::to_owned).collect()),
        });
    }
    views.reverse();
    Ok(views)
}

#[cfg(test)]
#[path = "query_test.rs"]
mod tests;
