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
///
/// # Errors
/// Why no request has its own.
pub(super) fn results(
    replica: AttemptId,
    ids: &[RequestId],
    status: StatusCode,
    body: &[u8],
) -> Result<Vec<Answer>, String> {
    let results: Vec<&RawValue> =
        serde_json::from_slice(body).map_err(|_| format!("it answered {status} without a JSON array"))?;
    if results.len() != ids.len() {
        return Err(format!("it answered {} requests with {} results", ids.len(), results.len()));
    }
    let each = ids.iter().zip(results).map(|(id, result)| {
        if result.get().len() > MAX_ANSWER {
            let why = format!("its answer has more than {} KiB", MAX_ANSWER / 1024);
            return answer(replica, *id, outcome::BAD, why.into_bytes(), false);
        }
        answer(replica, *id, outcome::RESULT, result.get().as_bytes().to_vec(), false)
    });
    Ok(each.collect())
}

/// All of them get the same.
pub(super) fn failed(
    replica: AttemptId,
    ids: &[RequestId],
    (outcome, why, retry): (u16, &str, bool),
) -> Vec<Answer> {
    ids.iter().map(|id| answer(replica, *id, outcome, why.as_bytes().to_vec(), retry)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use reeve_protocol::ids::TaskId;

    #[test]
    fn each_request_gets_its_own_result_and_a_wrong_count_is_nobodys() {
        let replica = TaskId::single(1).attempt(1);
        let ids: Vec<RequestId> = (0..2).map(|call| RequestId { attempt: None, call }).collect();
        let of = |body: &[u8]| {
            let answers = results(replica, &ids, StatusCode::OK, body).unwrap();
            let text = |a: &Answer| (a.outcome, String::from_utf8_lossy(&a.body).into_owned(), a.retry);
            answers.iter().map(text).collect::<Vec<_>>()
        };
        assert_eq!(
            of(br#"[{"a": 1},null]"#),
            [(outcome::RESULT, r#"{"a": 1}"#.to_owned(), false), (outcome::RESULT, "null".to_owned(), false)]
        );
        let why = |body| results(replica, &ids, StatusCode::OK, body).unwrap_err();
        for (bad, said) in [(&b"[1]"[..], "2 requests with 1"), (b"[1,2,3]", "2 requests with 3")] {
            assert!(why(bad).contains(said), "{}", why(bad));
        }
        for bad in [&b"{}"[..], b"", b"[1,"] {
            assert!(why(bad).contains("200 OK without a JSON array"), "{}", why(bad));
        }
        let large = format!("[1,\"{}\"]", "x".repeat(MAX_ANSWER));
        let answers = of(large.as_bytes());
        assert_eq!(
            (answers[0].0, answers[1].0),
            (outcome::RESULT, outcome::BAD),
            "its neighbour has its own"
        );
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
