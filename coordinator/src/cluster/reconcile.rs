//! Inventory against record: what becomes of each attempt when a machine comes back. The only place where the two
//! meet.
use reeve_protocol::wire::{InventoryItem, Verdict};
use reeve_protocol::{AttemptId, Cause};

/// What the records say about an attempt of the inventory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// It is the current attempt of a live job, held by this machine.
    Current,
    /// Its job has gone on without it, or has ended.
    Past,
    /// No such job was ever made here.
    Unknown,
}

/// The verdict on one attempt that the machine has.
pub fn judge(item: &InventoryItem, same_lineage: bool, record: Record) -> Verdict {
    const ENDED: u16 = 3;
    match (same_lineage, record) {
        (false, _) | (_, Record::Unknown) => Verdict::Orphan,
        // An end is reported even when it is late: it is kept as such, and only then forgotten.
        (_, Record::Current | Record::Past) if item.phase == ENDED => Verdict::Report,
        (_, Record::Current) => Verdict::Keep,
        (_, Record::Past) => Verdict::Fence,
    }
}

/// Why an attempt that the records give to the machine is not there. `None`: it never began, which costs nothing.
pub fn missing(started: bool, same_life: bool, same_keeper: bool) -> Option<Cause> {
    match (started, same_life, same_keeper) {
        (false, true, _) => None,
        (_, false, _) => Some(Cause::Rebooted),
        (true, true, _) => Some(Cause::KeeperLost),
    }
}

/// The attempts of the record that the inventory lacks.
pub fn absent<'a>(record: impl Iterator<Item = &'a AttemptId>, items: &[InventoryItem]) -> Vec<AttemptId> {
    let there: std::collections::HashSet<_> = items.iter().map(|i| i.attempt).collect();
    let mut gone: Vec<_> = record.copied().filter(|a| !there.contains(a)).collect();
    gone.sort_unstable();
    gone
}

#[cfg(test)]
mod tests {
    use super::*;
    use reeve_protocol::TaskId;

    fn item(phase: u16) -> InventoryItem {
        InventoryItem {
            attempt: TaskId::single(1).attempt(1),
            lineage: "l".into(),
            phase,
            pid: 1,
            started_ms: 1,
        }
    }

    #[test]
    fn the_table() {
        assert_eq!(judge(&item(1), true, Record::Current), Verdict::Keep);
        assert_eq!(judge(&item(0), true, Record::Current), Verdict::Keep);
        assert_eq!(judge(&item(3), true, Record::Current), Verdict::Report);
        assert_eq!(judge(&item(1), true, Record::Past), Verdict::Fence);
        assert_eq!(judge(&item(3), true, Record::Past), Verdict::Report);
        assert_eq!(judge(&item(1), true, Record::Unknown), Verdict::Orphan);
        assert_eq!(judge(&item(3), false, Record::Current), Verdict::Orphan);
    }

    #[test]
    fn what_is_missing_has_a_cause_unless_it_never_began() {
        assert_eq!(missing(false, true, true), None);
        assert_eq!(missing(true, true, true), Some(Cause::KeeperLost));
        assert_eq!(missing(true, true, false), Some(Cause::KeeperLost));
        assert_eq!(missing(true, false, false), Some(Cause::Rebooted));
    }
}
