//! Entries of streams: what reeve writes, and what it understands. Fields of a message: `body`, and if wanted `kind` (json,
//! text, bytes), `headers` (a JSON object of texts), `priority`, `expires` (milliseconds since 1970); `id` is reeve's own.
use crate::orchestrator::link::{Band, Hint, Incoming, PLACE, Tag};
use crate::row::MessageRow;
use ::redis::{Cmd, Value};
use reeve_protocol::spec_check::{MAX_HEADER_NAME, MAX_MESSAGE};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A hint as text: lineage, job, generation, order.
pub(super) fn of_hint(hint: &Hint) -> String {
    format!("{} {} {} {}", hint.lineage, hint.job, hint.generation, hint.seq)
}

/// Puts a message's fields behind the id.
pub(super) fn of_message(add: &mut Cmd, row: &MessageRow, lineage: &str) {
    add.arg("body").arg(&row.body[..]);
    add.arg("kind").arg(["json", "text", "bytes"][usize::from(row.kind.min(2))]);
    add.arg("id").arg(format!("{lineage}/{}", row.id));
    if &*row.headers != "{}" {
        add.arg("headers").arg(&*row.headers);
    }
    if row.priority != 0 {
        add.arg("priority").arg(row.priority);
    }
    if let Some(at) = row.expires_at {
        add.arg("expires").arg(at);
    }
}

/// Where an answer goes, and what it carries.
pub(super) fn of_answer(row: &MessageRow, lineage: &str) -> Option<(String, Cmd)> {
    let mut headers: BTreeMap<String, String> = serde_json::from_str(&row.headers).ok()?;
    let stream = headers.remove(PLACE)?;
    let mut add = ::redis::cmd("XADD");
    add.arg(&stream).arg("*").arg("body").arg(&row.body[..]).arg("kind").arg("json");
    add.arg("id").arg(format!("{lineage}/{}", row.id));
    for (name, value) in headers {
        add.arg(name).arg(value);
    }
    Some((stream, add))
}

/// An entry: its id and its fields.
struct Entry {
    id: String,
    fields: BTreeMap<String, Vec<u8>>,
}

impl Entry {
    fn text(&self, field: &str) -> Option<&str> {
        std::str::from_utf8(self.fields.get(field)?).ok()
    }
}

fn bytes(value: Value) -> Option<Vec<u8>> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.into_bytes()),
        Value::Int(n) => Some(n.to_string().into_bytes()),
        _ => None,
    }
}

fn text(value: Value) -> Option<String> {
    String::from_utf8(bytes(value)?).ok()
}

fn list(value: Value) -> Vec<Value> {
    match value {
        Value::Array(list) => list,
        _ => Vec::new(),
    }
}

/// `[[id, [field, value, ..]], ..]`. Entries that were removed have no fields; they are left out.
fn entries(value: Value) -> Vec<Entry> {
    let one = |value: Value| {
        let mut parts = list(value).into_iter();
        let id = text(parts.next()?)?;
        let mut words = list(parts.next()?).into_iter();
        let mut fields = BTreeMap::new();
        while let (Some(key), Some(value)) = (words.next(), words.next()) {
            fields.insert(text(key).unwrap_or_default(), bytes(value).unwrap_or_default());
        }
        Some(Entry { id, fields })
    };
    list(value).into_iter().filter_map(one).collect()
}

/// The answer of XREADGROUP: per stream its entries.
pub(super) fn streams(value: Value) -> Vec<(String, Value)> {
    let one = |value: Value| {
        let mut parts = list(value).into_iter();
        Some((text(parts.next()?)?, parts.next()?))
    };
    list(value).into_iter().filter_map(one).collect()
}

/// How many entries a stream gave.
pub(super) fn count(stream: &Value) -> usize {
    match stream {
        Value::Array(parts) => match parts.get(1) {
            Some(Value::Array(entries)) => entries.len(),
            _ => 0,
        },
        _ => 0,
    }
}

/// The ids of entries.
pub(super) fn ids(value: Value) -> Vec<String> {
    list(value).into_iter().filter_map(|entry| text(list(entry).into_iter().next()?)).collect()
}

/// Hints among entries; what is none is nothing to anybody.
pub(super) fn hints(value: Value, band: Band) -> Vec<Hint> {
    let one = |entry: Entry| {
        let mut words = entry.text("hint")?.split(' ');
        let lineage: Arc<str> = words.next()?.into();
        let mut number = || words.next()?.parse().ok();
        Some(Hint { lineage, job: number()?, generation: number()?, seq: number()?, band })
    };
    entries(value).into_iter().filter_map(one).collect()
}

/// Messages among entries: whatever makes no sense is one too, with the reason.
pub(super) fn messages(value: Value, band: Band, lineage: &str) -> Vec<Incoming> {
    entries(value).into_iter().map(|entry| message(entry, band, lineage)).collect()
}

fn message(mut entry: Entry, band: Band, lineage: &str) -> Incoming {
    let own = entry.text("id").and_then(|id| id.strip_prefix(lineage)?.strip_prefix('/')?.parse().ok());
    let standard = match band {
        Band::High => 1,
        Band::Normal => 0,
        Band::Low => -1,
    };
    let priority = entry.text("priority").and_then(|p| p.parse().ok()).unwrap_or(standard);
    let expires_at = entry.text("expires").and_then(|at| at.parse().ok());
    let mut unusable = None;
    let headers = match entry.text("headers") {
        None => "{}".into(),
        Some(text) => match serde_json::from_str::<BTreeMap<String, String>>(text) {
            Ok(all) if all.keys().all(|name| name.len() <= MAX_HEADER_NAME) => Arc::from(text),
            Ok(_) => {
                unusable = Some(format!("the name of a header has more than {MAX_HEADER_NAME} bytes"));
                "{}".into()
            }
            Err(_) => {
                unusable = Some("its headers are no JSON object of texts".to_owned());
                "{}".into()
            }
        },
    };
    let kind = entry.text("kind").map(str::to_owned);
    let reply = entry
        .text("reply_to")
        .map(|place| Box::new((place.to_owned(), entry.text("correlation_id").map(str::to_owned))));
    let body = entry.fields.remove("body").unwrap_or_else(|| {
        unusable = Some("it has no field named body".to_owned());
        Vec::new()
    });
    let body = if body.len() > MAX_MESSAGE {
        unusable = Some(format!("its body has {} bytes; at most {MAX_MESSAGE} are taken", body.len()));
        body[..1_024].to_vec()
    } else {
        body
    };
    let kind = kind_of(kind.as_deref(), &body);
    let name: Arc<str> = entry.id.as_str().into();
    // The producer's own id, if it gave one: a message that it sends again is the same message. So is one of ours, whose
    // confirmation was lost.
    let told = entry.fields.get("id").filter(|id| own.is_none() && id.len() <= 256);
    let told = told.and_then(|id| std::str::from_utf8(id).ok());
    let unique = match (told, own) {
        (Some(id), _) => format!("id {id}"),
        (None, Some(own)) => format!("own {own}"),
        (None, None) => format!("{band:?} {name}"),
    };
    Incoming {
        tag: Tag { band, name },
        unique: Some(unique.into()),
        id: own,
        kind,
        body: body.into(),
        headers,
        priority,
        expires_at,
        unusable,
        reply,
    }
}

/// 0 JSON, 1 text, 2 bytes: as told if that is true, else as it looks.
pub(in super::super) fn kind_of(told: Option<&str>, body: &[u8]) -> u8 {
    let is_json = || serde_json::from_slice::<serde::de::IgnoredAny>(body).is_ok();
    let is_text = || std::str::from_utf8(body).is_ok();
    match told {
        Some("text") if is_text() => 1,
        Some("bytes") => 2,
        _ if is_json() => 0,
        _ if is_text() => 1,
        _ => 2,
    }
}

/// From XINFO GROUPS: up to where a group has read.
pub(super) fn last_delivered(value: Value, group: &str) -> Option<String> {
    for one in list(value) {
        let mut words = list(one).into_iter();
        let mut found = BTreeMap::new();
        while let (Some(key), Some(value)) = (words.next(), words.next()) {
            found.insert(text(key).unwrap_or_default(), text(value).unwrap_or_default());
        }
        if found.get("name").is_some_and(|name| name == group) {
            return found.remove("last-delivered-id");
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    fn entry(fields: &[(&str, &str)]) -> Value {
        let words = fields.iter().flat_map(|(k, v)| [word(k), word(v)]).collect();
        Value::Array(vec![Value::Array(vec![word("5-0"), Value::Array(words)])])
    }

    #[test]
    fn a_hint_comes_back_as_it_was_and_anything_else_is_none() {
        let hint = Hint { lineage: "ab".into(), job: 7, generation: 4_294_967_297, seq: 9, band: Band::Low };
        assert_eq!(hints(entry(&[("hint", &of_hint(&hint))]), Band::Low), std::slice::from_ref(&hint));
        for junk in ["", "ab", "ab 7 x 9", "ab 7 1"] {
            assert_eq!(hints(entry(&[("hint", junk)]), Band::Low), []);
        }
        assert_eq!(hints(entry(&[("other", "1")]), Band::Low), []);
        assert_eq!(hints(Value::Nil, Band::Low), []);
    }

    #[test]
    fn what_others_publish_is_understood_or_kept_with_the_reason() {
        let one = |fields: &[(&str, &str)]| messages(entry(fields), Band::High, "l").remove(0);
        let plain = one(&[("body", "{\"a\":1}")]);
        assert_eq!((plain.kind, plain.priority, plain.id, plain.unusable), (0, 1, None, None));
        assert_eq!(one(&[("body", "hi")]).kind, 1);
        assert_eq!(one(&[("body", "hi"), ("kind", "json")]).kind, 1, "it is not what it says");
        let own = one(&[("body", "1"), ("id", "l/12"), ("priority", "9"), ("expires", "77")]);
        assert_eq!((own.id, own.priority, own.expires_at), (Some(12), 9, Some(77)));
        assert_eq!(one(&[("body", "1"), ("id", "other/12")]).id, None);
        assert!(one(&[("text", "x")]).unusable.unwrap().contains("no field named body"));
        assert!(one(&[("body", "x"), ("headers", "[]")]).unusable.unwrap().contains("headers"));
        let named = format!(r#"{{"{}":"v"}}"#, "n".repeat(MAX_HEADER_NAME + 1));
        assert!(one(&[("body", "x"), ("headers", &named)]).unusable.unwrap().contains("255 bytes"));
        let large = "x".repeat(MAX_MESSAGE + 1);
        assert!(one(&[("body", &large)]).unusable.unwrap().contains("at most"));
        assert_eq!(kind_of(None, &[0xff, 0]), 2);
    }

    #[test]
    fn a_message_of_ours_is_the_same_whichever_entry_it_comes_in() {
        let of = |id: &str, fields: &[(&str, &str)]| {
            let words = fields.iter().flat_map(|(k, v)| [word(k), word(v)]).collect();
            let value = Value::Array(vec![Value::Array(vec![word(id), Value::Array(words)])]);
            let one = messages(value, Band::Normal, "l").remove(0);
            (one.id, one.unique)
        };
        let ours = [("id", "l/7"), ("body", "1")];
        assert_eq!(of("5-0", &ours), (Some(7), Some("own 7".into())));
        assert_eq!(of("5-0", &ours), of("6-0", &ours));
        let theirs = [("body", "1")];
        assert_ne!(of("5-0", &theirs), of("6-0", &theirs));
    }
}
