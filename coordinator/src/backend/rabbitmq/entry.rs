//! What is published, and what is understood: a message's body is the payload; its content type says what it is; its
//! headers are the headers. `message_id` is what makes a message the same when it comes again. Two headers are reeve's own:
//! `reeve-priority` (AMQP's own priority has no negative numbers) and `reeve-expires` (milliseconds since 1970).
use super::super::redis::kind_of;
use crate::orchestrator::link::{Band, Hint, Incoming, PLACE, Tag};
use crate::row::MessageRow;
use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use reeve_protocol::spec_check::MAX_MESSAGE;
use std::collections::BTreeMap;
use std::sync::Arc;

const PRIORITY: &str = "reeve-priority";
const MESSAGE_ID: &str = "message_id";
const EXPIRES: &str = "reeve-expires";
/// Content types by kind of body.
const TYPES: [&str; 3] = ["application/json", "text/plain", "application/octet-stream"];
/// It survives a restart of the server.
const PERSISTENT: u8 = 2;

/// A hint as text: lineage, job, generation, order.
pub(super) fn of_hint(hint: &Hint) -> (String, BasicProperties) {
    let text = format!("{} {} {} {}", hint.lineage, hint.job, hint.generation, hint.seq);
    (text, BasicProperties::default().with_delivery_mode(PERSISTENT).with_content_type(TYPES[1].into()))
}

/// A hint; what is none is nothing to anybody.
pub(super) fn hint(delivery: &Delivery, band: Band) -> Option<Hint> {
    let mut words = std::str::from_utf8(&delivery.data).ok()?.split(' ');
    let lineage: Arc<str> = words.next()?.into();
    let mut number = || words.next()?.parse().ok();
    Some(Hint { lineage, job: number()?, generation: number()?, seq: number()?, band })
}

/// What goes with a message's body.
pub(super) fn of_message(row: &MessageRow, lineage: &str) -> BasicProperties {
    let mut table = FieldTable::default();
    let headers: BTreeMap<String, String> = serde_json::from_str(&row.headers).unwrap_or_default();
    for (name, value) in headers {
        // A longer one is refused where it is published.
        if let Ok(name) = ShortString::try_new(name) {
            table.insert(name, AMQPValue::LongString(value.into()));
        }
    }
    if row.priority != 0 {
        table.insert(PRIORITY.into(), AMQPValue::LongInt(row.priority));
    }
    if let Some(at) = row.expires_at {
        table.insert(EXPIRES.into(), AMQPValue::LongLongInt(at));
    }
    BasicProperties::default()
        .with_delivery_mode(PERSISTENT)
        .with_content_type(TYPES[usize::from(row.kind.min(2))].into())
        .with_message_id(format!("{lineage}/{}", row.id).into())
        .with_headers(table)
}

/// Where an answer goes (exchange, routing key), and what goes with its body.
pub(super) fn of_answer(
    row: &MessageRow,
    lineage: &str,
) -> Option<(ShortString, ShortString, BasicProperties)> {
    let mut headers: BTreeMap<String, String> = serde_json::from_str(&row.headers).ok()?;
    let place = headers.remove(PLACE)?;
    let (exchange, key) = place.split_once('/').unwrap_or(("", &place));
    let mut properties = BasicProperties::default()
        .with_delivery_mode(PERSISTENT)
        .with_content_type(TYPES[0].into())
        .with_message_id(format!("{lineage}/{}", row.id).into());
    if let Some(id) = headers.remove("correlation_id") {
        properties = properties.with_correlation_id(ShortString::try_new(id).ok()?);
    }
    Some((ShortString::try_new(exchange).ok()?, ShortString::try_new(key).ok()?, properties))
}

/// Headers as text; what the server adds by itself is left out.
fn text(value: &AMQPValue) -> Option<String> {
    Some(match value {
        AMQPValue::Boolean(v) => v.to_string(),
        AMQPValue::ShortShortInt(v) => v.to_string(),
        AMQPValue::ShortShortUInt(v) => v.to_string(),
        AMQPValue::ShortInt(v) => v.to_string(),
        AMQPValue::ShortUInt(v) => v.to_string(),
        AMQPValue::LongInt(v) => v.to_string(),
        AMQPValue::LongUInt(v) => v.to_string(),
        AMQPValue::LongLongInt(v) => v.to_string(),
        AMQPValue::Timestamp(v) => v.to_string(),
        AMQPValue::Float(v) => v.to_string(),
        AMQPValue::Double(v) => v.to_string(),
        AMQPValue::ShortString(v) => v.to_string(),
        AMQPValue::LongString(v) => String::from_utf8(v.as_bytes().to_vec()).ok()?,
        _ => return None,
    })
}

/// A delivery as a message. Whatever makes no sense is one too, with the reason.
pub(super) fn message(delivery: Delivery, band: Band, nonce: &str, lineage: &str) -> Incoming {
    let properties = &delivery.properties;
    let mut headers = BTreeMap::new();
    let mut own = BTreeMap::new();
    let mut unusable = None;
    for (name, value) in properties.headers().iter().flat_map(|table| table.inner().iter()) {
        let name = name.as_str();
        if name == PRIORITY || name == EXPIRES {
            own.insert(name.to_owned(), text(value).unwrap_or_default());
        } else if let Some(value) = text(value) {
            headers.insert(name.to_owned(), value);
        } else if !name.starts_with("x-") {
            unusable = Some(format!(
                "its header {} is no text and no number",
                reeve_protocol::text::Clean::short(name, 64)
            ));
        }
    }
    headers.remove("x-delivery-count");
    let standard = match band {
        Band::High => 1,
        Band::Normal => 0,
        Band::Low => -1,
    };
    let priority = own.get(PRIORITY).and_then(|p| p.parse().ok()).unwrap_or(standard);
    let expires_at = own.get(EXPIRES).and_then(|at| at.parse().ok());
    let name = properties.message_id().as_ref().map(ToString::to_string).filter(|id| !id.is_empty());
    // Clients that cannot set the property, such as amqp-publish, have a header for it.
    let name = name.or_else(|| headers.remove(MESSAGE_ID)).filter(|id| !id.is_empty());
    let id = name.as_deref().and_then(|id| id.strip_prefix(lineage)?.strip_prefix('/')?.parse().ok());
    let unique = name.map(|name| unique(&name, &delivery.data));
    let text_of =
        |word: &Option<ShortString>| word.as_ref().map(ToString::to_string).filter(|w| !w.is_empty());
    // The default exchange: what a client calls its queue for answers.
    let reply = text_of(properties.reply_to())
        .map(|queue| Box::new((format!("/{queue}"), text_of(properties.correlation_id()))));
    let told = properties.content_type().as_ref().map(ToString::to_string);
    let mut body = delivery.data;
    if body.len() > MAX_MESSAGE {
        unusable = Some(format!("its body has {} bytes; at most {MAX_MESSAGE} are taken", body.len()));
        body.truncate(1_024);
    }
    Incoming {
        tag: Tag { band, name: format!("{nonce}.{}", delivery.delivery_tag).into() },
        unique,
        id,
        kind: kind_of(told.as_deref().map(kind_told), &body),
        body: body.into(),
        headers: serde_json::to_string(&headers).unwrap_or_else(|_| "{}".to_owned()).into(),
        priority,
        expires_at,
        unusable,
        reply,
    }
}

/// The same id with the same body is the same message. Programs that reuse an id for something else lose nothing.
fn unique(id: &str, body: &[u8]) -> Arc<str> {
    // FNV-1a: the same in every version, for ids are remembered across restarts.
    let digest = body.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("id {id} {digest:x}").into()
}

fn kind_told(content_type: &str) -> &str {
    let word = content_type.split(';').next().unwrap_or_default().trim();
    match word {
        "application/json" => "json",
        "application/octet-stream" => "bytes",
        text if text.starts_with("text/") => "text",
        other => other,
    }
}

/// The server's number for a delivery, if it was handed out by this channel.
pub(super) fn tag_of(tag: &Tag, nonce: &str) -> Option<u64> {
    tag.name.strip_prefix(nonce)?.strip_prefix('.')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivery(body: &[u8], properties: BasicProperties) -> Delivery {
        let mut made = Delivery::mock(7, "".into(), "reeve:q:m".into(), false, body.to_vec());
        made.properties = properties;
        made
    }

    fn row() -> MessageRow {
        MessageRow {
            id: 12,
            queue: "m".into(),
            owner_uid: 0,
            owner: "ana".into(),
            kind: 1,
            body: b"hi".to_vec().into(),
            headers: r#"{"trace":"7","who":"änä"}"#.into(),
            priority: -3,
            published_at: 0,
            run_at: None,
            expires_at: Some(77),
            deliveries: 0,
            lease: None,
            dead: None,
            outgoing: true,
            source: None,
            key: None,
        }
    }

    #[test]
    fn a_message_comes_back_as_it_was() {
        let row = row();
        let came = message(delivery(&row.body, of_message(&row, "l")), Band::Low, "c3", "l");
        assert_eq!((came.id, came.kind, came.priority, came.expires_at), (Some(12), 1, -3, Some(77)));
        assert_eq!((&*came.headers, &*came.body, came.unusable), (&*row.headers, &*row.body, None));
        assert_eq!((tag_of(&came.tag, "c3"), tag_of(&came.tag, "c")), (Some(7), None), "of another channel");
        let elsewhere = message(delivery(&row.body, of_message(&row, "l")), Band::Low, "c3", "other");
        assert_eq!(elsewhere.id, None);
    }

    #[test]
    fn what_others_publish_is_understood_or_kept_with_the_reason() {
        let one = |body: &[u8], p: BasicProperties| message(delivery(body, p), Band::High, "c", "l");
        let plain = one(br#"{"a":1}"#, BasicProperties::default());
        assert_eq!((plain.kind, plain.priority, plain.unique, plain.unusable), (0, 1, None, None));
        assert_eq!(
            one(b"hi", BasicProperties::default().with_content_type("application/json".into())).kind,
            1
        );
        assert_eq!(
            one(b"1", BasicProperties::default().with_content_type("text/plain; charset=utf-8".into())).kind,
            1
        );
        assert_eq!(one(&[0xff, 0], BasicProperties::default()).kind, 2);
        let id = || BasicProperties::default().with_message_id("a".into());
        assert_eq!(one(b"x", id()).unique, one(b"x", id()).unique);
        let mut named = FieldTable::default();
        named.insert("message_id".into(), AMQPValue::LongString("a".into()));
        let by_header = one(b"x", BasicProperties::default().with_headers(named));
        assert_eq!((&by_header.unique, &*by_header.headers), (&one(b"x", id()).unique, "{}"));
        let asks =
            BasicProperties::default().with_reply_to("amq.gen-1".into()).with_correlation_id("7".into());
        let wanted = ("/amq.gen-1".to_owned(), Some("7".to_owned()));
        assert_eq!(one(b"x", asks).reply.as_deref(), Some(&wanted));
        assert_ne!(one(b"x", id()).unique, one(b"y", id()).unique, "an id that is used again");
        let mut table = FieldTable::default();
        table.insert("n".into(), AMQPValue::LongInt(5));
        table.insert("x-death".into(), AMQPValue::FieldTable(FieldTable::default()));
        table.insert("x-delivery-count".into(), AMQPValue::LongLongInt(2));
        let headers = one(b"x", BasicProperties::default().with_headers(table.clone())).headers;
        assert_eq!(&*headers, r#"{"n":"5"}"#);
        table.insert("deep".into(), AMQPValue::FieldTable(FieldTable::default()));
        let why = one(b"x", BasicProperties::default().with_headers(table)).unusable.unwrap();
        assert!(why.contains("deep"), "{why}");
        let large = one(&vec![b'x'; MAX_MESSAGE + 1], BasicProperties::default());
        assert!(large.unusable.unwrap().contains("at most"));
    }

    #[test]
    fn a_hint_comes_back_as_it_was_and_anything_else_is_none() {
        let wanted =
            Hint { lineage: "ab".into(), job: 7, generation: 4_294_967_297, seq: 9, band: Band::Low };
        let (text, properties) = of_hint(&wanted);
        assert_eq!(hint(&delivery(text.as_bytes(), properties), Band::Low), Some(wanted));
        for junk in ["", "ab", "ab 7 x 9", "ab 7 1"] {
            assert_eq!(hint(&delivery(junk.as_bytes(), BasicProperties::default()), Band::Low), None);
        }
    }
}
