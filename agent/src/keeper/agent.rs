//! The keeper's side of the conversation with its agent.
use super::attempts::Keeper;
use super::queue::Size;
use crate::guardian::replica::Spoken;
use crate::peer::Peer;
use reeve_protocol::cause::Cause;
use reeve_protocol::crash;
use reeve_protocol::frame::{self, Frame, OPTIONAL};
use reeve_protocol::guardian as says;
use reeve_protocol::ids::AttemptId;
use reeve_protocol::wire::{
    Batch, Forget, Inventory, InventoryEnd, InventoryItem, KeeperHello, LaunchReplica, Limits, Reconcile,
    Revoke, Shutdown, Start, StartGit, StartReplica, Stop, Verdict, kind,
};
use serde::Serialize;

/// Items of an inventory page.
const PAGE: usize = 1000;
/// An agent that lets this much pile up is given up; the next one asks for the inventory.
pub(super) const MAX_PENDING: usize = 64 << 20;
/// Between TERM and KILL when nothing else is said.
const GRACE_MS: u64 = 15_000;

/// The agent that is connected.
pub(super) struct Agent {
    pub(super) peer: Peer,
    pub(super) token: u64,
    /// Whether the event queue waits for room to write.
    pub(super) writing: bool,
}

impl Keeper {
    pub(super) fn hello(&self) -> KeeperHello {
        KeeperHello {
            keeper: self.place.word.clone(),
            life: self.life.clone(),
            pid: std::process::id(),
            version: reeve_protocol::VERSION.to_owned(),
        }
    }

    /// Says something to the agent, if there is one; whoever comes later asks for the inventory.
    pub(super) fn say<T: Serialize>(&mut self, kind: u16, body: &T) {
        if let Some(agent) = &mut self.agent {
            let optional = [
                kind::USAGE,
                kind::PREPARING,
                kind::RESOLVED,
                kind::TAKING,
                kind::ENFORCED,
                kind::QUIET,
                kind::ARTIFACTS,
            ]
            .contains(&kind);
            let flags = if optional { OPTIONAL } else { 0 };
            agent.peer.say(kind, flags, body);
        }
    }

    /// Says something to a guardian. It always reads, so that what cannot be written now means that it is gone.
    pub(super) fn say_to<T: Serialize>(&mut self, link: u64, kind: u16, body: &T) {
        if let Some(link) = self.links.get_mut(&link) {
            link.peer.say(kind, 0, body);
        }
        self.flush_to(link);
    }

    /// One frame of the agent.
    ///
    /// # Errors
    /// The agent is then disconnected.
    pub(super) fn hear(&mut self, frame: &Frame) -> Result<(), frame::Error> {
        match frame.kind {
            kind::START => {
                crash::point("keeper.start-received");
                self.start(Box::new(frame.decode::<Start>()?), None, None);
            }
            kind::START_GIT => {
                let StartGit { start, checkout } = frame.decode()?;
                self.start(Box::new(start), Some(checkout), None);
            }
            kind::START_REPLICA => {
                let StartReplica { start, replica } = frame.decode()?;
                self.start(Box::new(start), None, Some(Spoken { replica, batch: Batch::default() }));
            }
            kind::LAUNCH_REPLICA => {
                let LaunchReplica { start, replica, batch, checkout } = frame.decode()?;
                self.start(Box::new(start), checkout, Some(Spoken { replica, batch }));
            }
            kind::COLLECT => self.will_collect(frame.decode()?),
            kind::FORGET => {
                for attempt in frame.decode::<Forget>()?.attempts {
                    self.forget(attempt);
                }
            }
            kind::STOP => {
                let stop: Stop = frame.decode()?;
                self.stop(stop.attempt, stop.cause, stop.grace_ms);
            }
            kind::REVOKE => self.revoke(frame.decode::<Revoke>()?.attempt),
            kind::LIMITS => self.limit(frame.decode::<Limits>()?),
            kind::INVENTORY_ASK => self.tell_inventory(),
            kind::RECONCILE => self.reconcile(frame.decode::<Reconcile>()?),
            kind::SHUTDOWN => self.shut_down(&frame.decode::<Shutdown>()?),
            _ if frame.flags & OPTIONAL != 0 => {}
            unknown => return Err(frame::Error::UnknownKind(unknown)),
        }
        Ok(())
    }

    fn revoke(&mut self, attempt: AttemptId) {
        if self.attempts.contains_key(&attempt) {
            return;
        }
        if self.queue.remove(attempt).is_none() {
            // Never seen: it must not start when its Start comes after all.
            self.tombstones.add(attempt);
        }
        self.checkouts.remove(&attempt);
        self.replicas.remove(&attempt);
        self.collects.remove(&attempt);
        self.say(kind::RETURNED, &Revoke { attempt });
    }

    fn limit(&mut self, limits: Limits) {
        self.queue.set_limits(Size { cpu_milli: limits.cpu_milli.into(), memory_bytes: limits.memory_bytes });
        if !limits.machine.is_empty() {
            self.machine = limits.machine;
        }
        // An agent says its limits again while it hears the coordinator: exclusive attempts live on it.
        if limits.heard_boot_ms > self.heard {
            self.heard = limits.heard_boot_ms;
            let running = self.attempts.values().filter(|a| a.leased && a.end.is_none());
            let running: Vec<u64> = running.filter_map(|a| a.link).collect();
            let renew = says::Signal {
                signal: 0,
                grace_ms: self.heard,
                cause: Cause::Unknown.to_wire(),
                renew: true,
            };
            for link in running {
                self.say_to(link, says::kind::SIGNAL, &renew);
            }
        }
    }

    fn tell_inventory(&mut self) {
        let waiting = self.queue.waiting().map(|start| InventoryItem {
            attempt: start.attempt,
            lineage: start.lineage.clone(),
            phase: 0,
            pid: 0,
            started_ms: 0,
        });
        let known = self.attempts.iter().map(|(id, attempt)| InventoryItem {
            attempt: *id,
            lineage: attempt.lineage.clone(),
            phase: attempt.phase,
            pid: attempt.pid,
            started_ms: attempt.started_ms,
        });
        let items: Vec<InventoryItem> = waiting.chain(known).collect();
        for page in items.chunks(PAGE) {
            self.say(kind::INVENTORY, &Inventory { items: page.to_vec() });
        }
        self.say(kind::INVENTORY_END, &InventoryEnd { count: items.len() as u32 });
        self.tell_prepared();
        self.tell_taking_anew();
        self.tell_enforced();
    }

    fn reconcile(&mut self, reconcile: Reconcile) {
        for (attempt, verdict) in reconcile.verdicts {
            match verdict {
                Verdict::Keep | Verdict::Orphan => {}
                Verdict::Fence => self.stop(attempt, Cause::Fenced.to_wire(), GRACE_MS),
                Verdict::Report => self.tell(attempt),
                Verdict::Forget => self.forget(attempt),
            }
        }
    }

    fn shut_down(&mut self, shutdown: &Shutdown) {
        self.leaving = true;
        self.tell_taking();
        let waiting: Vec<AttemptId> = self.queue.waiting().map(|s| s.attempt).collect();
        let running = self.attempts.iter().filter(|(_, a)| a.end.is_none()).map(|(id, _)| *id);
        for attempt in waiting.into_iter().chain(running.collect::<Vec<_>>()) {
            self.stop(attempt, shutdown.cause.clone(), GRACE_MS);
        }
    }
}
