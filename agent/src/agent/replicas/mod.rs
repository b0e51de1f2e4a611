//! Replicas of static workers on this machine: told how far they are, given requests, their answers passed on. Nothing here
//! has to survive this process: which replicas there are stands in the runtime directory, and an answer names its
//! request. What another life of the agent had asked is asked again by the coordinator.
mod batch;
mod http;
mod line;
mod stdio;
mod together;

use super::outbox::Outbox;
use crate::guardian::replica::{ABOUT, About, DIR};
use batch::{Gather, Next};
use http::Http;
use reeve_protocol::ids::AttemptId;
use reeve_protocol::wire::{
    Answer, Answers, InFlight, Replica as Spoken, ReplicaState, Replicas as Told, Request, RequestId, Start,
    kind, outcome, replica_phase as phase,
};
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use stdio::Stdio;

/// Items of a page.
const PAGE: usize = 1_000;
/// Bytes of answers in one frame: one more fits in any case.
const FRAME: usize = 512 * 1024;
/// Answers that wait for the next session; beyond, the oldest go, and the coordinator asks again.
const UNSENT: usize = 10_000;
/// Between two words about the progress of one replica.
const PROGRESS: Duration = Duration::from_millis(200);
/// Largest answer.
pub(super) const MAX_ANSWER: usize = 256 * 1024;

/// Every replica here. Outlives sessions; cheap to clone.
#[derive(Clone)]
pub(crate) struct Replicas(Arc<Shared>);

struct Shared {
    /// The keeper's runtime directory.
    dir: PathBuf,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    list: HashMap<AttemptId, Replica>,
    /// Attempts that will be replicas once they have started.
    expected: HashSet<AttemptId>,
    /// Where to the session's words go; `None` while there is none.
    up: Option<Outbox>,
    unsent: Vec<Answer>,
    /// Attempts of the inventory that is being told.
    seen: HashSet<AttemptId>,
    /// Ports given out lately, so that two replicas that start together do not get the same.
    ports: HashMap<u16, Instant>,
}

struct Replica {
    state: ReplicaState,
    told_at: Option<Instant>,
    requests: HashSet<RequestId>,
    way: Way,
    /// It takes its requests in batches.
    gather: Option<Arc<Gather>>,
}

#[derive(Clone)]
enum Way {
    Stdio(Arc<Stdio>),
    Http(Arc<Http>),
}

impl Way {
    /// Its tasks hold it; without this they would go on.
    fn close(&self) {
        match self {
            Self::Stdio(stdio) => stdio.close(),
            Self::Http(http) => http.close(),
        }
    }
}

impl Replicas {
    pub(crate) fn new(dir: &Path) -> Self {
        Self(Arc::new(Shared { dir: dir.to_owned(), inner: Mutex::default() }))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A replica is to be started: one that speaks HTTP gets a port.
    ///
    /// # Errors
    /// No port is free.
    pub(crate) fn expect(&self, start: &mut Start, replica: &mut Spoken) -> std::io::Result<()> {
        let mut inner = self.lock();
        inner.expected.insert(start.attempt);
        if replica.protocol != 0 {
            replica.port = free_port(&mut inner.ports)?;
            start.env.push(("PORT".to_owned(), replica.port.to_string()));
        }
        Ok(())
    }

    /// It is given back without having been started.
    pub(crate) fn expect_no_more(&self, attempt: AttemptId) {
        self.lock().expected.remove(&attempt);
    }

    /// The keeper tells what it has: what is not in the whole of it is over.
    pub(crate) fn inventory(&self, items: impl Iterator<Item = (AttemptId, bool)>) {
        for (attempt, started) in items {
            self.lock().seen.insert(attempt);
            if started {
                self.attach(attempt);
            } else {
                self.lock().expected.insert(attempt);
            }
        }
    }

    /// The inventory is complete, and whatever is said from now on belongs to this session: where each replica is, which
    /// requests are known, and answers that nobody has heard.
    pub(crate) fn join(&self, up: &Outbox) {
        let mut inner = self.lock();
        let seen = std::mem::take(&mut inner.seen);
        inner.list.retain(|attempt, replica| {
            let here = seen.contains(attempt);
            if !here {
                replica.way.close();
            }
            here
        });
        inner.up = Some(up.clone());
        let states: Vec<ReplicaState> = inner.list.values().map(|r| r.state.clone()).collect();
        for page in states.chunks(PAGE) {
            up.say(kind::REPLICAS, 0, &Told { items: page.to_vec() });
        }
        let waiting = inner.unsent.iter().map(|a| (a.replica, a.id));
        let known = inner.list.iter().flat_map(|(attempt, r)| r.requests.iter().map(|id| (*attempt, *id)));
        let known: Vec<(AttemptId, RequestId)> = known.chain(waiting).collect();
        let mut pages = known.chunks(PAGE).peekable();
        if pages.peek().is_none() {
            up.say(kind::IN_FLIGHT, 0, &InFlight { items: Vec::new(), last: true });
        }
        while let Some(page) = pages.next() {
            up.say(kind::IN_FLIGHT, 0, &InFlight { items: page.to_vec(), last: pages.peek().is_none() });
        }
        say_answers(up, std::mem::take(&mut inner.unsent));
    }

    /// The session is over.
    pub(crate) fn part(&self) {
        let mut inner = self.lock();
        inner.up = None;
        inner.seen.clear();
    }

    /// An attempt's process exists.
    pub(crate) fn started(&self, attempt: AttemptId) {
        if self.lock().expected.remove(&attempt) {
            self.attach(attempt);
        }
    }

    /// An attempt has ended: what it had said by then still counts.
    pub(crate) fn ended(&self, attempt: AttemptId) {
        let way = {
            let mut inner = self.lock();
            inner.expected.remove(&attempt);
            inner.list.get(&attempt).map(|r| r.way.clone())
        };
        if let Some(Way::Stdio(stdio)) = &way {
            stdio.read_all(self);
        }
        if let Some(replica) = self.lock().list.remove(&attempt) {
            replica.way.close();
        }
    }

    /// Requests of the coordinator.
    pub(crate) fn ask(&self, requests: Vec<Request>) {
        let mut lost = Vec::new();
        for request in requests {
            let way = self.lock().list.get_mut(&request.replica).map(|r| {
                r.requests.insert(request.id);
                (r.way.clone(), r.gather.clone())
            });
            match way {
                Some((way, Some(gather))) => self.gather(&way, &gather, request),
                Some((Way::Stdio(stdio), None)) => stdio.ask(&request),
                Some((Way::Http(http), None)) => http.ask(self, vec![request], false),
                None => lost.push(answer(request.replica, request.id, outcome::LOST, Vec::new(), false)),
            }
        }
        self.answer(lost);
    }

    /// One more request of a replica that takes them in batches.
    fn gather(&self, way: &Way, gather: &Arc<Gather>, request: Request) {
        match gather.push(request) {
            Next::Go(requests) => self.ask_together(way, requests),
            Next::With => {}
            Next::Wait(round, delay) => {
                let (replicas, way, gather) = (self.clone(), way.clone(), gather.clone());
                tokio::spawn(async move {
                    tokio::time::sleep(delay).await;
                    replicas.ask_together(&way, gather.due(round));
                });
            }
        }
    }

    fn ask_together(&self, way: &Way, requests: Vec<Request>) {
        match way {
            _ if requests.is_empty() => {}
            Way::Stdio(stdio) => stdio.ask_together(&requests),
            Way::Http(http) => http.clone().ask(self, requests, true),
        }
    }

    /// Nobody waits for these any more.
    pub(crate) fn cancel(&self, items: Vec<(AttemptId, RequestId)>) {
        for (attempt, id) in items {
            let way = self.lock().list.get(&attempt).map(|r| (r.way.clone(), r.gather.clone()));
            let Some((way, gather)) = way else { continue };
            let waited = gather.is_some_and(|gather| gather.withdraw(id));
            // Over standard input nothing can be taken back: the answer will free the place.
            if waited || matches!(way, Way::Http(http) if http.cancel(id)) {
                self.answer(vec![answer(attempt, id, outcome::LOST, Vec::new(), false)]);
            }
        }
    }

    /// Answers of replicas, together as they came.
    fn answer(&self, answers: Vec<Answer>) {
        if answers.is_empty() {
            return;
        }
        let mut inner = self.lock();
        for answer in &answers {
            if let Some(replica) = inner.list.get_mut(&answer.replica) {
                replica.requests.remove(&answer.id);
            }
        }
        if let Some(up) = &inner.up {
            return say_answers(up, answers);
        }
        inner.unsent.extend(answers);
        let over = inner.unsent.len().saturating_sub(UNSENT);
        inner.unsent.drain(..over);
    }

    /// How far a replica is now.
    fn tell(&self, attempt: AttemptId, phase: u16, fraction: Option<f64>, message: Option<String>) {
        let mut inner = self.lock();
        let Some(replica) = inner.list.get_mut(&attempt) else { return };
        let state = ReplicaState { attempt, phase, fraction, message };
        let same = replica.state == state;
        let quick = replica.state.phase == phase && replica.told_at.is_some_and(|at| at.elapsed() < PROGRESS);
        if same || quick {
            return;
        }
        replica.state = state.clone();
        replica.told_at = Some(Instant::now());
        if let Some(up) = &inner.up {
            up.say(kind::REPLICAS, 0, &Told { items: vec![state] });
        }
    }

    /// The one request that a replica works on, if it is one.
    fn only_request(&self, attempt: AttemptId) -> Option<RequestId> {
        let inner = self.lock();
        let requests = &inner.list.get(&attempt)?.requests;
        requests.iter().next().copied().filter(|_| requests.len() == 1)
    }

    /// Whether a request is one that this replica works on.
    fn has_request(&self, attempt: AttemptId, id: RequestId) -> bool {
        self.lock().list.get(&attempt).is_some_and(|r| r.requests.contains(&id))
    }

    /// Whether a replica is there still.
    fn has(&self, attempt: AttemptId) -> bool {
        self.lock().list.contains_key(&attempt)
    }

    /// What a tracked request says about itself.
    fn progress(&self, progress: &reeve_protocol::wire::Progress) {
        if let Some(up) = &self.lock().up {
            up.say(kind::PROGRESS, 0, progress);
        }
    }

    /// Begins to speak with a replica whose process exists, if that attempt is one.
    fn attach(&self, attempt: AttemptId) {
        if self.lock().list.contains_key(&attempt) {
            return;
        }
        let dir = self.0.dir.join(DIR).join(attempt.file_name());
        let Ok(text) = std::fs::read(dir.join(ABOUT)) else { return };
        let way = serde_json::from_slice::<About>(&text).map_err(std::io::Error::other).and_then(|about| {
            let gather = Gather::new(about.batch).map(Arc::new);
            let way = match about.replica.protocol {
                0 => Way::Stdio(Arc::new(Stdio::open(attempt, &dir, gather.is_some())?)),
                _ => Way::Http(Arc::new(Http::new(attempt, about.replica))),
            };
            Ok((way, gather))
        });
        let (way, gather, state) = match way {
            Ok((way, gather)) => {
                let ready = matches!(&way, Way::Stdio(stdio) if stdio.is_ready());
                let phase = if ready { phase::READY } else { phase::STARTING };
                (way, gather, ReplicaState { attempt, phase, fraction: None, message: None })
            }
            Err(error) => {
                tracing::error!(%attempt, %error, "a replica cannot be spoken to");
                return;
            }
        };
        let replica = Replica {
            state: state.clone(),
            told_at: None,
            requests: HashSet::new(),
            way: way.clone(),
            gather,
        };
        {
            let mut inner = self.lock();
            inner.list.insert(attempt, replica);
            if let Some(up) = &inner.up {
                up.say(kind::REPLICAS, 0, &Told { items: vec![state] });
            }
        }
        match way {
            Way::Stdio(stdio) => stdio.run(self),
            Way::Http(http) => http.run(self),
        }
    }
}

fn answer(replica: AttemptId, id: RequestId, outcome: u16, body: Vec<u8>, retry: bool) -> Answer {
    Answer { replica, id, outcome, body, retry }
}

fn say_answers(up: &Outbox, answers: Vec<Answer>) {
    let (mut items, mut bytes) = (Vec::new(), 0);
    for answer in answers {
        let more = answer.body.len() + 100;
        if bytes + more > FRAME {
            up.say(kind::ANSWERS, 0, &Answers { items: std::mem::take(&mut items) });
            bytes = 0;
        }
        bytes += more;
        items.push(answer);
    }
    if !items.is_empty() {
        up.say(kind::ANSWERS, 0, &Answers { items });
    }
}

/// A port that nobody listens on. Somebody may take it before the replica does, which then ends and is started anew.
fn free_port(given: &mut HashMap<u16, Instant>) -> std::io::Result<u16> {
    given.retain(|_, at| at.elapsed() < Duration::from_mins(1));
    for _ in 0..100 {
        let port = std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        if given.insert(port, Instant::now()).is_none() {
            return Ok(port);
        }
    }
    Err(std::io::ErrorKind::AddrInUse.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use reeve_protocol::frame::Reader;
    use reeve_protocol::ids::TaskId;

    #[test]
    fn ports_that_were_given_are_not_given_again_at_once() {
        let mut given = HashMap::new();
        let ports: HashSet<u16> = (0..50).map(|_| free_port(&mut given).unwrap()).collect();
        assert_eq!(ports.len(), 50);
    }

    #[tokio::test]
    async fn what_nobody_could_hear_is_told_to_the_next_session_and_unknown_replicas_lose_their_requests() {
        let dir = tempfile::tempdir().unwrap();
        let replicas = Replicas::new(dir.path());
        let (replica, id) = (TaskId::single(1).attempt(1), RequestId { attempt: None, call: 7 });
        replicas.ask(vec![Request { replica, id, payload: b"1".to_vec(), timeout_ms: 0 }]);
        let up = Outbox::default();
        replicas.join(&up);
        let mut frames = Reader::new();
        frames.feed(&up.take(Vec::new()).await);
        let frame = frames.next_frame().unwrap().unwrap();
        assert_eq!(frame.decode::<InFlight>().unwrap(), InFlight { items: vec![(replica, id)], last: true });
        let frame = frames.next_frame().unwrap().unwrap();
        let answers: Answers = frame.decode().unwrap();
        assert_eq!((frame.kind, answers.items[0].outcome), (kind::ANSWERS, outcome::LOST));
    }
}
