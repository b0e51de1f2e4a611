//! The beginning of a handler: who asks, what the path and the query say, and the body with its limits.
use super::App;
use super::reply::{Failure, JSON};
use crate::row::Caller;
use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, RawPathParams, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use reeve_protocol::error::parse_object;
use reeve_protocol::nearest::nearest;
use reeve_protocol::text::Clean;
use reeve_protocol::{Code, Problem};
use serde::de::DeserializeOwned;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// A body that is one request.
pub(super) const BODY: usize = 1024 * 1024;
/// A JSON array of jobs.
pub(super) const BATCH_BODY: usize = 64 * 1024 * 1024;
/// Longest pause within a body.
const STALL: Duration = Duration::from_secs(30);

/// A body that has no fields: absent, empty or `{}`.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

/// One request.
pub(super) struct Cx {
    pub(super) app: Arc<App>,
    pub(super) caller: Caller,
    pub(super) parts: Parts,
    body: Body,
    path: Vec<String>,
}

impl FromRequest<Arc<App>> for Cx {
    type Rejection = Failure;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, Failure> {
        let (mut parts, body) = request.into_parts();
        let params = RawPathParams::from_request_parts(&mut parts, app).await;
        // Fails only for a path whose %-escapes are no UTF-8.
        let params = params.map_err(|_| Problem::new(Code::UnknownPath, "the path is no valid UTF-8"))?;
        let path = params.iter().map(|(_, value)| value.to_owned()).collect();
        let caller = parts.extensions.get::<Caller>().cloned();
        let caller =
            caller.ok_or_else(|| Problem::new(Code::Internal, "the caller of a request is not known"))?;
        Ok(Self { app: app.clone(), caller, parts, body, path })
    }
}

impl Cx {
    /// The path's parameter number `at`, decoded.
    pub(super) fn param(&self, at: usize) -> &str {
        self.path.get(at).map_or("", String::as_str)
    }

    /// The query, of which only these parameters are known.
    pub(super) fn query(&self, known: &'static [&'static str]) -> Result<Query, Failure> {
        Query::read(self.parts.uri.query().unwrap_or(""), known).map_err(Failure)
    }

    /// A header as text.
    pub(super) fn header(&self, name: &header::HeaderName) -> Option<&str> {
        self.parts.headers.get(name)?.to_str().ok()
    }

    /// Whether the caller would rather have this media type.
    pub(super) fn accepts(&self, media_type: &str) -> bool {
        let accept = self.parts.headers.get_all(header::ACCEPT);
        accept.iter().filter_map(|v| v.to_str().ok()).any(|v| v.contains(media_type))
    }

    /// A JSON body that must be there.
    pub(super) async fn json<T: DeserializeOwned>(self) -> Result<T, Failure> {
        self.json_within(BODY).await
    }

    /// The same with another limit.
    pub(super) async fn json_within<T: DeserializeOwned>(self, limit: usize) -> Result<T, Failure> {
        let headers = self.parts.headers.clone();
        let bytes = self.bytes(limit).await?;
        if !bytes.is_empty() {
            expect_json(&headers)?;
        }
        Ok(parse_object(&bytes)?)
    }

    /// A JSON body of which every field is optional, so that it may be empty.
    pub(super) async fn json_or_default<T: DeserializeOwned + Default>(self) -> Result<T, Failure> {
        let headers = self.parts.headers.clone();
        let bytes = self.bytes(BODY).await?;
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(T::default());
        }
        expect_json(&headers)?;
        Ok(parse_object(&bytes)?)
    }

    /// The body, whole.
    pub(super) async fn bytes(self, limit: usize) -> Result<Bytes, Failure> {
        let told =
            self.parts.headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
        if told.is_some_and(|n| n > limit as u64) {
            return Err(too_large(limit));
        }
        let mut pieces = self.pieces()?;
        let Some(first) = pieces.next().await? else { return Ok(Bytes::new()) };
        let mut all = BytesMut::new();
        let mut piece = Some(first);
        // Most bodies come in one piece, which is then not copied.
        while let Some(bytes) = piece {
            if all.len() + bytes.len() > limit {
                return Err(too_large(limit));
            }
            piece = pieces.next().await?;
            if piece.is_none() && all.is_empty() {
                return Ok(bytes);
            }
            all.extend_from_slice(&bytes);
        }
        Ok(all.freeze())
    }

    /// The body, as it comes.
    pub(super) fn pieces(self) -> Result<Pieces, Failure> {
        if let Some(coding) = self.parts.headers.get(header::CONTENT_ENCODING).filter(|v| *v != "identity") {
            let coding = Clean::short(coding.to_str().unwrap_or("?"), 32);
            let problem = Problem::new(Code::MediaType, format!("content-encoding {coding} is not taken"));
            return Err(problem.hint("send the body as it is, without compression").into());
        }
        Ok(Pieces(self.body))
    }
}

/// A body that is being received.
pub(super) struct Pieces(Body);

impl Pieces {
    /// The next bytes; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            let frame = tokio::time::timeout(STALL, self.0.frame()).await;
            let frame = frame.map_err(|_| {
                let detail = format!("nothing of the body came for {} s", STALL.as_secs());
                Problem::new(Code::RequestTimeout, detail).hint("send it again")
            })?;
            match frame {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    // Trailers say nothing here.
                    if let Some(data) = frame.into_data().ok().filter(|d| !d.is_empty()) {
                        return Ok(Some(data));
                    }
                }
                Some(Err(error)) => {
                    let problem = Problem::new(Code::BadRequest, format!("the body broke off: {error}"));
                    return Err(problem.hint("send it again, whole, and with the length that it has").into());
                }
            }
        }
    }
}

fn too_large(limit: usize) -> Failure {
    let problem = Problem::new(Code::TooLarge, format!("the body is larger than {limit} bytes"));
    Failure(problem.hint("send many jobs as application/x-ndjson, one a line: that is not bounded"))
}

/// The media type without its parameters, in lower case.
pub(super) fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    value.split(';').next().map(|t| t.trim().to_ascii_lowercase())
}

/// Refuses every body that does not say it is JSON: a browser's form cannot be mistaken for a request.
pub(super) fn expect_json(headers: &HeaderMap) -> Result<(), Failure> {
    let found = media_type(headers);
    if found.as_deref() == Some(JSON) {
        return Ok(());
    }
    let found = Clean::short(found.as_deref().unwrap_or("nothing"), 64);
    let problem = Problem::new(Code::MediaType, format!("the content type is {found}; this takes {JSON}"));
    Err(problem.hint("add the header: content-type: application/json").into())
}

/// A query string that was read.
#[derive(Debug)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    fn read(text: &str, known: &'static [&'static str]) -> Result<Self, Problem> {
        let uri = format!("/?{text}")
            .parse()
            .map_err(|_| Problem::new(Code::BadValue, "the query is not readable"))?;
        let pairs = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(&uri);
        let pairs = pairs.map_err(|_| Problem::new(Code::BadValue, "the query is not readable"))?.0;
        for (at, (name, _)) in pairs.iter().enumerate() {
            let short = Clean::short(name, 64);
            if !known.contains(&name.as_str()) {
                let problem = Problem::new(
                    Code::UnknownParameter,
                    format!("unknown query parameter {:?}", short.as_str()),
                );
                return Err(match (nearest(name, known.iter().copied()), known) {
                    (Some(near), _) => problem.hint(format!("did you mean {near:?}?")),
                    (None, []) => problem.hint("this path takes no query parameters"),
                    (None, known) => problem.hint(format!("known: {}", known.join(", "))),
                });
            }
            if pairs[..at].iter().any(|(other, _)| other == name) {
                return Err(Problem::new(
                    Code::DuplicateField,
                    format!("query parameter {short} appears twice"),
                ));
            }
        }
        Ok(Self(pairs))
    }

    /// A parameter, if it is there.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// `true` or `false`; absent is false, and a bare name is true.
    pub(super) fn flag(&self, name: &str) -> Result<bool, Failure> {
        match self.text(name) {
            None | Some("false" | "0") => Ok(false),
            Some("" | "true" | "1") => Ok(true),
            Some(other) => Err(bad(name, other, "true or false")),
        }
    }

    /// A number within bounds, if it is there.
    pub(super) fn number<T>(&self, name: &str, bounds: RangeInclusive<T>) -> Result<Option<T>, Failure>
    where
        T: FromStr + PartialOrd + std::fmt::Display,
    {
        let Some(text) = self.text(name) else { return Ok(None) };
        match text.parse::<T>() {
            Ok(n) if bounds.contains(&n) => Ok(Some(n)),
            Ok(n) => {
                let (low, high) = bounds.into_inner();
                Err(Problem::new(
                    Code::OutOfRange,
                    format!("{name} is {n}; it must be between {low} and {high}"),
                )
                .into())
            }
            Err(_) => Err(bad(name, text, "a number")),
        }
    }
}

fn bad(name: &str, value: &str, wanted: &str) -> Failure {
    let value = Clean::short(value, 64);
    Problem::new(Code::BadValue, format!("{name}={value} does not fit; it must be {wanted}")).into()
}

/// A number of seconds from a body, within bounds; as milliseconds.
pub(super) fn millis(name: &str, seconds: f64, bounds: RangeInclusive<f64>) -> Result<u64, Failure> {
    if bounds.contains(&seconds) {
        return Ok((seconds * 1000.0).round() as u64);
    }
    let (low, high) = bounds.into_inner();
    Err(Problem::new(Code::OutOfRange, format!("{name} is {seconds}; it must be between {low} and {high}"))
        .into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_held_to_what_is_known() {
        let known: &[&str] = &["filter", "limit"];
        let query = Query::read("filter=state%3Afailed+x&limit=5", known).unwrap();
        assert_eq!(query.text("filter"), Some("state:failed x"));
        assert_eq!(query.number("limit", 1..=10).unwrap(), Some(5));
        assert_eq!(query.number("limit", 6..=10).unwrap_err().0.code, "out-of-range");
        assert_eq!(query.number::<u32>("filter", 1..=2).unwrap_err().0.code, "bad-value");
        for (text, code, hint) in [
            ("fliter=x", "unknown-parameter", "filter"),
            ("zebra=x", "unknown-parameter", "known: filter"),
            ("limit=1&limit=2", "duplicate-field", ""),
        ] {
            let problem = Query::read(text, known).unwrap_err();
            assert_eq!(problem.code, code, "{text}");
            assert!(problem.hint.contains(hint), "{problem:?}");
        }
        assert!(Query::read("a=1", &[]).unwrap_err().hint.contains("no query"));
    }

    #[test]
    fn flags_are_words() {
        let query = Query::read("a=true&b=0&c=maybe&d", &["a", "b", "c", "d", "e"]).unwrap();
        assert!(query.flag("a").unwrap() && query.flag("d").unwrap());
        assert!(!query.flag("b").unwrap() && !query.flag("e").unwrap());
        assert_eq!(query.flag("c").unwrap_err().0.code, "bad-value");
    }

    #[test]
    fn seconds_are_bounded_and_not_a_number_is_outside() {
        assert_eq!(millis("x", 1.5, 0.0..=10.0).unwrap(), 1500);
        for bad in [-1.0, 11.0, f64::NAN, f64::INFINITY] {
            assert_eq!(millis("x", bad, 0.0..=10.0).unwrap_err().0.code, "out-of-range");
        }
    }

    #[test]
    fn a_media_type_is_compared_without_its_parameters() {
        let mut headers = HeaderMap::new();
        assert!(expect_json(&headers).is_err());
        headers.insert(header::CONTENT_TYPE, "Application/JSON; charset=utf-8".parse().unwrap());
        assert!(expect_json(&headers).is_ok());
        headers.insert(header::CONTENT_TYPE, "text/plain".parse().unwrap());
        assert_eq!(expect_json(&headers).unwrap_err().0.code, "media-type");
    }
}
