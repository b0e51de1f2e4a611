//! Ends that wait for what belongs to them. A large tape and artifacts come on streams of their own and the `Finished` that
//! belongs to them on the control stream; QUIC keeps no order between these. None may wait for ever.
use super::streams::Upload;
use crate::input::{AgentSaid, Kept, Segment};
use reeve_protocol::AttemptId;
use reeve_protocol::wire::Finished;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How long an end waits for its parts to begin; then it passes without. A part that has begun comes to an end by itself.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// Ends or parts of one session that wait at once.
const MOST: usize = 4096;

/// What belongs to an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Tape,
    Artifacts,
}

/// Where a part is.
#[derive(Debug, Default)]
enum Slot<T> {
    #[default]
    Absent,
    Begun,
    Failed,
    Here(T),
}

impl<T> Slot<T> {
    const fn is_settled(&self) -> bool {
        matches!(self, Self::Failed | Self::Here(_))
    }

    fn put(&mut self, part: Option<T>) -> Option<T> {
        match std::mem::replace(self, part.map_or(Self::Failed, Self::Here)) {
            Self::Here(before) => Some(before),
            _ => None,
        }
    }

    fn take(self) -> Option<T> {
        match self {
            Self::Here(part) => Some(part),
            _ => None,
        }
    }
}

/// One attempt's end with its parts.
#[derive(Debug, Default)]
struct Entry {
    end: Option<(Box<Finished>, Instant)>,
    /// Artifacts were announced.
    promised: bool,
    tape: Slot<Segment>,
    artifacts: Slot<Box<Kept>>,
}

impl Entry {
    fn is_complete(&self) -> bool {
        let Some((end, _)) = &self.end else { return false };
        (end.spooled == 0 || self.tape.is_settled()) && (!self.promised || self.artifacts.is_settled())
    }

    /// Something that it waits for is on its way.
    fn has_begun(&self) -> bool {
        matches!(self.tape, Slot::Begun) || matches!(self.artifacts, Slot::Begun)
    }

    /// When it has waited long enough, unless something has begun.
    fn due(&self) -> Option<Instant> {
        self.end.as_ref().filter(|_| !self.has_begun()).map(|(_, due)| *due)
    }

    fn said(self) -> Vec<AgentSaid> {
        let artifacts = self.artifacts.take().map(AgentSaid::Artifacts);
        let end = self.end.map(|(end, _)| {
            let tape = self.tape.take().filter(|_| end.spooled > 0);
            AgentSaid::Finished(end, tape)
        });
        artifacts.into_iter().chain(end).collect()
    }

    fn segments(self) -> impl Iterator<Item = Segment> {
        self.tape.take().into_iter().chain(self.artifacts.take().map(|kept| kept.segment))
    }
}

/// One session's waiting ends and their parts.
#[derive(Debug, Default)]
pub(super) struct Held {
    entries: HashMap<AttemptId, Entry>,
    /// Bytes that nobody will ever name.
    dead: Vec<Segment>,
}

impl Held {
    /// An attempt has ended. What comes back can be passed on now.
    pub(super) fn finished(&mut self, finished: Box<Finished>, now: Instant) -> Vec<AgentSaid> {
        let attempt = finished.attempt;
        if finished.spooled == 0 && !self.entries.contains_key(&attempt) {
            return vec![AgentSaid::Finished(finished, None)];
        }
        let Some(entry) = self.entry(attempt) else { return vec![AgentSaid::Finished(finished, None)] };
        entry.end = Some((finished, now + PATIENCE));
        self.pass(attempt)
    }

    /// Artifacts will come: the end waits for them.
    pub(super) fn promised(&mut self, attempt: AttemptId) {
        if let Some(entry) = self.entry(attempt) {
            entry.promised = true;
        }
    }

    /// Something was heard of a stream.
    pub(super) fn uploaded(&mut self, upload: Upload) -> Vec<AgentSaid> {
        let (Upload::Begun(attempt, _) | Upload::Tape(attempt, _) | Upload::Artifacts(attempt, _)) = upload;
        let Some(entry) = self.entry(attempt) else {
            self.arrived_late(upload);
            return Vec::new();
        };
        let before = match upload {
            Upload::Begun(_, Part::Tape) => std::mem::replace(&mut entry.tape, Slot::Begun).take(),
            Upload::Begun(_, Part::Artifacts) => {
                std::mem::replace(&mut entry.artifacts, Slot::Begun).take().map(|kept| kept.segment)
            }
            Upload::Tape(_, tape) => entry.tape.put(tape),
            Upload::Artifacts(_, kept) => entry.artifacts.put(kept).map(|kept| kept.segment),
        };
        self.dead.extend(before);
        self.pass(attempt)
    }

    /// Something came that no end will name any more.
    pub(super) fn arrived_late(&mut self, upload: Upload) {
        self.dead.extend(match upload {
            Upload::Begun(..) => None,
            Upload::Tape(_, tape) => tape,
            Upload::Artifacts(_, kept) => kept.map(|kept| kept.segment),
        });
    }

    /// Bytes that no end will name: sent twice, or beyond the bound.
    pub(super) fn dead(&mut self) -> Vec<Segment> {
        std::mem::take(&mut self.dead)
    }

    /// The session is over: nothing that has arrived will be asked for.
    pub(super) fn give_up(&mut self) -> Vec<Segment> {
        let arrived = self.entries.drain().flat_map(|(_, entry)| entry.segments());
        arrived.chain(self.dead.drain(..)).collect()
    }

    /// The ends that have waited long enough.
    pub(super) fn overdue(&mut self, now: Instant) -> Vec<AgentSaid> {
        let late = self.entries.extract_if(|_, entry| entry.due().is_some_and(|due| due <= now));
        late.flat_map(|(_, entry)| entry.said()).collect()
    }

    /// When the first of them will have.
    pub(super) fn due(&self) -> Option<Instant> {
        self.entries.values().filter_map(Entry::due).min()
    }

    fn entry(&mut self, attempt: AttemptId) -> Option<&mut Entry> {
        if self.entries.len() >= MOST && !self.entries.contains_key(&attempt) {
            return None;
        }
        Some(self.entries.entry(attempt).or_default())
    }

    fn pass(&mut self, attempt: AttemptId) -> Vec<AgentSaid> {
        if self.entries.get(&attempt).is_some_and(Entry::is_complete) {
            return self.entries.remove(&attempt).map(Entry::said).unwrap_or_default();
        }
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reeve_protocol::Cause;
    use reeve_protocol::ids::TaskId;

    const SEGMENT: Segment = Segment { file: 1, offset: 2, len: 5000 };

    fn attempt(job: u64) -> AttemptId {
        TaskId::single(job).attempt(1)
    }

    fn finished(job: u64, spooled: u64) -> Box<Finished> {
        Box::new(Finished {
            attempt: attempt(job),
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

    fn ended(job: u64, spooled: u64, tape: Option<Segment>) -> AgentSaid {
        AgentSaid::Finished(finished(job, spooled), tape)
    }

    fn tape(job: u64, segment: Option<Segment>) -> Upload {
        Upload::Tape(attempt(job), segment)
    }

    fn kept(job: u64) -> Kept {
        Kept { attempt: attempt(job), files: Vec::new(), segment: SEGMENT }
    }

    fn left(job: u64) -> AgentSaid {
        AgentSaid::Artifacts(Box::new(kept(job)))
    }

    fn sent(job: u64) -> Upload {
        Upload::Artifacts(attempt(job), Some(Box::new(kept(job))))
    }

    #[test]
    fn an_end_without_parts_passes_at_once() {
        let mut held = Held::default();
        assert_eq!(held.finished(finished(1, 0), Instant::now()), [ended(1, 0, None)]);
    }

    #[test]
    fn end_and_tape_meet_in_either_order() {
        let (mut held, now) = (Held::default(), Instant::now());
        assert_eq!(held.finished(finished(1, 5000), now), []);
        assert_eq!(held.uploaded(tape(1, Some(SEGMENT))), [ended(1, 5000, Some(SEGMENT))]);
        assert_eq!(held.uploaded(tape(1, Some(SEGMENT))), []);
        assert_eq!(held.finished(finished(1, 5000), now), [ended(1, 5000, Some(SEGMENT))]);
        assert_eq!(held.due(), None);
    }

    #[test]
    fn artifacts_that_were_promised_are_waited_for_with_and_without_a_tape() {
        let (mut held, now) = (Held::default(), Instant::now());
        held.promised(attempt(1));
        assert_eq!(held.finished(finished(1, 0), now), []);
        held.uploaded(Upload::Begun(attempt(1), Part::Artifacts));
        assert!(held.overdue(now + PATIENCE * 100).is_empty(), "they are on their way");
        let wanted = [left(1), ended(1, 0, None)];
        assert_eq!(held.uploaded(sent(1)), wanted);

        held.promised(attempt(2));
        assert_eq!(held.uploaded(sent(2)), []);
        assert_eq!(held.finished(finished(2, 5000), now), []);
        let wanted = [left(2), ended(2, 5000, Some(SEGMENT))];
        assert_eq!(held.uploaded(tape(2, Some(SEGMENT))), wanted);

        held.promised(attempt(3));
        assert_eq!(held.finished(finished(3, 0), now), []);
        assert_eq!(held.uploaded(Upload::Artifacts(attempt(3), None)), [ended(3, 0, None)], "they failed");
        held.promised(attempt(4));
        assert_eq!(held.finished(finished(4, 0), now), []);
        assert_eq!(held.overdue(now + PATIENCE), [ended(4, 0, None)], "they never began");
    }

    #[test]
    fn others_pass_a_waiting_end_and_it_passes_without_its_tape_in_the_end() {
        let (mut held, now) = (Held::default(), Instant::now());
        assert_eq!(held.finished(finished(1, 5000), now), []);
        assert_eq!(held.finished(finished(2, 0), now).len(), 1);
        assert_eq!(held.due(), Some(now + PATIENCE));
        assert!(held.overdue(now + PATIENCE / 2).is_empty());
        assert_eq!(held.overdue(now + PATIENCE), [ended(1, 5000, None)]);
        assert_eq!(held.due(), None);
    }

    #[test]
    fn a_tape_that_has_begun_is_waited_for_until_it_ends() {
        let (mut held, now) = (Held::default(), Instant::now());
        assert_eq!(held.finished(finished(1, 5000), now), []);
        held.uploaded(Upload::Begun(attempt(1), Part::Tape));
        assert_eq!(held.due(), None);
        assert!(held.overdue(now + PATIENCE * 100).is_empty());
        assert_eq!(held.uploaded(tape(1, Some(SEGMENT))), [ended(1, 5000, Some(SEGMENT))]);
    }

    #[test]
    fn a_failed_upload_lets_the_end_pass() {
        let (mut held, now) = (Held::default(), Instant::now());
        held.finished(finished(1, 5000), now);
        assert_eq!(held.uploaded(tape(1, None)), [ended(1, 5000, None)]);
    }

    #[test]
    fn the_space_of_what_no_end_names_is_given_back() {
        let (mut held, now) = (Held::default(), Instant::now());
        held.uploaded(tape(1, Some(SEGMENT)));
        assert!(held.dead().is_empty(), "its end may come");
        let again = Segment { offset: 9000, ..SEGMENT };
        held.uploaded(tape(1, Some(again)));
        assert_eq!(held.dead(), [SEGMENT], "it was sent twice");
        assert_eq!(held.finished(finished(1, 5000), now), [ended(1, 5000, Some(again))]);
        held.uploaded(tape(2, Some(SEGMENT)));
        held.uploaded(sent(2));
        assert_eq!(held.give_up(), [SEGMENT, SEGMENT]);
    }

    #[test]
    fn an_agent_that_only_promises_uploads_cannot_fill_the_memory() {
        let (mut held, now) = (Held::default(), Instant::now());
        for job in 1..=MOST as u64 {
            assert!(held.finished(finished(job, 1), now).is_empty());
        }
        assert_eq!(held.finished(finished(MOST as u64 + 1, 1), now).len(), 1);
        held.promised(attempt(MOST as u64 + 2));
        held.uploaded(tape(MOST as u64 + 3, Some(SEGMENT)));
        assert_eq!((held.entries.len(), held.dead().len()), (MOST, 1));
    }
}
