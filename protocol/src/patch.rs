//! Uncommitted work that travels with a job: a patch named by its content, carried in the job's own description. Base64,
//! since a patch need not be text.
use crate::error::{Code, Problem};
use crate::token::sha256_hex;
use serde::{Deserialize, Serialize};

/// Bytes of a patch: with everything else of a job it still fits into one frame.
pub const MAX_PATCH: usize = 256 * 1024;

/// A patch as `git diff --binary` writes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Patch {
    /// SHA-256 of its bytes: its name.
    pub sha256: String,
    /// Its bytes in base64.
    pub data: String,
}

impl Patch {
    /// Of these bytes.
    ///
    /// # Errors
    /// `too-large` above [`MAX_PATCH`].
    pub fn new(bytes: &[u8]) -> Result<Self, Problem> {
        if bytes.len() > MAX_PATCH {
            return Err(too_large(bytes.len()));
        }
        Ok(Self { sha256: sha256_hex(bytes), data: encode(bytes) })
    }

    /// Its bytes; `None` when they are not what its name says.
    pub fn bytes(&self) -> Option<Vec<u8>> {
        decode(&self.data).filter(|bytes| sha256_hex(bytes) == self.sha256)
    }

    /// Whether it may travel.
    ///
    /// # Errors
    /// `too-large` or `bad-value`.
    pub fn check(&self) -> Result<(), Problem> {
        if self.data.len() > MAX_PATCH.div_ceil(3) * 4 {
            return Err(too_large(self.data.len() / 4 * 3));
        }
        match self.bytes() {
            Some(_) => Ok(()),
            None => Err(Problem::new(Code::BadValue, "the patch is not what its sha256 says")
                .hint("sha256 is that of the patch's bytes, data the same bytes in base64")),
        }
    }
}

fn too_large(bytes: usize) -> Problem {
    Problem::new(
        Code::TooLarge,
        format!("the uncommitted work has {bytes} bytes; at most {MAX_PATCH} travel with a job"),
    )
    .hint("commit it to a branch and submit that, or leave large files out with .gitignore")
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0u32, |word, b| word << 8 | u32::from(*b)) << (8 * (3 - chunk.len()));
        for at in 0..4 {
            let digit = ALPHABET[(word >> (18 - 6 * at) & 63) as usize];
            text.push(if at <= chunk.len() { digit as char } else { '=' });
        }
    }
    text
}

fn decode(text: &str) -> Option<Vec<u8>> {
    let text = text.as_bytes();
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let padding = text.iter().rev().take_while(|b| **b == b'=').count();
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    for chunk in text[..text.len().checked_sub(padding).filter(|_| padding <= 2)?].chunks(4) {
        let mut word = 0u32;
        for digit in chunk {
            word = word << 6 | ALPHABET.iter().position(|a| a == digit)? as u32;
        }
        let whole = word << (6 * (4 - chunk.len()));
        bytes.extend(&whole.to_be_bytes()[1..chunk.len()]);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_standard_and_comes_back() {
        for (bytes, text) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(encode(bytes.as_bytes()), text);
            assert_eq!(decode(text).as_deref(), Some(bytes.as_bytes()));
        }
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(decode(&encode(&all)), Some(all));
        for bad in ["Z", "Zg=", "Z===", "====", "Zg==Zg==", "Z!==", "Zm9v\n"] {
            assert_eq!(decode(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_patch_is_what_its_name_says_and_bounded() {
        let patch = Patch::new(b"diff").unwrap();
        assert_eq!(patch.bytes().unwrap(), b"diff");
        assert!(patch.check().is_ok());
        let other = Patch { data: encode(b"other"), ..patch.clone() };
        assert_eq!(other.check().unwrap_err().code, "bad-value");
        assert_eq!(Patch::new(&vec![0; MAX_PATCH + 1]).unwrap_err().code, "too-large");
        assert!(Patch::new(&vec![0; MAX_PATCH]).unwrap().check().is_ok());
        let long = Patch { data: "A".repeat(MAX_PATCH * 2), ..patch };
        assert_eq!(long.check().unwrap_err().code, "too-large");
    }
}
