//! `submit` of lines: one job a line in, one answer a line out, each after its own commit, bodies and answers overlapping.
//!
//! Lines are grouped by what has arrived, never by waiting, so that a slow sender gets each answer at once and a fast
//! one pays for a commit once in a thousand lines. Several groups are on their way at once; answers keep the order.
use super::App;
use super::reply::{Answer, Failure, NDJSON, unexpected};
use super::request::{BODY, Cx, Pieces};
use super::stream::{BATCH, Gone, Out, Shape, respond};
use super::submit::{key_for, part_key, used};
use crate::effect::Reply;
use crate::input::{Call, Key};
use crate::row::Caller;
use bytes::{Buf, Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::future::FutureExt;
use futures_util::stream::FuturesOrdered;
use reeve_protocol::api::LineReply;
use reeve_protocol::error::parse_json;
use reeve_protocol::{Code, JobId, JobSpec, Problem};
use std::io::Write;
use std::sync::Arc;

/// Lines in one call to the engine.
const GROUP: usize = 1000;
/// Calls on their way at once: while one commits, the next are parsed and decided.
const AHEAD: usize = 4;

/// Answers with a stream of `LineReply`.
pub(super) fn submit(cx: Cx, key: Option<String>) -> Answer {
    let (app, caller) = (cx.app.clone(), cx.caller.clone());
    let body = cx.pieces()?;
    let shape = Shape { media_type: NDJSON, size: BATCH, patience: None };
    let work = Batch { app: app.clone(), caller, key };
    Ok(respond(&app, &shape, |out| work.run(body, out)))
}

struct Batch {
    app: Arc<App>,
    caller: Caller,
    key: Option<String>,
}

/// What becomes of one line.
#[derive(Debug)]
enum Slot {
    /// It goes to the engine with its group.
    Asked,
    /// Its key was used for this job before.
    Before(JobId),
    /// It is wrong.
    Wrong(Box<Problem>),
}

/// Lines that go to the engine together.
#[derive(Debug, Default)]
struct Group {
    /// Each line's number and fate, in order.
    slots: Vec<(u64, Slot)>,
    specs: Vec<(JobSpec, Option<Key>)>,
}

impl Batch {
    async fn run(self, mut body: Pieces, out: Out) -> Result<(), Gone> {
        let (mut lines, mut flights) = (Lines::default(), FuturesOrdered::new());
        let (mut open, mut broken) = (true, None);
        while open || !flights.is_empty() {
            tokio::select! {
                biased;
                Some(answers) = flights.next(), if !flights.is_empty() => out.send(answers).await?,
                piece = body.next(), if open && flights.len() < AHEAD => match piece {
                    Ok(Some(piece)) => lines.feed(&piece),
                    Ok(None) => { open = false; lines.end(); }
                    Err(failure) => { open = false; broken = Some(failure); }
                },
            }
            // More may have arrived already; only what is not here yet is not waited for.
            while open && lines.ready() < GROUP && flights.len() < AHEAD {
                match body.next().now_or_never() {
                    Some(Ok(Some(piece))) => lines.feed(&piece),
                    Some(Ok(None)) => {
                        open = false;
                        lines.end();
                    }
                    Some(Err(failure)) => {
                        open = false;
                        broken = Some(failure);
                    }
                    None => break,
                }
            }
            while lines.ready() > 0 {
                if flights.len() >= AHEAD {
                    let Some(answers) = flights.next().await else { break };
                    out.send(answers).await?;
                }
                let group = self.group(&mut lines);
                flights.push_back(self.ask(group));
                // The first look at a call hands it to the engine, which then works while the next group is parsed.
                if let Some(Some(answers)) = flights.next().now_or_never() {
                    out.send(answers).await?;
                }
            }
        }
        match broken {
            // The line that was being received is answered, so that a sender sees how far it got.
            Some(Failure(problem)) => {
                out.line(&LineReply { line: lines.number + 1, id: None, error: Some(problem) }).await
            }
            None => Ok(()),
        }
    }

    fn group(&self, lines: &mut Lines) -> Group {
        let mut group = Group::default();
        while group.slots.len() < GROUP {
            let Some((number, line)) = lines.next() else { break };
            let slot = match line.and_then(|line| self.read(number, &line)) {
                Ok(Ok(keyed)) => {
                    group.specs.push(keyed);
                    Slot::Asked
                }
                Ok(Err(id)) => Slot::Before(id),
                Err(problem) => Slot::Wrong(Box::new(problem)),
            };
            group.slots.push((number, slot));
        }
        group
    }

    /// A line as a valid spec, or as the job that its key was used for.
    fn read(&self, number: u64, line: &[u8]) -> Result<Result<(JobSpec, Option<Key>), JobId>, Problem> {
        let spec: JobSpec = parse_json(line)?;
        spec.validate()?;
        let key = self.key.as_ref().map(|key| key_for(part_key(key, number), &spec));
        if let Some(key) = &key
            && let Some(id) = used(&self.app, &self.caller, key).map_err(|failure| failure.0)?
        {
            return Ok(Err(id));
        }
        Ok(Ok((spec, key)))
    }

    /// Asks for a group and renders its answers as one piece.
    fn ask(&self, group: Group) -> impl Future<Output = Vec<u8>> + use<> {
        let (app, caller) = (self.app.clone(), self.caller.clone());
        async move {
            let Group { slots, specs } = group;
            let answer = if specs.is_empty() {
                Ok(Reply::Many(Vec::new(), 0))
            } else {
                app.ask(&caller, Call::SubmitMany { specs, atomic: false }).await
            };
            match answer {
                Ok(Reply::Many(results, _)) => render(slots, results),
                Ok(other) => render_all(slots, &unexpected(&other).0),
                Err(Failure(problem)) => render_all(slots, &problem),
            }
        }
    }
}

fn render(slots: Vec<(u64, Slot)>, results: Vec<Result<JobId, Problem>>) -> Vec<u8> {
    let mut results = results.into_iter();
    let answers = slots.into_iter().map(|(number, slot)| {
        let answer = match slot {
            Slot::Asked => results
                .next()
                .unwrap_or_else(|| Err(Problem::new(Code::Internal, "the line got no answer").unknown())),
            Slot::Before(id) => Ok(id),
            Slot::Wrong(problem) => Err(*problem),
        };
        (number, answer)
    });
    write_lines(answers)
}

/// The whole group failed: each line that was asked for gets the problem.
fn render_all(slots: Vec<(u64, Slot)>, problem: &Problem) -> Vec<u8> {
    let asked = slots.iter().filter(|(_, slot)| matches!(slot, Slot::Asked)).count();
    render(slots, vec![Err(problem.clone()); asked])
}

/// Good lines are written by hand: at fifty thousand a second a serialiser for two numbers is felt.
fn write_lines(answers: impl Iterator<Item = (u64, Result<JobId, Problem>)>) -> Vec<u8> {
    let mut out = Vec::with_capacity(GROUP * 24);
    for (line, answer) in answers {
        // Writing into memory does not fail.
        let _ = match answer {
            Ok(id) => writeln!(out, "{{\"line\":{line},\"id\":{id}}}"),
            Err(problem) => {
                let reply = LineReply { line, id: None, error: Some(problem) };
                serde_json::to_writer(&mut out, &reply)
                    .map_err(Into::into)
                    .and_then(|()| out.write_all(b"\n"))
            }
        };
    }
    out
}

/// Cuts what arrives into lines. Blank lines are counted and skipped.
#[derive(Debug, Default)]
struct Lines {
    buffer: BytesMut,
    /// Bytes at the front that hold whole lines.
    whole: usize,
    /// Line feeds among them.
    feeds: usize,
    /// The last line given out.
    number: u64,
    /// The rest of a line that was refused for its length is still to come.
    skipping: bool,
    ended: bool,
}

impl Lines {
    #[expect(
        clippy::naive_bytecount,
        reason = "the compiler makes vector instructions of it; a crate would not be faster"
    )]
    fn feed(&mut self, mut piece: &[u8]) {
        if self.skipping {
            let Some(at) = piece.iter().position(|b| *b == b'\n') else { return };
            piece = &piece[at + 1..];
            self.skipping = false;
        }
        let before = self.buffer.len();
        self.buffer.extend_from_slice(piece);
        self.feeds += piece.iter().filter(|b| **b == b'\n').count();
        if let Some(at) = piece.iter().rposition(|b| *b == b'\n') {
            self.whole = before + at + 1;
        }
    }

    /// Nothing more comes: the last line needs no line feed.
    fn end(&mut self) {
        self.ended = true;
    }

    /// Lines that can be taken now.
    fn ready(&self) -> usize {
        let rest = self.buffer.len() - self.whole;
        self.feeds + usize::from(rest > BODY || (self.ended && rest > 0))
    }

    /// The next line that is not blank, with its number from 1.
    fn next(&mut self) -> Option<(u64, Result<Bytes, Problem>)> {
        loop {
            let line = if self.feeds > 0 {
                let end = self.buffer[..self.whole].iter().position(|b| *b == b'\n')?;
                let line = self.buffer.split_to(end).freeze();
                self.buffer.advance(1);
                self.whole -= end + 1;
                self.feeds -= 1;
                line
            } else if self.ready() > 0 {
                // Either the end, or too long before its end is even seen.
                self.skipping = !self.ended;
                self.whole = 0;
                self.buffer.split().freeze()
            } else {
                return None;
            };
            self.number += 1;
            if line.len() > BODY {
                let problem = Problem::new(Code::TooLarge, format!("the line is longer than {BODY} bytes"));
                return Some((self.number, Err(problem)));
            }
            if !line.iter().all(u8::is_ascii_whitespace) {
                return Some((self.number, Ok(line)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(lines: &mut Lines) -> Vec<(u64, String)> {
        let mut seen = Vec::new();
        while let Some((number, line)) = lines.next() {
            seen.push((number, line.map_or_else(|p| p.code, |l| String::from_utf8_lossy(&l).into_owned())));
        }
        seen
    }

    #[test]
    fn lines_survive_any_cutting_and_blank_ones_are_only_counted() {
        let text = b"one\n\n  \ntwo\r\nthree";
        let wanted = vec![(1, "one".to_owned()), (4, "two\r".to_owned()), (5, "three".to_owned())];
        for cut in 1..text.len() {
            let (mut lines, mut seen) = (Lines::default(), Vec::new());
            for piece in text.chunks(cut) {
                lines.feed(piece);
                seen.extend(all(&mut lines));
            }
            lines.end();
            seen.extend(all(&mut lines));
            assert_eq!(seen, wanted, "cut at {cut}");
        }
    }

    #[test]
    fn a_line_without_an_end_is_refused_before_it_fills_the_memory_and_the_next_is_read() {
        let mut lines = Lines::default();
        lines.feed(&vec![b'x'; BODY + 1]);
        assert_eq!(all(&mut lines), [(1, "too-large".to_owned())]);
        lines.feed(&vec![b'x'; BODY]);
        assert!(lines.buffer.is_empty(), "the rest of it is dropped as it comes");
        lines.feed(b"xx\nnext\n");
        assert_eq!(all(&mut lines), [(2, "next".to_owned())]);
    }

    #[test]
    fn answers_keep_the_order_of_the_lines() {
        let wrong = Problem::new(Code::BadCommand, "no");
        let slots = vec![
            (1, Slot::Asked),
            (2, Slot::Wrong(Box::new(wrong.clone()))),
            (3, Slot::Before(5)),
            (4, Slot::Asked),
        ];
        let text = String::from_utf8(render(slots, vec![Ok(8), Err(wrong)])).unwrap();
        let replies: Vec<LineReply> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        let seen: Vec<_> = replies.iter().map(|r| (r.line, r.id, r.error.is_some())).collect();
        assert_eq!(seen, [(1, Some(8), false), (2, None, true), (3, Some(5), false), (4, None, true)]);
    }
}
