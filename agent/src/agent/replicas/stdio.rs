//! A replica that speaks JSON lines: questions into its standard input, answers from its standard output, through the two
//! pipes that its guardian holds open.
use super::line::{self, MAX_LINE, Said};
use super::{Replicas, answer};
use crate::guardian::replica::{IN, OUT};
use reeve_protocol::ids::AttemptId;
use reeve_protocol::time::Wall;
use reeve_protocol::wire::{Answer, Progress, Request, outcome, replica_phase as phase};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::unix::pipe::{OpenOptions, Receiver, Sender};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// A write of so many bytes into a pipe is taken whole or not at all, so that this process may end at any instruction and
/// leave no half of a line.
const ATOMIC: usize = 4096;
/// While it lies there a longer line is being written, of which only a part may have gone.
const PARTIAL: &str = "partial";
/// Lies there once the replica has said that it is ready.
const READY: &str = "ready";
/// Lines that make no sense, in a row, before the replica is started anew.
const PATIENCE: u32 = 3;
/// For a replica that has closed its output to end.
const CLOSED: Duration = Duration::from_secs(2);
/// Longest line of a replica that may answer several requests with one.
const MAX_TOGETHER: usize = 16 * MAX_LINE;
/// Bytes of one read.
const READ: usize = 64 * 1024;

/// The two pipes.
pub(super) struct Stdio {
    attempt: AttemptId,
    /// Its lines are arrays.
    together: bool,
    dir: PathBuf,
    output: Receiver,
    input: Mutex<Option<Sender>>,
    waiting: Mutex<Vec<u8>>,
    asked: Notify,
    heard: Mutex<Heard>,
    tasks: Mutex<Vec<AbortHandle>>,
}

/// What was read and not judged yet.
#[derive(Default)]
struct Heard {
    bytes: Vec<u8>,
    /// A line that is too long is being skipped.
    skipping: bool,
    bad: u32,
    ready: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Stdio {
    pub(super) fn open(attempt: AttemptId, dir: &Path, together: bool) -> io::Result<Self> {
        let input = OpenOptions::new().open_sender(dir.join(IN))?;
        let output = OpenOptions::new().open_receiver(dir.join(OUT))?;
        // The agent before ended within a line: here it ends.
        let waiting = if dir.join(PARTIAL).exists() { b"\n".to_vec() } else { Vec::new() };
        Ok(Self {
            attempt,
            together,
            dir: dir.to_owned(),
            output,
            input: Mutex::new(Some(input)),
            waiting: Mutex::new(waiting),
            asked: Notify::new(),
            heard: Mutex::new(Heard { ready: dir.join(READY).exists(), ..Heard::default() }),
            tasks: Mutex::default(),
        })
    }

    /// Serves until it is closed or the replica is gone.
    pub(super) fn run(self: Arc<Self>, replicas: &Replicas) {
        let Some(input) = lock(&self.input).take() else { return };
        let stdio = self.clone();
        let write = tokio::spawn(async move {
            loop {
                if let Err(error) = stdio.write(&input).await {
                    return tracing::debug!(attempt = %stdio.attempt, %error, "a replica takes nothing");
                }
            }
        });
        let (stdio, replicas) = (self.clone(), replicas.clone());
        let read = tokio::spawn(async move {
            while stdio.output.readable().await.is_ok() && stdio.read(&replicas) {}
            // Most have ended when nothing comes of them any more, and that says why.
            tokio::time::sleep(CLOSED).await;
            let why = "it has closed its standard output and goes on: nothing can be heard of it".to_owned();
            replicas.tell(stdio.attempt, phase::BROKEN, None, Some(why));
        });
        lock(&self.tasks).extend([write.abort_handle(), read.abort_handle()]);
    }

    /// Whether it has said that it takes requests.
    pub(super) fn is_ready(&self) -> bool {
        lock(&self.heard).ready
    }

    /// Nothing is said or heard any more.
    pub(super) fn close(&self) {
        for task in lock(&self.tasks).drain(..) {
            task.abort();
        }
    }

    /// One more question.
    pub(super) fn ask(&self, request: &Request) {
        line::question(request, deadline(request), &mut lock(&self.waiting));
        self.asked.notify_one();
    }

    /// Several questions in one line.
    pub(super) fn ask_together(&self, requests: &[Request]) {
        line::questions(requests, deadline, &mut lock(&self.waiting));
        self.asked.notify_one();
    }

    /// Writes what waits, once there is something.
    async fn write(&self, input: &Sender) -> io::Result<()> {
        let bytes = std::mem::take(&mut *lock(&self.waiting));
        if bytes.is_empty() {
            self.asked.notified().await;
            return Ok(());
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let n = whole_lines(rest);
            let (piece, after) = rest.split_at(n);
            if n > ATOMIC {
                std::fs::write(self.dir.join(PARTIAL), "")?;
            }
            write_all(input, piece).await?;
            if n > ATOMIC || self.dir.join(PARTIAL).exists() && piece == b"\n" {
                let _ = std::fs::remove_file(self.dir.join(PARTIAL));
            }
            rest = after;
        }
        Ok(())
    }

    /// Takes everything that is there. False: nothing will come any more.
    fn read(&self, replicas: &Replicas) -> bool {
        let mut heard = lock(&self.heard);
        let mut answers = Vec::new();
        let more = loop {
            let from = heard.bytes.len();
            heard.bytes.resize(from + READ, 0);
            let read = self.output.try_read(&mut heard.bytes[from..]);
            let n = *read.as_ref().unwrap_or(&0);
            heard.bytes.truncate(from + n);
            match read {
                Ok(0) => break false,
                Ok(_) => self.judge_all(&mut heard, replicas, &mut answers),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break true,
                Err(_) => break false,
            }
            if answers.len() >= 1024 {
                // A flood starves nobody: the rest is taken in the next turn.
                break true;
            }
        };
        if heard.bytes.is_empty() && heard.bytes.capacity() > 4 * READ {
            heard.bytes = Vec::new();
        }
        drop(heard);
        replicas.answer(answers);
        more
    }

    /// The replica has ended: takes the rest of what it said.
    pub(super) fn read_all(&self, replicas: &Replicas) {
        for _ in 0..1024 {
            let before = lock(&self.heard).bytes.len();
            if !self.read(replicas) || lock(&self.heard).bytes.len() == before {
                return;
            }
        }
    }

    fn judge_all(&self, heard: &mut Heard, replicas: &Replicas, answers: &mut Vec<Answer>) {
        let bytes = std::mem::take(&mut heard.bytes);
        let mut rest = &bytes[..];
        while let Some(end) = rest.iter().position(|b| *b == b'\n') {
            let all = match std::mem::take(&mut heard.skipping) {
                true => vec![Said::Empty],
                false if self.together => line::judge_all(&rest[..end]),
                false => vec![line::judge(&rest[..end])],
            };
            for said in all {
                self.heard(said, heard, replicas, answers);
            }
            rest = &rest[end + 1..];
        }
        if heard.skipping {
            rest = &[];
        } else if rest.len() > if self.together { MAX_TOGETHER } else { MAX_LINE } {
            heard.skipping = true;
            self.heard(line::too_long(rest), heard, replicas, answers);
            rest = &[];
        }
        heard.bytes = rest.to_vec();
    }

    fn heard(&self, said: Said, heard: &mut Heard, replicas: &Replicas, answers: &mut Vec<Answer>) {
        let attempt = self.attempt;
        match said {
            Said::Ready if heard.ready => {}
            Said::Ready => {
                heard.ready = true;
                // It is said once, and the next agent wants to know.
                if let Err(error) = std::fs::write(self.dir.join(READY), "") {
                    tracing::warn!(%attempt, %error, "that a replica is ready cannot be noted");
                }
                replicas.tell(attempt, phase::READY, None, None);
            }
            Said::Progress(None, fraction, message) if !heard.ready => {
                let loaded = fraction.is_some_and(|f| f >= 1.0);
                replicas.tell(
                    attempt,
                    if loaded { phase::WARMING } else { phase::LOADING },
                    fraction,
                    message,
                );
            }
            Said::Progress(Some(id), fraction, message) => {
                if let Some(attempt) = id.attempt {
                    replicas.progress(&Progress { attempt, fraction, message });
                }
            }
            Said::Empty | Said::Progress(None, ..) => {}
            Said::Result(id, body) => {
                heard.bad = 0;
                answers.push(answer(attempt, id, outcome::RESULT, body, false));
            }
            Said::Error(id, body, retry) => {
                heard.bad = 0;
                answers.push(answer(attempt, id, outcome::ERROR, body, retry));
            }
            Said::Bad(id, why) => self.bad(id, why, heard, replicas, answers),
        }
    }

    /// A line that makes no sense. Whatever a replica prints while it loads is taken for words about that.
    fn bad(
        &self,
        id: Option<reeve_protocol::wire::RequestId>,
        why: String,
        heard: &mut Heard,
        replicas: &Replicas,
        answers: &mut Vec<Answer>,
    ) {
        if let Some(id) = id.filter(|id| replicas.has_request(self.attempt, *id)) {
            answers.push(answer(self.attempt, id, outcome::BAD, why.into_bytes(), false));
            return;
        }
        if !heard.ready {
            return replicas.tell(self.attempt, phase::LOADING, None, Some(why));
        }
        heard.bad += 1;
        tracing::debug!(attempt = %self.attempt, why, "a replica says something strange");
        if heard.bad >= PATIENCE {
            if let Some(id) = replicas.only_request(self.attempt) {
                answers.push(answer(self.attempt, id, outcome::BAD, why.clone().into_bytes(), false));
            }
            replicas.tell(
                self.attempt,
                phase::BROKEN,
                None,
                Some(format!("{PATIENCE} lines in a row make no sense; the last: {why}")),
            );
        }
    }
}

/// When nobody waits for the answer any more.
fn deadline(request: &Request) -> Option<String> {
    (request.timeout_ms > 0)
        .then(|| Wall(Wall::now().0.saturating_add(request.timeout_ms.min(1 << 50) as i64)).to_string())
}

/// How much of it goes in one write: as many whole lines as are taken together, else the first line.
fn whole_lines(bytes: &[u8]) -> usize {
    let near = &bytes[..bytes.len().min(ATOMIC)];
    match near.iter().rposition(|b| *b == b'\n') {
        Some(end) => end + 1,
        None => bytes.iter().position(|b| *b == b'\n').map_or(bytes.len(), |end| end + 1),
    }
}

async fn write_all(input: &Sender, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        input.writable().await?;
        match input.try_write(bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_go_together_as_long_as_the_pipe_takes_them_whole() {
        let short = b"{\"a\":1}\n".repeat(1000);
        assert_eq!(whole_lines(&short), 4096);
        assert_eq!(whole_lines(b"a\nb\n"), 4);
        let mut long = vec![b'x'; 10_000];
        long.extend_from_slice(b"\nnext\n");
        assert_eq!(whole_lines(&long), 10_001);
    }
}
