//! What a message may hold, and what is refused.
use super::{Bench, Case};
use serde_json::{Value, json};

pub(super) const CASES: &[Case] = &[
    ("bodies come back as they were: empty, binary, text, JSON, large; with their headers", bodies),
    ("what cannot be a message is refused, and nothing is kept of it", refused),
];

const BYTES: &str = "AAECAwQFBgcICQoLDA0ODw8fLz9Pf4+fr7/P3+//";

fn bodies(bench: &mut Bench) {
    let queue = bench.queue();
    let large = "x".repeat(1024 * 1024);
    let deep: Value = (0..20).fold(json!(1), |inner, _| json!({"a": [inner]}));
    for body in [
        json!({"body_text": ""}),
        json!({"body_text": "grüße\n\u{1b}[31m\u{0}"}),
        json!({"body_base64": ""}),
        json!({"body_base64": BYTES}),
        json!({"body": deep}),
        json!({"body": null}),
        json!({"body": "text as JSON"}),
        json!({"body_text": large}),
    ] {
        let mut message = body.clone();
        message["headers"] = json!({"trace": "7", "who": "änä"});
        bench.publish(&queue, &message);
        let came = bench.receive(&queue, 1, 20.0).remove(0);
        for (key, value) in body.as_object().unwrap() {
            // An absent body is JSON's null.
            assert!(came.get(key).unwrap_or(&Value::Null) == value, "{key} came back otherwise");
        }
        assert_eq!(came["headers"], message["headers"]);
        assert_eq!(bench.ack(&queue, &came).status, 200);
    }
}

fn refused(bench: &mut Bench) {
    let queue = bench.queue();
    let large = "x".repeat(1024 * 1024 + 1);
    for (body, code) in [
        (json!({"body_text": large}), "too-large"),
        (json!({"body_text": "a", "body": 1}), "bad-value"),
        (json!({"body_base64": "?"}), "bad-value"),
        (json!({"body_text": "a", "delay_s": -1}), "out-of-range"),
        (json!({"body_text": "a", "priority": 1e9 as i64}), "out-of-range"),
        (json!({"body_text": "a", "hedaers": {}}), "unknown-field"),
        (json!({"command": ["true"]}), "queue-kind"),
    ] {
        let answer = bench.post(&queue, "messages", &body);
        assert_eq!(answer.code(), code, "{}", answer.text());
    }
    let answer = bench.server.post("/v1/queues/nowhere/receive", "{}");
    assert_eq!((answer.status, answer.code().as_str()), (404, "unknown-queue"));
    let foreign = bench.post(&queue, "ack", &json!({"lease": "0123456789abcdef"}));
    assert_eq!((foreign.status, foreign.code().as_str()), (409, "no-lease"));
    assert_eq!(bench.counts(&queue), [0, 0, 0, 0]);
}
