//! Takes connections, tells machines from strangers, and ends them all at the stop.
use super::end::End;
use super::socket::{self, Sockets};
use super::{Context, Error, join, session};
use crate::identity;
use quinn::{Connection, Endpoint, Incoming, VarInt};
use reeve_protocol::wire::close;
use rustls::pki_types::CertificateDer;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{MissedTickBehavior, timeout};

/// Connections at once.
const MAX_CONNECTIONS: usize = 4096;
/// Connections that have not opened a session yet.
const STRANGERS: usize = 256;
/// From so many on, a stranger must first show that its address is its own.
const DOUBTFUL: usize = 64;
/// For a handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// For sessions to say goodbye, and for the endpoint to.
const GOODBYE: Duration = Duration::from_secs(1);

/// The running port.
pub struct Net {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Net {
    /// Starts serving.
    ///
    /// # Errors
    /// When the certificates or the sockets cannot be used.
    pub fn start(context: Context, sockets: Sockets) -> Result<Self, Error> {
        let mut server = context.authority.server_config()?;
        // A flood of first packets may not cost more than this.
        server
            .max_incoming(STRANGERS)
            .incoming_buffer_size(64 * 1024)
            .incoming_buffer_size_total(4 * 1024 * 1024);
        let address = sockets.address();
        let config = context.authority.endpoint_config();
        let endpoint = Endpoint::new(config, Some(server), sockets.udp, Arc::new(quinn::TokioRuntime));
        let endpoint = endpoint.map_err(Error::Endpoint)?;
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(serve(Arc::new(context), endpoint, sockets.tcp, stopped));
        Ok(Self { address, stop, task })
    }

    /// The address with the port that was chosen.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more connections, tells every machine, and waits a moment until they have heard it.
    pub async fn stop(self) {
        drop(self.stop);
        let _ = self.task.await;
    }
}

async fn serve(
    context: Arc<Context>,
    endpoint: Endpoint,
    tcp: Option<std::net::TcpListener>,
    mut stopped: oneshot::Receiver<()>,
) {
    let strangers = Arc::new(Semaphore::new(STRANGERS));
    let mut tasks = JoinSet::new();
    let mut tick = tokio::time::interval(super::beats::Pulse::TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut courtesy = JoinSet::new();
    if let Some(listener) = tcp {
        courtesy.spawn(socket::courtesy(listener));
    }
    loop {
        tokio::select! {
            _ = &mut stopped => break,
            _ = tick.tick() => context.pulse.tick(Instant::now()),
            Some(_) = tasks.join_next() => {}
            incoming = endpoint.accept() => match incoming {
                Some(incoming) => {
                    if let Some((incoming, permit)) = admit(incoming, &endpoint, &strangers) {
                        tasks.spawn(connection(context.clone(), incoming, permit));
                    }
                }
                None => break,
            },
        }
    }
    endpoint.set_server_config(None);
    let end = End::stopping();
    context.sessions.close_all(end.code, &end.reason);
    let _ = timeout(GOODBYE, async { while tasks.join_next().await.is_some() {} }).await;
    endpoint.close(VarInt::from_u32(close::STOPPING), end.reason.as_bytes());
    let _ = timeout(GOODBYE, async { while tasks.join_next().await.is_some() {} }).await;
    let _ = timeout(GOODBYE, endpoint.wait_idle()).await;
    // Dropping the context drops the last way from here to the engine.
    tasks.shutdown().await;
}

/// Whether a connection is let in at all.
fn admit(
    incoming: Incoming,
    endpoint: &Endpoint,
    strangers: &Arc<Semaphore>,
) -> Option<(Incoming, OwnedSemaphorePermit)> {
    let taken = STRANGERS - strangers.available_permits();
    if taken >= DOUBTFUL && !incoming.remote_address_validated() && incoming.may_retry() {
        let _ = incoming.retry();
        return None;
    }
    match strangers.clone().try_acquire_owned() {
        Ok(permit) if endpoint.open_connections() < MAX_CONNECTIONS => Some((incoming, permit)),
        _ => {
            incoming.refuse();
            None
        }
    }
}

async fn connection(context: Arc<Context>, incoming: Incoming, permit: OwnedSemaphorePermit) {
    let address = incoming.remote_address();
    let handshake = async { incoming.accept()?.await };
    let connection = match timeout(HANDSHAKE, handshake).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return tracing::debug!(%address, %error, "handshake failed"),
        Err(_) => return tracing::debug!(%address, "handshake took too long"),
    };
    let Some(certificate) = certificate(&connection) else {
        return join::serve(&context, &connection).await;
    };
    let fingerprint = identity::fingerprint(&certificate);
    match context.machines.find(&fingerprint) {
        Some(known) if !known.revoked => {
            let peer = session::Peer { machine: known.machine, fingerprint };
            session::serve(context, connection, peer, permit).await;
        }
        Some(known) => {
            tracing::warn!(machine = known.machine, %address, "a removed machine was turned away");
            End::new(close::REVOKED, "the machine was removed from the cluster; join again with a new token")
                .close(&connection);
        }
        None => {
            tracing::warn!(%address, "a certificate of this cluster that the store does not know was turned away");
            End::new(close::UNAUTHORISED, "the certificate is not known here; join again with a new token")
                .close(&connection);
        }
    }
}

/// The certificate that the other side showed, if any. It was verified in the handshake.
fn certificate(connection: &Connection) -> Option<CertificateDer<'static>> {
    let chain = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    chain.into_iter().next()
}
