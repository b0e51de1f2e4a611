//! How far the coordinator's store was when it was heard last: an older copy that is put in its place is found out by the
//! machine that has seen more.
use crate::identity::Seen;
use reeve_protocol::wire::{Recorded, Welcome};
use std::path::Path;
use std::time::{Duration, Instant};

/// Between two notes: each is synced.
const EVERY: Duration = Duration::from_secs(1);

/// What was seen in this session.
pub(super) struct Horizon {
    seen: Seen,
    noted: Option<Instant>,
}

impl Horizon {
    /// What the Welcome said, which is noted already.
    pub(super) fn new(welcome: &Welcome) -> Self {
        let seen = Seen { lineage: welcome.lineage.clone(), epoch: welcome.epoch, seq: welcome.seq };
        Self { seen, noted: None }
    }

    /// The store has grown: whatever comes in its place must have grown as far.
    pub(super) fn rise(&mut self, recorded: Recorded, dir: &Path) {
        self.seen.seq = self.seen.seq.max(recorded.seq);
        if self.noted.is_some_and(|at| at.elapsed() < EVERY) {
            return;
        }
        self.noted = Some(Instant::now());
        if let Err(error) = self.seen.store(dir) {
            tracing::warn!(error = &error as &dyn std::error::Error, "what was seen cannot be noted");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_never_sinks_and_is_on_disk_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let welcome = Welcome {
            version: 1,
            session: 1,
            lineage: "l".into(),
            epoch: 2,
            seq: 5,
            beat_ms: 2_000,
            name: "box".into(),
        };
        let mut horizon = Horizon::new(&welcome);
        horizon.rise(Recorded { seq: 9 }, dir.path());
        assert_eq!(Seen::load(dir.path()).seq, 9);
        horizon.noted = None;
        horizon.rise(Recorded { seq: 7 }, dir.path());
        let seen = Seen::load(dir.path());
        assert_eq!((seen.lineage.as_str(), seen.epoch, seen.seq), ("l", 2, 9));
    }
}
