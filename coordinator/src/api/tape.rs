//! From a tape to what a reader of a log gets: one stream or both, the last lines, raw bytes or one JSON value a piece.
use reeve_protocol::api::LogLine;
use reeve_protocol::tape::{self, Decoder, Record};
use reeve_protocol::time::Wall;
use std::collections::VecDeque;

/// How the pieces are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// The bytes themselves; a gap is a line of its own.
    Raw,
    /// A `LogLine` a piece.
    Lines,
}

/// One stream of a log.
pub(super) struct Reader {
    decoder: Decoder,
    form: Form,
    /// Only this stream; 0 for both.
    only: u8,
    /// Records that end at or before this byte of the tape are not wanted.
    from: u64,
    /// The byte of the tape after the last whole record.
    at: u64,
    tail: Option<Tail>,
    /// Bytes of a character whose end has not come yet, for each stream.
    halves: [Vec<u8>; 2],
}

impl Reader {
    pub(super) fn new(form: Form, only: u8, from: u64, tail: Option<usize>) -> Self {
        let tail = tail.map(|lines| Tail { lines, ..Tail::default() });
        Self { decoder: Decoder::default(), form, only, from, at: 0, tail, halves: [Vec::new(), Vec::new()] }
    }

    /// Where to go on: the byte of the tape after the last whole record.
    pub(super) const fn position(&self) -> u64 {
        self.at
    }

    /// Begins anew at a record's start, as a source does that is asked from there.
    pub(super) fn restart(&mut self, at: u64) {
        self.decoder = Decoder::default();
        self.at = at;
    }

    /// Begins anew at the tape's start, and shows only what lies behind `position`.
    pub(super) fn skip_to(&mut self, position: u64) {
        self.restart(0);
        self.from = self.from.max(position);
    }

    /// Whether the tape made no sense from some point on.
    pub(super) const fn is_damaged(&self) -> bool {
        self.decoder.is_damaged()
    }

    /// Takes a piece of the tape and appends what a reader is to see.
    pub(super) fn feed(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        for record in self.decoder.feed(piece) {
            self.at += (tape::HEADER + record.bytes.len()) as u64;
            // A gap belongs to both streams: nobody knows whose bytes are missing.
            let wanted = self.only == 0 || record.stream == self.only || record.stream == tape::GAP;
            if self.at <= self.from || !wanted {
                continue;
            }
            match &mut self.tail {
                Some(tail) => tail.push(record, self.at),
                None => self.write(&record, self.at, out),
            }
        }
    }

    /// What was there has been read: gives the last lines, and from now on everything.
    pub(super) fn flush_tail(&mut self, out: &mut Vec<u8>) {
        if let Some(tail) = self.tail.take() {
            for (record, next) in tail.last() {
                self.write(&record, next, out);
            }
        }
    }

    /// The end: halves of characters are given as what they are.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>) {
        self.flush_tail(out);
        for (stream, half) in std::mem::take(&mut self.halves).into_iter().enumerate() {
            if !half.is_empty() {
                let text = String::from_utf8_lossy(&half).into_owned();
                line(
                    &LogLine {
                        next: self.at,
                        at: None,
                        stream: name(stream as u8 + 1).to_owned(),
                        text,
                        missing: None,
                    },
                    out,
                );
            }
        }
    }

    fn write(&mut self, record: &Record, next: u64, out: &mut Vec<u8>) {
        let missing = record.gap();
        match (self.form, missing) {
            (Form::Raw, None) => out.extend_from_slice(&record.bytes),
            (Form::Raw, Some(missing)) => {
                if out.last().is_some_and(|b| *b != b'\n') {
                    out.push(b'\n');
                }
                out.extend_from_slice(
                    format!("[reeve: {missing} bytes of output were not kept]\n").as_bytes(),
                );
            }
            (Form::Lines, _) => {
                let text = if missing.is_some() { String::new() } else { self.text_of(record) };
                // A piece that is only half a character has nothing to show yet.
                if missing.is_some() || !text.is_empty() {
                    let at = (record.at_ms > 0).then_some(Wall(record.at_ms as i64));
                    line(&LogLine { next, at, stream: name(record.stream).to_owned(), text, missing }, out);
                }
            }
        }
    }

    /// Text with invalid UTF-8 replaced; a character that is cut in two by the end of the record waits for its rest.
    fn text_of(&mut self, record: &Record) -> String {
        let half = &mut self.halves[usize::from(record.stream == tape::STDERR)];
        let mut bytes = std::mem::take(half);
        bytes.extend_from_slice(&record.bytes);
        let (mut text, mut rest) = (String::with_capacity(bytes.len()), bytes.as_slice());
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    return text;
                }
                Err(error) => {
                    text.push_str(&String::from_utf8_lossy(&rest[..error.valid_up_to()]));
                    rest = &rest[error.valid_up_to()..];
                    let Some(len) = error.error_len() else {
                        half.extend_from_slice(rest);
                        return text;
                    };
                    text.push('\u{FFFD}');
                    rest = &rest[len..];
                }
            }
        }
    }
}

fn name(stream: u8) -> &'static str {
    match stream {
        tape::STDOUT => "stdout",
        tape::STDERR => "stderr",
        _ => "gap",
    }
}

fn line(line: &LogLine, out: &mut Vec<u8>) {
    // Writing into memory does not fail, and a `LogLine` has nothing that does not serialise.
    if serde_json::to_writer(&mut *out, line).is_ok() {
        out.push(b'\n');
    }
}

/// Keeps the records that hold the last lines, and no more of them than it must.
#[derive(Debug, Default)]
struct Tail {
    lines: usize,
    records: VecDeque<(Record, u64, usize)>,
    feeds: usize,
}

impl Tail {
    fn push(&mut self, record: Record, next: u64) {
        let is_gap = record.stream == tape::GAP;
        let feeds = if is_gap { 0 } else { record.bytes.split(|b| *b == b'\n').count() - 1 };
        self.feeds += feeds;
        self.records.push_back((record, next, feeds));
        // A line more than asked for: the last may still lack its end.
        while self.records.front().is_some_and(|(_, _, first)| self.feeds - first > self.lines) {
            if let Some((_, _, first)) = self.records.pop_front() {
                self.feeds -= first;
            }
        }
    }

    /// The last lines, the first record cut to size.
    fn last(mut self) -> impl Iterator<Item = (Record, u64)> {
        let ends_open = self
            .records
            .back()
            .is_some_and(|(r, ..)| r.stream != tape::GAP && r.bytes.last() != Some(&b'\n'));
        let mut spare = (self.feeds + usize::from(ends_open)).saturating_sub(self.lines);
        if self.lines == 0 {
            self.records.clear();
        }
        while spare > 0 {
            let Some((record, _, feeds)) = self.records.front_mut() else { break };
            if *feeds >= spare && record.stream != tape::GAP {
                let cut = record
                    .bytes
                    .iter()
                    .enumerate()
                    .filter(|(_, b)| **b == b'\n')
                    .nth(spare - 1)
                    .map_or(0, |(at, _)| at + 1);
                record.bytes.drain(..cut);
                break;
            }
            spare -= *feeds;
            self.records.pop_front();
        }
        self.records.into_iter().map(|(record, next, _)| (record, next))
    }
}

#[cfg(test)]
#[path = "tape_test.rs"]
mod tests;
