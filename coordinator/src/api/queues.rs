//! Queues: `publish`, `receive_message`, `clean_queue`, `count_queue_messages`, the three ways to settle, and settings.
use super::App;
use super::jobs::{check_size, view};
use super::listing::{SEARCH, asker, parse};
use super::reply::{Answer, Failure, json, json_with, missing, unexpected};
use super::request::{Cx, millis};
use crate::effect::Reply;
use crate::input::{Call, Settle};
use crate::orchestrator::link::Incoming;
use crate::row::{Backend, Caller, MessageRow, QueueKind};
use crate::store::filter::Asker;
use crate::store::query::{messages, records, sets};
use axum::http::StatusCode;
use reeve_protocol::api::{
    CleanRequest, Delivery, JobDelivery, LeaseRequest, List, MessageView, MigrateRequest, MoveRequest, Moved,
    PauseRequest, QueueSettings, QueueView, ReceiveRequest, Received, SettledMany, Total,
};
use reeve_protocol::spec_check::check_name;
use reeve_protocol::time::Wall;
use reeve_protocol::{Code, Problem};
use serde_json::json;
use std::sync::Arc;

/// Leases in one request.
const LEASES: usize = 1000;
/// Longest delay or life of a message: the same ten years as everywhere.
pub(super) const YEARS: f64 = 315_360_000.0;

/// `GET /v1/queues`.
pub(super) async fn list(cx: Cx) -> Answer {
    cx.query(&[])?;
    let queues = all(&cx.app, &cx.caller).await?;
    let total = Total { value: queues.len() as u64, exact: true };
    Ok(json(&List::new("QueueList", queues, None, total)))
}

/// `GET /v1/queues/{queue}`.
pub(super) async fn show(cx: Cx) -> Answer {
    cx.query(&[])?;
    let queues = all(&cx.app, &cx.caller).await?;
    match queues.iter().find(|q| q.name == cx.param(0)) {
        Some(queue) => Ok(json(queue)),
        None => {
            Err(missing(Code::UnknownQueue, "queue", cx.param(0), queues.iter().map(|q| q.name.as_str())))
        }
    }
}

async fn all(app: &App, caller: &Caller) -> Result<Vec<QueueView>, Failure> {
    match app.ask(caller, Call::ListQueues).await? {
        Reply::Queues(queues) => Ok(queues),
        other => Err(unexpected(&other)),
    }
}

/// `PUT /v1/queues/{queue}`.
pub(super) async fn set(cx: Cx) -> Answer {
    let (app, caller, queue) = begin(&cx)?;
    let settings: QueueSettings = cx.json_or_default().await?;
    if let Some(backend) = &settings.backend {
        try_backend(&app, &caller, &queue, backend, settings.kind.as_deref()).await?;
    }
    let ingress_uid = settings.ingress.as_deref().map_or(Ok(None), |word| ingress_user(&caller, word))?;
    one_queue(app.ask(&caller, Call::SetQueue { queue, settings, ingress_uid }).await?)
}

/// Whose jobs messages of other programs are to become: the caller's own, or anybody's if root asks.
fn ingress_user(caller: &Caller, word: &str) -> Result<Option<u32>, Failure> {
    if word == "off" {
        return Ok(None);
    }
    let wrong = |text: String| Problem::new(Code::BadValue, text).hint("write as=USER, or off");
    let name = word.strip_prefix("as=").ok_or_else(|| wrong(format!("ingress {word:?} is not known")))?;
    check_name("user", name)?;
    let user = nix::unistd::User::from_name(name).ok().flatten();
    let uid = user.ok_or_else(|| wrong(format!("there is no user {name} here")))?.uid.as_raw();
    if caller.uid != 0 && uid != caller.uid {
        return Err(Problem::new(Code::SingleUser, format!("{} may not make jobs of {name}", caller.name))
            .hint("name yourself, or let root do it")
            .into());
    }
    Ok(Some(uid))
}

/// A broker is tried before a queue is kept there: what is wrong with it is said to whoever can mend it.
async fn try_backend(
    app: &App,
    caller: &Caller,
    queue: &str,
    backend: &str,
    kind: Option<&str>,
) -> Result<(), Failure> {
    if Backend::of(backend).broker().is_none() {
        return Ok(());
    }
    let queues = all(app, caller).await?;
    let known = queues.iter().find(|q| q.name == queue).map(|q| q.kind.as_str());
    let kind = kind.or(known).and_then(QueueKind::parse).unwrap_or(QueueKind::Unset);
    Ok(app.backends.probe(backend, queue, kind).await?)
}

/// `POST /v1/queues/{queue}/migrate`.
pub(super) async fn migrate(cx: Cx) -> Answer {
    let (app, caller, queue) = begin(&cx)?;
    let MigrateRequest { to } = cx.json().await?;
    try_backend(&app, &caller, &queue, &to, None).await?;
    one_queue(app.ask(&caller, Call::MigrateQueue { queue, to }).await?)
}

/// `POST /v1/queues/{queue}/pause`.
pub(super) async fn pause(cx: Cx) -> Answer {
    set_paused(cx, true).await
}

/// `POST /v1/queues/{queue}/resume`.
pub(super) async fn resume(cx: Cx) -> Answer {
    set_paused(cx, false).await
}

async fn set_paused(cx: Cx, paused: bool) -> Answer {
    let (app, caller, queue) = begin(&cx)?;
    let PauseRequest { reason } = cx.json_or_default().await?;
    if reason.as_ref().is_some_and(|r| r.len() > 1_000) {
        return Err(Problem::new(Code::TooLarge, "a reason takes at most 1,000 bytes").into());
    }
    one_queue(app.ask(&caller, Call::PauseQueue { queue, paused, reason }).await?)
}

fn one_queue(reply: Reply) -> Answer {
    match reply {
        Reply::Queue(view, true) => Ok(json_with(StatusCode::CREATED, &view)),
        Reply::Queue(view, false) => Ok(json(&view)),
        other => Err(unexpected(&other)),
    }
}

/// `POST /v1/queues/{queue}/receive`.
pub(super) async fn receive_message(cx: Cx) -> Answer {
    let (app, caller, queue) = begin(&cx)?;
    let request: ReceiveRequest = cx.json_or_default().await?;
    if !(1..=1000).contains(&request.max) {
        return Err(Problem::new(
            Code::OutOfRange,
            format!("max is {}; it must be between 1 and 1000", request.max),
        )
        .into());
    }
    let wait_ms = millis("wait_s", request.wait_s, 0.0..=3600.0)?;
    let lease_ms = millis("lease_s", request.lease_s, 1.0..=86_400.0)?;
    let asked = app.ask(&caller, Call::ReceiveMessage { queue, max: request.max, wait_ms, lease_ms });
    let reply = tokio::select! {
        reply = asked => reply?,
        // Dropping the question withdraws it, so that nothing is leased to nobody.
        () = app.stopped() => return Ok(json(&Received { items: Vec::new() })),
    };
    let items = match reply {
        Reply::ReceivedMessages(messages) => {
            messages.into_iter().map(|m| Delivery::Message(Box::new(m))).collect()
        }
        Reply::ReceivedJobs(jobs) => {
            let deliver = |(task, attempt, lease, until)| {
                let job = view(&app, task)?;
                Ok(Delivery::Job(Box::new(JobDelivery { job, attempt, lease, lease_until: Wall(until) })))
            };
            jobs.into_iter().map(deliver).collect::<Result<Vec<_>, Failure>>()?
        }
        other => return Err(unexpected(&other)),
    };
    Ok(json(&Received { items }))
}

/// `POST /v1/queues/{queue}/ack`.
pub(super) async fn ack(cx: Cx) -> Answer {
    settle(cx, Settle::Ack).await
}

/// `POST /v1/queues/{queue}/nack`.
pub(super) async fn nack(cx: Cx) -> Answer {
    settle(cx, Settle::Nack).await
}

/// `POST /v1/queues/{queue}/extend`.
pub(super) async fn extend(cx: Cx) -> Answer {
    settle(cx, Settle::Extend).await
}

async fn settle(cx: Cx, how: Settle) -> Answer {
    let (app, caller, queue) = begin(&cx)?;
    let request: LeaseRequest = cx.json().await?;
    check_leases(&request)?;
    check_size("result", request.result.as_ref())?;
    request.delay_s.map(|s| millis("delay_s", s, 0.0..=YEARS)).transpose()?;
    request.lease_s.map(|s| millis("lease_s", s, 1.0..=86_400.0)).transpose()?;
    match app.ask(&caller, Call::Settle { queue, how, request: Box::new(request) }).await? {
        Reply::Settled(id) => Ok(json(&json!({"ok": true, "id": id}))),
        // Nothing was changed: as with one lease.
        Reply::SettledMany(0, refused) if !refused.is_empty() => {
            let mut problem = refused[0].error.clone();
            problem.detail =
                format!("none of {} leases was settled; of the first: {}", refused.len(), problem.detail);
            Err(problem.into())
        }
        Reply::SettledMany(settled, refused) => {
            Ok(json(&SettledMany { ok: refused.is_empty(), settled, refused }))
        }
        other => Err(unexpected(&other)),
    }
}

fn check_leases(request: &LeaseRequest) -> Result<(), Failure> {
    let all = || request.leases.iter().chain(Some(&request.lease).filter(|_| request.leases.is_empty()));
    if all().any(|lease| lease.is_empty() || lease.len() > 256) {
        return Err(Problem::new(Code::BadValue, "lease is missing")
            .hint("give the lease that receive answered with")
            .into());
    }
    if request.leases.is_empty() {
        return Ok(());
    }
    if request.leases.len() > LEASES {
        return Err(Problem::new(Code::TooLarge, format!("a request takes at most {LEASES} leases")).into());
    }
    if !request.lease.is_empty() || request.result.is_some() {
        return Err(Problem::new(Code::BadValue, "leases stands in place of lease, and takes no result")
            .hint("settle what has a result by itself: {\"lease\":\"..\",\"result\":..}")
            .into());
    }
    Ok(())
}

/// `POST /v1/queues/{queue}/clean`.
pub(super) async fn clean_queue(cx: Cx) -> Answer {
    let asker = asker(&cx);
    let (app, caller, queue) = begin(&cx)?;
    let CleanRequest { filter, dead, dry_run } = cx.json_or_default().await?;
    let ids = match filter {
        None => None,
        Some(text) => Some(matching(&app, &caller, (&queue, dead), &text, asker).await?),
    };
    let name = queue.clone();
    match app.ask(&caller, Call::CleanQueue { queue, ids, dead, dry_run }).await? {
        Reply::Cleaned(mut cleaned, outside) => {
            // What lies at the broker goes as well; the store's part is gone by then.
            cleaned.removed += match outside {
                Some((broker, _)) if !dry_run => app.backends.purge(&broker, &name).await?,
                Some((_, depth)) => depth,
                None => 0,
            };
            Ok(json(&cleaned))
        }
        other => Err(unexpected(&other)),
    }
}

/// What matches a filter in a queue: waiting jobs, or messages (what is dead is one in a queue of jobs, too).
async fn matching(
    app: &App,
    caller: &Caller,
    (queue, dead): (&str, bool),
    text: &str,
    asker: Asker,
) -> Result<Vec<u64>, Failure> {
    let queues = all(app, caller).await?;
    let of_messages = dead || queues.iter().any(|q| q.name == queue && q.kind == "messages");
    let queue = queue.to_owned();
    if of_messages {
        let filter = reeve_protocol::message_filter::parse(text)?;
        let now = asker.now;
        let found = move |conn: &_| messages::matching(conn, &queue, &filter, dead, now);
        return Ok(app.reads.scan(SEARCH, found).await?);
    }
    let filter = parse(text)?;
    Ok(app.reads.scan(SEARCH, move |conn| sets::waiting_in(conn, &queue, &filter, asker)).await?)
}

/// `POST /v1/queues/{queue}/move`.
pub(super) async fn move_queue(cx: Cx) -> Answer {
    let asker = asker(&cx);
    let (app, caller, from) = begin(&cx)?;
    let MoveRequest { to, filter, dry_run } = cx.json().await?;
    check_name("queue", &to)?;
    let ids = match filter {
        None => None,
        Some(text) => Some(matching(&app, &caller, (&from, false), &text, asker).await?),
    };
    match app.ask(&caller, Call::MoveQueue { from, to, ids, dry_run }).await? {
        Reply::Returned(moved, left) => {
            Ok(json(&Moved { moved, left: if dry_run { 0 } else { left }, dry_run }))
        }
        other => Err(unexpected(&other)),
    }
}

/// `GET /v1/queues/{queue}/count`.
pub(super) async fn count_queue_messages(cx: Cx) -> Answer {
    let (app, caller, queue) = begin(&cx)?;
    match app.ask(&caller, Call::CountQueueMessages { queue }).await? {
        Reply::Count(count) => Ok(json(&count)),
        other => Err(unexpected(&other)),
    }
}

/// `GET /v1/queues/{queue}/peek`: what would come next, leased to nobody.
pub(super) async fn peek(cx: Cx) -> Answer {
    let max = cx.query(&["limit"])?.number("limit", 1..=1000)?.unwrap_or(10);
    let queue = name_of(&cx)?;
    let asked = cx.app.ask(&cx.caller, Call::Peek { queue: queue.clone(), max, dead: false }).await?;
    let Reply::Peeked { ids, are_messages, kept, broker } = asked else { return Err(unexpected(&asked)) };
    let mut items = items(&cx.app, &ids, are_messages, &kept)?;
    let more = (max as usize).saturating_sub(items.len());
    if let Some(broker) = broker.filter(|_| more > 0) {
        for message in cx.app.backends.peek(&broker, &queue, more).await? {
            items.push(json!(outside_view(&queue, message)?));
        }
    }
    Ok(json(&json!({"items": items})))
}

/// What the core named, as shown.
pub(super) fn items(
    app: &App,
    ids: &[u64],
    are_messages: bool,
    kept: &[Arc<MessageRow>],
) -> Result<Vec<serde_json::Value>, Failure> {
    let mut items = Vec::with_capacity(ids.len() + kept.len());
    for row in kept {
        items.push(json!(records::view_of(row)?));
    }
    for id in ids.iter().copied() {
        // What was taken between the two looks is left out.
        let item = app.reads.point(|conn| {
            if are_messages {
                return Ok(records::message(conn, id)?.map(|message| json!(message)));
            }
            let job = crate::store::query::job_view(conn, id, crate::store::query::Detail::Row)?;
            Ok(job.map(|job| json!({"job": job})))
        })?;
        items.extend(item);
    }
    Ok(items)
}

/// A message as it lies at a broker. One that others published has no number of ours yet.
fn outside_view(queue: &str, m: Incoming) -> Result<MessageView, Failure> {
    let row = MessageRow {
        id: m.id.unwrap_or(0),
        queue: queue.into(),
        kind: m.kind,
        body: m.body,
        headers: m.headers,
        priority: m.priority,
        expires_at: m.expires_at,
        dead: m.unusable,
        ..MessageRow::default()
    };
    let mut view = records::view_of(&row)?;
    view.published_at = None;
    if m.id.is_none() {
        view.id = m.tag.name.to_string();
    }
    Ok(view)
}

pub(super) fn begin(cx: &Cx) -> Result<(Arc<App>, Caller, String), Failure> {
    cx.query(&[])?;
    Ok((cx.app.clone(), cx.caller.clone(), name_of(cx)?))
}

pub(super) fn name_of(cx: &Cx) -> Result<String, Failure> {
    check_name("queue", cx.param(0))?;
    Ok(cx.param(0).to_owned())
}
