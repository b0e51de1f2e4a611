//! What machines say about room: an attempt's tree has ended and its record is not complete yet, or nothing may start
//! there at all.
use super::Core;
use super::agents::Record;
use crate::effect::{Effect, Fact, Step, ToAgent};
use crate::input::{Kept, Now};
use crate::job_manager::Holder;
use reeve_protocol::text::Clean;
use reeve_protocol::{AttemptId, Substate};

impl Core {
    /// Its tree has ended and what it left is still on its way. Its room is free at once, or a coordinator without room
    /// for output would stop the machine; the job goes on until its record is complete.
    pub(super) fn exited(&mut self, machine: &str, attempt: AttemptId) {
        if self.record_of(machine, attempt) == Record::Current {
            self.cluster.exit(machine, attempt);
        } else {
            self.stale += 1;
        }
    }

    /// What it has left, in the step that records its end.
    pub(super) fn artifacts(&mut self, machine: &str, kept: Box<Kept>, step: &mut Step) {
        if self.record_of(machine, kept.attempt) == Record::Current {
            step.facts.push(Fact::ArtifactsKept(kept));
        } else {
            self.stale += 1;
        }
    }

    /// Nothing may start there, or it may again. What waits there for its start is asked back: others may have room.
    pub(super) fn taking(&mut self, now: Now, machine: &str, refuses: Option<String>, step: &mut Step) {
        let refuses = refuses.map(|why| Clean::short(&why, 400).into_string());
        let actor = self.agent_actor(machine);
        let Some(m) = self.cluster.get_mut(machine) else { return };
        let before = std::mem::replace(&mut m.refuses, refuses);
        let refuses = m.refuses.is_some();
        if before.is_some() != refuses {
            let what = if refuses { "takes_no_jobs" } else { "takes_jobs" };
            self.note_machine(now, machine, what, &actor);
        }
        if refuses {
            self.ask_back(machine, step);
        }
    }

    fn ask_back(&self, machine: &str, step: &mut Step) {
        let Some(m) = self.cluster.get(machine) else { return };
        let Some(session) = m.ready_session() else { return };
        for attempt in m.held().keys() {
            let waits = self.jobs.task(attempt.task).is_some_and(|t| t.phase().is(Substate::Assigned));
            if waits {
                step.effects.push(Effect::Send(machine.to_owned(), session, ToAgent::Revoke(*attempt)));
            }
        }
    }

    /// Whether a machine, in this session, has an attempt that has not ended: only of such a one output is taken.
    pub(super) fn holds_attempt(&self, machine: &str, session: u64, attempt: AttemptId) -> bool {
        let here =
            self.cluster.get(machine).and_then(|m| m.session.as_ref()).is_some_and(|s| s.number == session);
        here && self.jobs.task(attempt.task).is_some_and(|t| {
            t.attempt == attempt.attempt && t.holder == Holder::Machine(super::calls_cluster::arc(machine))
        })
    }
}
