//! The command line: words in, requests out, answers as text or JSON. It decides nothing about jobs.
pub mod args;
pub mod batch;
pub mod bulk;
pub mod change;
pub mod context;
pub mod delivery;
pub mod dial;
pub mod diff;
pub mod error;
pub mod events;
pub mod follow;
pub mod get;
pub mod git;
pub mod list;
pub mod machine;
pub mod manager;
pub mod queue;
pub mod routing;
pub mod select;
pub mod show;
pub mod spec;
mod story;
pub mod submit;
pub mod table;
pub mod top;
pub mod values;
pub mod wait;
pub mod worker;

use crate::console;
use crate::up;
use args::{Args, ColorChoice, Command, Common};
use clap::{CommandFactory as _, Parser as _};
use context::Context;
use std::ffi::OsString;
use std::io::{IsTerminal as _, Write as _};

pub use error::{Error, note};
pub use list::{job_table, row};
pub use wait::is_away;

/// Runs the command line and gives the process's exit code.
pub fn main(words: Vec<OsString>) -> u8 {
    // Started by a guardian for a job; as short a way as the next one.
    if let Some(code) = up::of_guardian(&words) {
        return code;
    }
    // Answered before the tree of commands is built: scripts ask for it often.
    if words.len() == 2 && (words[1] == "--version" || words[1] == "-V") {
        let line = format!("reeve {}\n", reeve_protocol::VERSION);
        return u8::from(std::io::stdout().write_all(line.as_bytes()).is_err());
    }
    let args = match Args::try_parse_from(words) {
        Ok(args) => args,
        Err(error) => {
            // Help goes to standard output, mistakes to standard error; either may be closed. A mistake repeats the word
            // that is wrong, which may come from anywhere.
            let _ = if error.use_stderr() {
                let words = reeve_protocol::text::Clean::block(&error.render().to_string());
                write!(std::io::stderr(), "{words}")
            } else {
                error.print()
            };
            return u8::try_from(error.exit_code()).unwrap_or(2);
        }
    };
    let json = args.common.json;
    match run(args) {
        Ok(()) => 0,
        Err(error) => {
            error.say(json);
            error.exit_code()
        }
    }
}

fn run(args: Args) -> Result<(), Error> {
    let Args { common, command } = args;
    match command {
        Some(Command::Completions { shell }) => completions(shell),
        Some(Command::Keeper { words }) => Err(Error::Exit(up::keeper(words))),
        Some(Command::Up(given)) => Ok(up::up(&given)?),
        Some(Command::Down(given)) => Ok(up::down(&given)?),
        Some(Command::Other(words)) => Err(queue::other("", &words)),
        Some(command) => runtime()?.block_on(dispatch(command, &common)),
        None if std::io::stdout().is_terminal() && std::io::stdin().is_terminal() => {
            runtime()?.block_on(open_console(&common))
        }
        None => {
            let help = Args::command().render_help();
            std::io::stdout().write_all(help.to_string().as_bytes()).map_err(Error::Output)?;
            note("the console needs a terminal; in scripts use `reeve ls`, `reeve stats` or --json");
            Ok(())
        }
    }
}

/// One thread is all a client needs, and all it pays for.
fn runtime() -> Result<tokio::runtime::Runtime, Error> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Runtime)
}

async fn open_console(common: &Common) -> Result<(), Error> {
    let host = crate::host::Places::of_process(common.host.clone()).find()?;
    let client = crate::client::Client::connect(host).await?;
    let no_color = common.color == ColorChoice::Never;
    Ok(console::run(client, console::Options { no_color, ..console::Options::default() }).await?)
}

fn completions(shell: clap_complete::Shell) -> Result<(), Error> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "reeve", &mut script);
    std::io::stdout().write_all(&script).map_err(Error::Output)
}

async fn dispatch(command: Command, common: &Common) -> Result<(), Error> {
    let context = &mut Context::new(common);
    let ended = match command {
        Command::Submit(given) => submit::run(*given, context).await,
        Command::Ls(given) => list::run(given, context).await,
        Command::Show(given) => show::run(given, context).await,
        Command::Logs(given) => follow::run(given, context).await,
        Command::Get(given) => get::run(given, context).await,
        Command::Wait(given) => wait::run(given, context).await,
        Command::Why(given) => show::why(given, context).await,
        Command::Cancel(given) => change::cancel(given, context).await,
        Command::Restart(given) => change::restart(given, context).await,
        Command::Diff(given) => diff::run(given, context).await,
        Command::Hold(given) => change::change("hold", given, context).await,
        Command::Release(given) => change::change("release", given, context).await,
        Command::Bulk(given) => bulk::run(given, context).await,
        Command::Register(given) => manager::register(given, context).await,
        Command::Update(given) => manager::update(given, context).await,
        Command::Queue(given) => queue::run(given, context).await,
        Command::Worker(given) => worker::run(given, context).await,
        Command::Machine(given) => machine::run(given, context).await,
        Command::Top(given) => top::run(given, context).await,
        Command::Stats => events::stats(context).await,
        Command::Events(given) => events::run(given, context).await,
        Command::Audit(given) => events::audit(given, context).await,
        Command::Status => events::status(context).await,
        Command::Whoami => events::whoami(context).await,
        Command::DialStdio => dial::run(common.host.clone()).await,
        Command::Up(_)
        | Command::Down(_)
        | Command::Completions { .. }
        | Command::Keeper { .. }
        | Command::Other(_) => Ok(()),
    };
    // What was written before a failure is worth having.
    context.flush().and(ended)
}
