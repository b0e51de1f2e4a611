//! `reeve up`: a coordinator and an agent on one machine, for a first try or a laptop.
//!
//! The only file of this crate that names the two. The server half runs in the foreground (`--no-console`) or as a
//! process of its own session; console and command line are its clients. The keeper holds the jobs, so they survive
//! the server.
pub mod demo;
pub mod dir;
pub mod front;
pub mod options;
pub mod spawn;

pub use front::{Error, down, up};
pub use options::{Down, Up};

use crate::cli::note;
use crate::client::Client;
use crate::host::Host;
use dir::{Dir, Lock, Pointer, private_dir};
use reeve_agent::identity;
use reeve_coordinator::config::LogFormat;
use reeve_protocol::Cause;
use reeve_protocol::api::{Health, List, MachineView, Stats, TokenReply};
use reeve_protocol::token::Token;
use serde_json::json;
use std::ffi::OsString;
use std::io::{self, IsTerminal as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

/// How long the agent may take to be connected.
const CONNECT: Duration = Duration::from_mins(1);
/// How long the agent may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(5);
/// How long jobs may take to end: their grace time and the clean-up after it.
const JOBS: Duration = Duration::from_mins(1);

/// Why the server half cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The coordinator.
    #[error("running the coordinator")]
    Coordinator(#[from] reeve_coordinator::Error),
    /// The agent.
    #[error("running the agent")]
    Agent(#[from] reeve_agent::Error),
    /// The agent's membership.
    #[error("enrolling this machine")]
    Join(#[from] reeve_agent::JoinError),
    /// The token that the coordinator made.
    #[error("the token for this machine cannot be used: {0}")]
    Token(String),
    /// The agent does not get through.
    #[error("the agent was not connected within {} s", CONNECT.as_secs())]
    Unconnected,
    /// A part ended by itself, and says nothing.
    #[error("the {0} ended by itself")]
    Ended(&'static str),
    /// Jobs that do not end.
    #[error("ending the jobs")]
    Jobs(#[from] reeve_agent::StopError),
}

impl ServerError {
    /// The process's exit code.
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Coordinator(error) => error.exit_code(),
            _ => 1,
        }
    }
}

/// The processes that a machine's side starts for itself, if these words mean one: what forks guardians, and what a guardian
/// starts for a job, for its checkout or its artifacts.
pub fn of_guardian(words: &[OsString]) -> Option<u8> {
    let own = words.get(1..)?;
    if own.get(..2).is_some_and(|own| own == reeve_agent::zygote::WORDS) {
        log();
        return Some(reeve_agent::zygote::run());
    }
    if own == reeve_agent::git::WORDS {
        return Some(reeve_agent::git::run());
    }
    (own == reeve_agent::collect::WORDS).then(reeve_agent::collect::run)
}

/// The process that holds attempts: `reeve keeper`, started by the agent.
pub fn keeper(words: Vec<OsString>) -> u8 {
    #[derive(clap::Parser)]
    #[command(name = "reeve keeper")]
    struct Words {
        #[command(flatten)]
        args: reeve_agent::keeper::Args,
    }
    let words = std::iter::once("keeper".into()).chain(words);
    let args = match <Words as clap::Parser>::try_parse_from(words) {
        Ok(words) => words.args,
        Err(error) => {
            note(error.to_string());
            return 64;
        }
    };
    log();
    match reeve_agent::keeper::run(&args) {
        Ok(()) => 0,
        Err(error) => {
            tracing::error!("{error}");
            1
        }
    }
}

/// Words of the server and the keeper, on standard error: a file, unless the server is in the foreground.
fn log() {
    let filter = std::env::var("REEVE_LOG").unwrap_or_else(|_| {
        // Somebody who watches wants to see mistakes; a file wants to tell what happened.
        if io::stderr().is_terminal() { "warn" } else { "info" }.to_owned()
    });
    if let Err(error) = reeve_coordinator::logging::start(&filter, LogFormat::Text) {
        note(format!("note: {error}"));
    }
}

/// Is the server of a directory until it is told to stop.
pub(crate) fn serve(up: &Up, dir: &Dir, lock: Lock) -> Result<(), Error> {
    log();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(Error::Runtime)?;
    let ended = runtime.block_on(run(up, dir, lock));
    // A thread may still wait for an answer on the terminal that nobody gives.
    runtime.shutdown_background();
    let end_jobs = ended?;
    if end_jobs { stop_jobs(dir) } else { Ok(()) }
}

/// Ends the jobs of a directory whose server has stopped: with a server they would be started again.
pub(crate) fn stop_jobs(dir: &Dir) -> Result<(), Error> {
    let stopped = front::block_on(async {
        Ok(reeve_agent::stop_jobs(&agent_config(dir).runtime_dir, &Cause::Drained, JOBS).await)
    })?;
    Ok(stopped.map_err(ServerError::from)?)
}

/// The two halves, from start to stop. Says whether the jobs shall end, too.
async fn run(up: &Up, dir: &Dir, mut lock: Lock) -> Result<bool, Error> {
    let mut signals = Signals::new().map_err(Error::Runtime)?;
    lock.tell(None).map_err(Error::dir(dir.root()))?;
    let (stop, stopped) = watch::channel(false);
    let (mut coordinator, socket) = start_coordinator(up, dir, stopped).await?;
    let client = Client::new(Host::Unix(socket.clone()));
    let machine = enroll(&client, up, dir).await?;
    let (stop_agent, stopped) = watch::channel(false);
    let mut agent = tokio::spawn(reeve_agent::run(agent_config(dir), stopped));
    let started = tokio::select! {
        connected = connected(&client, &machine) => connected.map(|()| true),
        ended = &mut coordinator => Err(part_ended("coordinator", ended)),
        ended = &mut agent => Err(part_ended("agent", ended)),
        () = signals.any() => Ok(false),
    };
    let mut end_jobs = Ok(false);
    let _pointer;
    if started? {
        _pointer = Pointer::write(&socket)?;
        lock.tell(Some(&socket)).map_err(Error::dir(dir.root()))?;
        front::print(&front::ready_line(&socket))?;
        end_jobs = tokio::select! {
            ended = &mut coordinator => return Err(part_ended("coordinator", ended)),
            ended = &mut agent => Err(part_ended("agent", ended)),
            asked = asked_to_stop(&mut signals, &client) => Ok(asked),
            shown = demonstrate(up, dir, &client) => shown.map(|()| false),
        };
    }
    // The machine says goodbye first, so that its attempts are known to be in good hands.
    let _ = stop_agent.send(true);
    if !agent.is_finished() && tokio::time::timeout(GOODBYE, &mut agent).await.is_err() {
        agent.abort();
    }
    let _ = stop.send(true);
    match coordinator.await {
        Ok(ended) => ended.map_err(ServerError::from)?,
        Err(_) => return Err(ServerError::Ended("coordinator").into()),
    }
    end_jobs
}

async fn start_coordinator(
    up: &Up,
    dir: &Dir,
    stopped: watch::Receiver<bool>,
) -> Result<(JoinHandle<Result<(), reeve_coordinator::Error>>, PathBuf), Error> {
    let mut config = reeve_coordinator::Config::for_dir(dir.coordinator());
    dir.settle()?;
    config.socket = dir.socket();
    if let Some(listen) = up.listen {
        config.listen = listen;
    }
    if !reeve_coordinator::is_initialised(&config) {
        reeve_coordinator::init(&config).map_err(ServerError::from)?;
    }
    let (tx, ready) = oneshot::channel();
    let on_ready = move |ready: &reeve_coordinator::Ready| {
        // Nobody listens only when the start has been given up.
        let _ = tx.send(ready.socket.clone());
    };
    let mut coordinator = tokio::spawn(reeve_coordinator::run(config, on_ready, stopped));
    match ready.await {
        Ok(socket) => Ok((coordinator, socket)),
        Err(_) => Err(part_ended("coordinator", (&mut coordinator).await)),
    }
}

fn agent_config(dir: &Dir) -> reeve_agent::Config {
    let mut config = reeve_agent::Config::below(&dir.agent());
    config.runtime_dir = dir.runtime().join("agent");
    config.settings.allow_root = rustix::process::geteuid().is_root();
    // Whoever may submit here could read these directories anyway.
    config.settings.git.allow.push("file://*".to_owned());
    config
}

/// Makes this machine a member of its own cluster, once. Gives its id.
async fn enroll(client: &Client, up: &Up, dir: &Dir) -> Result<String, Error> {
    let config = agent_config(dir);
    if config.settings.allow_root {
        note("warning: jobs run as root here, because `reeve up` does");
    }
    private_dir(&config.runtime_dir)?;
    let health: Health = client.get("/v1/health").await?;
    let loaded = identity::Credentials::load(&config.state_dir);
    if let Err(open @ identity::Error::Open { .. }) = loaded {
        return Err(ServerError::from(reeve_agent::JoinError::from(open)).into());
    }
    if let Ok(known) = loaded {
        if known.identity.cluster == health.cluster {
            return Ok(known.identity.machine);
        }
        note("note: the coordinator's store is a new one; this machine joins it again");
        identity::remove(&config.state_dir);
    }
    let reply: TokenReply = client.post("/v1/machines/token", &json!({"ttl_s": 60})).await?;
    let token: Token = reply.token.parse().map_err(ServerError::Token)?;
    let host = || rustix::system::uname().nodename().to_string_lossy().into_owned();
    let name = up.name.clone().unwrap_or_else(host);
    let joined = reeve_agent::join(&token, &name, &config.state_dir).await.map_err(ServerError::from)?;
    Ok(joined.machine)
}

/// Waits until the coordinator counts on this machine.
async fn connected(client: &Client, machine: &str) -> Result<(), Error> {
    let started = Instant::now();
    while started.elapsed() < CONNECT {
        let list: List<MachineView> = client.get("/v1/machines").await?;
        if list.items.iter().any(|item| item.id == machine && item.state == "up") {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Err(ServerError::Unconnected.into())
}

/// Runs the demo if it is wanted; ends only when the server shall end with it.
async fn demonstrate(up: &Up, dir: &Dir, client: &Client) -> Result<(), Error> {
    if up.demo {
        let demo = demo::submit(client, dir.root()).await?;
        if up.exit_when_idle {
            return front::print(&demo.finish(client).await?);
        }
    }
    std::future::pending().await
}

/// What tells a server to stop.
struct Signals {
    terminate: Signal,
    hangup: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Any of them.
    async fn any(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Whether it came from a person at the keyboard.
    async fn by_hand(&mut self) -> bool {
        tokio::select! {
            _ = self.terminate.recv() => false,
            _ = self.hangup.recv() => false,
            _ = self.interrupt.recv() => true,
        }
    }
}

/// Waits for a signal. Somebody at the keyboard is asked what shall become of running jobs; they go on unless the
/// answer is no, and a second Ctrl-C asks nothing more. Says whether the jobs shall end.
async fn asked_to_stop(signals: &mut Signals, client: &Client) -> bool {
    let by_hand = signals.by_hand().await;
    if !by_hand || !crate::cli::context::can_ask() {
        return false;
    }
    let running = client.get::<Stats>("/v1/stats").await.map_or(0, |stats| stats.counts.running);
    if running == 0 {
        return false;
    }
    note(format!("\n{running} jobs are running. Keep them running? [Y/n]"));
    let answer = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        io::stdin().read_line(&mut line).map(|_| line)
    });
    tokio::select! {
        answer = answer => matches!(answer, Ok(Ok(line)) if is_no(&line)),
        () = signals.any() => false,
    }
}

fn is_no(answer: &str) -> bool {
    matches!(answer.trim().to_ascii_lowercase().as_str(), "n" | "no")
}

/// A part that ended although nobody asked it to.
fn part_ended<E: Into<ServerError>>(
    part: &'static str,
    ended: Result<Result<(), E>, tokio::task::JoinError>,
) -> Error {
    match ended {
        Ok(Err(error)) => error.into().into(),
        Ok(Ok(())) | Err(_) => ServerError::Ended(part).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn jobs_end_only_at_a_clear_no() {
        for (answer, wanted) in [("n\n", true), ("No\n", true), ("\n", false), ("y\n", false), ("", false)] {
            assert_eq!(is_no(answer), wanted, "{answer:?}");
        }
    }

    #[test]
    fn a_keeper_without_a_directory_is_a_usage_mistake() {
        assert_eq!(keeper(Vec::new()), 64);
        assert_eq!(keeper(vec!["--nonsense".into()]), 64);
    }

    #[test]
    fn everything_of_a_directory_lies_below_it_or_in_the_runtime_directory() {
        let base = tempfile::tempdir().unwrap();
        let dir = Dir::open(Some(base.path())).unwrap();
        let config = agent_config(&dir);
        assert!(config.state_dir.starts_with(dir.root()) && config.data_dir.starts_with(dir.root()));
        assert!(config.runtime_dir.starts_with(dir.runtime()) && dir.socket().starts_with(dir.runtime()));
    }

    #[test]
    fn a_part_that_ends_is_named() {
        let ended: Result<Result<(), reeve_agent::Error>, tokio::task::JoinError> = Ok(Ok(()));
        assert_eq!(part_ended("agent", ended).to_string(), "the agent ended by itself");
        assert_eq!(ServerError::Unconnected.exit_code(), 1);
    }

    #[test]
    fn the_two_are_named_in_this_file_alone() {
        fn files(dir: &Path, found: &mut Vec<PathBuf>) {
            for entry in std::fs::read_dir(dir).unwrap().flatten() {
                let path = entry.path();
                if path.is_dir() { files(&path, found) } else { found.push(path) }
            }
        }
        let mut found = Vec::new();
        files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
        for path in found.iter().filter(|path| !path.ends_with("src/up.rs")) {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            let names = |name: &str| text.contains(&format!("reeve_{name}"));
            assert!(!names("coordinator") && !names("agent"), "{}", path.display());
        }
    }
}
