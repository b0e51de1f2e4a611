//! `reeve-agent`: the command line of a machine. Everything it does is in the library.
use clap::{Parser, Subcommand};
use reeve_agent::config::Config;
use reeve_agent::doctor::{self, Grade};
use reeve_agent::{JoinError, jobs, keeper, zygote};
use reeve_protocol::token::Token;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

/// Usage or configuration.
const USAGE: u8 = 64;
/// Storage.
const STORAGE: u8 = 74;

/// The agent of a reeve machine.
#[derive(Parser)]
#[command(name = "reeve-agent", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make this machine a member of a cluster.
    Join {
        /// Where the coordinator listens, HOST[:PORT]; tried before the token's own addresses.
        host: Option<String>,
        /// The file with the token; - for standard input. (Or the variable REEVE_TOKEN.)
        #[arg(long, value_name = "FILE")]
        token_file: Option<PathBuf>,
        /// The machine's name in the cluster [default: its host name].
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        place: Place,
    },
    /// Serve the cluster that this machine has joined.
    Run {
        #[command(flatten)]
        place: Place,
    },
    /// Own the attempts of this machine (started by the agent or a service).
    Keeper(keeper::Args),
    /// Hold the control group that attempts live in, and drain them when told to stop (started by a service).
    Jobs(jobs::Args),
    /// Leave the cluster.
    Leave {
        /// Remove everything that was kept here, too.
        #[arg(long)]
        purge: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Examine this machine: one line per thing that has to work.
    Doctor {
        #[command(flatten)]
        place: Place,
    },
}

#[derive(clap::Args)]
struct Place {
    /// Where everything is kept, runtime files included [default: the usual places].
    #[arg(long, env = "REEVE_AGENT_DIR")]
    dir: Option<PathBuf>,
    /// The configuration file [default: /etc/reeve/agent.toml].
    #[arg(long, env = "REEVE_AGENT_CONFIG")]
    config: Option<PathBuf>,
    /// The runtime directory of a keeper that a service runs; none is started then.
    #[arg(long, env = "REEVE_KEEPER_DIR", value_name = "DIR")]
    keeper_dir: Option<PathBuf>,
}

impl Place {
    fn config(&self) -> Result<Config, Failure> {
        let mut config = self.dir.as_deref().map_or_else(Config::usual, |dir| Config::below(&absolute(dir)));
        config.read(self.config.as_deref()).map_err(|e| Failure::new(USAGE, &e))?;
        if let Some(dir) = &self.keeper_dir {
            config.serve_keeper_of(absolute(dir));
        }
        Ok(config)
    }
}

/// What is told to the user, and the exit code.
struct Failure {
    code: u8,
    words: String,
}

impl Failure {
    fn new(code: u8, error: &dyn std::error::Error) -> Self {
        let mut words = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            words = format!("{words}: {cause}");
            source = cause.source();
        }
        Self { code, words }
    }
}

fn main() -> ExitCode {
    // Started by a guardian for each git job: nothing that only the others need comes before it.
    if std::env::args().skip(1).eq(reeve_agent::git::WORDS) {
        return ExitCode::from(reeve_agent::git::run());
    }
    if std::env::args().skip(1).eq(reeve_agent::collect::WORDS) {
        return ExitCode::from(reeve_agent::collect::run());
    }
    if std::env::args().skip(1).take(2).eq(zygote::WORDS) {
        log();
        return ExitCode::from(zygote::run());
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // A mistake repeats the word that is wrong, which may come from anywhere.
            let _ = if error.use_stderr() {
                let words = reeve_protocol::text::Clean::block(&error.render().to_string());
                write!(std::io::stderr(), "{words}")
            } else {
                error.print()
            };
            return if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    log();
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let words = reeve_protocol::text::Clean::block(&failure.words);
            let _ = writeln!(std::io::stderr(), "reeve-agent: {words}");
            ExitCode::from(failure.code)
        }
    }
}

fn log() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("REEVE_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_writer(|| reeve_protocol::text::CleanLines(std::io::stderr()))
        .init();
}

fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Keeper(args) => keeper::run(&args).map_err(|e| Failure::new(1, &e)),
        Command::Jobs(args) => jobs::hold(&args).map_err(|e| Failure::new(1, &e)),
        Command::Join { host, token_file, name, place } => join(host, token_file.as_deref(), name, &place),
        Command::Run { place } => serve(&place),
        Command::Leave { purge, place } => {
            let config = place.config()?;
            block_on(reeve_agent::leave(&config, purge))?.map_err(|e| Failure::new(1, &e))
        }
        Command::Doctor { place } => examine(&place),
    }
}

fn join(
    host: Option<String>,
    token_file: Option<&Path>,
    name: Option<String>,
    place: &Place,
) -> Result<(), Failure> {
    let config = place.config()?;
    let usage = |words: String| Failure { code: USAGE, words };
    let text = match token_file {
        Some(path) if path == Path::new("-") => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).map(|_| text)
        }
        Some(path) => std::fs::read_to_string(path),
        None => std::env::var("REEVE_TOKEN").map_err(std::io::Error::other),
    };
    let text = text.map_err(|e| usage(format!("no token: {e}; give one with --token-file")))?;
    let mut token: Token = text.parse().map_err(usage)?;
    if let Some(host) = host {
        token.addresses.retain(|address| *address != host);
        token.addresses.insert(0, host);
    }
    let name = name.unwrap_or_else(|| rustix::system::uname().nodename().to_string_lossy().into_owned());
    let identity = block_on(reeve_agent::join(&token, &name, &config.state_dir))?.map_err(|error| {
        let code = if matches!(error, JoinError::Store(_)) { STORAGE } else { 1 };
        Failure::new(code, &error)
    })?;
    let _ = writeln!(
        std::io::stdout(),
        "joined cluster {} as {}; start it with: reeve-agent run",
        identity.cluster,
        reeve_protocol::text::Clean::line(&identity.name)
    );
    Ok(())
}

fn serve(place: &Place) -> Result<(), Failure> {
    let config = place.config()?;
    // The machine's key is in this process: no core dump. A limit would do the same, and pass on to every job.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .map_err(|e| Failure::new(1, &std::io::Error::from(e)))?;
    let (stop, shutdown) = tokio::sync::watch::channel(false);
    let work = async {
        let signals = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()].map(signal);
        for waiting in signals {
            let mut waiting = waiting.map_err(|e| Failure::new(1, &e))?;
            let stop = stop.clone();
            tokio::spawn(async move {
                waiting.recv().await;
                let _ = stop.send(true);
            });
        }
        reeve_agent::run(config, shutdown).await.map_err(|error| {
            let code = if matches!(error, reeve_agent::Error::Identity(_)) { USAGE } else { 1 };
            Failure::new(code, &error)
        })
    };
    block_on(work)?
}

fn examine(place: &Place) -> Result<(), Failure> {
    let config = place.config()?;
    let lines = block_on(doctor::examine(&config))?;
    let mut out = std::io::stdout().lock();
    for line in &lines {
        let _ = writeln!(out, "{line}");
    }
    if lines.iter().any(|line| line.grade == Grade::Bad) {
        return Err(Failure { code: 1, words: "something does not work".to_owned() });
    }
    Ok(())
}

fn absolute(dir: &Path) -> PathBuf {
    std::path::absolute(dir).unwrap_or_else(|_| dir.to_path_buf())
}

/// One thread is plenty for a relay, and keeps it small.
fn block_on<F: Future>(work: F) -> Result<F::Output, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::new(1, &e))?;
    Ok(runtime.block_on(work))
}
