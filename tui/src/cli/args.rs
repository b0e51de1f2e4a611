//! The words of the command line. What each subcommand takes stands beside its code.
use super::{
    bulk, change, diff, events, follow, get, list, machine, manager, queue, show, submit, top, wait, worker,
};
use crate::up;
use clap::{Parser, Subcommand, ValueEnum};

/// Runs jobs on machines, and shows what they do.
///
/// Without a subcommand, on a terminal: the console.
#[derive(Debug, Parser)]
#[command(name = "reeve", version = reeve_protocol::VERSION, disable_help_subcommand = true)]
#[command(after_help = "Try `reeve up` first; then `reeve submit -- echo hello` and `reeve ls`.")]
pub struct Args {
    /// What every command takes.
    #[command(flatten)]
    pub common: Common,
    /// The command.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What every command takes.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Common {
    /// The coordinator: a socket's path, unix:///PATH or ssh://USER@HOST [env: REEVE_HOST]
    #[arg(long, global = true, value_name = "HOST", help_heading = "Everywhere")]
    pub host: Option<String>,
    /// Print JSON, as the coordinator gave it
    #[arg(long, global = true, help_heading = "Everywhere")]
    pub json: bool,
    /// Colours (NO_COLOR is obeyed by auto)
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "WHEN",
        help_heading = "Everywhere"
    )]
    pub color: ColorChoice,
}

/// When colours are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ColorChoice {
    /// On a terminal, unless NO_COLOR is set.
    #[default]
    Auto,
    /// In pipes, too.
    Always,
    /// Not at all.
    Never,
}

/// Every command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a coordinator and an agent on this machine, and open the console
    Up(up::Up),
    /// Stop what `reeve up` started; running jobs go on
    Down(up::Down),
    /// Submit a job, an array of tasks or a file of jobs
    Submit(Box<submit::Submit>),
    /// List jobs
    Ls(list::Ls),
    /// Show everything about jobs
    Show(show::Show),
    /// Print what a job wrote
    Logs(follow::Logs),
    /// Fetch the files that a job left behind
    Get(get::Get),
    /// Wait until jobs have ended
    Wait(wait::Wait),
    /// Say why a job does not run
    Why(show::Why),
    /// End jobs
    Cancel(change::Cancel),
    /// Run jobs again that have ended
    Restart(change::Restart),
    /// Compare two jobs
    Diff(diff::Diff),
    /// Keep queued jobs from starting
    Hold(change::Change),
    /// Let held jobs start
    Release(change::Change),
    /// Change many jobs at once, counted before anything happens
    Bulk(bulk::Bulk),
    /// Give a job a name of your own, or record one that runs elsewhere
    Register(manager::Register),
    /// Report the state or progress of a job
    Update(manager::Update),
    /// Queues of jobs and of messages
    #[command(subcommand)]
    Queue(queue::Queue),
    /// Registered workers
    #[command(subcommand)]
    Worker(worker::Worker),
    /// Machines
    #[command(subcommand)]
    Machine(machine::Machine),
    /// What machines and running jobs use
    Top(top::Top),
    /// Counts of everything
    Stats,
    /// What happened, as JSON lines or for people
    Events(events::Events),
    /// Who asked for which change, and what was decided
    Audit(events::Audit),
    /// Whether the coordinator is well
    Status,
    /// Who the coordinator takes you for
    Whoami,
    /// Print a completion script
    Completions {
        /// The shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// The far end of ssh://
    #[command(hide = true)]
    DialStdio,
    /// The process that holds attempts
    #[command(hide = true, disable_help_flag = true)]
    Keeper {
        /// Its own words.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<std::ffi::OsString>,
    },
    /// Any other word.
    #[command(external_subcommand)]
    Other(Vec<String>),
}

/// Words of the contract that a later version gives a meaning.
const LATER: [&str; 3] = ["clone", "doctor", "df"];

/// Whether a word under `group` (empty for the top) will mean something later.
pub fn comes_later(group: &str, word: &str) -> bool {
    match group {
        "" => LATER.contains(&word),
        "worker" => ["call", "scale", "drain", "stop", "rm"].contains(&word),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_tree_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_commands_own_flags_are_not_taken_for_ours() {
        let args =
            Args::try_parse_from(["reeve", "submit", "python", "x.py", "--json", "--name", "a"]).unwrap();
        assert!(!args.common.json);
        let Some(Command::Submit(submit)) = args.command else { panic!("{args:?}") };
        assert_eq!(submit.command, ["python", "x.py", "--json", "--name", "a"]);
    }

    #[test]
    fn flags_for_all_are_taken_after_the_subcommand() {
        let args = Args::try_parse_from(["reeve", "ls", "--json", "--host", "/s", "state:failed"]).unwrap();
        assert!(args.common.json);
        assert_eq!(args.common.host.as_deref(), Some("/s"));
    }
}
