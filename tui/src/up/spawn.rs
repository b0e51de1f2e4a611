//! The server half as a process of its own: started in a new session, waited for until it is ready, and stopped.
use super::dir::private_dir;
use super::dir::{Dir, Holder};
use super::front::Error;
use super::options::Up;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a start may take: a large store is checked, an agent joins.
const START: Duration = Duration::from_mins(2);
/// How long a stop may take before it is reported.
const STOP: Duration = Duration::from_mins(1);
/// Between two looks. Nobody is told when a lock is released, so it is looked at.
const PAUSE: Duration = Duration::from_millis(10);
/// Lines of the log that are shown when the server did not start.
const TAIL: usize = 15;

/// Starts the server of a directory and waits until it is ready.
pub fn start(dir: &Dir, up: &Up) -> Result<PathBuf, Error> {
    let log = dir.log();
    private_dir(log.parent().unwrap_or(dir.root()))?;
    let file =
        OpenOptions::new().append(true).create(true).mode(0o600).open(&log).map_err(Error::dir(&log))?;
    let from = file.metadata().map_or(0, |meta| meta.len());
    let program = std::env::current_exe().map_err(Error::dir(Path::new("/proc/self/exe")))?;
    let mut command = Command::new(program);
    command.args(["up", "--no-console", "--detached", "--dir"]).arg(dir.root());
    if let Some(listen) = up.listen {
        command.arg("--listen").arg(listen.to_string());
    }
    if let Some(name) = &up.name {
        command.arg("--name").arg(name);
    }
    let out = file.try_clone().map_err(Error::dir(&log))?;
    let child = command.stdin(Stdio::null()).stdout(out).stderr(file).spawn().map_err(Error::dir(&log))?;
    wait_ready(dir, Some((child, &log, from)))
}

/// Waits until the server of a directory has told its socket: the child that was started, or whoever holds it.
pub fn wait_ready(dir: &Dir, mut child: Option<(Child, &Path, u64)>) -> Result<PathBuf, Error> {
    let started = Instant::now();
    let mut stamp = None;
    while started.elapsed() < START {
        let holder = dir.written()?;
        let own = child.as_ref().and_then(|(child, ..)| i32::try_from(child.id()).ok());
        // Until the child has written its own name, the file still tells of the server before it.
        if (own.is_none() || holder.pid == own)
            && let Some(socket) = holder.socket
        {
            return Ok(socket);
        }
        if let Some((child, log, from)) = &mut child {
            if child.try_wait().map_err(Error::dir(log))?.is_some() {
                // Somebody else may have won the race for the directory.
                if let Some(Holder { socket: Some(socket), .. }) = dir.holder()? {
                    return Ok(socket);
                }
                return Err(Error::Start { log: log.to_path_buf(), tail: tail(log, *from) });
            }
        } else if stamp.is_none_or(|at: Instant| at.elapsed() > Duration::from_secs(1)) {
            stamp = Some(Instant::now());
            if dir.holder()?.is_none() {
                return Err(Error::Gone { dir: dir.root().to_owned() });
            }
        }
        std::thread::sleep(PAUSE);
    }
    Err(Error::Slow { seconds: START.as_secs(), log: dir.log() })
}

/// The last lines that were written after `from`.
fn tail(log: &Path, from: u64) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let new = text.get(usize::try_from(from).unwrap_or(0)..).unwrap_or_default();
    let text = String::from_utf8_lossy(new);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL)..].join("\n")
}

/// Asks the server of a directory to stop and waits until it has. Gives its process, or `None` when none runs.
pub fn stop(dir: &Dir) -> Result<Option<i32>, Error> {
    let Some(Holder { pid: Some(pid), .. }) = dir.holder()? else { return Ok(None) };
    let process = Pid::from_raw(pid).filter(|_| is_reeve(pid)).ok_or(Error::Stranger { pid })?;
    match kill_process(process, Signal::TERM) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(error) => return Err(Error::Signal { pid, source: error.into() }),
    }
    let started = Instant::now();
    while dir.holder()?.is_some_and(|holder| holder.pid == Some(pid)) {
        if started.elapsed() > STOP {
            return Err(Error::Unstopped { pid, seconds: STOP.as_secs() });
        }
        std::thread::sleep(PAUSE);
    }
    Ok(Some(pid))
}

/// A pid in a file may have been given to something else since. The lock says that a server lives, this says that
/// it is that one.
fn is_reeve(pid: i32) -> bool {
    let Ok(words) = std::fs::read(format!("/proc/{pid}/cmdline")) else { return false };
    words.split(|b| *b == 0).nth(1).is_some_and(|word| word == b"up")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_this_start_wrote_is_shown() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("up.log");
        let lines = (0..30).map(|n| format!("line {n}\n")).collect::<Vec<_>>().concat();
        std::fs::write(&log, format!("before\n{lines}")).unwrap();
        let shown = tail(&log, 7);
        assert_eq!(shown.lines().count(), TAIL);
        assert!(shown.ends_with("line 29") && !shown.contains("before"), "{shown}");
        assert_eq!(tail(&dir.path().join("absent"), 0), "");
    }

    #[test]
    fn another_program_is_not_stopped() {
        assert!(!is_reeve(i32::try_from(std::process::id()).unwrap()));
    }

    #[test]
    fn a_directory_without_a_server_has_nothing_to_stop() {
        let base = tempfile::tempdir().unwrap();
        let dir = Dir::open(Some(base.path())).unwrap();
        assert_eq!(stop(&dir).unwrap(), None);
    }

    #[test]
    fn a_ready_holder_tells_its_socket() {
        let base = tempfile::tempdir().unwrap();
        let dir = Dir::open(Some(base.path())).unwrap();
        let mut lock = dir.lock().unwrap().expect("nobody holds it");
        lock.tell(Some(Path::new("/s"))).unwrap();
        assert_eq!(wait_ready(&dir, None).unwrap(), Path::new("/s"));
    }
}
