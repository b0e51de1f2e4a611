//! Why a session ends, and with which code it is closed.
use reeve_protocol::frame;
use reeve_protocol::wire::{Refused, close};
use std::io;

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("the connection broke")]
    Connection(#[from] quinn::ConnectionError),
    #[error("the coordinator refuses this machine (code {}): {}", .0.code, .0.reason)]
    Refused(Refused),
    #[error("the coordinator says nothing")]
    Silent,
    #[error("the coordinator speaks strangely")]
    Frame(#[from] frame::Error),
    #[error("the control stream broke: {0}")]
    Stream(String),
    #[error("the keeper is gone")]
    Keeper(#[source] io::Error),
    #[error("the keeper speaks strangely")]
    KeeperFrame(#[source] frame::Error),
    #[error("the other side takes nothing")]
    Stuck,
}

impl Error {
    /// What the other side said when it closed.
    pub(crate) fn code(&self) -> Option<u32> {
        match self {
            Self::Refused(refused) => Some(refused.code),
            Self::Connection(quinn::ConnectionError::ApplicationClosed(closed)) => {
                u32::try_from(closed.error_code.into_inner()).ok()
            }
            _ => None,
        }
    }

    /// What we say when we close because of this.
    pub(crate) fn close_code(&self) -> u32 {
        match self {
            Self::Frame(frame::Error::UnknownKind(_)) => close::VERSION,
            Self::Frame(frame::Error::TooLarge(_)) => close::TOO_LARGE,
            Self::Frame(frame::Error::Body(..)) => close::MALFORMED,
            _ => close::DONE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_know_what_to_close_with_and_what_they_were_told() {
        let refused = Error::Refused(Refused { code: close::REVOKED, reason: "x".into() });
        assert_eq!((refused.code(), refused.close_code()), (Some(close::REVOKED), close::DONE));
        for (error, code) in [
            (frame::Error::UnknownKind(999), close::VERSION),
            (frame::Error::TooLarge(u32::MAX), close::TOO_LARGE),
        ] {
            assert_eq!(Error::Frame(error).close_code(), code);
        }
        assert_eq!(Error::Silent.code(), None);
    }
}
