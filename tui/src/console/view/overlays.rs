//! What lies over the screen: help, menus, the lines that are typed, explanations. Dialogs are in [`super::dialogs`].
use super::super::format;
use super::super::keymap;
use super::super::layout::{Areas, centred};
use super::super::model::{Input, Model, Overlay, Screen, WhyBox};
use super::super::theme::Role;
use super::super::update;
use super::counters::shown;
use super::dialogs;
use super::paint::{Painter, padded, wrapped};
use ratatui::layout::{Position, Rect};

/// Draws what is open. Gives the place of the cursor while the user types.
pub(super) fn draw(model: &Model, p: &mut Painter<'_>, areas: &Areas, screen: Rect) -> Option<Position> {
    match &model.overlay {
        Overlay::None => None,
        Overlay::Help { top } => {
            help(model, *top, p, screen);
            None
        }
        Overlay::Sort { at } => {
            sort(model, *at, p, screen);
            None
        }
        Overlay::Why(why) => {
            explain(why, p, screen);
            None
        }
        Overlay::Filter(line) => Some(filter(model, line, p, areas)),
        Overlay::Palette(line) => Some(palette(model, line, p, areas)),
        Overlay::Dialog(open) => dialogs::draw(model, open, p, screen),
    }
}

/// Every key of this screen, from the table; then what holds everywhere.
fn help(model: &Model, top: usize, p: &mut Painter<'_>, screen: Rect) {
    let mut lines: Vec<(String, String, &str)> = Vec::new();
    for binding in keymap::here(update::context(model)) {
        let keys: Vec<&str> = binding.keys.iter().map(|k| shown(k)).collect();
        let dots = if binding.changes { "..." } else { "" };
        lines.push((keys.join(" "), format!("{}{dots}", binding.label), binding.command));
    }
    let rules = [
        "",
        "Lower case looks, upper case changes, and every change asks first.",
        "\"All\" means all that match the filter; the dialog says how many, tasks of arrays included.",
        "Marks are ids: sorting, paging and new jobs do not move them.",
        "Quitting stops nothing: jobs and bulk changes live in the coordinator.",
        "",
        "Filter: state:failed queue:gpu machine:lab-* user:ana since:2h exit:137",
        "label.team=vision text:\"out of memory\"   - before a term: not   , : or",
    ];
    lines.extend(rules.map(|rule| (String::new(), rule.to_owned(), "")));
    let area = centred(screen, 92, (lines.len() as u16).saturating_add(2));
    let title = format!("Keys of {}   j k scroll, any other key closes", here(model));
    let inner = padded(p.popup(area, &title));
    let top = top.min(lines.len().saturating_sub(usize::from(inner.height)));
    for (row, (keys, label, command)) in lines.iter().skip(top).take(usize::from(inner.height)).enumerate() {
        if keys.is_empty() {
            p.line(inner, row as u16, &[(label, Role::Plain)]);
            continue;
        }
        let keys = format!("{keys:<14}");
        p.line(inner, row as u16, &[(&keys, Role::Key), (label, Role::Plain)]);
        p.right(inner, row as u16, &[(command, Role::Dim)]);
    }
}

fn here(model: &Model) -> &'static str {
    if model.detail.is_some() { "a job" } else { model.screen.title() }
}

/// Numbers choose at once; Enter takes the line under the cursor.
fn sort(model: &Model, at: usize, p: &mut Painter<'_>, screen: Rect) {
    let orders = update::orders(model.screen);
    let area = centred(screen, 40, orders.len() as u16 + 2);
    let inner = padded(p.popup(area, "Sort by   Enter or a number"));
    for (row, words) in orders.iter().enumerate() {
        let pointer = if row == at { "> " } else { "  " };
        p.line(inner, row as u16, &[(pointer, Role::Head), (&format!("{} {words}", row + 1), Role::Plain)]);
        if row == at {
            p.highlight(inner, row as u16, Role::Cursor);
        }
    }
}

/// The same sentences as `reeve why`.
fn explain(why: &WhyBox, p: &mut Painter<'_>, screen: Rect) {
    let width = 84.min(screen.width);
    let room = usize::from(width.saturating_sub(6)).max(8);
    let rows: Vec<String> = match &why.lines {
        None => vec!["asking the coordinator...".into()],
        Some(lines) => lines.iter().flat_map(|line| hanging(line, room)).collect(),
    };
    let area = centred(screen, width, (rows.len() as u16).saturating_add(4));
    let inner = padded(p.popup(area, &format!("Why {} is where it is", why.selector)));
    let fit = usize::from(inner.height.saturating_sub(2));
    for (at, row) in rows.iter().take(fit).enumerate() {
        p.line(inner, at as u16, &[(row, Role::Plain)]);
    }
    let hint = format!("same as:  reeve why {}   esc close", why.selector);
    p.line(inner, inner.height.saturating_sub(1), &[(&hint, Role::Dim)]);
}

/// A sentence with its following rows set in, so that sentences can be told apart.
fn hanging(text: &str, width: usize) -> Vec<String> {
    let rows = wrapped(text, width);
    rows.into_iter().enumerate().map(|(at, row)| if at == 0 { row } else { format!("  {row}") }).collect()
}

/// A box at the bottom of the body.
fn at_bottom(areas: &Areas, height: u16) -> Rect {
    let height = height.min(areas.body.height);
    Rect { y: areas.body.bottom() - height, height, ..areas.body }
}

/// The filter as it is typed. A mistake is pointed at before anything is asked of the coordinator.
fn filter(model: &Model, line: &Input, p: &mut Painter<'_>, areas: &Areas) -> Position {
    let jobs = model.screen == Screen::Jobs;
    let title = if jobs {
        "Filter   Enter applies, tab completes, up recalls"
    } else {
        "Filter by name   Enter closes"
    };
    let inner = padded(p.popup(at_bottom(areas, if jobs { 5 } else { 3 }), title));
    let end = typed(p, inner, "/ ", line);
    if jobs {
        if let Err(error) = reeve_protocol::filter::parse(&line.text()) {
            let before = error.input.get(..error.at).map_or(0, format::columns);
            let wide = error.input.get(error.at..error.at + error.len).map_or(1, format::columns).max(1);
            let column = (2 + before).min(usize::from(inner.width.saturating_sub(1))) as u16;
            p.at(inner, 1, column, &[(&"^".repeat(wide), Role::Bad)]);
            p.line(inner, 2, &[(&format::text(&error.message), Role::Bad)]);
        } else {
            let fields = "state queue machine user name cause exit since until id label.KEY=VALUE text";
            p.line(inner, 2, &[(fields, Role::Dim)]);
        }
    }
    end
}

/// A line with a prompt; long lines show their end.
fn typed(p: &mut Painter<'_>, inner: Rect, prompt: &str, line: &Input) -> Position {
    let room = usize::from(inner.width).saturating_sub(prompt.len() + 1);
    let before = line.before();
    let mut hidden = 0;
    let mut shown: &str = &before;
    while format::columns(shown) > room {
        let Some(first) = shown.chars().next() else { break };
        shown = &shown[first.len_utf8()..];
        hidden += first.len_utf8();
    }
    let text = line.text();
    let x = p.at(inner, 0, 0, &[(prompt, Role::Key)]);
    p.at(inner, 0, x, &[(text.get(hidden..).unwrap_or(""), Role::Plain)]);
    let column = x + format::columns(shown) as u16;
    Position::new((inner.x + column).min(inner.right().saturating_sub(1)), inner.y)
}

/// The palette: what can be typed here, with its key.
fn palette(model: &Model, line: &Input, p: &mut Painter<'_>, areas: &Areas) -> Position {
    let found = update::candidates(model, &line.text());
    let inner = padded(p.popup(at_bottom(areas, 12), "Command   Enter runs the first, tab completes"));
    let end = typed(p, inner, ": ", line);
    if found.is_empty() {
        p.line(inner, 1, &[("no such command; `jobs FILTER` and `quit` work everywhere", Role::Warn)]);
    }
    for (row, binding) in found.iter().enumerate() {
        let word = format!("{:<14}", binding.id);
        let key = format!("{:<10}", shown(binding.keys[0]));
        let dots = if binding.changes { "..." } else { "" };
        p.line(
            inner,
            row as u16 + 1,
            &[
                (&word, if row == 0 { Role::Head } else { Role::Plain }),
                (&key, Role::Key),
                (binding.label, Role::Dim),
                (dots, Role::Dim),
            ],
        );
    }
    end
}
