//! The one error that leaves a coordinator: RFC 9457 problem details with a stable code and a hint.
use crate::nearest::nearest;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Whether a refused change can have happened all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It did not happen and will not.
    Rejected,
    /// It may have happened: ask again with the same key, or look.
    Unknown,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident $name:literal $status:literal $title:literal;)*) => {
        /// Stable names of what can go wrong. Each has a paragraph in docs/errors.md.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code { $($(#[$doc])* $variant,)* }

        impl Code {
            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The kebab-case name.
            pub const fn name(self) -> &'static str { match self { $(Self::$variant => $name,)* } }

            /// The HTTP status.
            pub const fn status(self) -> u16 { match self { $(Self::$variant => $status,)* } }

            /// The short human-readable summary of the type.
            pub const fn title(self) -> &'static str { match self { $(Self::$variant => $title,)* } }
        }
    };
}

codes! {
    /// The body is not JSON.
    JsonSyntax "json-syntax" 400 "The body is not valid JSON";
    /// A field that does not exist.
    UnknownField "unknown-field" 400 "A field is not known";
    /// A query parameter that does not exist.
    UnknownParameter "unknown-parameter" 400 "A query parameter is not known";
    /// The same field twice.
    DuplicateField "duplicate-field" 400 "A field appears twice";
    /// A value of the wrong type, or a missing field.
    BadValue "bad-value" 400 "A value does not fit its field";
    /// A number outside its bounds.
    OutOfRange "out-of-range" 400 "A number is outside its bounds";
    /// A name that breaks the grammar.
    BadName "bad-name" 400 "A name has characters that are not allowed";
    /// A command that cannot be run anywhere.
    BadCommand "bad-command" 400 "The command cannot be run";
    /// A repository that cannot be named like this.
    BadUrl "bad-url" 400 "The repository's URL cannot be used";
    /// A branch, tag or commit that cannot be named like this.
    BadRef "bad-ref" 400 "The ref cannot be used";
    /// An environment entry that cannot be set.
    BadEnv "bad-env" 400 "An environment variable cannot be set";
    /// Something that is not an id.
    BadId "bad-id" 400 "Not a job id";
    /// An idempotency key that breaks the grammar.
    BadKey "bad-key" 400 "The idempotency key is not usable";
    /// A filter that does not parse.
    BadFilter "bad-filter" 400 "The filter has a mistake";
    /// A cursor of another list.
    BadCursor "bad-cursor" 400 "The cursor is not one of this list";
    /// Not HTTP.
    BadRequest "bad-request" 400 "The request is not HTTP";
    /// The body is empty.
    BodyRequired "body-required" 400 "A body is required";
    /// Another uid than the owner's while roles do not exist.
    SingleUser "single-user" 403 "This coordinator serves one user";
    /// A job cannot run as that user.
    RunAsDenied "run-as-denied" 403 "Not allowed to run as that user";
    /// Nothing has that id.
    NotFound "not-found" 404 "There is no such thing";
    /// No queue has that name.
    UnknownQueue "unknown-queue" 404 "There is no such queue";
    /// No path of the API.
    UnknownPath "unknown-path" 404 "There is no such path";
    /// The path exists with another method.
    MethodNotAllowed "method-not-allowed" 405 "The path does not take this method";
    /// The client stopped sending.
    RequestTimeout "request-timeout" 408 "The request did not arrive in time";
    /// The move is not legal from the present state.
    WrongState "wrong-state" 409 "The job's state does not allow this";
    /// The same key with another content.
    KeyReused "key-reused" 409 "The key was used with another content";
    /// A name that something else has.
    NameTaken "name-taken" 409 "The name belongs to something else";
    /// The queue is of the other kind.
    QueueKind "queue-kind" 409 "The queue holds another kind of thing";
    /// The queue is paused, full or not empty.
    QueueState "queue-state" 409 "The queue does not allow this now";
    /// The attempt is not the current one.
    StaleAttempt "stale-attempt" 409 "The attempt is not the current one";
    /// The lease is not held.
    NoLease "no-lease" 409 "The lease is not held";
    /// The plan was run, or is too old.
    PlanGone "plan-gone" 409 "The plan cannot be run any more";
    /// Events of that age are gone.
    Pruned "pruned" 410 "The history does not reach back that far";
    /// Larger than allowed.
    TooLarge "too-large" 413 "Larger than allowed";
    /// The body is of a type that is not taken.
    MediaType "media-type" 415 "The content type is not taken";
    /// The headers are too large.
    HeadersTooLarge "headers-too-large" 431 "The headers are too large";
    /// Too many at once.
    Overloaded "overloaded" 429 "Too much at once";
    /// Something broke inside.
    Internal "internal" 500 "The coordinator made a mistake";
    /// Designed, not built yet.
    NotYet "not-yet" 501 "This version cannot do that yet";
    /// No route takes a message with these labels.
    Unroutable "unroutable" 409 "No route takes this message";
    /// A queue's backend has no such thing.
    BackendCannot "backend-cannot" 409 "The queue's backend cannot do this";
    /// A queue's broker is not there, or cannot be used.
    BackendUnusable "backend-unusable" 503 "A broker cannot be used";
    /// A static worker's replica went away, or answered nonsense.
    WorkerLost "worker-lost" 502 "The worker went away with the request";
    /// A static worker said no.
    WorkerError "worker-error" 502 "The worker answered with an error";
    /// A static worker has as much waiting as it may.
    Busy "busy" 503 "The worker has too much to do";
    /// A static worker that nobody has launched.
    NoReplicas "no-replicas" 503 "The worker has no replicas";
    /// A request's deadline has passed.
    DeadlineExceeded "deadline-exceeded" 504 "The worker did not answer in time";
    /// The coordinator is stopping, or lost its store.
    Unavailable "unavailable" 503 "The coordinator cannot answer now";
    /// The disk is nearly full.
    StorageFull "storage-full" 507 "The coordinator's disk is full";
    /// The client cannot reach a coordinator.
    NoCoordinator "no-coordinator" 503 "No coordinator was found";
}

impl Code {
    /// The code with that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|c| c.name() == name)
    }
}

/// What a caller gets instead of an answer. Media type `application/problem+json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// `urn:reeve:problem:CODE`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The short summary of the code.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What happened this time, in a sentence.
    pub detail: String,
    /// The stable name.
    pub code: String,
    /// What to do next.
    pub hint: String,
    /// Whether it can have happened all the same.
    pub outcome: Outcome,
}

impl Problem {
    /// A rejection with this code. `detail` must not repeat more than a little of untrusted input.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("urn:reeve:problem:{}", code.name()),
            title: code.title().to_owned(),
            status: code.status(),
            detail: crate::text::Clean::short(&detail.into(), 500).into_string(),
            code: code.name().to_owned(),
            hint: String::new(),
            outcome: Outcome::Rejected,
        }
    }

    /// With what to do next.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = crate::text::Clean::short(&hint.into(), 400).into_string();
        self
    }

    /// Marks that the change can have happened.
    pub fn unknown(mut self) -> Self {
        self.outcome = Outcome::Unknown;
        self
    }

    /// Whether it has this code.
    pub fn is(&self, code: Code) -> bool {
        self.code == code.name()
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}]", self.detail, self.code)?;
        if !self.hint.is_empty() {
            write!(f, "\n  {}", self.hint)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problem {}

/// Parses JSON that a caller sent; what is wrong becomes a problem that points at it.
///
/// # Errors
/// `body-required`, `json-syntax` with the place, `unknown-field` with the nearest, `duplicate-field` or `bad-value`.
pub fn parse_json<'de, T: Deserialize<'de>>(body: &'de [u8]) -> Result<T, Problem> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Err(Problem::new(Code::BodyRequired, "the body is empty")
            .hint("send a JSON object with content-type: application/json"));
    }
    serde_json::from_slice(body).map_err(|e| json_problem(&e))
}

/// The same of what has to be an object: serde also takes an array for a structure, field by field, which nobody means.
///
/// # Errors
/// As [`parse_json`], and `bad-value`.
pub fn parse_object<'de, T: Deserialize<'de>>(body: &'de [u8]) -> Result<T, Problem> {
    if body.trim_ascii_start().starts_with(b"[") {
        let _: serde::de::IgnoredAny = parse_json(body)?;
        return Err(Problem::new(Code::BadValue, "this is an array, and has to be an object")
            .hint("send a JSON object: {..}"));
    }
    parse_json(body)
}

/// Turns a parser's error into a problem.
pub fn json_problem(error: &serde_json::Error) -> Problem {
    use serde_json::error::Category;
    let text = error.to_string();
    match error.classify() {
        Category::Data => data_problem(&text),
        Category::Syntax | Category::Eof | Category::Io => {
            let place = format!("line {}, column {}", error.line(), error.column());
            let what = text.split(" at line ").next().unwrap_or("not JSON").to_owned();
            Problem::new(Code::JsonSyntax, format!("{what} ({place})"))
                .hint("check the JSON, for example with: python3 -m json.tool")
        }
    }
}

/// serde words its data errors itself; the field names stand between backquotes.
fn data_problem(text: &str) -> Problem {
    let quoted: Vec<&str> = text.split('`').skip(1).step_by(2).collect();
    let message = text.split(" at line ").next().unwrap_or(text).to_owned();
    if let Some(rest) = text.strip_prefix("unknown field `") {
        let field = rest.split('`').next().unwrap_or("");
        let known = &quoted[1.min(quoted.len())..];
        let problem = Problem::new(
            Code::UnknownField,
            format!("unknown field {:?}", crate::text::Clean::short(field, 64).as_str()),
        );
        return match nearest(field, known.iter().copied()) {
            Some(near) => problem.hint(format!("did you mean {near:?}?")),
            None => problem.hint(format!("known fields: {}", known.join(", "))),
        };
    }
    if text.starts_with("duplicate field") {
        return Problem::new(Code::DuplicateField, message).hint("each field may appear once");
    }
    Problem::new(Code::BadValue, message).hint("see /v1/openapi.json for the type of each field")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize, Debug)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only parsed")]
    struct Probe {
        priority: i32,
        queue: Option<String>,
    }

    #[test]
    fn each_mistake_has_its_code_and_a_hint() {
        let cases = [
            ("", "body-required", "send"),
            ("{", "json-syntax", "json.tool"),
            ("{\"priority\":1}x", "json-syntax", "json.tool"),
            (r#"{"priorty":1}"#, "unknown-field", "priority"),
            (r#"{"zebra":1}"#, "unknown-field", "known fields"),
            (r#"{"priority":1,"priority":2}"#, "duplicate-field", "once"),
            (r#"{"priority":1.5}"#, "bad-value", "openapi"),
            (r#"{"priority":1e400}"#, "json-syntax", ""),
        ];
        for (body, code, hint) in cases {
            let problem = parse_json::<Probe>(body.as_bytes()).unwrap_err();
            assert_eq!(problem.code, code, "{body}: {problem:?}");
            assert!(problem.hint.contains(hint), "{body}: {problem:?}");
            assert_eq!(problem.status, 400);
        }
    }

    #[test]
    fn an_array_is_no_object() {
        let code = |body: &[u8]| parse_object::<Probe>(body).unwrap_err().code.clone();
        assert_eq!(
            (code(b" [1,\"q\"]"), code(b"[1"), code(b"")),
            ("bad-value".into(), "json-syntax".into(), "body-required".into())
        );
        assert!(parse_object::<Probe>(b" {\"priority\":1}").is_ok());
    }

    #[test]
    fn details_carry_no_control_characters() {
        assert!(!Problem::new(Code::BadName, "a\u{1b}[31mb").detail.contains('\u{1b}'));
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = Code::ALL.iter().map(|c| c.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Code::ALL.len());
        assert_eq!(Code::from_name("not-yet"), Some(Code::NotYet));
    }
}
