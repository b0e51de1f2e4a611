//! Draws the model. It never changes it, and a screen of any size, with any text in it, is drawn without a panic:
//! everything goes through [`paint::Painter`], which clips.
use super::layout::{self, Areas, Width};
use super::model::{Link, Model, Screen};
use super::theme::Role;
use super::update;
use paint::Painter;
use ratatui::buffer::Buffer;
use ratatui::layout::{Position, Rect};
use ratatui::style::Modifier;

mod counters;
mod detail;
mod dialogs;
mod jobs;
mod later;
mod machines;
mod overlays;
mod overview;
mod paint;
mod queues;
mod table;
mod workers;

/// Paints the whole screen and says where the cursor stands, if the user is typing.
pub(super) fn draw(model: &Model, buffer: &mut Buffer) -> Option<Position> {
    let screen = buffer.area;
    let mut p = Painter::new(buffer, model.theme);
    let Some(areas) = layout::areas(model).filter(|_| model.size == (screen.width, screen.height)) else {
        too_small(model, &mut p, screen);
        return None;
    };
    counters::tabs(model, &mut p, areas.tabs);
    counters::counters(model, &mut p, areas.counters);
    body(model, &mut p, &areas);
    if matches!(model.link, Link::Down { .. }) {
        for area in [areas.counters, areas.crumb, areas.body] {
            p.modify(area, Modifier::DIM);
        }
    }
    message(model, &mut p, areas.message);
    counters::hints(model, &mut p, areas.hints);
    overlays::draw(model, &mut p, &areas, screen)
}

/// Keys still work; only the drawing gives up.
fn too_small(model: &Model, p: &mut Painter<'_>, screen: Rect) {
    counters::counters(model, p, screen);
    let (width, height) = layout::LEAST;
    p.line(screen, 1, &[(&format!("too small for this screen ({width}x{height} needed)"), Role::Warn)]);
}

/// A detail covers its list; the list keeps its place below.
fn body(model: &Model, p: &mut Painter<'_>, areas: &Areas) {
    if let Some(open) = &model.detail {
        return detail::draw(model, open, p, areas);
    }
    match model.screen {
        Screen::Overview => overview::draw(model, p, areas.body),
        Screen::Queues => queues::draw(model, p, areas.body),
        Screen::Jobs => jobs::draw(model, p, areas),
        Screen::Machines => machines::draw(model, p, areas.body),
        Screen::Workers => workers::draw(model, p, areas.body),
        Screen::Events | Screen::Operations => later::draw(model, p, areas.body),
    }
}

/// The message line: what just happened, else the state of the link, else the marks, else what is filtered.
fn message(model: &Model, p: &mut Painter<'_>, area: Rect) {
    let last = Rect { y: area.bottom().saturating_sub(1), height: 1.min(area.height), ..area };
    if let Some(notice) = &model.notice {
        let role = if notice.bad { Role::Bad } else { Role::Head };
        return p.line(last, 0, &[(" ", Role::Plain), (&notice.text, role)]);
    }
    if let Some(text) = link_words(model) {
        return p.line(last, 0, &[(" ", Role::Plain), (&text, Role::Warn)]);
    }
    if model.detail.is_some() {
        return;
    }
    if model.screen == Screen::Jobs {
        return jobs::bulk(model, p, area);
    }
    if let Some(list) = model.names().filter(|list| !list.filter.is_empty()) {
        let filter = super::format::text(&list.filter);
        p.line(last, 0, &[(" filter: ", Role::Dim), (&filter, Role::Head), ("   esc clears it", Role::Dim)]);
    }
}

/// What to say about a link that is not up.
fn link_words(model: &Model) -> Option<String> {
    let now = model.now;
    let next = |at: u64| at.saturating_sub(now.ms).div_ceil(1000);
    match &model.link {
        Link::Live | Link::Connecting { error: None, .. } => None,
        Link::Connecting { error: Some(error), attempt, retry_at } => {
            Some(format!("Not connected yet (attempt {attempt}, next in {} s): {error}", next(*retry_at)))
        }
        Link::Down { error, attempt, retry_at, .. } => {
            let try_now = if Width::of(model.size.0) >= Width::Medium { "  r tries now" } else { "" };
            Some(format!(
                "Changes are refused. Attempt {attempt}, next in {} s: {error}{try_now}",
                next(*retry_at)
            ))
        }
    }
}

/// What stands in a list before anything has come.
fn waiting_words(model: &Model) -> &'static str {
    match model.link {
        Link::Connecting { .. } => "Connecting to the coordinator...",
        Link::Live | Link::Down { .. } => "Waiting for the first answer...",
    }
}

/// The order of the list, for titles.
fn sort_words(model: &Model) -> &'static str {
    let at =
        if model.screen == Screen::Jobs { model.jobs.order } else { model.names().map_or(0, |l| l.sort) };
    update::orders(model.screen).get(at).copied().unwrap_or("name")
}
