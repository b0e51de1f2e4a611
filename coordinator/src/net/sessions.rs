//! The open sessions as the engine sees them: a bounded outbox each. A machine that does not read fast enough loses
//! its session, reconnects and reconciles; it never slows anybody else.
//!
//! A session is entered before the engine judges it, so that nothing released for it is missed, and takes the place of
//! the machine's older one only once it was accepted: a cloned machine that is refused ends nobody's session.
use crate::effect::ToAgent;
use reeve_protocol::AttemptId;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
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

/// Every session by machine.
#[derive(Default)]
pub struct Sessions {
    open: Mutex<HashMap<String, Vec<Entry>>>,
    recorded: AtomicU64,
}

struct Entry {
    session: u64,
    accepted: bool,
    outbox: mpsc::Sender<Outgoing>,
    /// To cut a session whose machine reads nothing.
    connection: Option<quinn::Connection>,
    /// It was cut: the machine was removed.
    cut: bool,
}

impl Sessions {
    /// Everything up to this event is on disk.
    pub fn set_recorded(&self, seq: u64) {
        self.recorded.fetch_max(seq, Ordering::Relaxed);
    }

    /// The last event that machines may be told of.
    pub fn recorded(&self) -> u64 {
        self.recorded.load(Ordering::Relaxed)
    }

    /// Puts a session in, before the engine is asked to open it. The receiver belongs to the session's writer.
    pub fn enter(&self, machine: &str, session: u64) -> mpsc::Receiver<Outgoing> {
        let (outbox, rx) = mpsc::channel(OUTBOX);
        self.lock().entry(machine.to_owned()).or_default().push(Entry {
            session,
            accepted: false,
            outbox,
            connection: None,
            cut: false,
        });
        rx
    }

    /// Names the connection that a session runs over.
    pub fn attach(&self, machine: &str, session: u64, connection: quinn::Connection) {
        let mut open = self.lock();
        let entry =
            open.get_mut(machine).and_then(|entries| entries.iter_mut().find(|e| e.session == session));
        if let Some(entry) = entry {
            entry.connection = Some(connection);
        }
    }

    /// The engine has accepted a session: older ones of the same machine end.
    pub fn accept(&self, machine: &str, session: u64) {
        let mut open = self.lock();
        let Some(entries) = open.get_mut(machine) else { return };
        entries.retain_mut(|entry| {
            entry.accepted |= entry.session == session;
            let superseded = entry.accepted && entry.session < session;
            if superseded {
                let reason = "a newer session took over".to_owned();
                let _ =
                    entry.outbox.try_send(Outgoing::Close(reeve_protocol::wire::close::SUPERSEDED, reason));
            }
            !superseded
        });
    }

    /// Takes a session out. True: it was cut.
    pub fn leave(&self, machine: &str, session: u64) -> bool {
        let mut open = self.lock();
        let cut =
            open.get(machine).is_some_and(|entries| entries.iter().any(|e| e.session == session && e.cut));
        Self::remove(&mut open, machine, session);
        cut
    }

    /// Hands one step's frames to a session. A session that is gone or full is dropped: the core hears of it as Closed.
    pub fn send(&self, machine: &str, session: u64, frames: Vec<ToAgent>) {
        self.put(machine, session, Outgoing::Frames(frames));
    }

    /// Ends a session. A removed machine is not waited for: what was on its way to it does not matter any more.
    pub fn close(&self, machine: &str, session: u64, code: u32, reason: String) {
        if code == reeve_protocol::wire::close::REVOKED {
            let mut open = self.lock();
            let entries = open.get_mut(machine).into_iter().flatten();
            for entry in entries.filter(|e| e.session == session) {
                entry.cut = true;
                if let Some(connection) = &entry.connection {
                    connection.close(code.into(), reason.as_bytes());
                }
            }
            return;
        }
        self.put(machine, session, Outgoing::Close(code, reason));
    }

    /// Asks the machine's current session for output. False when there is none.
    pub fn follow(&self, machine: &str, attempt: AttemptId, from: u64, into: mpsc::Sender<Vec<u8>>) -> bool {
        let open = self.lock();
        let current = open.get(machine).and_then(|entries| entries.iter().rfind(|e| e.accepted));
        current.is_some_and(|e| e.outbox.try_send(Outgoing::Follow { attempt, from, into }).is_ok())
    }

    /// Ends every session.
    pub fn close_all(&self, code: u32, reason: &str) {
        for entry in self.lock().values().flatten() {
            let _ = entry.outbox.try_send(Outgoing::Close(code, reason.to_owned()));
        }
    }

    fn put(&self, machine: &str, session: u64, what: Outgoing) {
        let mut open = self.lock();
        let entry = open.get(machine).and_then(|entries| entries.iter().find(|e| e.session == session));
        if entry.is_some_and(|e| e.outbox.try_send(what).is_err()) {
            // Dropping the sender ends the writer, and with it the session.
            Self::remove(&mut open, machine, session);
        }
    }

    fn remove(open: &mut HashMap<String, Vec<Entry>>, machine: &str, session: u64) {
        if let Some(entries) = open.get_mut(machine) {
            entries.retain(|e| e.session != session);
            if entries.is_empty() {
                open.remove(machine);
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Vec<Entry>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reeve_protocol::ids::TaskId;
    use reeve_protocol::wire::close;

    fn closed_with(rx: &mut mpsc::Receiver<Outgoing>) -> Option<u32> {
        match rx.try_recv() {
            Ok(Outgoing::Close(code, _)) => Some(code),
            _ => None,
        }
    }

    #[test]
    fn only_an_accepted_session_ends_the_older_one() {
        let sessions = Sessions::default();
        let mut first = sessions.enter("m", 1);
        sessions.accept("m", 1);
        let _refused = sessions.enter("m", 2);
        sessions.leave("m", 2);
        assert_eq!(closed_with(&mut first), None);
        let mut third = sessions.enter("m", 3);
        sessions.send("m", 3, vec![ToAgent::Forget(vec![])]);
        sessions.accept("m", 3);
        assert_eq!(closed_with(&mut first), Some(close::SUPERSEDED));
        assert!(
            matches!(third.try_recv(), Ok(Outgoing::Frames(f)) if f.len() == 1),
            "frames sent before it was accepted wait"
        );
    }

    #[test]
    fn frames_for_another_session_are_dropped_and_follows_go_to_the_accepted_one() {
        let sessions = Sessions::default();
        let attempt = TaskId::single(1).attempt(1);
        let (into, _bytes) = mpsc::channel(1);
        let mut rx = sessions.enter("m", 5);
        sessions.send("m", 4, vec![]);
        assert!(rx.try_recv().is_err());
        assert!(!sessions.follow("m", attempt, 0, into.clone()), "not accepted yet");
        sessions.accept("m", 5);
        assert!(sessions.follow("m", attempt, 0, into.clone()));
        assert!(!sessions.follow("other", attempt, 0, into));
        sessions.close_all(close::STOPPING, "stopping");
        assert!(matches!(rx.try_recv(), Ok(Outgoing::Follow { from: 0, .. })));
        assert_eq!(closed_with(&mut rx), Some(close::STOPPING));
    }

    #[test]
    fn a_machine_that_does_not_read_loses_its_session_alone() {
        let sessions = Sessions::default();
        let (mut slow, mut quick) = (sessions.enter("slow", 1), sessions.enter("quick", 2));
        for _ in 0..=OUTBOX {
            sessions.send("slow", 1, vec![]);
        }
        sessions.send("quick", 2, vec![]);
        assert!(quick.try_recv().is_ok());
        while slow.try_recv().is_ok() {}
        assert!(slow.is_closed(), "its writer hears that it was dropped");
    }
}
