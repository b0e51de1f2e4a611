//! A guardian: the process that holds one attempt. It starts the command, keeps what it writes, ends its whole tree, and
//! remembers the end until it is told to forget. It outlives keeper, agent and coordinator, and speaks only the five
//! messages of [`reeve_protocol::guardian`], so it never needs to be restarted for an upgrade.
//!
//! Forked from the single-threaded keeper without exec: everything it needs is in its memory already.
mod ending;
pub(crate) mod environment;
mod launch;
pub(crate) use launch::errno_name;
mod serve;
mod spool;
pub(crate) mod sys;
pub(crate) mod tree;

use crate::peer::{Peer, SCRATCH, is_trusted};
use ending::{Ending, Phase};
use environment::Account;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use reeve_protocol::guardian::State;
use reeve_protocol::tape::{STDERR, STDOUT};
use reeve_protocol::time::Wall;
use reeve_protocol::wire::Start;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serve::Client;
use spool::Tape;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use sys::Identity;

/// What the keeper prepares for a guardian before it forks. The working directory of both is the runtime directory.
pub(crate) struct Task<'a> {
    pub(crate) start: &'a Start,
    pub(crate) account: &'a Account,
    pub(crate) identity: Option<&'a Identity>,
    pub(crate) no_new_privs: bool,
    pub(crate) path: &'a str,
    pub(crate) machine: &'a str,
    /// The runtime directory, absolute.
    pub(crate) root: &'a str,
    pub(crate) spool: PathBuf,
    pub(crate) nonce: &'a str,
    /// Users besides our own and root whose processes may ask.
    pub(crate) trusted: &'a [u32],
    /// How often the kernel had killed for memory in our cgroup.
    pub(crate) oom_kills: Option<u64>,
}

/// A guardian at work.
pub(crate) struct Guardian<'a> {
    task: &'a Task<'a>,
    state: State,
    tape: Tape,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    ending: Ending,
    clients: Vec<Client>,
    listener: UnixListener,
    signals: SignalFd,
    lease: Option<ending::Lease>,
    scratch: Vec<u8>,
}

/// The life of a guardian; `keeper` is its end of a socket pair.
pub(crate) fn run(task: &Task<'_>, keeper: UnixStream) -> ! {
    let code = match Guardian::prepare(task, keeper) {
        Ok(mut guardian) => {
            guardian.start_command();
            guardian.hold();
            guardian.leave();
            0
        }
        // The keeper sees the socket pair end without a State and answers for the attempt.
        Err(error) => {
            tracing::error!(attempt = %task.start.attempt, %error, "a guardian could not be set up");
            1
        }
    };
    sys::exit_now(code)
}

/// Bytes per read of a pipe. Memory of this size comes from the kernel as zeroes: only what is used costs anything.
const UNTOUCHED: usize = 4 * SCRATCH;
/// Where a guardian keeps its end of the socket pair while every other descriptor is closed.
const KEEPER_FD: i32 = 3;

impl<'a> Guardian<'a> {
    fn prepare(task: &'a Task<'a>, keeper: UnixStream) -> io::Result<Self> {
        sys::move_fd(keeper.as_raw_fd(), KEEPER_FD)?;
        std::mem::forget(keeper);
        sys::close_from(KEEPER_FD + 1);
        let keeper = sys::adopt_stream(KEEPER_FD);
        sys::guardian_signals();
        rustix::process::setsid()?;
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        // HUP, INT and PIPE are ignored already; TERM to everybody (a stopping service) ends the command, and its end
        // must be remembered here.
        let mut blocked = SigSet::empty();
        blocked.add(Signal::SIGTERM);
        blocked.add(Signal::SIGCHLD);
        blocked.thread_block()?;
        let mut children = SigSet::empty();
        children.add(Signal::SIGCHLD);
        let signals = SignalFd::with_flags(&children, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let start = task.start;
        let path = environment::socket_path(start.attempt);
        let listener = match UnixListener::bind(&path) {
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
                std::fs::remove_file(&path)?;
                UnixListener::bind(&path)?
            }
            other => other?,
        };
        listener.set_nonblocking(true)?;
        let state = State {
            attempt: start.attempt,
            lineage: start.lineage.clone(),
            phase: Phase::Running as u16,
            guardian_pid: std::process::id(),
            pid: 0,
            started_ms: 0,
            ended_ms: 0,
            cause: reeve_protocol::Cause::Unknown.to_wire(),
            cpu_ms: 0,
            rss_peak: 0,
            tape: 0,
            output: Vec::new(),
            result: None,
            cpu_milli: start.cpu_milli,
            memory_bytes: start.memory_bytes,
        };
        Ok(Self {
            task,
            state,
            tape: Tape::new(start.output_cap, task.spool.clone()),
            stdout: None,
            stderr: None,
            ending: Ending::new(start.grace_ms),
            clients: vec![Client::keeper(Peer::new(keeper)?)],
            listener,
            signals,
            lease: ending::Lease::new(start.stop_after_ms)?,
            scratch: vec![0; UNTOUCHED],
        })
    }

    fn workdir(&self) -> String {
        format!("{}/{}", self.task.root, environment::work_path(self.task.start.attempt))
    }

    fn start_command(&mut self) {
        let task = self.task;
        let workdir = self.workdir();
        let order = launch::Order {
            start: task.start,
            account: task.account,
            identity: task.identity,
            no_new_privs: task.no_new_privs,
            path: task.path,
            machine: task.machine,
            workdir: &workdir,
        };
        match launch::launch(&order) {
            Ok(running) => {
                self.state.pid = running.pid;
                self.state.started_ms = Wall::now().0;
                self.stdout = Some(running.stdout);
                self.stderr = Some(running.stderr);
                self.ending.run_until(task.start.timeout_ms);
            }
            Err(cause) => self.finish(&cause),
        }
    }

    /// Serves until the end is forgotten.
    fn hold(&mut self) {
        loop {
            let ready = self.wait();
            if ready.signals || self.state.pid != 0 && self.ending.is_pressing() {
                self.reap();
            }
            if ready.stdout {
                self.drain(STDOUT, 16);
            }
            if ready.stderr {
                self.drain(STDERR, 16);
            }
            if self.serve(&ready) {
                return;
            }
            self.check_clocks(ready.lease);
            self.finish_if_empty();
            self.answer();
        }
    }

    fn wait(&self) -> Ready {
        let running = self.ending.phase() != Phase::Ended;
        let mut fds = Vec::with_capacity(5 + self.clients.len());
        fds.push(PollFd::new(&self.listener, PollFlags::IN));
        for client in &self.clients {
            let flags =
                if client.peer.pending() > 0 { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
            fds.push(PollFd::new(&client.peer, flags));
        }
        let base = fds.len();
        if running {
            fds.push(PollFd::new(&self.signals, PollFlags::IN));
            let streams = [self.stdout.as_ref(), self.stderr.as_ref(), self.lease.as_ref().map(|l| &l.timer)];
            fds.extend(streams.into_iter().flatten().map(|fd| PollFd::new(fd, PollFlags::IN)));
        }
        let timeout = if running { self.ending.next_check() } else { None };
        let timeout = timeout.map(|at| {
            // Rounded up: a poll that returns early would be repeated for nothing.
            let left = at.saturating_duration_since(Instant::now()) + Duration::from_micros(500);
            Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() }
        });
        if poll(&mut fds, timeout.as_ref()).is_err() {
            return Ready::default();
        }
        let is = |at: usize| fds.get(at).is_some_and(|fd| !fd.revents().is_empty());
        let mut at = base;
        let mut next = |present: bool| {
            let ready = present && is(at);
            at += usize::from(present);
            ready
        };
        Ready {
            signals: next(running),
            stdout: next(running && self.stdout.is_some()),
            stderr: next(running && self.stderr.is_some()),
            lease: next(running && self.lease.is_some()),
            listener: is(0),
            clients: (1..base).map(is).collect(),
        }
    }

    /// Reads one stream, `rounds` times at most, so that a flood on one never starves the rest.
    fn drain(&mut self, stream: u8, rounds: usize) {
        let source = if stream == STDOUT { &mut self.stdout } else { &mut self.stderr };
        for _ in 0..rounds {
            let Some(fd) = source.as_ref() else { return };
            match rustix::io::read(fd, self.scratch.as_mut_slice()) {
                Ok(0) => *source = None,
                Ok(n) => {
                    let now = Wall::now().0.max(0) as u64;
                    self.tape.record(stream, now, &self.scratch[..n]);
                    // A short read has emptied the pipe: asking again would be a system call for nothing.
                    if n < self.scratch.len() {
                        return;
                    }
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return,
                Err(_) => *source = None,
            }
        }
    }

    /// Removes everything on disk; the end is known elsewhere.
    fn leave(&mut self) {
        self.tape.remove();
        let attempt = self.task.start.attempt;
        let _ = std::fs::remove_file(environment::socket_path(attempt));
        let work = environment::work_path(attempt);
        if std::fs::remove_dir(&work).is_err() {
            let _ = std::fs::remove_dir_all(&work);
        }
    }
}

/// What poll said.
#[derive(Default)]
struct Ready {
    listener: bool,
    clients: Vec<bool>,
    signals: bool,
    stdout: bool,
    stderr: bool,
    lease: bool,
}
