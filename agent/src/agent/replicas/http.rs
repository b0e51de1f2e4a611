//! A replica that speaks HTTP: asked on its own port of this machine whether it is ready, and given each request as a POST.
//! A model server that knows nothing of reeve works unchanged.
use super::{MAX_ANSWER, Replicas, answer, together};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, StatusCode};
use hyper_util::rt::TokioIo;
use reeve_protocol::ids::AttemptId;
use reeve_protocol::text::Clean;
use reeve_protocol::wire::{Answer, Replica as About, Request, RequestId, outcome, replica_phase as phase};
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

/// Between two looks at a replica that is not ready: doubles up to the longest.
const SOON: Duration = Duration::from_millis(20);
const LATER: Duration = Duration::from_secs(1);
/// Between two looks at one that is.
const AGAIN: Duration = Duration::from_secs(10);
/// For an answer to a look.
const LOOK: Duration = Duration::from_secs(5);
/// Looks in a row that fail before it gets nothing new.
const PATIENCE: u32 = 3;
/// Connections that are kept for the next request.
const IDLE: usize = 64;

type Connection = SendRequest<Full<Bytes>>;

/// The way to one replica.
pub(super) struct Http {
    attempt: AttemptId,
    about: About,
    idle: Mutex<Vec<Connection>>,
    /// What is under way by its first request, and whether it is the only one.
    requests: Mutex<HashMap<RequestId, (AbortHandle, bool)>>,
    probe: Mutex<Option<AbortHandle>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A request without an answer.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("no connection")]
    Connect(#[from] io::Error),
    #[error("the connection broke")]
    Http(#[from] hyper::Error),
    #[error("the answer cannot be read: {0}")]
    Body(String),
    #[error("a request cannot be made")]
    Request(#[from] hyper::http::Error),
}

impl Http {
    pub(super) fn new(attempt: AttemptId, about: About) -> Self {
        Self { attempt, about, idle: Mutex::default(), requests: Mutex::default(), probe: Mutex::default() }
    }

    /// Looks whether it is ready, for as long as it is there.
    pub(super) fn run(self: Arc<Self>, replicas: &Replicas) {
        let task = tokio::spawn(probe(Arc::downgrade(&self), replicas.clone()));
        *lock(&self.probe) = Some(task.abort_handle());
    }

    /// Whatever is under way ends.
    pub(super) fn close(&self) {
        let requests: Vec<AbortHandle> = lock(&self.requests).drain().map(|(_, (task, _))| task).collect();
        for task in requests.into_iter().chain(lock(&self.probe).take()) {
            task.abort();
        }
        lock(&self.idle).clear();
    }

    /// More requests, to go together: one by itself unless `together`, which makes an array even of one.
    pub(super) fn ask(self: Arc<Self>, replicas: &Replicas, requests: Vec<Request>, together: bool) {
        let Some((id, alone)) = requests.first().map(|r| (r.id, requests.len() == 1)) else { return };
        let (http, replicas) = (self.clone(), replicas.clone());
        // Entered before it runs, so that its end finds the entry.
        let mut under_way = lock(&self.requests);
        let task = tokio::spawn(async move {
            let answers = if together {
                http.answers_to(requests).await
            } else {
                let mut answers = Vec::new();
                for request in requests {
                    answers.push(http.answer_to(request).await);
                }
                answers
            };
            if lock(&http.requests).remove(&id).is_some() {
                replicas.answer(answers);
            }
        });
        under_way.insert(id, (task.abort_handle(), alone));
    }

    /// Ends a request: the replica sees its connection end. True: it was under way. One of a batch goes on with the others,
    /// and its answer frees its place.
    pub(super) fn cancel(&self, id: RequestId) -> bool {
        let mut requests = lock(&self.requests);
        if !requests.get(&id).is_some_and(|(_, alone)| *alone) {
            return false;
        }
        requests.remove(&id).inspect(|(task, _)| task.abort()).is_some()
    }

    /// A batch. One that is answered without a result for each was ruined by some of it: each goes once more, alone, so that
    /// only those fail that fail by themselves.
    async fn answers_to(&self, requests: Vec<Request>) -> Vec<Answer> {
        let ids: Vec<RequestId> = requests.iter().map(|r| r.id).collect();
        match self.together(&requests).await {
            Ok(answers) => answers,
            Err((outcome, why, false)) if requests.len() > 1 => {
                tracing::debug!(attempt = %self.attempt, outcome, why, "a batch was ruined; each goes alone");
                let mut answers = Vec::with_capacity(requests.len());
                for one in requests.chunks(1) {
                    let alone = self.together(one).await;
                    answers.extend(alone.unwrap_or_else(|(outcome, why, retry)| {
                        together::failed(self.attempt, &[one[0].id], (outcome, &why, retry))
                    }));
                }
                answers
            }
            Err((outcome, why, retry)) => together::failed(self.attempt, &ids, (outcome, &why, retry)),
        }
    }

    /// Requests in one array; or what became of all of them: outcome, why, and whether they may be tried again.
    async fn together(&self, requests: &[Request]) -> Result<Vec<Answer>, (u16, String, bool)> {
        let ids: Vec<RequestId> = requests.iter().map(|r| r.id).collect();
        match self.post(together::body(requests).into(), MAX_ANSWER * ids.len()).await {
            Ok((status, body)) if status.is_success() => {
                together::results(self.attempt, &ids, status, &body).map_err(|why| (outcome::BAD, why, false))
            }
            Ok((status, body)) => {
                Err((outcome::ERROR, format!("HTTP {status}: {}", shown(&body)), is_again(status)))
            }
            Err(Error::Body(why)) => Err((outcome::BAD, why, false)),
            Err(error) => {
                tracing::debug!(attempt = %self.attempt, error = &error as &dyn std::error::Error, "a batch was lost");
                Err((outcome::LOST, String::new(), true))
            }
        }
    }

    async fn answer_to(&self, request: Request) -> Answer {
        let say = |outcome, body: Vec<u8>, retry| answer(self.attempt, request.id, outcome, body, retry);
        match self.post(request.payload.into(), MAX_ANSWER).await {
            Ok((status, body)) if status.is_success() => {
                if serde_json::from_slice::<serde::de::IgnoredAny>(&body).is_ok() {
                    say(outcome::RESULT, body.to_vec(), false)
                } else {
                    say(
                        outcome::BAD,
                        format!("it answered {status} with what is not JSON: {}", shown(&body)).into_bytes(),
                        false,
                    )
                }
            }
            Ok((status, body)) => {
                let words = format!("HTTP {status}: {}", shown(&body)).into_bytes();
                say(outcome::ERROR, words, is_again(status))
            }
            Err(Error::Body(why)) => say(outcome::BAD, why.into_bytes(), false),
            Err(error) => {
                tracing::debug!(attempt = %self.attempt, error = &error as &dyn std::error::Error, "a request was lost");
                say(outcome::LOST, Vec::new(), true)
            }
        }
    }

    async fn post(&self, payload: Bytes, most: usize) -> Result<(StatusCode, Bytes), Error> {
        let kept = lock(&self.idle).pop().filter(|c| !c.is_closed());
        if let Some(connection) = kept {
            match self.exchange(connection, Method::POST, &self.about.path, payload.clone(), most).await {
                // Closed by the other side before it had the request.
                Err(Error::Http(error)) if error.is_canceled() => {}
                done => return done,
            }
        }
        self.exchange(self.connect().await?, Method::POST, &self.about.path, payload, most).await
    }

    async fn connect(&self) -> Result<Connection, Error> {
        let stream = TcpStream::connect(("127.0.0.1", self.about.port)).await?;
        stream.set_nodelay(true)?;
        let (connection, driver) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(driver);
        Ok(connection)
    }

    async fn exchange(
        &self,
        mut connection: Connection,
        method: Method,
        path: &str,
        body: Bytes,
        most: usize,
    ) -> Result<(StatusCode, Bytes), Error> {
        connection.ready().await?;
        let mut request = hyper::Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, format!("127.0.0.1:{}", self.about.port));
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let response = connection.send_request(request.body(Full::new(body))?).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), most).collect().await;
        let body = body.map_err(|error| match error.downcast::<hyper::Error>() {
            Ok(broken) => Error::Http(*broken),
            Err(_) => Error::Body(format!("its answer has more than {} KiB", most / 1024)),
        })?;
        let mut idle = lock(&self.idle);
        if idle.len() < IDLE && !connection.is_closed() {
            idle.push(connection);
        }
        Ok((status, body.to_bytes()))
    }

    /// How it is now: its phase, and why.
    async fn look(&self) -> (u16, Option<String>) {
        let Some(path) = &self.about.ready else {
            return match TcpStream::connect(("127.0.0.1", self.about.port)).await {
                Ok(_) => (phase::READY, None),
                Err(_) => (phase::STARTING, Some(format!("nothing accepts on port {}", self.about.port))),
            };
        };
        let look =
            async { self.exchange(self.connect().await?, Method::GET, path, Bytes::new(), MAX_ANSWER).await };
        match timeout(LOOK, look).await {
            Ok(Ok((StatusCode::OK, _))) => (phase::READY, None),
            Ok(Ok((status, _))) => (phase::WARMING, Some(format!("{path} answers {status}"))),
            Ok(Err(Error::Connect(_))) => {
                (phase::STARTING, Some(format!("nothing accepts on port {}", self.about.port)))
            }
            Ok(Err(error)) => (phase::WARMING, Some(format!("{path}: {error}"))),
            Err(_) => (phase::WARMING, Some(format!("{path} does not answer"))),
        }
    }
}

/// Whether another try may succeed.
fn is_again(status: StatusCode) -> bool {
    [
        StatusCode::TOO_MANY_REQUESTS,
        StatusCode::BAD_GATEWAY,
        StatusCode::SERVICE_UNAVAILABLE,
        StatusCode::GATEWAY_TIMEOUT,
    ]
    .contains(&status)
}

async fn probe(http: Weak<Http>, replicas: Replicas) {
    let (mut pause, mut ready, mut failed) = (SOON, false, 0);
    loop {
        let Some(now) = http.upgrade() else { return };
        if !replicas.has(now.attempt) {
            return;
        }
        let (seen, why) = now.look().await;
        let attempt = now.attempt;
        let watched = now.about.ready.is_some();
        drop(now);
        if seen == phase::READY {
            (ready, failed) = (true, 0);
            replicas.tell(attempt, phase::READY, None, None);
            if !watched {
                // It accepts; whether it lives is seen from its process.
                return;
            }
        } else if ready {
            failed += 1;
            if failed >= PATIENCE {
                replicas.tell(attempt, phase::UNREADY, None, why);
            }
        } else {
            replicas.tell(attempt, seen, None, why);
        }
        sleep(if ready && failed == 0 { AGAIN } else { pause }).await;
        pause = if ready { LATER } else { (pause * 2).min(LATER) };
    }
}

fn shown(body: &[u8]) -> String {
    Clean::short(&String::from_utf8_lossy(&body[..body.len().min(2048)]), 1024).into_string()
}
