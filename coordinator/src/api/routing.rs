//! Messages that go where their labels say, and those that were given up.
use super::publish::{MESSAGE_BODY, message_of};
use super::queues::{items, name_of};
use super::reply::{Answer, Failure, json, json_with, unexpected};
use super::request::Cx;
use super::submit::{key_of, replayed, reused};
use crate::effect::Reply;
use crate::input::{Call, Key};
use crate::store::read;
use axum::http::StatusCode;
use reeve_protocol::api::{
    ExplainRequest, Explained, Published, ReturnRequest, ReturnedReply, Route, RoutedReply, RoutedRequest,
    Routes,
};
use reeve_protocol::text::Clean;
use reeve_protocol::token::sha256_hex;
use reeve_protocol::{Code, Problem};
use serde_json::json;
use std::collections::BTreeMap;

/// `GET /v1/routes`.
pub(super) async fn list(cx: Cx) -> Answer {
    cx.query(&[])?;
    shown(cx.app.ask(&cx.caller, Call::ListRoutes).await?)
}

/// `PUT /v1/routes`: all of them at once, so that their order is never half changed.
pub(super) async fn put(cx: Cx) -> Answer {
    cx.query(&[])?;
    let (app, caller) = (cx.app.clone(), cx.caller.clone());
    let Routes { routes } = cx.json().await?;
    shown(app.ask(&caller, Call::PutRoutes { routes }).await?)
}

fn shown(reply: Reply) -> Answer {
    match reply {
        Reply::Routes(routes) => Ok(json(&Routes { routes })),
        other => Err(unexpected(&other)),
    }
}

/// `POST /v1/routes/explain`.
pub(super) async fn explain(cx: Cx) -> Answer {
    cx.query(&[])?;
    let (app, caller) = (cx.app.clone(), cx.caller.clone());
    let ExplainRequest { labels } = cx.json().await?;
    let all = match app.ask(&caller, Call::ListRoutes).await? {
        Reply::Routes(routes) => routes,
        other => return Err(unexpected(&other)),
    };
    let decides = match app.ask(&caller, Call::ExplainRoute { labels: labels.clone() }).await? {
        Reply::Routed(route) => route,
        other => return Err(unexpected(&other)),
    };
    let before = all.iter().take_while(|r| decides.as_ref().is_none_or(|d| d.name != r.name));
    let passed = before.map(|route| why_not(route, &labels)).collect();
    Ok(json(&Explained { route: decides, passed }))
}

fn why_not(route: &Route, labels: &BTreeMap<String, String>) -> String {
    let missing = route.labels.iter().find(|(k, v)| labels.get(*k) != Some(v));
    let why = missing.map_or_else(
        || "it was changed a moment ago".to_owned(),
        |(k, v)| match labels.get(k) {
            Some(has) => format!("{k} is {}, not {}", Clean::short(has, 64), Clean::short(v, 64)),
            None => format!("{k} is missing, it must be {}", Clean::short(v, 64)),
        },
    );
    format!("{}: {why}", route.name)
}

/// `POST /v1/publish`.
pub(super) async fn publish(cx: Cx) -> Answer {
    cx.query(&[])?;
    let (app, caller) = (cx.app.clone(), cx.caller.clone());
    let key = key_of(&cx.parts.headers)?;
    let request: RoutedRequest = cx.json_within(MESSAGE_BODY).await?;
    let canonical = serde_json::to_vec(&request).unwrap_or_default();
    let key = key.map(|key| Key { key, digest: sha256_hex(&canonical) });
    let labels = request.labels;
    let message = Box::new(message_of(request.message, key.clone())?);
    if let Some(key) = &key {
        let route = match app.ask(&caller, Call::ExplainRoute { labels: labels.clone() }).await? {
            Reply::Routed(route) => route,
            other => return Err(unexpected(&other)),
        };
        let mut known = Vec::new();
        for queue in route.iter().flat_map(|r| &r.queues) {
            match app.reads.point(|conn| read::message_by_key(conn, caller.uid, queue, &key.key))? {
                Some((id, digest)) if digest == key.digest => known.push(Published {
                    id: id.to_string(),
                    queue: queue.clone(),
                    seq: app.seq(),
                    created: false,
                }),
                Some((id, _)) => return Err(reused(&format!("message {id}"))),
                None => {}
            }
        }
        if !known.is_empty() && Some(known.len()) == route.map(|r| r.queues.len()) {
            return Ok(replayed(json(&RoutedReply { published: known })));
        }
    }
    match app.ask(&caller, Call::PublishRouted { labels, message }).await? {
        Reply::Fanned(published, false) => Ok(json_with(StatusCode::CREATED, &RoutedReply { published })),
        Reply::Fanned(published, true) => Ok(replayed(json(&RoutedReply { published }))),
        other => Err(unexpected(&other)),
    }
}

/// `GET /v1/queues/{queue}/dead`.
pub(super) async fn dead(cx: Cx) -> Answer {
    let max = cx.query(&["limit"])?.number("limit", 1..=1000)?.unwrap_or(100);
    let queue = name_of(&cx)?;
    let reply = cx.app.ask(&cx.caller, Call::Peek { queue, max, dead: true }).await?;
    let Reply::Peeked { ids, are_messages, kept, .. } = reply else { return Err(unexpected(&reply)) };
    Ok(json(&json!({"items": items(&cx.app, &ids, are_messages, &kept)?})))
}

/// `POST /v1/queues/{queue}/dead/return`.
pub(super) async fn return_dead(cx: Cx) -> Answer {
    cx.query(&[])?;
    let (app, caller, queue) = (cx.app.clone(), cx.caller.clone(), name_of(&cx)?);
    let ReturnRequest { ids, dry_run } = cx.json_or_default().await?;
    let ids =
        ids.map(|list| list.iter().map(|id| number(id)).collect::<Result<Vec<u64>, _>>()).transpose()?;
    match app.ask(&caller, Call::ReturnDead { queue, ids, dry_run }).await? {
        Reply::Returned(returned, left) => Ok(json(&ReturnedReply { returned, left })),
        other => Err(unexpected(&other)),
    }
}

fn number(id: &str) -> Result<u64, Failure> {
    let wrong = || Problem::new(Code::BadValue, format!("{} is no message's number", Clean::short(id, 40)));
    id.parse().map_err(|_| wrong().into())
}
