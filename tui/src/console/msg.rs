//! What goes into [`super::update::update`] and what comes out of it. Plain comparable data, no behaviour.
use crossterm::event::KeyEvent;
use reeve_protocol::Problem;
use reeve_protocol::api::{
    JobView, LogLine, MachineView, Plan, PlanRequest, PlanResult, QueueView, Stats, ViewRequest, ViewUpdate,
    WhoAmI, Why, WorkerView,
};
use reeve_protocol::time::Wall;

/// When something happened. Update has no clock of its own: deadlines are compared with these.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stamp {
    /// Milliseconds since the console started; never goes back.
    pub(super) ms: u64,
    /// For display only.
    pub(super) wall: Wall,
}

/// One thing that happened.
#[derive(Clone, Debug)]
pub(super) struct Msg {
    pub(super) at: Stamp,
    pub(super) kind: Kind,
}

/// What happened. Answers to subscriptions carry the generation they belong to, answers to requests their ticket: an
/// answer to something that is no longer wanted is dropped.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    Key(KeyEvent),
    Paste(String),
    Resize(u16, u16),
    Tick,
    /// The stream of statistics is open.
    LinkUp,
    /// It is not, and will be tried again.
    LinkDown {
        error: String,
        attempt: u32,
        retry_ms: u64,
    },
    Who(WhoAmI),
    Stats(Box<Stats>),
    Machines(Vec<MachineView>),
    Workers(Vec<WorkerView>),
    View {
        generation: u64,
        update: Box<ViewUpdate>,
    },
    ViewRefused {
        generation: u64,
        problem: Box<Problem>,
    },
    Job {
        generation: u64,
        result: Result<Box<JobView>, Box<Problem>>,
    },
    Log {
        generation: u64,
        lines: Vec<LogLine>,
    },
    LogEnded {
        generation: u64,
    },
    Why {
        ticket: u64,
        result: Result<Why, Box<Problem>>,
    },
    Planned {
        ticket: u64,
        result: Result<Box<Plan>, Box<Problem>>,
    },
    Ran {
        ticket: u64,
        result: Result<PlanResult, Box<Problem>>,
    },
    QueueSet {
        ticket: u64,
        result: Result<Box<QueueView>, Box<Problem>>,
    },
    WorkerSet {
        ticket: u64,
        result: Result<Box<WorkerView>, Box<Problem>>,
    },
}

/// What is done to a static worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WorkerAct {
    Launch,
    Scale(u32),
    Drain,
    Stop,
}

/// Which log is followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LogWant {
    /// The job or task.
    pub(super) selector: String,
    pub(super) attempt: u32,
}

/// Something for the runtime to do.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Command {
    /// Leave.
    Quit,
    /// Paint everything anew.
    Redraw,
    /// Give the terminal back and stop until continued.
    Suspend,
    /// Put text on the user's clipboard.
    Copy(String),
    /// Replace the view, or end it.
    View { generation: u64, request: Option<ViewRequest> },
    /// Ask for machines every two seconds, or stop.
    Machines(bool),
    /// Ask for workers every two seconds, or stop.
    Workers(bool),
    /// Keep asking for one job, or stop.
    Job { generation: u64, selector: Option<String> },
    /// Follow a log, or stop.
    Log { generation: u64, want: Option<LogWant> },
    /// Do not wait for the next attempt to reconnect.
    RetryNow,
    /// Ask why a job is where it is.
    Why { ticket: u64, selector: String },
    /// Count what a change would do. Changes nothing.
    Plan { ticket: u64, request: PlanRequest },
    /// Do what a plan said.
    RunPlan { ticket: u64, id: u64 },
    /// Pause or resume a queue.
    SetQueue { ticket: u64, name: String, pause: bool },
    /// Change a static worker.
    SetWorker { ticket: u64, name: String, act: WorkerAct },
}

impl Command {
    /// Whether this changes the cluster. Update may only answer with one of these out of a confirmed dialog.
    #[cfg(test)]
    pub(super) const fn changes_cluster(&self) -> bool {
        matches!(self, Self::RunPlan { .. } | Self::SetQueue { .. } | Self::SetWorker { .. })
    }
}
