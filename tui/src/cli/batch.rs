//! `reeve submit --file`: lines go out while answers come in, each after its own commit.
use super::context::Context;
use super::error::{Error, note};
use crate::client::NDJSON;
use bytes::Bytes;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use reeve_protocol::api::LineReply;
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

/// Submits every line of the file.
pub async fn run(path: &str, context: &mut Context) -> Result<(), Error> {
    let source: Box<dyn Read + Send> = if path == "-" {
        Box::new(io::stdin())
    } else {
        Box::new(File::open(path).map_err(Error::input(path))?)
    };
    let client = context.client()?;
    let bar = bar();
    let (tx, rx) = mpsc::channel(AHEAD);
    // A thread, because standard input and files have no asynchronous reading.
    let reader = std::thread::spawn({
        let bar = bar.clone();
        move || feed(source, &tx, &bar)
    });
    let started = Instant::now();
    let mut count = Count::default();
    let mut lines = client.upload("/v1/jobs", &[("content-type", NDJSON)], rx).await?;
    let received = loop {
        match lines.next().await {
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

fn bar() -> ProgressBar {
    let target =
        if io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(Some(0), target);
    if let Ok(style) =
        ProgressStyle::with_template("{bar:30} {human_pos}/{human_len} jobs  {per_sec}  {elapsed}")
    {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}

#[derive(Default)]
struct Count {
    submitted: u64,
    failed: u64,
}

impl Count {
    fn line(&mut self, line: &[u8], bar: &ProgressBar, context: &mut Context) -> Result<(), Error> {
        bar.inc(1);
        let reply: LineReply = serde_json::from_slice(line).map_err(|error| {
            let text = format!("a line of the answer is not what was expected: {error}");
            reeve_protocol::Problem::new(reeve_protocol::Code::Internal, text)
        })?;
        match (&reply.id, &reply.error) {
            (Some(id), _) => {
                self.submitted += 1;
                if !context.json {
                    context.line(id.to_string())?;
                }
            }
            (None, error) => {
                self.failed += 1;
                if self.failed <= TOLD {
                    let said =
                        error.as_ref().map_or_else(|| "no reason given".to_owned(), ToString::to_string);
                    bar.suspend(|| note(format!("line {}: {}", reply.line, Clean::block(&said))));
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
        let mut text = format!("{} submitted", show_count(self.submitted));
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
        assert_eq!(Count { submitted: 1200, failed: 0 }.summary(1.5), "1,200 submitted, 1.5s");
        assert_eq!(Count { submitted: 2, failed: 1 }.summary(1.5), "2 submitted, 1 failed, 1.5s");
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
