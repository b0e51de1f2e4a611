//! Words that nobody can guess. Not for keys: those are the identity's.

/// Unguessable words (leases) from one seed, so that a run can be replayed. SHA-256 in counter mode.
#[derive(Clone, Debug, Default)]
pub(super) struct Random {
    pub(super) seed: String,
    pub(super) counter: u64,
}

impl Random {
    /// The next one.
    pub(super) fn word(&mut self) -> String {
        self.counter += 1;
        reeve_protocol::token::sha256_hex(format!("{}.{}", self.seed, self.counter).as_bytes())[..32]
            .to_owned()
    }

    /// A lease: begins with what it is of, so that its present state can be told when it is not held any more.
    pub(super) fn lease(&mut self, of: impl std::fmt::Display) -> String {
        format!("{of}-{}", self.word())
    }
}
