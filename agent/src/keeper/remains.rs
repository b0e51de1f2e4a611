//! What is left of an attempt whose guardian was killed: its processes are ended, its files removed.
use super::attempts::Keeper;
use super::place::is_plain;
use crate::guardian::collecting::place;
use crate::guardian::workdir::OUT;
use crate::guardian::{RESTING, environment, replica, tree};
use reeve_protocol::ids::AttemptId;
use std::time::Duration;

impl Keeper {
    /// Kills what a dead guardian left: its orphans are children of this keeper if this keeper forked it, and carry marks
    /// otherwise.
    ///
    /// `leader` is the command's process id and when it was born.
    pub(super) fn kill_leftovers(&self, id: AttemptId, leader: (u32, u64)) {
        let socket = format!("{}/{}", self.place.root, environment::socket_path(id));
        // A killed process can leave children that come to us only now: again, until a round finds nobody.
        for _ in 0..100 {
            let mut found = tree::leftovers(leader, &socket);
            found.extend(self.orphans());
            if found.is_empty() {
                return;
            }
            for pid in found {
                tree::signal_one(pid, rustix::process::Signal::KILL);
            }
            // The dead must be gone from the lists before the next round; bounded, and rare.
            std::thread::sleep(Duration::from_millis(5));
        }
        tracing::warn!(attempt = %id, "processes of a killed guardian cannot be ended");
    }

    /// Children that are no guardians, with everything below them.
    fn orphans(&self) -> Vec<u32> {
        let own = std::process::id();
        let guardians: Vec<u32> = self.links.values().map(|link| link.guardian_pid).collect();
        let mut found = Vec::new();
        let is_ours = |child: &u32| guardians.contains(child) || self.zygote_pid() == Some(*child);
        for child in tree::children(own).into_iter().filter(|child| !is_ours(child)) {
            found.push(child);
            found.extend(tree::descendants(child));
        }
        found
    }

    pub(super) fn remove_files(&self, id: AttemptId, guardian_pid: u32, lineage: &str) {
        let _ = std::fs::remove_file(environment::socket_path(id));
        replica::remove(id);
        if guardian_pid != 0 {
            let _ = std::fs::remove_dir_all(self.workdir(guardian_pid));
            let _ = std::fs::remove_dir_all(format!("{}{OUT}", self.workdir(guardian_pid)));
            let _ = std::fs::remove_file(format!("{RESTING}{guardian_pid}"));
        }
        if is_plain(lineage) {
            let spool = self.place.spool_path(lineage, id);
            let _ = std::fs::remove_file(place(&spool));
            let _ = std::fs::remove_file(spool);
        }
    }

    /// The directory that a guardian lends to its attempts.
    pub(super) fn workdir(&self, guardian_pid: u32) -> String {
        format!("{}/{guardian_pid}", self.place.work)
    }
}
