//! A machine as a row. Written whole: what it is, whether it may get work, and which certificates open its session.
use super::Error;
use super::facts::{Sql, json, one};
use crate::row::MachineRow;
use rusqlite::params;

/// Writes a machine's row, new or changed. A removal is never taken back.
///
/// # Errors
/// From SQLite, or [`Error::Rows`].
pub(super) fn put(db: Sql<'_>, m: &MachineRow) -> Result<(), Error> {
    let now = crate::clock::now().wall;
    one(
        db,
        "INSERT INTO machines (id, name, fingerprint, info, cordoned, joined_at, seen_at, life, keeper, revoked_at, owner,
           certificate_until, spares, renewal_failed_at, renewal_error, draining, drain_until)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, '', ?11, ?12, ?13, ?14, ?15, ?16)
         ON CONFLICT (id) DO UPDATE SET name = ?2, fingerprint = ?3, info = ?4, cordoned = ?5, seen_at = ?7, life = ?8, keeper = ?9,
           revoked_at = coalesce(revoked_at, ?10), certificate_until = ?11, spares = ?12, renewal_failed_at = ?13, renewal_error = ?14,
           draining = ?15, drain_until = ?16",
        params![
            m.id,
            &*m.name,
            m.fingerprint,
            m.info,
            m.cordoned,
            m.joined_at,
            now,
            m.life,
            m.keeper,
            m.revoked.then_some(now),
            m.certificate_until,
            json(&m.spares)?,
            m.renewal_failed.as_ref().map(|f| f.0),
            m.renewal_failed.as_ref().map(|f| &f.1),
            m.draining,
            m.drain_until
        ],
    )
}
