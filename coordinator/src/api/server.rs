//! Connections: HTTP/1.1 and h2c told apart by their first bytes, the caller by the kernel, and an end to both.
use super::guests::Guests;
use super::polite::Polite;
use super::reply::{Failure, Refused};
use super::{App, State, routes};
use crate::input::Input;
use crate::row::Caller;
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use reeve_protocol::text::Clean;
use reeve_protocol::{Code, Problem};
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service;

/// Connections at once. Beyond it, those that never asked anything make room; if all have, more wait to be accepted.
const CONNECTIONS: usize = 1000;
/// For one of them to go; then the next is asked to.
const GIVING_WAY: Duration = Duration::from_millis(100);
/// All headers of a request together.
const HEADERS: usize = 64 * 1024;
/// Longest time for the headers of a request, and for a connection without one.
const HEADER_TIME: Duration = Duration::from_secs(10);
/// Time for answers in flight when the coordinator stops.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Characters of a refused request's method and path that the audit keeps.
const OBJECT: usize = 200;
/// Characters of a request's name that the audit keeps.
const NAMED: usize = 128;
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Serves until told to stop, then gives answers in flight a moment.
pub async fn serve(state: State, listener: UnixListener, shutdown: watch::Receiver<bool>) {
    let app = Arc::new(App::new(state, shutdown));
    let door = Arc::new(Door::new(app.clone(), HEADER_TIME));
    let (slots, open) = (Arc::new(Semaphore::new(CONNECTIONS)), TaskTracker::new());
    loop {
        let next = async {
            let (stream, _) = listener.accept().await?;
            Ok::<_, std::io::Error>((place(&slots, &door.guests).await, stream))
        };
        let accepted = tokio::select! {
            next = next => next,
            () = app.stopped() => break,
        };
        match accepted {
            Ok((slot, stream)) => {
                let door = door.clone();
                open.spawn(async move {
                    door.connection(stream).await;
                    drop(slot);
                });
            }
            Err(error) => {
                // Out of descriptors, mostly: they come back when connections end.
                tracing::warn!(%error, "could not accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    open.close();
    if tokio::time::timeout(LAST_WORDS, open.wait()).await.is_err() {
        door.kill.cancel();
        open.wait().await;
    }
}

/// A place for one more connection, as soon as somebody who never asked anything, or anybody else, has gone.
async fn place(slots: &Arc<Semaphore>, guests: &Guests) -> Option<OwnedSemaphorePermit> {
    loop {
        let waiting = slots.clone().acquire_owned();
        if slots.available_permits() > 0 {
            return waiting.await.ok();
        }
        guests.make_room();
        if let Ok(slot) = tokio::time::timeout(GIVING_WAY, waiting).await {
            return slot.ok();
        }
    }
}

/// What all connections share.
struct Door {
    app: Arc<App>,
    router: Router,
    owner_uid: u32,
    header_time: Duration,
    /// Looking a name up may ask a directory server: once per uid is enough.
    names: Mutex<HashMap<u32, Arc<str>>>,
    guests: Guests,
    kill: CancellationToken,
}

impl Door {
    fn new(app: Arc<App>, header_time: Duration) -> Self {
        let (router, owner_uid) = (routes::router(app.clone()), app.owner_uid);
        Self {
            app,
            router,
            owner_uid,
            header_time,
            names: Mutex::default(),
            guests: Guests::default(),
            kill: CancellationToken::new(),
        }
    }

    async fn connection(self: Arc<Self>, stream: UnixStream) {
        let caller = match stream.peer_cred() {
            Ok(peer) => Caller::new(peer.uid(), self.name_of(peer.uid())),
            Err(error) => return tracing::warn!(%error, "the kernel does not say who connected"),
        };
        let mut builder = Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(self.header_time).max_buf_size(HEADERS);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_header_list_size(HEADERS as u32)
            .max_concurrent_streams(256);
        let guest = self.guests.enter(&self.kill);
        let asked = &guest.has_asked;
        let service = {
            let (door, asked) = (self.clone(), asked.clone());
            hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
                asked.store(true, Ordering::Relaxed);
                door.clone().answer(caller.clone(), request.map(Body::new))
            })
        };
        let connection = builder.serve_connection(TokioIo::new(Polite::new(stream)), service);
        tokio::pin!(connection);
        let mut stopping = false;
        // Telling HTTP/1.1 from h2c has no bound of its own, so the first request has one here.
        let first = tokio::time::sleep(self.header_time);
        tokio::pin!(first);
        let mut waiting = true;
        loop {
            tokio::select! {
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "a connection broke off");
                    }
                    break;
                }
                () = &mut first, if waiting => {
                    if !asked.load(Ordering::Relaxed) {
                        break;
                    }
                    waiting = false;
                }
                () = self.app.stopped(), if !stopping => {
                    stopping = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = guest.leave.cancelled() => break,
            }
        }
        self.guests.leave(&guest);
    }

    async fn answer(
        self: Arc<Self>,
        mut caller: Caller,
        mut request: Request,
    ) -> Result<Response, Infallible> {
        let id = request.headers().get(&REQUEST_ID).filter(|id| id.len() <= 128).cloned();
        caller.request = named(request.headers());
        // Who may not come in at all is noted whatever was asked; else only what would have changed something.
        let welcome = caller.uid == self.owner_uid || caller.uid == 0;
        let asked = (!welcome || !matches!(*request.method(), Method::GET | Method::HEAD))
            .then(|| (caller.clone(), format!("{} {}", request.method(), request.uri().path())));
        let mut response = if welcome {
            request.extensions_mut().insert(caller);
            self.router.clone().call(request).await?
        } else {
            refuse(&caller)
        };
        if let (Some((caller, object)), Some(Refused(code))) = (asked, response.extensions_mut().remove())
            && response.status().is_client_error()
        {
            let object = Clean::short(&object, OBJECT).into_string();
            self.app.handle.note(Input::Refused { caller, object, code });
        }
        if let Some(id) = id {
            response.headers_mut().insert(REQUEST_ID, id);
        }
        // Answers differ from caller to caller and from moment to moment.
        response
            .headers_mut()
            .entry(hyper::header::CACHE_CONTROL)
            .or_insert(HeaderValue::from_static("no-store"));
        Ok(response)
    }

    fn name_of(&self, uid: u32) -> Arc<str> {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let name = names.entry(uid).or_insert_with(|| {
            let user = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid)).ok().flatten();
            user.map_or_else(|| uid.to_string(), |user| user.name).into()
        });
        name.clone()
    }
}

/// What the caller calls its request, for the audit: the idempotency key, else the request id.
fn named(headers: &HeaderMap) -> Option<Arc<str>> {
    let given = headers.get("idempotency-key").or_else(|| headers.get(&REQUEST_ID))?;
    Some(Clean::short(given.to_str().ok()?, NAMED).as_str().into())
}

fn refuse(caller: &Caller) -> Response {
    let problem = Problem::new(
        Code::SingleUser,
        format!("user {} is not the one this coordinator serves", caller.name),
    )
    .hint("run your own with: reeve up");
    Failure(problem).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::tests::Bench;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn another_user_is_refused_whatever_is_asked_and_root_is_not() {
        let bench = Bench::new();
        let door = Arc::new(Door::new(bench.app(1000), HEADER_TIME));
        let ask = |uid: u32, path: &str| {
            let request =
                Request::builder().uri(path).header("x-request-id", "r1").body(Body::empty()).unwrap();
            door.clone().answer(Caller::new(uid, "x"), request)
        };
        for path in ["/version", "/v1/jobs", "/nowhere"] {
            let refused = ask(1001, path).await.unwrap();
            assert_eq!(refused.status(), 403, "{path}");
            assert_eq!(refused.headers()["content-type"], "application/problem+json");
            assert_eq!(refused.headers()["x-request-id"], "r1");
        }
        for uid in [0, 1000] {
            assert_eq!(ask(uid, "/version").await.unwrap().status(), 200);
        }
    }

    #[tokio::test]
    async fn a_client_that_does_not_finish_its_headers_is_cut() {
        let bench = Bench::new();
        let door = Arc::new(Door::new(bench.app(0), Duration::from_millis(20)));
        for start in ["", "P", "PRI * HTTP/2.0", "GET /version HTTP/1.1\r\nhost:"] {
            let (mut client, server) = UnixStream::pair().unwrap();
            let serving = tokio::spawn(door.clone().connection(server));
            client.write_all(start.as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            let _ = client.read_to_end(&mut answer).await;
            assert!(!answer.starts_with(b"HTTP/1.1 200"), "{start:?}");
            serving.await.unwrap();
        }
    }
}
