//! The agent's way to its keeper: connects, starts one when none answers, and asks guardians for output. Paths of any
//! length work, since sockets are reached through a descriptor of their directory.
use crate::config::Config;
use reeve_protocol::frame::{self, Frame, Reader};
use reeve_protocol::wire::{KeeperHello, kind};
use rustix::fs::{Mode, OFlags};
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{sleep, timeout};

/// For a keeper to say Hello.
const HELLO: Duration = Duration::from_secs(5);
/// For a keeper that was just started to listen; it may have to look at a thousand guardians first.
const START: Duration = Duration::from_secs(10);

/// No keeper.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be reached.
    #[error("the keeper's socket cannot be used")]
    Socket(#[from] io::Error),
    /// It says something else than a keeper.
    #[error("the keeper speaks strangely")]
    Frame(#[from] frame::Error),
    /// It accepts and says nothing.
    #[error("the keeper does not answer")]
    Silent,
    /// None answers and nobody may start one.
    #[error(
        "no keeper answers in {0}, and this agent may not start one: start its service (systemctl start reeve-keeper)"
    )]
    NoCommand(PathBuf),
    /// It ended at once.
    #[error("the keeper that was started ended with {0}; see keeper.log in the runtime directory")]
    Ended(std::process::ExitStatus),
}

/// A connection to a keeper that has introduced itself.
pub(crate) struct Link {
    pub(crate) hello: KeeperHello,
    pub(crate) read: OwnedReadHalf,
    pub(crate) write: OwnedWriteHalf,
    pub(crate) frames: Reader,
}

/// Starts keepers and remembers the last one, so that no zombie stays behind.
#[derive(Default)]
pub(crate) struct Starter {
    child: Option<Child>,
}

impl Link {
    /// Connects to the keeper of a runtime directory.
    ///
    /// # Errors
    /// [`Error`].
    pub(crate) async fn connect(runtime_dir: &Path) -> Result<Self, Error> {
        let stream = open(runtime_dir, crate::keeper::SOCKET).await?;
        let (mut read, write) = stream.into_split();
        let mut frames = Reader::new();
        let first = timeout(HELLO, next_frame(&mut read, &mut frames)).await.map_err(|_| Error::Silent)??;
        if first.kind != kind::KEEPER_HELLO {
            return Err(frame::Error::UnknownKind(first.kind).into());
        }
        Ok(Self { hello: first.decode()?, read, write, frames })
    }
}

impl Link {
    /// Says one thing at once.
    ///
    /// # Errors
    /// [`Error`].
    pub(crate) async fn say<T: serde::Serialize>(&mut self, kind: u16, body: &T) -> Result<(), Error> {
        let mut bytes = Vec::new();
        frame::append(kind, 0, body, &mut bytes).map_err(|e| frame::Error::Body(kind, e))?;
        Ok(self.write.write_all(&bytes).await?)
    }
}

impl Starter {
    /// Connects, starting a keeper first if none answers.
    ///
    /// # Errors
    /// [`Error`].
    pub(crate) async fn link(&mut self, config: &Config) -> Result<Link, Error> {
        match Link::connect(&config.runtime_dir).await {
            Err(Error::Socket(e))
                if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {}
            other => return other,
        }
        if let Some(child) = &mut self.child {
            let _ = child.try_wait();
        }
        let child = self.child.insert(start(config)?);
        let wait = async {
            loop {
                match Link::connect(&config.runtime_dir).await {
                    Ok(link) => return Ok(link),
                    Err(Error::Socket(_)) => {}
                    Err(other) => return Err(other),
                }
                if let Some(status) = child.try_wait()? {
                    return Err(Error::Ended(status));
                }
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(START, wait).await.map_err(|_| Error::Silent)?
    }
}

fn start(config: &Config) -> Result<Child, Error> {
    let settings = &config.settings;
    let command: Vec<OsString> = match &settings.keeper_command {
        Some(words) => words.iter().map(OsString::from).collect(),
        None => vec![std::env::current_exe()?.into(), "keeper".into()],
    };
    let Some((program, arguments)) = command.split_first() else {
        return Err(Error::NoCommand(config.runtime_dir.clone()));
    };
    crate::identity::make_dir(&config.runtime_dir).map_err(io::Error::other)?;
    let log_path = config.runtime_dir.join("keeper.log");
    let log = OpenOptions::new().append(true).create(true).mode(0o600).open(log_path)?;
    let mut keeper = Command::new(program);
    keeper.args(arguments).arg("--dir").arg(&config.runtime_dir).arg("--data").arg(&config.data_dir);
    keeper.args(["--path", &settings.path]);
    if settings.allow_root {
        keeper.arg("--allow-root");
    }
    for user in &settings.run_as {
        keeper.args(["--run-as", user]);
    }
    if let Some(group) = &settings.jobs_cgroup {
        keeper.arg("--jobs-cgroup").arg(group);
    }
    if let Some(file) = &config.file {
        keeper.arg("--config").arg(file);
    }
    if settings.git.allow.iter().any(|pattern| pattern == "file://*") {
        keeper.arg("--allow-file-repositories");
    }
    keeper.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    tracing::info!(?program, "starting a keeper");
    Ok(keeper.spawn()?)
}

/// Connects to a socket below a directory.
pub(crate) async fn open(dir: &Path, name: &str) -> io::Result<UnixStream> {
    // By path alone: the directory of a keeper of root can be passed through, not listed.
    let dir = rustix::fs::open(dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    UnixStream::connect(format!("/proc/self/fd/{}/{name}", dir.as_raw_fd())).await
}

/// The next frame of a socket.
pub(crate) async fn next_frame(read: &mut OwnedReadHalf, frames: &mut Reader) -> Result<Frame, Error> {
    let mut buffer = Vec::with_capacity(64 * 1024);
    loop {
        if let Some(frame) = frames.next_frame()? {
            return Ok(frame);
        }
        buffer.clear();
        if read.read_buf(&mut buffer).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        frames.feed(&buffer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn without_a_command_nobody_is_started() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::below(dir.path());
        config.settings.keeper_command = Some(Vec::new());
        let error = Starter::default().link(&config).await.err().unwrap();
        assert!(matches!(error, Error::NoCommand(_)), "{error}");
    }

    #[tokio::test]
    async fn a_keeper_that_ends_at_once_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::below(dir.path());
        config.settings.keeper_command = Some(vec!["false".into()]);
        let error = Starter::default().link(&config).await.err().unwrap();
        assert!(matches!(error, Error::Ended(_)), "{error}");
    }
}
