//! The lines that every screen has: tabs, counters, hints.
use super::super::format::{self, short_count};
use super::super::keymap;
use super::super::layout::Width;
use super::super::model::{Link, Model, Overlay, Screen};
use super::super::theme::Role;
use super::super::update::{self, seconds_since};
use super::paint::Painter;
use ratatui::layout::Rect;
use reeve_protocol::units::show_count;

/// Statistics older than this mean that the coordinator is late: it sends some at least every five seconds.
const LATE_MS: u64 = 7_000;

/// Screens on the left; cluster, user, liveness and clock on the right.
pub(super) fn tabs(model: &Model, p: &mut Painter<'_>, area: Rect) {
    let width = Width::of(area.width);
    let lead = if width >= Width::Wide { " reeve " } else { " reeve" };
    let mut x = p.at(area, 0, 0, &[(lead, Role::Head)]);
    for screen in Screen::ALL {
        let here = screen == model.screen;
        let digit = screen.digit();
        let name = match (width >= Width::Wide || here && width > Width::Narrow, screen) {
            (false, _) => digit.to_string(),
            // The only long name; the tabs and the right side fit into 100 columns with the short one.
            (true, Screen::Operations) => format!("{digit} Ops"),
            (true, _) => format!("{digit} {}", screen.title()),
        };
        let (text, role) =
            if here { (format!("[{name}]"), Role::Selected) } else { (format!(" {name}"), Role::Plain) };
        if here && width < Width::Wide {
            x += 1;
        }
        x = p.at(area, 0, x, &[(&text, role)]);
        if !here && width >= Width::Wide {
            x = p.at(area, 0, x, &[(" ", Role::Plain)]);
        }
    }
    let (state, role) = liveness(model);
    let clock = format!("  {} ", format::clock(model.now.wall, &model.zone));
    let cluster =
        model.stats.newest().map(|s| format::fit(&format::text(&s.cluster), 14)).unwrap_or_default();
    let user = format!("  {}  ", format::fit(&model.user, 10));
    // What fits: the liveness always, then the clock, then whose cluster it is.
    let live = (state.as_str(), role);
    let all =
        [(cluster.as_str(), Role::Plain), (user.as_str(), Role::Plain), live, (clock.as_str(), Role::Plain)];
    let choices: [&[(&str, Role)]; 3] = [&all, &all[2..], &[live, (" ", Role::Plain)]];
    let from = match width {
        Width::Narrow => 2,
        Width::Medium => 1,
        Width::Wide | Width::Huge => 0,
    };
    let room = usize::from(area.width.saturating_sub(x + 1));
    let fits =
        |parts: &[(&str, Role)]| parts.iter().map(|(text, _)| format::columns(text)).sum::<usize>() <= room;
    let parts = choices[from..].iter().find(|parts| fits(parts)).unwrap_or(&choices[2]);
    p.right(area, 0, parts);
}

/// The age of what is shown, always.
fn liveness(model: &Model) -> (String, Role) {
    let since = |ms| format::minutes(seconds_since(model.now, ms));
    match (&model.link, model.frozen) {
        (Link::Connecting { .. }, _) => ("CONNECTING".into(), Role::Warn),
        (Link::Down { since: ms, .. }, _) => (format!("DISCONNECTED {}", since(*ms)), Role::Bad),
        (Link::Live, Some(ms)) => (format!("FROZEN {}", since(ms)), Role::Warn),
        (Link::Live, None) if model.now.ms.saturating_sub(model.heard_at) > LATE_MS => {
            (format!("LAG {} s", seconds_since(model.now, model.heard_at)), Role::Warn)
        }
        (Link::Live, None) => ("LIVE".into(), Role::Good),
    }
}

/// The whole cluster in one line; never frozen.
pub(super) fn counters(model: &Model, p: &mut Painter<'_>, area: Rect) {
    let Some(stats) = model.stats.newest() else {
        return p.line(area, 0, &[(" no counters yet", Role::Dim)]);
    };
    let c = stats.counts;
    let of = |word: &str| stats.waiting.get(word).copied().unwrap_or(0);
    let (held, retrying) = (of("held"), of("retrying"));
    let wait = c.queued.saturating_sub(held + retrying);
    let machines: u64 = stats.machines.values().sum();
    let up = stats.machines.get("up").copied().unwrap_or(0);
    let alerts = match stats.alerts.len() {
        0 => String::new(),
        1 => " | 1 alert".into(),
        n => format!(" | {n} alerts"),
    };
    let bad = |n: u64| if n > 0 { Role::Bad } else { Role::Plain };
    let (lead, failed, rest) = match Width::of(area.width) {
        Width::Narrow => (
            format!(
                " {} jobs  W {}  R {}",
                short_count(c.total()),
                short_count(c.queued),
                short_count(c.running)
            ),
            format!("  F {}", short_count(c.failed)),
            String::new(),
        ),
        Width::Medium => (
            format!(
                " {} jobs | W {}  R {}",
                short_count(c.total()),
                short_count(c.queued),
                short_count(c.running)
            ),
            format!("  F {}", short_count(c.failed)),
            format!(" | {}/s | {up}/{machines} up", format::rate(stats.changes_per_s)),
        ),
        Width::Wide | Width::Huge => (
            format!(
                " {} jobs | wait {}  run {}  retry {}  held {}",
                show_count(c.total()),
                show_count(wait),
                show_count(c.running),
                show_count(retrying),
                show_count(held)
            ),
            format!("  failed {}", show_count(c.failed)),
            format!(" | {} changes/s | machines {up}/{machines} up", format::rate(stats.changes_per_s)),
        ),
    };
    p.line(
        area,
        0,
        &[
            (&lead, Role::Plain),
            (&failed, bad(c.failed)),
            (&rest, if up < machines { Role::Warn } else { Role::Plain }),
            (&alerts, Role::Warn),
        ],
    );
}

/// Keys that do something here, as many as fit; help and quit always.
pub(super) fn hints(model: &Model, p: &mut Painter<'_>, area: Rect) {
    if !matches!(model.overlay, Overlay::None) {
        return;
    }
    // The bar of the marks says already what can be done with them.
    let in_bar = model.screen == Screen::Jobs && model.detail.is_none() && !model.jobs.marks.is_empty();
    let here: Vec<_> = keymap::here(update::context(model))
        .filter(|b| !b.hint.is_empty() && (!b.changes || model.is_live() && !in_bar))
        .map(|b| {
            (shown(b.keys[0]), if b.changes { format!(" {}...  ", b.hint) } else { format!(" {}  ", b.hint) })
        })
        .collect();
    let (always, rest): (Vec<_>, Vec<_>) = here.into_iter().partition(|(key, _)| matches!(*key, "?" | "q"));
    let size = |hints: &[(&str, String)]| -> usize {
        hints.iter().map(|(key, text)| key.len() + format::columns(text)).sum()
    };
    let mut left = usize::from(area.width).saturating_sub(1 + size(&always));
    let mut x = p.at(area, 0, 0, &[(" ", Role::Plain)]);
    for (key, text) in rest {
        let used = size(&[(key, text.clone())]);
        if used > left {
            continue;
        }
        left -= used;
        x = p.at(area, 0, x, &[(key, Role::Key), (&text, Role::Dim)]);
    }
    for (key, text) in always {
        x = p.at(area, 0, x, &[(key, Role::Key), (text.trim_end(), Role::Dim), ("  ", Role::Plain)]);
    }
}

/// How a key is spelt for people.
pub(super) fn shown(key: &'static str) -> &'static str {
    match key {
        "enter" => "Enter",
        "pagedown" => "PgDn",
        "pageup" => "PgUp",
        "home" => "Home",
        "end" => "End",
        "f1" => "F1",
        "backspace" => "Backspace",
        other => other,
    }
}
