//! Facts about ends of attempts, and what these leave, as SQL.
use super::{Error, Sql, cause, json, one};
use crate::effect::Ended;
use crate::input::Kept;
use reeve_protocol::{AttemptId, Cause};
use rusqlite::params;

pub(super) fn attempt_ended(db: Sql<'_>, e: &Ended) -> Result<(), Error> {
    let (cause, _, exit) = cause(Some(&e.cause));
    let (job, index, n) = (e.attempt.task.job, e.attempt.task.index_key(), e.attempt.attempt);
    let len = e.segment.map_or(e.output.len() as u64, |s| s.len);
    if !e.output.is_empty() {
        one(
            db,
            "INSERT INTO outputs (job, idx, attempt, tape) VALUES (?1, ?2, ?3, ?4)",
            params![job, index, n, e.output],
        )?;
    }
    one(
        db,
        "UPDATE attempts SET started_at = coalesce(?4, started_at), ended_at = ?5, pid = coalesce(?6, pid), cause = ?7, exit_code = ?8, cpu_ms = ?9,
           rss_peak = ?10, out_len = ?11, out_seg = ?12, out_off = ?13 WHERE job = ?1 AND idx = ?2 AND attempt = ?3 AND ended_at IS NULL",
        params![
            job,
            index,
            n,
            e.started_at,
            e.ended_at,
            e.pid,
            cause,
            exit,
            e.cpu_ms,
            e.rss_peak,
            len,
            e.segment.map(|s| s.file),
            e.segment.map(|s| s.offset)
        ],
    )
}

/// One row per attempt: the list is read as a whole.
pub(super) fn artifacts_kept(db: Sql<'_>, kept: &Kept) -> Result<(), Error> {
    let Kept { attempt, files, segment } = kept;
    one(
        db,
        "INSERT OR REPLACE INTO artifacts (job, idx, attempt, files, bytes, seg, off, list) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        params![
            attempt.task.job,
            attempt.task.index_key(),
            attempt.attempt,
            files.len(),
            segment.len,
            segment.file,
            segment.offset,
            json(files)?
        ],
    )
}

/// A late end of an attempt is kept once, and only from the machine that held it; a repeated report of the true end
/// changes nothing.
pub(super) fn attempt_late(
    db: Sql<'_>,
    attempt: AttemptId,
    machine: &str,
    cause: &Cause,
) -> Result<(), Error> {
    let late = json(cause)?;
    db.prepare_cached(
        "UPDATE attempts SET late = ?4 WHERE job = ?1 AND idx = ?2 AND attempt = ?3 AND ended_at IS NOT NULL AND late IS NULL AND cause <> ?4 AND machine_id = ?5",
    )?
    .execute(params![attempt.task.job, attempt.task.index_key(), attempt.attempt, late, machine])?;
    Ok(())
}
