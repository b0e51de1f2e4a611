//! Control groups of attempts: where they can be made on this machine, what they can enforce, and which numbered slots are
//! in use. Moving a process into a group waits for every cpu (11 ms on a quiet machine, measured), so a guardian enters
//! its slot once, before it has anything to do, and whatever it starts is born there. Only an attempt with a memory limit
//! moves its command once more. It places nothing and knows nothing of jobs.
mod find;
mod slot;

pub(crate) use find::{Hierarchies, Version};
pub(crate) use slot::{Bounds, MemoryGroup, Slot};

use rustix::fs::{FlockOperation, flock};
use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How groups of attempts begin, so that what a dead keeper left is found.
const PREFIX: &str = "reeve-";
/// Rounds of KILL for a slot whose guardian is dead; 5 ms each.
const ROUNDS: usize = 400;
/// Rounds until a keeper that leaves has no group left; 5 ms each.
const LAST_ROUNDS: usize = 40;
/// Rounds in which a keeper takes hold of its groups: another may be about to remove them for a dead one's; 5 ms each.
const HOLD_ROUNDS: usize = 100;
/// The kernel's list of processes of a group; writing `0` moves the writer in.
pub(crate) const PROCS: &str = "cgroup.procs";

/// The slots of a keeper.
pub(crate) struct Groups {
    found: Hierarchies,
    /// Why limits of memory are not the kernel's here.
    why_not: String,
    /// Numbers of slots that nobody uses.
    free: Vec<u32>,
    next: u32,
    /// Locks on the bases, for as long as their keeper lives: the others must not remove what is empty only for now.
    _held: Vec<File>,
}

impl Groups {
    /// No groups at all.
    pub(crate) fn none(why: &str) -> Self {
        Self {
            found: Hierarchies::default(),
            why_not: why.to_owned(),
            free: Vec::new(),
            next: 0,
            _held: Vec::new(),
        }
    }

    /// Looks where this process, or whoever holds the group `jobs` for attempts, may make groups. `word` names the keeper,
    /// for whoever cleans up after it.
    pub(crate) fn open(word: &str, jobs: &[PathBuf], cpus: u32) -> Self {
        let name = format!("{PREFIX}{}", &word[..word.len().min(16)]);
        let mut rounds = 0;
        let mut groups = loop {
            let (found, why_not) = find::find(&name, jobs, cpus);
            let held = hold(&found.bases());
            rounds += 1;
            if held.is_none() && rounds < HOLD_ROUNDS {
                std::thread::sleep(Duration::from_millis(5));
                continue;
            }
            if held.is_none() {
                tracing::warn!(group = %name, "somebody else holds the control groups of this keeper");
            }
            break Self { found, why_not, _held: held.unwrap_or_default(), free: Vec::new(), next: 0 };
        };
        groups.take_over();
        groups.sweep(&name);
        groups
    }

    /// What there is, for the guardian.
    pub(crate) fn hierarchies(&self) -> &Hierarchies {
        &self.found
    }

    /// Whether guardians have a slot of their own.
    pub(crate) fn is_on(&self) -> bool {
        self.found.pids.is_some() || self.found.cpu.is_some()
    }

    /// A slot that is empty; it is made by the guardian that enters it.
    pub(crate) fn take(&mut self) -> Option<u32> {
        if !self.is_on() && self.found.memory.is_none() {
            return None;
        }
        // A guardian that was let go may still be on its way out: its slot waits for another turn.
        if let Some(at) = self.free.iter().rposition(|number| self.found.members(*number).is_empty()) {
            return Some(self.free.remove(at));
        }
        self.next += 1;
        Some(self.next - 1)
    }

    /// Nobody uses it any more, or will soon.
    pub(crate) fn give_back(&mut self, number: Option<u32>) {
        self.free.extend(number.filter(|n| !self.free.contains(n)));
    }

    /// The slot that a process is in.
    pub(crate) fn slot_of(&self, pid: u32) -> Option<u32> {
        (0..self.next).find(|number| self.found.members(*number).contains(&pid))
    }

    /// Ends everybody in a slot whose guardian is dead. Nobody can hide here: no new process is born meanwhile.
    pub(crate) fn kill(&self, number: u32) {
        for round in 0..ROUNDS {
            self.found.stop_births(number);
            let members = self.found.members(number);
            if members.is_empty() {
                self.found.remove(number);
                return;
            }
            if round == ROUNDS - 1 {
                tracing::warn!(slot = number, left = members.len(), "processes of a slot cannot be ended");
            }
            for pid in members {
                crate::guardian::tree::signal_one(pid, rustix::process::Signal::KILL);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends whoever is in a slot without any of the guardians that were found.
    pub(crate) fn end_strangers(&self, guardians: &[u32]) {
        for number in 0..self.next {
            let members = self.found.members(number);
            if !members.is_empty() && !members.iter().any(|pid| guardians.contains(pid)) {
                tracing::warn!(slot = number, members = members.len(), "ends what a dead guardian left");
                self.kill(number);
            }
        }
    }

    /// The slots that the keeper before us made: those in use stay so, the others are free.
    fn take_over(&mut self) {
        let numbers = self.found.bases().into_iter().flat_map(|base| numbers(&base));
        let mut known: Vec<u32> = numbers.collect();
        known.sort_unstable();
        known.dedup();
        self.next = known.last().map_or(0, |last| last + 1);
        self.free = known.into_iter().filter(|n| self.found.members(*n).is_empty()).collect();
    }

    /// Groups of keepers that are gone, with nobody in them. What is empty may be about to be entered: a keeper that lives
    /// holds its lock, and guardians without a keeper are in one of the hierarchies.
    fn sweep(&self, own: &str) {
        let bases = self.found.bases();
        let parents: Vec<&Path> = bases.iter().filter_map(|base| base.parent()).collect();
        let entries = parents.iter().filter_map(|parent| std::fs::read_dir(parent).ok()).flatten().flatten();
        let names: BTreeSet<_> = entries
            .map(|entry| entry.file_name())
            .filter(|name| name != own && name.to_string_lossy().starts_with(PREFIX))
            .collect();
        for name in names {
            let dirs: Vec<PathBuf> = parents.iter().map(|parent| parent.join(&name)).collect();
            let dirs: Vec<PathBuf> = dirs.into_iter().filter(|dir| dir.exists()).collect();
            let Some(_held) = hold(&dirs) else { continue };
            if dirs.iter().all(|dir| members(dir).is_empty()) {
                for dir in dirs {
                    remove_empty(&dir);
                }
            }
        }
    }

    /// Nothing of this keeper is needed any more. Guardians that are on their way out are waited for a little; what still
    /// has processes then stays.
    pub(crate) fn close(&self) {
        for _ in 0..LAST_ROUNDS {
            self.found.bases().iter().for_each(|base| remove_empty(base));
            if !self.found.bases().iter().any(|base| base.exists()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What is enforced and how, for people: names of capabilities with a word each.
    pub(crate) fn words(&self, bounds: &Bounds) -> Vec<(String, String)> {
        let by = self.found.version.word();
        let word = |name: &str, value: String| (name.to_owned(), value);
        let or_not = |there: bool, yes: String| {
            if there { yes } else { format!("no ({})", self.why_not) }
        };
        let memory = if self.found.memory.is_some() {
            format!("kernel, {by}")
        } else {
            format!("reeve's own watch, sampled, and a data limit per process ({})", self.why_not)
        };
        let cpu = if bounds.cpu_quota {
            format!("quota: never more than asked for, {by}")
        } else {
            format!("weight: a share when all are busy, {by}")
        };
        vec![
            word("memory_limit", memory),
            word("cpu_limit", or_not(self.found.cpu.is_some(), cpu)),
            word(
                "process_limit",
                or_not(self.found.pids.is_some(), format!("{} per attempt, {by}", bounds.processes)),
            ),
            word(
                "tree_kill",
                if self.found.pids.is_some() {
                    "guardian, no births while it kills".into()
                } else {
                    "guardian".into()
                },
            ),
        ]
    }
}

/// Locks on these directories; `None`: somebody has one, or one of them was removed meanwhile.
fn hold(dirs: &[PathBuf]) -> Option<Vec<File>> {
    let held = dirs.iter().map(|dir| {
        let file = File::open(dir).ok()?;
        flock(&file, FlockOperation::NonBlockingLockExclusive).ok()?;
        let id = |meta: std::fs::Metadata| (meta.dev(), meta.ino());
        (file.metadata().ok().map(id) == std::fs::metadata(dir).ok().map(id)).then_some(file)
    });
    held.collect()
}

/// The numbered directories of a base.
fn numbers(base: &Path) -> Vec<u32> {
    let entries = std::fs::read_dir(base).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Removes a group and all below it where nobody is left. The kernel refuses the others.
fn remove_empty(dir: &Path) {
    for below in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if below.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_empty(&below.path());
        }
    }
    let _ = std::fs::remove_dir(dir);
}

/// Processes of a group and of all below it.
fn members(group: &Path) -> Vec<u32> {
    let text = std::fs::read_to_string(group.join(PROCS)).unwrap_or_default();
    let mut found: Vec<u32> = text.lines().filter_map(|line| line.parse().ok()).collect();
    for below in std::fs::read_dir(group).into_iter().flatten().flatten() {
        if below.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(members(&below.path()));
        }
    }
    found
}

#[cfg(test)]
#[path = "groups_test.rs"]
mod tests;
