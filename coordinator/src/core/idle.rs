//! What machines say about their gpus and about attempts that do nothing: quarantine, use, and a warning for a job that
//! holds a gpu without using it, or has been silent for long. It never ends anything.
use super::Core;
use crate::cluster::reconcile::Record;
use crate::effect::{Fact, Step};
use crate::input::Now;
use reeve_protocol::{AttemptId, wire};

/// Nothing for so long is worth a warning, when nothing else is configured.
pub const IDLE_AFTER_MS: u64 = 30 * 60_000;
/// Below this a gpu is not in use, thousandths.
const IDLE_PERMILLE: u16 = 10;

impl Core {
    /// After how long a job that does nothing gets a warning; 0: never.
    pub fn warn_idle_after(&mut self, ms: u64) {
        self.idle_after_ms = ms;
    }

    /// The state of a machine's gpus: what goes into quarantine is not given to anybody until it comes out.
    pub(super) fn told_gpus(&mut self, now: Now, machine: &str, gpus: Vec<wire::Gpu>, step: &mut Step) {
        let actor = self.agent_actor(machine);
        let Some(m) = self.cluster.get_mut(machine) else { return };
        let name = m.name.to_string();
        let changed = m.tell_gpus(gpus);
        let idle = m.gpus_idle(now.mono, IDLE_PERMILLE);
        for (uuid, is_bad) in changed {
            let what = if is_bad { "gpu_quarantined" } else { "gpu_returned" };
            self.events.note(now.wall, "machine", &name, &format!("{what} {uuid}"), &actor);
        }
        for (attempt, idle_ms) in idle {
            self.warn(now, machine, attempt, "idle-gpu", "its gpus have not been used", idle_ms, step);
        }
    }

    /// What an attempt has used so far.
    pub(super) fn used(&mut self, now: Now, machine: &str, usage: &wire::Usage) {
        if let Some(m) = self.cluster.get_mut(machine) {
            m.used(now.mono, usage);
        }
    }

    /// How long an attempt has written nothing and used no cpu.
    pub(super) fn quiet(&mut self, now: Now, machine: &str, quiet: &wire::Quiet, step: &mut Step) {
        let words = "it has written nothing and used no cpu";
        self.warn(now, machine, quiet.attempt, "silent", words, quiet.quiet_ms, step);
    }

    /// Sets a warning once it has lasted long enough, and takes it away when that is over.
    fn warn(
        &mut self,
        now: Now,
        machine: &str,
        attempt: AttemptId,
        kind: &'static str,
        words: &str,
        lasted_ms: u64,
        step: &mut Step,
    ) {
        if self.record_of(machine, attempt) != Record::Current {
            self.stale += 1;
            return;
        }
        let is_over = self.idle_after_ms > 0 && lasted_ms >= self.idle_after_ms;
        let Some(warned) = self.cluster.get_mut(machine).and_then(|m| m.warned_mut(attempt)) else { return };
        let warning = match (*warned, is_over) {
            (None, true) => {
                *warned = Some(kind);
                Some(format!("{kind}: {words} for {} min", lasted_ms / 60_000))
            }
            (Some(known), false) if known == kind => {
                *warned = None;
                None
            }
            _ => return,
        };
        let what = if warning.is_some() { format!("warning {kind}") } else { format!("warning_over {kind}") };
        self.events.note_job(now.wall, attempt.task.job, &what, "coordinator");
        step.facts.push(Fact::WarningSet(attempt.task, warning));
    }
}
