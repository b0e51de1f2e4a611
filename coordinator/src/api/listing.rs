//! `list_jobs`: a page of the jobs that match.
use super::now;
use super::reply::{Answer, Failure, json};
use super::request::Cx;
use crate::store::filter::Asker;
use crate::store::query::list::{self, Cursor, Listing, Order, Source};
use reeve_protocol::api::List;
use reeve_protocol::filter;
use std::time::Duration;

/// Longest search.
pub(super) const SEARCH: Duration = Duration::from_secs(1);

/// `GET /v1/jobs`.
pub(super) async fn list_jobs(cx: Cx) -> Answer {
    let query = cx.query(&["filter", "order", "limit", "cursor", "tasks"])?;
    let text = query.text("filter").unwrap_or("").to_owned();
    let source = if query.flag("tasks")? { Source::Expanded } else { Source::Jobs };
    let order = Order::parse(query.text("order").unwrap_or(""))?;
    let listing = Listing {
        filter: filter::parse(&text)?,
        source,
        order,
        limit: query.number("limit", 1..=1000)?.unwrap_or(100),
        offset: 0,
        after: query.text("cursor").map(|c| Cursor::decode(c, &text, order, source)).transpose()?,
        asker: asker(&cx),
    };
    let read = move |conn: &rusqlite::Connection| {
        let (page, total) = list::page_and_total(conn, &listing, &text)?;
        Ok(List::new("JobList", page.items, page.next, total))
    };
    Ok(json(&cx.app.reads.scan(SEARCH, read).await?))
}

/// What `last`, `@name`, `since:` and `until:` of a filter are relative to.
pub(super) fn asker(cx: &Cx) -> Asker {
    Asker { uid: cx.caller.uid, now: now().0 }
}

/// A filter that a body carries.
pub(super) fn parse(text: &str) -> Result<filter::Filter, Failure> {
    Ok(filter::parse(text)?)
}
