//! What running attempts say about themselves and what they use: read from their status file and from /proc, while an
//! agent listens.
use super::attempts::Keeper;
use crate::guardian::environment::STATUS;
use crate::guardian::result::open_of_job;
use crate::guardian::tree::{self, Stat};
use reeve_protocol::ids::AttemptId;
use reeve_protocol::wire::{Progress, Usage, kind};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;

/// Use is looked at in every fifth round.
const USAGE_ROUNDS: u64 = 5;
/// Only the end of a status file counts.
const TAIL: u64 = 8 * 1024;
/// Longest message.
const MESSAGE: usize = 1024;

/// What was seen of an attempt last.
#[derive(Clone, Debug, Default)]
pub(super) struct Watch {
    /// Length and time of the last change, nanoseconds: a file that is written anew may be as long as before.
    seen: (u64, i128),
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
            progress.extend(attempt.watch.progress(*id, &format!("{work}/{}", attempt.guardian_pid)));
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

impl Keeper {
    /// What an attempt that has ended had said last, read once more: a short one was perhaps never looked at.
    pub(super) fn tell_last_progress(&mut self, id: AttemptId) {
        if self.agent.is_none() {
            return;
        }
        let work = &self.place.work;
        let Some(attempt) = self.attempts.get_mut(&id) else { return };
        if let Some(body) = attempt.watch.progress(id, &format!("{work}/{}", attempt.guardian_pid)) {
            self.say(kind::PROGRESS, &body);
        }
    }
}

impl Watch {
    /// The last thing the job has said, if it is new.
    pub(super) fn progress(&mut self, attempt: AttemptId, dir: &str) -> Option<Progress> {
        let mut file = open_of_job(dir, STATUS).ok()??;
        let meta = file.metadata().ok()?;
        let changed = i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec());
        if self.seen == (meta.len(), changed) {
            return None;
        }
        self.seen = (meta.len(), changed);
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

    #[test]
    fn nonsense_is_the_jobs_own_affair_and_a_file_written_anew_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let (path, file) = (dir.path().to_str().unwrap(), dir.path().join(STATUS));
        let id = TaskId::single(1).attempt(1);
        let mut watch = Watch::default();
        let mut says = |bytes: &[u8]| {
            std::fs::write(&file, bytes).unwrap();
            watch.progress(id, path).map(|p| (p.fraction, p.message))
        };
        assert_eq!(says(b"{\"progress\":0.1}\n"), Some((Some(0.1), None)));
        assert_eq!(says(b"{\"progress\":0.2}\n"), Some((Some(0.2), None)), "as long as before");
        let mut long = vec![b'x'; 10 << 20];
        assert_eq!(says(&long), None, "10 MB in one line that does not end");
        long.extend(
            b"\n\xff\xfe\n{\"progress\":NaN}\n{\"progress\":1e999}\n{\"progress\":0.3}\n{\"progress\":0.",
        );
        assert_eq!(says(&long), Some((Some(0.3), None)));
        let message = says(b"{\"message\":\"\\u001b[2J\"}\n").unwrap().1.unwrap();
        assert_eq!(message, "\u{1b}[2J", "kept as it is, and cleaned by whoever shows it");
        std::fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &file).unwrap();
        assert_eq!(watch.progress(id, path), None);
    }
}
