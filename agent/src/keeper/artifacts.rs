//! What the keeper does for artifacts: remembers what is to be collected until an attempt starts, and passes on that there
//! is something. Their bytes go from guardian to agent.
use super::attempts::Keeper;
use reeve_protocol::artifact::check_list;
use reeve_protocol::guardian as says;
use reeve_protocol::ids::AttemptId;
use reeve_protocol::wire::{Artifacts, Collect, kind};

/// Attempts whose Start has not come, and for which it is known what is collected: a coordinator sends one right before
/// the other.
const MOST_UNSTARTED: usize = 10_000;

impl Keeper {
    /// Said before the Start of an attempt.
    pub(super) fn will_collect(&mut self, collect: Collect) {
        if self.attempts.contains_key(&collect.attempt) {
            return;
        }
        if self.collects.len() >= MOST_UNSTARTED {
            let queue = &self.queue;
            self.collects.retain(|attempt, _| queue.is_waiting(*attempt));
        }
        self.collects.insert(collect.attempt, collect);
    }

    /// A guardian has collected files.
    pub(super) fn note_artifacts(&mut self, id: AttemptId, artifacts: &says::Artifacts) {
        let Some(attempt) = self.attempts.get_mut(&id) else { return };
        attempt.artifacts =
            check_list(&artifacts.files).ok().map(|total| (artifacts.files.len() as u32, total));
    }

    /// Before its end is told: what belongs to that.
    pub(super) fn tell_artifacts(&mut self, id: AttemptId) {
        if let Some((count, total)) = self.attempts.get(&id).and_then(|a| a.artifacts) {
            self.say(kind::ARTIFACTS, &Artifacts { attempt: id, count, total });
        }
    }
}
