//! One job: what happened in each attempt, what it says now, how it was submitted.
use super::super::format;
use super::super::layout::{self, Areas, Width};
use super::super::model::{Detail, Entry, Log, Model, Stream, Tab};
use super::super::theme::{Role, Theme};
use super::paint::{Painter, padded, wrapped};
use jiff::tz::TimeZone;
use ratatui::layout::Rect;
use reeve_protocol::api::{AttemptView, JobView};
use reeve_protocol::text::Clean;
use reeve_protocol::units::{show_bytes, show_count, show_duration};

pub(super) fn draw(model: &Model, open: &Detail, p: &mut Painter<'_>, areas: &Areas) {
    crumb(open, p, areas.crumb);
    if let Some(problem) = &open.problem {
        let inner = p.frame(areas.body, "");
        let said = [problem.detail.as_str(), "", problem.hint.as_str()];
        return p.notice(inner, &said.map(format::text));
    }
    match open.tab {
        Tab::Summary => {
            let (left, right, below) = layout::detail(areas.body);
            if let Some(job) = &open.job {
                summary(model, job, p, left);
                attempts(model, open, job, p, right);
            }
            log(model, open, p, below);
        }
        Tab::Log => log(model, open, p, areas.body),
        Tab::Spec => spec(open, p, areas.body),
    }
}

/// Where the user is, and which parts there are.
fn crumb(open: &Detail, p: &mut Painter<'_>, area: Rect) {
    let name =
        open.job.as_ref().map(|j| j.name.clone().unwrap_or_else(|| j.spec.title())).unwrap_or_default();
    let path = format!(" Jobs > {} {}", open.selector(), format::text(&name));
    let mut tabs: Vec<(String, Role)> = Vec::new();
    for tab in Tab::ALL {
        let here = tab == open.tab;
        let text = if here { format!("[{}]", tab.title()) } else { format!(" {} ", tab.title()) };
        tabs.push((text, if here { Role::Selected } else { Role::Plain }));
    }
    if Width::of(area.width) >= Width::Wide {
        tabs.push(("     ] switch   esc back ".into(), Role::Dim));
    }
    let wide: usize = tabs.iter().map(|(text, _)| format::columns(text)).sum();
    let left = Rect { width: area.width.saturating_sub(wide as u16 + 1), ..area };
    p.line(left, 0, &[(&path, Role::Head)]);
    let parts: Vec<(&str, Role)> = tabs.iter().map(|(text, role)| (text.as_str(), *role)).collect();
    p.right(area, 0, &parts);
}

/// The lines of the summary, most important first: a small box shows fewer of them.
fn facts(model: &Model, job: &JobView) -> Vec<(&'static str, String, Role)> {
    let theme = model.theme;
    let (glyph, word, role) = theme.state(job);
    let spec = &job.spec;
    let mut lines = Vec::new();
    let alias = job.alias.as_ref().map(|a| format!("   @{a}")).unwrap_or_default();
    let cause = job.cause.as_ref().map(|c| format!("   {c}")).unwrap_or_default();
    lines.push(("state", format!("{glyph} {word}{cause}{alias}"), role));
    if let Some(detail) = job.cause.as_ref().map(reeve_protocol::Cause::detail).filter(|d| !d.is_empty()) {
        lines.push(("because", detail.to_owned(), Role::Bad));
    }
    if job.progress.is_some() || job.message.is_some() {
        let part = job.progress.unwrap_or(0.0);
        let bar = job.progress.map(|_| format!("{} {:.0} %  ", format::bar(part, 24, theme), part * 100.0));
        let said = job.message.clone().unwrap_or_default();
        lines.push(("progress", format!("{}{said}", bar.unwrap_or_default()), Role::Busy));
    }
    let machine = job.machine.as_deref().unwrap_or("-");
    let priority = job.priority;
    lines.push(("queue", format!("{}   priority {priority}   user {}", job.queue, job.owner), Role::Plain));
    lines.push((
        "machine",
        format!("{machine}   run time {}", format::run_time(job, model.now.wall)),
        Role::Plain,
    ));
    let command = spec.command.as_ref().map_or_else(
        || spec.worker.as_ref().map_or_else(|| "-".into(), |w| format!("worker {w}")),
        |c| shlex::try_join(c.iter().map(String::as_str)).unwrap_or_else(|_| c.join(" ")),
    );
    lines.push(("command", command, Role::Plain));
    if let Some(git) = &spec.git {
        lines.push(("source", git.to_string(), Role::Plain));
    }
    let r = &spec.resources;
    let memory = r.memory_bytes.map_or_else(|| "no limit".into(), show_bytes);
    let limit = spec.timeout_s.map_or_else(|| "no limit".into(), show_duration);
    let (cpus, gpus) = (r.cpus.unwrap_or(1.0), r.gpus.unwrap_or(0.0));
    lines.push(("asks", format!("cpu {cpus}   memory {memory}   gpu {gpus}   time {limit}"), Role::Plain));
    let at = |wall| format::clock(wall, &model.zone);
    let age = format::span(model.now.wall.seconds_since(job.created_at));
    let start = job.run_at.map(|t| format!("   starts at {}", at(t))).unwrap_or_default();
    lines.push(("submitted", format!("{}   {age} ago{start}", at(job.created_at)), Role::Plain));
    if let Some(array) = &job.array {
        let c = array.counts;
        let text = format!(
            "{} tasks: {} queued, {} running, {} completed, {} failed, {} cancelled",
            show_count(array.total),
            c.queued,
            c.running,
            c.completed,
            c.failed,
            c.cancelled
        );
        lines.insert(1, ("tasks", text, Role::Plain));
    }
    let labels: Vec<String> = job.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    if !labels.is_empty() {
        lines.push(("labels", labels.join("   "), Role::Plain));
    }
    lines
}

fn summary(model: &Model, job: &JobView, p: &mut Painter<'_>, area: Rect) {
    let inner = padded(p.frame(area, "Summary"));
    let mut row = 0;
    for (head, text, role) in facts(model, job) {
        let text = format::text(&text);
        // A cut reason is no reason; everything else can be read in full in the spec.
        let rows = if head == "because" {
            wrapped(&text, usize::from(inner.width.saturating_sub(10))).into_iter().take(3).collect()
        } else {
            vec![text]
        };
        for (at, part) in rows.iter().enumerate() {
            let head = if at == 0 { head } else { "" };
            p.line(inner, row, &[(&format!("{head:<10}"), Role::Dim), (part, role)]);
            row += 1;
        }
    }
}

/// Newest first; the one whose log is shown is pointed at.
fn attempts(model: &Model, open: &Detail, job: &JobView, p: &mut Painter<'_>, area: Rect) {
    let inner = p.frame(area, &format!("Attempts ({})", job.attempts.len()));
    if job.attempts.is_empty() {
        return p.line(inner, 0, &[(" nothing was started yet; e explains", Role::Dim)]);
    }
    let head = format!("  {:<3} {:<13} {:<8} {:<8} RESULT", "#", "MACHINE", "START", "RUN TIME");
    p.line(inner, 0, &[(&head, Role::Head)]);
    for (row, attempt) in job.attempts.iter().rev().enumerate() {
        let pointer = if attempt.attempt == open.attempt() { "> " } else { "  " };
        let (text, result, role) = attempt_row(model, attempt);
        p.line(inner, row as u16 + 1, &[(pointer, Role::Head), (&text, Role::Plain), (&result, role)]);
    }
}

/// The peak is there because "how much memory did it want" is the question after "out of memory".
fn attempt_row(model: &Model, attempt: &AttemptView) -> (String, String, Role) {
    let start = attempt.started_at.map_or_else(|| "-".into(), |at| format::clock(at, &model.zone));
    let ran = attempt.started_at.map_or_else(
        || "-".into(),
        |from| format::span(attempt.ended_at.unwrap_or(model.now.wall).seconds_since(from)),
    );
    let machine = format::fit(&format::text(&attempt.machine), 13);
    let text = format!("{:<3} {machine:<13} {start:<8} {ran:<8} ", attempt.attempt);
    let peak = match attempt.rss_peak_bytes {
        0 => String::new(),
        bytes => format!("   peak {}", show_bytes(bytes)),
    };
    match &attempt.cause {
        Some(cause @ reeve_protocol::Cause::Ok) => (text, format!("{cause}{peak}"), Role::Good),
        Some(cause) => (text, format::text(&format!("{cause}{peak}")), Role::Bad),
        None => (text, "-".into(), Role::Plain),
    }
}

/// How the log stands, for its title.
fn log_words(open: &Detail) -> String {
    let log = &open.log;
    let state = match (log.ended, log.follow) {
        (true, true) => "complete",
        (true, false) => "complete, scrolled",
        (false, true) => "following",
        (false, false) => "scrolled, G follows",
    };
    let lines = match (log.len(), log.forgotten) {
        (n, 0) => format!("{} lines", show_count(n)),
        (n, gone) => format!("last {} of {} lines", show_count(n), show_count(n + gone)),
    };
    format!("Log #{}  {state}  {lines}", open.attempt())
}

/// The title says whether the end is shown, since a log that stands still looks the same either way.
fn log(model: &Model, open: &Detail, p: &mut Painter<'_>, area: Rect) {
    if open.attempt() == 0 {
        let inner = p.frame(area, "Log");
        let first = "There is no output: nothing was started yet.";
        return p.notice(inner, &[first.into(), String::new(), "e explains why   X cancels it".into()]);
    }
    let inner = p.frame(area, &log_words(open));
    if open.log.len() == 0 {
        return p.notice(inner, &[no_output(open).into()]);
    }
    let rows = visible_rows(&open.log, inner, model.theme, &model.zone);
    for (row, parts) in rows.iter().enumerate() {
        let parts: Vec<(&str, Role)> = parts.iter().map(|(text, role)| (text.as_str(), *role)).collect();
        p.line(inner, row as u16, &parts);
    }
}

/// Why there is no line. The output of a job that a consumer took stays with the consumer.
fn no_output(open: &Detail) -> &'static str {
    let consumer =
        open.job.as_ref().and_then(|j| j.machine.as_deref()).is_some_and(|m| m.starts_with("consumer:"));
    match (consumer, open.log.ended) {
        (true, _) => "A consumer of the queue runs this; its output is not kept here.",
        (false, true) => "This attempt wrote nothing.",
        (false, false) => "Nothing was written yet.",
    }
}

/// A row of the log: the time, the mark of stderr, the text.
type LogRow = Vec<(String, Role)>;

/// The rows that are visible, whatever the number of lines: made backwards from the end when following, else forwards
/// from the first visible line.
fn visible_rows(log: &Log, area: Rect, theme: Theme, zone: &TimeZone) -> Vec<LogRow> {
    let height = usize::from(area.height);
    let width = usize::from(area.width);
    if !log.follow {
        return log
            .from(log.top)
            .take(height)
            .flat_map(|entry| log_rows(&entry, width, log.wrap, theme, zone))
            .take(height)
            .collect();
    }
    let mut rows: Vec<LogRow> = Vec::new();
    for entry in log.entries().rev() {
        if rows.len() >= height {
            break;
        }
        rows.extend(log_rows(&entry, width, log.wrap, theme, zone).into_iter().rev());
    }
    rows.truncate(height);
    rows.reverse();
    rows
}

/// Stderr is marked by a letter, not only by colour. Continued rows of a wrapped line have neither time nor letter.
fn log_rows(entry: &Entry, width: usize, wrap: bool, theme: Theme, zone: &TimeZone) -> Vec<LogRow> {
    if entry.stream == Stream::Gap {
        let line = theme.pick("──", "--");
        return vec![vec![(format!("{line} {} {line}", entry.text), Role::Warn)]];
    }
    let clock = entry.at.map_or_else(|| "        ".into(), |at| format::clock(at, zone));
    // On a narrow screen the text needs the room more than the time does.
    let clock = if width >= 58 { format!("{clock} ") } else { String::new() };
    let (sign, role) = if entry.stream == Stream::Stderr { ("E ", Role::Bad) } else { ("  ", Role::Plain) };
    let lead = clock.len() + sign.len();
    let texts = if wrap {
        wrapped(entry.text.as_str(), width.saturating_sub(lead))
    } else {
        vec![entry.text.as_str().to_owned()]
    };
    let rest = " ".repeat(clock.len());
    texts
        .into_iter()
        .enumerate()
        .map(|(at, text)| {
            let (clock, sign) = if at == 0 { (clock.clone(), sign) } else { (rest.clone(), "  ") };
            vec![(clock, Role::Dim), (sign.to_owned(), role), (Clean::line(&text).into_string(), Role::Plain)]
        })
        .collect()
}

/// What was submitted, and what came out.
fn spec(open: &Detail, p: &mut Painter<'_>, area: Rect) {
    let lines = open.spec_lines();
    let inner = p.frame(area, &format!("Spec ({} lines)", lines.len()));
    for (row, line) in lines.iter().skip(open.spec_top).take(usize::from(inner.height)).enumerate() {
        let role = if line.starts_with(' ') { Role::Plain } else { Role::Head };
        p.line(padded(inner), row as u16, &[(line, role)]);
    }
}
