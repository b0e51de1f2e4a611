//! The sending half of a session: whatever waits is encoded into one buffer and written once. An unbatched frame costs
//! twelve times as much, and 10,000 attempts a second pass here.
use super::encode;
use super::end::End;
use super::sessions::{Outgoing, Sessions};
use super::streams::Follows;
use crate::input::AgentSaid;
use quinn::SendStream;
use reeve_protocol::frame::{self, OPTIONAL};
use reeve_protocol::wire::{self, close, kind};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Bytes gathered before a write, more or less.
const GATHER: usize = 1024 * 1024;
/// A buffer that has grown beyond this is given back.
const KEEP: usize = 64 * 1024;
/// A machine that takes nothing for so long is let go.
const PATIENCE: Duration = Duration::from_secs(20);

/// What other parts of a session want written.
#[derive(Debug)]
pub(super) enum Note {
    /// The answer to a beat.
    Echo(wire::Beat),
    /// A new certificate.
    Renewed(wire::Renewed),
    /// Why there is none.
    RenewalFailed(wire::RenewalFailed),
}

/// The sending half.
pub(super) struct Writer<'a> {
    pub(super) send: SendStream,
    pub(super) outbox: mpsc::Receiver<Outgoing>,
    pub(super) notes: mpsc::Receiver<Note>,
    pub(super) follows: &'a Follows,
    /// Takes what could not be sent back to the core.
    pub(super) unsent: mpsc::UnboundedSender<Vec<AgentSaid>>,
    pub(super) buffer: Vec<u8>,
    pub(super) sessions: &'a Sessions,
    /// The last event that this machine was told of.
    pub(super) told: u64,
}

impl Writer<'_> {
    /// Writes until the session ends.
    pub(super) async fn run(mut self) -> End {
        loop {
            if let Err(end) = self.gather().await {
                return end;
            }
            if self.buffer.is_empty() {
                continue;
            }
            if let Err(end) = self.flush().await {
                return end;
            }
        }
    }

    /// Writes the buffer.
    pub(super) async fn flush(&mut self) -> Result<(), End> {
        timeout(PATIENCE, self.send.write_all(&self.buffer)).await.map_err(|_| too_slow())??;
        self.buffer.clear();
        self.buffer.shrink_to(KEEP);
        Ok(())
    }

    /// Waits for something to write, and takes what else is there.
    async fn gather(&mut self) -> Result<(), End> {
        tokio::select! {
            biased;
            Some(note) = self.notes.recv() => self.note(&note),
            outgoing = self.outbox.recv() => self.take(outgoing.ok_or_else(too_slow)?)?,
        }
        while self.buffer.len() < GATHER {
            if let Ok(note) = self.notes.try_recv() {
                self.note(&note);
            }
            match self.outbox.try_recv() {
                Ok(outgoing) => self.take(outgoing)?,
                Err(_) => break,
            }
        }
        Ok(())
    }

    fn note(&mut self, note: &Note) {
        match note {
            Note::Echo(beat) => encode::append(kind::BEAT_ECHO, beat, &mut self.buffer),
            Note::Renewed(renewed) => encode::append(kind::RENEWED, renewed, &mut self.buffer),
            Note::RenewalFailed(failed) => encode::append(kind::RENEWAL_FAILED, failed, &mut self.buffer),
        }
        let seq = self.sessions.recorded();
        if seq > self.told {
            self.told = seq;
            // Optional, so that an agent that does not know it goes on; it cannot be too large for a frame.
            let _ = frame::append(kind::RECORDED, OPTIONAL, &wire::Recorded { seq }, &mut self.buffer);
        }
        // Beats are a good moment to look for followers that went away without a byte having come.
        for id in self.follows.abandoned() {
            encode::append(kind::UNFOLLOW, &wire::Unfollow { id }, &mut self.buffer);
        }
    }

    fn take(&mut self, outgoing: Outgoing) -> Result<(), End> {
        match outgoing {
            Outgoing::Frames(orders) => {
                let unsent = encode::frames(orders, &mut self.buffer);
                if !unsent.is_empty() {
                    let _ = self.unsent.send(unsent);
                }
            }
            Outgoing::Follow { attempt, from, into } => {
                if let Some(id) = self.follows.enter(into) {
                    encode::append(kind::FOLLOW, &wire::Follow { id, attempt, from }, &mut self.buffer);
                }
            }
            Outgoing::Close(code, reason) => return Err(End::new(code, reason)),
        }
        Ok(())
    }
}

fn too_slow() -> End {
    End::new(close::RATE, "the machine does not read what it is sent")
}
