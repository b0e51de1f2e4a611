//! Where the coordinator is: the order in which places are tried, and the stream to the one that was found.
//!
//! `--host` > `REEVE_HOST` > configuration file > `/run/reeve/coordinator.sock` > the socket of this user's `reeve up`.
use reeve_protocol::text::Clean;
use reeve_protocol::{Code, Problem};
use rustix::fs::{Mode, OFlags};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::net::UnixStream;

/// Where packages put the socket.
pub const SYSTEM_SOCKET: &str = "/run/reeve/coordinator.sock";
/// `sockaddr_un` holds 108 bytes with the closing zero.
const LONGEST_PATH: usize = 107;

/// One coordinator's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// A socket on this machine.
    Unix(PathBuf),
    /// A machine reached by the user's own `ssh`, where `reeve dial-stdio` connects to the socket.
    Ssh {
        /// `user@host` or `host`.
        target: String,
        /// Another port than ssh's own choice.
        port: Option<u16>,
        /// Another socket than the one found there.
        socket: Option<String>,
    },
}

/// The process behind a stream that is not a plain socket; it is ended when this is dropped.
#[derive(Debug)]
pub struct Link(Child);

impl Drop for Link {
    fn drop(&mut self) {
        // Both fail only when it has ended already, which is what is wanted.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Everything the search looks at, gathered once so that it can be tested.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// `--host`.
    pub flag: Option<String>,
    /// `REEVE_HOST`.
    pub variable: Option<String>,
    /// The user's configuration file.
    pub config: Option<PathBuf>,
    /// The packaged socket.
    pub system: PathBuf,
    /// Files that may name the socket of `reeve up`.
    pub pointers: Vec<PathBuf>,
}

impl Places {
    /// Those of this process.
    pub fn of_process(flag: Option<String>) -> Self {
        let variable = std::env::var("REEVE_HOST").ok().filter(|v| !v.is_empty());
        let config = std::env::var_os("XDG_CONFIG_HOME")
            .map(PathBuf::from)
            .filter(|p| p.is_absolute())
            .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config")))
            .map(|dir| dir.join("reeve/config.toml"));
        Self { flag, variable, config, system: SYSTEM_SOCKET.into(), pointers: pointer_paths() }
    }

    /// The first place that names a coordinator.
    ///
    /// # Errors
    /// A value that cannot be read, or `no-coordinator` with every place that was looked at.
    pub fn find(&self) -> Result<Host, Problem> {
        if let Some(text) = &self.flag {
            return Host::parse(text);
        }
        if let Some(text) = &self.variable {
            return Host::parse(text);
        }
        if let Some(text) = self.config.as_deref().map(configured).transpose()?.flatten() {
            return Host::parse(&text);
        }
        if self.system.exists() {
            return Ok(Host::Unix(self.system.clone()));
        }
        if let Some(socket) = self.pointers.iter().find_map(|path| read_pointer(path)) {
            return Ok(Host::Unix(socket));
        }
        let mut looked = vec!["--host and REEVE_HOST (not set)".to_owned()];
        looked.extend(self.config.iter().map(|p| format!("{} (no host)", p.display())));
        looked.push(format!("{} (no such socket)", self.system.display()));
        looked.push("the `reeve up` of this user (not running)".to_owned());
        Err(Problem::new(
            Code::NoCoordinator,
            format!("no coordinator was found; looked at {}", looked.join(", ")),
        )
        .hint(ADVICE))
    }
}

/// The two commands that help.
const ADVICE: &str = "start one here with `reeve up`, or name one with `--host` or REEVE_HOST";

/// The files by which `reeve up` tells where its socket is, most private first. The same user may have a session
/// with a runtime directory and one without.
pub fn pointer_paths() -> Vec<PathBuf> {
    let uid = rustix::process::getuid().as_raw();
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|p| p.is_absolute());
    // Not `up`: that is the data directory's name, and the two base directories may be the same.
    let runtime = runtime.map(|dir| dir.join("reeve/up.host"));
    runtime.into_iter().chain([temporary_dir(uid).join("up.host")]).collect()
}

/// The runtime directory of a user who has none.
pub fn temporary_dir(uid: u32) -> PathBuf {
    PathBuf::from(format!("/tmp/reeve-{uid}"))
}

/// What a pointer file names. One that another user may have written is not believed.
fn read_pointer(path: &Path) -> Option<PathBuf> {
    let mine = |meta: &std::fs::Metadata| {
        meta.uid() == rustix::process::getuid().as_raw() && meta.mode() & 0o022 == 0
    };
    let file = std::fs::symlink_metadata(path).ok()?;
    let dir = std::fs::symlink_metadata(path.parent()?).ok()?;
    if !file.is_file() || !mine(&file) || !mine(&dir) {
        return None;
    }
    let text = std::fs::read_to_string(path).ok()?;
    let socket = PathBuf::from(text.trim_end_matches('\n'));
    (socket.is_absolute() && socket.exists()).then_some(socket)
}

/// The `host` of the configuration file.
fn configured(path: &Path) -> Result<Option<String>, Problem> {
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Config {
        host: Option<String>,
    }
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(bad(format!("{}: {error}", path.display()))),
    };
    match toml::from_str::<Config>(&text) {
        Ok(config) => Ok(config.host.filter(|h| !h.is_empty())),
        Err(error) => Err(bad(format!("{}: {}", path.display(), error.message()))),
    }
}

fn bad(detail: String) -> Problem {
    Problem::new(Code::BadValue, detail)
        .hint("a host is a socket's path, unix:///PATH or ssh://USER@HOST[:PORT][/SOCKET]")
}

impl Host {
    /// Reads `unix:///path`, a bare path or `ssh://user@host[:port][/socket]`.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let wrong = || bad(format!("{:?} is not a host", Clean::short(text, 100).as_str()));
        if let Some(rest) = text.strip_prefix("ssh://") {
            return Self::parse_ssh(rest).ok_or_else(wrong);
        }
        let path = text.strip_prefix("unix://").unwrap_or(text);
        if path.is_empty() || (path.contains("://")) || !(path.contains('/') || text == path) {
            return Err(wrong());
        }
        Ok(Self::Unix(PathBuf::from(path)))
    }

    fn parse_ssh(rest: &str) -> Option<Self> {
        let (address, socket) = match rest.find('/') {
            Some(at) => (&rest[..at], Some(rest[at..].to_owned()).filter(|s| s != "/")),
            None => (rest, None),
        };
        let (target, port) = match address.rsplit_once(':') {
            // The colons of a bare IPv6 address are no port.
            Some((target, port)) if !target.contains(':') || target.ends_with(']') => {
                (target, Some(port.parse().ok()?))
            }
            _ => (address, None),
        };
        // ssh would take a word with a leading hyphen for an option.
        let usable = !target.is_empty()
            && !target.starts_with('-')
            && target.chars().all(|c| c.is_ascii_graphic() && !"'\"`$\\;&|<>()".contains(c));
        usable.then(|| Self::Ssh { target: target.to_owned(), port, socket })
    }

    /// A stream to it.
    ///
    /// # Errors
    /// `no-coordinator` when nothing answers.
    pub async fn dial(&self) -> Result<(UnixStream, Option<Link>), Problem> {
        match self {
            Self::Unix(path) => Ok((connect(path).await.map_err(|e| unreachable(path, &e))?, None)),
            Self::Ssh { target, port, socket } => {
                let (stream, child) = ssh(target, *port, socket.as_deref()).map_err(|error| {
                    Problem::new(
                        Code::NoCoordinator,
                        format!("ssh to {target} could not be started: {error}"),
                    )
                    .hint("is ssh installed?")
                })?;
                Ok((stream, Some(Link(child))))
            }
        }
    }
}

impl std::fmt::Display for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Ssh { target, port, socket } => {
                write!(f, "ssh://{target}")?;
                if let Some(port) = port {
                    write!(f, ":{port}")?;
                }
                f.write_str(socket.as_deref().unwrap_or(""))
            }
        }
    }
}

fn unreachable(path: &Path, error: &io::Error) -> Problem {
    let what = match error.kind() {
        io::ErrorKind::NotFound => "there is no such socket".to_owned(),
        io::ErrorKind::ConnectionRefused => "nothing listens there any more".to_owned(),
        io::ErrorKind::PermissionDenied => "it belongs to another user".to_owned(),
        _ => error.to_string(),
    };
    Problem::new(Code::NoCoordinator, format!("no coordinator answers at {}: {what}", path.display()))
        .hint(ADVICE)
}

/// Connects; a path that is too long for a socket's address is reached through its directory's descriptor.
pub async fn connect(path: &Path) -> io::Result<UnixStream> {
    let (_held, address) = short_path(path)?;
    // A full queue of a busy coordinator answers at once that it is full; it drains in milliseconds.
    for _ in 0..500 {
        match UnixStream::connect(&address).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            other => return other,
        }
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, "its queue of connections stayed full for 5 s"))
}

/// A path of at most [`LONGEST_PATH`] bytes to the same file, valid while the descriptor is held.
pub fn short_path(path: &Path) -> io::Result<(Option<OwnedFd>, PathBuf)> {
    if path.as_os_str().len() <= LONGEST_PATH {
        return Ok((None, path.to_owned()));
    }
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    };
    let dir = rustix::fs::open(dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let short = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd())).join(name);
    Ok((Some(dir), short))
}

/// One end of a socket pair is the standard input and output of `ssh`, so that every link is a Unix stream.
fn ssh(target: &str, port: Option<u16>, socket: Option<&str>) -> io::Result<(UnixStream, Child)> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    let mut command = Command::new("ssh");
    if let Some(port) = port {
        command.args(["-p", &port.to_string()]);
    }
    command.args(["-T", "--", target]);
    match socket {
        // The far shell parses what it gets.
        Some(socket) => command.arg(format!("reeve --host {} dial-stdio", quoted(socket)?)),
        None => command.arg("reeve dial-stdio"),
    };
    let input: OwnedFd = theirs.try_clone()?.into();
    let output: OwnedFd = theirs.into();
    let child = command.stdin(Stdio::from(input)).stdout(Stdio::from(output)).spawn()?;
    ours.set_nonblocking(true)?;
    Ok((UnixStream::from_std(ours)?, child))
}

fn quoted(text: &str) -> io::Result<String> {
    shlex::try_quote(text)
        .map(std::borrow::Cow::into_owned)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
}

#[cfg(test)]
#[path = "host_test.rs"]
mod tests;
