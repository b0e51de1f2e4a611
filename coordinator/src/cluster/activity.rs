//! What is seen of running attempts: what they use, for how long they have done nothing. Nobody places by it.
use super::machine::Machine;
use reeve_protocol::AttemptId;
use reeve_protocol::wire;

/// What is seen of an attempt while it runs. Nobody decides by it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Activity {
    /// What it has used.
    pub usage: Option<wire::Usage>,
    /// Cpus in use between the last two looks, thousandths.
    pub cpu_milli: Option<u64>,
    /// When that was, boot-time milliseconds.
    at: u64,
    /// Since when all its gpus have been idle, boot-time milliseconds.
    gpus_idle_since: Option<u64>,
    /// The kind of warning it has.
    warned: Option<&'static str>,
}

impl Activity {
    /// The kind of warning it has.
    pub const fn warned(&self) -> Option<&'static str> {
        self.warned
    }
}

impl Machine {
    /// What an attempt has used.
    pub fn used(&mut self, mono: u64, usage: &wire::Usage) {
        let Some(held) = self.held.get_mut(&usage.attempt) else { return };
        let since = mono.saturating_sub(held.activity.at);
        let now = &mut held.activity;
        if let Some(before) = now.usage.as_ref().filter(|_| since > 0) {
            now.cpu_milli = Some(usage.cpu_ms.saturating_sub(before.cpu_ms).saturating_mul(1000) / since);
        }
        (now.usage, now.at) = (Some(usage.clone()), mono);
    }

    /// How long the gpus of each attempt that has some have not been used, milliseconds; 0: they are. Those of whose gpus
    /// nobody can say so are left out.
    pub fn gpus_idle(&mut self, mono: u64, below_permille: u16) -> Vec<(AttemptId, u64)> {
        let busy = |uuid: &String| {
            self.gpus.devices().iter().find(|d| d.uuid == *uuid)?.told.as_ref()?.busy_permille
        };
        let mut found = Vec::new();
        for (attempt, held) in self.held.iter_mut().filter(|(_, h)| h.has_share() && !h.gpus.is_empty()) {
            let Some(busiest) =
                held.gpus.iter().map(busy).collect::<Option<Vec<_>>>().and_then(|all| all.into_iter().max())
            else {
                continue;
            };
            let since = &mut held.activity.gpus_idle_since;
            if busiest >= below_permille {
                *since = None;
            }
            let idle = (busiest < below_permille).then(|| mono.saturating_sub(*since.get_or_insert(mono)));
            found.push((*attempt, idle.unwrap_or(0)));
        }
        found
    }

    /// The warning that an attempt has.
    pub fn warned_mut(&mut self, attempt: AttemptId) -> Option<&mut Option<&'static str>> {
        self.held.get_mut(&attempt).map(|held| &mut held.activity.warned)
    }
}
