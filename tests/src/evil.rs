//! A machine that lies: a real identity (or a forged one) with nothing behind it but a test that says what no agent says.
//!
//! It joins like any machine, through `reeve-agent join` and a token, and then speaks QUIC itself.
use crate::PATIENCE;
use crate::machine::{Coordinator, join};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{Connection, ConnectionError, Endpoint, RecvStream, SendStream};
use reeve_agent::identity::Credentials;
use reeve_protocol::frame::{self, Frame, Reader};
use reeve_protocol::ids::AttemptId;
use reeve_protocol::wire::{self, kind};
use reeve_protocol::{Cause, TaskId, quic};
use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;
use serde::Serialize;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

/// Waits for a fact that belongs to a future.
pub async fn within<F: Future>(what: &str, future: F) -> F::Output {
    let output = tokio::time::timeout(PATIENCE, future).await;
    output.unwrap_or_else(|_| panic!("waited {PATIENCE:?} for: {what}"))
}

/// An enrolled machine without an agent.
pub struct Identity {
    /// What `reeve-agent join` left.
    pub credentials: Credentials,
}

impl Identity {
    /// Joins with a fresh token.
    pub fn enroll(coordinator: &Coordinator, name: &str) -> Self {
        let dir = coordinator.dir.path().join(name);
        std::fs::create_dir(&dir).unwrap();
        let output = join(&dir, &[], name, &coordinator.token());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Self { credentials: Credentials::load(&dir.join("state")).unwrap() }
    }

    /// Where the coordinator listens.
    pub fn address(&self) -> SocketAddr {
        self.credentials.identity.addresses[0].parse().unwrap()
    }

    /// A Hello as its agent would say it.
    pub fn hello(&self) -> wire::Hello {
        wire::Hello {
            version_min: wire::VERSION,
            version_max: wire::VERSION,
            cluster: self.credentials.identity.cluster.clone(),
            machine: self.credentials.identity.machine.clone(),
            life: "life".into(),
            keeper: "keeper".into(),
            lineage_seen: String::new(),
            epoch_seen: 0,
            seq_seen: 0,
            agent_version: "evil".into(),
            kinds: Vec::new(),
        }
    }

    /// Its certificate and key.
    pub fn certified(&self) -> Arc<CertifiedKey> {
        certified(vec![self.credentials.certificate.clone()], &self.credentials.key)
    }

    /// Connects as itself; nothing has been said yet.
    pub async fn connect(&self) -> Peer {
        let connection = self.dial(Some(self.certified())).await.unwrap();
        Peer::open(connection).await
    }

    /// Connects with a certificate of the test's choice.
    ///
    /// # Errors
    /// What ended the handshake.
    pub async fn dial(&self, certified: Option<Arc<CertifiedKey>>) -> Result<Connection, ConnectionError> {
        self.dial_with(client_config(&self.credentials.ca, certified, wire::ALPN, 512 * 1024)).await
    }

    /// Connects with settings of the test's choice.
    ///
    /// # Errors
    /// What ended the handshake.
    pub async fn dial_with(&self, config: quinn::ClientConfig) -> Result<Connection, ConnectionError> {
        let endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        let name = quic::server_name(&self.credentials.identity.cluster);
        within("a handshake", endpoint.connect_with(config, self.address(), &name).unwrap()).await
    }

    /// Opens a session as an agent does: Hello and Welcome.
    pub async fn session(&self) -> Peer {
        let mut peer = self.connect().await;
        peer.say(kind::HELLO, &self.hello()).await;
        let answer = peer.next().await.expect("an answer to Hello");
        let refused = (answer.kind == kind::REFUSED).then(|| answer.decode::<wire::Refused>());
        assert_eq!(answer.kind, kind::WELCOME, "{refused:?}");
        peer
    }

    /// A session that has told what it runs (nothing): attempts are dispatched to it.
    pub async fn ready(&self) -> Peer {
        let mut peer = self.session().await;
        peer.say(kind::MACHINE, &machine()).await;
        peer.say(kind::INVENTORY_END, &wire::InventoryEnd { count: 0 }).await;
        peer.until(kind::RECONCILE).await;
        peer
    }
}

/// A certificate with a key, whether they fit together or not.
pub fn certified(
    chain: Vec<CertificateDer<'static>>,
    key: &rustls::pki_types::PrivateKeyDer<'_>,
) -> Arc<CertifiedKey> {
    let key = quic::provider().key_provider.load_private_key(key.clone_key()).unwrap();
    Arc::new(CertifiedKey::new(chain, key))
}

/// Shows one certificate whatever is asked for.
#[derive(Debug)]
struct Shown(Arc<CertifiedKey>);

impl rustls::client::ResolvesClientCert for Shown {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// A client that trusts the cluster's CA and keeps tickets, if it is given any. `window`: bytes of a stream that it
/// takes without reading.
pub fn client_config(
    ca: &CertificateDer<'_>,
    certified: Option<Arc<CertifiedKey>>,
    alpn: &[u8],
    window: u32,
) -> quinn::ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca.clone().into_owned()).unwrap();
    let tls = rustls::ClientConfig::builder_with_provider(quic::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots);
    let mut tls = match certified {
        Some(certified) => tls.with_client_cert_resolver(Arc::new(Shown(certified))),
        None => tls.with_no_client_auth(),
    };
    tls.alpn_protocols = vec![alpn.to_vec()];
    tls.enable_early_data = true;
    let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    let mut transport = quinn::TransportConfig::default();
    transport.stream_receive_window(window.into()).keep_alive_interval(Some(quic::KEEP_ALIVE / 5));
    config.transport_config(Arc::new(transport));
    config
}

/// A control stream.
pub struct Peer {
    /// The connection.
    pub connection: Connection,
    send: SendStream,
    recv: RecvStream,
    frames: Reader,
}

impl Peer {
    /// Opens the control stream.
    pub async fn open(connection: Connection) -> Self {
        let (send, recv) = within("a stream", connection.open_bi()).await.unwrap();
        Self { connection, send, recv, frames: Reader::new() }
    }

    /// Says something. What the other side does not take any more is its business.
    pub async fn say<T: Serialize>(&mut self, kind: u16, body: &T) {
        self.bytes(&framed(kind, body)).await;
    }

    /// Sends bytes as they are.
    pub async fn bytes(&mut self, bytes: &[u8]) {
        let _ = within("bytes to be taken", self.send.write_all(bytes)).await;
    }

    /// Ends the stream.
    pub fn finish(&mut self) {
        let _ = self.send.finish();
    }

    /// The next frame; `None` when there are no more.
    pub async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.frames.next_frame().unwrap() {
                return Some(frame);
            }
            let chunk = within("a frame", self.recv.read_chunk(64 * 1024, true)).await.ok()??;
            self.frames.feed(&chunk.bytes);
        }
    }

    /// The next frame of a kind; others are skipped.
    pub async fn until(&mut self, kind: u16) -> Frame {
        loop {
            let frame = self.next().await.unwrap_or_else(|| {
                panic!("the session ended before kind {kind}: {:?}", self.connection.close_reason())
            });
            if frame.kind == kind {
                return frame;
            }
        }
    }

    /// Waits until everything said so far has been decided: the core acknowledges the end of an attempt that it does not
    /// know like any other.
    pub async fn decided(&mut self) {
        let marker = TaskId::single(u64::MAX - 1).attempt(1);
        self.say(kind::FINISHED, &finished(marker, Cause::Ok)).await;
        loop {
            let forget = self.until(kind::FORGET).await.decode::<wire::Forget>().unwrap();
            if forget.attempts.contains(&marker) {
                return;
            }
        }
    }

    /// Takes the Start that comes next.
    pub async fn started(&mut self) -> wire::Start {
        self.until(kind::START).await.decode().unwrap()
    }

    /// Waits for the end of the connection: code and words.
    pub async fn closed(&self) -> (Option<u32>, String) {
        closed(&self.connection).await
    }
}

/// Waits for the end of a connection. No code: it was the transport or TLS that ended it.
pub async fn closed(connection: &Connection) -> (Option<u32>, String) {
    match within("a connection to end", connection.closed()).await {
        ConnectionError::ApplicationClosed(close) => (
            u32::try_from(close.error_code.into_inner()).ok(),
            String::from_utf8_lossy(&close.reason).into_owned(),
        ),
        other => (None, other.to_string()),
    }
}

/// One frame's bytes.
pub fn framed<T: Serialize>(kind: u16, body: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::append(kind, 0, body, &mut bytes).unwrap();
    bytes
}

/// A frame with a body that need not be one.
pub fn raw(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::append_raw(&Frame { kind, flags, body: body.to_vec() }, &mut bytes);
    bytes
}

/// A header that claims a length.
pub fn header(len: u32, kind: u16) -> Vec<u8> {
    [&len.to_le_bytes()[..], &kind.to_le_bytes(), &[0, 0]].concat()
}

/// A machine with room.
pub fn machine() -> wire::Machine {
    wire::Machine {
        hostname: "evil".into(),
        cpu_milli: 64_000,
        memory_bytes: 1 << 40,
        os: "none".into(),
        keeper: true,
        ..wire::Machine::default()
    }
}

/// An end.
pub fn finished(attempt: AttemptId, cause: Cause) -> wire::Finished {
    wire::Finished {
        attempt,
        cause: cause.to_wire(),
        started_ms: 1_700_000_000_000,
        ended_ms: 1_700_000_000_001,
        pid: 7,
        cpu_ms: 1,
        rss_peak: 1,
        output: Vec::new(),
        spooled: 0,
        result: None,
    }
}

/// Resident bytes of a process.
pub fn rss(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) * 1024
}
