//! `reeve events`, `stats`, `status` and `whoami`: the cluster as a whole.
use super::context::Context;
use super::error::{Error, note};
use super::select::with_query;
use super::table::Table;
use super::wait::{interruptible, is_away, patient};
use super::{list, queue};
use crate::client::NDJSON;
use hyper::Method;
use reeve_protocol::api::{AuditEntry, Event, Health, List, Stats, WhoAmI};
use reeve_protocol::text::Clean;
use reeve_protocol::units::{show_bytes, show_count, show_duration};
use reeve_protocol::{Code, Problem};
use std::fmt::Write as _;

/// What happened.
#[derive(Debug, clap::Args)]
pub struct Events {
    /// Go on with what happens
    #[arg(long, short)]
    pub follow: bool,
    /// From this number on
    #[arg(long, value_name = "SEQ")]
    pub from: Option<u64>,
}

/// Who asked for what.
#[derive(Debug, clap::Args)]
pub struct Audit {
    /// From this line on, instead of the newest
    #[arg(long, value_name = "SEQ")]
    pub from: Option<u64>,
    /// At most so many lines
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub limit: u32,
}

/// Runs `reeve audit`.
pub async fn audit(given: Audit, context: &mut Context) -> Result<(), Error> {
    let (from, limit) = (given.from.map(|from| from.to_string()), given.limit.to_string());
    let mut query = vec![("limit", limit.as_str())];
    query.extend(from.as_deref().map(|from| ("from", from)));
    let path = with_query("/v1/audit", &query);
    let Some(list) = context.get::<List<AuditEntry>>(&path).await? else { return Ok(()) };
    context.table(&audit_table(&list.items))
}

fn audit_table(entries: &[AuditEntry]) -> Table {
    let mut table = Table::new(&[">SEQ", "AT", "WHO", "VIA", "CALL", "OBJECT", "DECISION", "REQUEST"]);
    for entry in entries {
        let decision = match (&entry.refused, entry.unwritten) {
            (None, _) => "done".to_owned(),
            (Some(code), 0) => format!("refused: {code}"),
            (Some(code), n) => format!("refused: {code} (and {n} before)"),
        };
        let who = entry.uid.map_or_else(|| entry.name.clone(), |uid| format!("{} ({uid})", entry.name));
        let request = entry.request.clone().unwrap_or_default();
        table.row(
            [
                entry.seq.to_string(),
                entry.at.local_date(),
                who,
                entry.via.clone(),
                entry.call.clone(),
                entry.object.clone(),
                decision,
                request,
            ]
            .map(Into::into),
        );
    }
    table
}

/// Runs `reeve events`.
pub async fn run(events: Events, context: &mut Context) -> Result<(), Error> {
    let client = context.client()?;
    let from = match events.from {
        Some(from) => from,
        // A follower without a start wants what comes, after a few for the eye.
        None if events.follow => client.get::<Health>("/v1/health").await?.seq.saturating_sub(9).max(1),
        None => 1,
    };
    let work = async {
        let mut next = from;
        loop {
            match stream(&mut next, events.follow, context).await {
                Err(Error::Problem(problem))
                    if events.follow && client.has_answered() && is_away(&problem) =>
                {
                    note(format!("note: the connection was lost; going on from {next}"));
                    patient(&client, "/v1/health").await?;
                }
                other => return other,
            }
        }
    };
    if !events.follow {
        return work.await;
    }
    match interruptible("", work).await {
        // Nothing was waited for.
        Err(Error::Exit(130)) => Err(Error::Exit(130)),
        other => other,
    }
}

async fn stream(next: &mut u64, follow: bool, context: &mut Context) -> Result<(), Error> {
    let client = context.client()?;
    let from = next.to_string();
    let mut query = vec![("from", from.as_str())];
    query.extend(follow.then_some(("follow", "true")));
    let mut lines = client.lines(Method::GET, &with_query("/v1/events", &query), None, NDJSON).await?;
    while let Some(line) = lines.next().await {
        let line = line?;
        let event: Event = serde_json::from_slice(&line)
            .map_err(|e| Problem::new(Code::Internal, format!("an event is not what was expected: {e}")))?;
        *next = event.seq + 1;
        if context.json {
            context.raw(&line)?;
            context.raw(b"\n")?;
        } else {
            context.line(words(&event))?;
        }
        if follow {
            context.flush()?;
        }
    }
    Ok(())
}

/// `919 12:00:01 job 7 QUEUED -> RUNNING (preparing) by agent:gpu-07`.
fn words(event: &Event) -> String {
    let mut text = format!("{} {} {}", event.seq, event.at.local_clock(), event.kind);
    if let Some(id) = event.id {
        // Writing into a string cannot fail.
        _ = write!(text, " {id}");
        if let Some(tasks) = event.index.map(|i| i.to_string()).or_else(|| event.indices.clone()) {
            _ = write!(text, ".{tasks}");
        }
        if let Some(count) = event.count.filter(|count| *count > 1 && event.indices.is_none()) {
            _ = write!(text, "-{}", id + count - 1);
        }
    }
    let change = match (event.from, event.to) {
        (Some(from), Some(to)) => format!("{from} -> {to}"),
        (None, Some(to)) => to.to_string(),
        _ => String::new(),
    };
    let words = [event.subject.as_deref(), event.what.as_deref(), Some(&change)];
    for word in words.into_iter().flatten().filter(|word| !word.is_empty()) {
        _ = write!(text, " {word}");
    }
    if let Some(count) = event.count.filter(|count| *count > 1 && event.id.is_none()) {
        _ = write!(text, " {} times", show_count(count));
    }
    if let Some(substate) = event.substate {
        _ = write!(text, " ({substate})");
    }
    if let Some(cause) = &event.cause {
        _ = write!(text, ": {cause}");
    }
    Clean::line(&format!("{text} by {}", event.actor)).into_string()
}

/// Runs `reeve stats`.
pub async fn stats(context: &mut Context) -> Result<(), Error> {
    let Some(stats) = context.get::<Stats>("/v1/stats").await? else { return Ok(()) };
    context.line(format!("jobs     {}", list::counts(&stats.counts, stats.counts.total())))?;
    let words = |map: &std::collections::BTreeMap<String, u64>| {
        map.iter()
            .map(|(what, n)| format!("{} {}", show_count(*n), Clean::line(what)))
            .collect::<Vec<_>>()
            .join(", ")
    };
    for (key, map) in [("waiting", &stats.waiting), ("machines", &stats.machines), ("ends", &stats.causes)] {
        if !map.is_empty() {
            context.line(format!("{key:<8} {}", words(map)))?;
        }
    }
    let cpus = |milli: u64| milli as f64 / 1000.0;
    context.line(format!(
        "cpus     {}/{} reserved, memory {}/{}",
        cpus(stats.cpu_milli_used),
        cpus(stats.cpu_milli_total),
        show_bytes(stats.memory_used),
        show_bytes(stats.memory_total)
    ))?;
    context.line(format!("changes  {:.1}/s", stats.changes_per_s))?;
    for alert in &stats.alerts {
        context.line(format!("alert    {}: {}", Clean::line(&alert.subject), Clean::line(&alert.text)))?;
    }
    if stats.queues.is_empty() {
        return Ok(());
    }
    context.line("")?;
    context.table(&queue::table(&stats.queues))
}

/// Runs `reeve status`.
pub async fn status(context: &mut Context) -> Result<(), Error> {
    let host = context.client()?.host().to_string();
    let Some(health) = context.get::<Health>("/v1/health").await? else { return Ok(()) };
    let facts = [
        ("status", health.status.clone()),
        ("because", health.reasons.join("; ")),
        ("host", host),
        ("version", format!("{} (this is {})", health.version, reeve_protocol::VERSION)),
        ("cluster", health.cluster),
        ("agents", health.listen),
        ("directory", health.dir),
        ("process", format!("{}, up {}", health.pid, show_duration(health.uptime_s))),
        (
            "store",
            format!("{}, event {}, start {}", show_bytes(health.store_bytes), health.seq, health.epoch),
        ),
        ("output", show_bytes(health.output_bytes)),
    ];
    for (key, value) in facts.iter().filter(|(_, value)| !value.is_empty()) {
        context.line(format!("{key:<10} {}", Clean::line(value)))?;
    }
    if health.status == "ok" { Ok(()) } else { Err(Error::Exit(1)) }
}

/// Runs `reeve whoami`.
pub async fn whoami(context: &mut Context) -> Result<(), Error> {
    let Some(who) = context.get::<WhoAmI>("/v1/whoami").await? else { return Ok(()) };
    context.line(format!("{} (uid {}, {})", Clean::line(&who.name), who.uid, Clean::line(&who.role)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn said(value: serde_json::Value) -> String {
        let text = words(&serde_json::from_value(value).unwrap());
        // The clock is of the local zone.
        let mut parts: Vec<&str> = text.split(' ').collect();
        parts.remove(1);
        parts.join(" ")
    }

    #[test]
    fn events_read_as_sentences() {
        let at = "2026-11-24T10:00:00Z";
        for (event, wanted) in [
            (
                json!({"seq": 919, "at": at, "kind": "job", "id": 7, "from": "QUEUED", "to": "RUNNING", "substate": "preparing", "actor": "agent:gpu-07"}),
                "919 job 7 QUEUED -> RUNNING (preparing) by agent:gpu-07",
            ),
            (
                json!({"seq": 1, "at": at, "kind": "job", "id": 7, "count": 3, "to": "QUEUED", "actor": "user:ana"}),
                "1 job 7-9 QUEUED by user:ana",
            ),
            (
                json!({"seq": 2, "at": at, "kind": "job", "id": 7, "indices": "1-4", "count": 4, "from": "RUNNING", "to": "FAILED", "cause": {"kind": "exit", "code": 3}, "actor": "a"}),
                "2 job 7.1-4 RUNNING -> FAILED: exit 3 by a",
            ),
            (
                json!({"seq": 3, "at": at, "kind": "queue", "subject": "q\u{1b}", "what": "paused", "actor": "user:ana"}),
                "3 queue q\u{241b} paused by user:ana",
            ),
        ] {
            assert_eq!(said(event), wanted);
        }
    }
}
