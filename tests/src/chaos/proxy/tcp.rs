//! The proxy for TCP: delay, rate, blackhole per direction, and resets. A stream has no datagrams to drop: whatever
//! passes passes in order.
use super::{Faults, Way};
use crate::chaos::rng::Rng;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Read at once.
const PIECE: usize = 16 * 1024;

#[derive(Default)]
struct Bytes {
    up: AtomicU64,
    down: AtomicU64,
}

struct Shared {
    faults: watch::Sender<[Faults; 2]>,
    /// Raised by every reset: connections made before end.
    resets: watch::Sender<u64>,
    bytes: Bytes,
    connections: AtomicU64,
    rng: Mutex<Rng>,
}

/// A running proxy; it ends when this is dropped.
pub struct TcpProxy {
    shared: Arc<Shared>,
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for TcpProxy {
    fn drop(&mut self) {
        self.task.abort();
        self.reset();
    }
}

impl TcpProxy {
    /// Listens on `listen` and passes on to `server`.
    ///
    /// # Errors
    /// When the address cannot be used.
    pub async fn start(listen: SocketAddr, server: SocketAddr, rng: &Rng) -> io::Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            faults: watch::Sender::default(),
            resets: watch::Sender::new(0),
            bytes: Bytes::default(),
            connections: AtomicU64::new(0),
            rng: Mutex::new(rng.part("tcp")),
        });
        let accept = accept(listener, server, shared.clone());
        Ok(Self { shared, address, task: tokio::spawn(accept) })
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on this is done to what goes this way. Only delay, rate and blackhole mean something for a stream.
    pub fn set(&self, way: Way, faults: Faults) {
        self.shared.faults.send_modify(|both| both[way as usize] = faults);
    }

    /// Ends every connection with a reset on both sides.
    pub fn reset(&self) {
        self.shared.resets.send_modify(|n| *n += 1);
    }

    /// Connections taken, bytes passed up and down.
    pub fn counts(&self) -> (u64, u64, u64) {
        let get = |n: &AtomicU64| n.load(Ordering::Relaxed);
        (get(&self.shared.connections), get(&self.shared.bytes.up), get(&self.shared.bytes.down))
    }
}

async fn accept(listener: TcpListener, server: SocketAddr, shared: Arc<Shared>) {
    loop {
        let Ok((client, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        };
        shared.connections.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(serve(client, server, shared.clone()));
    }
}

async fn serve(client: TcpStream, server: SocketAddr, shared: Arc<Shared>) {
    let mut resets = shared.resets.subscribe();
    let Ok(server) = TcpStream::connect(server).await else { return };
    // A reset, not an orderly end, is what closing means until both sides have ended by themselves.
    for stream in [&client, &server] {
        let _ = rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO));
    }
    let both = async {
        let (mut client_in, mut client_out) = tokio::io::split(client);
        let (mut server_in, mut server_out) = tokio::io::split(server);
        let up = copy(&mut client_in, &mut server_out, Way::Up, &shared);
        let down = copy(&mut server_in, &mut client_out, Way::Down, &shared);
        let ended = tokio::join!(up, down);
        if matches!(ended, (Ok(()), Ok(()))) {
            for stream in [client_in.unsplit(client_out), server_in.unsplit(server_out)] {
                let _ = rustix::net::sockopt::set_socket_linger(&stream, None);
            }
        }
    };
    tokio::select! {
        () = both => {}
        _ = resets.changed() => {}
    }
}

async fn copy(
    from: &mut tokio::io::ReadHalf<TcpStream>,
    to: &mut tokio::io::WriteHalf<TcpStream>,
    way: Way,
    shared: &Shared,
) -> io::Result<()> {
    let mut faults = shared.faults.subscribe();
    let mut buffer = vec![0; PIECE];
    loop {
        let len = from.read(&mut buffer).await?;
        // What has come while nothing passes waits here; the sender meets a full window.
        let now = match faults.wait_for(|both| !both[way as usize].blackhole).await {
            Ok(both) => both[way as usize].clone(),
            Err(gone) => return Err(io::Error::other(gone)),
        };
        let (low, high) = (now.delay.0.as_micros() as u64, now.delay.1.max(now.delay.0).as_micros() as u64);
        let mut wait = shared.rng.lock().unwrap().range(low, high);
        if let Some(rate) = now.rate.filter(|rate| *rate > 0) {
            wait += len as u64 * 1_000_000 / rate;
        }
        if wait > 0 {
            tokio::time::sleep(Duration::from_micros(wait)).await;
        }
        if len == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..len]).await?;
        let bytes = if way == Way::Up { &shared.bytes.up } else { &shared.bytes.down };
        bytes.fetch_add(len as u64, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn triple() -> (TcpProxy, TcpStream, TcpStream) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let proxy = TcpProxy::start(([127, 0, 0, 1], 0).into(), listener.local_addr().unwrap(), &Rng::new(1))
            .await
            .unwrap();
        let client = TcpStream::connect(proxy.address()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        (proxy, client, server)
    }

    #[tokio::test]
    async fn bytes_pass_in_order_and_are_counted_per_direction() {
        let (proxy, mut client, mut server) = triple().await;
        let sent: Vec<u8> = (0..200_000u32).map(|n| n as u8).collect();
        let (copy, mut got) = (sent.clone(), Vec::new());
        let write = tokio::spawn(async move {
            client.write_all(&copy).await.unwrap();
            client.shutdown().await.unwrap();
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.unwrap();
            answer
        });
        server.read_to_end(&mut got).await.unwrap();
        server.write_all(b"thanks").await.unwrap();
        server.shutdown().await.unwrap();
        assert!(got == sent, "the bytes, in order");
        assert_eq!(write.await.unwrap(), b"thanks");
        assert_eq!(proxy.counts(), (1, 200_000, 6));
    }

    #[tokio::test]
    async fn a_blackhole_holds_bytes_back_and_healing_lets_them_go() {
        let (proxy, mut client, mut server) = triple().await;
        proxy.set(Way::Up, Faults::blackhole());
        client.write_all(b"held").await.unwrap();
        server.write_all(b"free").await.unwrap();
        let mut buffer = [0; 4];
        client.read_exact(&mut buffer).await.unwrap();
        assert_eq!((&buffer, proxy.counts().1), (b"free", 0));
        proxy.set(Way::Up, Faults::default());
        server.read_exact(&mut buffer).await.unwrap();
        assert_eq!(&buffer, b"held");
    }

    #[tokio::test]
    async fn a_reset_is_one_on_both_sides() {
        let (proxy, mut client, mut server) = triple().await;
        client.write_all(b"x").await.unwrap();
        server.read_u8().await.unwrap();
        proxy.reset();
        for stream in [&mut client, &mut server] {
            let ended = tokio::time::timeout(crate::PATIENCE, stream.read_u8()).await.unwrap();
            assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        }
    }
}
