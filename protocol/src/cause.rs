//! The closed list of causes: why an attempt, and with it a job, ended.
use serde::{Deserialize, Serialize};
use std::fmt;

/// Why something ended. In JSON `{"kind":"exit","code":3}`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Cause {
    /// Exit code 0, or a consumer said COMPLETED.
    Ok,
    /// The command ended with another exit code.
    Exit {
        /// 1 to 255.
        code: i32,
    },
    /// A signal ended the command.
    Signal {
        /// The signal's number.
        signal: i32,
    },
    /// The kernel killed it for memory.
    Oom {
        /// What the kernel said.
        detail: String,
    },
    /// It ran longer than its `timeout_s`.
    Timeout,
    /// It waited longer than its `expires_s`.
    Expired,
    /// Somebody asked.
    Cancelled,
    /// It made room for another job.
    Preempted,
    /// Its machine or server was drained.
    Drained,
    /// A job it depends on ended otherwise than asked for.
    Dependency,
    /// The checkout failed: `auth`, `ref`, `mismatch`, `timeout`, `network`, `corrupt` or `disk`.
    Checkout {
        /// What went wrong.
        what: String,
        /// In words.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        detail: String,
    },
    /// The set-up command failed.
    Setup {
        /// What it said.
        detail: String,
    },
    /// The command could not be started.
    Spawn {
        /// The kernel's name of the error, such as `ENOENT`, or `cwd`.
        errno: String,
        /// What was tried, on which machine.
        detail: String,
    },
    /// reeve could not run it.
    Error {
        /// Why.
        detail: String,
    },
    /// A consumer or the worker itself reported a failure.
    Reported {
        /// Its words.
        detail: String,
    },
    /// The machine's disk is full.
    NoSpace,
    /// Its machine was not heard for `lost_after`.
    Lost,
    /// Its machine was restarted.
    Rebooted,
    /// The process that held it was killed.
    KeeperLost,
    /// The static worker that held it went away.
    WorkerLost,
    /// A newer attempt had been dispatched.
    Fenced,
    /// The machine refused it.
    Rejected {
        /// Why.
        detail: String,
    },
    /// A cause of a newer version.
    #[serde(other)]
    Unknown,
}

/// Whose fault an end is: it decides which budget pays for a retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Account {
    /// The machines' or reeve's: an own budget of 3, delays 0, 1 and 5 s.
    Infrastructure,
    /// The job's: its `retries`.
    Own,
    /// Never retried.
    Never,
}

/// A cause on the wire: a number that may grow, two fields, so that an older peer can keep and show a newer one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireCause {
    /// See [`Cause::code`].
    pub code: u16,
    /// Exit code or signal; 0 when there is none.
    pub number: i32,
    /// `what` or `errno`.
    pub word: String,
    /// Free text.
    pub detail: String,
}

impl Cause {
    /// The number of the kind on the wire. Numbers are never reused.
    pub const fn code(&self) -> u16 {
        match self {
            Self::Unknown => 0,
            Self::Ok => 1,
            Self::Exit { .. } => 2,
            Self::Signal { .. } => 3,
            Self::Oom { .. } => 4,
            Self::Timeout => 5,
            Self::Expired => 6,
            Self::Cancelled => 7,
            Self::Preempted => 8,
            Self::Drained => 9,
            Self::Dependency => 10,
            Self::Checkout { .. } => 11,
            Self::Setup { .. } => 12,
            Self::Spawn { .. } => 13,
            Self::Error { .. } => 14,
            Self::Reported { .. } => 15,
            Self::NoSpace => 16,
            Self::Lost => 17,
            Self::Rebooted => 18,
            Self::KeeperLost => 19,
            Self::WorkerLost => 20,
            Self::Fenced => 21,
            Self::Rejected { .. } => 22,
        }
    }

    /// The word of the kind, as in JSON and in `cause:` filters.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Ok => "ok",
            Self::Exit { .. } => "exit",
            Self::Signal { .. } => "signal",
            Self::Oom { .. } => "oom",
            Self::Timeout => "timeout",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
            Self::Preempted => "preempted",
            Self::Drained => "drained",
            Self::Dependency => "dependency",
            Self::Checkout { .. } => "checkout",
            Self::Setup { .. } => "setup",
            Self::Spawn { .. } => "spawn",
            Self::Error { .. } => "error",
            Self::Reported { .. } => "reported",
            Self::NoSpace => "no_space",
            Self::Lost => "lost",
            Self::Rebooted => "rebooted",
            Self::KeeperLost => "keeper_lost",
            Self::WorkerLost => "worker_lost",
            Self::Fenced => "fenced",
            Self::Rejected { .. } => "rejected",
        }
    }

    /// Every word of [`Cause::kind`], for filters and completions.
    pub const KINDS: [&'static str; 22] = [
        "ok",
        "exit",
        "signal",
        "oom",
        "timeout",
        "expired",
        "cancelled",
        "preempted",
        "drained",
        "dependency",
        "checkout",
        "setup",
        "spawn",
        "error",
        "reported",
        "no_space",
        "lost",
        "rebooted",
        "keeper_lost",
        "worker_lost",
        "fenced",
        "rejected",
    ];

    /// Which retry budget pays (DESIGN D11).
    pub fn account(&self) -> Account {
        match self {
            Self::Lost
            | Self::Rebooted
            | Self::KeeperLost
            | Self::WorkerLost
            | Self::Preempted
            | Self::Drained
            | Self::NoSpace => Account::Infrastructure,
            Self::Checkout { what, .. } if matches!(what.as_str(), "network" | "corrupt" | "disk") => {
                Account::Infrastructure
            }
            Self::Spawn { errno, .. } if matches!(errno.as_str(), "EAGAIN" | "ENOMEM" | "EMFILE") => {
                Account::Infrastructure
            }
            Self::Exit { .. }
            | Self::Signal { .. }
            | Self::Oom { .. }
            | Self::Timeout
            | Self::Setup { .. }
            | Self::Error { .. }
            | Self::Reported { .. }
            | Self::Checkout { .. }
            | Self::Spawn { .. }
            | Self::Unknown => Account::Own,
            Self::Ok
            | Self::Cancelled
            | Self::Expired
            | Self::Dependency
            | Self::Fenced
            | Self::Rejected { .. } => Account::Never,
        }
    }

    /// The exit code of `submit --wait` and `wait` for a job that ended this way (CONTRACT, exit codes).
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Exit { code } => u8::try_from(*code).unwrap_or(1),
            Self::Signal { signal } => u8::try_from(128 + signal).unwrap_or(255),
            Self::Oom { .. } => 137,
            Self::Timeout | Self::Expired => 124,
            Self::Cancelled | Self::Dependency => 143,
            Self::Spawn { errno, .. } if errno == "ENOENT" => 127,
            Self::Spawn { .. } => 126,
            Self::Error { .. } | Self::Reported { .. } => 1,
            _ => 125,
        }
    }

    /// The exit code in the attempt's record: what the process itself said.
    pub fn process_exit_code(&self) -> Option<i32> {
        match self {
            Self::Ok => Some(0),
            Self::Exit { code } => Some(*code),
            _ => None,
        }
    }

    /// The free text, if this kind has one.
    pub fn detail(&self) -> &str {
        match self {
            Self::Oom { detail }
            | Self::Checkout { detail, .. }
            | Self::Setup { detail }
            | Self::Spawn { detail, .. }
            | Self::Error { detail }
            | Self::Reported { detail }
            | Self::Rejected { detail } => detail,
            _ => "",
        }
    }

    /// For the wire.
    pub fn to_wire(&self) -> WireCause {
        let number = match self {
            Self::Exit { code } => *code,
            Self::Signal { signal } => *signal,
            _ => 0,
        };
        let word = match self {
            Self::Checkout { what, .. } => what.clone(),
            Self::Spawn { errno, .. } => errno.clone(),
            _ => String::new(),
        };
        WireCause { code: self.code(), number, word, detail: self.detail().to_owned() }
    }

    /// From the wire. A number that this version does not know becomes [`Cause::Error`] with the text kept: it is shown,
    /// never guessed at.
    pub fn from_wire(wire: WireCause) -> Self {
        let WireCause { code, number, word, detail } = wire;
        match code {
            1 => Self::Ok,
            2 => Self::Exit { code: number },
            3 => Self::Signal { signal: number },
            4 => Self::Oom { detail },
            5 => Self::Timeout,
            6 => Self::Expired,
            7 => Self::Cancelled,
            8 => Self::Preempted,
            9 => Self::Drained,
            10 => Self::Dependency,
            11 => Self::Checkout { what: word, detail },
            12 => Self::Setup { detail },
            13 => Self::Spawn { errno: word, detail },
            14 => Self::Error { detail },
            15 => Self::Reported { detail },
            16 => Self::NoSpace,
            17 => Self::Lost,
            18 => Self::Rebooted,
            19 => Self::KeeperLost,
            20 => Self::WorkerLost,
            21 => Self::Fenced,
            22 => Self::Rejected { detail },
            other => Self::Error { detail: format!("cause {other} of a newer version: {detail}") },
        }
    }
}

impl fmt::Display for Cause {
    /// A short phrase for tables: `exit 3`, `signal 9 (KILL)`, `spawn ENOENT`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exit { code } => write!(f, "exit {code}"),
            Self::Signal { signal } => match signal_name(*signal) {
                Some(name) => write!(f, "signal {signal} ({name})"),
                None => write!(f, "signal {signal}"),
            },
            Self::Checkout { what, .. } => write!(f, "checkout {what}"),
            Self::Spawn { errno, .. } => write!(f, "spawn {errno}"),
            other => f.write_str(other.kind()),
        }
    }
}

/// The short name of the signals that end jobs.
pub const fn signal_name(signal: i32) -> Option<&'static str> {
    Some(match signal {
        1 => "HUP",
        2 => "INT",
        3 => "QUIT",
        4 => "ILL",
        6 => "ABRT",
        7 => "BUS",
        8 => "FPE",
        9 => "KILL",
        11 => "SEGV",
        13 => "PIPE",
        14 => "ALRM",
        15 => "TERM",
        24 => "XCPU",
        25 => "XFSZ",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every() -> Vec<Cause> {
        let text = || "t".to_owned();
        vec![
            Cause::Ok,
            Cause::Exit { code: 3 },
            Cause::Signal { signal: 9 },
            Cause::Oom { detail: text() },
            Cause::Timeout,
            Cause::Expired,
            Cause::Cancelled,
            Cause::Preempted,
            Cause::Drained,
            Cause::Dependency,
            Cause::Checkout { what: "auth".into(), detail: text() },
            Cause::Setup { detail: text() },
            Cause::Spawn { errno: "ENOENT".into(), detail: text() },
            Cause::Error { detail: text() },
            Cause::Reported { detail: text() },
            Cause::NoSpace,
            Cause::Lost,
            Cause::Rebooted,
            Cause::KeeperLost,
            Cause::WorkerLost,
            Cause::Fenced,
            Cause::Rejected { detail: text() },
        ]
    }

    #[test]
    fn every_cause_crosses_the_wire_and_json() {
        for cause in every() {
            assert_eq!(Cause::from_wire(cause.to_wire()), cause);
            let json = serde_json::to_string(&cause).unwrap();
            assert!(json.contains(&format!("\"kind\":\"{}\"", cause.kind())), "{json}");
            assert_eq!(serde_json::from_str::<Cause>(&json).unwrap(), cause);
            assert!(Cause::KINDS.contains(&cause.kind()));
        }
    }

    #[test]
    fn a_cause_of_a_newer_version_is_kept_and_shown() {
        let newer = WireCause { code: 999, number: 0, word: String::new(), detail: "meteor".into() };
        assert!(Cause::from_wire(newer).detail().contains("meteor"));
        assert_eq!(serde_json::from_str::<Cause>(r#"{"kind":"meteor","size":3}"#).unwrap(), Cause::Unknown);
    }

    #[test]
    fn exit_codes_are_those_of_the_contract() {
        let code = |cause: Cause| cause.exit_code();
        assert_eq!(code(Cause::Exit { code: 3 }), 3);
        assert_eq!(code(Cause::Signal { signal: 9 }), 137);
        assert_eq!(code(Cause::Timeout), 124);
        assert_eq!(code(Cause::Cancelled), 143);
        assert_eq!(code(Cause::Spawn { errno: "ENOENT".into(), detail: String::new() }), 127);
        assert_eq!(code(Cause::Spawn { errno: "EACCES".into(), detail: String::new() }), 126);
        assert_eq!(code(Cause::Lost), 125);
    }
}
