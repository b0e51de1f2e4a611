//! The output of a `ledgerjob`: its bytes follow from key and task alone, so that whoever has the key can compute what a
//! complete log must be. Shared by the job and the checker; sees nothing of reeve.

use std::fmt::Write as _;

/// FNV-1a, 64 bits: an order-keeping digest that needs no library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest(u64);

impl Default for Digest {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Digest {
    /// Takes more bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// As text.
    pub fn text(self) -> String {
        format!("{:016x}", self.0)
    }
}

/// Lines of hexadecimal digits, 64 bytes each.
pub struct Output {
    state: u64,
    left: u64,
}

impl Output {
    /// All `len` bytes of one task's output.
    pub fn new(key: &str, index: Option<u32>, len: u64) -> Self {
        let mut digest = Digest::default();
        digest.feed(key.as_bytes());
        digest.feed(&index.map_or(u64::MAX, u64::from).to_le_bytes());
        Self { state: digest.0, left: len }
    }

    /// The digest of all of it.
    pub fn digest(self) -> String {
        let mut digest = Digest::default();
        for line in self {
            digest.feed(&line);
        }
        digest.text()
    }
}

impl Iterator for Output {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        if self.left == 0 {
            return None;
        }
        let mut line = String::with_capacity(64);
        for _ in 0..4 {
            self.state = self.state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            // Writing into a string does not fail.
            let _ = write!(line, "{:016x}", self.state ^ (self.state >> 29));
        }
        line.truncate(63);
        line.push('\n');
        let mut bytes = line.into_bytes();
        bytes.truncate(self.left.min(64) as usize);
        self.left -= bytes.len() as u64;
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_has_its_length_repeats_itself_and_differs_between_tasks() {
        let all = |index, len| Output::new("k", index, len).flatten().collect::<Vec<u8>>();
        for len in [0, 1, 63, 64, 65, 1000] {
            assert_eq!(all(None, len).len() as u64, len);
        }
        assert_eq!(all(Some(1), 500), all(Some(1), 500));
        assert_ne!(all(Some(1), 500), all(Some(2), 500));
        assert_eq!(all(None, 128)[63], b'\n');
        let mut digest = Digest::default();
        digest.feed(&all(None, 500));
        assert_eq!(digest.text(), Output::new("k", None, 500).digest());
    }
}
