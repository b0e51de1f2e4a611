//! Bodies of lines: cut into lines, and handed on in portions.
//!
//! Lines are grouped by what has arrived, never by waiting, so that a slow sender gets each answer at once and a fast
//! one pays for a commit once in a thousand lines. Several groups are on their way at once; answers keep the order.
use super::reply::Failure;
use super::request::Pieces;
use super::stream::{Gone, Out};
use bytes::{Buf, Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::future::FutureExt;
use futures_util::stream::FuturesOrdered;
use reeve_protocol::{Code, Problem};

/// Lines in one call to the engine.
pub(super) const GROUP: usize = 1000;
/// Bytes of lines in one call, unless a single line is longer: long lines must not make a commit long.
const GROUP_BYTES: usize = 4 * 1024 * 1024;
/// Calls on their way at once: while one commits, the next are parsed and decided.
const AHEAD: usize = 4;

/// Reads a body to its end: `ask` takes the next portion of lines to the engine, `render` turns what came of it into a
/// piece of the answer. Gives why the body broke off, if it did.
///
/// # Errors
/// When nobody reads the answer any more.
pub(super) async fn pump<T, F: Future<Output = T>>(
    mut body: Pieces,
    out: &Out,
    lines: &mut Lines,
    mut ask: impl FnMut(&mut Lines) -> F,
    mut render: impl FnMut(T) -> Vec<u8>,
) -> Result<Option<Problem>, Gone> {
    let mut flights = FuturesOrdered::new();
    let (mut open, mut broken) = (true, None);
    while open || !flights.is_empty() {
        tokio::select! {
            biased;
            Some(answers) = flights.next(), if !flights.is_empty() => out.send(render(answers)).await?,
            piece = body.next(), if open && flights.len() < AHEAD => lines.take(piece, &mut open, &mut broken),
        }
        // More may have arrived already; only what is not here yet is not waited for.
        while open && !lines.is_portion() && flights.len() < AHEAD {
            let Some(piece) = body.next().now_or_never() else { break };
            lines.take(piece, &mut open, &mut broken);
        }
        while lines.ready() > 0 {
            if flights.len() >= AHEAD {
                let Some(answers) = flights.next().await else { break };
                out.send(render(answers)).await?;
            }
            flights.push_back(ask(lines));
            // The first look at a call hands it to the engine, which then works while the next group is parsed.
            if let Some(Some(answers)) = flights.next().now_or_never() {
                out.send(render(answers)).await?;
            }
        }
    }
    Ok(broken)
}

/// Cuts what arrives into lines. Blank lines are counted and skipped.
#[derive(Debug)]
pub(super) struct Lines {
    /// Bytes of a line.
    limit: usize,
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
    /// Lines of so many bytes at most.
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, buffer: BytesMut::new(), whole: 0, feeds: 0, number: 0, skipping: false, ended: false }
    }

    /// The last line given out.
    pub(super) const fn number(&self) -> u64 {
        self.number
    }

    /// The lines of one call to the engine, as far as they are here.
    pub(super) fn portion(&mut self) -> impl Iterator<Item = (u64, Result<Bytes, Problem>)> + '_ {
        let (mut taken, mut bytes) = (0, 0);
        std::iter::from_fn(move || {
            if taken == GROUP || bytes >= GROUP_BYTES {
                return None;
            }
            let line = self.next()?;
            taken += 1;
            bytes += line.1.as_ref().map_or(0, Bytes::len);
            Some(line)
        })
    }

    /// Whether more need not be read before the next call.
    fn is_portion(&self) -> bool {
        self.ready() >= GROUP || (self.ready() > 0 && self.buffer.len() >= GROUP_BYTES)
    }

    /// What was read of the body.
    fn take(&mut self, piece: Result<Option<Bytes>, Failure>, open: &mut bool, broken: &mut Option<Problem>) {
        match piece {
            Ok(Some(piece)) => return self.feed(&piece),
            Ok(None) => self.end(),
            Err(Failure(problem)) => *broken = Some(problem),
        }
        *open = false;
    }

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
        self.feeds + usize::from(rest > self.limit || (self.ended && rest > 0))
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
            if line.len() > self.limit {
                let problem =
                    Problem::new(Code::TooLarge, format!("the line is longer than {} bytes", self.limit));
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
    use crate::api::request::BODY;

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
            let (mut lines, mut seen) = (Lines::new(BODY), Vec::new());
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
        let mut lines = Lines::new(BODY);
        lines.feed(&vec![b'x'; BODY + 1]);
        assert_eq!(all(&mut lines), [(1, "too-large".to_owned())]);
        lines.feed(&vec![b'x'; BODY]);
        assert!(lines.buffer.is_empty(), "the rest of it is dropped as it comes");
        lines.feed(b"xx\nnext\n");
        assert_eq!(all(&mut lines), [(2, "next".to_owned())]);
    }

    #[test]
    fn a_portion_is_a_thousand_lines_or_four_mebibytes_of_them() {
        let mut lines = Lines::new(BODY);
        lines.feed("x\n".repeat(GROUP + 1).as_bytes());
        assert!(lines.is_portion());
        assert_eq!((lines.portion().count(), lines.portion().count()), (GROUP, 1));
        let long = [vec![b'x'; BODY], vec![b'\n']].concat();
        (0..6).for_each(|_| lines.feed(&long));
        assert!(lines.is_portion());
        assert_eq!((lines.portion().count(), lines.portion().count()), (4, 2));
    }
}
