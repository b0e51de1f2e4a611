//! The queues, and what is known about the one under the cursor.
use super::super::format::{self, measured, rate};
use super::super::layout::{self, Width};
use super::super::model::{self, Model};
use super::super::theme::Role;
use super::paint::{Painter, padded};
use super::table::{self, Column, Row, left, right};
use super::{sort_words, waiting_words};
use ratatui::layout::Rect;
use reeve_protocol::api::QueueView;
use reeve_protocol::time::Wall;
use reeve_protocol::units::{show_count, show_duration};

/// What waits, how long, and whether it drains.
const COLUMNS: [Column; 15] = [
    left("QUEUE", 0, Width::Narrow),
    left("KIND", 8, Width::Wide),
    left("STATE", 8, Width::Narrow),
    right("WAIT", 7, Width::Narrow),
    right("HELD", 6, Width::Huge),
    right("RETRY", 5, Width::Wide),
    right("RUN/LIMIT", 9, Width::Narrow),
    right("FAILED", 7, Width::Medium),
    right("START/s", 7, Width::Medium),
    right("DONE/s", 7, Width::Wide),
    right("FAIL/s", 6, Width::Wide),
    right("OLDEST", 7, Width::Medium),
    right("p50", 6, Width::Wide),
    right("p95", 6, Width::Medium),
    right("ETA", 7, Width::Wide),
];

pub(super) fn draw(model: &Model, p: &mut Painter<'_>, area: Rect) {
    let (list, below) = layout::list_and_box(area, model.size.0);
    let queues = model::queues(model);
    let inner = p.frame(list, &format!("Queues ({})  sorted by: {}", queues.len(), sort_words(model)));
    if queues.is_empty() {
        p.notice(inner, &empty(model));
        p.frame(below, "");
        return;
    }
    rows(model, p, inner, &queues, true);
    if let Some(queue) = model.queue_at_cursor() {
        about(model, p, below, queue);
    }
}

/// The table alone, also for the overview. Without a list of its own the rows are as many as fit, around the cursor.
pub(super) fn rows(model: &Model, p: &mut Painter<'_>, area: Rect, queues: &[&QueueView], own: bool) {
    let fit = usize::from(area.height.saturating_sub(1));
    let cursor = if own {
        Some(model.queue_names.index)
    } else {
        let alerts = model::overview(model).len() - queues.len();
        model.overview.index.checked_sub(alerts)
    };
    let top = if own { model.queue_names.top } else { (cursor.unwrap_or(0) + 1).saturating_sub(fit) };
    let rows: Vec<Row> = queues
        .iter()
        .enumerate()
        .skip(top)
        .take(fit)
        .map(|(at, queue)| row(queue, cursor == Some(at)))
        .collect();
    table::draw(p, area, Width::of(model.size.0), &COLUMNS, &rows);
}

/// A limit of 0 is none, and is not shown.
fn row(queue: &QueueView, at_cursor: bool) -> Row {
    let waiting = |word: &str| show_count(queue.waiting.get(word).copied().unwrap_or(0));
    let running = show_count(queue.counts.running);
    let limit =
        if queue.limit == 0 { running } else { format!("{running}/{}", show_count(queue.limit.into())) };
    let (state, role) = match (queue.paused, queue.degraded.is_some()) {
        (true, _) => ("PAUSED", Role::Warn),
        (false, true) => ("DEGRADED", Role::Warn),
        (false, false) => ("open", Role::Plain),
    };
    let failing = if queue.failed_per_s > 0.0 { Role::Bad } else { Role::Plain };
    Row { at_cursor, ..Row::default() }
        .cell(format::text(&queue.name))
        .cell(format::text(&queue.kind))
        .role(state, role)
        .cell(show_count(queue.counts.queued))
        .cell(waiting("held"))
        .cell(waiting("retrying"))
        .cell(limit)
        .cell(show_count(queue.counts.failed))
        .cell(rate(queue.started_per_s))
        .cell(rate(queue.ended_per_s))
        .role(rate(queue.failed_per_s), failing)
        .cell(measured(queue.oldest_age_s))
        .cell(measured(queue.wait_p50_s))
        .cell(measured(queue.wait_p95_s))
        .cell(eta(queue))
}

/// When the queue is empty at the present speed.
fn eta(queue: &QueueView) -> String {
    if queue.counts.queued == 0 || queue.paused || queue.ended_per_s < 0.001 {
        return "-".into();
    }
    show_duration(queue.counts.queued as f64 / queue.ended_per_s)
}

/// The policy in words, since the numbers alone do not say what they mean.
fn about(model: &Model, p: &mut Painter<'_>, area: Rect, queue: &QueueView) {
    let inner = padded(p.frame(area, &format::text(&queue.name)));
    let bound = |n: u64| if n == 0 { "none".to_owned() } else { show_count(n) };
    let waits: Vec<String> =
        queue.waiting.iter().map(|(word, n)| format!("{} {word}", show_count(*n))).collect();
    let spark =
        format::sparkline(&queue.history, usize::from(inner.width.saturating_sub(24)).min(60), model.theme);
    let mut lines = trouble(model, queue);
    let wrong = lines.len();
    lines.extend([
        (
            "policy",
            format!(
                "priority, then oldest   weight {}   limit {}   longest {}",
                queue.weight,
                bound(queue.limit.into()),
                bound(queue.max_len)
            ),
        ),
        ("waits", if waits.is_empty() { "nothing".into() } else { format::text(&waits.join("   ")) }),
        ("ended", format!("{spark}  last 10 min")),
        ("backend", format::text(&format!("{}   made by {}", queue.backend, queue.owner))),
    ]);
    let acts = if queue.paused { "resume..." } else { "pause..." };
    let keys = u16::from(inner.height > 3);
    for (at, (head, text)) in lines.iter().take(usize::from(inner.height - keys)).enumerate() {
        let role = if at < wrong { Role::Warn } else { Role::Plain };
        p.line(inner, at as u16, &[(&format!("{head:<9}"), Role::Dim), (text, role)]);
    }
    let row = inner.height.saturating_sub(1).min(lines.len() as u16 + 1);
    if keys > 0 {
        let hint = format!(" {acts}");
        p.line(
            inner,
            row,
            &[("Enter", Role::Key), (" its jobs   ", Role::Plain), ("P", Role::Key), (&hint, Role::Plain)],
        );
    }
}

/// What keeps it from going on, before anything else about it.
fn trouble(model: &Model, queue: &QueueView) -> Vec<(&'static str, String)> {
    let when = |word: &str, at: Option<Wall>| {
        at.map_or_else(String::new, |at| format!("{word} {}", format::clock(at, &model.zone)))
    };
    let said = |head, when: String, why: &str| (head, format::text(&format!("{when}{why}")));
    let degraded = queue.degraded.as_ref();
    let degraded = degraded.map(|why| {
        // A broker that is connected and says nothing has no moment at which it went away.
        let since = when("since", queue.degraded_since);
        let colon = if since.is_empty() { "" } else { ": " };
        said("degraded", since, &format!("{colon}{why}"))
    });
    let paused = queue.paused_by.as_ref().map(|by| {
        let why = queue.paused_why.as_deref().map_or_else(String::new, |why| format!(": {why}"));
        said("paused", when("at", queue.paused_at), &format!(" by {by}{why}"))
    });
    degraded.into_iter().chain(paused).collect()
}

/// Why there is nothing, and one thing to do.
fn empty(model: &Model) -> Vec<String> {
    if model.stats.shown.is_none() {
        return vec![waiting_words(model).into()];
    }
    if !model.queue_names.filter.is_empty() {
        let filter = format::text(&model.queue_names.filter);
        return vec![format!("No queue is called  {filter}"), String::new(), "esc clears the filter".into()];
    }
    let next = "A queue is made by its first use:   reeve submit --queue NAME -- echo hello";
    vec!["No queues yet.".into(), String::new(), next.into()]
}
