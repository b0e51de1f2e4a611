//! The keeper: the process that owns the attempts of a machine. It starts guardians, answers for them, and serves one
//! agent on a socket. One thread, no network, no TLS; it may die at any time, and the next one finds the guardians.
mod adopt;
mod agent;
mod artifacts;
mod attempts;
mod checkouts;
mod event;
mod guardians;
mod jobs_cgroup;
mod pace;
pub(crate) mod place;
mod queue;
mod remains;
mod slots;
mod users;
mod watch;
mod zygote;

use crate::config::{CgroupUse, CpuLimit, Settings};
use crate::guardian::sys;
use attempts::Keeper;
use place::Place;
use reeve_protocol::units::parse_bytes;
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
    /// The agent's configuration.
    #[error("the agent's configuration cannot be used")]
    Config(#[from] crate::config::Error),
    /// The agent's user.
    #[error("there is no user {0:?} on this machine for the agent; make it with: systemd-sysusers")]
    AgentUser(String),
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
    /// The agent's configuration file: what it says about path, allow_root, run_as and jobs_cgroup holds unless a flag
    /// says it.
    #[arg(long, env = "REEVE_AGENT_CONFIG")]
    pub config: Option<PathBuf>,
    /// Where programs are looked for [default: the system's directories].
    #[arg(long)]
    pub path: Option<String>,
    /// May run attempts as root.
    #[arg(long)]
    pub allow_root: bool,
    /// A user that every owner may run as (repeated).
    #[arg(long = "run-as", value_name = "USER")]
    pub run_as: Vec<String>,
    /// A user besides our own and root whose agent may connect.
    #[arg(long, value_name = "USER")]
    pub agent_user: Option<String>,
    /// Attempts live below this control group: its directory, or the file that `reeve-agent jobs` writes. Nothing starts
    /// while it is absent.
    #[arg(long, value_name = "PATH")]
    pub jobs_cgroup: Option<PathBuf>,
    /// Control groups for what attempts may use: auto, or off (memory limits are watched by reeve itself then).
    #[arg(long, value_enum, env = "REEVE_CGROUPS")]
    pub cgroups: Option<CgroupUse>,
    /// Processes and threads of one attempt, at most [default: 16384].
    #[arg(long, env = "REEVE_PROCESSES", value_parser = clap::value_parser!(u64).range(16..=4_194_304))]
    pub processes: Option<u64>,
    /// What cpus mean to the kernel: weight (a share when all are busy) or quota (never more) [default: weight].
    #[arg(long, value_enum, env = "REEVE_CPU_LIMIT")]
    pub cpu_limit: Option<CpuLimit>,
    /// May check out every directory of this machine.
    #[arg(long)]
    pub allow_file_repositories: bool,
    /// Bytes of all artifacts of one attempt, at most [default: what its job says].
    #[arg(long, value_name = "BYTES")]
    pub out_max: Option<u64>,
    /// Leaves after so many seconds without attempts and without an agent.
    #[arg(long, default_value_t = 60)]
    pub linger_s: u64,
    /// Never leaves by itself: a service runs it.
    #[arg(long)]
    pub stay: bool,
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
    let args = &args.settled()?;
    let agent = args.agent_user.as_deref().map(agent_user).transpose()?;
    let life = crate::life::current();
    let place = Place::enter(&args.dir, args.data.as_deref(), agent.as_ref().map(|(_, gid)| *gid), &life)?;
    sys::keeper_signals();
    // Fails when it leads a session already, which is as good.
    let _ = rustix::process::setsid();
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).map_err(io::Error::from)?;
    let _ = std::fs::remove_file(SOCKET);
    let listener = UnixListener::bind(SOCKET)?;
    listener.set_nonblocking(true)?;
    if let Some((_, gid)) = agent {
        place::share(SOCKET.as_ref(), gid, 0o660)?;
    }
    let mut keeper =
        Keeper::new(place, life, args, agent.map(|(uid, _)| uid).into_iter().collect(), listener)?;
    keeper.adopt();
    keeper.clean_slots();
    keeper.start_zygote();
    // Outside a service nobody waits for this.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    keeper.serve()?;
    // In a directory that was replaced this is nobody's any more, and the other one's socket is not ours.
    let _ = std::fs::remove_file(SOCKET);
    keeper.close_slots();
    Ok(())
}

impl Args {
    /// With what the configuration file says where no flag does.
    fn settled(&self) -> Result<Self, Error> {
        let mut args = self.clone();
        let settings = self.config.as_deref().map(Settings::read).transpose()?.unwrap_or_default();
        args.path = args.path.or(Some(settings.path));
        args.allow_root |= settings.allow_root;
        if args.run_as.is_empty() {
            args.run_as = settings.run_as;
        }
        args.jobs_cgroup = args.jobs_cgroup.or(settings.jobs_cgroup);
        args.cgroups = args.cgroups.or(Some(settings.cgroups));
        args.processes = args.processes.or(Some(settings.processes));
        args.cpu_limit = args.cpu_limit.or(Some(settings.cpu_limit));
        let out_max = settings.out_max.as_deref().and_then(|size| parse_bytes(size).ok());
        args.out_max = args.out_max.or(out_max);
        Ok(args)
    }
}

/// The numbers of a user and of its first group.
fn agent_user(name: &str) -> Result<(u32, u32), Error> {
    let user = nix::unistd::User::from_name(name).ok().flatten();
    let user = user.ok_or_else(|| Error::AgentUser(name.to_owned()))?;
    Ok((user.uid.as_raw(), user.gid.as_raw()))
}

/// The name of the socket in the runtime directory.
pub const SOCKET: &str = "keeper.sock";
