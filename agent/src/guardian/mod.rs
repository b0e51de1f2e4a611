//! A guardian: the process that holds one attempt. It starts the command, keeps what it writes, ends its whole tree, and
//! remembers the end until it is told to forget. It outlives keeper, agent and coordinator, and speaks only the five
//! messages of [`reeve_protocol::guardian`], so it never needs to be restarted for an upgrade.
//!
//! Forked from the keeper's [`zygote`] without exec: what all guardians share is in its memory already. Its attempt comes
//! over a socket pair, as [`NEXT`]; when that is forgotten it may hold another one, which saves a fork. Only the keeper that
//! had it made is at the other end, so what is said there may change with any version.
pub(crate) mod collecting;
mod confine;
mod ending;
pub(crate) mod environment;
mod launch;
mod lease;
mod memory;
pub(crate) mod prepare;
pub(crate) mod replica;
pub(crate) mod result;
pub(crate) use launch::errno_name;
mod birth;
mod serve;
mod spool;
pub(crate) mod sys;
pub(crate) mod tree;
mod waiting;
pub(crate) mod workdir;
pub mod zygote;

use crate::groups::{Bounds, Hierarchies};
use crate::peer::{Peer, is_trusted};
use confine::Confinement;
use ending::{Ending, Phase};
use environment::Account;
use lease::Lease;
use nix::sys::signalfd::SignalFd;
use reeve_protocol::crash;
use reeve_protocol::guardian::State;
use reeve_protocol::ids::AttemptId;
use reeve_protocol::tape::{STDERR, STDOUT};
use reeve_protocol::time::Wall;
use reeve_protocol::wire::Start;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};
use serve::Client;
use spool::Tape;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use sys::Identity;
use waiting::Ready;
use workdir::Workdir;

/// Keeper -> guardian, just before [`NEXT`]: the Start of that task. In a frame of its own, since it may fill one.
pub(crate) const NEXT_START: u16 = 190;
/// Keeper -> guardian, first of all and after Forget: a [`Task`].
pub(crate) const NEXT: u16 = 191;
/// How the sockets of guardians that hold nothing are named, beside the directory of those that hold something.
pub(crate) const RESTING: &str = "resting-";

/// What all attempts of a keeper have in common. The working directory of everybody is the runtime directory.
#[derive(Serialize, Deserialize)]
pub(crate) struct Setting {
    /// Where programs are looked for.
    pub(crate) path: String,
    /// The runtime directory, absolute.
    pub(crate) root: String,
    /// Below it the directories of attempts are made, absolute.
    pub(crate) work: String,
    pub(crate) nonce: String,
    /// Users besides our own and root whose processes may ask.
    pub(crate) trusted: Vec<u32>,
    /// Where slots of control groups are.
    pub(crate) hierarchies: Hierarchies,
    pub(crate) bounds: Bounds,
}

/// What one guardian is born with.
pub(crate) struct Birth {
    /// Its end of a socket pair.
    pub(crate) keeper: UnixStream,
    /// Writing `0` to these moves the writer into the control group of attempts.
    pub(crate) doors: Vec<OwnedFd>,
    /// The slot of control groups that this guardian and its attempts live in.
    pub(crate) slot: Option<u32>,
}

/// One attempt, as the keeper gives it to a guardian.
#[derive(Serialize, Deserialize)]
pub(crate) struct Task {
    /// Comes ahead of the rest, as [`NEXT_START`].
    #[serde(skip)]
    pub(crate) start: Start,
    pub(crate) account: Account,
    /// `None`: as the keeper's own user.
    pub(crate) identity: Option<Identity>,
    pub(crate) no_new_privs: bool,
    pub(crate) machine: String,
    pub(crate) spool: PathBuf,
    /// How often the kernel had killed for memory in our cgroup.
    pub(crate) oom_kills: Option<u64>,
    /// Up to when the coordinator is known to have heard this machine, boot-time milliseconds.
    pub(crate) heard: u64,
    /// What is checked out first.
    pub(crate) checkout: Option<crate::git::order::Order>,
    /// It is a replica of a static worker, spoken to like this.
    pub(crate) replica: Option<replica::Spoken>,
    /// The agent is another user, who comes by the group of the runtime directory.
    pub(crate) shared: bool,
    /// What is collected at the end, beside the directory for artifacts.
    pub(crate) collect: Option<reeve_protocol::wire::Collect>,
    /// Bytes of all artifacts of one attempt, at most.
    pub(crate) out_max: u64,
}

/// A guardian at work.
pub(crate) struct Guardian<'a> {
    setting: &'a Setting,
    task: Box<Task>,
    workdir: Workdir,
    state: State,
    tape: Tape,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    ending: Ending,
    /// The checkout, for a git job.
    preparation: Option<prepare::Preparation>,
    /// The pipes of a replica, held open whoever else comes and goes.
    pipes: Option<replica::Pipes>,
    /// Its artifacts.
    collecting: collecting::Collecting,
    /// Where the work tree goes when the attempt is forgotten.
    keep_tree: Option<PathBuf>,
    clients: Vec<Client>,
    listener: UnixListener,
    signals: SignalFd,
    lease: Option<Lease>,
    /// Empty until something is read.
    scratch: Vec<u8>,
    calm: memory::Calm,
    confined: Confinement,
}

/// The life of a guardian. It waits for its task in its control groups: entering them takes longer than starting a command.
///
/// What happens once or rarely is kept out of line here and below: what this function and [`Guardian::hold`] have on the
/// stack is in memory for as long as the command runs, once for each.
fn run(setting: &Setting, birth: Birth) -> ! {
    let mut attempt = None;
    let held = match begin(setting, birth, &mut attempt) {
        Ok(Some(mut guardian)) => {
            let result = guardian.hold_all();
            guardian.workdir.remove();
            let _ = std::fs::remove_file(resting_place());
            result
        }
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    // The keeper sees the socket pair end without a State and answers for the attempt.
    if let Err(error) = &held {
        tracing::error!(?attempt, %error, "a guardian could not be set up");
    }
    sys::exit_now(i32::from(held.is_err()))
}

/// Up to the first task. `None`: there is none.
#[inline(never)]
fn begin<'a>(
    setting: &'a Setting,
    birth: Birth,
    attempt: &mut Option<AttemptId>,
) -> io::Result<Option<Box<Guardian<'a>>>> {
    let mut fresh = birth::become_guardian(setting, birth)?;
    let Some(task) = serve::next_task(&mut fresh.keeper, &mut Vec::new()) else { return Ok(None) };
    *attempt = Some(task.start.attempt);
    Ok(Some(Box::new(Guardian::new(setting, task, fresh)?)))
}

impl<'a> Guardian<'a> {
    fn new(setting: &'a Setting, task: Box<Task>, fresh: birth::Fresh) -> io::Result<Self> {
        let start = &task.start;
        Ok(Self {
            setting,
            workdir: Workdir::new(format!("{}/{}", setting.work, std::process::id())),
            state: first_state(start),
            tape: Tape::new(start.output_cap, task.spool.clone()),
            stdout: None,
            stderr: None,
            ending: Ending::new(start.grace_ms),
            preparation: None,
            pipes: None,
            collecting: collecting::Collecting::default(),
            keep_tree: None,
            clients: vec![fresh.keeper],
            listener: listen(start.attempt, setting)?,
            signals: fresh.signals,
            lease: Lease::new(start.stop_after_ms, task.heard)?,
            scratch: Vec::new(),
            calm: memory::Calm::new(),
            confined: fresh.confined,
            task,
        })
    }

    /// One attempt after the other.
    fn hold_all(&mut self) -> io::Result<()> {
        loop {
            if self.is_abandoned() {
                let _ = std::fs::remove_file(environment::socket_path(self.task.start.attempt));
                return Ok(());
            }
            self.start_command();
            self.hold();
            self.clean_up();
            let Some(task) = self.wait_for_task() else { return Ok(()) };
            self.assume(task)?;
        }
    }

    /// The keeper that gave the task is gone, perhaps since before there was a socket to find us by. The next keeper may
    /// have looked already and have told everybody that this attempt never began: so it must not begin.
    fn is_abandoned(&self) -> bool {
        let Some(keeper) = self.clients.first() else { return true };
        let mut fds = [PollFd::new(&keeper.peer, PollFlags::empty())];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut fds, Some(&now)).is_ok() && fds[0].revents().contains(PollFlags::HUP)
    }

    /// Becomes the guardian of another attempt. The socket got another name in between, so that whoever was about to ask
    /// for the attempt before does not get this one's answers.
    #[inline(never)]
    fn assume(&mut self, task: Box<Task>) -> io::Result<()> {
        let start = &task.start;
        if std::fs::rename(resting_place(), environment::socket_path(start.attempt)).is_err() {
            self.listener = listen(start.attempt, self.setting)?;
        }
        self.lease = Lease::new(start.stop_after_ms, task.heard)?;
        self.state = first_state(start);
        self.tape = Tape::new(start.output_cap, task.spool.clone());
        self.ending = Ending::new(start.grace_ms);
        self.preparation = None;
        self.collecting = collecting::Collecting::default();
        self.task = task;
        self.calm = memory::Calm::new();
        Ok(())
    }

    #[inline(never)]
    fn start_command(&mut self) {
        crash::point("guardian.start");
        let lent = self.workdir.lend(self.task.identity.as_ref());
        let begun = lent
            .map_err(|error| launch::refused("the attempt's directory cannot be made", &error))
            .and_then(|()| if self.task.checkout.is_some() { self.start_checkout() } else { self.launch() });
        if let Err(cause) = begun {
            self.finish(&cause);
        }
    }

    /// Starts the command itself.
    fn launch(&mut self) -> Result<(), reeve_protocol::Cause> {
        let socket = self.socket();
        self.confined.prepare(self.task.start.cpu_milli, self.task.start.memory_bytes);
        if let Some(about) = &self.task.replica {
            let made = replica::make(self.task.start.attempt, about, self.task.shared);
            self.pipes = made.map_err(|error| launch::refused("its pipes cannot be made", &error))?;
        }
        let order = launch::Order {
            start: &self.task.start,
            identity: self.task.identity.as_ref(),
            no_new_privs: self.task.no_new_privs,
            data_limit: self.confined.data_limit(),
            groups: &self.confined.doors(),
            facts: self.facts(&socket),
            pipes: self.pipes.as_ref(),
        };
        let running = launch::launch(&order)?;
        if let Some(pipes) = &mut self.pipes {
            pipes.given();
        }
        crash::point("guardian.started");
        self.state.pid = running.pid;
        self.state.started_ms = Wall::now().0;
        self.stdout = running.stdout;
        self.stderr = Some(running.stderr);
        self.ending.run_until(self.task.start.timeout_ms);
        // The command has them by now, and this process may live for months.
        (self.task.start.payload, self.task.start.stdin, self.task.start.env) = (None, None, Vec::new());
        Ok(())
    }

    fn socket(&self) -> String {
        format!("{}/{}", self.setting.root, environment::socket_path(self.task.start.attempt))
    }

    fn facts<'f>(&'f self, socket: &'f str) -> environment::Facts<'f> {
        environment::Facts {
            account: &self.task.account,
            path: &self.setting.path,
            machine: &self.task.machine,
            workdir: self.workdir.path(),
            out_dir: self.workdir.out_path(),
            socket,
        }
    }

    /// Serves until the end is forgotten.
    fn hold(&mut self) {
        loop {
            let ready = self.wait();
            self.rest(&ready);
            let has_child = self.state.pid != 0 || self.preparation.is_some();
            if ready.signals || has_child && self.ending.is_pressing() {
                self.reap();
            }
            if ready.stdout {
                self.drain(STDOUT, 16);
            }
            if ready.stderr {
                self.drain(STDERR, 16);
            }
            if ready.alarm {
                self.heard_alarm();
            }
            if self.serve(&ready) {
                return;
            }
            self.check_clocks();
            self.finish_if_empty();
            self.answer();
            if self.is_out_of_reach() {
                return;
            }
        }
    }

    /// The attempt has ended, nobody is connected, and nobody can come: the socket, or all that lay beside it, has been
    /// removed. Without this a guardian of a directory that was thrown away would stay for ever.
    fn is_out_of_reach(&self) -> bool {
        self.ending.phase() == Phase::Ended
            && self.clients.is_empty()
            && !Path::new(&environment::socket_path(self.task.start.attempt)).exists()
    }

    /// Reads one stream, `rounds` times at most, so that a flood on one never starves the rest.
    #[inline(never)]
    fn drain(&mut self, stream: u8, rounds: usize) {
        let source = if stream == STDOUT { &mut self.stdout } else { &mut self.stderr };
        memory::make(&mut self.scratch);
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

    /// Removes what is on disk of the attempt; its end is known elsewhere.
    #[inline(never)]
    fn clean_up(&mut self) {
        crash::point("guardian.forgotten");
        self.tape.remove();
        self.pipes = None;
        if self.task.replica.is_some() {
            replica::remove(self.task.start.attempt);
        }
        self.forget_artifacts();
        self.keep_tree();
        // The socket stays, under a name that nobody looks for: a new one for every attempt costs more than the attempt's
        // pipes. Whoever had just come for this attempt is sent away.
        let _ = std::fs::rename(environment::socket_path(self.task.start.attempt), resting_place());
        while self.listener.accept().is_ok() {}
        self.workdir.take_back();
    }
}

/// Where the socket of a guardian lies that holds nothing.
fn resting_place() -> String {
    format!("{RESTING}{}", std::process::id())
}

/// The socket of an attempt.
fn listen(attempt: AttemptId, setting: &Setting) -> io::Result<UnixListener> {
    crash::point("guardian.unbound");
    let path = environment::socket_path(attempt);
    let listener = match UnixListener::bind(&path) {
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
            std::fs::remove_file(&path)?;
            UnixListener::bind(&path)?
        }
        other => other?,
    };
    if !setting.trusted.is_empty() {
        // The directory has given it the agent's group.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o660))?;
    }
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn first_state(start: &Start) -> State {
    State {
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
    }
}
