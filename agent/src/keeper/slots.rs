//! The keeper's side of control groups: opens them, has a guardian ready in one, ends what dead guardians left there, and
//! says what this machine enforces.
use super::Args;
use super::attempts::Keeper;
use crate::config::{CgroupUse, CpuLimit};
use crate::groups::{Bounds, Groups};
use crate::machine::cpu;
use reeve_protocol::wire::{Enforced, kind};
use std::time::Duration;

/// After the last fork, until a guardian is made ready ahead: entering a group takes longer than starting a command, and
/// in a burst there are idle guardians anyway.
const SPARE: Duration = Duration::from_millis(50);

/// What the arguments ask for.
pub(super) fn open(args: &Args, word: &str) -> (Groups, Bounds) {
    let mut bounds = Bounds { cpu_quota: args.cpu_limit == Some(CpuLimit::Quota), ..Bounds::default() };
    bounds.processes = args.processes.unwrap_or(bounds.processes);
    let groups = match (args.cgroups, &args.jobs_cgroup) {
        (Some(CgroupUse::Off), _) => Groups::none("cgroups = \"off\" in agent.toml"),
        // Where that is, is known when its holder is there.
        (_, Some(_)) => Groups::none("the group for attempts is not open yet"),
        _ => Groups::open(word, &[], cpus()),
    };
    (groups, bounds)
}

fn cpus() -> u32 {
    cpu::usable_milli().div_ceil(1000)
}

impl Keeper {
    /// The group that attempts live in was opened, perhaps another than before.
    pub(super) fn reopen_slots(&mut self) {
        if self.args.cgroups == Some(CgroupUse::Off) {
            return;
        }
        // Its locks go first: they may be on the same directories.
        self.groups = Groups::none("they are opened again");
        self.groups = Groups::open(&self.place.word, self.jobs.dirs(), cpus());
        for link in self.links.values_mut() {
            link.slot = self.groups.slot_of(link.guardian_pid);
        }
        self.clean_slots();
        // Its guardians would look for their slots where they were before.
        self.start_zygote();
        self.tell_enforced();
    }

    /// Ends what is in slots of guardians that are dead. Not while a guardian is there that has not said who it is.
    pub(super) fn clean_slots(&mut self) {
        let guardians: Vec<u32> = self.links.values().map(|link| link.guardian_pid).collect();
        if !guardians.contains(&0) {
            self.groups.end_strangers(&guardians);
        }
    }

    /// Nothing of this keeper runs any more.
    pub(super) fn close_slots(&mut self) {
        if self.attempts.is_empty() {
            // Idle guardians leave when their connection ends, once they were told to forget what they held.
            self.links.drain().for_each(|(_, mut link)| {
                link.peer.flush();
            });
            self.groups.close();
        }
    }

    /// How many idle guardians are kept.
    pub(super) fn spares(&self) -> usize {
        usize::from(self.groups.is_on() && self.agent.is_some() && !self.leaving && self.jobs.is_open())
    }

    pub(super) fn spare_due(&self) -> Option<Duration> {
        (self.idle.len() < self.spares()).then(|| SPARE.saturating_sub(self.forked_at.elapsed()))
    }

    /// Has a guardian ready in its slot before it is needed.
    pub(super) fn spare_if_due(&mut self) {
        if self.spare_due().is_some_and(|due| due.is_zero()) && self.place.is_in_place() {
            match self.fork() {
                Ok((token, _)) => self.idle.push(token),
                Err(error) => {
                    tracing::warn!(%error, "no guardian can be made ahead");
                    self.forked_at = std::time::Instant::now() + Duration::from_mins(1);
                }
            }
        }
    }

    /// Says what this machine enforces, and how.
    pub(super) fn tell_enforced(&mut self) {
        let words = self.groups.words(&self.bounds);
        self.say(kind::ENFORCED, &Enforced { words });
    }
}
