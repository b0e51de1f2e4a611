//! Output of an attempt: what is kept, what is there, or what comes.
//!
//! An ended attempt's tape lies in the store or in a segment; a running one's is asked from its machine. A follower
//! goes from one to the other without a gap, since both count the same bytes.
use super::reply::{Answer, Failure, NDJSON};
use super::request::Cx;
use super::select;
use super::stream::{FOLLOWER, Gone, Out, Shape, respond};
use super::tape::{Form, Reader};
use super::{App, jobs};
use crate::store::query::records::{self, AttemptOutput};
use axum::http::{HeaderName, HeaderValue};
use reeve_protocol::{Code, Problem, TaskId, tape};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

/// Read from a segment at once.
const PIECE: usize = 256 * 1024;
/// A machine that has given nothing for so long has given what is there.
const QUIET: Duration = Duration::from_millis(200);
/// The same after a lot has come: a busy machine, or a busy network, pauses in the middle of it.
const QUIET_AFTER_MUCH: Duration = Duration::from_secs(1);
const MUCH: usize = 1024 * 1024;
/// Waits shorter than this are the network's; longer ones are the job's, which writes now what it is waited for.
const PAUSE: Duration = Duration::from_millis(5);
/// All pauses together after which what comes is new.
const PAUSES: Duration = Duration::from_secs(1);
/// All waits together, pauses or not.
const WAITS: Duration = Duration::from_secs(10);
/// No machine keeps more of an attempt (64 MiB of output, and what its tape says about them), so whatever comes after as
/// much is new.
const MOST_KEPT: usize = 128 * 1024 * 1024;
/// How long the machine of an attempt that has ended may take for its next piece.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// Between two looks at an attempt whose machine gives nothing: its end is being recorded, or it is away.
const LOOK: Duration = Duration::from_millis(500);
/// Pieces from a machine that may wait here.
const PIECES: usize = 16;

/// `GET /v1/jobs/{job}/logs`.
pub(super) async fn logs(cx: Cx) -> Answer {
    let query = cx.query(&["attempt", "stream", "from", "follow", "tail"])?;
    let only = match query.text("stream") {
        None | Some("") => 0,
        Some("stdout") => tape::STDOUT,
        Some("stderr") => tape::STDERR,
        Some(_) => return Err(Problem::new(Code::BadValue, "stream must be stdout or stderr").into()),
    };
    let form = if cx.accepts(NDJSON) { Form::Lines } else { Form::Raw };
    let from = query.number("from", 0..=i64::MAX as u64)?.unwrap_or(0);
    let tail = query.number("tail", 0..=1_000_000usize)?;
    let task = select::one(&cx.app, &cx.caller, cx.param(0))?;
    let view = jobs::view(&cx.app, task)?;
    if let Some(array) = &view.array {
        let problem =
            Problem::new(Code::BadId, format!("{task} is an array; each of its tasks has its own output"));
        return Err(problem.hint(format!("name one task, such as {task}.{}", array.from)).into());
    }
    let asked = query.number("attempt", 1..=u32::MAX)?;
    if asked.is_some_and(|attempt| attempt > view.attempt) {
        return Err(Problem::new(Code::NotFound, format!("{task} has had {} attempts", view.attempt)).into());
    }
    let attempt = asked.unwrap_or(view.attempt);
    let work = Follower {
        app: cx.app.clone(),
        task,
        attempt,
        follow: query.flag("follow")?,
        reader: Reader::new(form, only, from, tail),
        from,
    };
    let media_type = if form == Form::Raw { "text/plain; charset=utf-8" } else { NDJSON };
    let mut response =
        respond(&cx.app, &Shape { media_type, size: FOLLOWER, patience: None }, |out| work.run(out));
    let headers = response.headers_mut();
    headers.insert(HeaderName::from_static("reeve-attempt"), HeaderValue::from(attempt));
    headers.insert(HeaderName::from_static("reeve-state"), HeaderValue::from_static(view.state.as_str()));
    Ok(response)
}

struct Follower {
    app: Arc<App>,
    task: TaskId,
    /// 0 while the first is waited for.
    attempt: u32,
    follow: bool,
    reader: Reader,
    from: u64,
}

impl Follower {
    async fn run(mut self, out: Out) -> Result<(), Gone> {
        let result = self.copy(&out).await;
        let mut rest = Vec::new();
        self.reader.finish(&mut rest);
        out.send(rest).await?;
        if let Err(Stop::Failed(Failure(problem))) = result {
            // The status is out already; the log says what broke, and the answer ends here.
            tracing::warn!(job = %self.task, attempt = self.attempt, %problem, "a log could not be read on");
        }
        Ok(())
    }

    async fn copy(&mut self, out: &Out) -> Result<(), Stop> {
        if self.attempt == 0 && !self.first_attempt().await? {
            return Ok(());
        }
        // The position counts from here: a machine is asked from the byte that the caller named.
        self.reader.restart(self.from);
        loop {
            let ended = self.app.hub.ended(self.task);
            let Some(attempt) = self.look()? else { return Ok(()) };
            if attempt.ended {
                return self.kept(&attempt, out).await;
            }
            self.live(&attempt, out).await?;
            if !self.follow || self.reader.is_damaged() {
                return Ok(());
            }
            let _ = timeout(LOOK, ended).await;
        }
    }

    /// Waits until there is an attempt; false when there will be none.
    async fn first_attempt(&mut self) -> Result<bool, Stop> {
        let mut seq = self.app.hub.seq();
        loop {
            seq.mark_unchanged();
            let view = jobs::view(&self.app, self.task)?;
            if view.attempt > 0 {
                self.attempt = view.attempt;
                return Ok(true);
            }
            if !self.follow || view.state.is_terminal() || seq.changed().await.is_err() {
                return Ok(false);
            }
        }
    }

    fn look(&self) -> Result<Option<AttemptOutput>, Failure> {
        let (job, index) = (self.task.job, self.task.index_key());
        Ok(self.app.reads.point(|conn| records::attempt_output(conn, job, index, self.attempt))?)
    }

    /// The tape of an ended attempt, read from its start: records are found by walking from one to the next.
    async fn kept(&mut self, attempt: &AttemptOutput, out: &Out) -> Result<(), Stop> {
        let position = self.reader.position();
        self.reader.skip_to(position);
        let Some(segment) = attempt.segment else {
            let (job, index) = (self.task.job, self.task.index_key());
            let tape = self.app.reads.point(|conn| records::small_tape(conn, job, index, self.attempt));
            return self.pass(&tape.map_err(Failure::from)?, out).await;
        };
        let mut at = 0;
        loop {
            let segments = self.app.segments.clone();
            let read = tokio::task::spawn_blocking(move || segments.read(segment, at, PIECE)).await;
            let piece = match read {
                Ok(Ok(piece)) => piece,
                Ok(Err(error)) => return Err(Stop::Failed(unreadable(&error))),
                Err(_) => return Err(Stop::Failed(unreadable(&"the read was given up"))),
            };
            if piece.is_empty() {
                return Ok(());
            }
            at += piece.len() as u64;
            self.pass(&piece, out).await?;
        }
    }

    /// What its machine has, and with `follow` what comes, until the machine ends it.
    async fn live(&mut self, attempt: &AttemptOutput, out: &Out) -> Result<(), Stop> {
        let Some(machine) = &attempt.machine_id else { return Ok(()) };
        let (into, mut pieces) = mpsc::channel(PIECES);
        let position = self.reader.position();
        self.reader.restart(position);
        if !self.app.sessions.follow(machine, self.task.attempt(self.attempt), position, into) {
            return Ok(());
        }
        let mut backlog = Backlog::default();
        while !backlog.is_over() {
            let asked = Instant::now();
            let Ok(piece) = timeout(backlog.quiet(), pieces.recv()).await else { break };
            let Some(piece) = piece else { return Ok(()) };
            backlog.add(asked.elapsed(), piece.len());
            self.pass(&piece, out).await?;
        }
        if !self.follow {
            return Ok(());
        }
        let mut due = Vec::new();
        self.reader.flush_tail(&mut due);
        out.send(due).await?;
        while let Some(piece) = self.next(&mut pieces).await {
            self.pass(&piece, out).await?;
        }
        Ok(())
    }

    /// The machine's next piece. An attempt can end and be forgotten before its machine has opened its output: then
    /// nothing comes, and what was kept is read instead.
    async fn next(&self, pieces: &mut mpsc::Receiver<Vec<u8>>) -> Option<Vec<u8>> {
        loop {
            let ended = self.app.hub.ended(self.task);
            if matches!(self.look(), Ok(Some(attempt)) if attempt.ended) {
                return timeout(LAST_WORDS, pieces.recv()).await.ok().flatten();
            }
            tokio::select! {
                piece = pieces.recv() => return piece,
                _ = timeout(LOOK, ended) => {}
            }
        }
    }

    async fn pass(&mut self, piece: &[u8], out: &Out) -> Result<(), Stop> {
        let mut shown = Vec::new();
        self.reader.feed(piece, &mut shown);
        Ok(out.send(shown).await?)
    }
}

/// Where what was there ends and what is written meanwhile begins: nobody says so, and a job may never pause. Only time
/// spent waiting for the machine counts; a reader may be as slow as it likes and still gets everything.
#[derive(Debug, Default)]
struct Backlog {
    waits: Duration,
    pauses: Duration,
    bytes: usize,
}

impl Backlog {
    fn add(&mut self, waited: Duration, bytes: usize) {
        self.waits += waited;
        if waited >= PAUSE {
            self.pauses += waited;
        }
        self.bytes += bytes;
    }

    fn quiet(&self) -> Duration {
        if self.bytes < MUCH { QUIET } else { QUIET_AFTER_MUCH }
    }

    fn is_over(&self) -> bool {
        // What comes faster than a job usually writes is a backlog, whatever pauses it comes with.
        let pauses = PAUSES + Duration::from_secs((self.bytes / MUCH) as u64);
        self.pauses >= pauses || self.waits >= WAITS || self.bytes >= MOST_KEPT
    }
}

/// Why copying ended early.
enum Stop {
    Gone,
    Failed(Failure),
}

impl From<Gone> for Stop {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

fn unreadable(error: &dyn std::fmt::Display) -> Failure {
    Problem::new(Code::Internal, format!("the output could not be read: {error}")).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backlog_ends_when_the_job_is_what_is_waited_for() {
        let after = |steps: usize, wait_ms, bytes| {
            let mut backlog = Backlog::default();
            for _ in 0..steps {
                backlog.add(Duration::from_millis(wait_ms), bytes);
            }
            backlog.is_over()
        };
        assert!(!after(1000, 1, 1024), "a long backlog over a quick network");
        assert!(!after(9, 100, 10), "a job that has written for less than a second");
        assert!(after(10, 100, 10), "a job that writes ten lines a second");
        assert!(!after(40, 100, 1024 * 1024), "a long backlog over a slow network");
        assert!(after(10_000, 1, 10), "a job that writes a thousand lines a second");
        assert!(after(128, 0, 1024 * 1024), "a job that never stops writing");
    }
}
