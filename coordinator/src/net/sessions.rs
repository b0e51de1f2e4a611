//! The open sessions as the engine sees them: a bounded outbox each. A machine that does not read fast enough loses
//! its session, reconnects and reconciles; it never slows anybody else.
use crate::effect::ToAgent;
use reeve_protocol::AttemptId;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use tokio::sync::mpsc;

/// Steps that may wait for one machine. A step carries at most 2,000 frames.
const OUTBOX: usize = 256;

/// What a session's writer is told.
#[derive(Debug)]
pub enum Outgoing {
    /// One step's frames, to be written at once.
    Frames(Vec<ToAgent>),
    /// Ask for an attempt's output while it is written; the bytes go to the sender.
    Follow {
        /// Of which attempt.
        attempt: AttemptId,
        /// From this byte of the tape.
        from: u64,
        /// Where the bytes go; closed at the end.
        into: mpsc::Sender<Vec<u8>>,
    },
    /// End the session with this code.
    Close(u32, String),
}

/// Every open session by machine.
#[derive(Default)]
pub struct Sessions {
    open: Mutex<HashMap<String, (u64, mpsc::Sender<Outgoing>)>>,
}

impl Sessions {
    /// Puts a session in, before the engine is asked to open it. The receiver belongs to the session's writer.
    pub fn enter(&self, machine: &str, session: u64) -> mpsc::Receiver<Outgoing> {
        let (tx, rx) = mpsc::channel(OUTBOX);
        let before = self.lock().insert(machine.to_owned(), (session, tx));
        if let Some((_, old)) = before {
            let _ = old.try_send(Outgoing::Close(reeve_protocol::wire::close::SUPERSEDED, "a newer session took over".into()));
        }
        rx
    }

    /// Takes a session out, if it is still the machine's current one.
    pub fn leave(&self, machine: &str, session: u64) {
        let mut open = self.lock();
        if open.get(machine).is_some_and(|(current, _)| *current == session) {
            open.remove(machine);
        }
    }

    /// Hands one step's frames to a session. A session that is gone or full is dropped: the core hears of it as Closed.
    pub fn send(&self, machine: &str, session: u64, frames: Vec<ToAgent>) {
        self.put(machine, session, Outgoing::Frames(frames));
    }

    /// Ends a session.
    pub fn close(&self, machine: &str, session: u64, code: u32, reason: String) {
        self.put(machine, session, Outgoing::Close(code, reason));
    }

    /// Asks the machine's current session for output. False when there is none.
    pub fn follow(&self, machine: &str, attempt: AttemptId, from: u64, into: mpsc::Sender<Vec<u8>>) -> bool {
        let open = self.lock();
        open.get(machine).is_some_and(|(_, tx)| tx.try_send(Outgoing::Follow { attempt, from, into }).is_ok())
    }

    /// Ends every session.
    pub fn close_all(&self, code: u32, reason: &str) {
        for (_, tx) in self.lock().values() {
            let _ = tx.try_send(Outgoing::Close(code, reason.to_owned()));
        }
    }

    fn put(&self, machine: &str, session: u64, what: Outgoing) {
        let mut open = self.lock();
        let full = open.get(machine).is_some_and(|(current, tx)| *current == session && tx.try_send(what).is_err());
        if full {
            // Dropping the sender ends the writer, and with it the session.
            open.remove(machine);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, (u64, mpsc::Sender<Outgoing>)>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
