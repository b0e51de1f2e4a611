//! The boxes that stand between a key and a change of the cluster.
use super::super::msg::WorkerAct;
use super::Input;
use reeve_protocol::Problem;
use reeve_protocol::api::{Plan, PlanRequest, PlanResult};

/// How much has to be done to say yes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Confirm {
    /// `y`, or Enter on "yes"; "no" has the focus.
    Choose,
    /// `y`.
    Letter,
    /// The count, typed.
    Count,
}

/// What a plan that changes so many needs.
pub(in super::super) const fn confirm_for(will_change: u64) -> Confirm {
    match will_change {
        0..=20 => Confirm::Choose,
        21..=200 => Confirm::Letter,
        _ => Confirm::Count,
    }
}

/// What was asked for: kept with the dialog, so that the box says what it is about from the first moment.
#[derive(Clone, Debug, PartialEq)]
pub(in super::super) struct Asked {
    pub(in super::super) request: PlanRequest,
    /// In words: `job 7`, `all matching state:failed`.
    pub(in super::super) selection: String,
    /// The same as a command.
    pub(in super::super) command: String,
}

/// A plan that waits for a yes.
#[derive(Clone, Debug, PartialEq)]
pub(in super::super) struct Preview {
    pub(in super::super) asked: Asked,
    pub(in super::super) plan: Plan,
    /// Keys before this moment were meant for something else.
    pub(in super::super) armed_at: u64,
    /// "yes" has the focus.
    pub(in super::super) yes: bool,
    pub(in super::super) typed: Input,
    /// What was typed is not the count.
    pub(in super::super) wrong: bool,
}

/// The box that is open.
#[derive(Clone, Debug, PartialEq)]
pub(in super::super) enum Dialog {
    /// The coordinator counts.
    Planning {
        ticket: u64,
        asked: Asked,
    },
    Preview(Preview),
    /// The coordinator acts.
    Running {
        ticket: u64,
        asked: Asked,
        plan: Plan,
    },
    Done {
        asked: Asked,
        result: PlanResult,
    },
    /// Pause or resume a queue.
    Queue {
        name: String,
        pause: bool,
        armed_at: u64,
        yes: bool,
    },
    QueueRunning {
        ticket: u64,
        name: String,
        pause: bool,
    },
    /// Launch, scale, drain or stop a static worker.
    Worker {
        name: String,
        act: WorkerAct,
        armed_at: u64,
        yes: bool,
    },
    WorkerRunning {
        ticket: u64,
        name: String,
        act: WorkerAct,
    },
    Failed {
        what: String,
        problem: Box<Problem>,
    },
}

impl Dialog {
    /// Keys before this moment are dropped.
    pub(in super::super) const fn armed_at(&self) -> u64 {
        match self {
            Self::Preview(preview) => preview.armed_at,
            Self::Queue { armed_at, .. } | Self::Worker { armed_at, .. } => *armed_at,
            Self::Planning { .. }
            | Self::Running { .. }
            | Self::Done { .. }
            | Self::QueueRunning { .. }
            | Self::WorkerRunning { .. }
            | Self::Failed { .. } => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_it_changes_the_more_it_asks() {
        for (count, wanted) in [
            (0, Confirm::Choose),
            (20, Confirm::Choose),
            (21, Confirm::Letter),
            (200, Confirm::Letter),
            (201, Confirm::Count),
            (u64::MAX, Confirm::Count),
        ] {
            assert_eq!(confirm_for(count), wanted, "{count}");
        }
    }
}
