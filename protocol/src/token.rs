//! Join tokens: one line that carries all a new machine needs, and proves nothing after its one use.
//!
//! `reeve1.CLUSTER.TOKENID.SECRET.CAHASH.ADDRESS[,ADDRESS]`, where CAHASH is the SHA-256 of the CA certificate (DER) in
//! hex. The client compares the hash before it sends the secret.
use std::fmt;
use std::str::FromStr;

/// A join token in the clear. `Debug` hides the secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// The cluster's id.
    pub cluster: String,
    /// Names the token in the store.
    pub id: String,
    /// 64 hex digits; only its hash is stored.
    pub secret: String,
    /// SHA-256 of the CA certificate, hex.
    pub ca_hash: String,
    /// Where the coordinator listens, `host:port`, best first.
    pub addresses: Vec<String>,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Token {{ cluster: {:?}, id: {:?}, addresses: {:?}, .. }}",
            self.cluster, self.id, self.addresses
        )
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "reeve1.{}.{}.{}.{}.{}",
            self.cluster,
            self.id,
            self.secret,
            self.ca_hash,
            self.addresses.join(",")
        )
    }
}

impl FromStr for Token {
    type Err = String;

    /// The error never repeats the secret.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.trim().splitn(6, '.');
        let mut next = |what: &str| {
            parts
                .next()
                .filter(|p| !p.is_empty())
                .ok_or(format!("not a join token: no {what} (make one with: reeve machine token)"))
        };
        if next("prefix")? != "reeve1" {
            return Err(
                "not a join token: it must start with \"reeve1.\" (make one with: reeve machine token)"
                    .to_owned(),
            );
        }
        let hex = |word: &str, what: &str, len: usize| {
            if word.len() == len && word.bytes().all(|b| b.is_ascii_hexdigit()) {
                Ok(word.to_owned())
            } else {
                Err(format!("not a join token: its {what} is damaged"))
            }
        };
        let cluster = hex(next("cluster")?, "cluster id", 16)?;
        let id = hex(next("id")?, "id", 16)?;
        let secret = hex(next("secret")?, "secret", 64)?;
        let ca_hash = hex(next("CA hash")?, "CA hash", 64)?;
        let addresses = next("address")?.split(',').map(str::to_owned).collect();
        Ok(Self { cluster, id, secret, ca_hash, addresses })
    }
}

/// SHA-256.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut all = [0; 32];
    all.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref());
    all
}

/// SHA-256 as lower-case hex.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(&sha256(bytes))
}

/// Whether two hashes of secrets are the same, in a time that says nothing about where they differ.
pub fn same_hash(a: &str, b: &str) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(a.as_bytes(), b.as_bytes()).is_ok()
}

/// `bytes` random bytes as lower-case hex.
///
/// # Panics
/// When the kernel gives no randomness: nothing safe can be done then.
pub fn random_hex(bytes: usize) -> String {
    let mut raw = vec![0; bytes];
    aws_lc_rs::rand::fill(&mut raw).expect("the kernel's random source always answers after boot");
    hex(&raw)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, b| {
        let _ = write!(out, "{b:02x}");
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_the_same_only_when_every_digit_is() {
        let hash = sha256_hex(b"x");
        assert!(same_hash(&hash, &hash.clone()));
        assert!(
            !same_hash(&hash, &sha256_hex(b"y")) && !same_hash(&hash, &hash[..63]) && !same_hash("", &hash)
        );
    }

    #[test]
    fn there_and_back_and_no_secret_in_any_error() {
        let token = Token {
            cluster: random_hex(8),
            id: random_hex(8),
            secret: random_hex(32),
            ca_hash: random_hex(32),
            addresses: vec!["[::1]:7373".into(), "head.lab:7373".into()],
        };
        assert_eq!(token.to_string().parse::<Token>().unwrap(), token);
        assert!(!format!("{token:?}").contains(&token.secret));
        for bad in [
            "",
            "x",
            "reeve1.",
            "reeve2.a.b.c.d.e",
            &token.to_string()[..60],
            &token.to_string().replace(&token.ca_hash, "00"),
        ] {
            let error = bad.parse::<Token>().unwrap_err();
            assert!(!error.contains(&token.secret) && error.contains("join token"), "{error}");
        }
    }
}
