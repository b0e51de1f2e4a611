//! Frames: `len u32, kind u16, flags u16, body`, little-endian; `len` counts the body alone.
//!
//! The same frames go over QUIC between coordinator and agent, and over Unix sockets between agent, keeper and
//! guardian. Writers append many frames to one buffer and write once: an unbatched frame costs twelve times as much.
use crate::codec;
use serde::Serialize;

/// Bytes before the body.
pub const HEADER: usize = 8;
/// Largest body that is read; checked before anything is allocated.
pub const MAX_BODY: usize = codec::MAX_BODY;
/// Flag: whoever does not know this kind may skip it.
pub const OPTIONAL: u16 = 1;

/// A frame that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The kind's number in [`crate::wire::kind`] or [`crate::guardian::kind`].
    pub kind: u16,
    /// [`OPTIONAL`] or 0.
    pub flags: u16,
    /// The encoded body.
    pub body: Vec<u8>,
}

/// What ends a stream of frames.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// A length above [`MAX_BODY`].
    #[error("a frame claims {0} bytes; at most {MAX_BODY} are allowed")]
    TooLarge(u32),
    /// A body that does not decode.
    #[error("frame of kind {0}: {1}")]
    Body(u16, codec::Error),
    /// A kind that is not known and not optional.
    #[error("frame of unknown kind {0}")]
    UnknownKind(u16),
}

/// Appends one frame to `out`.
///
/// # Errors
/// [`codec::Error::TooLarge`]; `out` is then as before.
pub fn append<T: Serialize>(kind: u16, flags: u16, body: &T, out: &mut Vec<u8>) -> Result<(), codec::Error> {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER]);
    if let Err(error) = codec::encode_into(body, out) {
        out.truncate(start);
        return Err(error);
    }
    let len = (out.len() - start - HEADER) as u32;
    out[start..start + 4].copy_from_slice(&len.to_le_bytes());
    out[start + 4..start + 6].copy_from_slice(&kind.to_le_bytes());
    out[start + 6..start + 8].copy_from_slice(&flags.to_le_bytes());
    Ok(())
}

/// Appends an already encoded frame, as a relay does.
pub fn append_raw(frame: &Frame, out: &mut Vec<u8>) {
    out.extend_from_slice(&(frame.body.len() as u32).to_le_bytes());
    out.extend_from_slice(&frame.kind.to_le_bytes());
    out.extend_from_slice(&frame.flags.to_le_bytes());
    out.extend_from_slice(&frame.body);
}

/// Collects bytes as they arrive and cuts them into frames. Holds at most one frame beyond what was fed.
#[derive(Debug, Default)]
pub struct Reader {
    buffer: Vec<u8>,
    start: usize,
}

impl Reader {
    /// An empty reader.
    pub const fn new() -> Self {
        Self { buffer: Vec::new(), start: 0 }
    }

    /// Adds received bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.start > 0 && self.start == self.buffer.len() {
            self.buffer.clear();
            self.start = 0;
        } else if self.start > 64 * 1024 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame.
    ///
    /// # Errors
    /// [`Error::TooLarge`] as soon as the header says so.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, Error> {
        let rest = &self.buffer[self.start..];
        let Some(header) = rest.first_chunk::<HEADER>() else { return Ok(None) };
        let [l0, l1, l2, l3, k0, k1, f0, f1] = *header;
        let len = u32::from_le_bytes([l0, l1, l2, l3]);
        if len as usize > MAX_BODY {
            return Err(Error::TooLarge(len));
        }
        let end = HEADER + len as usize;
        if rest.len() < end {
            return Ok(None);
        }
        let frame = Frame {
            kind: u16::from_le_bytes([k0, k1]),
            flags: u16::from_le_bytes([f0, f1]),
            body: rest[HEADER..end].to_vec(),
        };
        self.start += end;
        Ok(Some(frame))
    }

    /// Bytes that were fed and belong to no frame yet (what follows a stream's head frame).
    pub fn take_rest(&mut self) -> Vec<u8> {
        let rest = self.buffer.split_off(self.start);
        self.buffer.clear();
        self.start = 0;
        rest
    }
}

impl Frame {
    /// Decodes the body.
    ///
    /// # Errors
    /// [`Error::Body`] with this kind.
    pub fn decode<T: serde::de::DeserializeOwned>(&self) -> Result<T, Error> {
        codec::decode(&self.body).map_err(|e| Error::Body(self.kind, e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_absurd_length_is_refused_from_the_header_alone() {
        let mut reader = Reader::new();
        reader.feed(&[0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0]);
        assert_eq!(reader.next_frame(), Err(Error::TooLarge(u32::MAX)));
    }

    proptest! {
        #[test]
        fn frames_survive_any_cutting(bodies in prop::collection::vec((any::<u16>(), prop::collection::vec(any::<u8>(), 0..300)), 0..20), cut in 1usize..64) {
            let mut bytes = Vec::new();
            for (kind, body) in &bodies { append(*kind, 0, body, &mut bytes).unwrap(); }
            let mut reader = Reader::new();
            let mut seen = Vec::new();
            for piece in bytes.chunks(cut) {
                reader.feed(piece);
                while let Some(frame) = reader.next_frame().unwrap() { seen.push((frame.kind, frame.decode::<Vec<u8>>().unwrap())); }
            }
            prop_assert_eq!(seen, bodies);
        }

        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let mut reader = Reader::new();
            reader.feed(&bytes);
            while let Ok(Some(frame)) = reader.next_frame() {
                let _ = frame.decode::<crate::wire::Start>();
                let _ = frame.decode::<crate::wire::Finished>();
            }
        }
    }
}
