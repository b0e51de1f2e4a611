//! The lines of a replica that speaks JSON over its standard streams, each judged by itself: whatever it is, it touches at
//! most the request that it names. Pure.
use super::MAX_ANSWER;
use reeve_protocol::ids::AttemptId;
use reeve_protocol::text::Clean;
use reeve_protocol::wire::{Request, RequestId};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::io::Write as _;

/// A line longer than this is not kept: only an answer that is too large can be.
pub(super) const MAX_LINE: usize = MAX_ANSWER + 64 * 1024;
/// Of a longer one so much is kept, to find out whose answer it was.
const PREFIX: usize = 256;

/// What a line says.
#[derive(Debug, PartialEq)]
pub(super) enum Said {
    Ready,
    /// Loading, or at work on a request.
    Progress(Option<RequestId>, Option<f64>, Option<String>),
    Result(RequestId, Vec<u8>),
    Error(RequestId, Vec<u8>, bool),
    /// It makes no sense; whose answer it was meant to be, if that can be told, and why.
    Bad(Option<RequestId>, String),
    Empty,
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow, default)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "present")]
    result: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    error: Option<&'a RawValue>,
    #[serde(default)]
    retry: bool,
    #[serde(default)]
    ready: bool,
    #[serde(default)]
    progress: Option<f64>,
    #[serde(default)]
    message: Option<String>,
}

/// `null` is a result like any other.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// Judges one line.
pub(super) fn judge(bytes: &[u8]) -> Said {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Said::Empty;
    }
    let line: Line<'_> = match serde_json::from_slice(bytes) {
        Ok(line) => line,
        Err(error) => {
            return Said::Bad(named(bytes), format!("not a line of the protocol: {error}: {}", shown(bytes)));
        }
    };
    let id = match line.id.as_deref() {
        Some(word) => match id_of(word) {
            Some(id) => Some(id),
            None => return Said::Bad(None, format!("an answer to nobody's question: {}", shown(bytes))),
        },
        None => None,
    };
    match (id, line.result, line.error) {
        (Some(id), Some(result), None) => judged_result(id, result),
        (Some(id), None, Some(error)) => judged_error(id, error, line.retry),
        // Many programs write both, and null for the one that they do not mean.
        (Some(id), Some(result), Some(error))
            if [result, error].iter().any(|value| value.get() == "null") =>
        {
            if error.get() == "null" {
                return judged_result(id, result);
            }
            judged_error(id, error, line.retry)
        }
        (Some(id), Some(_), Some(_)) => Said::Bad(Some(id), "both a result and an error".to_owned()),
        (_, None, None) if line.progress.is_some() || line.message.is_some() => {
            let message = line.message.map(|m| m.chars().take(256).collect());
            Said::Progress(id, line.progress.filter(|p| p.is_finite()).map(|p| p.clamp(0.0, 1.0)), message)
        }
        (None, None, None) if line.ready => Said::Ready,
        (id, ..) => Said::Bad(id, format!("neither a result nor an error: {}", shown(bytes))),
    }
}

fn judged_result(id: RequestId, result: &RawValue) -> Said {
    if result.get().len() > MAX_ANSWER {
        return Said::Bad(Some(id), too_large());
    }
    Said::Result(id, result.get().as_bytes().to_vec())
}

fn judged_error(id: RequestId, error: &RawValue, retry: bool) -> Said {
    let text: String = serde_json::from_str(error.get()).unwrap_or_else(|_| error.get().to_owned());
    Said::Error(id, text.chars().take(4096).collect::<String>().into_bytes(), retry)
}

/// Judges a line that may be an array of answers, each by itself.
pub(super) fn judge_all(bytes: &[u8]) -> Vec<Said> {
    if bytes.trim_ascii_start().first() != Some(&b'[') {
        return vec![judge(bytes)];
    }
    match serde_json::from_slice::<Vec<&RawValue>>(bytes) {
        Ok(all) => all.into_iter().map(|one| judge(one.get().as_bytes())).collect(),
        Err(error) => vec![Said::Bad(None, format!("not an array of answers: {error}: {}", shown(bytes)))],
    }
}

/// What is known of a line that was too long to keep.
pub(super) fn too_long(prefix: &[u8]) -> Said {
    Said::Bad(named(prefix), too_large())
}

fn too_large() -> String {
    format!("its answer has more than {} KiB", MAX_ANSWER / 1024)
}

fn shown(bytes: &[u8]) -> String {
    Clean::short(&String::from_utf8_lossy(&bytes[..bytes.len().min(PREFIX)]), 120).into_string()
}

/// The request that something broken begins to answer: `{"id":"..` as the first member, as most write it.
fn named(bytes: &[u8]) -> Option<RequestId> {
    let text = std::str::from_utf8(bytes.get(..bytes.len().min(PREFIX))?);
    let text = text.unwrap_or_else(|e| std::str::from_utf8(&bytes[..e.valid_up_to()]).unwrap_or_default());
    let rest = text.trim_start().strip_prefix('{')?.trim_start().strip_prefix("\"id\"")?.trim_start();
    let rest = rest.strip_prefix(':')?.trim_start().strip_prefix('"')?;
    id_of(&rest[..rest.find('"')?])
}

/// How a request is called on the line: the digits of an attempt, or `c` and a number.
fn id_of(word: &str) -> Option<RequestId> {
    match word.strip_prefix('c') {
        Some(number) => Some(RequestId { attempt: None, call: number.parse().ok()? }),
        None => Some(RequestId { attempt: Some(AttemptId::from_file_name(word)?), call: 0 }),
    }
}

/// The line that asks; `deadline`: when nobody waits any more.
pub(super) fn question(request: &Request, deadline: Option<String>, out: &mut Vec<u8>) {
    object(request, deadline, out);
    out.push(b'\n');
}

/// The line that asks several questions at once: an array.
pub(super) fn questions(
    requests: &[Request],
    deadline: impl Fn(&Request) -> Option<String>,
    out: &mut Vec<u8>,
) {
    for (at, request) in requests.iter().enumerate() {
        out.push(if at == 0 { b'[' } else { b',' });
        object(request, deadline(request), out);
    }
    out.extend_from_slice(b"]\n");
}

fn object(request: &Request, deadline: Option<String>, out: &mut Vec<u8>) {
    // Writing into memory does not fail.
    let _ = match request.id.attempt {
        Some(attempt) => write!(out, "{{\"id\":\"{}\",\"payload\":", attempt.file_name()),
        None => write!(out, "{{\"id\":\"c{}\",\"payload\":", request.id.call),
    };
    // A payload may be written over several lines; outside strings JSON has no line ends that matter.
    out.extend(request.payload.iter().map(|b| if matches!(b, b'\n' | b'\r') { b' ' } else { *b }));
    if let Some(deadline) = deadline {
        let _ = write!(out, ",\"deadline\":\"{deadline}\"");
    }
    out.push(b'}');
}

#[cfg(test)]
mod tests {
    use super::*;
    use reeve_protocol::ids::TaskId;

    fn call(n: u64) -> RequestId {
        RequestId { attempt: None, call: n }
    }

    #[test]
    fn each_line_is_what_it_says() {
        let job = RequestId { attempt: Some(TaskId::of_array(7, 3).attempt(2)), call: 0 };
        for (line, wanted) in [
            (r#"{"ready":true}"#, Said::Ready),
            (
                r#"{"progress":0.3,"message":"weights"}"#,
                Said::Progress(None, Some(0.3), Some("weights".into())),
            ),
            (r#"{"id":"c5","result":null}"#, Said::Result(call(5), b"null".to_vec())),
            (r#"{"id":"7.3.2","result":{"a" : 1}}"#, Said::Result(job, br#"{"a" : 1}"#.to_vec())),
            (r#"{"id":"c1","error":"no","retry":true}"#, Said::Error(call(1), b"no".to_vec(), true)),
            (r#"{"id":"c1","error":{"x":1}}"#, Said::Error(call(1), br#"{"x":1}"#.to_vec(), false)),
            (r#"{"id":"c1","progress":2}"#, Said::Progress(Some(call(1)), Some(1.0), None)),
            (" \r", Said::Empty),
        ] {
            assert_eq!(judge(line.as_bytes()), wanted, "{line}");
        }
    }

    #[test]
    fn what_makes_no_sense_touches_only_the_request_that_it_names() {
        for (line, id) in [
            (&b"Loading model..."[..], None),
            (br#"{"id":"c5","result":"#, Some(call(5))),
            (br#"{ "id" : "c5", "result": NaN}"#, Some(call(5))),
            (b"{\"id\":\"c5\",\"result\":\"\xff\"}", Some(call(5))),
            (br#"{"id":"nobody","result":1}"#, None),
            (br#"{"id":"c5"}"#, Some(call(5))),
            (br#"{"id":"c5","result":1,"error":"x"}"#, Some(call(5))),
            (br#"{"result":1}"#, None),
            (b"[1]", None),
            (br#"{"id":5,"result":1}"#, None),
        ] {
            assert!(
                matches!(judge(line), Said::Bad(found, _) if found == id),
                "{}",
                String::from_utf8_lossy(line)
            );
        }
        let deep = format!("{{\"id\":\"c5\",\"result\":{}", "[".repeat(100_000));
        assert!(matches!(judge(deep.as_bytes()), Said::Bad(Some(_), _)));
        assert!(matches!(too_long(br#"{"id":"c9","result":"xxxx"#), Said::Bad(Some(id), _) if id == call(9)));
    }

    #[test]
    fn a_batch_is_one_line_and_its_answers_are_judged_one_by_one() {
        let replica = TaskId::single(1).attempt(1);
        let request = |n: u64| Request { replica, id: call(n), payload: b"1".to_vec(), timeout_ms: n };
        let mut out = Vec::new();
        questions(&[request(1), request(2)], |r| (r.timeout_ms > 1).then(|| "T".to_owned()), &mut out);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "[{\"id\":\"c1\",\"payload\":1},{\"id\":\"c2\",\"payload\":1,\"deadline\":\"T\"}]\n"
        );
        let all = judge_all(br#" [{"id":"c1","result":1},{"id":"c2"},7,{"id":"c3","error":"no"}]"#);
        assert!(
            matches!(&all[..], [Said::Result(a, _), Said::Bad(Some(b), _), Said::Bad(None, _), Said::Error(c, ..)]
                if [*a, *b, *c] == [call(1), call(2), call(3)]),
            "{all:?}"
        );
        assert!(matches!(&judge_all(br#"{"id":"c1","result":1}"#)[..], [Said::Result(..)]), "or alone");
        assert!(matches!(&judge_all(b"[1,")[..], [Said::Bad(None, _)]));
    }

    #[test]
    fn a_question_is_one_line() {
        let mut out = Vec::new();
        let replica = TaskId::single(1).attempt(1);
        let request =
            Request { replica, id: call(3), payload: b"{\n\"a\": \"x\\ny\"}".to_vec(), timeout_ms: 0 };
        question(&request, Some("2026-01-01T00:00:00Z".to_owned()), &mut out);
        let text = String::from_utf8(out).unwrap();
        assert_eq!(
            text,
            "{\"id\":\"c3\",\"payload\":{ \"a\": \"x\\ny\"},\"deadline\":\"2026-01-01T00:00:00Z\"}\n"
        );
    }
}
