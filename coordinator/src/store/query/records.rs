//! Records beside jobs: attempts and their output, events, messages, workers, plans.
use crate::input::Segment;
use crate::row::MessageRow;
use crate::store::Error;
use crate::store::read::json;
use reeve_protocol::JobId;
use reeve_protocol::api::{MessageView, Plan, PlanResult};
use reeve_protocol::time::Wall;
use rusqlite::{Connection, OptionalExtension, params};

/// An attempt as far as its output is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptOutput {
    /// The machine that holds it; `None` for consumers and outside callers.
    pub machine_id: Option<String>,
    /// Whether its end is recorded.
    pub ended: bool,
    /// Where its tape lies, when it is not in the store.
    pub segment: Option<Segment>,
}

/// The attempt, if it was ever dispatched.
///
/// # Errors
/// From SQLite.
pub fn attempt_output(
    conn: &Connection,
    job: JobId,
    index: i64,
    attempt: u32,
) -> Result<Option<AttemptOutput>, Error> {
    let mut statement = conn.prepare_cached(
        "SELECT machine_id, ended_at IS NOT NULL, out_seg, out_off, out_len FROM attempts \
         WHERE job = ?1 AND idx = ?2 AND attempt = ?3",
    )?;
    let found = statement.query_row(params![job as i64, index, attempt], |row| {
        let segment = match (row.get::<_, Option<i64>>(2)?, row.get::<_, Option<i64>>(3)?) {
            (Some(file), Some(offset)) => {
                Some(Segment { file: file as u64, offset: offset as u64, len: row.get::<_, i64>(4)? as u64 })
            }
            _ => None,
        };
        Ok(AttemptOutput { machine_id: row.get(0)?, ended: row.get(1)?, segment })
    });
    Ok(found.optional()?)
}

/// A tape that is small enough to lie in the store; empty when there was no output.
///
/// # Errors
/// From SQLite.
pub fn small_tape(conn: &Connection, job: JobId, index: i64, attempt: u32) -> Result<Vec<u8>, Error> {
    let mut statement =
        conn.prepare_cached("SELECT tape FROM outputs WHERE job = ?1 AND idx = ?2 AND attempt = ?3")?;
    Ok(statement
        .query_row(params![job as i64, index, attempt], |row| row.get(0))
        .optional()?
        .unwrap_or_default())
}

/// The oldest and the newest event kept; `(0, 0)` when there is none.
///
/// # Errors
/// From SQLite.
pub fn event_bounds(conn: &Connection) -> Result<(u64, u64), Error> {
    let mut statement = conn.prepare_cached(
        "SELECT coalesce((SELECT min(seq) FROM events), 0), coalesce((SELECT max(seq) FROM events), 0)",
    )?;
    Ok(statement.query_row([], |row| Ok((row.get::<_, i64>(0)? as u64, row.get::<_, i64>(1)? as u64)))?)
}

/// Events from `from` on, ascending, as the JSON they were stored as.
///
/// # Errors
/// From SQLite.
pub fn events(conn: &Connection, from: u64, limit: u32) -> Result<Vec<(u64, String)>, Error> {
    let mut statement =
        conn.prepare_cached("SELECT seq, body FROM events WHERE seq >= ?1 ORDER BY seq LIMIT ?2")?;
    let rows = statement
        .query_map(params![from as i64, limit], |row| Ok((row.get::<_, i64>(0)? as u64, row.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The event that a job was registered by, when it has one of its own.
///
/// # Errors
/// From SQLite.
pub fn first_event(conn: &Connection, job: JobId) -> Result<Option<u64>, Error> {
    let mut statement = conn.prepare_cached("SELECT min(seq) FROM events WHERE job = ?1")?;
    Ok(statement.query_row([job as i64], |row| row.get::<_, Option<i64>>(0))?.map(|seq| seq as u64))
}

/// A message without its lease: what `peek` shows to anybody.
///
/// # Errors
/// From SQLite, or a value that makes no sense.
pub fn message(conn: &Connection, id: u64) -> Result<Option<MessageView>, Error> {
    let mut statement = conn.prepare_cached(
        "SELECT queue, kind, body, headers, priority, deliveries, published_at, dead FROM messages WHERE id = ?1",
    )?;
    let mut rows = statement.query([id as i64])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let mut view = MessageView {
        id: id.to_string(),
        queue: row.get(0)?,
        headers: json(&row.get::<_, String>(3)?)?,
        priority: row.get(4)?,
        deliveries: row.get(5)?,
        published_at: Some(Wall(row.get(6)?)),
        dead: row.get(7)?,
        ..MessageView::default()
    };
    put_body(&mut view, row.get(1)?, &row.get::<_, Vec<u8>>(2)?)?;
    Ok(Some(view))
}

fn put_body(view: &mut MessageView, kind: u8, body: &[u8]) -> Result<(), Error> {
    let text = |body: &[u8]| String::from_utf8_lossy(body).into_owned();
    match kind {
        0 => view.body = Some(json(&text(body))?),
        1 => view.body_text = Some(text(body)),
        _ => view.body_base64 = Some(crate::store::query::base64::encode(body)),
    }
    Ok(())
}

/// A message that has no row, as shown.
///
/// # Errors
/// When its headers or body make no sense.
pub fn view_of(row: &MessageRow) -> Result<MessageView, Error> {
    let mut view = MessageView {
        id: row.id.to_string(),
        queue: row.queue.to_string(),
        headers: json(&row.headers)?,
        priority: row.priority,
        deliveries: row.deliveries,
        published_at: Some(Wall(row.published_at)),
        dead: row.dead.clone(),
        ..MessageView::default()
    };
    put_body(&mut view, row.kind, &row.body)?;
    Ok(view)
}

/// A message, whole: what its queue's broker gets.
///
/// # Errors
/// From SQLite.
pub fn message_row(conn: &Connection, id: u64) -> Result<Option<MessageRow>, Error> {
    let mut statement = conn.prepare_cached(
        "SELECT queue, owner_uid, owner, kind, body, headers, priority, published_at, run_at, expires_at, deliveries, dead, outgoing, source
         FROM messages WHERE id = ?1",
    )?;
    let row = statement.query_row([id as i64], |r| {
        Ok(MessageRow {
            id,
            queue: r.get::<_, String>(0)?.into(),
            owner_uid: r.get(1)?,
            owner: r.get::<_, String>(2)?.into(),
            kind: r.get(3)?,
            body: r.get::<_, Vec<u8>>(4)?.into(),
            headers: r.get::<_, String>(5)?.into(),
            priority: r.get(6)?,
            published_at: r.get(7)?,
            run_at: r.get(8)?,
            expires_at: r.get(9)?,
            deliveries: r.get(10)?,
            lease: None,
            dead: r.get(11)?,
            outgoing: r.get(12)?,
            source: r.get(13)?,
            key: None,
        })
    });
    Ok(row.optional()?)
}

/// A plan as it was stored.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredPlan {
    /// As shown.
    pub plan: Plan,
    /// The fixed set, as selectors.
    pub ids: Vec<String>,
    /// Wall milliseconds.
    pub created_at: i64,
    /// Who made it.
    pub owner_uid: u32,
    /// What came of it, once it was run.
    pub result: Option<PlanResult>,
    /// Whether it was run.
    pub ran: bool,
}

/// A plan.
///
/// # Errors
/// From SQLite, or a value that makes no sense.
pub fn plan(conn: &Connection, id: u64) -> Result<Option<StoredPlan>, Error> {
    let mut statement = conn.prepare_cached(
        "SELECT view, ids, created_at, owner_uid, result, ran_at IS NOT NULL FROM plans WHERE id = ?1",
    )?;
    let mut rows = statement.query([id as i64])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let mut plan: Plan = json(&row.get::<_, String>(0)?)?;
    plan.id = id;
    Ok(Some(StoredPlan {
        plan,
        ids: json(&row.get::<_, String>(1)?)?,
        created_at: row.get(2)?,
        owner_uid: row.get(3)?,
        result: row.get::<_, Option<String>>(4)?.and_then(|text| json(&text).ok()),
        ran: row.get(5)?,
    }))
}
