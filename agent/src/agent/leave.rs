//! Going: ending every attempt of a machine, and leaving the cluster.
use super::dial::{self, dial, endpoint};
use super::local::{self, Link, Starter};
use super::opening::{self, say_now};
use super::session;
use crate::config::Config;
use crate::identity::{self, Credentials, Seen};
use quinn::VarInt;
use reeve_protocol::cause::Cause;
use reeve_protocol::quic;
use reeve_protocol::wire::{Shutdown, close, kind};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;
use tokio::time::timeout;

/// For the coordinator to take note and close.
const GOODBYE: Duration = Duration::from_secs(5);

/// For attempts to end when the machine leaves.
const END_JOBS: Duration = Duration::from_mins(1);

/// Attempts that were not ended.
#[derive(Debug, thiserror::Error)]
pub enum StopError {
    /// The keeper.
    #[error("the keeper cannot be asked")]
    Keeper(#[from] local::Error),
    /// It takes longer than was allowed.
    #[error("attempts still run after {} s", .0.as_secs())]
    Slow(Duration),
}

/// The coordinator was not told.
#[derive(Debug, thiserror::Error)]
pub enum LeaveError {
    /// No identity to leave with.
    #[error("no usable identity")]
    Identity(#[from] identity::Error),
    /// Its certificates.
    #[error("the identity's certificates cannot be used")]
    Tls(#[from] quic::Error),
    /// No keeper to speak for.
    #[error("no keeper")]
    Keeper(#[from] local::Error),
    /// No connection.
    #[error("the coordinator cannot be told; remove this machine there with: reeve machine rm")]
    Dial(#[from] dial::Error),
    /// Attempts still run here.
    #[error("the cluster was left")]
    Jobs(#[from] StopError),
    /// It did not listen.
    #[error("the coordinator did not listen: {0}")]
    Session(String),
}

/// Ends every attempt below a runtime directory and waits until the keeper has left. Without a keeper there is nothing
/// to end.
///
/// # Errors
/// [`StopError`].
pub async fn stop_jobs(runtime_dir: &Path, cause: &Cause, patience: Duration) -> Result<(), StopError> {
    let mut link = match Link::connect(runtime_dir).await {
        Err(local::Error::Socket(e))
            if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) =>
        {
            return Ok(());
        }
        other => other?,
    };
    let keeper = Pid::from_raw(link.hello.pid.cast_signed()).ok_or(local::Error::Silent)?;
    let process =
        pidfd_open(keeper, PidfdFlags::NONBLOCK).map_err(io::Error::from).map_err(local::Error::from)?;
    link.say(kind::SHUTDOWN, &Shutdown { cause: cause.to_wire() }).await?;
    let mut left = tokio::task::spawn_blocking(move || wait_for_end(&process, patience));
    // What it says meanwhile has to be read, or it would think that nobody is there.
    let ended = tokio::select! {
        ended = &mut left => ended,
        () = read_all(&mut link) => left.await,
    };
    match ended {
        Ok(true) => Ok(()),
        _ => Err(StopError::Slow(patience)),
    }
}

fn wait_for_end(process: &OwnedFd, patience: Duration) -> bool {
    let timeout = Timespec { tv_sec: patience.as_secs() as i64, tv_nsec: patience.subsec_nanos().into() };
    let mut fds = [PollFd::new(process, PollFlags::IN)];
    poll(&mut fds, Some(&timeout)).is_ok_and(|ready| ready > 0)
}

async fn read_all(link: &mut Link) {
    while local::next_frame(&mut link.read, &mut link.frames).await.is_ok() {}
}

/// Tells the coordinator that this machine leaves, then forgets the identity. With `purge` the state directory goes too.
/// The identity is forgotten even when nobody could be told, and the error says so.
///
/// # Errors
/// [`LeaveError`].
pub async fn leave(config: &Config, purge: bool) -> Result<(), LeaveError> {
    let credentials = Credentials::load(&config.state_dir)?;
    let told = tell(config, &credentials).await;
    // The coordinator gives them to others now, and nobody would ever ask for their ends.
    let ended = stop_jobs(&config.runtime_dir, &Cause::Drained, END_JOBS).await;
    identity::remove(&config.state_dir);
    if purge {
        // The keeper of a service keeps what is its own.
        let runtime = config.settings.keeper_dir.is_none().then_some(&config.runtime_dir);
        for dir in runtime.into_iter().chain([&config.data_dir, &config.state_dir]) {
            let _ = std::fs::remove_dir_all(dir);
        }
    }
    told?;
    Ok(ended?)
}

async fn tell(config: &Config, credentials: &Credentials) -> Result<(), LeaveError> {
    let tls = super::tls_of(credentials)?;
    // Only the keeper of before may take over the session of a running agent.
    let link = Starter::default().link(config).await?;
    let endpoint = endpoint()?;
    let identity = &credentials.identity;
    let name = quic::server_name(&identity.cluster);
    let (connection, _) = dial(&endpoint, &tls, &identity.addresses, &name).await?;
    let seen = Seen::load(&config.state_dir);
    let said = async {
        let mut opened = opening::open(&connection, identity, &seen, &link).await?;
        say_now(&mut opened.send, kind::LEAVE, &()).await?;
        let _ = opened.send.finish();
        // The coordinator takes note, or at least has the bytes.
        let _ = timeout(GOODBYE, opened.send.stopped()).await;
        Ok::<_, session::Error>(())
    };
    let result = said.await;
    connection.close(VarInt::from_u32(close::DONE), b"left");
    let _ = timeout(GOODBYE, endpoint.wait_idle()).await;
    result.map_err(|error| LeaveError::Session(error.to_string()))
}
