//! Cluster: machines, their resources, who holds what, liveness. Knows attempts by id and needs by number; knows
//! nothing of queues or of a job's life.
pub mod certificates;
pub mod gpus;
pub mod machine;
pub mod placement;
pub mod reconcile;
pub mod shape;
pub mod start;

use machine::Machine;
use reeve_protocol::AttemptId;
use shape::{ShapeId, Shapes};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Every machine, and every kind of need.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cluster {
    machines: BTreeMap<Arc<str>, Machine>,
    /// Needs by number.
    pub shapes: Shapes,
}

impl Cluster {
    /// Takes a machine in.
    pub fn insert(&mut self, machine: Machine) {
        self.machines.insert(machine.id.clone(), machine);
    }

    /// A machine by identity.
    pub fn get(&self, id: &str) -> Option<&Machine> {
        self.machines.get(id)
    }

    /// A machine that was not removed, by name, else by identity.
    pub fn find(&self, wanted: &str) -> Option<&Machine> {
        let here = || self.machines.values().filter(|m| !m.revoked);
        here().find(|m| &*m.name == wanted).or_else(|| here().find(|m| &*m.id == wanted))
    }

    /// A machine by identity, to change.
    pub fn get_mut(&mut self, id: &str) -> Option<&mut Machine> {
        self.machines.get_mut(id)
    }

    /// Every machine, in order of identity.
    pub fn iter(&self) -> impl Iterator<Item = &Machine> {
        self.machines.values()
    }

    /// Every machine, to change.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Machine> {
        self.machines.values_mut()
    }

    /// Whether a name is taken by another machine than `id`.
    pub fn name_taken(&self, name: &str, id: &str) -> bool {
        self.machines.values().any(|m| &*m.name == name && &*m.id != id && !m.revoked)
    }

    /// The machine that a need fits on now, or why each does not.
    ///
    /// # Errors
    /// One verdict per machine: the answer of `why`.
    pub fn choose(&self, need: ShapeId) -> Result<Arc<str>, Vec<placement::Verdict>> {
        placement::choose(self.shapes.get(need), self.machines.values())
    }

    /// A machine that may get an attempt ahead of a free slot.
    pub fn choose_ahead(&self, need: ShapeId) -> Option<Arc<str>> {
        placement::choose_ahead(self.shapes.get(need), self.machines.values())
    }

    /// The gpus that a need would get on a machine now.
    pub fn gpus_for(&self, id: &str, need: ShapeId) -> Vec<String> {
        let milli = self.shapes.get(need).ask.gpu_milli;
        self.machines.get(id).and_then(|m| m.gpus().choose(milli)).unwrap_or_default()
    }

    /// Reserves what a need asks for, and these gpus.
    pub fn reserve(&mut self, id: &str, attempt: AttemptId, need: ShapeId, gpus: Vec<String>, ahead: bool) {
        let ask = self.shapes.get(need).ask.clone();
        if let Some(m) = self.machines.get_mut(id) {
            m.reserve(attempt, ask, gpus, ahead);
        }
    }

    /// Frees the room of an attempt whose tree has ended.
    pub fn exit(&mut self, id: &str, attempt: AttemptId) {
        if let Some(m) = self.machines.get_mut(id) {
            m.exit(attempt);
        }
    }

    /// Gives back what an attempt held. True if it held anything.
    pub fn release(&mut self, id: &str, attempt: AttemptId) -> bool {
        self.machines.get_mut(id).is_some_and(|m| m.release(attempt))
    }
}
