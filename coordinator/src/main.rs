//! `reeve-coordinator`: the command line of the daemon. Everything it does is in the library.
#![forbid(unsafe_code)]
mod ask;

use clap::{Args, Parser, Subcommand};
use reeve_coordinator::config::{Config, Layer};
use reeve_coordinator::{logging, store};
use reeve_protocol::units;
use sd_notify::NotifyState;
use std::error::Error as StdError;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Usage or configuration.
const USAGE: u8 = 64;
/// Threads that serve callers and machines; the engine has its own.
const WORKERS: usize = 2;

/// The coordinator of reeve: keeps the store, places jobs on machines, serves the API.
#[derive(Parser)]
#[command(name = "reeve-coordinator", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make the store and the cluster's keys
    Init(Settings),
    /// Serve until SIGTERM, SIGINT or SIGHUP; running jobs go on on their machines
    Run(Settings),
    /// Make a join token for one machine (asks the running coordinator)
    Token {
        #[command(flatten)]
        settings: Settings,
        /// How long it is good for
        #[arg(long, default_value = "15m", value_name = "TIME")]
        ttl: String,
    },
    /// Look after the store
    #[command(subcommand)]
    Store(StoreCommand),
}

#[derive(Subcommand)]
enum StoreCommand {
    /// Check every page and index; works while the coordinator runs
    Verify(Settings),
    /// Copy the store into FILE; works while the coordinator runs
    Backup {
        #[command(flatten)]
        settings: Settings,
        /// Must not exist
        file: PathBuf,
    },
    /// Put a backup in the store's place; the coordinator must not run
    Restore {
        #[command(flatten)]
        settings: Settings,
        /// Made by backup
        #[arg(required_unless_present = "accept_loss")]
        file: Option<PathBuf>,
        /// Use the store as it is, although its end is lost
        #[arg(long, conflicts_with = "file")]
        accept_loss: bool,
    },
}

/// Flags win over the environment (`REEVE_DIR`, ..), that over the file.
#[derive(Args)]
struct Settings {
    /// Configuration file [default: /etc/reeve/coordinator.toml, if it exists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Store, keys and output [default: /var/lib/reeve]
    #[arg(long, value_name = "DIR")]
    dir: Option<String>,
    /// The API's socket [default: /run/reeve/coordinator.sock]
    #[arg(long, value_name = "PATH")]
    socket: Option<String>,
    /// The agents' port, UDP [default: [::]:7373]
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<String>,
    /// What the cluster is called [default: the host's name]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// What is logged: error, warn, info, debug, trace
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
    /// text or json
    #[arg(long, value_name = "FORM")]
    log_format: Option<String>,
}

/// An error with the exit code it leads to.
struct Failure(u8, Box<dyn StdError>);

impl<E: StdError + 'static> From<(u8, E)> for Failure {
    fn from((code, error): (u8, E)) -> Self {
        Self(code, Box::new(error))
    }
}

impl From<reeve_coordinator::Error> for Failure {
    fn from(error: reeve_coordinator::Error) -> Self {
        Self(error.exit_code(), Box::new(error))
    }
}

impl From<store::Error> for Failure {
    fn from(error: store::Error) -> Self {
        reeve_coordinator::Error::from(error).into()
    }
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way too, and are no mistakes.
            let code = if error.use_stderr() { USAGE } else { 0 };
            // A mistake repeats the word that is wrong, which may come from anywhere.
            let _ = if error.use_stderr() {
                let words = reeve_protocol::text::Clean::block(&error.render().to_string());
                write!(std::io::stderr(), "{words}")
            } else {
                error.print()
            };
            return ExitCode::from(code);
        }
    };
    match perform(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure(code, error)) => {
            eprintln!("reeve-coordinator: {}", told(error.as_ref()));
            ExitCode::from(code)
        }
    }
}

/// An error with everything below it, in one line.
fn told(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}

fn perform(command: Command) -> Result<(), Failure> {
    match command {
        Command::Init(settings) => init(&load(settings)?),
        Command::Run(settings) => run(load(settings)?),
        Command::Token { settings, ttl } => token(&load(settings)?, &ttl),
        Command::Store(StoreCommand::Verify(settings)) => verify(&load(settings)?),
        Command::Store(StoreCommand::Backup { settings, file }) => backup(&load(settings)?, &file),
        Command::Store(StoreCommand::Restore { settings, file, .. }) => {
            restore(&load(settings)?, file.as_deref())
        }
    }
}

fn load(settings: Settings) -> Result<Config, Failure> {
    let Settings { config, dir, socket, listen, name, log, log_format } = settings;
    let flags = Layer {
        dir,
        socket,
        listen,
        name,
        advertise: None,
        log,
        log_format,
        certificate_life: None,
        idle_warning: None,
        history_queue: None,
        backends: None,
    };
    Ok(Config::load(flags, config.as_deref(), |key| std::env::var(key).ok()).map_err(|e| (USAGE, e))?)
}

fn init(config: &Config) -> Result<(), Failure> {
    reeve_coordinator::init(config)?;
    println!("made a store and keys in {}; next: reeve-coordinator run --dir {0}", config.dir.display());
    Ok(())
}

fn run(config: Config) -> Result<(), Failure> {
    logging::start(&config.log, config.log_format).map_err(|e| (USAGE, e))?;
    // The cluster's keys are in this process: no core dump, and no other process of this user may look into it.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .map_err(|e| (1, std::io::Error::from(e)))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(8)
        .enable_all()
        .build()
        .map_err(|e| (1, e))?;
    runtime.block_on(async {
        let shutdown = signals().map_err(|e| (1, e))?;
        let ready = |_: &reeve_coordinator::Ready| notify(NotifyState::Ready);
        Ok(reeve_coordinator::run(config, ready, shutdown).await?)
    })
}

/// Turns true at the first signal that means stop.
fn signals() -> std::io::Result<watch::Receiver<bool>> {
    let (stop, shutdown) = watch::channel(false);
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    let mut hup = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
            _ = hup.recv() => {}
        }
        notify(NotifyState::Stopping);
        let _ = stop.send(true);
        // The sender lives until the process ends: its end would be a stop as well.
        stop.closed().await;
    });
    Ok(shutdown)
}

/// Without systemd this does nothing.
fn notify(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "systemd cannot be reached");
    }
}

fn token(config: &Config, ttl: &str) -> Result<(), Failure> {
    let seconds = units::parse_duration_s(ttl).map_err(|why| (USAGE, ask::Error::Ttl(why)))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| (1, e))?;
    let reply = runtime.block_on(ask::token(&config.socket, seconds)).map_err(|e| (1, e))?;
    println!("{}", reply.token);
    eprintln!("good for one machine until {}; there: reeve-agent join --token-file FILE", reply.expires_at);
    Ok(())
}

fn verify(config: &Config) -> Result<(), Failure> {
    let audit = store::maintain::verify(&config.dir)?;
    println!("the store in {} is sound", config.dir.display());
    println!("its audit has {} rows and ends with {}", audit.seq, audit.hex());
    Ok(())
}

fn backup(config: &Config, file: &Path) -> Result<(), Failure> {
    store::maintain::backup(&config.dir, file)?;
    println!(
        "copied the store to {}; keep a copy of {} with it: without these keys no machine finds back",
        file.display(),
        config.dir.join("ca").display()
    );
    Ok(())
}

fn restore(config: &Config, file: Option<&Path>) -> Result<(), Failure> {
    if let Some(before) = store::maintain::restore(&config.dir, file)? {
        println!("the store that was there is kept as {}", before.display());
    }
    if !config.dir.join("ca/ca.key").exists() {
        println!("{} has no keys: put your copy of the directory ca there first", config.dir.display());
    }
    println!("restored; next: reeve-coordinator run --dir {}", config.dir.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_reach_the_settings() {
        let cli = Cli::try_parse_from([
            "reeve-coordinator",
            "run",
            "--dir",
            "/d",
            "--listen",
            ":7000",
            "--log",
            "debug",
        ]);
        let Ok(Cli { command: Command::Run(settings) }) = cli else { panic!("run takes these flags") };
        let Ok(config) = load(settings) else { panic!("these settings are usable") };
        assert_eq!(
            (config.dir, config.listen.port(), config.log),
            (PathBuf::from("/d"), 7000, "debug".to_owned())
        );
    }

    #[test]
    fn an_error_is_told_with_its_causes() {
        let inner = std::io::Error::other("no space");
        let error = reeve_coordinator::Error::Io("/d".into(), inner);
        assert_eq!(told(&error), "cannot use /d: no space");
        assert_eq!(error.exit_code(), 74);
    }
}
