//! What a checkout is told, and what it says when it is done. Both cross a process border as JSON: they are written and
//! read by one binary, so they may change with any version.
use super::settings::GitSettings;
use reeve_protocol::Cause;
use reeve_protocol::wire::Checkout;
use serde::{Deserialize, Serialize};

/// The name of the report in the attempt's directory.
pub(crate) const REPORT: &str = "checkout.json";
/// The work tree's name in the attempt's directory.
pub(crate) const TREE: &str = "src";

/// One checkout to make.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) checkout: Checkout,
    /// The user's part of this machine's cache, absolute; it exists and is the user's.
    pub(crate) cache: String,
    /// The attempt's directory, absolute.
    pub(crate) workdir: String,
    /// Where programs are looked for: the machine's, not the job's.
    pub(crate) path: String,
    pub(crate) machine: String,
    pub(crate) settings: GitSettings,
}

/// What came of it.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Report {
    /// The command may start.
    Ready {
        commit: String,
        /// Where it starts, absolute.
        dir: String,
        /// What the set-up has left for it.
        setup_dir: Option<String>,
    },
    /// The attempt ends.
    Failed(Cause),
}

/// The classes of a failed checkout (DESIGN D11).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Auth,
    Ref,
    Network,
    Corrupt,
    Disk,
    Mismatch,
    Timeout,
}

impl What {
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Auth => "auth",
            Self::Ref => "ref",
            Self::Network => "network",
            Self::Corrupt => "corrupt",
            Self::Disk => "disk",
            Self::Mismatch => "mismatch",
            Self::Timeout => "timeout",
        }
    }
}

/// Why there is no checkout.
#[derive(Debug, PartialEq)]
pub(crate) enum Failure {
    /// Git could not, with why.
    Checkout(What, String),
    /// The set-up command failed.
    Setup(String),
    /// A program is missing on this machine.
    Missing(String),
    /// This machine does not do that.
    Refused(String),
}

impl Failure {
    pub(crate) fn disk(what: &str, error: &std::io::Error) -> Self {
        Self::Checkout(What::Disk, format!("{what}: {error}"))
    }

    pub(crate) fn is(&self, wanted: What) -> bool {
        matches!(self, Self::Checkout(what, _) if *what == wanted)
    }

    /// The same, with more words where it is git that could not.
    pub(crate) fn saying(self, words: impl FnOnce(What, String) -> String) -> Self {
        match self {
            Self::Checkout(what, detail) => Self::Checkout(what, words(what, detail)),
            other => other,
        }
    }

    pub(crate) fn into_cause(self) -> Cause {
        match self {
            Self::Checkout(what, detail) => Cause::Checkout { what: what.word().to_owned(), detail },
            Self::Setup(detail) => Cause::Setup { detail },
            Self::Missing(detail) => Cause::Spawn { errno: "ENOENT".to_owned(), detail },
            Self::Refused(detail) => Cause::Rejected { detail },
        }
    }
}
