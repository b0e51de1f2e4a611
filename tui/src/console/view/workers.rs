//! The workers, and the replicas of the one under the cursor.
use super::super::format;
use super::super::layout::{self, Width};
use super::super::model::{self, Model};
use super::super::theme::Role;
use super::paint::{Painter, padded};
use super::table::{self, Column, Row, left, right};
use super::waiting_words;
use ratatui::layout::Rect;
use reeve_protocol::api::{ReplicaView, WorkerView};

const COLUMNS: [Column; 9] = [
    left("WORKER", 0, Width::Narrow),
    left("KIND", 8, Width::Narrow),
    right("VER", 4, Width::Narrow),
    right("READY", 7, Width::Narrow),
    left("PHASE", 9, Width::Narrow),
    right("BUSY", 6, Width::Narrow),
    right("CALLS", 6, Width::Medium),
    right("RATE/s", 8, Width::Medium),
    left("QUEUE", 0, Width::Wide),
];

pub(super) fn draw(model: &Model, p: &mut Painter<'_>, area: Rect) {
    let (list, below) = layout::list_and_box(area, model.size.0);
    let workers = model::workers(model);
    let inner = p.frame(list, &format!("Workers ({})", workers.len()));
    if workers.is_empty() {
        p.notice(inner, &empty(model));
        p.frame(below, "");
        return;
    }
    let names = &model.worker_names;
    let fit = usize::from(inner.height.saturating_sub(1));
    let shown = workers.iter().enumerate().skip(names.top).take(fit);
    let rows: Vec<Row> = shown.map(|(at, w)| row(w, at == names.index)).collect();
    table::draw(p, inner, Width::of(model.size.0), &COLUMNS, &rows);
    if let Some(worker) = workers.get(names.index) {
        about(p, below, worker);
    }
}

fn role(phase: &str) -> Role {
    match phase {
        "ready" => Role::Good,
        "failed" => Role::Bad,
        "unready" | "unconfirmed" | "draining" => Role::Warn,
        "stopped" | "unloaded" => Role::Dim,
        _ => Role::Busy,
    }
}

fn row(worker: &WorkerView, at_cursor: bool) -> Row {
    let status = worker.status.as_ref();
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    let phase = status.map_or("-", |s| s.phase.as_str());
    Row { at_cursor, attention: phase == "failed", ..Row::default() }
        .cell(format::text(&worker.name))
        .cell(format::text(&worker.kind))
        .cell(status.map_or(worker.version, |s| s.version).to_string())
        .cell(or_dash(status.map(|s| format!("{}/{}", s.ready, s.desired))))
        .role(phase.to_owned(), role(phase))
        .cell(or_dash(status.map(|s| s.outstanding.to_string())))
        .cell(or_dash(status.map(|s| s.calls_waiting.to_string())))
        .cell(or_dash(status.map(|s| format!("{:.1}", s.rate))))
        .cell(format::text(&worker.queue))
}

/// Why it is as it is, and its replicas, those in trouble first.
fn about(p: &mut Painter<'_>, area: Rect, worker: &WorkerView) {
    let inner = padded(p.frame(area, &format::text(&worker.name)));
    let command = worker.shell.clone().unwrap_or_else(|| worker.spec.title());
    let mut lines = vec![("command".to_owned(), format::text(&command), Role::Plain)];
    if let Some(status) = &worker.status {
        lines.extend(status.follows().map(|text| ("replicas".to_owned(), text, Role::Dim)));
        lines.extend(status.reason.iter().map(|why| ("reason".to_owned(), format::text(why), Role::Bad)));
        let mut replicas: Vec<&ReplicaView> = status.replicas.iter().collect();
        replicas.sort_by_key(|r| (r.phase == "ready", r.replica));
        lines.extend(replicas.into_iter().map(replica));
    } else if worker.kind == "static" {
        lines.push((String::new(), "It was never launched.  L launches it.".to_owned(), Role::Dim));
    }
    for (at, (head, text, role)) in lines.iter().take(usize::from(inner.height)).enumerate() {
        p.line(inner, at as u16, &[(&format!("{head:<9}"), Role::Dim), (text, *role)]);
    }
}

fn replica(r: &ReplicaView) -> (String, String, Role) {
    let machine = r.machine.as_deref().unwrap_or("-");
    let loaded = r.progress.map(|p| format!("  {:.0} %", p * 100.0)).unwrap_or_default();
    let why = r.reason.as_ref().or(r.message.as_ref()).map(|w| format!("  {w}")).unwrap_or_default();
    let text = format!(
        "{}  {machine}  v{}  start {}  busy {}{loaded}{why}",
        r.phase, r.version, r.attempt, r.outstanding
    );
    (format!("job {}", r.job), format::text(&text), role(&r.phase))
}

fn empty(model: &Model) -> Vec<String> {
    if model.workers.shown.is_none() {
        return vec![waiting_words(model).into()];
    }
    if !model.worker_names.filter.is_empty() {
        let filter = format::text(&model.worker_names.filter);
        return vec![format!("No worker is called  {filter}"), String::new(), "esc clears the filter".into()];
    }
    vec![
        "No worker is registered.".into(),
        String::new(),
        "reeve worker register NAME -- COMMAND".into(),
        "reeve worker register NAME --static -- COMMAND    stays up and is asked".into(),
    ]
}
