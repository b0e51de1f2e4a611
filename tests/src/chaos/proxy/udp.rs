//! The proxy for UDP: one socket toward the machines, one toward the server for each client, so that the server sees as
//! many peers as there are. Giving a client a new socket is what a NAT does when it forgets ("rebinding").
use super::{Counts, Faults, Lane, Way};
use crate::chaos::rng::Rng;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Clients remembered; the one not heard longest goes first, as in a router.
const FLOWS: usize = 64;
/// Datagrams on their way from the readers of the sockets toward the server.
const PIECES: usize = 1024;

struct Shared {
    up: Mutex<Lane<SocketAddr>>,
    down: Mutex<Lane<SocketAddr>>,
    rebind: Mutex<bool>,
    changed: Notify,
}

/// A running proxy; it ends when this is dropped.
pub struct UdpProxy {
    shared: Arc<Shared>,
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for UdpProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl UdpProxy {
    /// Listens on `listen` and passes on to `server`.
    ///
    /// # Errors
    /// When the address cannot be used.
    pub async fn start(listen: SocketAddr, server: SocketAddr, rng: &Rng) -> io::Result<Self> {
        let front = UdpSocket::bind(listen).await?;
        let address = front.local_addr()?;
        let shared = Arc::new(Shared {
            up: Mutex::new(Lane::new(rng.part("up"))),
            down: Mutex::new(Lane::new(rng.part("down"))),
            rebind: Mutex::new(false),
            changed: Notify::new(),
        });
        let (heard, inbox) = mpsc::channel(PIECES);
        let work = Work {
            shared: shared.clone(),
            front,
            server,
            flows: HashMap::new(),
            heard,
            start: Instant::now(),
        };
        Ok(Self { shared, address, task: tokio::spawn(work.run(inbox)) })
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on this is done to what goes this way.
    pub fn set(&self, way: Way, faults: Faults) {
        self.lane(way).lock().unwrap().set(faults);
        self.shared.changed.notify_one();
    }

    /// Nothing is done any more, in both directions; what waits still leaves when it was due.
    pub fn heal(&self) {
        self.set(Way::Up, Faults::default());
        self.set(Way::Down, Faults::default());
    }

    /// Every client gets a new source port toward the server.
    pub fn rebind(&self) {
        *self.shared.rebind.lock().unwrap() = true;
        self.shared.changed.notify_one();
    }

    /// So far.
    pub fn counts(&self, way: Way) -> Counts {
        self.lane(way).lock().unwrap().counts()
    }

    fn lane(&self, way: Way) -> &Mutex<Lane<SocketAddr>> {
        match way {
            Way::Up => &self.shared.up,
            Way::Down => &self.shared.down,
        }
    }
}

struct Flow {
    back: Arc<UdpSocket>,
    reader: JoinHandle<()>,
    used: Instant,
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

struct Work {
    shared: Arc<Shared>,
    front: UdpSocket,
    server: SocketAddr,
    flows: HashMap<SocketAddr, Flow>,
    heard: mpsc::Sender<(SocketAddr, Vec<u8>)>,
    start: Instant,
}

impl Work {
    async fn run(mut self, mut inbox: mpsc::Receiver<(SocketAddr, Vec<u8>)>) {
        let mut buffer = vec![0; 65_536];
        loop {
            let due = self.start + Duration::from_micros(self.next_due().unwrap_or(u64::MAX >> 12));
            tokio::select! {
                got = self.front.recv_from(&mut buffer) => if let Ok((len, client)) = got {
                    let now = self.now();
                    self.shared.up.lock().unwrap().offer(now, buffer[..len].to_vec(), client);
                },
                Some((client, bytes)) = inbox.recv() => {
                    let now = self.now();
                    self.shared.down.lock().unwrap().offer(now, bytes, client);
                }
                () = self.shared.changed.notified() => self.rebind().await,
                () = tokio::time::sleep_until(due) => {}
            }
            self.send_due().await;
        }
    }

    fn now(&self) -> u64 {
        self.start.elapsed().as_micros() as u64
    }

    fn next_due(&self) -> Option<u64> {
        let (up, down) =
            (self.shared.up.lock().unwrap().next_due(), self.shared.down.lock().unwrap().next_due());
        up.into_iter().chain(down).min()
    }

    /// A datagram that cannot be sent is lost, as on any network; the client or the server notices.
    async fn send_due(&mut self) {
        loop {
            let now = self.now();
            let Some((bytes, client)) = self.shared.up.lock().unwrap().pop(now) else { break };
            if let Some(back) = self.back(client).await {
                let _ = back.send(&bytes).await;
            }
        }
        loop {
            let now = self.now();
            let Some((bytes, client)) = self.shared.down.lock().unwrap().pop(now) else { break };
            let _ = self.front.send_to(&bytes, client).await;
        }
    }

    async fn back(&mut self, client: SocketAddr) -> Option<Arc<UdpSocket>> {
        if let Some(flow) = self.flows.get_mut(&client) {
            flow.used = Instant::now();
            return Some(flow.back.clone());
        }
        if self.flows.len() >= FLOWS
            && let Some(oldest) = self.flows.iter().min_by_key(|(_, flow)| flow.used).map(|(at, _)| *at)
        {
            self.flows.remove(&oldest);
        }
        let flow = self.flow(client).await.ok()?;
        let back = flow.back.clone();
        self.flows.insert(client, flow);
        Some(back)
    }

    async fn flow(&self, client: SocketAddr) -> io::Result<Flow> {
        let any: SocketAddr = if self.server.is_ipv4() {
            ([127, 0, 0, 1], 0).into()
        } else {
            "[::1]:0".parse().expect("an address")
        };
        let back = Arc::new(UdpSocket::bind(any).await?);
        back.connect(self.server).await?;
        let (socket, heard) = (back.clone(), self.heard.clone());
        let reader = tokio::spawn(async move {
            let mut buffer = vec![0; 65_536];
            loop {
                match socket.recv(&mut buffer).await {
                    Ok(len) => {
                        if heard.send((client, buffer[..len].to_vec())).await.is_err() {
                            return;
                        }
                    }
                    // Nobody listens at the server just now; later somebody may.
                    Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        });
        Ok(Flow { back, reader, used: Instant::now() })
    }

    async fn rebind(&mut self) {
        if !std::mem::take(&mut *self.shared.rebind.lock().unwrap()) {
            return;
        }
        let clients: Vec<SocketAddr> = self.flows.keys().copied().collect();
        for client in clients {
            if let Ok(flow) = self.flow(client).await {
                self.flows.insert(client, flow);
                self.shared.up.lock().unwrap().rebound();
            }
        }
    }
}

#[cfg(test)]
#[path = "udp_test.rs"]
mod tests;
