//! Sets of jobs for bulk actions: light rows of many jobs, decided about one by one.
use crate::store::Error;
use crate::store::filter::{Asker, Rows, condition};
use crate::store::read::{state, substate};
use reeve_protocol::api::StateCounts;
use reeve_protocol::filter::Filter;
use reeve_protocol::{JobId, State, Substate};
use rusqlite::{Connection, params_from_iter};

/// What a bulk action looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The job.
    pub id: JobId,
    /// Whose it is.
    pub owner_uid: u32,
    /// Name or command.
    pub title: String,
    /// Its state.
    pub state: State,
    /// What it waits for.
    pub substate: Option<Substate>,
    /// Tasks per state, for arrays.
    pub tasks: Option<StateCounts>,
    /// Whether some of its tasks are held.
    pub some_held: bool,
}

/// Every job that matches, ascending.
///
/// # Errors
/// From SQLite, or a value that makes no sense.
pub fn candidates(conn: &Connection, filter: &Filter, asker: Asker) -> Result<Vec<Candidate>, Error> {
    let sql = condition(filter, Rows::Jobs, asker);
    let mut statement = conn.prepare(&format!(
        "SELECT j.id, j.owner_uid, j.title, j.state, j.substate, j.array_from IS NOT NULL, j.n_queued, j.n_running, \
         j.n_completed, j.n_failed, j.n_cancelled, coalesce(j.array_held, '[]') <> '[]' \
         FROM jobs AS j WHERE {} ORDER BY j.id",
        sql.text
    ))?;
    let mut rows = statement.query(params_from_iter(sql.values))?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let count = |at| row.get::<_, i64>(at).map(|n| n as u64);
        let tasks = StateCounts {
            queued: count(6)?,
            running: count(7)?,
            completed: count(8)?,
            failed: count(9)?,
            cancelled: count(10)?,
        };
        found.push(Candidate {
            id: row.get::<_, i64>(0)? as u64,
            owner_uid: row.get(1)?,
            title: row.get(2)?,
            state: state(row.get(3)?)?,
            substate: row.get::<_, Option<i64>>(4)?.map(substate).transpose()?,
            tasks: row.get::<_, bool>(5)?.then_some(tasks),
            some_held: row.get(11)?,
        });
    }
    Ok(found)
}

/// The ids of a queue's QUEUED jobs that match, ascending.
///
/// # Errors
/// From SQLite.
pub fn waiting_in(
    conn: &Connection,
    queue: &str,
    filter: &Filter,
    asker: Asker,
) -> Result<Vec<JobId>, Error> {
    let sql = condition(filter, Rows::Jobs, asker);
    let text = format!(
        "SELECT j.id FROM jobs AS j WHERE ({}) AND j.state = 0 AND j.queue = ? ORDER BY j.id",
        sql.text
    );
    let values = sql.values.into_iter().chain([queue.to_owned().into()]);
    let mut statement = conn.prepare(&text)?;
    let rows = statement.query_map(params_from_iter(values), |row| row.get::<_, i64>(0))?;
    Ok(rows.map(|id| id.map(|id| id as u64)).collect::<Result<_, _>>()?)
}
