//! What observers are told after each commit: the events themselves for followers, the ids of ended jobs for waiters,
//! and a number that rises for views. Nobody here can slow the engine: a follower that lags reads from the store.
use reeve_protocol::TaskId;
use reeve_protocol::api::Event;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{broadcast, oneshot, watch};

/// Steps a follower may be behind before it reads from the store again. Each is one `Arc`.
const BEHIND: usize = 1024;

/// Shared by engine and api.
pub struct Hub {
    events: broadcast::Sender<Arc<[Event]>>,
    seq: watch::Sender<u64>,
    waiters: Mutex<HashMap<TaskId, Vec<oneshot::Sender<()>>>>,
}

impl Hub {
    /// A hub that starts after event `seq`.
    pub fn new(seq: u64) -> Self {
        Self {
            events: broadcast::channel(BEHIND).0,
            seq: watch::Sender::new(seq),
            waiters: Mutex::new(HashMap::new()),
        }
    }

    /// Tells everybody about a committed step. `ended` are jobs and tasks that reached a terminal state.
    pub fn publish(&self, events: Vec<Event>, seq: u64, ended: &[TaskId]) {
        if !events.is_empty() && self.events.receiver_count() > 0 {
            let _ = self.events.send(events.into());
        }
        if !ended.is_empty() {
            let mut waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
            if !waiters.is_empty() {
                for task in ended {
                    waiters.remove(task);
                }
            }
        }
        self.seq.send_if_modified(|now| std::mem::replace(now, seq.max(*now)) != seq);
    }

    /// Every committed step's events from now on.
    pub fn follow(&self) -> broadcast::Receiver<Arc<[Event]>> {
        self.events.subscribe()
    }

    /// The last committed event's number, and every change of it.
    pub fn seq(&self) -> watch::Receiver<u64> {
        self.seq.subscribe()
    }

    /// Resolves when exactly this ends: a job, an array as a whole, or one task of it (an array's waiter is not woken by
    /// each of its tasks). Subscribe first, then read the store, then wait: so no end is missed. Resolves by the sender being
    /// dropped.
    pub fn ended(&self, task: TaskId) -> oneshot::Receiver<()> {
        let (tx, rx) = oneshot::channel();
        let mut waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        let list = waiters.entry(task).or_default();
        list.retain(|w| !w.is_closed());
        list.push(tx);
        rx
    }
}
