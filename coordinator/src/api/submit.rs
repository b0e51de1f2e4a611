//! `submit`: one job, or a JSON array that is taken whole or not at all. Lines are in [`super::ndjson`].
use super::reply::{Answer, Failure, JSON, NDJSON, json, json_with, unexpected};
use super::request::{BATCH_BODY, BODY, Cx, expect_json, media_type};
use super::{App, ndjson};
use crate::effect::Reply;
use crate::input::{Call, Key};
use crate::row::Caller;
use crate::store::query::records;
use crate::store::read;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use reeve_protocol::api::{Submitted, SubmittedMany};
use reeve_protocol::error::parse_json;
use reeve_protocol::reply_to::ReplyTo;
use reeve_protocol::spec_check::check_key;
use reeve_protocol::token::sha256_hex;
use reeve_protocol::{Code, JobId, JobSpec, Problem};
use serde_json::json;
use serde_json::value::RawValue;

/// Jobs in one array; more belong into lines.
const MANY: usize = 100_000;
/// Bodies above this are parsed where nothing else waits.
const HEAVY: usize = 64 * 1024;
/// Says that the answer is that of the first request with this key.
pub(super) const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// `POST /v1/jobs`.
pub(super) async fn submit(cx: Cx) -> Answer {
    let dry_run = cx.query(&["dry_run"])?.flag("dry_run")?;
    let key = key_of(&cx.parts.headers)?;
    match media_type(&cx.parts.headers).as_deref() {
        Some(NDJSON) if !dry_run => return ndjson::submit(cx, key),
        Some(NDJSON) => {
            let problem = Problem::new(Code::BadValue, "a dry run takes one job, not lines");
            return Err(problem.hint(format!("send one object as {JSON}")).into());
        }
        _ => expect_json(&cx.parts.headers)?,
    }
    let (app, caller) = (cx.app.clone(), cx.caller.clone());
    let body = cx.bytes(BATCH_BODY).await?;
    if body.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'[') {
        if dry_run {
            return Err(Problem::new(Code::BadValue, "a dry run takes one job, not an array").into());
        }
        return many(&app, &caller, body, key).await;
    }
    if body.len() > BODY {
        return Err(
            Problem::new(Code::TooLarge, format!("one job is described in at most {BODY} bytes")).into()
        );
    }
    let spec: JobSpec = parse_json(&body)?;
    spec.validate()?;
    if dry_run {
        return rehearse(&app, &caller, spec).await;
    }
    one(&app, &caller, spec, key).await
}

/// Submits one valid spec.
pub(super) async fn one(app: &App, caller: &Caller, spec: JobSpec, key: Option<String>) -> Answer {
    check_reply(app, &spec)?;
    let key = key.map(|key| key_for(key, &spec));
    if let Some(key) = &key
        && let Some(id) = used(app, caller, key)?
    {
        return replay(app, id);
    }
    match app.ask(caller, Call::Submit { spec: Box::new(spec), key }).await? {
        Reply::Submitted(submitted, false) => Ok(json_with(StatusCode::CREATED, &submitted)),
        Reply::Submitted(submitted, true) => Ok(replayed(json(&submitted))),
        other => Err(unexpected(&other)),
    }
}

/// A broker that answers are to go to is one that is known.
pub(super) fn check_reply(app: &App, spec: &JobSpec) -> Result<(), Problem> {
    match spec.reply_to.as_deref().map(ReplyTo::parse).transpose()? {
        Some(ReplyTo::Broker { backend, .. }) => app.backends.find(&backend).map(drop),
        _ => Ok(()),
    }
}

/// The job that this key was used for, if it was. Another content is refused.
pub(super) fn used(app: &App, caller: &Caller, key: &Key) -> Result<Option<JobId>, Failure> {
    match app.reads.point(|conn| read::by_key(conn, caller.uid, &key.key))? {
        None => Ok(None),
        Some((id, digest)) if digest == key.digest => Ok(Some(id)),
        Some((id, _)) => Err(reused(&id.to_string())),
    }
}

pub(super) fn reused(id: &str) -> Failure {
    Problem::new(Code::KeyReused, format!("the key was used for {id}, with another content"))
        .hint("use a new key for new work; the same key only repeats the same request")
        .into()
}

fn replay(app: &App, id: JobId) -> Answer {
    let (row, seq) =
        app.reads.point(|conn| Ok((read::job_row(conn, id)?, records::first_event(conn, id)?)))?;
    let row = row.ok_or_else(|| super::select::no_such_job(&id.to_string()))?;
    let (state, substate) = (row.standing.state, row.standing.substate);
    // A job of a batch shares its event; following from now on is then the best there is.
    let seq = seq.unwrap_or_else(|| app.seq());
    Ok(replayed(json(&Submitted { id, state, substate, seq, created: false })))
}

pub(super) fn replayed(mut response: Response) -> Response {
    response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    response
}

/// The request's idempotency key.
pub(super) fn key_of(headers: &HeaderMap) -> Result<Option<String>, Failure> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let key = value.to_str().unwrap_or("");
    check_key("the Idempotency-Key", key)?;
    Ok(Some(key.to_owned()))
}

/// A key with the digest of its spec: fields in the order of the type, maps sorted, defaults left out, so that two
/// spellings of one request are one request.
pub(super) fn key_for(key: String, spec: &JobSpec) -> Key {
    let canonical = serde_json::to_vec(spec).unwrap_or_default();
    Key { key, digest: sha256_hex(&canonical) }
}

/// The key of one part of a batch. A long key is replaced by its hash, so that the number always fits.
pub(super) fn part_key(key: &str, number: u64) -> String {
    if key.len() <= 100 {
        format!("{key}/{number}")
    } else {
        format!("{}/{number}", sha256_hex(key.as_bytes()))
    }
}

type Keyed = (JobSpec, Option<Key>);

async fn many(app: &App, caller: &Caller, body: bytes::Bytes, key: Option<String>) -> Answer {
    let specs = if body.len() > HEAVY {
        let parsed = tokio::task::spawn_blocking(move || parse_many(&body, key.as_deref())).await;
        parsed.map_err(|_| Problem::new(Code::Internal, "reading the batch was given up"))??
    } else {
        parse_many(&body, key.as_deref())?
    };
    specs.iter().try_for_each(|(spec, _)| check_reply(app, spec))?;
    if let Some(done) = replay_many(app, caller, &specs)? {
        return Ok(replayed(json(&done)));
    }
    match app.ask(caller, Call::SubmitMany { specs, atomic: true }).await? {
        Reply::Many(results, seq) => {
            let ids = results.into_iter().collect::<Result<Vec<_>, _>>()?;
            let (Some(&first), Some(&last)) = (ids.first(), ids.last()) else {
                return Err(Problem::new(Code::Internal, "no job was made of a batch").unknown().into());
            };
            Ok(json_with(StatusCode::CREATED, &SubmittedMany { first, last, seq }))
        }
        other => Err(unexpected(&other)),
    }
}

/// Parses and checks every job before anything is asked; the first mistake names its place.
fn parse_many(body: &[u8], key: Option<&str>) -> Result<Vec<Keyed>, Problem> {
    let raw: Vec<&RawValue> = parse_json(body)?;
    if let Some(at) = raw.iter().position(|one| one.get().starts_with('[')) {
        let text = format!("job {} of the array is an array, and has to be an object", at + 1);
        return Err(Problem::new(Code::BadValue, text).hint(r#"[{"command":["true"]}]"#));
    }
    let specs: Vec<JobSpec> = parse_json(body)?;
    if specs.is_empty() {
        return Err(Problem::new(Code::BodyRequired, "the array has no job")
            .hint(r#"put at least one job into it: [{"command":["true"]}]"#));
    }
    if specs.len() > MANY {
        let problem = Problem::new(Code::TooLarge, format!("an array takes at most {MANY} jobs"));
        return Err(problem.hint(format!("send one job a line as {NDJSON}: that is not bounded")));
    }
    let mut keyed = Vec::with_capacity(specs.len());
    for (at, spec) in specs.into_iter().enumerate() {
        if let Err(mut problem) = spec.validate() {
            problem.detail = format!("job {} of the array: {}", at + 1, problem.detail);
            return Err(problem);
        }
        let key = key.map(|key| key_for(part_key(key, at as u64 + 1), &spec));
        keyed.push((spec, key));
    }
    Ok(keyed)
}

/// A batch was recorded as a whole, so its first and last job stand for all of it; the digests of both are compared.
fn replay_many(app: &App, caller: &Caller, specs: &[Keyed]) -> Result<Option<SubmittedMany>, Failure> {
    let ends = (specs.first().and_then(|s| s.1.as_ref()), specs.last().and_then(|s| s.1.as_ref()));
    let (Some(first), Some(last)) = ends else { return Ok(None) };
    match (used(app, caller, first)?, used(app, caller, last)?) {
        (None, None) => Ok(None),
        (Some(first), Some(last)) if last - first + 1 == specs.len() as u64 => {
            Ok(Some(SubmittedMany { first, last, seq: app.seq() }))
        }
        (first, last) => Err(reused(&first.or(last).unwrap_or_default().to_string())),
    }
}

/// What would become of a spec; nothing is stored.
async fn rehearse(app: &App, caller: &Caller, spec: JobSpec) -> Answer {
    match app.ask(caller, Call::DryRun { spec: Box::new(spec.clone()) }).await? {
        Reply::DryRun(queue, fits, reasons) => Ok(json(
            &json!({"dry_run": true, "queue": queue, "fits": fits, "reasons": reasons, "spec": spec}),
        )),
        other => Err(unexpected(&other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_spellings_of_one_request_have_one_digest() {
        let a: JobSpec =
            parse_json(br#"{"command":["true"],"priority":0,"labels":{"b":"1","a":"2"}}"#).unwrap();
        let b: JobSpec =
            parse_json(br#"{ "labels":{"a":"2","b":"1"}, "command":["true"], "name":null }"#).unwrap();
        let c: JobSpec = parse_json(br#"{"command":["false"]}"#).unwrap();
        let digest = |spec| key_for("k".into(), spec).digest;
        assert_eq!(digest(&a), digest(&b));
        assert_ne!(digest(&a), digest(&c));
    }

    #[test]
    fn the_keys_of_parts_differ_and_always_fit() {
        assert_eq!(part_key("k", 7), "k/7");
        for key in ["x".repeat(100), "x".repeat(128)] {
            assert!(check_key("key", &part_key(&key, u64::MAX)).is_ok());
        }
    }

    #[test]
    fn one_mistake_refuses_a_whole_array_and_names_its_place() {
        let problem = parse_many(br#"[{"command":["true"]},{"command":[]}]"#, None).unwrap_err();
        assert!(problem.detail.starts_with("job 2 of the array"), "{problem}");
        assert_eq!(parse_many(b"[]", None).unwrap_err().code, "body-required");
        assert_eq!(parse_many(br#"[ [["true"]]]"#, None).unwrap_err().code, "bad-value");
        assert_eq!(parse_many(br#"[{"comand":["x"]}]"#, None).unwrap_err().code, "unknown-field");
        let keyed = parse_many(br#"[{"command":["true"]},{"command":["true"]}]"#, Some("k")).unwrap();
        assert_eq!(keyed[1].1.as_ref().unwrap().key, "k/2");
    }
}
