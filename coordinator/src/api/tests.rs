//! The API over a real socket, with an engine that a test answers for and a real store.
mod flows;
mod following;
mod refusals;

use super::*;
use crate::effect::Reply;
use crate::hub::Hub;
use crate::input::Input;
use crate::store::read::fixture::{Fixture, NOW};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use reeve_protocol::Problem;
use reeve_protocol::api::{Event, StateCounts};
use serde_json::Value;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Longest wait for a fact; only a failing test waits so long.
const BOUND: Duration = Duration::from_secs(30);

type Brain = dyn Fn(Call) -> Result<Reply, Problem> + Send + Sync;

/// Everything around the API.
pub(super) struct Bench {
    pub(super) fixture: Fixture,
    hub: Arc<Hub>,
    sessions: Arc<Sessions>,
    segments: Arc<Segments>,
    reads: Arc<ReadPool>,
    handle: Handle,
    calls: Arc<Mutex<Vec<Call>>>,
    brain: Arc<Mutex<Arc<Brain>>>,
    stop: watch::Sender<bool>,
    serving: Mutex<Option<JoinHandle<()>>>,
}

impl Bench {
    pub(super) fn new() -> Self {
        let fixture = Fixture::new();
        // Whoever runs the test owns the jobs, so that `last`, names and keys are theirs.
        fixture.run(&format!("UPDATE jobs SET owner_uid = {} WHERE owner = 'ana'", uid()));
        let (handle, mut inputs, callers) = Handle::for_tests();
        let calls: Arc<Mutex<Vec<Call>>> = Arc::default();
        let none: Arc<Brain> = Arc::new(|call| {
            Err(Problem::new(reeve_protocol::Code::Internal, format!("not expected: {call:?}")))
        });
        let brain = Arc::new(Mutex::new(none));
        let (seen, think) = (calls.clone(), brain.clone());
        tokio::spawn(async move {
            while let Some(input) = inputs.recv().await {
                if let Input::Call { ticket, call, .. } = input {
                    seen.lock().unwrap().push(call.clone());
                    let brain = think.lock().unwrap().clone();
                    callers.answer(ticket, brain(call));
                }
            }
        });
        let reads = Arc::new(ReadPool::open(&fixture.path()).unwrap());
        let segments = Arc::new(Segments::open(&fixture.dir.path().join("output")).unwrap());
        let (hub, sessions) = (Arc::new(Hub::new(10)), Arc::new(Sessions::default()));
        let bench = Self {
            fixture,
            hub,
            sessions,
            segments,
            reads,
            handle,
            calls,
            brain,
            stop: watch::Sender::new(false),
            serving: Mutex::default(),
        };
        let listener = bind(&bench.socket()).unwrap();
        *bench.serving.lock().unwrap() =
            Some(tokio::spawn(serve(bench.state(uid()), listener, bench.stop.subscribe())));
        bench
    }

    fn socket(&self) -> PathBuf {
        self.fixture.dir.path().join("c.sock")
    }

    fn state(&self, owner_uid: u32) -> State {
        State {
            backends: Arc::default(),
            handle: self.handle.clone(),
            hub: self.hub.clone(),
            reads: self.reads.clone(),
            segments: self.segments.clone(),
            sessions: self.sessions.clone(),
            mint: TokenMint {
                cluster: "0".repeat(16),
                ca_hash: "a".repeat(64),
                addresses: vec!["head:7373".into()],
            },
            info: Info {
                cluster: "0".repeat(16),
                name: "lab".into(),
                lineage: "l".into(),
                epoch: 3,
                dir: self.fixture.dir.path().into(),
                listen: "[::]:7373".into(),
                started: Instant::now(),
            },
            owner_uid,
        }
    }

    /// What handlers see, without a socket.
    pub(super) fn app(&self, owner_uid: u32) -> Arc<App> {
        Arc::new(App::new(self.state(owner_uid), self.stop.subscribe()))
    }

    /// From now on the engine answers so.
    fn engine(&self, brain: impl Fn(Call) -> Result<Reply, Problem> + Send + Sync + 'static) {
        *self.brain.lock().unwrap() = Arc::new(brain);
    }

    /// What the engine was asked so far.
    fn asked(&self) -> Vec<Call> {
        self.calls.lock().unwrap().clone()
    }

    async fn connect(&self) -> SendRequest<Full<Bytes>> {
        let stream = UnixStream::connect(self.socket()).await.unwrap();
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        sender
    }

    /// One request on a connection of its own; the answer's body is still to come.
    async fn open(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Response<hyper::body::Incoming> {
        let mut request = Request::builder().method(method).uri(path).header("host", "anything");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::copy_from_slice(body.as_bytes()))).unwrap();
        let mut sender = self.connect().await;
        let response = timeout(BOUND, sender.send_request(request)).await.unwrap().unwrap();
        // The connection lives as long as the sender, and a follower's answer as long as the connection.
        tokio::spawn(async move {
            let _ = sender.ready().await;
            std::future::pending::<()>().await;
        });
        response
    }

    async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answered {
        let (parts, body) = self.open(method, path, headers, body).await.into_parts();
        let bytes = timeout(BOUND, body.collect()).await.unwrap().unwrap().to_bytes();
        Answered {
            status: parts.status.as_u16(),
            headers: parts.headers,
            text: String::from_utf8_lossy(&bytes).into_owned(),
        }
    }

    async fn get(&self, path: &str) -> Answered {
        self.ask("GET", path, &[], "").await
    }

    async fn post(&self, path: &str, body: &str) -> Answered {
        self.ask("POST", path, &[("content-type", "application/json")], body).await
    }

    /// Tells observers about a commit.
    fn commit(&self, seq: u64, ended: &[reeve_protocol::TaskId]) {
        let event: Event = serde_json::from_value(event(seq)).unwrap();
        self.fixture.run(&format!("INSERT INTO events VALUES ({seq}, {NOW}, 4, '{}')", event_text(seq)));
        self.hub.publish(vec![event], seq, ended);
    }

    /// Stops serving and waits for it.
    async fn stop(&self) {
        let _ = self.stop.send(true);
        let serving = self.serving.lock().unwrap().take();
        if let Some(serving) = serving {
            timeout(BOUND, serving).await.unwrap().unwrap();
        }
    }
}

struct Answered {
    status: u16,
    headers: hyper::HeaderMap,
    text: String,
}

impl Answered {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {}", self.text))
    }

    fn lines(&self) -> Vec<Value> {
        self.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }
}

/// A body that goes on, line by line.
struct Lines {
    body: hyper::body::Incoming,
    buffer: String,
}

impl Lines {
    fn new(response: Response<hyper::body::Incoming>) -> Self {
        assert_eq!(response.status(), 200);
        Self { body: response.into_body(), buffer: String::new() }
    }

    /// The next line; `None` at the end.
    async fn next(&mut self) -> Option<String> {
        loop {
            if let Some((line, rest)) = self.buffer.split_once('\n') {
                let (line, rest) = (line.to_owned(), rest.to_owned());
                self.buffer = rest;
                return Some(line);
            }
            let frame = timeout(BOUND, self.body.frame()).await.unwrap()?.ok()?;
            self.buffer.push_str(std::str::from_utf8(frame.data_ref()?).unwrap());
        }
    }

    async fn json(&mut self) -> Value {
        serde_json::from_str(&self.next().await.unwrap()).unwrap()
    }
}

fn uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn event(seq: u64) -> Value {
    serde_json::json!({"seq": seq, "at": "2026-11-24T10:00:00Z", "kind": "job", "id": 4, "actor": "coordinator"})
}

fn event_text(seq: u64) -> String {
    event(seq).to_string()
}

/// An engine that gives every submitted job the next number.
fn numbering() -> impl Fn(Call) -> Result<Reply, Problem> + Send + Sync + 'static {
    let next = Mutex::new(100);
    move |call| {
        let mut next = next.lock().unwrap();
        let mut number = || {
            *next += 1;
            *next - 1
        };
        match call {
            Call::Submit { .. } => {
                let submitted =
                    serde_json::json!({"id": number(), "state": "QUEUED", "substate": "waiting", "seq": 11});
                Ok(Reply::Submitted(serde_json::from_value(submitted).unwrap(), false))
            }
            Call::SubmitMany { specs, .. } => {
                Ok(Reply::Many(specs.iter().map(|_| Ok(number())).collect(), 11))
            }
            other => Err(Problem::new(reeve_protocol::Code::Internal, format!("not expected: {other:?}"))),
        }
    }
}

fn counts(queued: u64) -> StateCounts {
    StateCounts { queued, ..StateCounts::default() }
}
