//! What running attempts say about themselves and what they use: read from their status file and from /proc, while an
//! agent listens.
use super::attempts::Keeper;
use crate::guardian::environment::STATUS;
use crate::guardian::tree::{self, Stat};
use reeve_protocol::ids::AttemptId;
use reeve_protocol::wire::{Progress, Usage, kind};
use rustix::fs::{Mode, OFlags, open};
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};

/// Use is looked at in every fifth round.
const USAGE_ROUNDS: u64 = 5;
/// Only the end of a status file counts.
const TAIL: u64 = 8 * 1024;
/// Longest message.
const MESSAGE: usize = 1024;

/// What was seen of an attempt last.
#[derive(Clone, Debug, Default)]
pub(super) struct Watch {
    len: u64,
    progress: Option<Progress>,
    rss_peak: u64,
}

impl Keeper {
    /// One round.
    pub(super) fn watch(&mut self) {
        self.rounds += 1;
        let with_usage = self.rounds.is_multiple_of(USAGE_ROUNDS);
        let (mut progress, mut usage) = (Vec::new(), Vec::new());
        let work = self.place.work.clone();
        for (id, attempt) in self.attempts.iter_mut().filter(|(_, a)| a.has_process()) {
            progress
                .extend(attempt.watch.progress(*id, &format!("{work}/{}/{STATUS}", attempt.guardian_pid)));
            if with_usage {
                usage.push(attempt.watch.usage(*id, attempt.guardian_pid));
            }
        }
        for body in progress {
            self.say(kind::PROGRESS, &body);
        }
        for body in usage {
            self.say(kind::USAGE, &body);
        }
    }
}

impl Watch {
    /// The last thing the job has said, if it is new.
    fn progress(&mut self, attempt: AttemptId, path: &str) -> Option<Progress> {
        // The directory is the job's: neither is a link followed nor a pipe waited for.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let mut file = File::from(open(path, flags, Mode::empty()).ok()?);
        let meta = file.metadata().ok()?;
        if !meta.is_file() || meta.len() == self.len {
            return None;
        }
        self.len = meta.len();
        file.seek(SeekFrom::Start(meta.len().saturating_sub(TAIL))).ok()?;
        let mut bytes = Vec::new();
        file.take(TAIL).read_to_end(&mut bytes).ok()?;
        let said = last_progress(attempt, &bytes)?;
        let is_new = self.progress.as_ref() != Some(&said);
        self.progress = Some(said.clone());
        is_new.then_some(said)
    }

    fn usage(&mut self, attempt: AttemptId, guardian: u32) -> Usage {
        let stats = tree::descendants(guardian).into_iter().filter_map(Stat::read);
        let (ticks, pages) = stats.fold((0, 0), |(t, p), stat| (t + stat.ticks, p + stat.pages));
        let rss = pages * rustix::param::page_size() as u64;
        self.rss_peak = self.rss_peak.max(rss);
        let cpu_ms = ticks * 1000 / rustix::param::clock_ticks_per_second().max(1);
        Usage { attempt, cpu_ms, rss, rss_peak: self.rss_peak }
    }
}

/// The last whole line that makes sense; what does not is the job's own affair.
fn last_progress(attempt: AttemptId, bytes: &[u8]) -> Option<Progress> {
    let whole = &bytes[..bytes.iter().rposition(|b| *b == b'\n')?];
    whole.rsplit(|b| *b == b'\n').find_map(|line| {
        let value: serde_json::Value = serde_json::from_slice(line).ok()?;
        let fraction = value.get("progress").and_then(serde_json::Value::as_f64);
        let message = value.get("message").and_then(serde_json::Value::as_str).map(|text| {
            let end = text.floor_char_boundary(MESSAGE);
            text[..end].to_owned()
        });
        (fraction.is_some() || message.is_some()).then(|| Progress {
            attempt,
            fraction: fraction.map(|f| f.clamp(0.0, 1.0)),
            message,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use reeve_protocol::ids::TaskId;

    #[test]
    fn the_last_whole_line_that_makes_sense_counts() {
        let id = TaskId::single(1).attempt(1);
        let said = |text: &str| last_progress(id, text.as_bytes()).map(|p| (p.fraction, p.message));
        assert_eq!(said("{\"progress\":0.4,\"message\":\"a\"}\n"), Some((Some(0.4), Some("a".into()))));
        assert_eq!(said("{\"progress\":0.4}\n{\"progress\":0.5"), Some((Some(0.4), None)));
        assert_eq!(said("{\"progress\":0.4}\ngarbage\n[1]\n"), Some((Some(0.4), None)));
        assert_eq!(said("{\"progress\":7}\n"), Some((Some(1.0), None)));
        for nothing in ["", "\n", "{}", "{}\n", "{\"progress\":\"x\"}\n"] {
            assert_eq!(said(nothing), None, "{nothing}");
        }
        let long = format!("{{\"message\":\"{}\"}}\n", "\u{e9}".repeat(2000));
        assert_eq!(said(&long).unwrap().1.unwrap().len(), MESSAGE);
    }
}
