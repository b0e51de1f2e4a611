//! What a start reads: live jobs with their live tasks and attempts, queues, machines, and counters of what has ended.
//! Cost grows with what lives, not with history (the counters come from one covering index).
use super::Error;
use super::read::{self, task_rows};
use super::waiting::{Gathering, Waiting};
use crate::core::Identity;
use crate::row::{
    Backend, DeploymentRow, JobRow, LiveAttempt, MachineRow, Paused, QueueKind, QueueRow, TaskRow, TokenRow,
    WorkerRow,
};
use reeve_protocol::api::{Route, StateCounts};
use reeve_protocol::{JobId, State, TaskId};
use rusqlite::{Connection, Row};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A message without its body.
#[derive(Clone, Debug, PartialEq)]
pub struct MessageMeta {
    /// Its number.
    pub id: u64,
    /// Its queue.
    pub queue: Arc<str>,
    /// Higher first.
    pub priority: i32,
    /// Wall milliseconds.
    pub published_at: i64,
    /// Wall milliseconds.
    pub run_at: Option<i64>,
    /// Wall milliseconds.
    pub expires_at: Option<i64>,
    /// Times handed out.
    pub deliveries: u32,
    /// Of its body and headers.
    pub bytes: u32,
    /// The holder's lease and its end.
    pub lease: Option<(String, i64)>,
    /// Given up.
    pub dead: bool,
    /// On its way to the queue's broker.
    pub outgoing: bool,
    /// What its broker called it.
    pub source: Option<String>,
}

/// Everything the core starts from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Loaded {
    /// Who this coordinator is.
    pub identity: Identity,
    /// The last event.
    pub seq: u64,
    /// When that was, wall milliseconds: nothing that is stored may be older than what was stored before.
    pub at: i64,
    /// The next numbers.
    pub next_job: JobId,
    /// The next message.
    pub next_message: u64,
    /// The next plan.
    pub next_plan: u64,
    /// Every machine that has joined.
    pub machines: Vec<MachineRow>,
    /// Every token, used ones included: the key that used one may ask again.
    pub tokens: Vec<TokenRow>,
    /// Names given by `register_job`.
    pub aliases: Vec<((u32, String), JobId)>,
    /// Every queue.
    pub queues: Vec<QueueRow>,
    /// Ended jobs and tasks per queue, without those of live arrays.
    pub counts: Vec<(String, StateCounts)>,
    /// Every message.
    pub messages: Vec<MessageMeta>,
    /// Jobs that wait and were never touched.
    pub waiting: Vec<Waiting>,
    /// The other live jobs, with their live tasks.
    pub jobs: Vec<(JobRow, Vec<TaskRow>)>,
    /// The newest version of every worker.
    pub workers: Vec<WorkerRow>,
    /// The highest version of every name, removed ones included.
    pub versions: Vec<(String, u32)>,
    /// Static workers that were launched once, with the registration that was launched last.
    pub deployments: Vec<(DeploymentRow, Option<WorkerRow>)>,
    /// What the replicas that are there were made from.
    pub replicated: Vec<WorkerRow>,
    /// Attempts that had not ended.
    pub attempts: Vec<LiveAttempt>,
    /// The newest messages that became jobs, oldest first.
    pub inbox: Vec<String>,
    /// Rules that say which queues a message goes to, in order.
    pub routes: Vec<Route>,
}

const QUEUES: &str = "SELECT name, kind, paused, weight, \"limit\", max_len, owner_uid, owner, created_at, backend, paused_by, paused_why,
  paused_at, ingress_uid, ingress, moving_from FROM queues";

/// Reads it.
///
/// # Errors
/// From SQLite, or a value that makes no sense.
pub fn load(db: &Connection, identity: Identity, seq: u64) -> Result<Loaded, Error> {
    let number = |sql: &str| db.query_row(sql, [], |r| r.get::<_, i64>(0)).map(|n| n as u64);
    let (waiting, jobs) = live_jobs(db)?;
    let attempts = live_attempts(db, &jobs)?;
    Ok(Loaded {
        identity,
        seq,
        at: db.query_row(
            "SELECT coalesce(max(at), 0) FROM (SELECT at FROM events ORDER BY seq DESC LIMIT 1)",
            [],
            |r| r.get(0),
        )?,
        next_job: number(
            "SELECT max((SELECT coalesce(max(id), 0) + 1 FROM jobs), (SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'next_job'))",
        )?,
        next_message: number(
            "SELECT max(coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'messages'), 0) + 1,
               coalesce((SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'next_message'), 1))",
        )?,
        next_plan: number("SELECT coalesce(max(id), 0) + 1 FROM plans")?,
        machines: machines(db)?,
        tokens: all(db, "SELECT id, secret_hash, expires_at, bound_key, machine FROM tokens", |r| {
            let (key, machine): (Option<String>, Option<String>) = (r.get(3)?, r.get(4)?);
            Ok(TokenRow {
                id: r.get(0)?,
                secret_hash: r.get(1)?,
                expires_at: r.get(2)?,
                bound: key.zip(machine),
            })
        })?,
        aliases: all(db, "SELECT owner_uid, alias, id FROM jobs WHERE alias IS NOT NULL", |r| {
            Ok(((r.get(0)?, r.get(1)?), r.get::<_, i64>(2)? as u64))
        })?,
        queues: all(db, QUEUES, queue)?,
        counts: counts(db)?,
        messages: messages(db)?,
        waiting,
        jobs,
        workers: super::workers::newest(db)?,
        versions: super::workers::versions(db)?,
        deployments: super::workers::deployments(db)?,
        replicated: super::workers::of_replicas(db)?,
        attempts,
        inbox: all(
            db,
            "SELECT source FROM (SELECT source, at FROM inbox ORDER BY at DESC LIMIT 65536) ORDER BY at",
            |r| r.get(0),
        )?,
        routes: all(db, "SELECT name, labels, queues FROM routes ORDER BY position", |r| {
            let parsed = |text: String| serde_json::from_str(&text).unwrap_or_default();
            let queues = serde_json::from_str(&r.get::<_, String>(2)?).unwrap_or_default();
            Ok(Route { name: r.get(0)?, labels: parsed(r.get(1)?), queues })
        })?,
    })
}

/// Every machine that has joined, removed ones included.
///
/// # Errors
/// From SQLite.
pub fn machines(db: &Connection) -> Result<Vec<MachineRow>, Error> {
    all(
        db,
        "SELECT id, name, fingerprint, info, cordoned, joined_at, life, keeper, revoked_at, certificate_until, spares,
           renewal_failed_at, renewal_error, draining, drain_until FROM machines",
        |r| {
            let (failed_at, failed): (Option<i64>, Option<String>) = (r.get(11)?, r.get(12)?);
            Ok(MachineRow {
                id: r.get(0)?,
                name: r.get::<_, String>(1)?.into(),
                fingerprint: r.get(2)?,
                info: r.get(3)?,
                cordoned: r.get(4)?,
                joined_at: r.get(5)?,
                life: r.get(6)?,
                keeper: r.get(7)?,
                revoked: r.get::<_, Option<i64>>(8)?.is_some(),
                certificate_until: r.get(9)?,
                spares: serde_json::from_str(&r.get::<_, String>(10)?).unwrap_or_default(),
                renewal_failed: failed_at.zip(failed),
                draining: r.get(13)?,
                drain_until: r.get(14)?,
            })
        },
    )
}

fn all<T>(
    db: &Connection,
    sql: &str,
    read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> Result<Vec<T>, Error> {
    let mut statement = db.prepare(sql)?;
    let rows = statement.query_map([], read)?.collect::<rusqlite::Result<Vec<T>>>()?;
    Ok(rows)
}

fn queue(r: &Row<'_>) -> rusqlite::Result<QueueRow> {
    Ok(QueueRow {
        name: r.get::<_, String>(0)?.into(),
        kind: QueueKind::parse(&r.get::<_, String>(1)?).unwrap_or(QueueKind::Unset),
        backend: Backend::of(&r.get::<_, String>(9)?),
        paused: r.get(2)?,
        paused_by: match (r.get::<_, Option<String>>(10)?, r.get(12)?) {
            (Some(by), Some(at)) => Some(Box::new(Paused { by: by.into(), why: r.get(11)?, at })),
            _ => None,
        },
        moving_from: r.get::<_, Option<String>>(15)?.map(Into::into),
        ingress: r.get::<_, Option<u32>>(13)?.zip(r.get::<_, Option<String>>(14)?.map(Into::into)),
        weight: r.get(3)?,
        limit: r.get(4)?,
        max_len: r.get::<_, i64>(5)? as u64,
        owner_uid: r.get(6)?,
        owner: r.get::<_, String>(7)?.into(),
        created_at: r.get(8)?,
    })
}

fn messages(db: &Connection) -> Result<Vec<MessageMeta>, Error> {
    all(
        db,
        "SELECT id, queue, priority, published_at, run_at, expires_at, deliveries, lease, lease_until, dead, outgoing, source,
           octet_length(body) + octet_length(headers) FROM messages",
        |r| {
            let lease: Option<String> = r.get(7)?;
            let until: Option<i64> = r.get(8)?;
            Ok(MessageMeta {
                id: r.get::<_, i64>(0)? as u64,
                queue: r.get::<_, String>(1)?.into(),
                priority: r.get(2)?,
                published_at: r.get(3)?,
                run_at: r.get(4)?,
                expires_at: r.get(5)?,
                deliveries: r.get(6)?,
                lease: lease.zip(until),
                dead: r.get::<_, Option<String>>(9)?.is_some(),
                outgoing: r.get(10)?,
                source: r.get(11)?,
                bytes: r.get(12)?,
            })
        },
    )
}

/// Single jobs are counted by index; ended arrays by their own counters.
fn counts(db: &Connection) -> Result<Vec<(String, StateCounts)>, Error> {
    let mut found: BTreeMap<String, StateCounts> = BTreeMap::new();
    let ended = all(
        db,
        "SELECT queue, state, count(*) FROM jobs INDEXED BY jobs_state WHERE state >= 2 GROUP BY state, queue",
        |r| Ok((r.get::<_, String>(0)?, r.get::<_, i64>(1)?, r.get::<_, i64>(2)? as u64)),
    )?;
    for (queue, state, n) in ended {
        let state =
            State::ALL.get(state as usize).copied().ok_or_else(|| Error::Value(format!("state {state}")))?;
        *found.entry(queue).or_default().get_mut(state) += n;
    }
    // An ended array was counted above as one; its tasks take its place.
    let arrays = all(
        db,
        "SELECT queue, state, n_completed, n_failed, n_cancelled FROM jobs INDEXED BY jobs_arrays
         WHERE array_from IS NOT NULL AND state >= 2",
        |r| Ok((r.get::<_, String>(0)?, r.get::<_, i64>(1)?, [r.get::<_, i64>(2)?, r.get(3)?, r.get(4)?])),
    )?;
    for (queue, state, [completed, failed, cancelled]) in arrays {
        let state =
            State::ALL.get(state as usize).copied().ok_or_else(|| Error::Value(format!("state {state}")))?;
        let counts = found.entry(queue).or_default();
        *counts.get_mut(state) -= 1;
        counts.completed += completed as u64;
        counts.failed += failed as u64;
        counts.cancelled += cancelled as u64;
    }
    Ok(found.into_iter().collect())
}

type Live = Vec<(JobRow, Vec<TaskRow>)>;

fn live_jobs(db: &Connection) -> Result<(Vec<Waiting>, Live), Error> {
    let mut waiting = Gathering::default();
    let rows = read::live_jobs(db, |row| waiting.take(row))?;
    let mut jobs = Vec::with_capacity(rows.len());
    for row in rows {
        let mut tasks = Vec::new();
        if row.array.is_some() {
            let live = all_tasks(db, row.id as i64)?;
            for index in live {
                tasks.extend(task_rows(db, row.id, Some((index, index)), false)?);
            }
        }
        jobs.push((row, tasks));
    }
    Ok((waiting.finish(), jobs))
}

/// The current attempts of live jobs and tasks that have not ended. No index holds them: each is found by its key.
fn live_attempts(db: &Connection, jobs: &[(JobRow, Vec<TaskRow>)]) -> Result<Vec<LiveAttempt>, Error> {
    let mut statement = db.prepare(
        "SELECT machine_id, lease, dispatched_at, started_at, gpus FROM attempts
         WHERE job = ?1 AND idx = ?2 AND attempt = ?3 AND ended_at IS NULL",
    )?;
    let mut live = Vec::new();
    for (row, tasks) in jobs {
        let single = row.array.is_none().then(|| TaskId::single(row.id).attempt(row.standing.attempt));
        let of_tasks = tasks.iter().map(|t| TaskId::of_array(row.id, t.index).attempt(t.standing.attempt));
        for attempt in single.into_iter().chain(of_tasks).filter(|a| a.attempt > 0) {
            let key = (attempt.task.job, attempt.task.index_key(), attempt.attempt);
            live.extend(
                statement
                    .query_map(key, |r| {
                        Ok(LiveAttempt {
                            attempt,
                            machine_id: r.get(0)?,
                            lease: r.get(1)?,
                            gpus: r
                                .get::<_, Option<String>>(4)?
                                .map_or_else(Vec::new, |uuids| uuids.split(',').map(str::to_owned).collect()),
                            dispatched_at: r.get(2)?,
                            started_at: r.get(3)?,
                        })
                    })?
                    .collect::<rusqlite::Result<Vec<_>>>()?,
            );
        }
    }
    Ok(live)
}

fn all_tasks(db: &Connection, id: i64) -> Result<Vec<u32>, Error> {
    let mut statement = db.prepare_cached("SELECT idx FROM tasks WHERE job = ?1 AND state < 2")?;
    let rows = statement.query_map([id], |r| r.get(0))?.collect::<rusqlite::Result<Vec<u32>>>()?;
    Ok(rows)
}
