//! The end of a handler: JSON, or a problem with its status. Every error that leaves is `application/problem+json`.
use crate::effect::Reply;
use crate::store;
use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use reeve_protocol::{Code, Problem};
use serde::Serialize;

/// The media type of one JSON value.
pub(super) const JSON: &str = "application/json";
/// The media type of one JSON value a line.
pub(super) const NDJSON: &str = "application/x-ndjson";
const PROBLEM: &str = "application/problem+json";

/// What a handler gives.
pub(super) type Answer = Result<Response, Failure>;

/// A problem on its way out.
#[derive(Debug)]
pub(super) struct Failure(pub(super) Problem);

/// The code of a problem, beside the response that carries it: for the audit.
#[derive(Clone, Debug)]
pub(super) struct Refused(pub(super) String);

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl From<store::Error> for Failure {
    /// Details of the store's own troubles belong into the log, not to a caller.
    fn from(error: store::Error) -> Self {
        if store::read::is_interrupted(&error) {
            return Self(
                Problem::new(Code::Overloaded, "the search took too long and was ended")
                    .hint("narrow it, for example with state:, queue:, since: or id:, or order it by id"),
            );
        }
        tracing::error!(error = %error, "a read of the store failed");
        Self(
            Problem::new(Code::Internal, "the store could not be read")
                .hint("the coordinator's log says why"),
        )
    }
}

impl From<reeve_protocol::filter::Error> for Failure {
    fn from(error: reeve_protocol::filter::Error) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Failure {
    fn into_response(mut self) -> Response {
        if self.0.hint.is_empty() {
            self.0 = self.0.clone().hint(format!("docs/errors.md says more under {}", self.0.code));
        }
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = with_type(status, PROBLEM, bytes_of(&self.0));
        response.extensions_mut().insert(Refused(self.0.code));
        response
    }
}

/// 200 with JSON.
pub(super) fn json<T: Serialize>(value: &T) -> Response {
    json_with(StatusCode::OK, value)
}

/// JSON with another status.
pub(super) fn json_with<T: Serialize>(status: StatusCode, value: &T) -> Response {
    with_type(status, JSON, bytes_of(value))
}

/// 200 with text.
pub(super) fn text(media_type: &'static str, text: String) -> Response {
    with_type(StatusCode::OK, media_type, text.into_bytes())
}

/// Types of `protocol::api` always serialise: their maps have string keys and nothing else in serde_json fails.
fn bytes_of<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

fn with_type(status: StatusCode, media_type: &'static str, body: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

/// The engine answered with something that does not belong to the call.
pub(super) fn unexpected(reply: &Reply) -> Failure {
    tracing::error!(?reply, "the engine gave an answer of another call");
    Failure(Problem::new(Code::Internal, "the coordinator gave an answer of another call").unknown())
}

/// A thing that does not exist, with the nearest that does.
pub(super) fn missing<'a>(
    code: Code,
    what: &str,
    name: &str,
    known: impl Iterator<Item = &'a str> + Clone,
) -> Failure {
    let short = reeve_protocol::text::Clean::short(name, 64);
    let problem = Problem::new(code, format!("there is no {what} {:?}", short.as_str()));
    Failure(match reeve_protocol::nearest::nearest(name, known) {
        Some(near) => problem.hint(format!("did you mean {near:?}?")),
        None => problem.hint(format!("see: reeve {what} ls")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_error_tells_the_caller_nothing_of_the_inside() {
        let failure = Failure::from(store::Error::Value("secret".into()));
        assert_eq!(failure.0.code, "internal");
        assert!(!failure.0.to_string().contains("secret"));
        let response = failure.into_response();
        assert_eq!(response.status(), 500);
        assert_eq!(response.headers()[header::CONTENT_TYPE], PROBLEM);
    }

    #[test]
    fn a_missing_thing_names_the_nearest() {
        let known = ["default", "vision"];
        assert!(
            missing(Code::UnknownQueue, "queue", "vison", known.into_iter()).0.hint.contains("\"vision\"")
        );
        assert!(
            missing(Code::UnknownQueue, "queue", "zzzz", known.into_iter()).0.hint.contains("reeve queue ls")
        );
    }
}
