//! A whole coordinator, in this process, and a machine that the test plays over real QUIC.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests too")]
use quinn::{Connection, Endpoint, RecvStream, SendStream};
use reeve_coordinator::{Config, Ready, init, run};
use reeve_protocol::frame::{self, Frame};
use reeve_protocol::token::Token;
use reeve_protocol::wire::{self, close, kind};
use reeve_protocol::{AttemptId, Cause, quic};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::future::Future;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

/// Waits for a fact; a minute means that it never comes.
async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_mins(1), future).await.expect("this comes within a minute")
}

struct Head {
    ready: Ready,
    /// `None`: it runs in a process of its own.
    inside: Option<(watch::Sender<bool>, Running)>,
}

type Running = JoinHandle<Result<(), reeve_coordinator::Error>>;

impl Head {
    async fn start(dir: &Path) -> Self {
        let config = Config::for_dir(dir.join("data"));
        if !reeve_coordinator::is_initialised(&config) {
            init(&config).unwrap();
        }
        let (stop, shutdown) = watch::channel(false);
        let (tx, ready) = oneshot::channel();
        let running = tokio::spawn(run(config, move |r| drop(tx.send(r.clone())), shutdown));
        Self { ready: within(ready).await.unwrap(), inside: Some((stop, running)) }
    }

    async fn stop(self) {
        let (stop, running) = self.inside.unwrap();
        stop.send(true).unwrap();
        within(running).await.unwrap().unwrap();
    }

    /// One request, one answer's body.
    async fn http(&self, method: &str, path: &str, body: &str) -> serde_json::Value {
        let mut stream = tokio::net::UnixStream::connect(&self.ready.socket).await.unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all((head + body).as_bytes()).await.unwrap();
        let mut text = String::new();
        within(stream.read_to_string(&mut text)).await.unwrap();
        let body = text.split_once("\r\n\r\n").unwrap().1;
        let start = body.find('{').unwrap_or_else(|| panic!("no object in {text}"));
        let mut values = serde_json::Deserializer::from_str(&body[start..]).into_iter();
        values.next().unwrap().unwrap()
    }

    async fn token(&self) -> Token {
        let reply = self.http("POST", "/v1/machines/token", r#"{"ttl_s":60}"#).await;
        reply["token"].as_str().unwrap().parse().unwrap()
    }
}

/// What a machine keeps on its disk.
struct Identity {
    cluster: String,
    machine: String,
    ca: CertificateDer<'static>,
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

/// A machine's control stream.
struct Peer {
    connection: Connection,
    send: SendStream,
    recv: RecvStream,
    frames: frame::Reader,
}

impl Peer {
    async fn dial(head: &Head, config: quinn::ClientConfig, cluster: &str) -> Self {
        let endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        let connecting =
            endpoint.connect_with(config, head.ready.listen, &quic::server_name(cluster)).unwrap();
        let connection = within(connecting).await.unwrap();
        let (send, recv) = connection.open_bi().await.unwrap();
        Self { connection, send, recv, frames: frame::Reader::new() }
    }

    async fn write<T: Serialize>(&mut self, kind: u16, body: &T) {
        let mut bytes = Vec::new();
        frame::append(kind, 0, body, &mut bytes).unwrap();
        self.send.write_all(&bytes).await.unwrap();
    }

    async fn read(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.frames.next_frame().unwrap() {
                return Some(frame);
            }
            let chunk = within(self.recv.read_chunk(65536, true)).await.ok()??;
            self.frames.feed(&chunk.bytes);
        }
    }

    async fn expect<T: DeserializeOwned>(&mut self, kind: u16) -> T {
        let frame = self.read().await.unwrap();
        assert_eq!(frame.kind, kind);
        frame.decode().unwrap()
    }

    async fn closed(&self) -> u32 {
        match within(self.connection.closed()).await {
            quinn::ConnectionError::ApplicationClosed(closed) => closed.error_code.into_inner() as u32,
            other => panic!("closed otherwise: {other}"),
        }
    }
}

/// Joins; gives the refusal's code otherwise.
async fn join(head: &Head, token: &Token, name: &str) -> Result<Identity, u32> {
    let key = rcgen::KeyPair::generate().unwrap();
    let csr = rcgen::CertificateParams::default().serialize_request(&key).unwrap().der().to_vec();
    let (config, pinned) = quic::joining_config(token.ca_hash.clone()).unwrap();
    let mut peer = Peer::dial(head, config, &token.cluster).await;
    let join =
        wire::Join { token_id: token.id.clone(), secret: token.secret.clone(), csr, name: name.into() };
    peer.write(kind::JOIN, &join).await;
    let frame = peer.read().await.unwrap();
    if frame.kind == kind::REFUSED {
        return Err(frame.decode::<wire::Refused>().unwrap().code);
    }
    let joined: wire::Joined = frame.decode().unwrap();
    assert_eq!(joined.name, name);
    Ok(Identity {
        cluster: token.cluster.clone(),
        machine: joined.machine,
        ca: pinned.ca().unwrap(),
        certificate: joined.certificate.into(),
        key: PrivatePkcs8KeyDer::from(key.serialized_der().to_vec()).into(),
    })
}

/// Opens a session up to its Reconcile.
async fn open(
    head: &Head,
    identity: &Identity,
    inventory: Vec<wire::InventoryItem>,
) -> (Peer, wire::Reconcile) {
    let config =
        quic::client_config(&identity.ca, vec![identity.certificate.clone()], identity.key.clone_key())
            .unwrap();
    let mut peer = Peer::dial(head, config, &identity.cluster).await;
    let hello = wire::Hello {
        version_min: 1,
        version_max: 1,
        cluster: identity.cluster.clone(),
        machine: identity.machine.clone(),
        life: "life".into(),
        keeper: "keeper".into(),
        lineage_seen: String::new(),
        epoch_seen: 0,
        seq_seen: 0,
        agent_version: "test".into(),
        kinds: Vec::new(),
    };
    peer.write(kind::HELLO, &hello).await;
    peer.expect::<wire::Welcome>(kind::WELCOME).await;
    let machine = wire::Machine {
        hostname: "gpu-1".into(),
        cpu_milli: 2000,
        memory_bytes: 1 << 33,
        keeper: true,
        ..Default::default()
    };
    peer.write(kind::MACHINE, &machine).await;
    let count = inventory.len() as u32;
    peer.write(kind::INVENTORY, &wire::Inventory { items: inventory }).await;
    peer.write(kind::INVENTORY_END, &wire::InventoryEnd { count }).await;
    let reconcile = peer.expect(kind::RECONCILE).await;
    (peer, reconcile)
}

fn finished(attempt: AttemptId, output: &[u8], spooled: u64) -> wire::Finished {
    wire::Finished {
        attempt,
        cause: Cause::Ok.to_wire(),
        started_ms: 1,
        ended_ms: 2,
        pid: 77,
        cpu_ms: 5,
        rss_peak: 1 << 20,
        output: output.to_vec(),
        spooled,
        result: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_goes_to_a_machine_that_joined_and_comes_back_with_its_output() {
    let dir = tempfile::tempdir().unwrap();
    let head = Head::start(dir.path()).await;
    let identity = join(&head, &head.token().await, "gpu-1").await.ok().unwrap();
    let (mut peer, _) = open(&head, &identity, Vec::new()).await;
    let (mut small, mut large) = (Vec::new(), Vec::new());
    reeve_protocol::tape::append(reeve_protocol::tape::STDOUT, 1, b"small\n", &mut small);
    reeve_protocol::tape::append(reeve_protocol::tape::STDOUT, 1, &vec![b'x'; 50_000], &mut large);
    for tape in [small, large] {
        let id = head.http("POST", "/v1/jobs", r#"{"command":["echo"]}"#).await["id"].as_u64().unwrap();
        let start: wire::Start = peer.expect(kind::START).await;
        assert_eq!((start.attempt.task.job, &start.command[..]), (id, &["echo".to_owned()][..]));
        peer.write(kind::STARTED, &wire::Started { attempt: start.attempt, pid: 77, at_ms: 1 }).await;
        if tape.len() > wire::INLINE_OUTPUT {
            let mut bytes = Vec::new();
            let head =
                wire::OutputHead { attempt: start.attempt, follow: None, from: 0, total: tape.len() as u64 };
            frame::append(kind::OUTPUT_HEAD, 0, &head, &mut bytes).unwrap();
            let mut stream = peer.connection.open_uni().await.unwrap();
            stream.write_all(&bytes).await.unwrap();
            stream.write_all(&tape).await.unwrap();
            stream.finish().unwrap();
            within(stream.stopped()).await.unwrap();
            peer.write(kind::FINISHED, &finished(start.attempt, b"", tape.len() as u64)).await;
        } else {
            peer.write(kind::FINISHED, &finished(start.attempt, &tape, 0)).await;
        }
        assert_eq!(peer.expect::<wire::Forget>(kind::FORGET).await.attempts, [start.attempt]);
        let job = head.http("GET", &format!("/v1/jobs/{id}?wait_s=10"), "").await;
        assert_eq!(
            (job["state"].as_str(), job["machine"].as_str()),
            (Some("COMPLETED"), Some("gpu-1")),
            "{job}"
        );
        let health = head.http("GET", "/v1/health", "").await;
        let spooled = if tape.len() > wire::INLINE_OUTPUT { tape.len() as u64 } else { 0 };
        assert_eq!(health["output_bytes"].as_u64(), Some(spooled), "{health}");
    }
    head.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_works_once_and_its_machine_finds_back_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let head = Head::start(dir.path()).await;
    let token = head.token().await;
    let identity = join(&head, &token, "gpu-1").await.ok().unwrap();
    assert_eq!(join(&head, &token, "gpu-2").await.err(), Some(close::UNAUTHORISED));
    let (mut peer, _) = open(&head, &identity, Vec::new()).await;
    head.http("POST", "/v1/jobs", r#"{"command":["sleep","9"]}"#).await;
    let start: wire::Start = peer.expect(kind::START).await;
    peer.write(kind::STARTED, &wire::Started { attempt: start.attempt, pid: 77, at_ms: 1 }).await;
    let listen = head.ready.listen;
    head.stop().await;
    assert_eq!(peer.closed().await, close::STOPPING);

    let head = Head::start(dir.path()).await;
    assert_eq!(head.ready.listen, listen, "agents find the same port");
    let item = wire::InventoryItem {
        attempt: start.attempt,
        lineage: start.lineage,
        phase: 1,
        pid: 77,
        started_ms: 1,
    };
    let (mut peer, reconcile) = open(&head, &identity, vec![item]).await;
    assert_eq!(reconcile.verdicts, [(start.attempt, wire::Verdict::Keep)]);
    peer.write(kind::FINISHED, &finished(start.attempt, b"", 0)).await;
    let job = head.http("GET", "/v1/jobs/1?wait_s=10", "").await;
    assert_eq!((job["state"].as_str(), job["attempt"].as_u64()), (Some("COMPLETED"), Some(1)), "{job}");
    head.stop().await;
    assert!(!dir.path().join("data/run/coordinator.sock").is_dir());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_clusters_never_take_each_others_machines() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (first, second) = (Head::start(one.path()).await, Head::start(two.path()).await);
    let token = first.token().await;
    let identity = join(&first, &token, "gpu-1").await.ok().unwrap();
    let config =
        quic::client_config(&identity.ca, vec![identity.certificate.clone()], identity.key.clone_key())
            .unwrap();
    let endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let connecting =
        endpoint.connect_with(config, second.ready.listen, &quic::server_name(&identity.cluster)).unwrap();
    assert!(within(connecting).await.is_err(), "the other cluster's certificate is not trusted");
    first.stop().await;
    second.stop().await;
}

/// Killed without a word when it is dropped.
struct Process(std::process::Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts the real binary and waits until its socket answers.
async fn process(config: &Config) -> (Process, Head) {
    let listen = config.listen.to_string();
    let child = std::process::Command::new(env!("CARGO_BIN_EXE_reeve-coordinator"))
        .args(["run", "--listen", &listen, "--log", "warn", "--dir"])
        .arg(&config.dir)
        .arg("--socket")
        .arg(&config.socket)
        .spawn()
        .unwrap();
    let head = Head { ready: Ready { socket: config.socket.clone(), listen: config.listen }, inside: None };
    within(async {
        while tokio::net::UnixStream::connect(&config.socket).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    (Process(child), head)
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_kill_and_a_restart_a_machine_hears_at_once_that_its_connection_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let port = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = Config { listen: ([127, 0, 0, 1], port).into(), ..Config::for_dir(dir.path().join("data")) };
    init(&config).unwrap();
    let (child, head) = process(&config).await;
    let identity = join(&head, &head.token().await, "gpu-1").await.ok().unwrap();
    let (mut peer, _) = open(&head, &identity, Vec::new()).await;
    drop(child);
    let (_child, head) = process(&config).await;
    peer.write(kind::BEAT, &wire::Beat { number: 1, echo: 0 }).await;
    // Otherwise only the idle timeout would end it, later than this test waits.
    assert_eq!(within(peer.connection.closed()).await, quinn::ConnectionError::Reset);
    open(&head, &identity, Vec::new()).await;
}
