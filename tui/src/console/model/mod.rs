//! Everything the console knows. Only [`super::update`] changes it, and [`super::view`] only reads it.
use super::layout;
use super::msg::{LogWant, Stamp};
use super::theme::Theme;
use jiff::tz::TimeZone;
use reeve_protocol::api::{JobView, MachineView, QueueView, Stats, ViewRequest, WorkerView};

mod detail;
mod dialog;
mod input;
mod jobs;
mod log;
mod marks;
mod names;
mod rows;

pub(super) use detail::{Detail, Tab};
pub(super) use dialog::{Asked, Confirm, Dialog, Preview, confirm_for};
pub(super) use input::Input;
pub(super) use jobs::{Jobs, ORDERS, Window};
pub(super) use log::{Entry, Log, Stream};
pub(super) use marks::{MOST_MARKS, Marks, jobs_of, selectors};
pub(super) use names::Names;
pub(super) use rows::{MACHINE_COLUMNS, OverviewRow, QUEUE_COLUMNS, machines, overview, queues, workers};

/// The seven screens, by digit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Screen {
    Overview,
    Queues,
    Jobs,
    Machines,
    Workers,
    Events,
    Operations,
}

impl Screen {
    pub(super) const ALL: [Self; 7] = [
        Self::Overview,
        Self::Queues,
        Self::Jobs,
        Self::Machines,
        Self::Workers,
        Self::Events,
        Self::Operations,
    ];

    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::Overview => "Overview",
            Self::Queues => "Queues",
            Self::Jobs => "Jobs",
            Self::Machines => "Machines",
            Self::Workers => "Workers",
            Self::Events => "Events",
            Self::Operations => "Operations",
        }
    }

    /// The key that opens it.
    pub(super) const fn digit(self) -> char {
        (b'1' + self as u8) as char
    }
}

/// Whether what is shown is true now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Link {
    /// Nothing has been heard yet.
    Connecting {
        error: Option<String>,
        attempt: u32,
        retry_at: u64,
    },
    Live,
    /// Lost since then; changes are refused.
    Down {
        since: u64,
        error: String,
        attempt: u32,
        retry_at: u64,
    },
}

/// The newest of something, and what is shown of it: while the picture is frozen they differ.
#[derive(Clone, Debug, Default)]
pub(super) struct Held<T> {
    pub(super) shown: Option<T>,
    pub(super) waiting: Option<T>,
}

impl<T> Held<T> {
    /// Takes a new value; the first one is always shown.
    pub(super) fn set(&mut self, value: T, frozen: bool) {
        if frozen && self.shown.is_some() {
            self.waiting = Some(value);
        } else {
            (self.shown, self.waiting) = (Some(value), None);
        }
    }

    /// Shows what waits.
    pub(super) fn thaw(&mut self) {
        if let Some(value) = self.waiting.take() {
            self.shown = Some(value);
        }
    }

    /// The newest, shown or not.
    pub(super) fn newest(&self) -> Option<&T> {
        self.waiting.as_ref().or(self.shown.as_ref())
    }
}

/// What lies over the screen and takes the keys.
#[derive(Clone, Debug, Default)]
pub(super) enum Overlay {
    #[default]
    None,
    Help {
        top: usize,
    },
    /// The orders of the list shown; the chosen one.
    Sort {
        at: usize,
    },
    Filter(Input),
    Palette(Input),
    Why(WhyBox),
    Dialog(Box<Dialog>),
}

/// The answer to "why is it not running".
#[derive(Clone, Debug)]
pub(super) struct WhyBox {
    pub(super) selector: String,
    pub(super) ticket: u64,
    /// Sentences, most important first; none while they are fetched.
    pub(super) lines: Option<Vec<String>>,
}

/// One line for the user; gone with the next key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Notice {
    pub(super) text: String,
    pub(super) bad: bool,
}

/// What the console has asked the coordinator to keep sending. Compared with what the screen needs after every
/// message, so that no change of screen can forget to start or stop something.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Wants {
    pub(super) view: Option<ViewRequest>,
    pub(super) machines: bool,
    pub(super) workers: bool,
    pub(super) job: Option<String>,
    pub(super) log: Option<LogWant>,
}

/// The numbers of the present subscriptions.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Generations {
    pub(super) view: u64,
    pub(super) job: u64,
    pub(super) log: u64,
}

/// Everything.
#[derive(Clone, Debug)]
pub(super) struct Model {
    pub(super) theme: Theme,
    pub(super) zone: TimeZone,
    pub(super) size: (u16, u16),
    pub(super) now: Stamp,
    pub(super) user: String,
    pub(super) screen: Screen,
    pub(super) detail: Option<Detail>,
    pub(super) overlay: Overlay,
    pub(super) notice: Option<Notice>,
    pub(super) link: Link,
    pub(super) frozen: Option<u64>,
    pub(super) stats: Held<Stats>,
    /// When statistics came last.
    pub(super) heard_at: u64,
    pub(super) machines: Held<Vec<MachineView>>,
    pub(super) workers: Held<Vec<WorkerView>>,
    /// The newest failed jobs, for the overview.
    pub(super) failures: Vec<JobView>,
    pub(super) jobs: Jobs,
    pub(super) overview: Names,
    pub(super) queue_names: Names,
    pub(super) machine_names: Names,
    pub(super) worker_names: Names,
    pub(super) wants: Wants,
    pub(super) generations: Generations,
    /// The last number given to a request.
    pub(super) ticket: u64,
}

impl Model {
    /// A console that has heard nothing yet.
    pub(super) fn new(theme: Theme, zone: TimeZone, size: (u16, u16)) -> Self {
        Self {
            theme,
            zone,
            size,
            now: Stamp::default(),
            user: String::new(),
            screen: Screen::Overview,
            detail: None,
            overlay: Overlay::None,
            notice: None,
            link: Link::Connecting { error: None, attempt: 0, retry_at: 0 },
            frozen: None,
            stats: Held::default(),
            heard_at: 0,
            machines: Held::default(),
            workers: Held::default(),
            failures: Vec::new(),
            jobs: Jobs::default(),
            overview: Names::default(),
            queue_names: Names::default(),
            machine_names: Names::default(),
            worker_names: Names::default(),
            wants: Wants::default(),
            generations: Generations::default(),
            ticket: 0,
        }
    }

    /// A number for a new request.
    pub(super) const fn next_ticket(&mut self) -> u64 {
        self.ticket += 1;
        self.ticket
    }

    /// Whether changes may be asked for.
    pub(super) fn is_live(&self) -> bool {
        self.link == Link::Live
    }

    /// Tells the user something that went as it should.
    pub(super) fn say(&mut self, text: impl Into<String>) {
        self.notice = Some(Notice { text: text.into(), bad: false });
    }

    /// Tells the user why something did not happen.
    pub(super) fn complain(&mut self, text: impl Into<String>) {
        self.notice = Some(Notice { text: text.into(), bad: true });
    }

    /// The queue under the cursor, on the screens that have one.
    pub(super) fn queue_at_cursor(&self) -> Option<&QueueView> {
        let name = self.queue_names.cursor.as_deref()?;
        self.stats.shown.as_ref()?.queues.iter().find(|q| q.name == name)
    }

    /// How many rows of the list on this screen are visible at once.
    pub(super) fn rows_visible(&self) -> usize {
        usize::from(layout::list_rows(self))
    }

    /// The list of names on this screen, if it is one of those.
    pub(super) const fn names(&self) -> Option<&Names> {
        match self.screen {
            Screen::Overview => Some(&self.overview),
            Screen::Queues => Some(&self.queue_names),
            Screen::Machines => Some(&self.machine_names),
            Screen::Workers => Some(&self.worker_names),
            Screen::Jobs | Screen::Events | Screen::Operations => None,
        }
    }

    /// As [`Model::names`], to change.
    pub(super) const fn names_mut(&mut self) -> Option<&mut Names> {
        match self.screen {
            Screen::Overview => Some(&mut self.overview),
            Screen::Queues => Some(&mut self.queue_names),
            Screen::Machines => Some(&mut self.machine_names),
            Screen::Workers => Some(&mut self.worker_names),
            Screen::Jobs | Screen::Events | Screen::Operations => None,
        }
    }
}
