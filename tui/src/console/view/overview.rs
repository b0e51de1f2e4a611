//! Is something wrong, and where.
use super::super::format::{self, measured, rate};
use super::super::layout::{self, Width};
use super::super::model::Model;
use super::super::theme::{Role, Theme};
use super::paint::{Painter, padded};
use super::{queues, waiting_words};
use ratatui::layout::Rect;
use reeve_protocol::api::{JobView, MachineView, QueueView, Stats};
use reeve_protocol::units::show_count;

/// Narrow or low screens keep the queues: what waits is the one thing to know.
pub(super) fn draw(model: &Model, p: &mut Painter<'_>, area: Rect) {
    let Some(stats) = &model.stats.shown else {
        let inner = p.frame(area, "Overview");
        return p.notice(inner, &[waiting_words(model).into()]);
    };
    let width = Width::of(model.size.0);
    let (above, below) = match area.height {
        _ if !layout::overview_has_alerts(model) => (0, 0),
        0..14 => (4, 0),
        14..26 => (6, 5),
        _ => (11, 9),
    };
    let (rest, bottom) = layout::split_bottom(area, if width == Width::Narrow { 0 } else { below });
    let (top, middle) = layout::split_bottom(rest, rest.height - above.min(rest.height));
    if width >= Width::Wide {
        let (left, right) = layout::split_right(top, top.width / 2);
        alerts(model, p, left, stats);
        activity(model, p, right, stats);
        let (left, right) = layout::split_right(bottom, bottom.width / 2);
        machines(model, p, left, stats);
        failures(model, p, right);
    } else {
        alerts(model, p, top, stats);
        failures(model, p, bottom);
    }
    let inner = p.frame(middle, &format!("Queues ({})", stats.queues.len()));
    if stats.queues.is_empty() {
        let next = "Submit a job:   reeve submit -- echo hello";
        return p.notice(inner, &["No queues yet.".into(), String::new(), next.into()]);
    }
    let list: Vec<&QueueView> = stats.queues.iter().collect();
    queues::rows(model, p, inner, &list, false);
}

/// Worst first, as the coordinator sends them.
fn alerts(model: &Model, p: &mut Painter<'_>, area: Rect, stats: &Stats) {
    let inner = p.frame(area, &format!("Needs attention ({})", stats.alerts.len()));
    if stats.alerts.is_empty() {
        return p.line(inner, 0, &[(" .  nothing needs attention", Role::Dim)]);
    }
    let fit = usize::from(inner.height);
    let cursor = Some(model.overview.index).filter(|at| *at < stats.alerts.len());
    let top = cursor.map_or(0, |at| (at + 1).saturating_sub(fit));
    for (row, (at, alert)) in stats.alerts.iter().enumerate().skip(top).take(fit).enumerate() {
        let (sign, role) = if alert.level >= 2 { ("!! ", Role::Bad) } else { ("!  ", Role::Warn) };
        let subject = format!("{:<12} ", format::fit(&format::text(&alert.subject), 12));
        let pointer = if cursor == Some(at) { ">" } else { " " };
        let text = format::text(&alert.text);
        p.line(
            inner,
            row as u16,
            &[(pointer, Role::Head), (sign, role), (&subject, Role::Head), (&text, Role::Plain)],
        );
        if cursor == Some(at) {
            p.highlight(inner, row as u16, Role::Cursor);
        }
    }
}

/// Rates add up over the queues.
fn activity(model: &Model, p: &mut Painter<'_>, area: Rect, stats: &Stats) {
    let inner = padded(p.frame(area, "Activity"));
    let sum = |of: fn(&QueueView) -> f64| stats.queues.iter().map(of).sum::<f64>();
    // Waits do not add up: the slowest queue is the one to know about.
    let worst = |of: fn(&QueueView) -> Option<f64>| {
        let most = stats.queues.iter().filter_map(|q| Some((of(q)?, q))).max_by(|a, b| a.0.total_cmp(&b.0));
        most.map_or_else(
            || "-".into(),
            |(s, q)| format!("{}  in {}", measured(Some(s)), format::text(&q.name)),
        )
    };
    let longest = stats.queues.iter().map(|q| q.history.len()).max().unwrap_or(0);
    let mut history = vec![0u32; longest];
    for queue in &stats.queues {
        let from = longest - queue.history.len();
        queue
            .history
            .iter()
            .enumerate()
            .for_each(|(i, n)| history[from + i] = history[from + i].saturating_add(*n));
    }
    let room = usize::from(inner.width.saturating_sub(22)).min(60);
    let spark = format::sparkline(&history, room, model.theme);
    let failed = sum(|q| q.failed_per_s);
    let lines = [
        ("started/s", rate(sum(|q| q.started_per_s)), String::new(), Role::Plain),
        ("finished/s", rate(sum(|q| q.ended_per_s)), spark, Role::Busy),
        ("failed/s", rate(failed), String::new(), if failed > 0.0 { Role::Bad } else { Role::Plain }),
    ];
    for (row, (head, number, rest, role)) in lines.iter().enumerate() {
        let text = format!("{head:<11}{number:>7}   ");
        p.line(inner, row as u16, &[(&text, *role), (rest, Role::Busy)]);
    }
    let scale = format!("{:>21}{:<width$}now", "", "-10 min", width = room.saturating_sub(3));
    p.line(inner, 3, &[(&scale, Role::Dim)]);
    p.line(inner, 5, &[("longest p50 wait  ", Role::Plain), (&worst(|q| q.wait_p50_s), Role::Head)]);
    p.line(inner, 6, &[("longest p95 wait  ", Role::Plain), (&worst(|q| q.wait_p95_s), Role::Head)]);
    if stats.stale > 0 {
        let stale = format!("{} late messages were dropped", show_count(stats.stale));
        p.line(inner, 8, &[(&stale, Role::Dim)]);
    }
}

/// Reserved against all of the machines that are up; the disk is that of the fullest machine, since one full disk is enough
/// to fail jobs.
fn machines(model: &Model, p: &mut Painter<'_>, area: Rect, stats: &Stats) {
    let inner = padded(p.frame(area, "Machines"));
    let mut states: Vec<_> = stats.machines.iter().collect();
    states.sort_by_key(|(state, _)| *state != "up");
    let count = stats.machines.values().sum::<u64>();
    let mut words = vec![format!("{count} machine{}", if count == 1 { "" } else { "s" })];
    words.extend(states.into_iter().map(|(state, n)| format!("{n} {}", Theme::machine(state).0)));
    p.line(inner, 0, &[(&words.join("  "), Role::Head)]);
    let share = |used: u64, total: u64| (total > 0).then(|| used as f64 / total as f64);
    let listed: &[MachineView] = model.machines.shown.as_deref().unwrap_or_default();
    let gpus = (
        listed.iter().map(|m| u64::from(m.gpus_used)).sum::<u64>(),
        listed.iter().map(|m| m.gpus.len() as u64).sum::<u64>(),
    );
    let fullest = listed.iter().filter_map(|m| m.disk).max_by(f64::total_cmp);
    let lines = [
        ("cpu", share(stats.cpu_milli_used, stats.cpu_milli_total), None),
        ("memory", share(stats.memory_used, stats.memory_total), None),
        ("gpu", share(gpus.0, gpus.1), Some(format!("{}/{}", gpus.0, gpus.1))),
        ("disk", fullest, None),
    ];
    let room = usize::from(inner.width.saturating_sub(22)).min(40);
    for (at, (head, part, number)) in lines.iter().enumerate() {
        let Some(part) = part else {
            p.line(inner, at as u16 + 2, &[(&format!("{head:<8}-"), Role::Dim)]);
            continue;
        };
        let number = number.clone().unwrap_or_else(|| format!("{:.0} %", part * 100.0));
        let text = format!("{head:<8}{}  {number}", format::bar(*part, room, model.theme));
        p.line(inner, at as u16 + 2, &[(&text, Role::Plain)]);
    }
}

/// The newest failed jobs, and which causes are frequent.
fn failures(model: &Model, p: &mut Painter<'_>, area: Rect) {
    let inner = padded(p.frame(area, "Latest failures"));
    if model.failures.is_empty() {
        return p.line(inner, 0, &[("no job has failed", Role::Dim)]);
    }
    let causes = causes(model).filter(|_| inner.height >= 5);
    let fit = usize::from(inner.height - 2 * u16::from(causes.is_some()));
    for (row, job) in model.failures.iter().take(fit).enumerate() {
        p.line(inner, row as u16, &failure(model, job).each_ref().map(|(text, role)| (text.as_str(), *role)));
    }
    if let Some(causes) = causes {
        p.line(inner, inner.height - 1, &[("since the start: ", Role::Dim), (&causes, Role::Plain)]);
    }
}

/// When, what, why, where.
fn failure(model: &Model, job: &JobView) -> [(String, Role); 4] {
    let at = job.ended_at.map_or_else(|| "--:--:--".into(), |at| format::clock(at, &model.zone));
    let name = job.name.clone().unwrap_or_else(|| job.spec.title());
    let machine = job.machine.as_deref().map(format::text).unwrap_or_default();
    [
        (format!("{at} "), Role::Dim),
        (
            format!("{:<7} {:<16} ", format::id((job.id, job.index)), format::fit(&format::text(&name), 16)),
            Role::Plain,
        ),
        (format!("{:<13} ", format::fit(&format::outcome(job), 13)), Role::Bad),
        (machine, Role::Plain),
    ]
}

/// The most frequent causes that are failures.
fn causes(model: &Model) -> Option<String> {
    let stats = model.stats.newest()?;
    let mut causes: Vec<_> = stats
        .causes
        .iter()
        .filter(|(kind, n)| **n > 0 && !matches!(kind.as_str(), "ok" | "cancelled"))
        .collect();
    causes.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
    let words: Vec<String> = causes
        .iter()
        .take(4)
        .map(|(kind, n)| format!("{} {}", show_count(**n), format::text(kind)))
        .collect();
    (!words.is_empty()).then(|| words.join(", "))
}
