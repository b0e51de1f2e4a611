//! A coordinator played by the test: its own CA, a real QUIC port, and frames by hand.
#![allow(unreachable_pub, reason = "a module of a test binary, written as one of a library")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "test code: a panic is the report")]
use quinn::{Connection, Endpoint, RecvStream, SendStream};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use reeve_agent::{Config, Identity};
use reeve_protocol::frame::{self, Frame, Reader};
use reeve_protocol::quic;
use reeve_protocol::token::{Token, random_hex, sha256_hex};
use reeve_protocol::wire::{self, Hello, Join, Joined, OutputHead, Welcome, kind};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::future::Future;
use std::path::Path;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Waits for something that has to come.
pub async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(crate::common::PATIENCE, future).await.expect("this comes in time")
}

pub struct Head {
    pub endpoint: Endpoint,
    pub cluster: String,
    ca: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    /// The certificate that the last session was opened with.
    pub shown: std::sync::Mutex<Option<Vec<u8>>>,
}

/// The public key of a request: the point behind the algorithm of an EC key of P-256.
struct Point(Vec<u8>);

impl Point {
    fn of(csr: &[u8]) -> Self {
        let curve = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00];
        let at = csr.windows(curve.len()).position(|w| w == curve).unwrap() + curve.len();
        Self(csr[at..at + 65].to_vec())
    }
}

impl rcgen::PublicKeyData for Point {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

pub struct Session {
    pub connection: Connection,
    pub hello: Hello,
    send: SendStream,
    recv: RecvStream,
    frames: Reader,
}

impl Head {
    pub fn start() -> Self {
        let cluster = random_hex(8);
        let ca_key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = params.self_signed(&ca_key).unwrap().der().clone();
        let issuer = Issuer::new(params, ca_key);
        let key = KeyPair::generate().unwrap();
        let server = CertificateParams::new(vec![quic::server_name(&cluster)]).unwrap();
        let server = server.signed_by(&key, &issuer).unwrap().der().clone();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = quic::server_config(&ca, vec![server, ca.clone()], key).unwrap();
        let endpoint = Endpoint::server(config, "127.0.0.1:0".parse().unwrap()).unwrap();
        Self { endpoint, cluster, ca, issuer, shown: std::sync::Mutex::default() }
    }

    pub fn token(&self) -> Token {
        Token {
            cluster: self.cluster.clone(),
            id: random_hex(8),
            secret: random_hex(32),
            ca_hash: sha256_hex(&self.ca),
            addresses: vec![self.endpoint.local_addr().unwrap().to_string()],
        }
    }

    /// Takes one request to join and goes away without an answer.
    pub async fn forget(&self) -> Join {
        let (connection, _, first, _, _) = self.accept().await;
        connection.close(0u32.into(), b"oops");
        first.decode().unwrap()
    }

    /// Makes the certificate that a machine asks for in its session.
    pub fn certificate(&self, csr: &[u8]) -> Vec<u8> {
        self.lasting(csr, std::time::Duration::from_hours(24))
    }

    /// One that ends so long from now, and began as long ago.
    fn lasting(&self, csr: &[u8], life: std::time::Duration) -> Vec<u8> {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let now = rcgen::date_time_ymd(1970, 1, 1) + since;
        let mut params = CertificateParams::default();
        (params.not_before, params.not_after) = (now - life * 3, now + life);
        params.signed_by(&Point::of(csr), &self.issuer).unwrap().der().to_vec()
    }

    /// Takes one request to join with a certificate that is due for renewal.
    pub async fn admit_for_a_while(&self) -> Join {
        let (connection, mut send, first, _, _) = self.accept().await;
        let join: Join = first.decode().unwrap();
        let certificate = self.lasting(&join.csr, std::time::Duration::from_secs(20));
        let joined = Joined { machine: random_hex(8), name: join.name.clone(), certificate };
        let mut out = Vec::new();
        frame::append(kind::JOINED, 0, &joined, &mut out).unwrap();
        send.write_all(&out).await.unwrap();
        within(connection.closed()).await;
        join
    }

    /// Takes one request to join, or refuses it.
    pub async fn admit(&self, refuse: Option<&str>) -> Join {
        let (connection, mut send, first, _, _) = self.accept().await;
        let join: Join = first.decode().unwrap();
        let certificate = CertificateParams::default().signed_by(&Point::of(&join.csr), &self.issuer);
        let certificate = certificate.unwrap().der().to_vec();
        let mut out = Vec::new();
        match refuse {
            None => {
                let joined = Joined { machine: random_hex(8), name: join.name.clone(), certificate };
                frame::append(kind::JOINED, 0, &joined, &mut out).unwrap();
            }
            Some(reason) => {
                let refused = wire::Refused { code: wire::close::UNAUTHORISED, reason: reason.into() };
                frame::append(kind::REFUSED, 0, &refused, &mut out).unwrap();
            }
        }
        send.write_all(&out).await.unwrap();
        within(connection.closed()).await;
        join
    }

    async fn accept(&self) -> (Connection, SendStream, Frame, RecvStream, Reader) {
        let connection = within(self.endpoint.accept()).await.unwrap().await.unwrap();
        let (send, mut recv) = within(connection.accept_bi()).await.unwrap();
        let mut frames = Reader::new();
        let first = next(&mut recv, &mut frames).await.unwrap();
        (connection, send, first, recv, frames)
    }

    /// Takes a session and says Welcome; the inventory is still to come.
    pub async fn welcome(&self) -> Session {
        let (connection, send, first, recv, frames) = self.accept().await;
        assert_eq!(first.kind, kind::HELLO);
        let shown =
            connection.peer_identity().and_then(|i| i.downcast::<Vec<CertificateDer<'static>>>().ok());
        *self.shown.lock().unwrap() = shown.map(|chain| chain[0].to_vec());
        let mut session = Session { connection, hello: first.decode().unwrap(), send, recv, frames };
        let welcome = Welcome {
            version: 1,
            session: 1,
            lineage: "l1".into(),
            epoch: 1,
            seq: 5,
            beat_ms: 100,
            name: "m1".into(),
        };
        session.say(kind::WELCOME, &welcome).await;
        session
    }

    /// Takes a session and reads its inventory.
    pub async fn session(&self) -> (Session, Vec<wire::InventoryItem>) {
        let mut session = self.welcome().await;
        let mut items = Vec::new();
        loop {
            let frame = session.next().await.unwrap();
            match frame.kind {
                kind::INVENTORY => items.extend(frame.decode::<wire::Inventory>().unwrap().items),
                kind::INVENTORY_END => return (session, items),
                _ => {}
            }
        }
    }

    /// A machine that has joined and runs its agent in this process.
    pub async fn machine(&self, dir: &Path) -> Machine {
        let config = configured(dir);
        let token = self.token();
        let (identity, _) =
            tokio::join!(reeve_agent::join(&token, "m1", &config.state_dir), self.admit(None));
        Machine::start(config, identity.unwrap())
    }
}

pub fn configured(dir: &Path) -> Config {
    let mut config = Config::below(dir);
    // The identity's own, private directory.
    config.state_dir = dir.join("state");
    config.settings.cpus = Some(4.0);
    config.settings.allow_root = true;
    config.settings.keeper_command = Some(vec![
        env!("CARGO_BIN_EXE_reeve-agent").into(),
        "keeper".into(),
        "--linger-s".into(),
        "60".into(),
    ]);
    config
}

pub struct Machine {
    pub config: Config,
    pub identity: Identity,
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<(), reeve_agent::Error>>,
}

impl Machine {
    pub fn start(config: Config, identity: Identity) -> Self {
        let (stop, shutdown) = watch::channel(false);
        let task = tokio::spawn(reeve_agent::run(config.clone(), shutdown));
        Self { config, identity, stop, task }
    }

    /// Stops the agent; keeper and attempts live on.
    pub async fn stop(self) -> (Config, Identity) {
        self.stop.send(true).unwrap();
        within(self.task).await.unwrap().unwrap();
        (self.config, self.identity)
    }
}

/// Ends every process that carries the directory.
pub struct Cleanup(pub std::path::PathBuf);

impl Drop for Cleanup {
    fn drop(&mut self) {
        for pid in crate::common::processes_with(&self.0).into_iter().filter(|pid| *pid != std::process::id())
        {
            let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

impl Session {
    pub async fn say<T: Serialize>(&mut self, kind: u16, body: &T) {
        let mut out = Vec::new();
        frame::append(kind, 0, body, &mut out).unwrap();
        self.send.write_all(&out).await.unwrap();
    }

    pub async fn raw(&mut self, bytes: &[u8]) {
        self.send.write_all(bytes).await.unwrap();
    }

    pub async fn next(&mut self) -> Option<Frame> {
        let frame = next(&mut self.recv, &mut self.frames).await?;
        if frame.kind == kind::BEAT {
            // Heard, and no more than that: an agent that hears nothing for ten seconds comes anew.
            let mut out = Vec::new();
            frame::append(kind::BEAT_ECHO, 0, &wire::Beat { number: 0, echo: 0 }, &mut out).unwrap();
            let _ = self.send.write_all(&out).await;
        }
        Some(frame)
    }

    pub async fn expect<T: DeserializeOwned>(&mut self, kind: u16) -> T {
        loop {
            let frame = self.next().await.expect("the session goes on");
            if frame.kind == kind {
                return frame.decode().unwrap();
            }
        }
    }

    /// The next output stream: its head, and a reader of its bytes.
    pub async fn output(&self) -> (OutputHead, RecvStream, Vec<u8>) {
        let mut stream = within(self.connection.accept_uni()).await.unwrap();
        let mut frames = Reader::new();
        let head = next(&mut stream, &mut frames).await.unwrap();
        assert_eq!(head.kind, kind::OUTPUT_HEAD);
        (head.decode().unwrap(), stream, frames.take_rest())
    }
}

/// The next frame of a stream; `None` when it has ended.
async fn next(recv: &mut RecvStream, frames: &mut Reader) -> Option<Frame> {
    loop {
        if let Some(frame) = frames.next_frame().unwrap() {
            return Some(frame);
        }
        let chunk = within(recv.read_chunk(65536, true)).await.ok()??;
        frames.feed(&chunk.bytes);
    }
}
