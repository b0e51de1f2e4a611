//! What running attempts say about themselves and what they use: read from their status file and from /proc, while an
//! agent listens.
use super::attempts::Keeper;
use crate::guardian::environment::STATUS;
use crate::guardian::result::open_of_job;
use crate::guardian::tree::{self, Stat};
use reeve_protocol::guardian as says;
use reeve_protocol::ids::AttemptId;
use reeve_protocol::wire::{Progress, Quiet, Usage, kind};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, Instant};

/// Use is looked at in every fifth round.
const USAGE_ROUNDS: u64 = 5;
/// Only the end of a status file counts.
const TAIL: u64 = 8 * 1024;
/// Longest message.
const MESSAGE: usize = 1024;

/// Quiet for so long is worth a word, and a question to the guardian whether the command has written something.
const QUIET: Duration = Duration::from_mins(1);
/// Below this share of one cpu an attempt does nothing: one part in so many.
const IDLE_PART: u64 = 200;

/// What was seen of an attempt last.
#[derive(Clone, Debug, Default)]
pub(super) struct Watch {
    /// Length and time of the last change, nanoseconds: a file that is written anew may be as long as before.
    seen: (u64, i128),
    progress: Option<Progress>,
    rss_peak: u64,
    quiet: Silence,
}

/// How long an attempt has done nothing.
#[derive(Clone, Debug, Default)]
struct Silence {
    /// When it did something last, and when that was looked at last.
    since: Option<(Instant, Instant)>,
    cpu_ms: u64,
    tape: u64,
    /// When the coordinator was told that it is quiet.
    told: Option<Instant>,
}

impl Silence {
    /// Its guardian says how much it has written.
    fn wrote(&mut self, tape: u64, now: Instant) {
        if tape != self.tape {
            self.tape = tape;
            self.since = self.since.map(|(_, looked)| (now, looked));
        }
    }

    /// Looks at what it has used. What is to be told, if anything is: milliseconds of silence, 0 when that is over.
    fn look(&mut self, cpu_ms: u64, now: Instant) -> Option<u64> {
        let (since, looked) = self.since.unwrap_or((now, now));
        let used = cpu_ms.saturating_sub(std::mem::replace(&mut self.cpu_ms, cpu_ms));
        let works = used * IDLE_PART > (now - looked).as_millis() as u64;
        let since = if works { now } else { since };
        self.since = Some((since, now));
        let quiet = now - since;
        if quiet < QUIET {
            return self.told.take().map(|_| 0);
        }
        let is_due = self.told.is_none_or(|told| now - told >= QUIET);
        is_due.then(|| {
            self.told = Some(now);
            quiet.as_millis() as u64
        })
    }
}

impl Keeper {
    /// One round.
    pub(super) fn watch(&mut self) {
        self.rounds += 1;
        let with_usage = self.rounds.is_multiple_of(USAGE_ROUNDS);
        let (mut progress, mut usage, mut quiet) = (Vec::new(), Vec::new(), Vec::new());
        let now = Instant::now();
        let work = self.place.work.clone();
        for (id, attempt) in self.attempts.iter_mut().filter(|(_, a)| a.has_process()) {
            progress.extend(attempt.watch.progress(*id, &format!("{work}/{}", attempt.guardian_pid)));
            if with_usage {
                let used = attempt.watch.usage(*id, attempt.guardian_pid);
                if let Some(quiet_ms) = attempt.watch.quiet.look(used.cpu_ms, now) {
                    quiet.push((Quiet { attempt: *id, quiet_ms }, attempt.link));
                }
                usage.push(used);
            }
        }
        for body in progress {
            self.say(kind::PROGRESS, &body);
        }
        for body in usage {
            self.say(kind::USAGE, &body);
        }
        for (body, link) in quiet {
            self.say(kind::QUIET, &body);
            // Its answer has the length of the tape.
            if let Some(link) = link.filter(|_| body.quiet_ms > 0) {
                let nonce = self.place.nonce.clone();
                self.say_to(link, says::kind::HELLO, &says::Hello { nonce });
            }
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

    /// A guardian has said how long its tape is.
    pub(super) fn wrote(&mut self, tape: u64) {
        self.quiet.wrote(tape, Instant::now());
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
        // Out of its range it is no fraction: most likely a percentage, and 100 % would be a lie.
        let fraction = value.get("progress").and_then(serde_json::Value::as_f64);
        let fraction = fraction.filter(|f| (0.0..=1.0).contains(f));
        let message = value.get("message").and_then(serde_json::Value::as_str).map(|text| {
            let end = text.floor_char_boundary(MESSAGE);
            text[..end].to_owned()
        });
        (fraction.is_some() || message.is_some()).then_some(Progress { attempt, fraction, message })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use reeve_protocol::ids::TaskId;

    #[test]
    fn silence_begins_with_the_last_output_or_cpu_and_is_told_once_a_minute() {
        let mut silence = Silence::default();
        let at = |begin: Instant, s: u64| begin + Duration::from_secs(s);
        let begin = Instant::now();
        assert_eq!(silence.look(1000, begin), None);
        assert_eq!(silence.look(1030, at(begin, 5)), None, "30 ms of 5 s are work");
        assert_eq!(silence.look(1031, at(begin, 60)), None);
        assert_eq!(silence.look(1031, at(begin, 65)), Some(60_000));
        assert_eq!(silence.look(1031, at(begin, 70)), None, "it was told");
        assert_eq!(silence.look(1031, at(begin, 125)), Some(120_000));
        silence.wrote(0, at(begin, 126));
        assert_eq!(silence.look(1031, at(begin, 185)), Some(180_000), "no more than before was written");
        silence.wrote(7, at(begin, 186));
        assert_eq!(silence.look(1031, at(begin, 190)), Some(0), "that is over");
        assert_eq!(silence.look(1031, at(begin, 195)), None);
        assert_eq!(silence.look(1031, at(begin, 250)), Some(64_000));
    }

    #[test]
    fn the_last_whole_line_that_makes_sense_counts() {
        let id = TaskId::single(1).attempt(1);
        let said = |text: &str| last_progress(id, text.as_bytes()).map(|p| (p.fraction, p.message));
        assert_eq!(said("{\"progress\":0.4,\"message\":\"a\"}\n"), Some((Some(0.4), Some("a".into()))));
        assert_eq!(said("{\"progress\":0.4}\n{\"progress\":0.5"), Some((Some(0.4), None)));
        assert_eq!(said("{\"progress\":0.4}\ngarbage\n[1]\n"), Some((Some(0.4), None)));
        assert_eq!(
            said("{\"progress\":42,\"message\":\"a\"}\n"),
            Some((None, Some("a".into()))),
            "a percentage"
        );
        for nothing in ["", "\n", "{}", "{}\n", "{\"progress\":7}\n", "{\"progress\":\"x\"}\n"] {
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
