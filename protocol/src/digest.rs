//! SHA-256 of bytes that come piece by piece.
use crate::token::hex;
use aws_lc_rs::digest::{Context, SHA256};

/// A digest under way.
#[derive(Clone)]
pub struct Sha256(Context);

impl Default for Sha256 {
    fn default() -> Self {
        Self(Context::new(&SHA256))
    }
}

impl Sha256 {
    /// More bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// As lower-case hex.
    pub fn hex(self) -> String {
        hex(self.0.finish().as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_give_the_digest_of_the_whole() {
        let mut digest = Sha256::default();
        digest.update(b"a");
        digest.update(b"bc");
        assert_eq!(digest.hex(), crate::token::sha256_hex(b"abc"));
    }
}
