//! The output of one attempt, as far as it is kept here: bounded, cut into lines, and safe for a terminal.
use reeve_protocol::api::LogLine;
use reeve_protocol::text::{Clean, plain_log_line};
use reeve_protocol::time::Wall;
use std::collections::VecDeque;

/// Most lines that are kept; older ones are forgotten.
pub(in super::super) const MOST_LINES: usize = 10_000;
/// Most bytes that are kept.
pub(in super::super) const MOST_BYTES: usize = 4 << 20;
/// Columns after which a line is cut.
const MOST_COLUMNS: usize = 4096;
/// An unfinished line that grows beyond this is shown as a line of its own.
const MOST_UNFINISHED: usize = 16 << 10;

/// Where a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Stream {
    Stdout,
    Stderr,
    /// Not a line of the job: some of its output was not kept.
    Gap,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Entry {
    pub(in super::super) at: Option<Wall>,
    pub(in super::super) stream: Stream,
    pub(in super::super) text: Clean,
}

/// Output that has no line end yet.
#[derive(Clone, Debug, Default)]
struct Unfinished {
    at: Option<Wall>,
    text: String,
}

/// The lines, and which of them the screen shows.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct Log {
    lines: VecDeque<Entry>,
    bytes: usize,
    /// How many lines were forgotten at the front. Line numbers count them, so that the picture stands still.
    pub(in super::super) forgotten: u64,
    unfinished: [Unfinished; 2],
    /// Whether the end is shown, whatever comes.
    pub(in super::super) follow: bool,
    /// The number of the first visible line, when not following.
    pub(in super::super) top: u64,
    pub(in super::super) wrap: bool,
    /// The attempt has ended and everything is here.
    pub(in super::super) ended: bool,
}

impl Log {
    /// An empty log, at its end.
    pub(in super::super) fn new(wrap: bool) -> Self {
        Self { follow: true, wrap, ..Self::default() }
    }

    /// Takes a piece: any part of the output, not always a whole line.
    pub(in super::super) fn take(&mut self, piece: &LogLine) {
        let stream = match piece.stream.as_str() {
            "gap" => {
                self.flush();
                let missing = reeve_protocol::units::show_bytes(piece.missing.unwrap_or(0));
                let text = Clean::line(&format!("{missing} of output were not kept"));
                return self.push(Entry { at: piece.at, stream: Stream::Gap, text });
            }
            "stderr" => Stream::Stderr,
            _ => Stream::Stdout,
        };
        let mut open = std::mem::take(&mut self.unfinished[stream as usize]);
        for part in piece.text.split_inclusive('\n') {
            open.at = open.at.or(piece.at);
            open.text.push_str(part);
            fold(&mut open.text);
            if part.ends_with('\n') || open.text.len() > MOST_UNFINISHED {
                let done = std::mem::take(&mut open);
                self.push(entry(&done, stream));
            }
        }
        self.unfinished[stream as usize] = open;
    }

    /// Nothing more will come: what has no line end is a line all the same.
    pub(in super::super) fn end(&mut self) {
        self.flush();
        self.ended = true;
    }

    /// Turns unfinished output into lines, for example because what follows belongs to another place of the output.
    fn flush(&mut self) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let open = std::mem::take(&mut self.unfinished[stream as usize]);
            if !open.text.is_empty() {
                self.push(entry(&open, stream));
            }
        }
    }

    /// Adds a line and forgets the oldest ones beyond the bounds.
    fn push(&mut self, entry: Entry) {
        self.bytes += entry.text.as_str().len();
        self.lines.push_back(entry);
        while self.lines.len() > MOST_LINES || self.bytes > MOST_BYTES {
            let Some(oldest) = self.lines.pop_front() else { break };
            self.bytes -= oldest.text.as_str().len();
            self.forgotten += 1;
        }
        self.top = self.top.max(self.forgotten);
    }

    /// All lines, the unfinished ones last.
    pub(in super::super) fn entries(&self) -> impl DoubleEndedIterator<Item = Entry> + '_ {
        let open = [Stream::Stdout, Stream::Stderr]
            .into_iter()
            .filter(|s| !self.unfinished[*s as usize].text.is_empty())
            .map(|s| entry(&self.unfinished[s as usize], s));
        self.lines.iter().cloned().chain(open)
    }

    /// How many lines there are.
    pub(in super::super) fn len(&self) -> u64 {
        self.lines.len() as u64 + self.unfinished.iter().filter(|u| !u.text.is_empty()).count() as u64
    }

    /// The lines from number `top` on.
    pub(in super::super) fn from(&self, top: u64) -> impl Iterator<Item = Entry> + '_ {
        self.entries().skip(usize::try_from(top.saturating_sub(self.forgotten)).unwrap_or(usize::MAX))
    }

    /// Scrolls. Going up stops following; reaching the end does not start it, `G` does.
    pub(in super::super) fn scroll(&mut self, by: i64, visible: usize) {
        let last = (self.forgotten + self.len()).saturating_sub(visible as u64).max(self.forgotten);
        let from = if self.follow { last } else { self.top };
        if by < 0 {
            self.follow = false;
        }
        self.top = from.saturating_add_signed(by).clamp(self.forgotten, last);
    }

    /// Turns following on or off; off leaves the picture where it is.
    pub(in super::super) fn set_follow(&mut self, follow: bool, visible: usize) {
        self.scroll(0, visible);
        self.follow = follow;
    }
}

/// A progress bar that redraws itself with carriage returns is one line: only its last form is kept.
fn fold(text: &mut String) {
    let body = text.trim_end_matches(['\r', '\n']).len();
    if let Some(at) = text[..body].rfind('\r') {
        text.drain(..=at);
    }
}

/// Escape sequences go before the cut, so that a cut cannot open one.
fn entry(open: &Unfinished, stream: Stream) -> Entry {
    let text = plain_log_line(&open.text);
    let text =
        if text.as_str().len() > MOST_COLUMNS { Clean::short(text.as_str(), MOST_COLUMNS) } else { text };
    Entry { at: open.at, stream, text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(stream: &str, text: &str) -> LogLine {
        LogLine { next: 0, at: None, stream: stream.into(), text: text.into(), missing: None }
    }

    fn texts(log: &Log) -> Vec<String> {
        log.entries().map(|e| e.text.as_str().to_owned()).collect()
    }

    #[test]
    fn pieces_become_lines_and_the_streams_do_not_mix() {
        let mut log = Log::new(false);
        for (stream, text) in
            [("stdout", "one\ntw"), ("stderr", "bad"), ("stdout", "o\n"), ("stderr", " thing\n")]
        {
            log.take(&piece(stream, text));
        }
        assert_eq!(texts(&log), ["one", "two", "bad thing"]);
        log.take(&piece("stdout", "no end"));
        assert_eq!((texts(&log).len(), log.len()), (4, 4), "an unfinished line is shown");
        log.end();
        assert_eq!(texts(&log).last().unwrap(), "no end");
    }

    #[test]
    fn a_progress_bar_is_one_line_however_it_is_cut() {
        let mut log = Log::new(false);
        for text in ["10%\r", "50", "%\r", "100%\r", "\ndone\n"] {
            log.take(&piece("stdout", text));
        }
        assert_eq!(texts(&log), ["100%", "done"]);
    }

    #[test]
    fn a_gap_is_marked_and_escape_sequences_are_gone() {
        let mut log = Log::new(false);
        log.take(&piece("stdout", "\u{1b}[31mred\u{1b}[0m\n"));
        log.take(&LogLine { missing: Some(2048), ..piece("gap", "") });
        assert_eq!(texts(&log), ["red", "2.0 KiB of output were not kept"]);
    }

    #[test]
    fn memory_is_bounded_in_lines_in_bytes_and_in_one_endless_line() {
        let mut log = Log::new(false);
        for _ in 0..MOST_LINES + 5 {
            log.take(&piece("stdout", "x\n"));
        }
        assert_eq!((log.lines.len(), log.forgotten), (MOST_LINES, 5));
        for _ in 0..2 * MOST_BYTES / MOST_COLUMNS {
            log.take(&piece("stdout", &("y".repeat(MOST_COLUMNS) + "\n")));
        }
        assert!(log.bytes <= MOST_BYTES);
        for _ in 0..1000 {
            log.take(&piece("stdout", &"z".repeat(4096)));
        }
        assert!(log.unfinished[0].text.len() <= MOST_UNFINISHED + 4096);
    }

    #[test]
    fn scrolling_up_stops_following_and_stays_where_it_is() {
        let mut log = Log::new(false);
        (0..50).for_each(|n| log.take(&piece("stdout", &format!("{n}\n"))));
        log.scroll(1, 10);
        assert!(log.follow, "going down changes nothing at the end");
        log.scroll(-3, 10);
        assert_eq!((log.follow, log.top), (false, 37));
        log.take(&piece("stdout", "more\n"));
        assert_eq!(log.from(log.top).next().unwrap().text.as_str(), "37");
        log.scroll(i64::MIN, 10);
        assert_eq!(log.top, 0);
        log.set_follow(true, 10);
        assert!(log.follow);
    }
}
