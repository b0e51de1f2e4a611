//! The list of jobs, and the bar of what is marked.
use super::super::format;
use super::super::layout::{self, Areas, Width};
use super::super::model::{Model, Window};
use super::super::theme::Role;
use super::paint::{Painter, padded};
use super::table::{self, Column, Row, left, right};
use super::{sort_words, waiting_words};
use ratatui::layout::Rect;
use reeve_protocol::api::{JobView, Total};
use reeve_protocol::units::show_count;

/// Numbers of jobs are short and never reused; names and results take what is left.
const COLUMNS: [Column; 12] = [
    left("JOB", 8, Width::Narrow),
    left("STATE", 13, Width::Narrow),
    left("NAME", 0, Width::Narrow),
    left("QUEUE", 8, Width::Medium),
    right("PRI", 4, Width::Wide),
    left("USER", 7, Width::Wide),
    left("MACHINE", 8, Width::Medium),
    right("AGE", 8, Width::Wide),
    right("RUN TIME", 8, Width::Medium),
    right("TRY", 3, Width::Wide),
    left("RESULT", 0, Width::Medium),
    left("LABELS", 24, Width::Huge),
];

pub(super) fn draw(model: &Model, p: &mut Painter<'_>, areas: &Areas) {
    crumb(model, p, areas.crumb);
    let title = if model.jobs.scope.is_some() { "Tasks" } else { "Jobs" };
    let inner = p.frame(areas.body, title);
    let jobs = &model.jobs;
    if let Some(problem) = &jobs.problem {
        let said = [problem.detail.as_str(), "", problem.hint.as_str()];
        return p.notice(inner, &said.map(format::text));
    }
    let Some(window) = &jobs.shown else { return p.notice(inner, &[waiting_words(model).into()]) };
    if window.total.value == 0 {
        return p.notice(inner, &empty(model));
    }
    let visible =
        u64::from(layout::list_rows(model)).min(window.total.value - jobs.top.min(window.total.value));
    let rows: Vec<Row> =
        (jobs.top..jobs.top + visible).map(|position| row(model, window, position)).collect();
    table::draw(p, inner, Width::of(model.size.0), &COLUMNS, &rows);
    foot(model, p, inner, visible);
}

/// What is filtered and how it is sorted; for the tasks of an array, whose they are.
fn crumb(model: &Model, p: &mut Painter<'_>, area: Rect) {
    let jobs = &model.jobs;
    let filter = if jobs.filter.is_empty() { "(none)".into() } else { format::text(&jobs.filter) };
    let role = if jobs.filter.is_empty() { Role::Dim } else { Role::Head };
    let matching = match (&jobs.shown, jobs.filter.is_empty(), model.stats.newest()) {
        (None, ..) => String::new(),
        (Some(window), false, Some(stats))
            if Width::of(area.width) >= Width::Wide && jobs.scope.is_none() =>
        {
            format!("{} of {}", amount(window.total), show_count(stats.counts.total()))
        }
        (Some(window), ..) => amount(window.total),
    };
    let sort = format!("{matching}  sort: {} ", sort_words(model));
    let width = usize::from(area.width).saturating_sub(format::columns(&sort) + 1) as u16;
    let left = Rect { width, ..area };
    let array = jobs.scope.map(|id| format!(" Jobs > {id}  ")).unwrap_or_default();
    p.line(left, 0, &[(&array, Role::Head), (" filter: ", Role::Dim), (&filter, role)]);
    p.right(area, 0, &[(&sort, Role::Dim)]);
}

/// A count that is only a lower bound says so.
fn amount(total: Total) -> String {
    format!("{}{}", if total.exact { "" } else { "more than " }, show_count(total.value))
}

/// A position whose row is still on its way is shown as such, never as the end of the list.
fn row(model: &Model, window: &Window, position: u64) -> Row {
    let at_cursor = position == model.jobs.position;
    let found = window.id_at(position).and_then(|id| window.rows.get(&id));
    let Some(job) = found else {
        return Row { at_cursor, ..Row::default() }.role("...", Role::Dim);
    };
    let marked = !model.jobs.marks.is_empty() && model.jobs.marks.contains((job.id, job.index));
    cells(model, job, Row { at_cursor, marked, ..Row::default() })
}

/// Everything from users and jobs goes through the sanitiser.
fn cells(model: &Model, job: &JobView, row: Row) -> Row {
    let now = model.now.wall;
    let (glyph, word, role) = model.theme.state(job);
    let labels: Vec<String> = job.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    let name = job.name.clone().unwrap_or_else(|| job.spec.title());
    let attempts = if job.attempt == 0 { "-".into() } else { job.attempt.to_string() };
    row.cell(format::id((job.id, job.index)))
        .role(format!("{glyph} {word}"), role)
        .cell(format::text(&name))
        .cell(format::text(&job.queue))
        .cell(job.priority.to_string())
        .cell(format::text(&job.owner))
        .cell(job.machine.as_deref().map_or_else(|| "-".into(), format::text))
        .cell(format::span(now.seconds_since(job.created_at)))
        .cell(format::run_time(job, now))
        .cell(attempts)
        .cell(format::outcome(job))
        .cell(format::text(&labels.join(",")))
}

/// Which part of the list is shown, and what waits behind a frozen picture.
fn foot(model: &Model, p: &mut Painter<'_>, inner: Rect, visible: u64) {
    let jobs = &model.jobs;
    let row = inner.height.saturating_sub(1);
    let text = format!(
        "   rows {}-{} of {}",
        show_count(jobs.top + 1),
        show_count(jobs.top + visible),
        show_count(jobs.total())
    );
    let x = p.at(inner, row, 0, &[(&text, Role::Dim)]);
    let changed = jobs.changed_since_freeze();
    if changed > 0 {
        let text = format!("   +{changed} changed since the freeze, f shows them");
        p.at(inner, row, x, &[(&text, Role::Warn)]);
    } else if jobs.range.is_some() {
        p.at(inner, row, x, &[("   range: move to mark, v ends it", Role::Warn)]);
    }
}

/// Why the list is empty, how many jobs there are, and one thing to do.
fn empty(model: &Model) -> Vec<String> {
    let stats = model.stats.newest();
    if !model.jobs.filter.is_empty() {
        let exist = stats.map_or_else(String::new, |s| {
            format!("{} jobs exist, {} failed.   ", show_count(s.counts.total()), show_count(s.counts.failed))
        });
        return vec![
            format!("No job matches  {}", format::text(&model.jobs.filter)),
            String::new(),
            format!("{exist}esc clears the filter   / changes it"),
        ];
    }
    if model.jobs.scope.is_some() {
        return vec![
            "No task of this array has been started yet.".into(),
            String::new(),
            "A task gets a row when it is first handed out.   h back   e explain".into(),
        ];
    }
    let free = stats.map_or_else(String::new, |s| {
        let cpus = s.cpu_milli_total.saturating_sub(s.cpu_milli_used) / 1000;
        format!("{} machines up, {cpus} cpus free", s.machines.get("up").copied().unwrap_or(0))
    });
    vec![
        "No jobs yet.".into(),
        String::new(),
        "Submit one:   reeve submit -- echo hello".into(),
        String::new(),
        free,
    ]
}

/// What is marked, and what can be done with it.
pub(super) fn bulk(model: &Model, p: &mut Painter<'_>, area: Rect) {
    let jobs = &model.jobs;
    if jobs.marks.is_empty() {
        return;
    }
    let matching = jobs.shown.as_ref().map_or_else(|| "?".into(), |w| amount(w.total));
    let words = jobs.marks.words(&matching);
    let acts = [("R", " restart...  "), ("X", " cancel...  "), ("H", " hold...  "), ("U", " release...  ")];
    let all = format!(" all {matching}   ");
    let mut parts: Vec<(&str, Role)> =
        acts.iter().flat_map(|(k, t)| [(*k, Role::Key), (*t, Role::Plain)]).collect();
    if layout::has_bulk_box(model) {
        let inner = padded(p.frame(area, &words));
        parts.extend([
            ("  *", Role::Key),
            (&all, Role::Plain),
            ("!", Role::Key),
            (" invert   ", Role::Plain),
        ]);
        parts.extend([("esc", Role::Key), (" unmark", Role::Plain)]);
        return p.line(inner, 0, &parts);
    }
    let head = format!(" {words}: ");
    let x = p.at(area, 0, 0, &[(&head, Role::Marked)]);
    p.at(area, 0, x, &parts);
}
