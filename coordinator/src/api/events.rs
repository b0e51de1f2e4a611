//! The event stream: from any number on, without a gap, first out of the store and then as it happens.
use super::App;
use super::reply::{Answer, Failure, NDJSON, json};
use super::request::Cx;
use super::stream::{FOLLOWER, Gone, Out, Shape, respond};
use crate::store::audit;
use crate::store::query::records;
use reeve_protocol::api::{Event, List, Total};
use reeve_protocol::{Code, Problem};
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

/// Events read from the store at once.
const PAGE: u32 = 1000;
/// A comment after so much silence keeps proxies from ending an event stream.
const SILENCE: Duration = Duration::from_secs(15);
/// Lines of the audit in one answer, unless more are asked for.
const AUDIT_PAGE: u32 = 100;
const SSE: &str = "text/event-stream";

/// `GET /v1/events`.
pub(super) async fn events(cx: Cx) -> Answer {
    let query = cx.query(&["from", "follow"])?;
    let follow = query.flag("follow")?;
    let sse = cx.accepts(SSE);
    let asked = match query.number("from", 0..=i64::MAX as u64)? {
        Some(from) => Some(from),
        // A browser that reconnects names the last event it has seen.
        None => cx
            .parts
            .headers
            .get("last-event-id")
            .and_then(|id| id.to_str().ok()?.parse::<u64>().ok())
            .filter(|id| *id < i64::MAX as u64)
            .map(|id| id + 1),
    };
    // Followed before the store is looked at, so that nothing falls between.
    let live = cx.app.hub.follow();
    let (oldest, newest) = cx.app.reads.point(records::event_bounds)?;
    let next = match asked {
        Some(from) if from > 0 && from < oldest => return Err(pruned(from, oldest)),
        Some(from) => from.max(oldest),
        None if follow => newest + 1,
        None => oldest,
    };
    let work = Follower { app: cx.app.clone(), next, sse };
    let media_type = if sse { SSE } else { NDJSON };
    let shape = Shape { media_type, size: FOLLOWER, patience: None };
    Ok(respond(&cx.app, &shape, |out| work.run(follow.then_some(live), out)))
}

/// `GET /v1/audit`: a page, oldest first; `next` is the number to go on from, and is there even when nothing is yet.
pub(super) async fn audit(cx: Cx) -> Answer {
    let query = cx.query(&["from", "limit"])?;
    let from = query.number("from", 1..=i64::MAX as u64)?;
    let limit = query.number("limit", 1..=PAGE)?.unwrap_or(AUDIT_PAGE);
    let (entries, head) =
        cx.app.reads.point(|conn| Ok((audit::page(conn, from, limit)?, audit::head(conn)?)))?;
    let next = entries.last().map_or(head.seq, |entry| entry.seq) + 1;
    let total = Total { value: head.seq, exact: true };
    Ok(json(&List::new("AuditList", entries, Some(next.to_string()), total)))
}

fn pruned(from: u64, oldest: u64) -> Failure {
    let problem =
        Problem::new(Code::Pruned, format!("event {from} is no longer kept; the oldest is {oldest}"));
    problem.hint(format!("ask from={oldest}, or read the present state first: GET /v1/jobs")).into()
}

struct Follower {
    app: Arc<App>,
    /// The next event to send.
    next: u64,
    sse: bool,
}

impl Follower {
    async fn run(mut self, live: Option<Receiver<Arc<[Event]>>>, out: Out) -> Result<(), Gone> {
        self.replay(&out).await?;
        let Some(mut live) = live else { return Ok(()) };
        loop {
            match tokio::time::timeout(SILENCE, live.recv()).await {
                Ok(Ok(step)) => self.step(&step, &out).await?,
                Ok(Err(RecvError::Lagged(_))) => self.replay(&out).await?,
                Ok(Err(RecvError::Closed)) => return Ok(()),
                Err(_) if self.sse => out.send(": nothing new\n\n").await?,
                Err(_) => {}
            }
        }
    }

    /// A step as it was committed. What the store has given already is left out; when something is missing before it,
    /// the store has it.
    async fn step(&mut self, step: &[Event], out: &Out) -> Result<(), Gone> {
        let Some(first) = step.iter().find(|event| event.seq >= self.next) else { return Ok(()) };
        if first.seq > self.next && step.first().is_some_and(|event| event.seq > self.next) {
            return self.replay(out).await;
        }
        let mut text = String::new();
        for event in step.iter().filter(|event| event.seq >= self.next) {
            let body = serde_json::to_string(event).map_err(|_| Gone)?;
            self.write(event.seq, &body, &mut text);
        }
        self.next = step.last().map_or(self.next, |event| event.seq + 1);
        out.send(text).await
    }

    /// Everything the store has from `next` on.
    async fn replay(&mut self, out: &Out) -> Result<(), Gone> {
        loop {
            let page = match self.app.reads.point(|conn| records::events(conn, self.next, PAGE)) {
                Ok(page) => page,
                Err(error) => {
                    tracing::error!(%error, "events could not be read");
                    return Err(Gone);
                }
            };
            let Some((last, _)) = page.last() else { return Ok(()) };
            let after = last + 1;
            let mut text = String::new();
            for (seq, body) in &page {
                self.write(*seq, body, &mut text);
            }
            self.next = after;
            out.send(text).await?;
            // A long history must not keep this thread from everybody else.
            tokio::task::yield_now().await;
        }
    }

    fn write(&self, seq: u64, body: &str, out: &mut String) {
        // Writing into a string does not fail.
        let _ = if self.sse { write!(out, "id: {seq}\ndata: {body}\n\n") } else { writeln!(out, "{body}") };
    }
}
