//! The keeper: the process that owns the attempts of a machine. It starts guardians, answers for them, and serves one
//! agent on a socket. One thread, no network, no TLS; it may die at any time, and the next one finds the guardians.
mod adopt;
mod agent;
mod attempts;
mod event;
mod guardians;
mod pace;
pub(crate) mod place;
mod queue;
mod remains;
mod users;
mod watch;

use crate::guardian::sys;
use attempts::Keeper;
use place::Place;
use std::io;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

pub use place::Error as PlaceError;

/// What keeps a keeper from serving.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its runtime directory.
    #[error("the runtime directory cannot be used")]
    Place(#[from] PlaceError),
    /// Its socket or its event queue.
    #[error("cannot serve the keeper's socket")]
    Serve(#[from] io::Error),
}

/// Arguments of `reeve-agent keeper`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The runtime directory.
    #[arg(long)]
    pub dir: PathBuf,
    /// Where attempts get their directories, and output goes that is too large for memory [default: DIR].
    #[arg(long)]
    pub data: Option<PathBuf>,
    /// Where programs are looked for.
    #[arg(long, default_value = DEFAULT_PATH)]
    pub path: String,
    /// May run attempts as root.
    #[arg(long)]
    pub allow_root: bool,
    /// A user that every owner may run as (repeated).
    #[arg(long = "run-as", value_name = "USER")]
    pub run_as: Vec<String>,
    /// A user besides our own and root whose agent may connect (repeated).
    #[arg(long = "agent-uid", value_name = "UID")]
    pub agent_uids: Vec<u32>,
    /// Leaves after so many seconds without attempts and without an agent.
    #[arg(long, default_value_t = 60)]
    pub linger_s: u64,
}

/// Where programs are looked for when nothing else is configured.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Serves until there is nothing left to do, or until it is killed.
///
/// # Errors
/// When the runtime directory cannot be used or is another keeper's.
pub fn run(args: &Args) -> Result<(), Error> {
    // Files of the keeper are its own; a command gets 022 again.
    rustix::process::umask(rustix::fs::Mode::from_bits_retain(0o077));
    let life = crate::life::current();
    let place = Place::enter(&args.dir, args.data.as_deref(), &life)?;
    sys::keeper_signals();
    // Fails when it leads a session already, which is as good.
    let _ = rustix::process::setsid();
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).map_err(io::Error::from)?;
    let _ = std::fs::remove_file(SOCKET);
    let listener = UnixListener::bind(SOCKET)?;
    listener.set_nonblocking(true)?;
    let mut keeper = Keeper::new(place, life, args, listener)?;
    keeper.adopt();
    keeper.serve()?;
    // In a directory that was replaced this is nobody's any more, and the other one's socket is not ours.
    let _ = std::fs::remove_file(SOCKET);
    Ok(())
}

/// The name of the socket in the runtime directory.
pub const SOCKET: &str = "keeper.sock";
