//! What falls due, and when. Entries are never taken back: whoever handles one checks that it still means something.
use crate::input::{Now, Ticket};
use reeve_protocol::{AttemptId, TaskId};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Something that falls due.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum What {
    /// A delayed or retrying job may wait for a slot.
    Run(TaskId),
    /// A job has waited too long.
    Expire(TaskId),
    /// A machine is to be shown as disconnected if it is still down.
    Disconnect(Arc<str>),
    /// An attempt's machine has been down for its `lost_after`, if it went down then.
    Lose(AttemptId, Arc<str>, u64),
    /// A consumer's lease of a job ends unless it was extended.
    JobLease(AttemptId, String),
    /// A lease of a message ends unless it was extended.
    MessageLease(Arc<str>, u64),
    /// A delayed message is ready.
    MessageDelay(Arc<str>, u64),
    /// A message's time to live is over.
    MessageExpiry(Arc<str>, u64),
    /// A caller has waited long enough.
    Waiter(Arc<str>, Ticket),
    /// A move that waits for a broker: did anything come?
    Moving(Ticket),
    /// Somebody who counts has waited long enough for a queue's broker.
    Counting(Ticket),
    /// What passes through a queue to its broker has had time to get there.
    Passing(Arc<str>),
    /// More messages of a queue that moves are to be given to its broker.
    Outgoing(Arc<str>),
    /// Jobs stand at brokers: have their hints come?
    Absorb,
    /// An attempt handed ahead has waited long: take it back if it has not started.
    Revoke(AttemptId),
    /// What still runs on a machine that is being emptied is stopped.
    DrainDeadline(Arc<str>),
    /// A replica has had time for progress.
    Stall(AttemptId),
    /// A worker's replicas are to be looked at.
    Steer(String),
    /// Deadlines of requests to a worker have come.
    Deadlines(String),
    /// A machine with replicas went down then, and what they work on has waited long enough.
    LoseRequests(Arc<str>, u64),
    /// A session of a machine with replicas has had time to tell what they work on.
    InFlight(Arc<str>, u64),
    /// The next step of a cleaning.
    Clean(Ticket),
    /// More can be placed than one step may: nothing but the next step.
    Again,
}

/// A wall time is looked at again after so long: the clock may be set meanwhile.
const LOOK_MS: u64 = 600_000;

/// Everything that falls due, by boot-time milliseconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Due {
    list: BTreeMap<(u64, u64), What>,
    count: u64,
}

impl Due {
    /// In so many milliseconds.
    pub(super) fn after(&mut self, now: Now, ms: u64, what: What) {
        self.push(now.mono.saturating_add(ms), what);
    }

    /// At a wall time, or in ten minutes to look again: whoever handles it puts it back when it is too early.
    pub(super) fn at(&mut self, now: Now, wall: i64, what: What) {
        let ms = wall.saturating_sub(now.wall).max(0) as u64;
        self.after(now, ms.min(LOOK_MS), what);
    }

    /// At a boot time.
    pub(super) fn push(&mut self, mono: u64, what: What) {
        self.count += 1;
        self.list.insert((mono, self.count), what);
    }

    /// The first time.
    pub(super) fn next(&self) -> Option<u64> {
        self.list.first_key_value().map(|((at, _), _)| *at)
    }

    /// The first thing that is due, and when it was.
    pub(super) fn pop(&mut self, mono: u64) -> Option<(u64, What)> {
        let entry = self.list.first_entry().filter(|e| e.key().0 <= mono)?;
        let ((at, _), what) = entry.remove_entry();
        Some((at, what))
    }
}
