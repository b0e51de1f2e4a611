//! How a connection ends: a code of [`close`] and words for people. Every refusal of remote input is one of these; none
//! is a panic.
use quinn::{ConnectionError, ReadError, VarInt, WriteError};
use reeve_protocol::frame;
use reeve_protocol::text::Clean;
use reeve_protocol::wire::close;
use std::fmt;

/// Why a connection or session ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct End {
    /// One of [`close`].
    pub(super) code: u32,
    /// For people.
    pub(super) reason: String,
}

impl End {
    pub(super) fn new(code: u32, reason: impl Into<String>) -> Self {
        Self { code, reason: reason.into() }
    }

    /// The other side ended it, or the path to it did.
    pub(super) fn gone(reason: impl fmt::Display) -> Self {
        Self::new(close::DONE, Clean::short(&reason.to_string(), 200).into_string())
    }

    /// The coordinator itself stops.
    pub(super) fn stopping() -> Self {
        Self::new(close::STOPPING, "the coordinator stops")
    }

    pub(super) fn unexpected(what: impl fmt::Display) -> Self {
        Self::new(close::UNEXPECTED, format!("unexpected: {what}"))
    }

    /// Closes a connection with this code.
    pub(super) fn close(&self, connection: &quinn::Connection) {
        connection.close(VarInt::from_u32(self.code), self.reason.as_bytes());
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (code {})", self.reason, self.code)
    }
}

impl From<frame::Error> for End {
    fn from(error: frame::Error) -> Self {
        let code = match error {
            frame::Error::TooLarge(_) => close::TOO_LARGE,
            frame::Error::Body(..) => close::MALFORMED,
            frame::Error::UnknownKind(_) => close::VERSION,
        };
        Self::new(code, error.to_string())
    }
}

impl From<ConnectionError> for End {
    fn from(error: ConnectionError) -> Self {
        Self::gone(error)
    }
}

impl From<ReadError> for End {
    fn from(error: ReadError) -> Self {
        Self::gone(error)
    }
}

impl From<WriteError> for End {
    fn from(error: WriteError) -> Self {
        Self::gone(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reeve_protocol::codec;

    #[test]
    fn each_wrong_frame_has_its_code() {
        let cases = [
            (frame::Error::TooLarge(9), close::TOO_LARGE),
            (frame::Error::Body(1, codec::Error::Malformed), close::MALFORMED),
            (frame::Error::UnknownKind(999), close::VERSION),
        ];
        for (error, code) in cases {
            assert_eq!(End::from(error).code, code);
        }
    }

    #[test]
    fn words_of_the_other_side_are_cleaned() {
        assert!(!End::gone("bye\u{1b}[31m").reason.contains('\u{1b}'));
    }
}
