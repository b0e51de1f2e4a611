//! Bodies of frames: the crate `bincode` 2.0.1 in its `legacy` configuration (fixed-width little-endian integers, u64
//! lengths, u32 tags), with a hard limit. No other module may name the crate, so that `wincode`, which writes the same
//! bytes, can take its place.
use serde::{Serialize, de::DeserializeOwned};

/// Bytes of one body: a control frame is at most 1 MiB.
pub const MAX_BODY: usize = 1024 * 1024;

/// A body that cannot be read or written.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// Not what this kind looks like.
    #[error("malformed body")]
    Malformed,
    /// Bytes are left over after the body.
    #[error("{0} bytes too many after the body")]
    Trailing(usize),
    /// Larger than [`MAX_BODY`].
    #[error("body larger than {MAX_BODY} bytes")]
    TooLarge,
}

const fn config() -> impl bincode::config::Config {
    bincode::config::legacy().with_limit::<MAX_BODY>()
}

/// Appends the encoded body to `out`.
///
/// # Errors
/// [`Error::TooLarge`]; `out` is then as before.
pub fn encode_into<T: Serialize>(body: &T, out: &mut Vec<u8>) -> Result<(), Error> {
    let start = out.len();
    let result = bincode::serde::encode_into_std_write(body, out, config());
    if result.is_err() || out.len() - start > MAX_BODY {
        out.truncate(start);
        return Err(Error::TooLarge);
    }
    Ok(())
}

/// Reads one body, which must use every byte.
///
/// # Errors
/// [`Error::Malformed`] or [`Error::Trailing`]; never allocates more than the bytes given justify.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    let (value, used) = bincode::serde::decode_from_slice(bytes, config()).map_err(|_| Error::Malformed)?;
    if used == bytes.len() { Ok(value) } else { Err(Error::Trailing(bytes.len() - used)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_bincodes_legacy_one() {
        let mut out = Vec::new();
        encode_into(&(7u16, "ab".to_owned(), Some(3u32), vec![1u8]), &mut out).unwrap();
        assert_eq!(out, [7, 0, 2, 0, 0, 0, 0, 0, 0, 0, b'a', b'b', 1, 3, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(decode::<(u16, String, Option<u32>, Vec<u8>)>(&out).unwrap().1, "ab");
    }

    #[test]
    fn a_claimed_length_allocates_nothing_and_leftovers_are_refused() {
        let mut huge = Vec::new();
        huge.extend_from_slice(&(1u64 << 60).to_le_bytes());
        huge.extend_from_slice(b"0123456789");
        assert_eq!(decode::<Vec<u8>>(&huge), Err(Error::Malformed));
        assert_eq!(decode::<String>(&huge), Err(Error::Malformed));
        assert_eq!(decode::<u16>(&[1, 0, 9]), Err(Error::Trailing(1)));
        let mut out = vec![1];
        assert_eq!(encode_into(&vec![0u8; MAX_BODY + 1], &mut out), Err(Error::TooLarge));
        assert_eq!(out, [1]);
    }
}
