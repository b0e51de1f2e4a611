//! The port as a machine sees it: real QUIC over loopback, and a test in the engine's place.
mod identity;
mod output;

use super::sessions::Sessions;
use super::*;
use crate::effect::{Reply, ToAgent};
use crate::input::{AgentSaid, Call, Input};
use quinn::{Connection, ConnectionError, Endpoint, RecvStream, SendStream};
use rcgen::{CertificateParams, KeyPair};
use reeve_protocol::frame::{self, Frame};
use reeve_protocol::ids::TaskId;
use reeve_protocol::wire::{self, close, kind};
use reeve_protocol::{AttemptId, Cause, Code, Problem, quic, token};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::future::Future;
use std::time::Duration;
use tokio::sync::mpsc;

const CLUSTER: &str = "00112233445566aa";

/// Waits for a fact; ten seconds mean that it never comes.
async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(10), future).await.expect("this comes within ten seconds")
}

/// A coordinator whose engine is this test.
struct Head {
    dir: tempfile::TempDir,
    net: Net,
    sessions: Arc<Sessions>,
    segments: Arc<Segments>,
    authority: Arc<Authority>,
    machines: Arc<Machines>,
    said: mpsc::UnboundedReceiver<(u64, AgentSaid)>,
}

impl Head {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Authority::create(dir.path(), CLUSTER).unwrap();
        let authority = Arc::new(Authority::load(dir.path(), CLUSTER).unwrap());
        let segments = Arc::new(Segments::open(&dir.path().join("output")).unwrap());
        let (sessions, machines) = (Arc::new(Sessions::default()), Arc::new(Machines::default()));
        let (handle, mut inputs, callers) = Handle::for_tests();
        let (tx, said) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut used = false;
            while let Some(input) = inputs.recv().await {
                match input {
                    Input::Call { ticket, call, .. } => callers.answer(ticket, answer(call, &mut used)),
                    Input::Agent { session, said, .. } => {
                        for what in said {
                            tx.send((session, what)).unwrap();
                        }
                    }
                    Input::Gone(_)
                    | Input::Tick
                    | Input::Refused { .. }
                    | Input::Broker { .. }
                    | Input::Disk { .. }
                    | Input::Loaded { .. } => {}
                }
            }
        });
        let context = Context::new(
            handle,
            sessions.clone(),
            segments.clone(),
            authority.clone(),
            machines.clone(),
            CLUSTER.into(),
        );
        let net = Net::start(context, Sockets::bind("127.0.0.1:0".parse().unwrap()).unwrap()).unwrap();
        Self { dir, net, sessions, segments, authority, machines, said }
    }

    /// The next thing that the engine hears, beats left out.
    async fn hears(&mut self) -> AgentSaid {
        loop {
            let (_, said) = within(self.said.recv()).await.unwrap();
            if !matches!(said, AgentSaid::Heard { .. }) {
                return said;
            }
        }
    }

    /// Opens a connection with this certificate, or none.
    async fn connect(&self, identity: Option<&Identity>) -> Connection {
        let config = match identity {
            Some(i) => {
                quic::client_config(self.authority.ca(), vec![i.certificate.clone()], i.key.clone_key())
                    .unwrap()
            }
            None => quic::joining_config(self.authority.ca_hash().to_owned()).unwrap().0,
        };
        let endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        let connecting =
            endpoint.connect_with(config, self.net.address(), &quic::server_name(CLUSTER)).unwrap();
        within(connecting).await.unwrap()
    }

    async fn peer(&self, identity: Option<&Identity>) -> Peer {
        let connection = self.connect(identity).await;
        let (send, recv) = within(connection.open_bi()).await.unwrap();
        Peer { connection, send, recv, frames: frame::Reader::new() }
    }

    /// Asks to join with this secret.
    async fn join(&self, secret: &str) -> Result<Identity, wire::Refused> {
        let key = KeyPair::generate().unwrap();
        let csr = CertificateParams::default().serialize_request(&key).unwrap().der().to_vec();
        let mut peer = self.peer(None).await;
        peer.write(
            kind::JOIN,
            &wire::Join { token_id: "t".into(), secret: secret.into(), csr, name: "gpu-1".into() },
        )
        .await;
        let frame = peer.read().await.unwrap();
        if frame.kind == kind::REFUSED {
            return Err(frame.decode().unwrap());
        }
        assert_eq!(frame.kind, kind::JOINED);
        let joined: wire::Joined = frame.decode().unwrap();
        assert_eq!(joined.name, "gpu-1");
        Ok(Identity {
            machine: joined.machine,
            certificate: joined.certificate.into(),
            key: PrivatePkcs8KeyDer::from(key.serialized_der().to_vec()).into(),
        })
    }

    /// Joins and opens a session.
    async fn session(&self) -> (Identity, Peer) {
        let identity = self.join("secret").await.unwrap();
        let peer = self.open(&identity).await;
        (identity, peer)
    }

    async fn open(&self, identity: &Identity) -> Peer {
        let mut peer = self.peer(Some(identity)).await;
        peer.write(kind::HELLO, &hello(&identity.machine)).await;
        assert_eq!(peer.read().await.unwrap().kind, kind::WELCOME);
        peer
    }
}

/// A job that no machine has.
const NOT_HELD: u64 = 404;

/// What the engine would say: one token, one keeper.
fn answer(call: Call, used: &mut bool) -> Result<Reply, Problem> {
    match call {
        Call::Join { secret_hash, name, machine, .. }
            if secret_hash == token::sha256_hex(b"secret") && !std::mem::replace(used, true) =>
        {
            Ok(Reply::Joined(name, machine))
        }
        Call::Join { .. } => Err(Problem::new(Code::NotFound, "token t was used by gpu-1")),
        Call::OpenSession { hello, .. } if hello.keeper == "clone" => Ok(Reply::Refused(wire::Refused {
            code: close::UNAUTHORISED,
            reason: "another keeper beats with this identity".into(),
        })),
        Call::OpenSession { session, .. } => Ok(Reply::Welcome(Box::new(wire::Welcome {
            version: 1,
            session,
            lineage: "l".into(),
            epoch: 1,
            seq: 0,
            beat_ms: 2000,
            name: "gpu-1".into(),
        }))),
        Call::RenewCertificate { .. } => Ok(Reply::Done(1)),
        Call::HoldsAttempt { attempt, .. } => Ok(Reply::Held(attempt.task.job != NOT_HELD)),
        other => Err(Problem::new(Code::Internal, format!("{other:?}"))),
    }
}

struct Identity {
    machine: String,
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

/// A machine's side of a control stream.
struct Peer {
    connection: Connection,
    send: SendStream,
    recv: RecvStream,
    frames: frame::Reader,
}

impl Peer {
    async fn write<T: Serialize>(&mut self, kind: u16, body: &T) {
        let mut bytes = Vec::new();
        frame::append(kind, 0, body, &mut bytes).unwrap();
        self.send.write_all(&bytes).await.unwrap();
    }

    /// The next frame, or the code with which the connection was closed.
    async fn read(&mut self) -> Result<Frame, u32> {
        loop {
            if let Some(frame) = self.frames.next_frame().unwrap() {
                return Ok(frame);
            }
            match within(self.recv.read_chunk(4096, true)).await {
                Ok(Some(chunk)) => self.frames.feed(&chunk.bytes),
                _ => return Err(self.closed().await),
            }
        }
    }

    async fn expect<T: DeserializeOwned>(&mut self, kind: u16) -> T {
        let frame = self.read().await.unwrap();
        assert_eq!(frame.kind, kind);
        frame.decode().unwrap()
    }

    async fn closed(&self) -> u32 {
        match within(self.connection.closed()).await {
            ConnectionError::ApplicationClosed(closed) => closed.error_code.into_inner() as u32,
            other => panic!("closed otherwise: {other}"),
        }
    }

    /// Sends a whole tape on a stream of its own.
    async fn upload(&self, head: &wire::OutputHead, tape: &[u8]) {
        let mut stream = within(self.connection.open_uni()).await.unwrap();
        let mut bytes = Vec::new();
        frame::append(kind::OUTPUT_HEAD, 0, head, &mut bytes).unwrap();
        bytes.extend_from_slice(tape);
        let _ = within(stream.write_all(&bytes)).await;
        let _ = stream.finish();
        let _ = within(stream.stopped()).await;
    }
}

fn hello(machine: &str) -> wire::Hello {
    wire::Hello {
        version_min: 1,
        version_max: 1,
        cluster: CLUSTER.into(),
        machine: machine.into(),
        life: "life".into(),
        keeper: "keeper".into(),
        lineage_seen: String::new(),
        epoch_seen: 0,
        seq_seen: 0,
        agent_version: "1".into(),
        kinds: Vec::new(),
    }
}

fn attempt(job: u64) -> AttemptId {
    TaskId::single(job).attempt(1)
}

fn finished(job: u64, spooled: u64) -> wire::Finished {
    wire::Finished {
        attempt: attempt(job),
        cause: Cause::Ok.to_wire(),
        started_ms: 1,
        ended_ms: 2,
        pid: 3,
        cpu_ms: 0,
        rss_peak: 0,
        output: Vec::new(),
        spooled,
        result: None,
    }
}

const fn whole(job: u64, total: u64) -> wire::OutputHead {
    wire::OutputHead { attempt: TaskId::single(job).attempt(1), follow: None, from: 0, total }
}

#[tokio::test]
async fn a_machine_joins_opens_a_session_and_both_sides_talk() {
    let mut head = Head::start();
    let (identity, mut peer) = head.session().await;
    let machine = wire::Machine { hostname: "gpu-1".into(), ..Default::default() };
    peer.write(kind::MACHINE, &machine).await;
    peer.write(kind::INVENTORY_END, &wire::InventoryEnd { count: 0 }).await;
    assert_eq!(head.hears().await, AgentSaid::Machine(machine));
    assert_eq!(head.hears().await, AgentSaid::InventoryEnd(0));
    let start = wire::Start { attempt: attempt(1), command: vec!["true".into()], ..Default::default() };
    head.sessions.send(
        &identity.machine,
        1,
        vec![ToAgent::Reconcile(vec![]), ToAgent::Start(Box::new(start.clone()))],
    );
    peer.expect::<wire::Reconcile>(kind::RECONCILE).await;
    assert_eq!(peer.expect::<wire::Start>(kind::START).await, start);
    peer.write(kind::BEAT, &wire::Beat { number: 1, echo: 0 }).await;
    assert_eq!(peer.expect::<wire::Beat>(kind::BEAT_ECHO).await, wire::Beat { number: 1, echo: 1 });
    assert!(matches!(within(head.said.recv()).await, Some((1, AgentSaid::Heard { .. }))));
    // How far the store is comes with the answer to a beat, once for each time that it has grown.
    head.sessions.set_recorded(7);
    for number in 2..=3 {
        peer.write(kind::BEAT, &wire::Beat { number, echo: 0 }).await;
    }
    peer.expect::<wire::Beat>(kind::BEAT_ECHO).await;
    assert_eq!(peer.expect::<wire::Recorded>(kind::RECORDED).await, wire::Recorded { seq: 7 });
    assert_eq!(peer.expect::<wire::Beat>(kind::BEAT_ECHO).await.number, 3);
    for job in 1..=3000 {
        peer.write(kind::FINISHED, &finished(job, 0)).await;
    }
    for job in 1..=3000 {
        assert_eq!(head.hears().await, AgentSaid::Finished(Box::new(finished(job, 0)), None));
    }
    peer.connection.close(0u32.into(), b"");
    assert_eq!(head.hears().await, AgentSaid::Closed);
}

#[tokio::test]
async fn a_bad_token_gets_one_answer_whatever_is_wrong_with_it() {
    let head = Head::start();
    head.join("secret").await.unwrap();
    let (again, wrong) = (head.join("secret").await.err().unwrap(), head.join("guess").await.err().unwrap());
    assert_eq!(again, wrong);
    assert_eq!(again.code, close::UNAUTHORISED);
    assert!(again.reason.contains("machine token") && !again.reason.contains("gpu-1"), "{}", again.reason);
}

#[tokio::test]
async fn without_a_certificate_nothing_but_join_is_heard() {
    let head = Head::start();
    let mut peer = head.peer(None).await;
    peer.write(kind::HELLO, &hello("m")).await;
    let refused: wire::Refused = peer.expect(kind::REFUSED).await;
    assert_eq!(refused.code, close::UNAUTHORISED);
    assert_eq!(peer.closed().await, close::UNAUTHORISED);
}

#[tokio::test]
async fn a_hello_that_does_not_fit_is_refused_with_words_and_a_code() {
    let head = Head::start();
    let identity = head.join("secret").await.unwrap();
    let good = hello(&identity.machine);
    let cases = [
        (wire::Hello { version_min: 2, version_max: 9, ..good.clone() }, close::VERSION, "versions 2 to 9"),
        (wire::Hello { cluster: "ffff".into(), ..good.clone() }, close::WRONG_CLUSTER, "another cluster"),
        (wire::Hello { machine: "other".into(), ..good.clone() }, close::UNAUTHORISED, "another machine"),
        (wire::Hello { keeper: "clone".into(), ..good.clone() }, close::UNAUTHORISED, "another keeper"),
        (wire::Hello { life: "x".repeat(5000), ..good }, close::TOO_LARGE, "at most"),
    ];
    for (hello, code, words) in cases {
        let mut peer = head.peer(Some(&identity)).await;
        peer.write(kind::HELLO, &hello).await;
        let refused: wire::Refused = peer.expect(kind::REFUSED).await;
        assert!(refused.code == code && refused.reason.contains(words), "{refused:?}");
        assert_eq!(peer.closed().await, code);
    }
}

#[tokio::test]
async fn wrong_frames_end_the_session_and_only_it() {
    let mut head = Head::start();
    let identity = head.join("secret").await.unwrap();
    let framed = |kind: u16, body: &[u8]| {
        let mut bytes = Vec::new();
        frame::append_raw(&Frame { kind, flags: 0, body: body.to_vec() }, &mut bytes);
        bytes
    };
    let mut second = Vec::new();
    frame::append(kind::HELLO, 0, &hello("m"), &mut second).unwrap();
    let cases = [
        (framed(kind::MACHINE, b"garbage"), close::MALFORMED),
        (vec![0xff; 64], close::TOO_LARGE),
        (second, close::UNEXPECTED),
        (framed(kind::STARTED, b""), close::UNEXPECTED),
        (framed(999, b""), close::VERSION),
    ];
    for (bytes, code) in cases {
        let mut peer = head.open(&identity).await;
        peer.send.write_all(&bytes).await.unwrap();
        assert_eq!(peer.closed().await, code);
        assert_eq!(head.hears().await, AgentSaid::Closed);
    }
    head.open(&identity).await;
}

#[tokio::test]
async fn a_certificate_that_is_not_known_or_was_revoked_opens_nothing() {
    let head = Head::start();
    let key = KeyPair::generate().unwrap();
    let csr = CertificateParams::default().serialize_request(&key).unwrap();
    let issued =
        head.authority.issue_machine(&Authority::requested_key(csr.der()).unwrap(), "ghost").unwrap();
    let key = PrivatePkcs8KeyDer::from(key.serialized_der().to_vec()).into();
    let ghost = Identity { machine: "ghost".into(), certificate: issued.certificate.into(), key };
    assert_eq!(head.peer(Some(&ghost)).await.closed().await, close::UNAUTHORISED);
    head.machines.issued(issued.fingerprint, "ghost".into());
    let mut peer = head.open(&ghost).await;
    head.sessions.close("ghost", 1, close::REVOKED, "removed".into());
    assert_eq!(peer.read().await, Err(close::REVOKED));
    assert_eq!(head.peer(Some(&ghost)).await.closed().await, close::REVOKED);
}

#[tokio::test]
async fn a_newer_session_ends_the_older_one_but_a_refused_one_does_not() {
    let mut head = Head::start();
    let (identity, mut first) = head.session().await;
    let mut clone = head.peer(Some(&identity)).await;
    clone.write(kind::HELLO, &wire::Hello { keeper: "clone".into(), ..hello(&identity.machine) }).await;
    assert_eq!(clone.read().await.unwrap().kind, kind::REFUSED);
    first.write(kind::BEAT, &wire::Beat { number: 1, echo: 0 }).await;
    first.expect::<wire::Beat>(kind::BEAT_ECHO).await;
    let _second = head.open(&identity).await;
    assert_eq!(first.read().await, Err(close::SUPERSEDED));
    assert_eq!(head.hears().await, AgentSaid::Closed);
}

#[tokio::test]
async fn at_the_stop_every_machine_is_told_and_the_engine_hears_the_ends() {
    let mut head = Head::start();
    let (_, mut peer) = head.session().await;
    within(head.net.stop()).await;
    assert_eq!(peer.read().await, Err(close::STOPPING));
    let mut last = None;
    while let Some((_, said)) = within(head.said.recv()).await {
        last = Some(said);
    }
    assert_eq!(last, Some(AgentSaid::Closed), "and then every handle is gone");
}
