//! The rows of the short lists, filtered and sorted: worked out from the newest statistics, never stored.
use super::Model;
use reeve_protocol::api::{Alert, MachineView, QueueView, WorkerView};
use reeve_protocol::text::glob;
use std::cmp::Ordering;

/// How the queues can be sorted; the menu shows these words.
pub(in super::super) const QUEUE_COLUMNS: [&str; 5] =
    ["name", "waiting, most first", "running, most first", "oldest first", "failures, most first"];

/// How the machines can be sorted.
pub(in super::super) const MACHINE_COLUMNS: [&str; 4] =
    ["name", "trouble first", "running, most first", "cpu, busiest first"];

/// One line of the overview that the cursor can stand on.
#[derive(Clone, Copy, Debug)]
pub(in super::super) enum OverviewRow<'a> {
    Alert(&'a Alert),
    Queue(&'a QueueView),
}

impl OverviewRow<'_> {
    /// Told apart even when a queue and a machine have the same name.
    pub(in super::super) fn key(&self) -> String {
        match self {
            Self::Alert(alert) => format!("!{}", alert.subject),
            Self::Queue(queue) => queue.name.clone(),
        }
    }
}

/// What needs attention, then the queues.
pub(in super::super) fn overview(model: &Model) -> Vec<OverviewRow<'_>> {
    let Some(stats) = &model.stats.shown else { return Vec::new() };
    let shown = if super::super::layout::overview_has_alerts(model) { stats.alerts.as_slice() } else { &[] };
    let alerts = shown.iter().map(OverviewRow::Alert);
    alerts.chain(stats.queues.iter().map(OverviewRow::Queue)).collect()
}

/// The queues as the screen lists them.
pub(in super::super) fn queues(model: &Model) -> Vec<&QueueView> {
    let Some(stats) = &model.stats.shown else { return Vec::new() };
    let list = &model.queue_names;
    let mut rows: Vec<_> = stats.queues.iter().filter(|q| matches(&list.filter, &q.name)).collect();
    rows.sort_by(|a, b| {
        let order = match list.sort {
            1 => b.counts.queued.cmp(&a.counts.queued),
            2 => b.counts.running.cmp(&a.counts.running),
            3 => descending(a.oldest_age_s.unwrap_or(-1.0), b.oldest_age_s.unwrap_or(-1.0)),
            4 => b.counts.failed.cmp(&a.counts.failed),
            _ => Ordering::Equal,
        };
        order.then_with(|| a.name.cmp(&b.name))
    });
    rows
}

/// The machines as the screen lists them.
pub(in super::super) fn machines(model: &Model) -> Vec<&MachineView> {
    let Some(machines) = &model.machines.shown else { return Vec::new() };
    let list = &model.machine_names;
    let mut rows: Vec<_> = machines.iter().filter(|m| matches(&list.filter, &m.name)).collect();
    rows.sort_by(|a, b| {
        let order = match list.sort {
            1 => trouble(b).cmp(&trouble(a)),
            2 => b.running.cmp(&a.running),
            3 => descending(a.cpu_busy.unwrap_or(-1.0), b.cpu_busy.unwrap_or(-1.0)),
            _ => Ordering::Equal,
        };
        order.then_with(|| a.name.cmp(&b.name))
    });
    rows
}

/// The workers as the screen lists them.
pub(in super::super) fn workers(model: &Model) -> Vec<&WorkerView> {
    let Some(workers) = &model.workers.shown else { return Vec::new() };
    workers.iter().filter(|w| matches(&model.worker_names.filter, &w.name)).collect()
}

/// Lost machines hold jobs that may run nowhere: they come before those that only went quiet.
fn trouble(machine: &MachineView) -> u8 {
    match machine.state.as_str() {
        "lost" => 3,
        "disconnected" => 2,
        "up" => 0,
        _ => 1,
    }
}

/// A total order, so that a value that is no number cannot upset the sort.
fn descending(a: f64, b: f64) -> Ordering {
    b.total_cmp(&a)
}

/// A filter of these lists is a part of the name, or a glob.
fn matches(filter: &str, name: &str) -> bool {
    filter.is_empty() || if filter.contains(['*', '?']) { glob(filter, name) } else { name.contains(filter) }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn a_filter_is_a_part_or_a_glob() {
        for (filter, name, wanted) in [
            ("", "gpu", true),
            ("p", "gpu", true),
            ("p*", "gpu", false),
            ("g*", "gpu", true),
            ("x", "gpu", false),
        ] {
            assert_eq!(matches(filter, name), wanted, "{filter}");
        }
    }
}
