//! Views for consoles: a window of rows that stays up to date at a bounded rate. The first line has every row, later ones
//! what changed; nothing is sent when nothing changed, except a beat.
use super::listing::{SEARCH, asker, parse};
use super::reply::{Answer, Failure, NDJSON};
use super::request::Cx;
use super::select::no_such_job;
use super::stream::{FOLLOWER, Gone, Out, Shape, respond};
use super::{App, now};
use crate::store::query::list::{self, Listing, Order, Source};
use crate::store::read;
use reeve_protocol::api::{JobView, RowId, Total, ViewRequest, ViewUpdate};
use reeve_protocol::{Code, Problem};
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A line at least this often.
const BEAT: Duration = Duration::from_secs(5);
/// A reader that takes nothing for so long is cut: it sees stale rows anyway.
const PATIENCE: Duration = Duration::from_secs(10);
/// The pause after a search is at least this many times its length, so that a view of many jobs costs a few per cent of
/// a core and not all of it.
const REST: u32 = 25;

/// `POST /v1/views`.
pub(super) async fn views(cx: Cx) -> Answer {
    cx.query(&[])?;
    let (app, asker) = (cx.app.clone(), asker(&cx));
    let request: ViewRequest = cx.json().await?;
    let source = source(&request)?;
    if let Source::TasksOf(id) = source
        && app.reads.point(|conn| read::state_of(conn, id, None))?.is_none()
    {
        return Err(no_such_job(&id.to_string()));
    }
    if !(1..=500).contains(&request.limit) {
        return Err(Problem::new(
            Code::OutOfRange,
            format!("limit is {}; it must be between 1 and 500", request.limit),
        )
        .into());
    }
    let every = match request.every_ms {
        0 => 500,
        ms @ 100..=10_000 => ms,
        ms => {
            return Err(Problem::new(
                Code::OutOfRange,
                format!("every_ms is {ms}; it must be between 100 and 10000"),
            )
            .into());
        }
    };
    let listing = Listing {
        filter: parse(&request.filter)?,
        source,
        order: Order::parse(&request.order)?,
        limit: request.limit,
        offset: request.offset.min(i64::MAX as u64),
        after: None,
        asker,
    };
    let view = View {
        app: app.clone(),
        listing,
        every: Duration::from_millis(u64::from(every)),
        sent: Sent::default(),
    };
    let shape = Shape { media_type: NDJSON, size: FOLLOWER, patience: Some(PATIENCE) };
    Ok(respond(&app, &shape, |out| view.run(out)))
}

fn source(request: &ViewRequest) -> Result<Source, Failure> {
    match (request.of.as_str(), request.id) {
        ("jobs", None) => Ok(Source::Jobs),
        ("tasks", Some(id)) if i64::try_from(id).is_ok() => Ok(Source::TasksOf(id)),
        ("tasks", Some(id)) => Err(no_such_job(&id.to_string())),
        ("tasks", None) => {
            Err(Problem::new(Code::BadValue, "a view of tasks needs the id of their array").into())
        }
        ("jobs", Some(_)) => Err(Problem::new(Code::BadValue, "id belongs to a view of tasks").into()),
        _ => Err(Problem::new(Code::BadValue, "there are views of jobs and of tasks")
            .hint("\"of\": \"jobs\"")
            .into()),
    }
}

struct View {
    app: Arc<App>,
    listing: Listing,
    every: Duration,
    sent: Sent,
}

impl View {
    async fn run(mut self, out: Out) -> Result<(), Gone> {
        let mut seq = self.app.hub.seq();
        let mut first = true;
        loop {
            // Seen before the search: what is committed during it is searched for again.
            let now = *seq.borrow_and_update();
            let began = Instant::now();
            let (items, total) = match self.search().await {
                Ok(found) => found,
                Err(Failure(problem)) => {
                    tracing::debug!(%problem, "a view ended");
                    return Ok(());
                }
            };
            let rest = self.every.max((began.elapsed() * REST).min(BEAT));
            if let Some(update) = self.sent.update(items, total, now, first) {
                out.line(&update).await?;
                first = false;
            }
            tokio::time::sleep(rest).await;
            while tokio::time::timeout(BEAT, seq.changed()).await.is_err() {
                let seq = *seq.borrow();
                let beat = ViewUpdate {
                    kind: "beat".to_owned(),
                    seq,
                    total: self.sent.total,
                    order: None,
                    rows: Vec::new(),
                };
                out.line(&beat).await?;
            }
        }
    }

    async fn search(&self) -> Result<(Vec<JobView>, Total), Failure> {
        let mut listing = self.listing.clone();
        listing.asker.now = now().0;
        let search = move |conn: &rusqlite::Connection| {
            let (page, total) = list::page_and_total(conn, &listing, "")?;
            Ok((page.items, total))
        };
        Ok(self.app.reads.scan(SEARCH, search).await?)
    }
}

/// What the reader has.
struct Sent {
    order: Vec<RowId>,
    rows: HashMap<RowId, u64>,
    total: Total,
}

impl Default for Sent {
    fn default() -> Self {
        Self { order: Vec::new(), rows: HashMap::new(), total: Total { value: 0, exact: true } }
    }
}

impl Sent {
    /// What has to be sent so that the reader has these rows; `None` when it has them.
    fn update(&mut self, items: Vec<JobView>, total: Total, seq: u64, first: bool) -> Option<ViewUpdate> {
        let order: Vec<RowId> = items.iter().map(|row| (row.id, row.index)).collect();
        let mut rows = HashMap::with_capacity(items.len());
        let mut changed = Vec::new();
        for row in items {
            let hash = fingerprint(&row);
            rows.insert((row.id, row.index), hash);
            if first || self.rows.get(&(row.id, row.index)) != Some(&hash) {
                changed.push(row);
            }
        }
        let same = !first && changed.is_empty() && order == self.order && total == self.total;
        (self.order, self.rows, self.total) = (order, rows, total);
        (!same).then(|| ViewUpdate {
            kind: if first { "snapshot" } else { "diff" }.to_owned(),
            seq,
            total,
            order: Some(self.order.clone()),
            rows: changed,
        })
    }
}

fn fingerprint(row: &JobView) -> u64 {
    let mut hasher = DefaultHasher::new();
    serde_json::to_string(row).unwrap_or_default().hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
#[path = "views_test.rs"]
mod tests;
