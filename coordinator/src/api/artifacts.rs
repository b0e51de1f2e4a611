//! Artifacts of a job: the list, and the bytes of one file, read from its segment piece by piece.
use super::reply::{Answer, Failure, json};
use super::request::Cx;
use super::select;
use super::stream::{FOLLOWER, Gone, Out, Shape, respond};
use super::{App, jobs};
use crate::input::Segment;
use crate::store::query::artifacts::{AttemptArtifacts, of_task};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use reeve_protocol::api::{ArtifactView, List, Total};
use reeve_protocol::artifact::Artifact;
use reeve_protocol::nearest::nearest;
use reeve_protocol::text::Clean;
use reeve_protocol::{Code, Problem, TaskId};
use std::sync::Arc;

/// Read from a segment at once.
const PIECE: usize = 256 * 1024;

/// `GET /v1/jobs/{job}/artifacts`.
pub(super) async fn list(cx: Cx) -> Answer {
    let query = cx.query(&["attempt"])?;
    let asked = query.number("attempt", 1..=u32::MAX)?;
    let (_, kept) = found(&cx, asked)?;
    let items: Vec<ArtifactView> = kept
        .into_iter()
        .flat_map(|kept| kept.files.into_iter().map(move |file| ArtifactView { attempt: kept.attempt, file }))
        .collect();
    let total = Total { value: items.len() as u64, exact: true };
    Ok(json(&List::new("ArtifactList", items, None, total)))
}

/// `GET /v1/jobs/{job}/artifacts/{name}`: of the newest attempt that has one, unless an attempt is named.
pub(super) async fn get(cx: Cx) -> Answer {
    let query = cx.query(&["attempt"])?;
    let asked = query.number("attempt", 1..=u32::MAX)?;
    let name = cx.param(1).to_owned();
    let (task, kept) = found(&cx, asked)?;
    let Some((attempt, file, segment)) = kept.iter().rev().find_map(|kept| kept.find(&name)) else {
        return Err(absent(task, &name, &kept));
    };
    let (from, to, partial) = range(cx.header(&header::RANGE), file.size)?;
    let app = cx.app.clone();
    let part = Segment { offset: segment.offset + from, len: to - from, ..segment };
    let shape = Shape { media_type: "application/octet-stream", size: FOLLOWER, patience: None };
    let mut response = respond(&cx.app, &shape, |out| send(app, part, out));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(to - from));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(HeaderName::from_static("reeve-attempt"), HeaderValue::from(attempt));
    headers.insert(HeaderName::from_static("reeve-mode"), HeaderValue::from(file.mode));
    if let Ok(digest) = HeaderValue::from_str(&file.sha256) {
        headers.insert(HeaderName::from_static("reeve-sha256"), digest);
    }
    if partial {
        let range = format!("bytes {from}-{}/{}", to.saturating_sub(1), file.size);
        if let Ok(range) = HeaderValue::from_str(&range) {
            headers.insert(header::CONTENT_RANGE, range);
        }
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    Ok(response)
}

/// The task that is meant, and what is kept of it, oldest attempt first.
fn found(cx: &Cx, attempt: Option<u32>) -> Result<(TaskId, Vec<AttemptArtifacts>), Failure> {
    let task = select::one(&cx.app, &cx.caller, cx.param(0))?;
    let view = jobs::view(&cx.app, task)?;
    if let Some(array) = &view.array {
        let problem =
            Problem::new(Code::BadId, format!("{task} is an array; each of its tasks has its own artifacts"));
        return Err(problem.hint(format!("name one task, such as {task}.{}", array.from)).into());
    }
    if attempt.is_some_and(|attempt| attempt > view.attempt) {
        return Err(Problem::new(Code::NotFound, format!("{task} has had {} attempts", view.attempt)).into());
    }
    let kept = cx.app.reads.point(|conn| of_task(conn, task.job, task.index_key(), attempt))?;
    Ok((task, kept))
}

fn absent(task: TaskId, name: &str, kept: &[AttemptArtifacts]) -> Failure {
    let shown = Clean::short(name, 100);
    let problem = Problem::new(Code::NotFound, format!("job {task} has no artifact {:?}", shown.as_str()));
    let names = kept.iter().flat_map(|kept| kept.files.iter().map(|file: &Artifact| file.name.as_str()));
    match nearest(name, names) {
        Some(near) => problem.hint(format!("did you mean {:?}?", Clean::short(near, 100).as_str())),
        None => problem
            .hint(format!("see: reeve get {task} --list; artifacts are there once an attempt has ended")),
    }
    .into()
}

/// One range of bytes, as `(from, to, whether it was asked for)`. What is no range of one part is answered whole.
fn range(asked: Option<&str>, size: u64) -> Result<(u64, u64, bool), Failure> {
    let whole = Ok((0, size, false));
    let Some((first, last)) = asked.and_then(|r| r.strip_prefix("bytes=")).and_then(|r| r.split_once('-'))
    else {
        return whole;
    };
    let (from, to) = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), Ok(last)) if first <= last => (first, last.saturating_add(1).min(size)),
        (Ok(first), Err(_)) if last.is_empty() => (first, size),
        (Err(_), Ok(last)) if first.is_empty() => (size.saturating_sub(last), size),
        _ => return whole,
    };
    if from >= to {
        let problem = Problem::new(
            Code::OutOfRange,
            format!("the file has {size} bytes, none of which is in that range"),
        );
        return Err(problem.hint("ask for a range that begins within the file").into());
    }
    Ok((from, to, true))
}

async fn send(app: Arc<App>, part: Segment, out: Out) -> Result<(), Gone> {
    let mut at = 0;
    while at < part.len {
        let segments = app.segments.clone();
        let read = tokio::task::spawn_blocking(move || segments.read(part, at, PIECE)).await;
        match read {
            Ok(Ok(piece)) if !piece.is_empty() => {
                at += piece.len() as u64;
                out.send(piece).await?;
            }
            Ok(Err(error)) => {
                // The length is out already: the answer ends too early, which the reader notices.
                tracing::warn!(%error, "an artifact could not be read on");
                return Err(Gone);
            }
            _ => return Err(Gone),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_range_is_answered_and_what_is_none_is_answered_whole() {
        let of = |asked| range(Some(asked), 100).ok();
        assert_eq!(range(None, 100).ok(), Some((0, 100, false)));
        assert_eq!(of("bytes=0-9"), Some((0, 10, true)));
        assert_eq!(of("bytes=90-"), Some((90, 100, true)));
        assert_eq!(of("bytes=-5"), Some((95, 100, true)));
        assert_eq!(of("bytes=90-1000"), Some((90, 100, true)));
        for odd in ["bytes=0-1,5-6", "lines=0-1", "bytes=x-y", "bytes=9-1", "bytes=-"] {
            assert_eq!(of(odd), Some((0, 100, false)), "{odd}");
        }
        assert!(range(Some("bytes=100-"), 100).is_err() && range(Some("bytes=0-"), 0).is_err());
    }
}
