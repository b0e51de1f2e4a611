//! The small boxes that only look: sort menu, help, explanation, and the freeze of the picture.
use super::super::model::{MACHINE_COLUMNS, Model, ORDERS, Overlay, QUEUE_COLUMNS, Screen, WhyBox};
use super::super::msg::Command;
use super::navigate;
use reeve_protocol::Problem;
use reeve_protocol::api::Why;

/// The orders that this screen offers.
pub(in super::super) fn orders(screen: Screen) -> Vec<&'static str> {
    match screen {
        Screen::Jobs => ORDERS.iter().map(|(_, words)| *words).collect(),
        Screen::Queues => QUEUE_COLUMNS.to_vec(),
        Screen::Machines => MACHINE_COLUMNS.to_vec(),
        Screen::Overview | Screen::Workers | Screen::Events | Screen::Operations => Vec::new(),
    }
}

/// The menu opens on the present order.
pub(super) fn open_sort(model: &mut Model) {
    let at =
        if model.screen == Screen::Jobs { model.jobs.order } else { model.names().map_or(0, |l| l.sort) };
    model.overlay = Overlay::Sort { at };
}

/// Moves in the menu, or chooses by Enter or by the number of the line.
pub(super) fn sort_key(model: &mut Model, at: usize, name: &str) -> Vec<Command> {
    let count = orders(model.screen).len();
    let number = name.parse::<usize>().ok().filter(|n| (1..=count).contains(n));
    match (name, number) {
        (_, Some(number)) => choose_order(model, number - 1),
        ("enter" | "space", None) => choose_order(model, at),
        ("j" | "down" | "s", None) => model.overlay = Overlay::Sort { at: (at + 1) % count.max(1) },
        ("k" | "up", None) => model.overlay = Overlay::Sort { at: (at + count.max(1) - 1) % count.max(1) },
        ("esc" | "q" | "h" | "backspace", None) => {}
        _ => model.overlay = Overlay::Sort { at },
    }
    Vec::new()
}

/// A server-side order starts a new view; short lists are sorted here.
fn choose_order(model: &mut Model, at: usize) {
    if model.screen == Screen::Jobs {
        if at < ORDERS.len() {
            model.jobs.order = at;
            navigate::new_list(model);
        }
    } else if let Some(list) = model.names_mut() {
        list.sort = at;
    }
}

/// Scrolls the help; any other key closes it. Draw cuts `top` to what there is.
pub(super) fn help_key(model: &mut Model, top: usize, name: &str) -> Vec<Command> {
    let page = usize::from(model.size.1.saturating_sub(4)).max(1);
    let lines = super::super::keymap::here(super::context(model)).count() + 8;
    let last = lines.saturating_sub(page);
    let to = match name {
        "j" | "down" => top + 1,
        "k" | "up" => top.saturating_sub(1),
        "pagedown" | "ctrl-f" | "ctrl-d" | "space" => top + page,
        "pageup" | "ctrl-b" | "ctrl-u" => top.saturating_sub(page),
        "g" | "home" => 0,
        "G" | "end" => last,
        _ => return Vec::new(),
    };
    model.overlay = Overlay::Help { top: to.min(last) };
    Vec::new()
}

/// The keys that leave any box leave this one.
pub(super) fn why_key(model: &mut Model, why: WhyBox, name: &str) -> Vec<Command> {
    if !matches!(name, "esc" | "q" | "enter" | "e" | "h" | "backspace") {
        model.overlay = Overlay::Why(why);
    }
    Vec::new()
}

/// The explanation has come.
pub(super) fn explained(model: &mut Model, ticket: u64, result: Result<Why, Box<Problem>>) {
    let Overlay::Why(open) = &mut model.overlay else { return };
    if open.ticket != ticket {
        return;
    }
    open.lines = Some(match result {
        Err(problem) => vec![super::dialog::one_line(&problem)],
        Ok(why) if why.reasons.is_empty() => {
            vec![format!("It is {}; there is nothing that it waits for.", why.state)]
        }
        Ok(why) => why.reasons.iter().map(reason).collect(),
    });
}

/// A sentence about a machine names it.
fn reason(line: &reeve_protocol::api::WhyLine) -> String {
    let machine = line.machine.as_ref().map(|m| format!("{m}: ")).unwrap_or_default();
    super::super::format::text(&format!("{machine}{}", line.text))
}

/// Freezes the picture, or shows what has come meanwhile.
pub(super) fn freeze(model: &mut Model) {
    if model.frozen.take().is_none() {
        model.frozen = Some(model.now.ms);
        return;
    }
    let visible = model.rows_visible();
    model.stats.thaw();
    model.machines.thaw();
    model.workers.thaw();
    model.jobs.thaw(visible);
}
