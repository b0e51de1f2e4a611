//! Workers and what is wanted of them, as rows. A registration is never changed: a job can say which one it was made from.
use super::Error;
use super::facts::{Sql, json, one};
use crate::row::{DeploymentRow, REPLICAS, WorkerRow};
use reeve_protocol::api::WorkerView;
use rusqlite::{Connection, OptionalExtension as _, Row, params};

const COLUMNS: &str =
    "SELECT name, version, kind, queue, owner_uid, owner, spec, created_at, shell, serving FROM workers AS w";
const NEWEST: &str =
    "removed_at IS NULL AND version = (SELECT max(version) FROM workers WHERE name = w.name)";

pub(super) fn put(db: Sql<'_>, w: &WorkerRow) -> Result<(), Error> {
    one(
        db,
        "INSERT INTO workers (name, version, kind, queue, owner_uid, owner, spec, created_at, shell, serving)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        params![
            w.name,
            w.version,
            w.kind,
            w.queue,
            w.owner_uid,
            &*w.owner,
            &*w.spec,
            w.created_at,
            w.shell.as_deref(),
            w.serving.as_deref()
        ],
    )
}

/// Every registration of a name; there is at least one.
pub(super) fn remove(db: Sql<'_>, name: &str, at: i64) -> Result<(), Error> {
    let n = db
        .prepare_cached("UPDATE workers SET removed_at = ?2 WHERE name = ?1 AND removed_at IS NULL")?
        .execute(params![name, at])?;
    if n == 0 { Err(Error::Rows("remove a worker".to_owned(), n)) } else { Ok(()) }
}

pub(super) fn deploy(db: Sql<'_>, d: &DeploymentRow) -> Result<(), Error> {
    one(
        db,
        "INSERT INTO deployments (worker, version, replicas, machines, serving, changed_at, git_commit)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
         ON CONFLICT (worker) DO UPDATE SET version = ?2, replicas = ?3, machines = ?4, serving = ?5, changed_at = ?6,
         git_commit = ?7",
        params![d.worker, d.version, d.replicas, json(&d.on)?, d.serving, d.changed_at, d.commit],
    )
}

fn row(r: &Row<'_>) -> rusqlite::Result<WorkerRow> {
    Ok(WorkerRow {
        name: r.get(0)?,
        version: r.get(1)?,
        kind: r.get(2)?,
        queue: r.get(3)?,
        owner_uid: r.get(4)?,
        owner: r.get::<_, String>(5)?.into(),
        spec: r.get::<_, String>(6)?.into(),
        created_at: r.get(7)?,
        shell: r.get::<_, Option<String>>(8)?.map(Into::into),
        serving: r.get::<_, Option<String>>(9)?.map(Into::into),
    })
}

/// The newest registration of every worker.
pub(super) fn newest(db: &Connection) -> Result<Vec<WorkerRow>, Error> {
    let mut statement = db.prepare(&format!("{COLUMNS} WHERE {NEWEST}"))?;
    let rows = statement.query_map([], row)?.collect::<rusqlite::Result<_>>()?;
    Ok(rows)
}

/// The highest registration of every name that was ever used.
pub(super) fn versions(db: &Connection) -> Result<Vec<(String, u32)>, Error> {
    let mut statement = db.prepare("SELECT name, max(version) FROM workers GROUP BY name")?;
    let rows = statement.query_map([], |r| Ok((r.get(0)?, r.get(1)?)))?.collect::<rusqlite::Result<_>>()?;
    Ok(rows)
}

/// What was launched, each with the registration that was launched last; `None`: it was removed.
pub(super) fn deployments(db: &Connection) -> Result<Vec<(DeploymentRow, Option<WorkerRow>)>, Error> {
    let mut all = Vec::new();
    let mut of = db.prepare(&format!("{COLUMNS} WHERE name = ?1 AND version = ?2 AND removed_at IS NULL"))?;
    for deployment in deployed(db)? {
        let recipe = of.query_row(params![deployment.worker, deployment.version], row).optional()?;
        all.push((deployment, recipe));
    }
    Ok(all)
}

/// The registrations that present replicas were made from, also of versions before the one that was launched last.
pub(super) fn of_replicas(db: &Connection) -> Result<Vec<WorkerRow>, Error> {
    let mut statement = db.prepare(&format!(
        "{COLUMNS} WHERE (name, version) IN
           (SELECT worker, worker_version FROM jobs WHERE state IN (0, 1) AND queue = ?1)"
    ))?;
    let rows = statement.query_map([REPLICAS], row)?.collect::<rusqlite::Result<_>>()?;
    Ok(rows)
}

fn deployed(db: &Connection) -> Result<Vec<DeploymentRow>, Error> {
    let mut statement = db.prepare(
        "SELECT worker, version, replicas, machines, serving, changed_at, git_commit FROM deployments",
    )?;
    let rows = statement
        .query_map([], |r| {
            Ok(DeploymentRow {
                worker: r.get(0)?,
                version: r.get(1)?,
                replicas: r.get(2)?,
                on: serde_json::from_str(&r.get::<_, String>(3)?).unwrap_or_default(),
                serving: r.get(4)?,
                changed_at: r.get(5)?,
                commit: r.get(6)?,
            })
        })?
        .collect::<rusqlite::Result<_>>()?;
    Ok(rows)
}

/// One registration, also of a worker that was removed: jobs may have been made from it.
///
/// # Errors
/// From SQLite.
pub fn registration(db: &Connection, name: &str, version: u32) -> Result<Option<WorkerView>, Error> {
    let mut statement = db.prepare_cached(&format!("{COLUMNS} WHERE name = ?1 AND version = ?2"))?;
    Ok(statement.query_row(params![name, version], row).optional()?.map(|row| row.view()))
}
