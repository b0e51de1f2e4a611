//! The public life cycle: QUEUED -> RUNNING -> COMPLETED, FAILED or CANCELLED.
//!
//! The *state* is what users filter by; the *substate* says what is waited for. Only
//! `coordinator::job_manager::lifecycle` may move a job from one to another.
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The state of a job or of one task of an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum State {
    /// Not running: waiting for its time, a slot, a release, or a retry.
    Queued,
    /// An attempt has been accepted by a machine or a consumer.
    Running,
    /// Ended well.
    Completed,
    /// Ended badly; the cause says how.
    Failed,
    /// Ended because somebody asked.
    Cancelled,
}

impl State {
    /// All states, in the order of a life.
    pub const ALL: [Self; 5] = [Self::Queued, Self::Running, Self::Completed, Self::Failed, Self::Cancelled];

    /// The word users see.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "QUEUED",
            Self::Running => "RUNNING",
            Self::Completed => "COMPLETED",
            Self::Failed => "FAILED",
            Self::Cancelled => "CANCELLED",
        }
    }

    /// Whether nothing more happens without a `restart`.
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }

    /// The position in [`State::ALL`], for counters.
    pub const fn slot(self) -> usize {
        self as usize
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for State {
    type Err = ();

    /// Case does not matter: people type `state:failed`.
    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|s| s.as_str().eq_ignore_ascii_case(text)).ok_or(())
    }
}

/// What a QUEUED job waits for, or what a RUNNING one is doing. Terminal states have none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Substate {
    /// QUEUED until somebody releases it.
    Held,
    /// QUEUED until other jobs have ended.
    Blocked,
    /// QUEUED until its start time.
    Delayed,
    /// QUEUED for a slot.
    Waiting,
    /// QUEUED until its retry is due.
    Retrying,
    /// QUEUED, handed to a machine that has not started it yet.
    Assigned,
    /// RUNNING: the checkout or set-up is being made.
    Preparing,
    /// RUNNING: the command runs.
    Running,
    /// RUNNING as far as is known: its machine is not heard.
    Unconfirmed,
    /// RUNNING: told to stop, not yet ended.
    Cancelling,
}

impl Substate {
    /// All substates.
    pub const ALL: [Self; 10] = [
        Self::Held,
        Self::Blocked,
        Self::Delayed,
        Self::Waiting,
        Self::Retrying,
        Self::Assigned,
        Self::Preparing,
        Self::Running,
        Self::Unconfirmed,
        Self::Cancelling,
    ];

    /// The word users see.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Blocked => "blocked",
            Self::Delayed => "delayed",
            Self::Waiting => "waiting",
            Self::Retrying => "retrying",
            Self::Assigned => "assigned",
            Self::Preparing => "preparing",
            Self::Running => "running",
            Self::Unconfirmed => "unconfirmed",
            Self::Cancelling => "cancelling",
        }
    }
}

impl fmt::Display for Substate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Substate {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|s| s.as_str().eq_ignore_ascii_case(text)).ok_or(())
    }
}
