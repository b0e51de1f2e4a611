//! The zygote: a small process that does nothing but fork guardians when its keeper asks. What none of them writes to
//! after the fork is in memory once for all; a copy of the keeper itself would keep each page that the keeper changes
//! later, 170 kB each (measured). It is started by exec, so it has none of the keeper's memory and descriptors, and leaves
//! when its keeper is gone. It decides nothing and holds no attempt: it may be killed at any time.
use super::{Birth, Setting, memory, run as guardian, sys};
use reeve_protocol::{codec, crash};
use rustix::cmsg_space;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, recvmsg, send};
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};

/// The arguments that make a process the zygote; more may follow, for people who look at lists of processes.
pub const WORDS: [&str; 2] = ["keeper", "guardians"];
/// Most descriptors of one order: the guardian's socket, and a door for each hierarchy of control groups.
pub(crate) const MOST_FDS: usize = 24;
/// More than the keeper's setting ever has.
pub(crate) const MOST_SETTING: usize = 64 * 1024;
/// The number of no slot.
pub(crate) const NO_SLOT: u32 = u32::MAX;
/// Where the socket of the keeper is; all behind it is closed.
const SOCKET: i32 = 3;

/// Serves a keeper at standard input: its setting, then an order for each guardian. The process's exit code.
#[must_use]
pub fn run() -> u8 {
    match serve() {
        Ok(()) => 0,
        Err(error) => {
            tracing::error!(%error, "guardians cannot be forked");
            1
        }
    }
}

fn serve() -> io::Result<()> {
    let _ = rustix::thread::set_name(c"reeve-zygote");
    let socket = take_socket()?;
    let Some(setting) = setting(&socket)? else { return Ok(()) };
    memory::look();
    loop {
        let Some(birth) = next_order(&socket)? else { return Ok(()) };
        let answer = match sys::fork_sibling() {
            Ok(None) => guardian(&setting, birth),
            Ok(Some(pid)) => pid.cast_signed(),
            Err(error) => -error.raw_os_error().unwrap_or(libc::EAGAIN),
        };
        // Whoever waits for the end of the guardian's socket must not wait for us.
        drop(birth);
        crash::point("zygote.forked");
        if send(&socket, &answer.to_le_bytes(), SendFlags::NOSIGNAL).is_err() {
            return Ok(());
        }
    }
}

/// Standard input becomes what a guardian's is, and nothing else of the keeper's stays open.
fn take_socket() -> io::Result<OwnedFd> {
    sys::move_fd(0, SOCKET)?;
    sys::close_from(SOCKET + 1);
    let socket = OwnedFd::from(sys::adopt_stream(SOCKET));
    let nothing = std::fs::File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(nothing)?;
    Ok(socket)
}

/// The first message. `None`: the keeper has left.
fn setting(socket: &OwnedFd) -> io::Result<Option<Setting>> {
    let mut bytes = vec![0; MOST_SETTING];
    let length = rustix::io::retry_on_intr(|| rustix::io::read(socket, bytes.as_mut_slice()))?;
    if length == 0 {
        return Ok(None);
    }
    codec::decode(&bytes[..length]).map(Some).map_err(io::Error::other)
}

/// The number of a slot, with the descriptors. `None`: the keeper has left.
///
/// In a frame of its own: what it writes to is the first that a guardian would copy.
#[inline(never)]
fn next_order(socket: &OwnedFd) -> io::Result<Option<Birth>> {
    let mut number = [0; 4];
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MOST_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        let mut parts = [IoSliceMut::new(&mut number)];
        recvmsg(socket.as_fd(), &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    if received.bytes == 0 {
        return Ok(None);
    }
    let mut fds = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    let mut fds = fds.next().into_iter().flatten();
    let keeper = fds.next().filter(|_| received.bytes == number.len());
    let keeper = keeper.ok_or_else(|| io::Error::other("an order without a socket"))?;
    let slot = Some(u32::from_le_bytes(number)).filter(|number| *number != NO_SLOT);
    Ok(Some(Birth { keeper: keeper.into(), doors: fds.collect(), slot }))
}
