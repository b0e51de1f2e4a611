//! Committed snapshots for everybody but the recorder: read-only connections, and the rows that calls carry.
//!
//! A point read takes some twenty microseconds and runs where it is asked for; whatever scans runs on the blocking pool
//! with a bound on its time. What is shown to people is made in [`super::query`].
use super::Error;
use crate::row::{ArrayRow, JobRow, Standing, TaskRow};
use reeve_protocol::api::StateCounts;
use reeve_protocol::intervals::Intervals;
use reeve_protocol::{Cause, JobId, State, Substate};
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, params};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// As many as there are threads that could ask at once.
const POINT: usize = 2;
/// Scans at once; more wait.
const SCANS: usize = 2;
/// Steps of SQLite's machine between two looks at the time, about a tenth of a millisecond.
const STEPS: i32 = 2000;

/// Read-only connections to the store.
pub struct ReadPool {
    path: PathBuf,
    point: [Mutex<Connection>; POINT],
    next: AtomicUsize,
    /// Opened when first needed: most coordinators never scan twice at once.
    idle: Mutex<Vec<Connection>>,
    scans: Semaphore,
}

impl ReadPool {
    /// Opens the store's file, which must exist.
    ///
    /// # Errors
    /// From SQLite.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Ok(Self {
            path: path.to_owned(),
            point: [Mutex::new(connect(path)?), Mutex::new(connect(path)?)],
            next: AtomicUsize::new(0),
            idle: Mutex::new(Vec::new()),
            scans: Semaphore::new(SCANS),
        })
    }

    /// The store's file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A point read, here and now: for statements that an index answers. All see one snapshot, so that a job is never
    /// shown with an attempt that its state does not know yet.
    ///
    /// # Errors
    /// From SQLite, or a value that makes no sense.
    pub fn point<T>(&self, read: impl FnOnce(&Connection) -> Result<T, Error>) -> Result<T, Error> {
        let at = self.next.fetch_add(1, Ordering::Relaxed) % POINT;
        let conn = match self.point[at].try_lock() {
            Ok(conn) => conn,
            Err(_) => self.point[(at + 1) % POINT].lock().unwrap_or_else(PoisonError::into_inner),
        };
        snapshot(&conn, read)
    }

    /// A scan in one snapshot, on the blocking pool, ended after `bound`.
    ///
    /// # Errors
    /// As [`ReadPool::point`]; [`is_interrupted`] when it took too long.
    pub async fn scan<T, F>(self: &Arc<Self>, bound: Duration, read: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, Error> + Send + 'static,
    {
        let _permit = self.scans.acquire().await;
        let pool = self.clone();
        let task = tokio::task::spawn_blocking(move || pool.scan_here(bound, read));
        task.await.unwrap_or_else(|e| Err(Error::Value(format!("a read was given up: {e}"))))
    }

    fn scan_here<T>(
        &self,
        bound: Duration,
        read: impl FnOnce(&Connection) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut conn = match idle {
            Some(conn) => conn,
            None => connect(&self.path)?,
        };
        let end = Instant::now() + bound;
        conn.progress_handler(STEPS, Some(move || Instant::now() >= end))?;
        let result = snapshot(&conn, read);
        conn.progress_handler(0, None::<fn() -> bool>)?;
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(conn);
        result
    }
}

/// Runs several statements on one snapshot.
fn snapshot<T>(conn: &Connection, read: impl FnOnce(&Connection) -> Result<T, Error>) -> Result<T, Error> {
    let transaction = conn.unchecked_transaction()?;
    let result = read(&transaction);
    transaction.finish()?;
    result
}

/// Whether a scan was ended because it took too long.
pub fn is_interrupted(error: &Error) -> bool {
    matches!(error, Error::Sqlite(e) if e.sqlite_error_code() == Some(rusqlite::ErrorCode::OperationInterrupted))
}

/// A connection that reads.
///
/// # Errors
/// From SQLite.
pub fn connect(path: &Path) -> Result<Connection, Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags)?;
    conn.busy_timeout(Duration::from_secs(5))?;
    // The cache is small on purpose: the pages are in the kernel's cache already, and four of these live side by side.
    conn.execute_batch("PRAGMA query_only = 1; PRAGMA cache_size = -512; PRAGMA temp_store = MEMORY;")?;
    conn.set_prepared_statement_cache_capacity(64);
    Ok(conn)
}

/// The columns of [`job_of`], for statements that are put together when this is compiled.
macro_rules! columns {
    () => {
        "SELECT state, substate, cause, attempt, tries, losses, run_at, started_at, ended_at, machine, \
    id, owner_uid, owner, queue, priority, spec, name, title, worker, worker_version, alias, definition, external, \
    created_at, expires_at, key, digest, array_from, array_to, array_limit, array_next, n_queued, n_running, \
    n_completed, n_failed, n_cancelled, array_held, array_cancelled"
    };
}

const JOB: &str = concat!(columns!(), " FROM jobs WHERE id = ?1");
const LIVE_JOBS: &str = concat!(columns!(), " FROM jobs INDEXED BY jobs_state WHERE state < 2");

/// A job, whole.
///
/// # Errors
/// From SQLite, or a value that makes no sense.
pub fn job_row(conn: &Connection, id: JobId) -> Result<Option<JobRow>, Error> {
    let mut statement = conn.prepare_cached(JOB)?;
    let mut rows = statement.query(params![id as i64])?;
    rows.next()?.map(job_of).transpose()
}

/// Those of these jobs that there are, whole, in one snapshot; with more than so many bytes of specs only the first of
/// them. Also how many of the numbers were looked at: at least one.
///
/// # Errors
/// From SQLite, or a value that makes no sense.
pub fn job_rows(conn: &Connection, ids: &[JobId], bytes: usize) -> Result<(Vec<JobRow>, usize), Error> {
    snapshot(conn, |conn| {
        let (mut rows, mut room) = (Vec::with_capacity(ids.len()), bytes);
        for (at, id) in ids.iter().enumerate() {
            let Some(row) = job_row(conn, *id)? else { continue };
            if row.spec.len() > room && !rows.is_empty() {
                return Ok((rows, at));
            }
            room = room.saturating_sub(row.spec.len());
            rows.push(row);
        }
        Ok((rows, ids.len()))
    })
}

/// Every job that has not ended, in one pass: those that `takes` takes in by some columns, the others whole.
///
/// # Errors
/// From SQLite, or a value that makes no sense.
pub(super) fn live_jobs(
    conn: &Connection,
    mut takes: impl FnMut(&Row<'_>) -> Result<bool, Error>,
) -> Result<Vec<JobRow>, Error> {
    let mut statement = conn.prepare(LIVE_JOBS)?;
    let mut rows = statement.query([])?;
    let mut jobs = Vec::new();
    while let Some(row) = rows.next()? {
        if !takes(row)? {
            jobs.push(job_of(row)?);
        }
    }
    Ok(jobs)
}

fn job_of(row: &Row<'_>) -> Result<JobRow, Error> {
    let worker: Option<String> = row.get(18)?;
    let version = row.get::<_, Option<u32>>(19)?.unwrap_or(1);
    let key: Option<String> = row.get(25)?;
    let digest = row.get::<_, Option<String>>(26)?.unwrap_or_default();
    Ok(JobRow {
        standing: standing_of(row)?,
        id: row.get::<_, i64>(10)? as u64,
        owner_uid: row.get(11)?,
        owner: row.get::<_, String>(12)?.into(),
        queue: row.get::<_, String>(13)?.into(),
        priority: row.get(14)?,
        spec: row.get::<_, String>(15)?.into(),
        name: row.get(16)?,
        title: row.get(17)?,
        worker: worker.map(|name| (name, version)),
        alias: row.get(20)?,
        definition: row.get(21)?,
        external: row.get(22)?,
        created_at: row.get(23)?,
        expires_at: row.get(24)?,
        key: key.map(|key| (key, digest)),
        array: array_of(row)?,
    })
}

fn array_of(row: &Row<'_>) -> Result<Option<ArrayRow>, Error> {
    let Some(from) = row.get::<_, Option<u32>>(27)? else { return Ok(None) };
    let count = |at| row.get::<_, i64>(at).map(|n| n as u64);
    Ok(Some(ArrayRow {
        from,
        to: row.get::<_, Option<u32>>(28)?.unwrap_or(from),
        limit: row.get(29)?,
        next: row.get::<_, Option<u32>>(30)?.unwrap_or(from),
        counts: StateCounts {
            queued: count(31)?,
            running: count(32)?,
            completed: count(33)?,
            failed: count(34)?,
            cancelled: count(35)?,
        },
        held: intervals(row.get(36)?)?,
        cancelled: intervals(row.get(37)?)?,
    }))
}

fn intervals(text: Option<String>) -> Result<Intervals, Error> {
    text.map_or_else(|| Ok(Intervals::new()), |text| json(&text))
}

/// The first ten columns of jobs and of tasks, in the order of both statements.
fn standing_of(row: &Row<'_>) -> Result<Standing, Error> {
    let cause: Option<String> = row.get(2)?;
    Ok(Standing {
        state: state(row.get(0)?)?,
        substate: row.get::<_, Option<i64>>(1)?.map(substate).transpose()?,
        cause: cause.as_deref().map(json::<Cause>).transpose()?,
        attempt: row.get(3)?,
        tries: row.get(4)?,
        losses: row.get(5)?,
        run_at: row.get(6)?,
        started_at: row.get(7)?,
        ended_at: row.get(8)?,
        machine: row.get::<_, Option<String>>(9)?.map(Into::into),
    })
}

/// A stored state.
pub fn state(number: i64) -> Result<State, Error> {
    let at = usize::try_from(number).ok().and_then(|at| State::ALL.get(at).copied());
    at.ok_or_else(|| Error::Value(format!("state {number}")))
}

/// A stored substate.
pub fn substate(number: i64) -> Result<Substate, Error> {
    let at = usize::try_from(number).ok().and_then(|at| Substate::ALL.get(at).copied());
    at.ok_or_else(|| Error::Value(format!("substate {number}")))
}

/// A stored JSON value.
pub fn json<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, Error> {
    serde_json::from_str(text).map_err(|e| Error::Value(e.to_string()))
}

/// The last event.
///
/// # Errors
/// From SQLite.
pub fn last_event(conn: &Connection) -> Result<u64, Error> {
    let mut statement = conn.prepare_cached("SELECT coalesce(max(seq), 0) FROM events")?;
    Ok(statement.query_row([], |r| r.get::<_, i64>(0))? as u64)
}

const TASK: &str = "SELECT state, substate, cause, attempt, tries, losses, run_at, started_at, ended_at, machine, idx \
    FROM tasks WHERE job = ?1 AND idx BETWEEN ?2 AND ?3 AND (?4 = 0 OR state >= 3)";

/// Tasks of an array that were dispatched once, ascending; with `only_bad` those that ended FAILED or CANCELLED.
///
/// # Errors
/// From SQLite, or a value that makes no sense.
pub fn task_rows(
    conn: &Connection,
    job: JobId,
    range: Option<(u32, u32)>,
    only_bad: bool,
) -> Result<Vec<TaskRow>, Error> {
    let (from, to) = range.unwrap_or((0, u32::MAX));
    let mut statement = conn.prepare_cached(TASK)?;
    let mut rows = statement.query(params![job as i64, from, to, only_bad])?;
    let mut tasks = Vec::new();
    while let Some(row) = rows.next()? {
        tasks.push(TaskRow { index: row.get(10)?, standing: standing_of(row)? });
    }
    Ok(tasks)
}

/// The state of a job, or of one task of an array; a task that was never dispatched has the state of no row.
///
/// # Errors
/// From SQLite, or a value that makes no sense.
pub fn state_of(conn: &Connection, job: JobId, index: Option<u32>) -> Result<Option<State>, Error> {
    let found: Option<i64> = match index {
        None => conn
            .prepare_cached("SELECT state FROM jobs WHERE id = ?1")?
            .query_row([job as i64], |r| r.get(0))
            .optional()?,
        Some(index) => conn
            .prepare_cached("SELECT state FROM tasks WHERE job = ?1 AND idx = ?2")?
            .query_row(params![job as i64, index], |r| r.get(0))
            .optional()?,
    };
    found.map(state).transpose()
}

/// The newest job of a user.
///
/// # Errors
/// From SQLite.
pub fn newest_of(conn: &Connection, uid: u32) -> Result<Option<JobId>, Error> {
    let mut statement = conn.prepare_cached(
        "SELECT id FROM jobs WHERE owner_uid = ?1 AND queue <> '.replicas' ORDER BY id DESC LIMIT 1",
    )?;
    Ok(statement.query_row([uid], |r| r.get::<_, i64>(0)).optional()?.map(|id| id as u64))
}

/// The job that a user gave this name.
///
/// # Errors
/// From SQLite.
pub fn by_alias(conn: &Connection, uid: u32, alias: &str) -> Result<Option<JobId>, Error> {
    let mut statement = conn.prepare_cached("SELECT id FROM jobs WHERE owner_uid = ?1 AND alias = ?2")?;
    Ok(statement.query_row(params![uid, alias], |r| r.get::<_, i64>(0)).optional()?.map(|id| id as u64))
}

/// The job that was submitted with this key, and the digest of that request.
///
/// # Errors
/// From SQLite.
pub fn by_key(conn: &Connection, uid: u32, key: &str) -> Result<Option<(JobId, String)>, Error> {
    let mut statement =
        conn.prepare_cached("SELECT id, coalesce(digest, '') FROM jobs WHERE owner_uid = ?1 AND key = ?2")?;
    Ok(statement.query_row(params![uid, key], |r| Ok((r.get::<_, i64>(0)? as u64, r.get(1)?))).optional()?)
}

/// The message that was published with this key, and the digest of that request.
///
/// # Errors
/// From SQLite.
pub fn message_by_key(
    conn: &Connection,
    uid: u32,
    queue: &str,
    key: &str,
) -> Result<Option<(u64, String)>, Error> {
    let sql = "SELECT id, digest FROM message_keys WHERE owner_uid = ?1 AND queue = ?2 AND key = ?3";
    let mut statement = conn.prepare_cached(sql)?;
    Ok(statement
        .query_row(params![uid, queue, key], |r| Ok((r.get::<_, i64>(0)? as u64, r.get(1)?)))
        .optional()?)
}

#[cfg(test)]
#[path = "fixture_test.rs"]
pub(crate) mod fixture;

#[cfg(test)]
#[path = "read_test.rs"]
mod tests;
