//! The guardian's side of the five messages: who may ask, what is answered. It changes the attempt only through
//! [`super::ending`].
use super::ending::Phase;
use super::spool::CHUNK;
use super::{Guardian, NEXT, NEXT_START, Peer, Ready, Task, is_trusted, memory, tree};
use reeve_protocol::cause::Cause;
use reeve_protocol::frame::Frame;
use reeve_protocol::guardian::{Forget, Hello, Output, Signal, kind};
use reeve_protocol::wire::Start;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::Signal as Sig;

/// Connections at once; more are an error of somebody.
const MAX_CLIENTS: usize = 64;

/// Somebody who asks.
pub(super) struct Client {
    pub(super) peer: Peer,
    /// Has shown the nonce, or is the keeper that forked us.
    greeted: bool,
    /// Has not been told the present state.
    behind: bool,
    /// Waits for output from here.
    wanted: Option<u64>,
    /// Waits for bytes of artifacts from here.
    wants_artifacts: Option<u64>,
    /// The keeper that forked us: it may give us another attempt.
    is_parent: bool,
}

/// What becomes of a client.
enum Turn {
    Stay,
    Drop,
    /// The end is on disk.
    Forgotten,
}

impl Client {
    pub(super) fn keeper(peer: Peer) -> Self {
        Self { peer, greeted: true, behind: false, wanted: None, wants_artifacts: None, is_parent: true }
    }
}

/// Waits for a task of the keeper that forked us. `None`: it has none, or it is gone.
#[inline(never)]
pub(super) fn next_task(parent: &mut Client, scratch: &mut Vec<u8>) -> Option<Box<Task>> {
    let mut start = None;
    loop {
        while let Some(frame) = parent.peer.next_frame().ok()? {
            // Anything else was about the attempt that is forgotten.
            match frame.kind {
                NEXT_START => start = Some(frame.decode::<Start>().ok()?),
                NEXT => return Some(Box::new(Task { start: start?, ..frame.decode().ok()? })),
                _ => {}
            }
        }
        if !parent.peer.flush() {
            return None;
        }
        poll(&mut [PollFd::new(&parent.peer, PollFlags::IN)], None).ok()?;
        memory::make(scratch);
        if !parent.peer.fill(scratch) {
            return None;
        }
    }
}

impl Guardian<'_> {
    /// Takes what clients said. `true`: forgotten.
    #[inline(never)]
    pub(super) fn serve(&mut self, ready: &Ready) -> bool {
        let mut keep = Vec::with_capacity(self.clients.len());
        let mut forgotten = false;
        for (at, mut client) in std::mem::take(&mut self.clients).into_iter().enumerate() {
            let turn = if ready.clients.get(at).copied().unwrap_or(false) {
                self.listen(&mut client)
            } else {
                Turn::Stay
            };
            match turn {
                Turn::Stay => keep.push(client),
                Turn::Drop => {}
                Turn::Forgotten => {
                    forgotten = true;
                    keep.push(client);
                }
            }
        }
        self.clients = keep;
        if ready.listener {
            self.accept();
        }
        forgotten
    }

    /// Says goodbye to everybody but the keeper that forked us, and waits for its next task, which may have come already.
    /// `None`: it has none, or it is gone.
    #[inline(never)]
    pub(super) fn wait_for_task(&mut self) -> Option<Box<Task>> {
        self.clients.retain(|client| client.is_parent);
        next_task(self.clients.first_mut()?, &mut self.scratch)
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            if !is_trusted(&stream, &self.setting.trusted) {
                continue;
            }
            if self.clients.len() >= MAX_CLIENTS {
                // The oldest that has not shown the nonce makes room: a crowd must not keep the next keeper out.
                let Some(stranger) = self.clients.iter().position(|c| !c.greeted) else { continue };
                self.clients.remove(stranger);
            }
            if let Ok(peer) = Peer::new(stream) {
                self.clients.push(Client {
                    peer,
                    greeted: false,
                    behind: false,
                    wanted: None,
                    wants_artifacts: None,
                    is_parent: false,
                });
            }
        }
    }

    fn listen(&mut self, client: &mut Client) -> Turn {
        memory::make(&mut self.scratch);
        let open = client.peer.fill(&mut self.scratch);
        loop {
            match client.peer.next_frame() {
                Ok(Some(frame)) => match self.hear(client, &frame) {
                    Turn::Stay => {}
                    turn => return turn,
                },
                Ok(None) => return if open { Turn::Stay } else { Turn::Drop },
                Err(_) => return Turn::Drop,
            }
        }
    }

    /// One message. Garbage closes the connection it came on and nothing else.
    fn hear(&mut self, client: &mut Client, frame: &Frame) -> Turn {
        match frame.kind {
            kind::HELLO => match frame.decode::<Hello>() {
                Ok(hello) if client.greeted || hello.nonce == self.setting.nonce => {
                    client.greeted = true;
                    client.behind = true;
                    Turn::Stay
                }
                _ => Turn::Drop,
            },
            _ if !client.greeted => Turn::Drop,
            kind::SIGNAL => match frame.decode::<Signal>() {
                Ok(signal) => {
                    self.signal(signal);
                    Turn::Stay
                }
                Err(_) => Turn::Drop,
            },
            kind::OUTPUT => match frame.decode::<Output>() {
                Ok(request) => {
                    client.wanted = Some(request.from);
                    Turn::Stay
                }
                Err(_) => Turn::Drop,
            },
            kind::ARTIFACT_BYTES => match frame.decode::<Output>() {
                Ok(request) => {
                    client.wants_artifacts = Some(request.from);
                    Turn::Stay
                }
                Err(_) => Turn::Drop,
            },
            kind::FORGET => match frame.decode::<Forget>() {
                Ok(_) if self.ending.phase() == Phase::Ended => Turn::Forgotten,
                Ok(_) => Turn::Stay,
                Err(_) => Turn::Drop,
            },
            _ if frame.flags & reeve_protocol::frame::OPTIONAL != 0 => Turn::Stay,
            _ => Turn::Drop,
        }
    }

    fn signal(&mut self, signal: Signal) {
        if signal.signal != 0 {
            if let (Some(number), Phase::Running) =
                (Sig::from_named_raw(i32::from(signal.signal)), self.ending.phase())
            {
                tree::signal_group(self.state.pid, number);
            }
            return;
        }
        if signal.renew {
            if let Some(lease) = &mut self.lease {
                lease.renew(signal.grace_ms);
            }
            return;
        }
        // An end that has already come by itself stands: it is reaped before the stop is looked at.
        self.reap();
        self.stop(&Cause::from_wire(signal.cause), signal.grace_ms);
    }

    /// Tells the present state to everybody who has shown the nonce.
    pub(super) fn announce(&mut self) {
        for client in self.clients.iter_mut().filter(|c| c.greeted) {
            client.behind = true;
        }
        self.answer();
    }

    /// Says what is due: states, output that has come, the end of output.
    #[inline(never)]
    pub(super) fn answer(&mut self) {
        self.state.tape = self.tape.len();
        let ended = self.ending.phase() == Phase::Ended;
        for client in &mut self.clients {
            if std::mem::take(&mut client.behind) {
                // Before the end itself: whoever passes that on must know what belongs to it.
                if let Some(artifacts) = self.collecting.told().filter(|_| ended) {
                    client.peer.say(kind::ARTIFACTS, 0, artifacts);
                }
                client.peer.say(kind::STATE, 0, &self.state);
                if let Some(preparation) = &self.preparation {
                    client.peer.say(kind::PREPARED, 0, &preparation.told);
                }
            }
            if let Some(from) = client.wants_artifacts.filter(|_| ended && client.peer.pending() < CHUNK) {
                let (bytes, end) = self.collecting.read(from, CHUNK);
                client.peer.say(kind::ARTIFACT_BYTES, 0, &Output { from, bytes, end });
                client.wants_artifacts = None;
            }
            let Some(from) = client.wanted.filter(|_| client.peer.pending() < CHUNK) else { continue };
            let (from, bytes) = self.tape.read(from, CHUNK);
            if bytes.is_empty() && !ended {
                continue;
            }
            let end = ended && self.tape.is_at_end(from + bytes.len() as u64);
            client.peer.say(kind::OUTPUT, 0, &Output { from, bytes, end });
            client.wanted = None;
        }
        self.clients.retain_mut(|client| client.peer.flush());
    }
}
