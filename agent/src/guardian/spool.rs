//! What an attempt wrote: a tape with a bounded head and a bounded tail, in memory while it is small, in a file beyond.
//! It reads no pipe and knows no peer.
//!
//! Offsets are those of the tape as if nothing had been left out. The head is stable. The tail is a ring of segments;
//! when it is full the oldest segment is left out, and a reader whose offset lies there gets one gap record and goes on
//! at the oldest byte that is kept: the answer's `from` plus its length is where to ask next. A reader that starts at 0
//! therefore gets exactly [`Tape::len`] bytes of an ended attempt, and a slow live reader gets whole records with gaps.
use reeve_protocol::tape;
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::PathBuf;

/// A tape up to this long makes no file.
const IN_MEMORY: usize = 64 * 1024;
/// Most bytes of one answer.
pub(crate) const CHUNK: usize = 256 * 1024;
/// Segments of the ring: what is left out at once is one of them.
const SEGMENTS: u64 = 48;
/// Bytes of a gap record.
const GAP: u64 = tape::HEADER as u64 + 8;

/// A stretch of the ring.
struct Segment {
    /// Where it lies in the medium.
    slot: u64,
    /// Offset of its first byte in the tape.
    from: u64,
    /// Bytes used.
    len: u64,
    /// Bytes of output in it, headers not counted.
    data: u64,
}

/// Bytes in memory, or in a file once there are many.
struct Medium {
    path: PathBuf,
    memory: Vec<u8>,
    file: Option<File>,
}

/// The output of one attempt.
pub(crate) struct Tape {
    medium: Medium,
    head_cap: u64,
    head: u64,
    segment_cap: u64,
    segments: VecDeque<Segment>,
    /// Slots in use or free again, in the order they were first used.
    slots: u64,
    /// Bytes of output left out.
    missing: u64,
    missing_at: u64,
    /// The disk refused; from then on everything is left out, and this is how much.
    broken: bool,
    lost: u64,
    /// The gap record at the very end, once sealed.
    trailer: Vec<u8>,
}

impl Tape {
    /// Keeps about `cap` bytes, a quarter of them from the beginning; `path` is made when needed.
    pub(crate) fn new(cap: u64, path: PathBuf) -> Self {
        let head_cap = cap / 4;
        let smallest = tape::HEADER as u64 + 256;
        let segment_cap = ((cap - head_cap) / SEGMENTS).max(smallest);
        Self {
            medium: Medium { path, memory: Vec::new(), file: None },
            head_cap,
            head: 0,
            segment_cap,
            segments: VecDeque::new(),
            slots: ((cap - head_cap) / segment_cap).clamp(1, SEGMENTS),
            missing: 0,
            missing_at: 0,
            broken: false,
            lost: 0,
            trailer: Vec::new(),
        }
    }

    /// Nothing more will be written.
    pub(crate) fn seal(&mut self) {
        if self.lost > 0 && self.trailer.is_empty() {
            tape::append_gap(self.lost, self.missing_at, &mut self.trailer);
        }
    }

    /// Bytes that a reader from 0 would get now.
    pub(crate) fn len(&self) -> u64 {
        let gap = if self.missing > 0 { GAP } else { 0 };
        self.head + gap + self.segments.iter().map(|s| s.len).sum::<u64>() + self.trailer.len() as u64
    }

    /// Whether `from` is at or behind the end.
    pub(crate) fn is_at_end(&self, from: u64) -> bool {
        from >= self.end() + self.trailer.len() as u64
    }

    /// Writes one piece of output.
    pub(crate) fn record(&mut self, stream: u8, at_ms: u64, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = self.room();
            let n = bytes.len().min(room);
            let mut record = Vec::with_capacity(tape::HEADER + n);
            tape::append(stream, at_ms, &bytes[..n], &mut record);
            if self.broken || self.write(&record, n as u64).is_err() {
                self.broken = true;
                self.lost += n as u64;
            }
            bytes = &bytes[n..];
        }
        self.missing_at = at_ms;
    }

    /// Data bytes that fit into the place where the next record goes; makes that place.
    fn room(&mut self) -> usize {
        let header = tape::HEADER as u64;
        if self.segments.is_empty() && self.head + header < self.head_cap {
            return (self.head_cap - self.head - header) as usize;
        }
        let full = self.segments.back().is_none_or(|s| s.len + header >= self.segment_cap);
        if full {
            self.open_segment();
        }
        let used = self.segments.back().map_or(0, |s| s.len);
        ((self.segment_cap - used - header) as usize).min(tape::MAX_RECORD as usize)
    }

    fn open_segment(&mut self) {
        let from = self.end();
        let slot = if (self.segments.len() as u64) < self.slots {
            self.segments.len() as u64
        } else {
            match self.segments.pop_front() {
                Some(oldest) => {
                    self.missing += oldest.data;
                    oldest.slot
                }
                None => 0,
            }
        };
        self.segments.push_back(Segment { slot, from, len: 0, data: 0 });
    }

    fn end(&self) -> u64 {
        self.segments.back().map_or(self.head, |s| s.from + s.len)
    }

    fn write(&mut self, record: &[u8], data: u64) -> io::Result<()> {
        let len = record.len() as u64;
        match self.segments.back_mut() {
            None => {
                self.medium.write(self.head, record)?;
                self.head += len;
            }
            Some(segment) => {
                self.medium.write(self.head_cap + segment.slot * self.segment_cap + segment.len, record)?;
                segment.len += len;
                segment.data += data;
            }
        }
        Ok(())
    }

    /// What comes at `from`: where it begins and the bytes, none at the end. Answers end with a whole record if they
    /// began with one, so that a gap never falls into a record.
    pub(crate) fn read(&self, from: u64, limit: usize) -> (u64, Vec<u8>) {
        if from < self.head {
            return (from, self.whole(from, self.head - from, limit));
        }
        if from >= self.end() {
            let at = ((from - self.end()) as usize).min(self.trailer.len());
            return (from, self.trailer[at..].to_vec());
        }
        let oldest = self.segments.front().map_or(self.head, |s| s.from);
        if from < oldest {
            let mut gap = Vec::new();
            tape::append_gap(self.missing, self.missing_at, &mut gap);
            return (oldest - GAP, gap);
        }
        match self.segments.iter().find(|s| from >= s.from && from < s.from + s.len) {
            Some(s) => {
                let place = self.head_cap + s.slot * self.segment_cap + (from - s.from);
                (from, self.whole(place, s.from + s.len - from, limit))
            }
            None => (from, Vec::new()),
        }
    }

    /// The bytes at a place of the medium, cut after the last whole record.
    fn whole(&self, place: u64, available: u64, limit: usize) -> Vec<u8> {
        let n = (available.min(limit as u64)) as usize;
        let mut bytes = self.medium.read(place, n);
        if (n as u64) < available {
            let cut = whole_records(&bytes);
            if cut > 0 {
                bytes.truncate(cut);
            }
        }
        bytes
    }

    /// The whole tape, if it has at most `limit` bytes.
    pub(crate) fn small(&self, limit: usize) -> Option<Vec<u8>> {
        if self.len() > limit as u64 {
            return None;
        }
        let (mut all, mut at) = (Vec::new(), 0);
        loop {
            let (from, bytes) = self.read(at, CHUNK);
            if bytes.is_empty() {
                return Some(all);
            }
            at = from + bytes.len() as u64;
            all.extend_from_slice(&bytes);
        }
    }

    /// Removes the file, if there is one.
    pub(crate) fn remove(&mut self) {
        if self.medium.file.take().is_some() {
            let _ = std::fs::remove_file(&self.medium.path);
        }
    }
}

impl Medium {
    fn write(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let end = at as usize + bytes.len();
        if self.file.is_none() && end <= IN_MEMORY {
            if self.memory.len() < end {
                self.memory.resize(end, 0);
            }
            self.memory[at as usize..end].copy_from_slice(bytes);
            return Ok(());
        }
        if self.file.is_none() {
            if let Some(parent) = self.path.parent() {
                std::fs::create_dir_all(parent)?;
            }
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&self.path)?;
            file.write_all_at(&self.memory, 0)?;
            self.memory = Vec::new();
            self.file = Some(file);
        }
        self.file.as_ref().map_or(Ok(()), |f| f.write_all_at(bytes, at))
    }

    fn read(&self, at: u64, n: usize) -> Vec<u8> {
        let Some(file) = &self.file else {
            let at = at as usize;
            return self.memory.get(at..at + n).map(<[u8]>::to_vec).unwrap_or_default();
        };
        let mut bytes = vec![0; n];
        match file.read_exact_at(&mut bytes, at) {
            Ok(()) => bytes,
            Err(error) => {
                tracing::error!(%error, "the spool cannot be read");
                Vec::new()
            }
        }
    }
}

/// Length of the whole records at the beginning of `bytes`.
fn whole_records(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some([_, l0, l1, l2, l3, ..]) = bytes[at..].first_chunk::<{ tape::HEADER }>() {
        let next = at + tape::HEADER + u32::from_le_bytes([*l0, *l1, *l2, *l3]) as usize;
        if next > bytes.len() {
            break;
        }
        at = next;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;
    use reeve_protocol::tape::{Decoder, STDERR, STDOUT};

    fn tape(cap: u64) -> (tempfile::TempDir, Tape) {
        let dir = tempfile::tempdir().unwrap();
        let tape = Tape::new(cap, dir.path().join("l/1.-1.1"));
        (dir, tape)
    }

    fn everything(tape: &Tape, limit: usize) -> Vec<u8> {
        let (mut all, mut at) = (Vec::new(), 0);
        loop {
            let (from, bytes) = tape.read(at, limit);
            if bytes.is_empty() {
                return all;
            }
            at = from + bytes.len() as u64;
            all.extend_from_slice(&bytes);
        }
    }

    /// Kept bytes per side of the gap, and the gap.
    fn decoded(bytes: &[u8]) -> (Vec<u8>, u64, Vec<u8>) {
        let (mut head, mut gap, mut tail) = (Vec::new(), 0, Vec::new());
        let mut decoder = Decoder::default();
        for record in decoder.feed(bytes) {
            match record.gap() {
                Some(missing) => gap += missing,
                None if gap == 0 => head.extend(record.bytes),
                None => tail.extend(record.bytes),
            }
        }
        assert!(!decoder.is_damaged());
        (head, gap, tail)
    }

    #[test]
    fn a_small_tape_makes_no_file() {
        let (dir, mut tape) = tape(64 << 20);
        tape.record(STDOUT, 5, b"out");
        tape.record(STDERR, 6, b"err");
        assert_eq!(tape.len(), 2 * 13 + 6);
        let small = tape.small(4096).unwrap();
        assert_eq!(small.len() as u64, tape.len());
        assert_eq!(Decoder::default().feed(&small)[1].bytes, b"err");
        assert_eq!(tape.small(10), None);
        assert!(tape.is_at_end(32) && !tape.is_at_end(31));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn everything_comes_back_while_it_fits() {
        for piece in [1, 100, 64 * 1024] {
            let (_dir, mut tape) = tape(4 << 20);
            let bytes: Vec<u8> =
                (0..if piece == 1 { 20_000 } else { 2_000_000u32 }).map(|i| i as u8).collect();
            for part in bytes.chunks(piece) {
                tape.record(STDOUT, 1, part);
            }
            let all = everything(&tape, CHUNK);
            assert_eq!(all.len() as u64, tape.len());
            assert_eq!(decoded(&all), (bytes, 0, Vec::new()), "{piece}");
        }
    }

    #[test]
    fn a_full_tape_keeps_both_ends_and_says_exactly_what_is_missing() {
        for (cap, piece) in [(4096, 10), (4096, 5000), (1 << 20, 777), (1 << 20, 64 * 1024)] {
            let (dir, mut tape) = tape(cap);
            let bytes: Vec<u8> = (0..3 << 20).map(|i: u32| (i / 7) as u8).collect();
            for part in bytes.chunks(piece) {
                tape.record(STDOUT, 1, part);
            }
            let all = everything(&tape, CHUNK);
            assert_eq!(all.len() as u64, tape.len());
            let (head, gap, tail) = decoded(&all);
            assert_eq!(head.len() as u64 + gap + tail.len() as u64, bytes.len() as u64);
            assert!(bytes.starts_with(&head) && bytes.ends_with(&tail));
            assert!(!head.is_empty() && tail.len() > cap as usize / 4, "{cap} {piece}: {}", tail.len());
            assert!(tape.len() <= cap + 300, "{cap} {piece}: {}", tape.len());
            tape.remove();
            let left = dir.path().join("l/1.-1.1");
            assert!(!left.exists());
        }
    }

    #[test]
    fn a_slow_reader_gets_whole_records_with_gaps() {
        let (_dir, mut tape) = tape(64 * 1024);
        let (mut at, mut seen, mut decoder) = (0, 0u64, Decoder::default());
        for round in 0..400u32 {
            tape.record(STDOUT, 1, &vec![round as u8; 1000]);
            if round % 70 == 0 {
                let (from, bytes) = tape.read(at, 3000);
                at = from + bytes.len() as u64;
                seen += decoder.feed(&bytes).iter().filter(|r| r.gap().is_none()).count() as u64;
                assert!(!decoder.is_damaged());
            }
        }
        assert!(seen > 2);
    }

    #[test]
    fn a_disk_that_refuses_costs_output_and_nothing_else() {
        let mut tape = Tape::new(1 << 20, PathBuf::from("/proc/nowhere/file"));
        for _ in 0..30 {
            tape.record(STDOUT, 1, &[7; 10_000]);
        }
        tape.seal();
        let (head, gap, _) = decoded(&everything(&tape, CHUNK));
        assert_eq!(head.len() as u64 + gap, 300_000);
        assert!(gap > 0);
    }
}
