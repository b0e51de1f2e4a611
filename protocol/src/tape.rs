//! A tape: what an attempt wrote, in the order it wrote it, both streams together.
//!
//! A tape is a run of records `stream u8, len u32, at u64, bytes`, little-endian; `at` is wall time in milliseconds,
//! `stream` is 1 for stdout, 2 for stderr, 3 for a gap (the eight bytes are the number of bytes left out). A tape is cut
//! anywhere when it is transferred, so [`Decoder`] takes pieces.

/// Bytes before a record's data.
pub const HEADER: usize = 13;
/// Standard output.
pub const STDOUT: u8 = 1;
/// Standard error.
pub const STDERR: u8 = 2;
/// Bytes that were not kept.
pub const GAP: u8 = 3;
/// Largest record; a longer one means the tape is damaged.
pub const MAX_RECORD: u32 = 1024 * 1024;

/// One piece of output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// [`STDOUT`], [`STDERR`] or [`GAP`].
    pub stream: u8,
    /// Wall milliseconds when it was read.
    pub at_ms: u64,
    /// The bytes; for a gap the count, see [`Record::gap`].
    pub bytes: Vec<u8>,
}

impl Record {
    /// How many bytes are missing here.
    pub fn gap(&self) -> Option<u64> {
        (self.stream == GAP).then(|| self.bytes.first_chunk::<8>().map_or(0, |b| u64::from_le_bytes(*b)))
    }
}

/// Appends a record.
pub fn append(stream: u8, at_ms: u64, bytes: &[u8], out: &mut Vec<u8>) {
    out.push(stream);
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(&at_ms.to_le_bytes());
    out.extend_from_slice(bytes);
}

/// Appends the record that says how many bytes were left out.
pub fn append_gap(missing: u64, at_ms: u64, out: &mut Vec<u8>) {
    append(GAP, at_ms, &missing.to_le_bytes(), out);
}

/// Cuts a tape that arrives in pieces into records.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    damaged: bool,
}

impl Decoder {
    /// Takes a piece and gives the records that are whole now. After damage (a length above [`MAX_RECORD`]) it gives
    /// nothing more.
    pub fn feed(&mut self, piece: &[u8]) -> Vec<Record> {
        if self.damaged {
            return Vec::new();
        }
        self.buffer.extend_from_slice(piece);
        let (mut at, mut records) = (0, Vec::new());
        while let Some(header) = self.buffer[at..].first_chunk::<HEADER>() {
            let [stream, l0, l1, l2, l3, time @ ..] = *header;
            let len = u32::from_le_bytes([l0, l1, l2, l3]);
            if len > MAX_RECORD {
                self.damaged = true;
                break;
            }
            let end = at + HEADER + len as usize;
            if self.buffer.len() < end {
                break;
            }
            records.push(Record {
                stream,
                at_ms: u64::from_le_bytes(time),
                bytes: self.buffer[at + HEADER..end].to_vec(),
            });
            at = end;
        }
        self.buffer.drain(..at);
        records
    }

    /// Whether the tape made no sense from some point on.
    pub const fn is_damaged(&self) -> bool {
        self.damaged
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn records_survive_any_cutting(parts in prop::collection::vec((1u8..3, any::<u64>(), prop::collection::vec(any::<u8>(), 0..100)), 0..20), cut in 1usize..40) {
            let mut tape = Vec::new();
            for (stream, at, bytes) in &parts { append(*stream, *at, bytes, &mut tape); }
            let mut decoder = Decoder::default();
            let seen: Vec<_> = tape.chunks(cut).flat_map(|piece| decoder.feed(piece)).map(|r| (r.stream, r.at_ms, r.bytes)).collect();
            prop_assert_eq!(seen, parts);
        }
    }

    #[test]
    fn a_gap_says_how_much_is_missing_and_damage_ends_it() {
        let mut tape = Vec::new();
        append_gap(123, 5, &mut tape);
        tape.extend_from_slice(&[1, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0]);
        let mut decoder = Decoder::default();
        assert_eq!(decoder.feed(&tape)[0].gap(), Some(123));
        assert!(decoder.is_damaged());
        assert!(decoder.feed(&tape).is_empty());
    }
}
