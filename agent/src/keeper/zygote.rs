//! The keeper's side of its zygote: starts it, has it fork guardians, starts another when it is gone.
use super::attempts::Keeper;
use crate::guardian::Setting;
use crate::guardian::zygote::{MOST_FDS, MOST_SETTING, NO_SLOT, WORDS};
use reeve_protocol::codec;
use rustix::cmsg_space;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
    recv, send, sendmsg, socketpair,
};
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

/// How long the zygote may take to fork.
const ANSWER: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };

/// A zygote that was started.
pub(super) struct Zygote {
    socket: OwnedFd,
    pid: u32,
}

/// Why there is no guardian.
#[derive(Debug)]
pub(super) enum Failure {
    /// The zygote is gone, or does not answer: whether it has forked is not known.
    Zygote(io::Error),
    /// It cannot fork.
    Fork(io::Error),
}

impl Zygote {
    /// Starts one; it is reaped by the kernel, like every child of a keeper.
    fn start(setting: &Setting) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        // Whole messages, so that neither side has to cut them.
        let (socket, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        let mut first = Vec::new();
        codec::encode_into(setting, &mut first).map_err(io::Error::other)?;
        if first.len() > MOST_SETTING {
            return Err(io::Error::other("the keeper's setting is too long"));
        }
        send(&socket, &first, SendFlags::NOSIGNAL)?;
        let name = std::env::args_os().next().unwrap_or_else(|| "reeve-agent".into());
        // Whatever lies at our path by now: it must be the same build, or it would not understand us.
        let child = Command::new("/proc/self/exe")
            .arg0(name)
            .args(WORDS)
            .args(["--dir", setting.root.as_str()])
            // Of the GNU library: what is freed is kept for no thread, so that it can be given back. No job inherits it.
            .env("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0")
            .stdin(Stdio::from(theirs))
            .spawn()?;
        Ok(Self { socket, pid: child.id() })
    }

    /// A guardian with this end of a socket pair; its process id.
    fn fork(
        &self,
        theirs: BorrowedFd<'_>,
        slot: Option<u32>,
        doors: &[BorrowedFd<'_>],
    ) -> Result<u32, Failure> {
        let fds: Vec<BorrowedFd<'_>> = [theirs].iter().chain(doors).copied().collect();
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MOST_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(&fds)) {
            return Err(Failure::Fork(io::Error::other("too many hierarchies of control groups")));
        }
        let gone = |error: rustix::io::Errno| Failure::Zygote(error.into());
        let number = slot.unwrap_or(NO_SLOT).to_le_bytes();
        let order = [IoSlice::new(&number)];
        sendmsg(&self.socket, &order, &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)
            .map_err(gone)?;
        let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
        let ready = rustix::io::retry_on_intr(|| poll(&mut fds, Some(&ANSWER))).map_err(gone)?;
        let mut answer = [0; 4];
        let length = match ready {
            0 => return Err(Failure::Zygote(io::ErrorKind::TimedOut.into())),
            _ => recv(&self.socket, &mut answer, RecvFlags::DONTWAIT).map_err(gone)?.0,
        };
        match i32::from_le_bytes(answer) {
            _ if length != answer.len() => Err(Failure::Zygote(io::ErrorKind::UnexpectedEof.into())),
            errno if errno <= 0 => Err(Failure::Fork(io::Error::from_raw_os_error(-errno))),
            pid => Ok(pid.unsigned_abs()),
        }
    }
}

impl Keeper {
    /// Has a zygote ready, with what is set now; the one before leaves.
    pub(super) fn start_zygote(&mut self) {
        self.zygote = None;
        match Zygote::start(&self.setting()) {
            Ok(zygote) => self.zygote = Some(zygote),
            Err(error) => tracing::warn!(%error, "what forks guardians cannot be started"),
        }
    }

    /// The process id of the zygote, which is a child of ours and no job's.
    pub(super) fn zygote_pid(&self) -> Option<u32> {
        self.zygote.as_ref().map(|zygote| zygote.pid)
    }

    /// A guardian in this slot with this end of a socket pair; its process id.
    ///
    /// After [`Failure::Zygote`] there may be a guardian that holds that end: the socket pair must not be used again, and
    /// once our end is closed that guardian leaves.
    pub(super) fn fork_with(&mut self, theirs: BorrowedFd<'_>, slot: Option<u32>) -> Result<u32, Failure> {
        if self.zygote.is_none() {
            self.zygote = Some(Zygote::start(&self.setting()).map_err(Failure::Fork)?);
        }
        let Some(zygote) = &self.zygote else { return Err(Failure::Fork(io::ErrorKind::NotFound.into())) };
        let doors = self.jobs.doors(self.groups.hierarchies().divided());
        let doors: Vec<BorrowedFd<'_>> = doors.into_iter().map(std::os::fd::AsFd::as_fd).collect();
        let forked = zygote.fork(theirs, slot, &doors);
        if let Err(Failure::Zygote(error)) = &forked {
            tracing::warn!(pid = zygote.pid, %error, "what forks guardians is gone; another is started");
            self.zygote = None;
        }
        forked
    }

    fn setting(&self) -> Setting {
        Setting {
            path: self.args.path.as_deref().unwrap_or(super::DEFAULT_PATH).to_owned(),
            root: self.place.root.clone(),
            work: self.place.work.clone(),
            nonce: self.place.nonce.clone(),
            trusted: self.trusted.clone(),
            hierarchies: self.groups.hierarchies().clone(),
            bounds: self.bounds.clone(),
        }
    }
}
