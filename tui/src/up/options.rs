//! What `reeve up` and `reeve down` take.
use std::net::SocketAddr;
use std::path::PathBuf;

/// Start a coordinator and an agent on this machine, and open the console.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Up {
    /// Where everything is kept [default: $XDG_DATA_HOME/reeve/up]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Be the server in the foreground, and print `ready socket=PATH`
    #[arg(long)]
    pub no_console: bool,
    /// Where agents of other machines may connect [default: 127.0.0.1, a free port]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<SocketAddr>,
    /// This machine's name [default: its host name]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Submit a small workload, so that there is something to see
    #[arg(long)]
    pub demo: bool,
    /// Stop when the demo has ended
    #[arg(long, requires = "demo")]
    pub exit_when_idle: bool,
    /// The server half: leaves the session it was started from
    #[arg(long, hide = true, requires = "no_console")]
    pub detached: bool,
}

/// Stop what `reeve up` started; running jobs go on.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Down {
    /// Also end the running jobs
    #[arg(long)]
    pub jobs: bool,
    /// The directory of `reeve up`
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}
