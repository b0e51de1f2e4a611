//! The HTTP client of the API: HTTP/1.1 over one stream per request in flight, kept and used again while free.
//!
//! Every failure is a [`Problem`], also those that no coordinator wrote. The client holds no state of the cluster and
//! decides nothing; it works on a current-thread runtime and is cheap to clone.
use crate::host::{Host, Link};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use reeve_protocol::error::json_problem;
use reeve_protocol::{Code, Problem};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc;

type Body = UnsyncBoxBody<Bytes, Infallible>;
type Sender = SendRequest<Body>;

/// The media type of a body that is one JSON value.
pub const JSON: &str = "application/json";
/// The media type of a body that is one JSON value a line.
pub const NDJSON: &str = "application/x-ndjson";

/// More connections than this are not kept: a burst must not leave the coordinator with idle sockets.
const KEPT: usize = 4;

/// A way to one coordinator.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    host: Host,
    idle: Mutex<Vec<Sender>>,
    answered: AtomicBool,
    /// Held so that the `ssh` of each link ends with the client.
    links: Mutex<Vec<Link>>,
}

/// A whole answer that is no problem.
#[derive(Debug)]
pub struct Reply {
    /// 200 to 399.
    pub status: u16,
    /// As received.
    pub headers: HeaderMap,
    /// All of it.
    pub body: Bytes,
}

impl Reply {
    /// The body as a value.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        serde_json::from_slice(&self.body).map_err(|error| {
            Problem::new(
                Code::Internal,
                format!("the answer is not what was expected: {}", json_problem(&error).detail),
            )
            .hint("the coordinator may be of another version: compare `reeve --version` with `reeve status`")
            .unknown()
        })
    }

    /// A header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

impl Client {
    /// A client that has made its first connection, so that an absent coordinator is known at once.
    pub async fn connect(host: Host) -> Result<Self, Problem> {
        let client = Self::new(host);
        let sender = client.open().await?;
        client.keep(sender);
        Ok(client)
    }

    /// A client that connects when it is first used.
    pub fn new(host: Host) -> Self {
        Self {
            inner: Arc::new(Inner {
                host,
                idle: Mutex::default(),
                answered: AtomicBool::new(false),
                links: Mutex::default(),
            }),
        }
    }

    /// Where it leads.
    pub fn host(&self) -> &Host {
        &self.inner.host
    }

    /// Whether the coordinator has ever answered: then its silence may be a restart.
    pub fn has_answered(&self) -> bool {
        self.inner.answered.load(Ordering::Relaxed)
    }

    /// `GET`, JSON out.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Problem> {
        self.call(Method::GET, path, &[], None).await?.json()
    }

    /// `POST`, JSON in and out.
    pub async fn post<B: Serialize, T: DeserializeOwned>(&self, path: &str, body: &B) -> Result<T, Problem> {
        self.call(Method::POST, path, &[("content-type", JSON)], Some(to_bytes(body)?)).await?.json()
    }

    /// `PUT`, JSON in and out.
    pub async fn put<B: Serialize, T: DeserializeOwned>(&self, path: &str, body: &B) -> Result<T, Problem> {
        self.call(Method::PUT, path, &[("content-type", JSON)], Some(to_bytes(body)?)).await?.json()
    }

    /// `POST` with headers of one's own and the answer whole.
    pub async fn post_with(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        bytes: Bytes,
    ) -> Result<Reply, Problem> {
        self.call(Method::POST, path, headers, Some(bytes)).await
    }

    /// Any request whose answer is small enough to be held.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<Bytes>,
    ) -> Result<Reply, Problem> {
        let (sender, response) = self.send(method, path, headers, body).await?;
        let (parts, body) = response.into_parts();
        let body = body.collect().await.map_err(|error| lost(&error))?.to_bytes();
        self.inner.answered.store(true, Ordering::Relaxed);
        self.keep(sender);
        let status = parts.status.as_u16();
        if status >= 400 {
            return Err(problem_of(status, &body));
        }
        Ok(Reply { status, headers: parts.headers, body })
    }

    /// An answer that is read as it comes.
    pub async fn stream(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<Bytes>,
    ) -> Result<Stream, Problem> {
        let (sender, response) = self.send(method, path, headers, body).await?;
        self.streamed(sender, response).await
    }

    /// An answer of lines that is read as it comes.
    pub async fn lines(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
        accept: &str,
    ) -> Result<Lines, Problem> {
        let mut headers = vec![("accept", accept)];
        if body.is_some() {
            headers.push(("content-type", JSON));
        }
        Ok(Lines::new(self.stream(method, path, &headers, body).await?))
    }

    /// A request whose body is still being made while its answer is read. The body ends when the sending half is
    /// dropped.
    pub async fn upload(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        mut body: mpsc::Receiver<Bytes>,
    ) -> Result<Lines, Problem> {
        let frames = futures_util::stream::poll_fn(move |context| body.poll_recv(context))
            .map(|bytes| Ok::<_, Infallible>(Frame::data(bytes)));
        // A body cannot be sent twice, so a kept connection that may have died is not good enough.
        let mut sender = self.open().await?;
        let request = request(&Method::POST, path, headers, StreamBody::new(frames).boxed_unsync())?;
        let response = sender.send_request(request).await.map_err(|error| lost(&error))?;
        Ok(Lines::new(self.streamed(sender, response).await?))
    }

    async fn streamed(&self, sender: Sender, response: Response<Incoming>) -> Result<Stream, Problem> {
        let (parts, body) = response.into_parts();
        let status = parts.status.as_u16();
        if status >= 400 {
            let body = body.collect().await.map_err(|error| lost(&error))?.to_bytes();
            return Err(problem_of(status, &body));
        }
        Ok(Stream { headers: parts.headers, body, back: Some((self.clone(), sender)) })
    }

    /// Sends on a kept connection, or on a new one when there is none or the kept one had been closed meanwhile.
    async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<Bytes>,
    ) -> Result<(Sender, Response<Incoming>), Problem> {
        let full = |bytes: Option<Bytes>| Full::new(bytes.unwrap_or_default()).boxed_unsync();
        while let Some(mut sender) = self.kept() {
            if sender.ready().await.is_err() {
                continue;
            }
            match sender.send_request(request(&method, path, headers, full(body.clone()))?).await {
                Ok(response) => return Ok((sender, response)),
                // Not one byte of it left this process.
                Err(error) if error.is_canceled() => {}
                Err(error) if method == Method::GET && !error.is_parse() => {}
                Err(error) => return Err(lost(&error)),
            }
        }
        let mut sender = self.open().await?;
        let response = sender
            .send_request(request(&method, path, headers, full(body))?)
            .await
            .map_err(|error| lost(&error))?;
        Ok((sender, response))
    }

    async fn open(&self) -> Result<Sender, Problem> {
        let (stream, link) = self.inner.host.dial().await?;
        if let Some(link) = link {
            self.inner.links.lock().unwrap_or_else(PoisonError::into_inner).push(link);
        }
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|error| lost(&error))?;
        // Its errors reach whoever waits for the answer, by the sender.
        tokio::spawn(connection);
        Ok(sender)
    }

    fn kept(&self) -> Option<Sender> {
        let mut idle = self.inner.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(sender) = idle.pop() {
            if !sender.is_closed() {
                return Some(sender);
            }
        }
        None
    }

    fn keep(&self, sender: Sender) {
        let mut idle = self.inner.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < KEPT {
            idle.push(sender);
        }
    }
}

/// The bytes of an answer as they come. Dropped before its end it closes its connection, which is how a follower
/// tells the coordinator to stop.
pub struct Stream {
    /// As received.
    pub headers: HeaderMap,
    body: Incoming,
    back: Option<(Client, Sender)>,
}

impl Stream {
    /// The next bytes; `None` at the end.
    pub async fn next(&mut self) -> Option<Result<Bytes, Problem>> {
        loop {
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Some(Ok(data));
                    }
                }
                Some(Err(error)) => return Some(Err(lost(&error))),
                None => {
                    if let Some((client, sender)) = self.back.take() {
                        client.keep(sender);
                    }
                    return None;
                }
            }
        }
    }
}

/// The lines of an answer as they come, without their line feeds.
pub struct Lines {
    stream: Stream,
    buffer: BytesMut,
    /// Bytes at the front of `buffer` known to hold no line feed: a long line is searched once, not once per piece.
    searched: usize,
    ended: bool,
}

impl Lines {
    fn new(stream: Stream) -> Self {
        Self { stream, buffer: BytesMut::new(), searched: 0, ended: false }
    }

    /// The headers of the answer.
    pub fn headers(&self) -> &HeaderMap {
        &self.stream.headers
    }

    /// The next line that is not empty; `None` at the end. A last line without a line feed counts.
    pub async fn next(&mut self) -> Option<Result<Bytes, Problem>> {
        loop {
            if let Some(at) = self.buffer[self.searched..].iter().position(|b| *b == b'\n') {
                let mut line = self.buffer.split_to(self.searched + at + 1);
                line.truncate(line.len() - 1);
                self.searched = 0;
                if line.is_empty() {
                    continue;
                }
                return Some(Ok(line.freeze()));
            }
            self.searched = self.buffer.len();
            if self.ended {
                let rest = self.buffer.split().freeze();
                self.searched = 0;
                return (!rest.is_empty()).then_some(Ok(rest));
            }
            match self.stream.next().await {
                Some(Ok(bytes)) => self.buffer.extend_from_slice(&bytes),
                Some(Err(problem)) => {
                    // What had arrived of the last line is worth nothing.
                    self.ended = true;
                    self.searched = 0;
                    self.buffer.clear();
                    return Some(Err(problem));
                }
                None => self.ended = true,
            }
        }
    }

    /// The next line as a value.
    pub async fn next_json<T: DeserializeOwned>(&mut self) -> Option<Result<T, Problem>> {
        let line = match self.next().await? {
            Ok(line) => line,
            Err(problem) => return Some(Err(problem)),
        };
        Some(serde_json::from_slice(&line).map_err(|error| {
            Problem::new(Code::Internal, format!("a line of the answer is not what was expected: {error}"))
        }))
    }
}

fn request(
    method: &Method,
    path: &str,
    headers: &[(&str, &str)],
    body: Body,
) -> Result<Request<Body>, Problem> {
    let bad = |what: &str| Problem::new(Code::BadValue, format!("{what} cannot be sent"));
    let mut request = Request::new(body);
    *request.method_mut() = method.clone();
    *request.uri_mut() = path.parse().map_err(|_| bad(path))?;
    let map = request.headers_mut();
    map.insert("host", HeaderValue::from_static("reeve"));
    for (name, value) in headers {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad(name))?;
        map.insert(name, HeaderValue::from_str(value).map_err(|_| bad(value))?);
    }
    Ok(request)
}

fn to_bytes<B: Serialize>(body: &B) -> Result<Bytes, Problem> {
    serde_json::to_vec(body)
        .map(Bytes::from)
        .map_err(|error| Problem::new(Code::BadValue, format!("the request cannot be written: {error}")))
}

/// What a refused request says. A body that is no problem comes from something that is no coordinator.
fn problem_of(status: u16, body: &[u8]) -> Problem {
    serde_json::from_slice(body).unwrap_or_else(|_| {
        let text = String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
        Problem::new(Code::Internal, format!("the answer was {status} {text}"))
            .hint("is the other end a reeve coordinator?")
            .unknown()
    })
}

/// The connection ended before the answer did.
fn lost(error: &hyper::Error) -> Problem {
    Problem::new(Code::Unavailable, format!("the connection to the coordinator was lost: {error}"))
        .hint("ask again: `reeve status` shows whether it is there")
        .unknown()
}

/// Escapes one segment or value of a path: everything but what RFC 3986 calls unreserved.
pub fn escape(text: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~@".contains(&byte) {
            out.push(byte as char);
        } else {
            // Writing into a string cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
#[path = "client_test.rs"]
mod tests;
