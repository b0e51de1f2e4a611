//! One end of a Unix socket that carries frames without ever blocking: what keeper and guardian have in common. It knows
//! no message.
use reeve_protocol::frame::{self, Frame, Reader};
use serde::Serialize;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

/// Bytes per read; one buffer of this size is shared by all peers of a process.
pub(crate) const SCRATCH: usize = 64 * 1024;

/// A connected socket with what was read and not yet understood, and what was said and not yet written.
pub(crate) struct Peer {
    stream: UnixStream,
    /// Something was taken since the peer was made.
    has_spoken: bool,
    reader: Reader,
    out: Vec<u8>,
    sent: usize,
}

impl Peer {
    pub(crate) fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self { stream, has_spoken: false, reader: Reader::new(), out: Vec::new(), sent: 0 })
    }

    /// Takes what has arrived, one read at most. `false`: the other side is gone.
    pub(crate) fn fill(&mut self, scratch: &mut [u8]) -> bool {
        match self.stream.read(scratch) {
            Ok(0) => false,
            Ok(n) => {
                self.reader.feed(&scratch[..n]);
                self.has_spoken = true;
                true
            }
            Err(e) => matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted),
        }
    }

    /// Whether the other side has ever said anything.
    pub(crate) fn has_spoken(&self) -> bool {
        self.has_spoken
    }

    /// The next whole frame of what was taken.
    pub(crate) fn next_frame(&mut self) -> Result<Option<Frame>, frame::Error> {
        self.reader.next_frame()
    }

    /// Takes what somebody else has read from the same stream.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        self.reader.feed(bytes);
    }

    /// Says something at the next [`Peer::flush`]. A body above the limit is an error of ours: it is logged and dropped.
    pub(crate) fn say<T: Serialize>(&mut self, kind: u16, flags: u16, body: &T) {
        if let Err(error) = frame::append(kind, flags, body, &mut self.out) {
            tracing::error!(kind, %error, "a frame could not be encoded");
        }
    }

    /// Writes what can be written. `false`: the other side is gone.
    pub(crate) fn flush(&mut self) -> bool {
        while self.sent < self.out.len() {
            match self.stream.write(&self.out[self.sent..]) {
                Ok(n) => self.sent += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return e.kind() == io::ErrorKind::WouldBlock,
            }
        }
        self.sent = 0;
        self.out.clear();
        if self.out.capacity() > 4 * SCRATCH {
            self.out = Vec::new();
        }
        true
    }

    /// Keeps no more memory than what is in it needs.
    pub(crate) fn shrink(&mut self) {
        let rest = std::mem::take(&mut self.reader).take_rest();
        if !rest.is_empty() {
            self.reader.feed(&rest);
        }
        self.out.shrink_to_fit();
    }

    /// Bytes that were said and not yet written.
    pub(crate) fn pending(&self) -> usize {
        self.out.len() - self.sent
    }
}

impl AsFd for Peer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// Whether a process of one of `uids`, of our own user or of root is at the other end.
pub(crate) fn is_trusted(stream: &UnixStream, uids: &[u32]) -> bool {
    let own = rustix::process::geteuid();
    rustix::net::sockopt::socket_peercred(stream)
        .is_ok_and(|peer| peer.uid == own || peer.uid.is_root() || uids.contains(&peer.uid.as_raw()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_cross_and_an_end_is_seen() {
        let (a, b) = UnixStream::pair().unwrap();
        let (mut a, mut b) = (Peer::new(a).unwrap(), Peer::new(b).unwrap());
        let mut scratch = vec![0; SCRATCH];
        assert!(b.fill(&mut scratch), "nothing there is no end");
        a.say(7, 1, &"hello".to_owned());
        assert!(a.pending() > 0 && a.flush() && a.pending() == 0);
        assert!(b.fill(&mut scratch));
        let frame = b.next_frame().unwrap().unwrap();
        assert_eq!((frame.kind, frame.flags, frame.decode::<String>().unwrap()), (7, 1, "hello".to_owned()));
        a.say(8, 0, &"half".to_owned());
        let (half, rest) = a.out.split_at(6);
        b.feed(half);
        b.shrink();
        b.feed(rest);
        assert_eq!(b.next_frame().unwrap().unwrap().decode::<String>().unwrap(), "half");
        drop(a);
        assert!(!b.fill(&mut scratch));
    }

    #[test]
    fn a_full_socket_keeps_the_rest_and_a_closed_one_is_gone() {
        let (a, b) = UnixStream::pair().unwrap();
        let mut a = Peer::new(a).unwrap();
        for _ in 0..8 {
            a.say(1, 0, &vec![0u8; 512 * 1024]);
        }
        assert!(a.flush() && a.pending() > 0);
        drop(b);
        assert!(!a.flush());
    }

    #[test]
    fn our_own_processes_are_trusted() {
        let (a, _b) = UnixStream::pair().unwrap();
        assert!(is_trusted(&a, &[]));
    }
}
