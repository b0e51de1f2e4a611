//! A thousand machines that have nothing to do: what their beats cost the coordinator. The machines are real sessions over
//! real QUIC with certificates of their own, all held by this process.
use super::{Table, cpu_ticks, pss};
use crate::machine::Coordinator;
use quinn::{Connection, Endpoint, RecvStream, SendStream};
use reeve_coordinator::identity::Authority;
use reeve_protocol::frame::{self, Frame, Reader};
use reeve_protocol::quic;
use reeve_protocol::wire::{self, Beat, kind};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

const MACHINES: usize = 1_000;
const WATCHED: Duration = Duration::from_mins(1);
/// Beats until the machine tells its load again, as the agent does.
const SAMPLE_EVERY: u64 = 5;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// 1,000 idle machines for a minute.
pub fn agents(table: &mut Table) {
    let mut c = Coordinator::start("127.0.0.1:0");
    assert_eq!(c.stop(), Some(0));
    let cluster = meta(&c, "cluster");
    let authority = Authority::load(&c.data(), &cluster).expect("init has made it");
    let machines: Vec<Machine> =
        (0..MACHINES).map(|at| Machine::issue(&c, &authority, &cluster, at)).collect();
    c.run("127.0.0.1:0", &[]);
    let address = crate::eventually("its address", || {
        let log = c.log();
        let at = log.rsplit("listen=").next()?;
        at.split_whitespace().next()?.parse::<SocketAddr>().ok()
    });
    let pid = c.daemon.as_ref().map_or(0, crate::machine::Daemon::pid);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("threads and timers");
    let (share, up) = runtime.block_on(async {
        let endpoint = Endpoint::client("127.0.0.1:0".parse().expect("an address")).expect("a socket");
        let gone = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        for some in machines.chunks(20) {
            let opened = some.iter().map(|m| m.open(&endpoint, address));
            for session in join_all(opened).await {
                let gone = gone.clone();
                let session = session.expect("a machine is let in");
                tokio::spawn(async move {
                    if let Err(error) = session.beat().await {
                        eprintln!("a session ended: {error}");
                        gone.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    }
                });
            }
        }
        // The first beats of the early ones come more often: asked for while there were few.
        tokio::time::sleep(Duration::from_secs(5)).await;
        let before = cpu_ticks(pid);
        tokio::time::sleep(WATCHED).await;
        let ticks = cpu_ticks(pid) - before;
        let per_second = rustix::param::clock_ticks_per_second() as f64;
        (
            100.0 * ticks / per_second / WATCHED.as_secs_f64(),
            MACHINES - gone.load(std::sync::atomic::Ordering::Relaxed),
        )
    });
    let seen = crate::http::get(&c.socket(), "/v1/stats").json()["machines"]["up"].as_u64().unwrap_or(0);
    table.row(
        &format!("{MACHINES} idle machines: cpu of the coordinator"),
        format!("{share:.1} % of a core, {:.0} MB", pss(pid)),
        format!("{up} sessions held, {seen} up"),
        "<= 5 %",
        share <= 5.0 && up == MACHINES && seen == MACHINES as u64,
    );
}

fn meta(c: &Coordinator, key: &str) -> String {
    let db = rusqlite::Connection::open(c.data().join("reeve.db")).expect("the store");
    db.query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| row.get(0))
        .expect("init has written it")
}

/// What a machine that has joined keeps.
struct Machine {
    cluster: String,
    id: String,
    tls: quinn::ClientConfig,
}

impl Machine {
    /// As if it had joined with a token: ten a second are let in that way.
    fn issue(c: &Coordinator, authority: &Authority, cluster: &str, at: usize) -> Self {
        let id = format!("{at:016x}");
        let key = rcgen::KeyPair::generate().expect("random numbers");
        let request = rcgen::CertificateParams::default().serialize_request(&key).expect("a request");
        let asked = Authority::requested_key(request.der()).expect("a request that was just made");
        let issued = authority.issue_machine(&asked, &id).expect("a certificate");
        let db = rusqlite::Connection::open(c.data().join("reeve.db")).expect("the store");
        db.execute_batch("PRAGMA synchronous = OFF").expect("a setting");
        db.execute(
            "INSERT INTO machines (id, name, fingerprint, joined_at, owner) VALUES (?1, ?2, ?3, 1, 'root')",
            (&id, format!("lab-{at:04}"), &issued.fingerprint),
        )
        .expect("a row of its own");
        let certificate = CertificateDer::from(issued.certificate);
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialized_der().to_vec()));
        let tls = quic::client_config(authority.ca(), vec![certificate], key).expect("keys that fit");
        Self { cluster: cluster.to_owned(), id, tls }
    }

    /// Dials, says Hello, tells that nothing runs, and waits for the verdict on that.
    async fn open(&self, endpoint: &Endpoint, address: SocketAddr) -> Result<Session, Failure> {
        let connecting =
            endpoint.connect_with(self.tls.clone(), address, &quic::server_name(&self.cluster))?;
        let connection = connecting.await?;
        let (send, recv) = connection.open_bi().await?;
        let mut session = Session { _connection: connection, send, recv, frames: Reader::new(), beat_ms: 0 };
        let hello = wire::Hello {
            version_min: wire::VERSION,
            version_max: wire::VERSION,
            cluster: self.cluster.clone(),
            machine: self.id.clone(),
            life: "life".into(),
            keeper: "keeper".into(),
            lineage_seen: String::new(),
            epoch_seen: 0,
            seq_seen: 0,
            agent_version: "bench".into(),
            kinds: Vec::new(),
        };
        session.say(kind::HELLO, &hello).await?;
        session.beat_ms = session.next(kind::WELCOME).await?.decode::<wire::Welcome>()?.beat_ms;
        let machine =
            wire::Machine { cpu_milli: 2000, memory_bytes: 1 << 33, keeper: true, ..Default::default() };
        session.say(kind::MACHINE, &machine).await?;
        session.say(kind::INVENTORY_END, &wire::InventoryEnd { count: 0 }).await?;
        session.next(kind::RECONCILE).await?;
        Ok(session)
    }
}

struct Session {
    _connection: Connection,
    send: SendStream,
    recv: RecvStream,
    frames: Reader,
    beat_ms: u32,
}

impl Session {
    async fn say<T: serde::Serialize>(&mut self, kind: u16, body: &T) -> Result<(), Failure> {
        let mut bytes = Vec::new();
        frame::append(kind, 0, body, &mut bytes)?;
        Ok(self.send.write_all(&bytes).await?)
    }

    async fn next(&mut self, wanted: u16) -> Result<Frame, Failure> {
        loop {
            while let Some(frame) = self.frames.next_frame()? {
                if frame.kind == wanted {
                    return Ok(frame);
                }
                if frame.kind == kind::REFUSED {
                    return Err(frame.decode::<wire::Refused>()?.reason.into());
                }
            }
            let chunk = self.recv.read_chunk(64 * 1024, true).await?.ok_or("the stream ended")?;
            self.frames.feed(&chunk.bytes);
        }
    }

    /// Beats as an agent does, for ever.
    async fn beat(mut self) -> Result<(), Failure> {
        let mut timer = tokio::time::interval(Duration::from_millis(self.beat_ms.into()));
        let mut beat = Beat { number: 0, echo: 0 };
        loop {
            timer.tick().await;
            beat.number += 1;
            self.say(kind::BEAT, &beat).await?;
            if beat.number % SAMPLE_EVERY == 1 {
                let sample = wire::Sample { cpu: 0.1, memory_used: 1 << 30, load1: 0.1, disk: 0.1 };
                let mut bytes = Vec::new();
                frame::append(kind::SAMPLE, frame::OPTIONAL, &sample, &mut bytes)?;
                self.send.write_all(&bytes).await?;
            }
            beat.echo = self.next(kind::BEAT_ECHO).await?.decode::<Beat>()?.number;
        }
    }
}

/// Waits for all, side by side.
async fn join_all<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut waiting: Vec<_> = futures.map(|f| (Box::pin(f), None)).collect();
    std::future::poll_fn(|cx| {
        let mut all = true;
        for (future, done) in &mut waiting {
            if done.is_none() {
                match future.as_mut().poll(cx) {
                    std::task::Poll::Ready(output) => *done = Some(output),
                    std::task::Poll::Pending => all = false,
                }
            }
        }
        if all { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    waiting.into_iter().filter_map(|(_, done)| done).collect()
}
