//! Facts about queues, messages and routes as SQL; `facts` has the others.
use super::Error;
use super::facts::{Sql, json, one};
use crate::row::{MessageRow, QueueRow};
use reeve_protocol::api::Route;
use rusqlite::params;

/// What is remembered so that nothing is done twice is remembered for a week.
pub(super) fn forget(db: Sql<'_>, sql: &str, now: i64) -> Result<(), Error> {
    db.prepare_cached(sql)?.execute([now - 7 * 86_400_000])?;
    Ok(())
}

pub(super) fn routes_put(db: Sql<'_>, routes: &[Route]) -> Result<(), Error> {
    db.execute("DELETE FROM routes", [])?;
    for (position, route) in routes.iter().enumerate() {
        one(
            db,
            "INSERT INTO routes (position, name, labels, queues) VALUES (?1, ?2, ?3, ?4)",
            params![position, route.name, json(&route.labels)?, json(&route.queues)?],
        )?;
    }
    Ok(())
}

pub(super) fn queue_put(db: Sql<'_>, q: &QueueRow) -> Result<(), Error> {
    one(
        db,
        "INSERT INTO queues (name, kind, backend, paused, weight, \"limit\", max_len, owner_uid, owner, created_at, paused_by, paused_why, paused_at, ingress_uid, ingress, moving_from)
         VALUES (?1, ?2, ?10, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?11, ?12, ?13, ?14, ?15, ?16)
         ON CONFLICT (name) DO UPDATE SET kind = ?2, backend = ?10, paused = ?3, weight = ?4, \"limit\" = ?5, max_len = ?6,
           paused_by = ?11, paused_why = ?12, paused_at = ?13, ingress_uid = ?14, ingress = ?15, moving_from = ?16, generation = generation + 1",
        params![
            &*q.name,
            q.kind.as_str(),
            q.paused,
            q.weight,
            q.limit,
            q.max_len,
            q.owner_uid,
            &*q.owner,
            q.created_at,
            q.backend.as_str(),
            q.paused_by.as_ref().map(|p| &*p.by),
            q.paused_by.as_ref().and_then(|p| p.why.as_deref()),
            q.paused_by.as_ref().map(|p| p.at),
            q.ingress.as_ref().map(|i| i.0),
            q.ingress.as_ref().map(|i| &*i.1),
            q.moving_from.as_deref(),
        ],
    )
}

/// What has no row leaves no trace: without this a restart would give its number again.
pub(super) fn message_numbers_used(db: Sql<'_>, next: u64) -> Result<(), Error> {
    one(
        db,
        "INSERT INTO meta (key, value) VALUES ('next_message', ?1) ON CONFLICT (key) DO UPDATE SET value = ?1",
        params![next.to_string()],
    )
}

pub(super) fn message_added(db: Sql<'_>, m: &MessageRow) -> Result<(), Error> {
    one(
        db,
        "INSERT INTO messages (id, queue, owner_uid, owner, kind, body, headers, priority, published_at, run_at, expires_at, outgoing, dead, source,
           deliveries, lease, lease_until)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)",
        params![
            m.id,
            &*m.queue,
            m.owner_uid,
            &*m.owner,
            m.kind,
            &*m.body,
            &*m.headers,
            m.priority,
            m.published_at,
            m.run_at,
            m.expires_at,
            m.outgoing,
            m.dead,
            m.source,
            m.deliveries,
            m.lease.as_ref().map(|l| &l.0),
            m.lease.as_ref().map(|l| l.1)
        ],
    )
}
