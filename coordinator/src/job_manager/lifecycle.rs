//! The life cycle: the one table of legal moves, and the only place that can make a [`Phase`].
//!
//! Nothing else can write a state: the fields of [`Phase`] are private to this file. `docs/job-lifecycle.md` is printed
//! from the table by a test.
use reeve_protocol::{State, Substate};

/// State and substate of a job or task: always a legal pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Phase {
    state: State,
    substate: Option<Substate>,
}

/// Something that can happen to a job or task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// Somebody holds it.
    Hold,
    /// It may wait for a slot: released, its time has come, or it was given back unstarted.
    Ready,
    /// It waits for its start time.
    Delay,
    /// An attempt was handed to a machine.
    Assign,
    /// What comes before the command of the attempt has begun.
    Prepare,
    /// The attempt's process exists, or a consumer has it.
    Start,
    /// Its machine is not heard.
    Disconnect,
    /// Its machine is heard again and still has it.
    Reconnect,
    /// It was told to stop.
    Stop,
    /// Its attempt failed and will be tried again later.
    Retry,
    /// It ended well.
    Complete,
    /// It ended badly.
    Fail,
    /// It ended on request.
    Cancel,
    /// Somebody wants it again.
    Restart,
}

impl Move {
    /// Every move.
    pub const ALL: [Self; 14] = [
        Self::Hold,
        Self::Ready,
        Self::Delay,
        Self::Assign,
        Self::Prepare,
        Self::Start,
        Self::Disconnect,
        Self::Reconnect,
        Self::Stop,
        Self::Retry,
        Self::Complete,
        Self::Fail,
        Self::Cancel,
        Self::Restart,
    ];
}

impl Phase {
    /// Waits for a slot: what a new job is unless it is held or delayed.
    pub const WAITING: Self = Self { state: State::Queued, substate: Some(Substate::Waiting) };
    /// Waits for a release.
    pub const HELD: Self = Self { state: State::Queued, substate: Some(Substate::Held) };
    /// Waits for its time.
    pub const DELAYED: Self = Self { state: State::Queued, substate: Some(Substate::Delayed) };
    /// Cancelled; for tasks of an array that never had a row.
    pub const CANCELLED: Self = Self { state: State::Cancelled, substate: None };

    /// The public state.
    pub const fn state(self) -> State {
        self.state
    }

    /// The public substate.
    pub const fn substate(self) -> Option<Substate> {
        self.substate
    }

    /// Whether it is this substate.
    pub fn is(self, substate: Substate) -> bool {
        self.substate == Some(substate)
    }

    /// A pair read from the store; `None` if it is not one this table can produce.
    pub fn restore(state: State, substate: Option<Substate>) -> Option<Self> {
        let phase = Self { state, substate };
        Self::all().contains(&phase).then_some(phase)
    }

    /// Every legal pair.
    pub fn all() -> Vec<Self> {
        let queued = [
            Substate::Held,
            Substate::Blocked,
            Substate::Delayed,
            Substate::Waiting,
            Substate::Retrying,
            Substate::Assigned,
        ];
        let running = [Substate::Preparing, Substate::Running, Substate::Unconfirmed, Substate::Cancelling];
        let ended =
            [State::Completed, State::Failed, State::Cancelled].map(|state| Self { state, substate: None });
        queued
            .map(|s| Self { state: State::Queued, substate: Some(s) })
            .into_iter()
            .chain(running.map(|s| Self { state: State::Running, substate: Some(s) }))
            .chain(ended)
            .collect()
    }

    /// Where a move leads from here; `None`: it is not legal, nothing changes.
    pub fn step(self, mv: Move) -> Option<Self> {
        let queued = |s| Some(Self { state: State::Queued, substate: Some(s) });
        let running = |s| Some(Self { state: State::Running, substate: Some(s) });
        let ended = |state| Some(Self { state, substate: None });
        let from = self.substate;
        let has_attempt = matches!(from, Some(Substate::Assigned)) || self.state == State::Running;
        match mv {
            // Only what waits can be held; what has been handed out is stopped instead.
            Move::Hold if self.state == State::Queued && !has_attempt => queued(Substate::Held),
            // From RUNNING: a consumer gave it back, or it is lost: attempt n stays current until n+1 is dispatched.
            Move::Ready if !self.state.is_terminal() => queued(Substate::Waiting),
            Move::Delay if !self.state.is_terminal() => queued(Substate::Delayed),
            Move::Assign if from == Some(Substate::Waiting) => queued(Substate::Assigned),
            // From RUNNING running: its machine was away and is heard again.
            Move::Prepare if self.state == State::Queued || from == Some(Substate::Running) => {
                running(Substate::Preparing)
            }
            // From any QUEUED: a lost attempt came back running, or a consumer took it.
            Move::Start if self.state == State::Queued || from == Some(Substate::Preparing) => {
                running(Substate::Running)
            }
            Move::Disconnect if matches!(from, Some(Substate::Running | Substate::Preparing)) => {
                running(Substate::Unconfirmed)
            }
            Move::Reconnect if from == Some(Substate::Unconfirmed) => running(Substate::Running),
            Move::Stop if self.state == State::Running => running(Substate::Cancelling),
            Move::Retry if !self.state.is_terminal() => queued(Substate::Retrying),
            Move::Complete if !self.state.is_terminal() => ended(State::Completed),
            Move::Fail if !self.state.is_terminal() => ended(State::Failed),
            Move::Cancel if !self.state.is_terminal() => ended(State::Cancelled),
            Move::Restart if self.state.is_terminal() => queued(Substate::Waiting),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(phase: Phase) -> String {
        phase.substate.map_or_else(|| phase.state.to_string(), |s| format!("{} {s}", phase.state))
    }

    fn table() -> String {
        let mut text = String::from(
            "# Life cycle of a job\n\nPrinted by `cargo test -p reeve-coordinator lifecycle` from `job_manager::lifecycle`; a dash means the move is\nrefused and nothing changes. Tasks of an array live the same life.\n\n",
        );
        text.push_str("| from | ");
        text.push_str(&Move::ALL.map(|m| format!("{m:?}")).join(" | "));
        text.push_str(" |\n|---|");
        text.push_str(&"---|".repeat(Move::ALL.len()));
        for phase in Phase::all() {
            text += &["\n| ", &show(phase), " |"].concat();
            for mv in Move::ALL {
                text += &[" ", &phase.step(mv).map_or("-".to_owned(), show), " |"].concat();
            }
        }
        text.push('\n');
        text
    }

    #[test]
    fn the_document_is_the_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/job-lifecycle.md");
        if std::env::var_os("REEVE_BLESS").is_some() {
            std::fs::create_dir_all(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs")).unwrap();
            std::fs::write(path, table()).unwrap();
        }
        assert_eq!(std::fs::read_to_string(path).unwrap(), table(), "print it again with REEVE_BLESS=1");
    }

    #[test]
    fn only_restart_leaves_a_terminal_state_and_every_move_stays_inside_the_table() {
        for phase in Phase::all() {
            for mv in Move::ALL {
                if let Some(next) = phase.step(mv) {
                    assert!(Phase::all().contains(&next));
                    assert!(!phase.state().is_terminal() || mv == Move::Restart, "{phase:?} {mv:?}");
                }
            }
        }
    }

    #[test]
    fn pairs_that_make_no_sense_are_not_restored() {
        assert_eq!(Phase::restore(State::Queued, Some(Substate::Running)), None);
        assert_eq!(Phase::restore(State::Completed, Some(Substate::Waiting)), None);
        assert_eq!(Phase::restore(State::Queued, None), None);
        assert_eq!(Phase::restore(State::Queued, Some(Substate::Held)), Some(Phase::HELD));
    }
}
