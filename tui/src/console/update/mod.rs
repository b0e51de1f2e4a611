//! The one place where the model changes: a pure function from a message to commands.
//!
//! It reads no clock (time comes with the message), asks nothing and draws nothing. A command that changes the cluster
//! leaves only [`dialog`], and only out of a confirmed dialog.
use super::keymap::{self, Action, Context};
use super::model::{Model, Overlay, Screen};
use super::msg::{Command, Kind, Msg};
use crossterm::event::KeyEvent;

mod ask;
mod dialog;
mod input;
mod navigate;
mod overlay;
mod select;
mod server;
mod wants;

/// Takes one message. The commands are to be carried out in order.
pub(super) fn update(model: &mut Model, msg: Msg) -> Vec<Command> {
    model.now = msg.at;
    let mut commands = match msg.kind {
        Kind::Key(event) => key(model, &event),
        Kind::Paste(text) => {
            input::paste(model, &text);
            Vec::new()
        }
        Kind::Resize(width, height) => {
            model.size = (width, height);
            Vec::new()
        }
        Kind::Tick => Vec::new(),
        news => server::take(model, news),
    };
    navigate::settle(model);
    commands.extend(wants::reconcile(model));
    commands
}

/// Where keys go when nothing lies over the screen.
pub(super) fn context(model: &Model) -> Context {
    if model.detail.is_some() {
        return Context::Detail;
    }
    match model.screen {
        Screen::Overview => Context::Overview,
        Screen::Queues => Context::Queues,
        Screen::Jobs => Context::Jobs,
        Screen::Machines => Context::Machines,
        Screen::Workers => Context::Workers,
        Screen::Events | Screen::Operations => Context::Later,
    }
}

/// Whatever lies over the screen takes the key, and only that.
fn key(model: &mut Model, event: &KeyEvent) -> Vec<Command> {
    let Some(name) = keymap::name(event) else { return Vec::new() };
    // Leaving and repainting work everywhere, whatever is open.
    match name.as_str() {
        "ctrl-c" => return vec![Command::Quit],
        "ctrl-l" => return vec![Command::Redraw],
        "ctrl-z" => return vec![Command::Suspend],
        _ => {}
    }
    match std::mem::take(&mut model.overlay) {
        Overlay::None => {
            model.notice = None;
            match keymap::lookup(context(model), &name) {
                Some(binding) => act(model, binding.action),
                None => Vec::new(),
            }
        }
        Overlay::Filter(line) => input::filter_key(model, line, &name),
        Overlay::Palette(line) => input::palette_key(model, line, &name),
        Overlay::Sort { at } => overlay::sort_key(model, at, &name),
        Overlay::Help { top } => overlay::help_key(model, top, &name),
        Overlay::Why(why) => overlay::why_key(model, why, &name),
        Overlay::Dialog(open) => dialog::key(model, *open, &name),
    }
}

/// Does what a key or a word of the palette means.
fn act(model: &mut Model, action: Action) -> Vec<Command> {
    match action {
        Action::Quit if model.detail.is_none() && model.jobs.scope.is_none() => return vec![Command::Quit],
        Action::Redraw => return vec![Command::Redraw],
        Action::Suspend => return vec![Command::Suspend],
        Action::Refresh => return wants::renew(model),
        Action::Copy => return ask::copy(model),
        Action::Explain => return ask::why(model),
        Action::Cancel => return ask::plan(model, "cancel"),
        Action::Restart => return ask::plan(model, "restart"),
        Action::Hold => return ask::plan(model, "hold"),
        Action::Release => return ask::plan(model, "release"),
        Action::Pause => ask::pause(model),
        Action::Launch | Action::More | Action::Fewer | Action::Drain | Action::Stop => {
            ask::worker(model, action);
        }
        Action::Help => model.overlay = Overlay::Help { top: 0 },
        Action::Palette => model.overlay = Overlay::Palette(super::model::Input::default()),
        Action::Filter => input::open_filter(model),
        Action::Sort => overlay::open_sort(model),
        Action::Freeze => overlay::freeze(model),
        Action::Screen(_)
        | Action::Open
        | Action::Log
        | Action::Back
        | Action::Escape
        | Action::Quit
        | Action::NextTab
        | Action::PreviousTab
        | Action::OlderAttempt
        | Action::NewerAttempt
        | Action::Follow
        | Action::Wrap => navigate::go(model, action),
        Action::Down
        | Action::Up
        | Action::HalfDown
        | Action::HalfUp
        | Action::PageDown
        | Action::PageUp
        | Action::Top
        | Action::Bottom => navigate::move_cursor(model, action),
        Action::Mark
        | Action::MarkDown
        | Action::MarkUp
        | Action::Range
        | Action::MarkAll
        | Action::Invert
        | Action::Unmark => select::mark(model, action),
    }
    Vec::new()
}

pub(super) use input::candidates;
pub(super) use navigate::seconds_since;
pub(super) use overlay::orders;
