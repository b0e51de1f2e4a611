//! One job (or task), opened.
use super::Log;
use reeve_protocol::Problem;
use reeve_protocol::api::{JobView, RowId};

/// The parts of the detail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Tab {
    Summary,
    Log,
    Spec,
}

impl Tab {
    pub(in super::super) const ALL: [Self; 3] = [Self::Summary, Self::Log, Self::Spec];

    pub(in super::super) const fn title(self) -> &'static str {
        match self {
            Self::Summary => "Summary",
            Self::Log => "Log",
            Self::Spec => "Spec",
        }
    }

    /// The tab beside it, around the ends.
    pub(in super::super) const fn step(self, forward: bool) -> Self {
        Self::ALL[(self as usize + if forward { 1 } else { 2 }) % 3]
    }
}

/// What is shown of it.
#[derive(Clone, Debug)]
pub(in super::super) struct Detail {
    pub(in super::super) row: RowId,
    pub(in super::super) job: Option<JobView>,
    /// Why it could not be read.
    pub(in super::super) problem: Option<Box<Problem>>,
    pub(in super::super) tab: Tab,
    /// An attempt that the user chose; none for the newest.
    pub(in super::super) chosen: Option<u32>,
    pub(in super::super) log: Log,
    /// First visible line of the spec.
    pub(in super::super) spec_top: usize,
}

impl Detail {
    /// Opened from a row of a list, which is shown until the coordinator has sent the whole.
    pub(in super::super) fn new(row: RowId, job: Option<JobView>) -> Self {
        Self { row, job, problem: None, tab: Tab::Summary, chosen: None, log: Log::new(false), spec_top: 0 }
    }

    /// As the API and the command line spell it.
    pub(in super::super) fn selector(&self) -> String {
        super::super::format::id(self.row)
    }

    /// The attempt whose log is shown; 0 when nothing was started.
    pub(in super::super) fn attempt(&self) -> u32 {
        self.chosen.unwrap_or_else(|| self.job.as_ref().map_or(0, |j| j.attempt))
    }

    /// Shows the log of an older or newer attempt.
    pub(in super::super) fn choose(&mut self, older: bool) {
        let newest = self.job.as_ref().map_or(0, |j| j.attempt);
        let now = self.attempt();
        let next = if older { now.saturating_sub(1).max(1) } else { now + 1 };
        self.chosen = (next < newest).then_some(next);
    }

    /// The spec as indented JSON, line by line, safe for a terminal.
    pub(in super::super) fn spec_lines(&self) -> Vec<String> {
        let Some(job) = &self.job else { return Vec::new() };
        let mut parts = vec![("spec", serde_json::to_value(&job.spec).unwrap_or_default())];
        parts.extend(job.result.clone().map(|result| ("result", result)));
        parts.extend(job.definition.clone().map(|definition| ("definition", definition)));
        let mut lines = Vec::new();
        for (name, value) in parts {
            lines.push(format!("{name}:"));
            let text = serde_json::to_string_pretty(&value).unwrap_or_default();
            lines.extend(text.lines().map(|line| format!("  {}", super::super::format::text(line))));
        }
        lines
    }
}
