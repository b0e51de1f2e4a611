//! The disk of a simulated coordinator, as far as it is full: the gate of the real one, and what must hold behind it.
use super::Sabotage;
use super::agenda::Due;
use super::clients::Action;
use super::faults::Heal;
use super::world::World;
use reeve_coordinator::admission;
use reeve_coordinator::effect::{Fact, Step};
use reeve_coordinator::input::{Call, Input};
use reeve_coordinator::orchestrator::link::Said;
use std::sync::atomic::Ordering;

impl World {
    /// The disk is full for a while.
    pub(super) fn disk_fills(&mut self) {
        let ms = *self.rng.pick(&[200, 3_000, 20_000, 90_000]);
        self.count.hit("fault: disk full");
        self.note(|| format!("fault: disk full for {ms}"));
        self.full.store(true, Ordering::Relaxed);
        self.agenda.at(self.now + ms, Due::Heal(Heal::Disk));
        // What is on its way from a broker comes whether there is room or not.
        for _ in 0..self.rng.below(4) {
            self.publish_outside();
        }
    }

    /// There is room again; the engine looks now and then.
    pub(super) fn disk_empties(&mut self) {
        self.full.store(false, Ordering::Relaxed);
        let after = self.rng.range(1, 1_000);
        self.wake(self.now + after);
    }

    /// Whether a call of a client gets past the gate; if not, it is answered.
    pub(super) fn passes_gate(&mut self, input: &Input) -> bool {
        let Input::Call { ticket, call, .. } = input else { return true };
        let Err(problem) = admission::check(&self.full, call) else { return true };
        self.count.hit("call refused: disk full");
        let ticket = *ticket;
        // The refusal is definite: whoever has a key comes again.
        match self.clients.taken_back(ticket) {
            Some(again @ (Action::Submit(..) | Action::Publish(..) | Action::PublishMany(_))) => {
                let at = self.now + self.rng.range(500, 5_000);
                self.agenda.at(at, Due::Client(Box::new(again)));
            }
            Some(other) => self.note(|| format!("{other:?} refused: {problem}")),
            None => {}
        }
        false
    }

    /// What the core hears of the disk, before anything else of its step.
    pub(super) fn look_at_disk(&mut self) -> Option<Input> {
        let full = self.full.load(Ordering::Relaxed);
        let changed = std::mem::replace(&mut self.was_full, full) != full;
        (changed && !self.sabotage(Sabotage::DiskUntold)).then_some(Input::Disk { full })
    }

    /// What a broker delivers passes no gate: it is held.
    pub(super) fn count_held(&mut self, input: &Input) {
        if let Input::Broker { said, .. } = input
            && self.was_full
            && said.iter().any(|word| matches!(word, Said::Messages(..)))
        {
            self.count.hit("delivery held, disk full");
        }
    }

    /// A full disk gets nothing new but what had passed the gate before. `passed`: the batch had such a call.
    pub(super) fn check_full(&mut self, step: &Step, passed: bool) {
        let adds = |fact: &&Fact| {
            matches!(
                fact,
                Fact::JobAdded(_)
                    | Fact::MessageAdded(_)
                    | Fact::InboxNoted(..)
                    | Fact::MessageKeyUsed { .. }
            )
        };
        if let Some(fact) = step.facts.iter().find(adds).filter(|_| self.was_full && !passed) {
            self.fail(format!("the disk is full, and the core adds {fact:?}"));
        }
    }
}

/// Whether a batch has a call that may add to the store.
pub(super) fn adds(batch: &[Input]) -> bool {
    batch.iter().any(|input| {
        matches!(
            input,
            Input::Call {
                call: Call::Submit { .. }
                    | Call::SubmitMany { .. }
                    | Call::RegisterJob { .. }
                    | Call::Publish { .. }
                    | Call::PublishMany { .. },
                ..
            }
        )
    })
}
