//! The answer to a batch over HTTP: an array with one result for each request, in order. Pure.
use super::{MAX_ANSWER, answer};
use hyper::StatusCode;
use reeve_protocol::ids::AttemptId;
use reeve_protocol::wire::{Answer, Request, RequestId, outcome};
use serde_json::value::RawValue;

/// The body of the request: an array of the payloads.
pub(super) fn body(requests: &[Request]) -> Vec<u8> {
    let mut body = vec![b'['];
    for (at, request) in requests.iter().enumerate() {
        if at > 0 {
            body.push(b',');
        }
        body.extend_from_slice(&request.payload);
    }
    body.push(b']');
    body
}

/// What each request of a batch gets from the answer to the whole.
pub(super) fn results(replica: AttemptId, ids: &[RequestId], status: StatusCode, body: &[u8]) -> Vec<Answer> {
    let results: Vec<&RawValue> = match serde_json::from_slice(body) {
        Ok(results) => results,
        Err(_) => {
            return failed(replica, ids, outcome::BAD, &format!("it answered {status} without a JSON array"));
        }
    };
    if results.len() != ids.len() {
        let why = format!("it answered {} requests with {} results", ids.len(), results.len());
        return failed(replica, ids, outcome::BAD, &why);
    }
    let each = ids.iter().zip(results).map(|(id, result)| {
        if result.get().len() > MAX_ANSWER {
            let why = format!("its answer has more than {} KiB", MAX_ANSWER / 1024);
            return answer(replica, *id, outcome::BAD, why.into_bytes(), false);
        }
        answer(replica, *id, outcome::RESULT, result.get().as_bytes().to_vec(), false)
    });
    each.collect()
}

/// The whole batch failed: each may be tried again, and then goes alone. One that was alone is told as it is.
pub(super) fn failed(replica: AttemptId, ids: &[RequestId], outcome: u16, why: &str) -> Vec<Answer> {
    let why = match ids.len() {
        0 | 1 => why.to_owned(),
        n => format!("its batch of {n} failed as a whole: {why}"),
    };
    ids.iter().map(|id| answer(replica, *id, outcome, why.clone().into_bytes(), ids.len() > 1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use reeve_protocol::ids::TaskId;

    #[test]
    fn each_request_gets_its_own_result_and_a_wrong_count_is_everybodys() {
        let replica = TaskId::single(1).attempt(1);
        let ids: Vec<RequestId> = (0..2).map(|call| RequestId { attempt: None, call }).collect();
        let of = |body: &[u8]| {
            let answers = results(replica, &ids, StatusCode::OK, body);
            let text = |a: &Answer| (a.outcome, String::from_utf8_lossy(&a.body).into_owned(), a.retry);
            answers.iter().map(text).collect::<Vec<_>>()
        };
        assert_eq!(
            of(br#"[{"a": 1},null]"#),
            [(outcome::RESULT, r#"{"a": 1}"#.to_owned(), false), (outcome::RESULT, "null".to_owned(), false)]
        );
        for bad in [&b"[1]"[..], b"[1,2,3]", b"{}", b"", b"[1,"] {
            let answers = of(bad);
            assert!(answers.iter().all(|(code, why, retry)| *code == outcome::BAD
                && why.contains("batch of 2 failed")
                && *retry));
        }
        let large = format!("[1,\"{}\"]", "x".repeat(MAX_ANSWER));
        let answers = of(large.as_bytes());
        assert_eq!(
            (answers[0].0, answers[1].0),
            (outcome::RESULT, outcome::BAD),
            "its neighbour has its own"
        );
        let alone = failed(replica, &ids[..1], outcome::ERROR, "HTTP 500");
        assert_eq!((&alone[0].body[..], alone[0].retry), (&b"HTTP 500"[..], false));
    }

    #[test]
    fn the_payloads_are_an_array() {
        let request = |payload: &str| Request {
            replica: TaskId::single(1).attempt(1),
            id: RequestId { attempt: None, call: 1 },
            payload: payload.into(),
            timeout_ms: 0,
        };
        assert_eq!(body(&[request("1"), request("{\"a\":2}")]), b"[1,{\"a\":2}]");
        assert_eq!(body(&[request("null")]), b"[null]");
    }
}
