//! What ends a command early, and the exit code and words it ends with (CONTRACT, exit codes).
use reeve_protocol::{Code, Problem};
use std::io::{self, Write as _};

/// Why a command did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The words were understood by the parser, but do not go together.
    #[error("{0}")]
    Usage(String),
    /// The coordinator, or the way to it, says no.
    #[error(transparent)]
    Problem(#[from] Problem),
    /// Standard output does not take what is written.
    #[error("writing standard output")]
    Output(#[source] io::Error),
    /// A file that was named cannot be read.
    #[error("reading {what}")]
    Input {
        /// The file.
        what: String,
        /// Why not.
        source: io::Error,
    },
    /// The operating system does not give what every command needs.
    #[error("starting the event loop")]
    Runtime(#[source] io::Error),
    /// `reeve up` or `reeve down`.
    #[error(transparent)]
    Up(#[from] crate::up::Error),
    /// The console.
    #[error(transparent)]
    Console(#[from] crate::console::Error),
    /// Everything has been said; only the code remains.
    #[error("exit {0}")]
    Exit(u8),
}

impl Error {
    /// A file that cannot be read.
    pub fn input(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Input { what, source }
    }

    /// The process's exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Problem(problem) if problem.is(Code::NoCoordinator) => 125,
            // The reader has gone: nothing went wrong that anybody could still be told.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
            Self::Exit(code) => *code,
            Self::Up(error) => error.exit_code(),
            Self::Console(crate::console::Error::Signal(signal)) => {
                u8::try_from(128 + signal).unwrap_or(u8::MAX)
            }
            Self::Problem(_) | Self::Output(_) | Self::Input { .. } | Self::Runtime(_) | Self::Console(_) => {
                1
            }
        }
    }

    /// The same, where `submit --wait` and `wait` promise 125 for everything that is not the job's own end.
    pub fn for_wait(self) -> Self {
        match self {
            Self::Problem(problem) if !problem.is(Code::NoCoordinator) => {
                Self::Problem(problem).say(false);
                Self::Exit(125)
            }
            other => other,
        }
    }

    /// Tells the user, on standard error.
    pub fn say(&self, json: bool) {
        let quiet = match self {
            Self::Exit(_) => true,
            Self::Output(error) => error.kind() == io::ErrorKind::BrokenPipe,
            _ => false,
        };
        if quiet {
            return;
        }
        let text = match self {
            Self::Problem(problem) if json => {
                serde_json::to_string(problem).unwrap_or_else(|_| problem.to_string())
            }
            other => format!("error: {}", with_sources(other)),
        };
        // Standard error may be gone as well; then there is nobody to tell.
        let _ = writeln!(io::stderr(), "{text}");
    }
}

/// The message and those of its sources, and what to do about a usage mistake.
fn with_sources(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    if matches!(error, Error::Usage(_)) {
        text.push_str(" [usage]");
    }
    text
}

/// Writes a note for people.
pub fn note(text: impl AsRef<str>) {
    // Standard error may be gone; a note is not worth failing for.
    let _ = writeln!(io::stderr(), "{}", text.as_ref());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_follow_the_contract() {
        let problem = |code| Error::Problem(Problem::new(code, "x"));
        let output = |kind| Error::Output(io::Error::from(kind));
        for (error, wanted) in [
            (Error::Usage("x".into()), 2),
            (problem(Code::NoCoordinator), 125),
            (problem(Code::WrongState), 1),
            (problem(Code::NotYet), 1),
            (output(io::ErrorKind::BrokenPipe), 0),
            (output(io::ErrorKind::StorageFull), 1),
            (Error::Exit(143), 143),
            (Error::Console(crate::console::Error::Signal(15)), 143),
        ] {
            assert_eq!(error.exit_code(), wanted, "{error}");
        }
    }

    #[test]
    fn waiting_reserves_the_low_codes_for_the_job() {
        assert_eq!(Error::Problem(Problem::new(Code::NotFound, "x")).for_wait().exit_code(), 125);
        assert_eq!(Error::Usage("x".into()).for_wait().exit_code(), 2);
    }

    #[test]
    fn sources_are_told_once_and_in_order() {
        let error = Error::input("jobs.jsonl")(io::Error::other("no such device"));
        assert_eq!(with_sources(&error), "reading jobs.jsonl: no such device");
    }
}
