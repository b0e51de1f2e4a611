//! `reeve submit --file` and `reeve queue publish --file`: lines go out while answers come in, each after its commit.
use super::context::Context;
use super::error::{Error, note};
use crate::client::NDJSON;
use bytes::Bytes;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use reeve_protocol::api::{LineReply, PublishedLines};
use reeve_protocol::text::Clean;
use reeve_protocol::units::{show_count, show_duration};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, IsTerminal as _, Read};
use std::time::Instant;
use tokio::sync::mpsc;

/// What is read at once.
const CHUNK: usize = 64 * 1024;
/// Pieces on their way: enough to keep the connection full, little enough to hold no file in memory.
const AHEAD: usize = 8;
/// Failed lines that are told one by one.
const TOLD: u64 = 20;

/// What the lines are, and where they go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lines<'a> {
    /// Jobs.
    Jobs,
    /// Messages for the queue of this path; the same token publishes the same lines once.
    Messages(&'a str, Option<&'a str>),
}

/// Submits or publishes every line of the file.
pub async fn run(path: &str, lines: Lines<'_>, context: &mut Context) -> Result<(), Error> {
    let source: Box<dyn Read + Send> = if path == "-" {
        Box::new(io::stdin())
    } else {
        Box::new(File::open(path).map_err(Error::input(path))?)
    };
    let client = context.client()?;
    let bar = bar(lines);
    let (tx, rx) = mpsc::channel(AHEAD);
    // A thread, because standard input and files have no asynchronous reading.
    let reader = std::thread::spawn({
        let bar = bar.clone();
        move || feed(source, &tx, &bar)
    });
    let started = Instant::now();
    let mut count = Count { lines, done: 0, failed: 0 };
    let (target, key) = match lines {
        Lines::Jobs => ("/v1/jobs", None),
        Lines::Messages(target, key) => (target, key),
    };
    let mut headers = vec![("content-type", NDJSON)];
    headers.extend(key.map(|key| ("idempotency-key", key)));
    let mut answers = client.upload(target, &headers, rx).await?;
    let received = loop {
        match answers.next().await {
            Some(Ok(line)) => count.line(&line, &bar, context)?,
            Some(Err(problem)) => break Err(problem),
            None => break Ok(()),
        }
    };
    bar.finish_and_clear();
    context.flush()?;
    let seconds = started.elapsed().as_secs_f64();
    note(count.summary(seconds));
    if let Err(problem) = received {
        note("what became of the lines without an answer is unknown");
        return Err(problem.into());
    }
    // The answer has ended, so the whole file has been read, or the coordinator has refused to read on.
    if reader.is_finished()
        && let Ok(Err(error)) = reader.join()
    {
        return Err(Error::Input { what: path.to_owned(), source: error });
    }
    if count.failed > 0 { Err(Error::Exit(1)) } else { Ok(()) }
}

/// Sends the file. It stops early when nobody takes the pieces any more.
fn feed(mut source: impl Read, tx: &mpsc::Sender<Bytes>, bar: &ProgressBar) -> io::Result<()> {
    loop {
        let mut chunk = vec![0; CHUNK];
        let read = match source.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        chunk.truncate(read);
        bar.inc_length(chunk.split(|b| *b == b'\n').skip(1).count() as u64);
        if tx.blocking_send(Bytes::from(chunk)).is_err() {
            return Ok(());
        }
    }
}

fn bar(lines: Lines<'_>) -> ProgressBar {
    let target =
        if io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(Some(0), target);
    let what = if lines == Lines::Jobs { "jobs" } else { "messages" };
    let template = format!("{{bar:30}} {{human_pos}}/{{human_len}} {what}  {{per_sec}}  {{elapsed}}");
    if let Ok(style) = ProgressStyle::with_template(&template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}

struct Count<'a> {
    lines: Lines<'a>,
    done: u64,
    failed: u64,
}

/// A line of an answer.
#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Answer {
    /// To one line.
    Line(LineReply),
    /// To a portion of messages.
    Portion(PublishedLines),
}

impl Count<'_> {
    fn line(&mut self, line: &[u8], bar: &ProgressBar, context: &mut Context) -> Result<(), Error> {
        let answer: Answer = serde_json::from_slice(line).map_err(|error| {
            let text = format!("a line of the answer is not what was expected: {error}");
            reeve_protocol::Problem::new(reeve_protocol::Code::Internal, text)
        })?;
        match answer {
            Answer::Line(LineReply { id: Some(id), .. }) => {
                bar.inc(1);
                self.done += 1;
                if !context.json {
                    context.line(id.to_string())?;
                }
            }
            Answer::Line(LineReply { line, error, .. }) => {
                bar.inc(1);
                self.failed += 1;
                if self.failed <= TOLD {
                    let said =
                        error.as_ref().map_or_else(|| "no reason given".to_owned(), ToString::to_string);
                    bar.suspend(|| note(format!("line {line}: {}", Clean::block(&said))));
                }
            }
            // The last one counts everything again.
            Answer::Portion(all) if all.done => {}
            Answer::Portion(portion) => {
                let taken = portion.published + portion.replayed;
                bar.inc(taken);
                self.done += taken;
                if let (Some(first), Some(last), false) = (&portion.first, &portion.last, context.json) {
                    context.line(format!("{}-{}", Clean::line(first), Clean::line(last)))?;
                }
            }
        }
        if context.json {
            context.raw(line)?;
            context.raw(b"\n")?;
        }
        Ok(())
    }

    fn summary(&self, seconds: f64) -> String {
        let what = if self.lines == Lines::Jobs { "submitted" } else { "published" };
        let mut text = format!("{} {what}", show_count(self.done));
        if self.failed > 0 {
            // Writing into a string cannot fail.
            _ = write!(text, ", {} failed", show_count(self.failed));
        }
        if self.failed > TOLD {
            _ = write!(text, " (the first {TOLD} are shown)");
        }
        _ = write!(text, ", {}", show_duration(seconds));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_counts_both_kinds() {
        let count = |lines, done, failed| Count { lines, done, failed }.summary(1.5);
        assert_eq!(count(Lines::Jobs, 1200, 0), "1,200 submitted, 1.5s");
        assert_eq!(count(Lines::Messages("q", None), 2, 1), "2 published, 1 failed, 1.5s");
    }

    #[test]
    fn the_file_is_sent_whole_and_its_lines_are_counted() {
        let (tx, mut rx) = mpsc::channel(100);
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::hidden());
        let text = "{}\n".repeat(50_000);
        feed(text.as_bytes(), &tx, &bar).unwrap();
        drop(tx);
        let mut sent = Vec::new();
        while let Ok(bytes) = rx.try_recv() {
            sent.extend_from_slice(&bytes);
        }
        assert_eq!((sent.len(), bar.length()), (text.len(), Some(50_000)));
    }
}
