//! The agent: a relay between coordinator and keeper with two small files and no job state. It may be restarted or
//! upgraded at any time; nothing that runs notices.
mod artifacts;
mod beats;
pub(crate) mod dial;
mod facts;
mod gpus;
mod horizon;
mod join;
pub(crate) mod leave;
pub(crate) mod local;
mod opening;
mod outbox;
mod output;
mod renewal;
mod replicas;
mod session;
mod uploads;

pub use dial::Error as DialError;
pub use join::{Error as JoinError, join};
pub use leave::{LeaveError, StopError, leave, stop_jobs};
pub use local::Error as KeeperError;
pub(crate) use renewal::wall;

use crate::config::Config;
use crate::identity::{self, Credentials, Seen};
use local::{Link, Starter};
use quinn::{ClientConfig, Connection, Endpoint, VarInt};
use reeve_protocol::cause::Cause;
use reeve_protocol::frame::Frame;
use reeve_protocol::quic;
use reeve_protocol::time::Wall;
use reeve_protocol::validity;
use reeve_protocol::wire::{close, kind};
use renewal::Renewal;
use replicas::Replicas;
use rustix::fs::{FlockOperation, flock};
use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::sleep;

/// Between two attempts to connect: doubles up to the longest. With the patience of one attempt a coordinator that is back
/// hears every machine within 3 s.
const SHORTEST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(1);
/// When another machine with this identity is heard.
const CLASH: Duration = Duration::from_secs(5);
/// When a person has to do something first; doubles up to the longest.
const TURNED_AWAY: Duration = Duration::from_secs(30);
const LONG_TURNED_AWAY: Duration = Duration::from_mins(10);
/// For the attempts of a machine that was removed to end.
const END_JOBS: Duration = Duration::from_mins(1);

/// An agent that cannot work at all.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its identity.
    #[error("no usable identity")]
    Identity(#[from] identity::Error),
    /// TLS settings made of it.
    #[error("the identity's certificates cannot be used")]
    Tls(#[from] quic::Error),
    /// No socket.
    #[error("no way to the network")]
    Socket(#[from] DialError),
    /// Two agents would take the session from each other for ever.
    #[error("another agent serves {0}: stop that one first")]
    Taken(std::path::PathBuf),
}

/// Relays until `shutdown` turns true; keeper and attempts live on.
///
/// # Errors
/// Only what no waiting would help against.
pub async fn run(config: Config, mut shutdown: watch::Receiver<bool>) -> Result<(), Error> {
    let credentials = Credentials::load(&config.state_dir)?;
    let _lock = lock(&config.state_dir)?;
    let tls = tls_of(&credentials)?;
    let endpoint = dial::endpoint()?;
    let mut agent = Agent {
        replicas: Replicas::new(&config.runtime_dir),
        config,
        credentials,
        tls,
        endpoint: endpoint.clone(),
        starter: Starter::default(),
        ready: false,
        turned_away: TURNED_AWAY,
    };
    let mut backoff = SHORTEST;
    loop {
        let round = async {
            let pause = agent.connect_and_serve(&mut backoff).await;
            sleep(pause).await;
        };
        tokio::select! {
            biased;
            _ = shutdown.wait_for(|stop| *stop) => break,
            () = round => {}
        }
    }
    // What was closed is told to the other side before the socket goes.
    endpoint.close(VarInt::from_u32(close::DONE), b"the agent stops");
    let _ = tokio::time::timeout(Duration::from_secs(1), endpoint.wait_idle()).await;
    Ok(())
}

/// Held for as long as this agent runs, and freed by the kernel however it ends.
fn lock(dir: &std::path::Path) -> Result<std::fs::File, Error> {
    let path = dir.join("agent.lock");
    let open = std::fs::File::options().create(true).truncate(false).write(true).open(&path);
    let file = open.map_err(|source| identity::Error::File { path, source })?;
    flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| Error::Taken(dir.to_owned()))?;
    Ok(file)
}

fn tls_of(credentials: &Credentials) -> Result<ClientConfig, quic::Error> {
    let chain = vec![credentials.certificate.clone()];
    quic::client_config(&credentials.ca, chain, credentials.key.clone_key())
}

struct Agent {
    config: Config,
    credentials: Credentials,
    tls: ClientConfig,
    endpoint: Endpoint,
    starter: Starter,
    replicas: Replicas,
    ready: bool,
    /// The next pause when a person has to do something first.
    turned_away: Duration,
}

/// Why a round ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("no keeper")]
    Keeper(#[from] KeeperError),
    #[error("no connection")]
    Dial(#[from] DialError),
    #[error("the session ended")]
    Session(#[from] session::Error),
}

impl Agent {
    /// One round: keeper, connection, session. Gives the pause before the next.
    async fn connect_and_serve(&mut self, backoff: &mut Duration) -> Duration {
        let ended = match self.round(backoff).await {
            Ok(()) => return Duration::ZERO,
            Err(ended) => ended,
        };
        tracing::warn!(error = &ended as &dyn std::error::Error, "not connected");
        let code = match &ended {
            Ended::Session(error) => error.code(),
            Ended::Dial(DialError::TurnedAway { code, .. }) => Some(*code),
            _ => None,
        };
        if code == Some(close::REVOKED) {
            self.end_jobs().await;
        }
        let expired = self.is_expired(&ended);
        if expired || code.is_some_and(needs_a_person) {
            let pause = jittered(self.turned_away);
            self.turned_away = (self.turned_away * 2).min(LONG_TURNED_AWAY);
            return pause;
        }
        if code == Some(close::SUPERSEDED) {
            return jittered(CLASH);
        }
        let pause = jittered(*backoff);
        *backoff = (*backoff * 2).min(LONGEST);
        pause
    }

    /// This machine was removed: what it still runs has been given to others.
    async fn end_jobs(&self) {
        match stop_jobs(&self.config.runtime_dir, &Cause::Fenced, END_JOBS).await {
            Ok(()) => tracing::warn!(
                "this machine was removed from the cluster: nothing of its jobs runs here any more; to take it in again: \
                 reeve machine token there, then here reeve-agent leave and reeve-agent join HOST --token-file FILE"
            ),
            Err(error) => tracing::error!(
                error = &error as &dyn std::error::Error,
                "jobs of a cluster that this machine left still run"
            ),
        }
    }

    /// Whether TLS ended because of a certificate's time, and if so, says whose clock to look at.
    fn is_expired(&self, ended: &Ended) -> bool {
        let Ended::Session(session::Error::Connection(error)) = ended else { return false };
        if !dial::is_expired(error) {
            return false;
        }
        let until = validity::of(&self.credentials.certificate).map_or(0, |v| v.until);
        let (until, now) = (Wall(until), Wall(wall()));
        tracing::error!(
            %until, %now,
            "this machine's certificate has expired by the coordinator's clock: compare both clocks; if they are right: \
             reeve machine rm NAME and reeve machine token there, then here reeve-agent join HOST --token-file FILE"
        );
        true
    }

    /// Takes what is on disk: a renewed certificate is shown from the next connection on.
    fn reload(&mut self) {
        let loaded = match Credentials::load(&self.config.state_dir) {
            Ok(loaded) if loaded.certificate != self.credentials.certificate => loaded,
            Ok(_) => return,
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the identity on disk is not read again"
                );
                return;
            }
        };
        match tls_of(&loaded) {
            Ok(tls) => {
                // The order of the addresses was learnt; the rest is the disk's.
                let addresses = std::mem::take(&mut self.credentials.identity.addresses);
                self.credentials = loaded;
                self.credentials.identity.addresses = addresses;
                self.tls = tls;
            }
            Err(error) => tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the identity on disk cannot be used"
            ),
        }
    }

    async fn round(&mut self, backoff: &mut Duration) -> Result<(), Ended> {
        self.reload();
        let mut link = self.starter.link(&self.config).await?;
        // The first word makes us the keeper's agent, so that it stays while there is no coordinator.
        let machine = facts::machine(&self.config.settings, self.config.has_root_keeper());
        let limits = facts::limits(&machine, &self.credentials.identity.name);
        link.say(kind::LIMITS, &limits).await?;
        let connection = tokio::select! {
            connection = self.dial() => connection?,
            error = discard(&mut link) => return Err(error.into()),
        };
        let seen = Seen::load(&self.config.state_dir);
        let result: Result<(), session::Error> = async {
            let opened = opening::open(&connection, &self.credentials.identity, &seen, &link).await?;
            *backoff = SHORTEST;
            self.turned_away = TURNED_AWAY;
            self.welcomed(&opened.welcome);
            let renewal = Renewal::new(&self.config.state_dir, &self.credentials.certificate);
            Err(session::run(&connection, &self.config, opened, link, renewal, &self.replicas).await)
        }
        .await;
        let code = result.as_ref().err().map_or(close::DONE, session::Error::close_code);
        connection.close(VarInt::from_u32(code), b"");
        Ok(result?)
    }

    /// Connects, and remembers which address answered: a dead one costs seconds.
    async fn dial(&mut self) -> Result<Connection, DialError> {
        let identity = &mut self.credentials.identity;
        let name = quic::server_name(&identity.cluster);
        let (connection, at) = dial::dial(&self.endpoint, &self.tls, &identity.addresses, &name).await?;
        identity.addresses[..=at].rotate_right(1);
        Ok(connection)
    }

    fn welcomed(&mut self, welcome: &reeve_protocol::wire::Welcome) {
        tracing::info!(name = %welcome.name, session = welcome.session, "connected");
        let seen = Seen { lineage: welcome.lineage.clone(), epoch: welcome.epoch, seq: welcome.seq };
        if let Err(error) = seen.store(&self.config.state_dir) {
            tracing::warn!(error = &error as &dyn std::error::Error, "what was seen cannot be noted");
        }
        if !std::mem::replace(&mut self.ready, true) {
            // Outside a service nobody waits for this.
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        }
    }
}

/// Reads what the keeper says while nobody can be told; the inventory will say all of it again.
async fn discard(link: &mut Link) -> KeeperError {
    loop {
        match local::next_frame(&mut link.read, &mut link.frames).await {
            Ok(Frame { kind, .. }) => tracing::trace!(kind, "said while not connected"),
            Err(error) => return error,
        }
    }
}

/// Whether trying again soon helps nobody.
fn needs_a_person(code: u32) -> bool {
    matches!(
        code,
        close::REVOKED | close::WRONG_CLUSTER | close::STORE_REGRESSED | close::UNAUTHORISED | close::VERSION
    )
}

/// Between half and all of it, so that a thousand agents do not come back at once.
fn jittered(pause: Duration) -> Duration {
    let part = RandomState::new().hash_one(0u8) % 512;
    pause.mul_f64(0.5 + part as f64 / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_spread_and_never_longer_than_asked() {
        for _ in 0..100 {
            let pause = jittered(LONGEST);
            assert!(pause >= LONGEST / 2 && pause <= LONGEST, "{pause:?}");
        }
    }

    #[test]
    fn a_person_is_needed_for_what_time_does_not_heal() {
        assert!(needs_a_person(close::REVOKED) && needs_a_person(close::STORE_REGRESSED));
        assert!(!needs_a_person(close::STOPPING) && !needs_a_person(close::DONE));
        // A machine that was restarted has to wait only until its former session is silent.
        assert!(!needs_a_person(close::SUPERSEDED));
    }
}
