//! What the user of `reeve up` and `reeve down` meets: attach or start, wait, help, console. It is a client of the
//! server half, which `up` itself holds.
use super::demo;
use super::dir::Dir;
use super::options::{Down, Up};
use super::{ServerError, serve, spawn, stop_jobs};
use crate::cli::note;
use crate::client::Client;
use crate::console;
use crate::host::Host;
use reeve_protocol::Problem;
use reeve_protocol::api::Stats;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

/// Why `up` or `down` did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory.
    #[error("using {path}")]
    Dir {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A directory that somebody else owns may be read by somebody else.
    #[error("{path} belongs to another user; name another directory with --dir")]
    NotOurs {
        /// Which.
        path: PathBuf,
    },
    /// The server ended before it was ready.
    #[error("the server did not start; the end of {log}:\n{tail}")]
    Start {
        /// Its log.
        log: PathBuf,
        /// The log's last lines.
        tail: String,
    },
    /// The server is still starting.
    #[error("the server was not ready within {seconds} s; it may still become so, see {log}")]
    Slow {
        /// The bound.
        seconds: u64,
        /// Its log.
        log: PathBuf,
    },
    /// The server ended while it was waited for.
    #[error("the server of {dir} has ended; start it again with `reeve up`")]
    Gone {
        /// Its directory.
        dir: PathBuf,
    },
    /// The lock names a process that is no server.
    #[error("process {pid} holds the directory but is no `reeve up`; stop it yourself")]
    Stranger {
        /// The process.
        pid: i32,
    },
    /// The server cannot be asked to stop.
    #[error("asking process {pid} to stop")]
    Signal {
        /// The server.
        pid: i32,
        /// Why not.
        source: io::Error,
    },
    /// The server does not stop.
    #[error("process {pid} has not stopped within {seconds} s; its log says why")]
    Unstopped {
        /// The server.
        pid: i32,
        /// The bound.
        seconds: u64,
    },
    /// The event loop or the signals.
    #[error("starting the server")]
    Runtime(#[source] io::Error),
    /// Telling that the server is ready.
    #[error("writing standard output")]
    Output(#[source] io::Error),
    /// A request to the server.
    #[error(transparent)]
    Problem(#[from] Problem),
    /// The console.
    #[error(transparent)]
    Console(#[from] console::Error),
    /// A part of the server.
    #[error(transparent)]
    Server(#[from] ServerError),
}

impl Error {
    /// A file or directory that cannot be used.
    pub(super) fn dir(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Dir { path, source }
    }

    /// The process's exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Console(console::Error::Signal(signal)) => u8::try_from(128 + signal).unwrap_or(u8::MAX),
            Self::Server(error) => error.exit_code(),
            _ => 1,
        }
    }
}

/// Runs `reeve up`.
pub fn up(up: &Up) -> Result<(), Error> {
    let dir = Dir::open(up.dir.as_deref())?;
    if up.no_console {
        return foreground(up, &dir);
    }
    let socket = match dir.holder()? {
        Some(_) => spawn::wait_ready(&dir, None)?,
        None => spawn::start(&dir, up)?,
    };
    help(up, &dir);
    block_on(async {
        let client = Client::connect(Host::Unix(socket.clone())).await?;
        let demo = if up.demo { Some(demo::submit(&client, dir.root()).await?) } else { None };
        if let Some(demo) = demo.filter(|_| up.exit_when_idle) {
            print(&demo.finish(&client).await?)?;
            drop(client);
            spawn::stop(&dir)?;
        } else if io::stdout().is_terminal() && io::stdin().is_terminal() {
            let up_dir = Some(dir.root().to_owned());
            console::run(client, console::Options { up_dir, ..console::Options::default() }).await?;
            if !keep_running(&socket).await {
                spawn::stop(&dir)?;
                stop_jobs(&dir)?;
                note("stopped, and its jobs with it");
            }
        }
        Ok(())
    })
}

/// Whether what runs goes on after the console was left: asked only when something runs, and the default.
async fn keep_running(socket: &Path) -> bool {
    let Ok(client) = Client::connect(Host::Unix(socket.to_owned())).await else { return true };
    let running = client.get::<Stats>("/v1/stats").await.map_or(0, |stats| stats.counts.running);
    if running == 0 {
        return true;
    }
    let jobs = if running == 1 { "1 job runs".to_owned() } else { format!("{running} jobs run") };
    eprint!("{jobs}. Keep them running in the background? [Y/n] ");
    let _ = io::stderr().flush();
    let mut answer = String::new();
    let _ = io::stdin().read_line(&mut answer);
    !is_no(&answer)
}

/// Only a plain no stops jobs.
fn is_no(answer: &str) -> bool {
    matches!(answer.trim().to_ascii_lowercase().as_str(), "n" | "no")
}

/// Runs `reeve down`.
pub fn down(down: &Down) -> Result<(), Error> {
    let dir = Dir::open(down.dir.as_deref())?;
    let stopped = spawn::stop(&dir)?;
    if down.jobs {
        // Only now: a server would start them again.
        stop_jobs(&dir)?;
    }
    match stopped {
        Some(_) if down.jobs => note("stopped, and its jobs with it"),
        Some(_) => note("stopped; running jobs go on, and the next `reeve up` finds them"),
        None => note(format!("no server runs in {}", dir.root().display())),
    }
    Ok(())
}

/// This process is the server, unless another one is already.
fn foreground(up: &Up, dir: &Dir) -> Result<(), Error> {
    if up.detached {
        // Fails only for the leader of a group, which has been left already then.
        let _ = rustix::process::setsid();
    }
    if let Some(lock) = dir.lock()? {
        return serve(up, dir, lock);
    }
    let socket = spawn::wait_ready(dir, None)?;
    note(format!("a server runs in {} already", dir.root().display()));
    print(&ready_line(&socket))
}

/// What scripts wait for.
pub(super) fn ready_line(socket: &Path) -> String {
    format!("ready socket={}\n", socket.display())
}

pub(super) fn print(text: &str) -> Result<(), Error> {
    let mut out = io::stdout();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Error::Output)
}

/// The three things to do next.
fn help(up: &Up, dir: &Dir) {
    let named = if up.dir.is_some() { format!(" --dir {}", dir.root().display()) } else { String::new() };
    note("submit:  reeve submit -- echo hello");
    note("watch:   reeve ls      or the console: reeve");
    note(format!("stop:    reeve down{named}      (jobs go on; with --jobs they end)"));
}

pub(super) fn block_on<T>(work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Runtime)?;
    runtime.block_on(work)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_find_the_socket_in_one_line() {
        assert_eq!(ready_line(Path::new("/run/x")), "ready socket=/run/x\n");
    }

    #[test]
    fn a_console_ended_by_a_signal_says_so() {
        assert_eq!(Error::Console(console::Error::Signal(15)).exit_code(), 143);
        assert_eq!(Error::NotOurs { path: "/x".into() }.exit_code(), 1);
    }
}
