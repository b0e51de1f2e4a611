//! Messages as the observer of a run sees them: which there are, in which queue, and who holds them. One goes only when
//! somebody asked for that, and no key publishes twice.
use super::store::Store;
use reeve_coordinator::effect::Fact;
use reeve_coordinator::input::{Call, Input, Settle};
use std::collections::{BTreeMap, BTreeSet};

struct Letter {
    queue: String,
    lease: Option<String>,
    dead: bool,
}

/// Every message that was committed, and what the inputs of the step to come ask for.
#[derive(Default)]
pub struct Messages {
    all: BTreeMap<u64, Letter>,
    keys: BTreeSet<(String, String)>,
    bodies: BTreeMap<String, u32>,
    acked: BTreeSet<String>,
    cleaned: BTreeSet<String>,
    moved: BTreeSet<(String, String)>,
}

impl Messages {
    /// Notes what a batch asks for.
    pub fn look_at(&mut self, batch: &[Input]) {
        self.acked.clear();
        self.cleaned.clear();
        self.moved.clear();
        for input in batch {
            let Input::Call { call, .. } = input else { continue };
            match call {
                Call::Settle { how: Settle::Ack, request, .. } => {
                    self.acked.insert(request.lease.clone());
                }
                Call::CleanQueue { queue, dry_run: false, .. } => {
                    self.cleaned.insert(queue.clone());
                }
                Call::MoveQueue { from, to, dry_run: false, .. } => {
                    self.moved.insert((from.clone(), to.clone()));
                }
                _ => {}
            }
        }
    }

    /// Whether the batch moves something from one queue to another.
    pub fn moves(&self, from: &str, to: &str) -> bool {
        self.moved.contains(&(from.to_owned(), to.to_owned()))
    }

    /// Takes a committed fact in; says what is wrong with it.
    pub fn fact(&mut self, fact: &Fact) -> Result<(), String> {
        match fact {
            Fact::MessageAdded(row) => {
                // One that somebody waits for is handed out by the step that makes it.
                let lease = row.lease.as_ref().map(|(lease, _)| lease.clone());
                let letter = Letter { queue: row.queue.to_string(), lease, dead: row.dead.is_some() };
                *self.bodies.entry(String::from_utf8_lossy(&row.body).into_owned()).or_default() += 1;
                if self.all.insert(row.id, letter).is_some() {
                    return Err(format!("message {} was made twice", row.id));
                }
            }
            Fact::MessageKeyUsed { queue, key, .. } => {
                let first = self.keys.insert((queue.to_string(), key.clone()));
                if !first {
                    return Err(format!("key {key} has published into {queue} twice"));
                }
            }
            Fact::MessageMoved { id, lease, dead, .. } => {
                let Some(letter) = self.all.get_mut(id) else { return Err(gone(*id)) };
                let new = lease.as_ref().map(|(lease, _)| lease.clone());
                if letter.lease.is_some() && new.is_some() && letter.lease != new {
                    return Err(format!("message {id} was handed out while {:?} has it", letter.lease));
                }
                (letter.lease, letter.dead) = (new, dead.is_some());
            }
            Fact::MessageGone(id) => {
                let Some(letter) = self.all.remove(id) else { return Err(gone(*id)) };
                if letter.lease.as_ref().is_none_or(|lease| !self.acked.contains(lease)) {
                    return Err(format!("message {id} is gone, and whoever has it did not ack"));
                }
            }
            Fact::MessagesCleaned(queue, ids) => {
                for id in ids {
                    let Some(letter) = self.all.remove(id) else { return Err(gone(*id)) };
                    if letter.queue != **queue || letter.lease.is_some() || !self.cleaned.contains(&**queue) {
                        return Err(format!("message {id} of {} went with {queue} unasked", letter.queue));
                    }
                }
            }
            Fact::MessagesMoved(to, ids, _) => {
                for id in ids {
                    let Some(letter) = self.all.get_mut(id) else { return Err(gone(*id)) };
                    let from = std::mem::replace(&mut letter.queue, to.to_string());
                    if letter.lease.is_some()
                        || letter.dead
                        || !self.moved.contains(&(from.clone(), to.to_string()))
                    {
                        return Err(format!("message {id} of {from} moved to {to} unasked"));
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Holds the table of messages against what was committed.
    pub fn compare(&self, store: &Store) -> Result<Option<String>, reeve_coordinator::store::Error> {
        let rows = store.queues_of("SELECT id, queue FROM messages ORDER BY id")?;
        let known: Vec<_> = self.all.iter().map(|(id, l)| (*id, l.queue.clone())).collect();
        let differs = rows.iter().zip(&known).find(|(a, b)| a != b);
        if rows.len() != known.len() || differs.is_some() {
            let (rows, known) = (rows.len(), known.len());
            return Ok(Some(format!("{rows} messages have rows, {known} were committed: {differs:?}")));
        }
        Ok(None)
    }

    /// How often a text was published.
    pub fn published(&self, body: &str) -> u32 {
        self.bodies.get(body).copied().unwrap_or(0)
    }
}

fn gone(id: u64) -> String {
    format!("message {id} changed and is not there")
}
