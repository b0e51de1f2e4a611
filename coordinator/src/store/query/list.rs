//! Pages of jobs: filter, order, cursor, window and the number of all that match.
use super::{Detail, job_view, task_view};
use crate::store::Error;
use crate::store::filter::{Asker, Rows, Sql, condition};
use crate::store::read::is_interrupted;
use reeve_protocol::api::{JobView, Total};
use reeve_protocol::filter::Filter;
use reeve_protocol::{Code, JobId, Problem};
use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};
use serde::{Deserialize, Serialize};

/// The count is exact up to here; beyond, the scan would cost more than the answer is worth.
const EXACT: u64 = 100_000;

/// What the rows are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// Jobs; an array is one row.
    Jobs,
    /// Jobs that are no arrays, and the dispatched tasks of arrays.
    Expanded,
    /// The dispatched tasks of one array.
    TasksOf(JobId),
}

/// The column a list is sorted by; ids break ties in the same direction, so that a cursor is one comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    key: Key,
    descending: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Key {
    /// Also the order of creation: both are minted together and never decrease.
    Id,
    Priority,
    Name,
    Queue,
}

impl Order {
    /// The words accepted, each also with `-` before it.
    pub const WORDS: [&'static str; 5] = ["id", "created", "priority", "name", "queue"];

    /// Parses a word; empty means newest first.
    ///
    /// # Errors
    /// `bad-value` with the words.
    pub fn parse(word: &str) -> Result<Self, Problem> {
        let (descending, name) = word.strip_prefix('-').map_or((false, word), |rest| (true, rest));
        let key = match name {
            "" if !descending => return Ok(Self { key: Key::Id, descending: true }),
            "id" | "created" => Key::Id,
            "priority" => Key::Priority,
            "name" => Key::Name,
            "queue" => Key::Queue,
            _ => {
                let short = reeve_protocol::text::Clean::short(word, 40);
                let problem = Problem::new(Code::BadValue, format!("there is no order {:?}", short.as_str()));
                return Err(
                    problem.hint(format!("orders: {}, each also with - before it", Self::WORDS.join(", ")))
                );
            }
        };
        Ok(Self { key, descending })
    }

    const fn column(self) -> &'static str {
        match self.key {
            Key::Id => "j.id",
            Key::Priority => "j.priority",
            Key::Name => "j.title",
            Key::Queue => "j.queue",
        }
    }
}

/// What a list is asked for.
#[derive(Clone, Debug)]
pub struct Listing {
    /// What must hold.
    pub filter: Filter,
    /// What the rows are.
    pub source: Source,
    /// How they are sorted.
    pub order: Order,
    /// Rows at most.
    pub limit: u32,
    /// Rows left out at the top.
    pub offset: u64,
    /// Only what comes after this.
    pub after: Option<Cursor>,
    /// Who asks, and when.
    pub asker: Asker,
}

/// The last row of a page; opaque to callers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cursor {
    order: Order,
    source: Source,
    key: Place,
    id: i64,
    index: i64,
    /// Of the filter's text: a cursor fits one list only.
    filter: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Place {
    Number(i64),
    Text(String),
}

impl Cursor {
    /// As callers see it.
    pub fn encode(&self) -> String {
        let bytes = serde_json::to_vec(self).unwrap_or_default();
        bytes
            .iter()
            .flat_map(|b| [b >> 4, b & 15])
            .filter_map(|n| char::from_digit(u32::from(n), 16))
            .collect()
    }

    /// Reads a cursor back, for the list that it was made for.
    ///
    /// # Errors
    /// `bad-cursor`.
    pub fn decode(text: &str, filter: &str, order: Order, source: Source) -> Result<Self, Problem> {
        let digits: Option<Vec<u8>> = text.chars().map(|c| c.to_digit(16).map(|d| d as u8)).collect();
        let bytes: Vec<u8> = digits
            .unwrap_or_default()
            .chunks(2)
            .map(|pair| pair.iter().fold(0, |all, d| all << 4 | d))
            .collect();
        serde_json::from_slice(&bytes)
            .ok()
            .filter(|c: &Self| c.order == order && c.source == source && c.filter == fingerprint(filter))
            .ok_or_else(|| {
                Problem::new(Code::BadCursor, "the cursor belongs to another list")
                    .hint("use `next` of the answer with the same filter, order and tasks; without a cursor the list starts anew")
            })
    }
}

fn fingerprint(filter: &str) -> String {
    let mut hash = reeve_protocol::token::sha256_hex(filter.as_bytes());
    hash.truncate(16);
    hash
}

/// Rows with their number, and the cursor of the next page.
#[derive(Debug)]
pub struct Page {
    /// The rows, without attempts.
    pub items: Vec<JobView>,
    /// Where the next page starts.
    pub next: Option<String>,
}

/// Reads one page. `filter` is the filter's text, for the cursor.
///
/// The rows are picked by their keys alone and read one by one afterwards: what is sorted stays small, however many match
/// and however large their specs are.
///
/// # Errors
/// From SQLite, or a value that makes no sense.
pub fn page(conn: &Connection, listing: &Listing, filter: &str) -> Result<Page, Error> {
    let mut picked = pick(conn, listing)?;
    // One row more than asked for tells whether there is a next page.
    let more = picked.len() > listing.limit as usize;
    picked.truncate(listing.limit as usize);
    let mut items = Vec::with_capacity(picked.len());
    for (_, id, index) in &picked {
        items.extend(match u32::try_from(*index) {
            Ok(index) => task_view(conn, *id as u64, index, Detail::Row)?,
            Err(_) => job_view(conn, *id as u64, Detail::Row)?,
        });
    }
    let next = picked.pop().filter(|_| more).map(|(key, id, index)| {
        let Listing { order, source, .. } = *listing;
        Cursor { order, source, key, id, index, filter: fingerprint(filter) }.encode()
    });
    Ok(Page { items, next })
}

/// The sort keys, ids and indices of a page, and of the row after it.
fn pick(conn: &Connection, listing: &Listing) -> Result<Vec<(Place, i64, i64)>, Error> {
    let sql = select(listing);
    let mut statement = conn.prepare(&sql.text)?;
    let mut rows = statement.query(params_from_iter(sql.values))?;
    let mut picked = Vec::new();
    while let Some(row) = rows.next()? {
        let key = match row.get(0)? {
            Value::Integer(n) => Place::Number(n),
            Value::Text(text) => Place::Text(text),
            other => return Err(Error::Value(format!("{other:?} in an ordered column"))),
        };
        picked.push((key, row.get(1)?, row.get(2)?));
    }
    Ok(picked)
}

/// A page and how many rows the whole list has, wherever in it the page lies. A count that takes too long must not cost
/// the page, which is there already: it is then only a lower bound.
///
/// # Errors
/// As [`page`].
pub fn page_and_total(conn: &Connection, listing: &Listing, filter: &str) -> Result<(Page, Total), Error> {
    let page = page(conn, listing, filter)?;
    let total = match total(conn, &Listing { after: None, ..listing.clone() }) {
        Err(error) if is_interrupted(&error) => {
            Total { value: listing.offset + page.items.len() as u64, exact: false }
        }
        total => total?,
    };
    Ok((page, total))
}

/// How many rows match, counted up to a bound.
///
/// # Errors
/// From SQLite.
pub fn total(conn: &Connection, listing: &Listing) -> Result<Total, Error> {
    let mut sql = Sql::default();
    sql.push("SELECT count(*) FROM (");
    each_part(listing, &mut sql, |_, sql| {
        sql.push("1");
    });
    sql.push(&format!(" LIMIT {})", EXACT + 1));
    let mut statement = conn.prepare(&sql.text)?;
    let count = statement.query_row(params_from_iter(sql.values), |r| r.get::<_, i64>(0))? as u64;
    Ok(Total { value: count.min(EXACT), exact: count <= EXACT })
}

fn select(listing: &Listing) -> Sql {
    let mut sql = Sql::default();
    let key = listing.order.column();
    each_part(listing, &mut sql, |rows, sql| {
        sql.push(&format!("{key} AS sort, j.id AS sid, {} AS idx", rows.index()));
    });
    let direction = if listing.order.descending { "DESC" } else { "ASC" };
    sql.push(&format!(" ORDER BY sort {direction}, sid {direction}, idx {direction} LIMIT ? OFFSET ?"));
    sql.bind(i64::from(listing.limit) + 1).bind(listing.offset as i64);
    sql
}

/// Writes `SELECT .. FROM .. WHERE ..` for each kind of row that the list has.
fn each_part(listing: &Listing, sql: &mut Sql, mut select: impl FnMut(Rows, &mut Sql)) {
    let parts: &[(Rows, &str)] = match listing.source {
        Source::Jobs => &[(Rows::Jobs, "")],
        Source::Expanded => &[(Rows::Jobs, " AND j.array_from IS NULL"), (Rows::Tasks, "")],
        Source::TasksOf(_) => &[(Rows::Tasks, " AND t.job = ?")],
    };
    for (at, (rows, also)) in parts.iter().enumerate() {
        sql.push(if at > 0 { " UNION ALL SELECT " } else { "SELECT " });
        select(*rows, sql);
        sql.push(match rows {
            Rows::Jobs => " FROM jobs AS j WHERE ",
            Rows::Tasks => " FROM tasks AS t JOIN jobs AS j ON j.id = t.job WHERE ",
        });
        let condition = condition(&listing.filter, *rows, listing.asker);
        sql.push(&condition.text).values.extend(condition.values);
        sql.push(also);
        if let Source::TasksOf(id) = listing.source {
            sql.bind(id as i64);
        }
        if let Some(after) = &listing.after {
            behind(after, *rows, sql);
        }
    }
}

fn behind(after: &Cursor, rows: Rows, sql: &mut Sql) {
    let sign = if after.order.descending { '<' } else { '>' };
    if after.order.key == Key::Id {
        // A row value does not use the index when one of its columns is a constant: the first column is said again.
        sql.push(&format!(" AND j.id {sign}= ?")).bind(after.id);
    }
    sql.push(&format!(" AND ({}, j.id, {}) {sign} (?, ?, ?)", after.order.column(), rows.index()));
    match &after.key {
        Place::Number(n) => sql.bind(*n),
        Place::Text(text) => sql.bind(text.clone()),
    };
    sql.bind(after.id).bind(after.index);
}
