//! Ends that wait for their output. A large tape comes on a stream of its own and the `Finished` that belongs to it on
//! the control stream; QUIC keeps no order between the two. Neither may wait for ever.
use crate::input::{AgentSaid, Segment};
use reeve_protocol::AttemptId;
use reeve_protocol::wire::Finished;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

/// How long an end waits for its tape to begin; then it passes without. A tape that has begun comes to an end by itself.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// Ends or tapes of one session that wait at once.
const MOST: usize = 4096;

/// One session's waiting ends and tapes.
#[derive(Debug, Default)]
pub(super) struct Held {
    waiting: HashMap<AttemptId, (Box<Finished>, Instant)>,
    /// Tapes on their way.
    begun: HashSet<AttemptId>,
    /// `None`: the upload failed.
    arrived: HashMap<AttemptId, Option<Segment>>,
    /// Tapes that nobody will ever name.
    dead: Vec<Segment>,
}

impl Held {
    /// An attempt has ended. What comes back can be passed on now.
    pub(super) fn finished(&mut self, finished: Box<Finished>, now: Instant) -> Option<AgentSaid> {
        if finished.spooled == 0 {
            return Some(AgentSaid::Finished(finished, None));
        }
        if let Some(segment) = self.arrived.remove(&finished.attempt) {
            return Some(AgentSaid::Finished(finished, segment));
        }
        if self.waiting.len() >= MOST {
            return Some(AgentSaid::Finished(finished, None));
        }
        self.waiting.insert(finished.attempt, (finished, now + PATIENCE));
        None
    }

    /// A tape is on its way: its end waits for it, however long the disk makes it wait.
    pub(super) fn begun(&mut self, attempt: AttemptId) {
        if self.begun.len() < MOST {
            self.begun.insert(attempt);
        }
    }

    /// A tape is on disk, or failed to get there.
    pub(super) fn uploaded(&mut self, attempt: AttemptId, segment: Option<Segment>) -> Option<AgentSaid> {
        self.begun.remove(&attempt);
        if let Some((finished, _)) = self.waiting.remove(&attempt) {
            return Some(AgentSaid::Finished(finished, segment));
        }
        let before =
            if self.arrived.len() < MOST { self.arrived.insert(attempt, segment).flatten() } else { segment };
        self.dead.extend(before);
        None
    }

    /// Tapes that no end will come for: sent twice, or beyond the bound.
    pub(super) fn dead(&mut self) -> Vec<Segment> {
        std::mem::take(&mut self.dead)
    }

    /// The session is over: nothing that has arrived will be asked for.
    pub(super) fn give_up(&mut self) -> Vec<Segment> {
        self.arrived.drain().filter_map(|(_, segment)| segment).chain(self.dead.drain(..)).collect()
    }

    /// The ends that have waited long enough.
    pub(super) fn overdue(&mut self, now: Instant) -> Vec<AgentSaid> {
        let begun = &self.begun;
        let late = self.waiting.extract_if(|attempt, (_, due)| *due <= now && !begun.contains(attempt));
        late.map(|(_, (finished, _))| AgentSaid::Finished(finished, None)).collect()
    }

    /// When the first of them will have.
    pub(super) fn due(&self) -> Option<Instant> {
        let unbegun = self.waiting.iter().filter(|(attempt, _)| !self.begun.contains(attempt));
        unbegun.map(|(_, (_, due))| *due).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reeve_protocol::Cause;
    use reeve_protocol::ids::TaskId;

    const SEGMENT: Segment = Segment { file: 1, offset: 2, len: 5000 };

    fn finished(job: u64, spooled: u64) -> Box<Finished> {
        Box::new(Finished {
            attempt: TaskId::single(job).attempt(1),
            cause: Cause::Ok.to_wire(),
            started_ms: 1,
            ended_ms: 2,
            pid: 3,
            cpu_ms: 0,
            rss_peak: 0,
            output: Vec::new(),
            spooled,
            result: None,
        })
    }

    #[test]
    fn an_end_without_spool_passes_at_once() {
        let mut held = Held::default();
        assert_eq!(
            held.finished(finished(1, 0), Instant::now()),
            Some(AgentSaid::Finished(finished(1, 0), None))
        );
    }

    #[test]
    fn end_and_tape_meet_in_either_order() {
        let (mut held, now) = (Held::default(), Instant::now());
        let wanted = Some(AgentSaid::Finished(finished(1, 5000), Some(SEGMENT)));
        assert_eq!(held.finished(finished(1, 5000), now), None);
        assert_eq!(held.uploaded(finished(1, 5000).attempt, Some(SEGMENT)), wanted);
        assert_eq!(held.uploaded(finished(1, 5000).attempt, Some(SEGMENT)), None);
        assert_eq!(held.finished(finished(1, 5000), now), wanted);
        assert_eq!(held.due(), None);
    }

    #[test]
    fn others_pass_a_waiting_end_and_it_passes_without_its_tape_in_the_end() {
        let (mut held, now) = (Held::default(), Instant::now());
        assert_eq!(held.finished(finished(1, 5000), now), None);
        assert!(held.finished(finished(2, 0), now).is_some());
        assert_eq!(held.due(), Some(now + PATIENCE));
        assert!(held.overdue(now + PATIENCE / 2).is_empty());
        assert_eq!(held.overdue(now + PATIENCE), [AgentSaid::Finished(finished(1, 5000), None)]);
        assert_eq!(held.due(), None);
    }

    #[test]
    fn a_tape_that_has_begun_is_waited_for_until_it_ends() {
        let (mut held, now) = (Held::default(), Instant::now());
        assert_eq!(held.finished(finished(1, 5000), now), None);
        held.begun(finished(1, 5000).attempt);
        assert_eq!(held.due(), None);
        assert!(held.overdue(now + PATIENCE * 100).is_empty());
        let wanted = Some(AgentSaid::Finished(finished(1, 5000), Some(SEGMENT)));
        assert_eq!(held.uploaded(finished(1, 5000).attempt, Some(SEGMENT)), wanted);
    }

    #[test]
    fn the_space_of_tapes_that_no_end_names_is_given_back() {
        let (mut held, now) = (Held::default(), Instant::now());
        let attempt = finished(1, 5000).attempt;
        held.uploaded(attempt, Some(SEGMENT));
        assert!(held.dead().is_empty(), "its end may come");
        let again = Segment { offset: 9000, ..SEGMENT };
        held.uploaded(attempt, Some(again));
        assert_eq!(held.dead(), [SEGMENT], "it was sent twice");
        assert_eq!(
            held.finished(finished(1, 5000), now),
            Some(AgentSaid::Finished(finished(1, 5000), Some(again)))
        );
        held.uploaded(finished(2, 1).attempt, Some(SEGMENT));
        assert_eq!(held.give_up(), [SEGMENT]);
    }

    #[test]
    fn a_failed_upload_lets_the_end_pass() {
        let (mut held, now) = (Held::default(), Instant::now());
        held.finished(finished(1, 5000), now);
        assert_eq!(
            held.uploaded(finished(1, 5000).attempt, None),
            Some(AgentSaid::Finished(finished(1, 5000), None))
        );
    }

    #[test]
    fn an_agent_that_only_promises_uploads_cannot_fill_the_memory() {
        let (mut held, now) = (Held::default(), Instant::now());
        for job in 1..=MOST as u64 {
            assert!(held.finished(finished(job, 1), now).is_none());
        }
        assert!(held.finished(finished(MOST as u64 + 1, 1), now).is_some());
    }
}
