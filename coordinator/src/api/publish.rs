//! `publish`: a message, a job, or a message a line. Lines become messages in portions: one commit and one line of the
//! answer each, and a line of its own for every line that was refused.
use super::App;
use super::lines::{Lines, pump};
use super::queues::{YEARS, begin};
use super::reply::{Answer, Failure, NDJSON, json, json_with, unexpected};
use super::request::{Cx, Pieces, media_type, millis};
use super::stream::{BATCH, Gone, Out, Shape, respond};
use super::submit::{self, key_of, part_key, replayed, reused};
use crate::effect::Reply;
use crate::input::{Call, Key, NewMessage};
use crate::row::Caller;
use crate::store::query::base64;
use crate::store::read;
use axum::http::StatusCode;
use reeve_protocol::api::{LineReply, PublishRequest, Published, PublishedLines};
use reeve_protocol::error::{parse_json, parse_object};
use reeve_protocol::spec_check::{MAX_HEADER_NAME, MAX_MESSAGE};
use reeve_protocol::text::Clean;
use reeve_protocol::token::sha256_hex;
use reeve_protocol::{Code, JobSpec, Problem};
use serde_json::json;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A message of the largest size, in whatever way JSON may write it.
pub(super) const MESSAGE_BODY: usize = 8 * MAX_MESSAGE;

/// `POST /v1/queues/{queue}/messages`: the fields of the body say whether it is a message or a job.
pub(super) async fn publish(cx: Cx) -> Answer {
    let (app, caller, queue) = begin(&cx)?;
    let key = key_of(&cx.parts.headers)?;
    if media_type(&cx.parts.headers).as_deref() == Some(NDJSON) {
        return lines_of(cx, queue, key);
    }
    super::request::expect_json(&cx.parts.headers)?;
    let body = cx.bytes(MESSAGE_BODY).await?;
    let fields: BTreeMap<String, Box<RawValue>> = parse_json(&body)?;
    let has = |names: &[&str]| names.iter().any(|name| fields.contains_key(*name));
    match (has(&["body", "body_text", "body_base64"]), has(&["command", "worker", "git"])) {
        (true, _) => publish_message(&app, &caller, queue, parse_json(&body)?, key).await,
        (false, true) => publish_job(&app, &caller, queue, parse_json(&body)?, key).await,
        (false, false) => {
            let problem = Problem::new(Code::BadValue, "the body is neither a message nor a job");
            Err(problem
                .hint("a message has body, body_text or body_base64; a job has command, worker or git")
                .into())
        }
    }
}

async fn publish_job(
    app: &App,
    caller: &Caller,
    queue: String,
    mut spec: JobSpec,
    key: Option<String>,
) -> Answer {
    if spec.queue.as_ref().is_some_and(|other| *other != queue) {
        return Err(Problem::new(Code::BadValue, format!("the body names another queue than {queue}")).into());
    }
    spec.queue = Some(queue);
    spec.validate()?;
    submit::one(app, caller, spec, key).await
}

async fn publish_message(
    app: &App,
    caller: &Caller,
    queue: String,
    request: PublishRequest,
    key: Option<String>,
) -> Answer {
    let canonical = serde_json::to_vec(&request).unwrap_or_default();
    let key = key.map(|key| Key { key, digest: sha256_hex(&canonical) });
    let message = Box::new(message_of(request, key.clone())?);
    if let Some(id) = used(app, caller, &queue, key.as_ref())? {
        let published = Published { id: id.to_string(), queue, seq: app.seq(), created: false };
        return Ok(replayed(json(&published)));
    }
    match app.ask(caller, Call::Publish { queue, message }).await? {
        Reply::Published(published, false) => Ok(json_with(StatusCode::CREATED, &published)),
        Reply::Published(published, true) => Ok(replayed(json(&published))),
        other => Err(unexpected(&other)),
    }
}

/// The message that this key was used for, if it was. Another content is refused.
pub(super) fn used(
    app: &App,
    caller: &Caller,
    queue: &str,
    key: Option<&Key>,
) -> Result<Option<u64>, Failure> {
    let Some(key) = key else { return Ok(None) };
    match app.reads.point(|conn| read::message_by_key(conn, caller.uid, queue, &key.key))? {
        Some((id, digest)) if digest == key.digest => Ok(Some(id)),
        Some((id, _)) => Err(reused(&format!("message {id}"))),
        None => Ok(None),
    }
}

pub(super) fn message_of(request: PublishRequest, key: Option<Key>) -> Result<NewMessage, Failure> {
    let (kind, body): (u8, Vec<u8>) = match (request.body, request.body_text, request.body_base64) {
        (Some(value), None, None) => (0, value.to_string().into_bytes()),
        (None, Some(text), None) => (1, text.into_bytes()),
        (None, None, Some(code)) => match base64::decode(&code) {
            Some(bytes) => (2, bytes),
            None => return Err(Problem::new(Code::BadValue, "body_base64 is not base64 with padding").into()),
        },
        (None, None, None) => (0, b"null".to_vec()),
        _ => {
            return Err(Problem::new(
                Code::BadValue,
                "only one of body, body_text and body_base64 may be given",
            )
            .into());
        }
    };
    if body.len() > MAX_MESSAGE {
        return Err(
            Problem::new(Code::TooLarge, format!("a message takes at most {MAX_MESSAGE} bytes")).into()
        );
    }
    if request.headers.len() > 64
        || request.headers.iter().map(|(k, v)| k.len() + v.len()).sum::<usize>() > 16 * 1024
    {
        return Err(Problem::new(Code::TooLarge, "headers take at most 64 pairs and 16 KiB").into());
    }
    if let Some(name) = request.headers.keys().find(|name| name.len() > MAX_HEADER_NAME) {
        let text = format!(
            "the name of header {} has {} bytes; at most {MAX_HEADER_NAME} are taken",
            Clean::short(name, 32),
            name.len()
        );
        return Err(Problem::new(Code::TooLarge, text).hint("put what is long into its value").into());
    }
    if !(-1_000_000..=1_000_000).contains(&request.priority) {
        return Err(Problem::new(Code::OutOfRange, "priority must be between -1000000 and 1000000").into());
    }
    Ok(NewMessage {
        kind,
        body: body.into(),
        headers: json!(request.headers).to_string().into(),
        priority: request.priority,
        delay_ms: request.delay_s.map_or(Ok(0), |s| millis("delay_s", s, 0.0..=YEARS))?,
        ttl_ms: request.ttl_s.map(|s| millis("ttl_s", s, 0.001..=YEARS)).transpose()?,
        key,
    })
}

/// Answers with a stream of [`LineReply`] and [`PublishedLines`].
fn lines_of(cx: Cx, queue: String, key: Option<String>) -> Answer {
    let (app, caller) = (cx.app.clone(), cx.caller.clone());
    let body = cx.pieces()?;
    let shape = Shape { media_type: NDJSON, size: BATCH, patience: None };
    let work = Batch { app: app.clone(), caller, queue, key };
    Ok(respond(&app, &shape, |out| work.run(body, out)))
}

struct Batch {
    app: Arc<App>,
    caller: Caller,
    queue: String,
    key: Option<String>,
}

/// What becomes of one line.
#[derive(Debug)]
enum Slot {
    /// It goes to the engine with its portion.
    Asked,
    /// Its key was used for this message before.
    Before,
    /// It is wrong.
    Wrong(Box<Problem>),
}

/// Lines that go to the engine together.
#[derive(Debug, Default)]
struct Portion {
    /// Each line's number and fate, in order.
    slots: Vec<(u64, Slot)>,
    messages: Vec<NewMessage>,
}

/// What the engine said about a portion.
type Outcome = (Vec<(u64, Slot)>, Vec<Result<(u64, bool), Problem>>, bool, u64);

impl Batch {
    async fn run(self, body: Pieces, out: Out) -> Result<(), Gone> {
        let mut lines = Lines::new(MESSAGE_BODY);
        let mut total = PublishedLines::default();
        let ask = |lines: &mut Lines| self.ask(self.portion(lines));
        let broken = pump(body, &out, &mut lines, ask, |outcome| render(outcome, &mut total)).await?;
        if let Some(problem) = broken {
            total.failed += 1;
            out.line(&LineReply { line: lines.number() + 1, id: None, error: Some(problem) }).await?;
        }
        (total.done, total.to) = (true, lines.number());
        out.line(&total).await
    }

    fn portion(&self, lines: &mut Lines) -> Portion {
        let mut portion = Portion::default();
        for (number, line) in lines.portion() {
            let slot = match line.and_then(|line| self.read(number, &line)) {
                Ok(Some(message)) => {
                    portion.messages.push(message);
                    Slot::Asked
                }
                Ok(None) => Slot::Before,
                Err(problem) => Slot::Wrong(Box::new(problem)),
            };
            portion.slots.push((number, slot));
        }
        portion
    }

    /// A line as a message; `None`: its key published it before.
    fn read(&self, number: u64, line: &[u8]) -> Result<Option<NewMessage>, Problem> {
        let request: PublishRequest = parse_object(line).map_err(|problem| {
            let of_a_job =
                ["\"command\"", "\"worker\"", "\"git\""].iter().any(|w| problem.detail.contains(w));
            if problem.is(Code::UnknownField) && of_a_job {
                return problem
                    .hint("a line is a message, as in publish; jobs go to POST /v1/jobs, one a line");
            }
            problem
        })?;
        let key = self.key.as_ref().map(|key| {
            let canonical = serde_json::to_vec(&request).unwrap_or_default();
            Key { key: part_key(key, number), digest: sha256_hex(&canonical) }
        });
        let message = message_of(request, key).map_err(|failure| failure.0)?;
        let before = used(&self.app, &self.caller, &self.queue, message.key.as_ref());
        Ok(before.map_err(|failure| failure.0)?.is_none().then_some(message))
    }

    fn ask(&self, portion: Portion) -> impl Future<Output = Outcome> + use<> {
        let (app, caller, queue) = (self.app.clone(), self.caller.clone(), self.queue.clone());
        async move {
            let Portion { slots, messages } = portion;
            let n = messages.len();
            if n == 0 {
                return (slots, Vec::new(), false, app.seq());
            }
            let failed = |problem: &Problem| vec![Err(problem.clone()); n];
            let (results, created) = match app.ask(&caller, Call::PublishMany { queue, messages }).await {
                Ok(Reply::PublishedMany(results, created)) => (results, created),
                Ok(other) => (failed(&unexpected(&other).0), false),
                Err(Failure(problem)) => (failed(&problem), false),
            };
            (slots, results, created, app.seq())
        }
    }
}

/// The answer to a portion: what was refused, then what was taken.
fn render((slots, results, created, seq): Outcome, total: &mut PublishedLines) -> Vec<u8> {
    let (mut out, mut results) = (Vec::new(), results.into_iter());
    let mut said = PublishedLines { seq, created, ..PublishedLines::default() };
    said.from = slots.first().map_or(0, |slot| slot.0);
    for (line, slot) in slots {
        said.to = line;
        let lost = || Err(Problem::new(Code::Internal, "the line got no answer").unknown());
        let problem = match slot {
            Slot::Asked => match results.next().unwrap_or_else(lost) {
                Ok((id, false)) => {
                    said.published += 1;
                    said.first.get_or_insert_with(|| id.to_string());
                    said.last = Some(id.to_string());
                    continue;
                }
                Ok((_, true)) => {
                    said.replayed += 1;
                    continue;
                }
                Err(problem) => problem,
            },
            Slot::Before => {
                said.replayed += 1;
                continue;
            }
            Slot::Wrong(problem) => *problem,
        };
        said.failed += 1;
        append(&mut out, &LineReply { line, id: None, error: Some(problem) });
    }
    append(&mut out, &said);
    if total.from == 0 {
        total.from = said.from;
    }
    total.published += said.published;
    total.replayed += said.replayed;
    total.failed += said.failed;
    total.created |= said.created;
    total.seq = said.seq;
    if total.first.is_none() {
        total.first = said.first;
    }
    total.last = said.last.or(total.last.take());
    out
}

/// Writing into memory does not fail, and these types always serialise.
fn append<T: serde::Serialize>(out: &mut Vec<u8>, value: &T) {
    let _ = serde_json::to_writer(&mut *out, value);
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(json: &str) -> Result<NewMessage, String> {
        message_of(serde_json::from_str(json).unwrap(), None).map_err(|f| f.0.code)
    }

    #[test]
    fn a_portion_says_what_was_refused_and_counts_the_rest() {
        let wrong = Problem::new(Code::BadValue, "no");
        let slots = vec![
            (1, Slot::Asked),
            (2, Slot::Wrong(Box::new(wrong.clone()))),
            (4, Slot::Before),
            (5, Slot::Asked),
            (6, Slot::Asked),
            (7, Slot::Asked),
        ];
        let results = vec![Ok((8, false)), Err(wrong), Ok((3, true)), Ok((9, false))];
        let mut total = PublishedLines::default();
        let text = String::from_utf8(render((slots, results, true, 77), &mut total)).unwrap();
        let lines: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!((lines[0]["line"].as_u64(), lines[1]["line"].as_u64()), (Some(2), Some(5)));
        let wanted = json!({"from": 1, "to": 7, "published": 2, "replayed": 2, "failed": 2, "first": "8",
            "last": "9", "seq": 77, "created": true});
        assert_eq!(lines[2], wanted);
        let more = (vec![(8, Slot::Asked)], vec![Ok((12, false))], false, 78);
        render(more, &mut total);
        assert_eq!((total.from, total.published, total.failed, total.seq), (1, 3, 2, 78));
        assert_eq!((total.first.as_deref(), total.last.as_deref()), (Some("8"), Some("12")));
    }

    #[test]
    fn a_message_has_exactly_one_body_and_keeps_its_kind() {
        let json = message(r#"{"body":{"a":1},"headers":{"k":"v"},"delay_s":1.5}"#).unwrap();
        assert_eq!(
            (json.kind, &*json.body, &*json.headers, json.delay_ms),
            (0, &br#"{"a":1}"#[..], r#"{"k":"v"}"#, 1500)
        );
        assert_eq!(message(r#"{"body_text":"hi"}"#).unwrap().kind, 1);
        let bytes = message(r#"{"body_base64":"AP8="}"#).unwrap();
        assert_eq!((bytes.kind, &*bytes.body), (2, &[0u8, 255][..]));
        assert_eq!(message(r#"{"body":null}"#).unwrap().body.as_ref(), b"null");
        for (json, code) in [
            (r#"{"body":1,"body_text":"x"}"#, "bad-value"),
            (r#"{"body_base64":"!"}"#, "bad-value"),
            (r#"{"body":1,"priority":2000000}"#, "out-of-range"),
            (r#"{"body":1,"ttl_s":0}"#, "out-of-range"),
            (r#"{"body":1,"delay_s":-1}"#, "out-of-range"),
        ] {
            assert_eq!(message(json).unwrap_err(), code, "{json}");
        }
        let large = format!(r#"{{"body_text":"{}"}}"#, "x".repeat(MAX_MESSAGE + 1));
        assert_eq!(message(&large).unwrap_err(), "too-large");
        let named = |n: usize| message(&format!(r#"{{"body":1,"headers":{{"{}":"v"}}}}"#, "n".repeat(n)));
        assert!(named(MAX_HEADER_NAME).is_ok());
        assert_eq!(named(MAX_HEADER_NAME + 1).unwrap_err(), "too-large", "bytes that no RabbitMQ takes");
    }
}
