//! How a copy of the zygote becomes a guardian: its control groups, its descriptors, its session, its signals.
use super::confine::Confinement;
use super::serve::Client;
use super::{Birth, Setting, sys};
use crate::peer::Peer;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::io;
use std::os::fd::AsRawFd as _;

/// Where a guardian keeps its end of the socket pair while every other descriptor is closed.
const KEEPER_FD: i32 = 3;

/// What a process has that has just become a guardian.
pub(super) struct Fresh {
    pub(super) keeper: Client,
    pub(super) signals: SignalFd,
    pub(super) confined: Confinement,
}

pub(super) fn become_guardian(setting: &Setting, birth: Birth) -> io::Result<Fresh> {
    // Before anything else: whoever stops the keeper's own group must not find us there.
    for door in &birth.doors {
        rustix::io::write(door, b"0")?;
    }
    sys::move_fd(birth.keeper.as_raw_fd(), KEEPER_FD)?;
    std::mem::forget((birth.keeper, birth.doors));
    sys::close_from(KEEPER_FD + 1);
    let keeper = sys::adopt_stream(KEEPER_FD);
    // What it is called in lists of processes; only that.
    let _ = rustix::thread::set_name(c"reeve-guardian");
    sys::guardian_signals();
    rustix::process::setsid()?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    // HUP, INT and PIPE are ignored already; TERM to everybody (a stopping service) ends the command, and its end must be
    // remembered here.
    let mut blocked = SigSet::empty();
    blocked.add(Signal::SIGTERM);
    blocked.add(Signal::SIGCHLD);
    blocked.thread_block()?;
    let mut children = SigSet::empty();
    children.add(Signal::SIGCHLD);
    let signals = SignalFd::with_flags(&children, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    let confined = Confinement::enter(setting, birth.slot);
    Ok(Fresh { keeper: Client::keeper(Peer::new(keeper)?), signals, confined })
}
