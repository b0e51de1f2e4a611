//! The key table. Hints, help and the palette are made from it, so that none of them can promise a key that does
//! nothing, and the rule "lower case looks, upper case changes" is a test over one table.
use super::model::Screen;
use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

/// What a key can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Screen(Screen),
    Down,
    Up,
    HalfDown,
    HalfUp,
    PageDown,
    PageUp,
    Top,
    Bottom,
    Open,
    Back,
    Escape,
    Quit,
    Filter,
    Palette,
    Help,
    Sort,
    Freeze,
    Refresh,
    Redraw,
    Suspend,
    Copy,
    Mark,
    MarkDown,
    MarkUp,
    Range,
    MarkAll,
    Invert,
    Unmark,
    Explain,
    Log,
    NextTab,
    PreviousTab,
    OlderAttempt,
    NewerAttempt,
    Follow,
    Wrap,
    Cancel,
    Restart,
    Hold,
    Release,
    Pause,
    Launch,
    More,
    Fewer,
    Drain,
    Stop,
}

/// Where a key is pressed: the screen, or the detail of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Context {
    Overview,
    Queues,
    Jobs,
    Machines,
    Workers,
    /// Screens of a later version.
    Later,
    Detail,
}

impl Context {
    #[cfg(test)]
    pub(super) const ALL: [Self; 7] =
        [Self::Overview, Self::Queues, Self::Jobs, Self::Machines, Self::Workers, Self::Later, Self::Detail];
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Binding {
    pub(super) action: Action,
    /// Spelt as [`name`] spells them; the first one is shown.
    pub(super) keys: &'static [&'static str],
    pub(super) contexts: &'static [Context],
    /// Whether it can change the cluster; then it opens a dialog.
    pub(super) changes: bool,
    /// The word of the palette.
    pub(super) id: &'static str,
    /// For the help.
    pub(super) label: &'static str,
    /// For the hint line; empty: not there.
    pub(super) hint: &'static str,
    /// The same on the command line, if it changes something.
    pub(super) command: &'static str,
}

use Context::{Detail, Jobs, Later, Machines, Overview, Queues, Workers};
/// Where keys work. Lists of contexts, not of screens: the detail of a job is a context of its own.
const ANY: &[Context] = &[Overview, Queues, Jobs, Machines, Workers, Later, Detail];
const LISTS: &[Context] = &[Overview, Queues, Jobs, Machines, Workers];
/// Wherever there is something to scroll.
const MOVING: &[Context] = &[Overview, Queues, Jobs, Machines, Workers, Detail];
const JOB: &[Context] = &[Jobs, Detail];
const ONLY_JOBS: &[Context] = &[Jobs];
const ONLY_DETAIL: &[Context] = &[Detail];
const QUEUE: &[Context] = &[Overview, Queues];
const WORKER: &[Context] = &[Workers];

/// A key that changes nothing in the cluster.
const fn looks(
    action: Action,
    id: &'static str,
    keys: &'static [&'static str],
    contexts: &'static [Context],
    label: &'static str,
    hint: &'static str,
) -> Binding {
    Binding { action, keys, contexts, changes: false, id, label, hint, command: "" }
}

/// A key that can change the cluster: its word is also its hint, and it has a command line.
const fn changes(
    action: Action,
    id: &'static str,
    keys: &'static [&'static str],
    contexts: &'static [Context],
    label: &'static str,
    command: &'static str,
) -> Binding {
    Binding { action, keys, contexts, changes: true, id, label, hint: id, command }
}

/// Every key. The order is that of the hint line and of the help.
pub(super) const TABLE: &[Binding] = &[
    looks(Action::Open, "open", &["enter"], LISTS, "open", "open"),
    looks(Action::Mark, "mark", &["space"], ONLY_JOBS, "mark and move down", "mark"),
    looks(Action::Filter, "filter", &["/"], LISTS, "filter", "filter"),
    changes(Action::Cancel, "cancel", &["X"], JOB, "cancel the job, or all marked", "reeve bulk cancel"),
    changes(Action::Restart, "restart", &["R"], JOB, "restart the job, or all marked", "reeve bulk restart"),
    changes(Action::Pause, "pause", &["P"], QUEUE, "pause the queue, or resume it", "reeve queue pause"),
    changes(Action::Launch, "launch", &["L"], WORKER, "launch its newest version", "reeve worker launch"),
    changes(Action::More, "more", &["A"], WORKER, "one replica more", "reeve worker scale"),
    changes(Action::Fewer, "fewer", &["F"], WORKER, "one replica fewer", "reeve worker scale"),
    changes(
        Action::Drain,
        "drain",
        &["D"],
        WORKER,
        "no replicas, once they have answered",
        "reeve worker drain",
    ),
    changes(Action::Stop, "stop", &["T"], WORKER, "no replicas, now", "reeve worker stop"),
    looks(Action::Range, "range", &["v"], ONLY_JOBS, "mark while moving, until v again", "range"),
    looks(Action::MarkAll, "all", &["*", "ctrl-a"], ONLY_JOBS, "mark all that match the filter", "all"),
    looks(Action::Log, "log", &["l"], JOB, "the log", "log"),
    looks(Action::NextTab, "tab", &["]", "tab"], ONLY_DETAIL, "next part", "next part"),
    looks(Action::PreviousTab, "previous-tab", &["[", "shift-tab"], ONLY_DETAIL, "previous part", ""),
    looks(Action::Follow, "follow", &["f"], ONLY_DETAIL, "follow the log, or stop", "follow"),
    looks(Action::Wrap, "wrap", &["w"], ONLY_DETAIL, "wrap long lines of the log, or cut them", "wrap"),
    looks(Action::OlderAttempt, "older", &["p"], ONLY_DETAIL, "log of the attempt before", "older attempt"),
    looks(Action::NewerAttempt, "newer", &["n"], ONLY_DETAIL, "log of the attempt after", ""),
    looks(Action::Explain, "why", &["e"], JOB, "explain why it is not running", "explain"),
    looks(Action::Sort, "sort", &["s"], &[Queues, Jobs, Machines], "sort", "sort"),
    looks(Action::Freeze, "freeze", &["f"], LISTS, "freeze the picture, or let it run", "freeze"),
    changes(Action::Hold, "hold", &["H"], JOB, "hold waiting jobs", "reeve bulk hold"),
    changes(Action::Release, "release", &["U"], JOB, "release held jobs", "reeve bulk release"),
    looks(Action::Copy, "copy", &["y"], MOVING, "copy the id or name", "copy"),
    looks(Action::Palette, "palette", &[":", "ctrl-p"], ANY, "type a command", "command"),
    looks(Action::Help, "help", &["?", "f1"], ANY, "this help", "help"),
    looks(Action::Quit, "quit", &["q"], ANY, "back from a detail, else quit (ctrl-c: at once)", "quit"),
    looks(Action::Screen(Screen::Overview), "overview", &["1"], ANY, "Overview", ""),
    looks(Action::Screen(Screen::Queues), "queues", &["2"], ANY, "Queues", ""),
    looks(Action::Screen(Screen::Jobs), "jobs", &["3"], ANY, "Jobs", ""),
    looks(Action::Screen(Screen::Machines), "machines", &["4"], ANY, "Machines", ""),
    looks(Action::Screen(Screen::Workers), "workers", &["5"], ANY, "Workers", ""),
    looks(Action::Screen(Screen::Events), "events", &["6"], ANY, "Events", ""),
    looks(Action::Screen(Screen::Operations), "operations", &["7"], ANY, "Operations", ""),
    looks(Action::Down, "down", &["j", "down"], MOVING, "down", ""),
    looks(Action::Up, "up", &["k", "up"], MOVING, "up", ""),
    looks(Action::Top, "top", &["g", "home"], MOVING, "first row (gg does the same)", ""),
    looks(Action::Bottom, "bottom", &["G", "end"], MOVING, "last row; in a log: follow", ""),
    looks(Action::HalfDown, "half-down", &["ctrl-d"], MOVING, "half a page down", ""),
    looks(Action::HalfUp, "half-up", &["ctrl-u"], MOVING, "half a page up", ""),
    looks(Action::PageDown, "page-down", &["ctrl-f", "pagedown"], MOVING, "a page down", ""),
    looks(Action::PageUp, "page-up", &["ctrl-b", "pageup"], MOVING, "a page up", ""),
    looks(Action::MarkDown, "mark-down", &["shift-down"], ONLY_JOBS, "mark and move down", ""),
    looks(Action::MarkUp, "mark-up", &["shift-up"], ONLY_JOBS, "mark and move up", ""),
    looks(Action::Invert, "invert", &["!"], ONLY_JOBS, "turn the marks of the visible rows around", ""),
    looks(Action::Unmark, "unmark", &["ctrl-\\"], ONLY_JOBS, "unmark all", ""),
    looks(Action::Escape, "escape", &["esc"], ANY, "close, unmark, clear the filter, go back", ""),
    looks(Action::Back, "back", &["backspace", "h"], ANY, "back", ""),
    looks(Action::Refresh, "refresh", &["r", "ctrl-r"], ANY, "ask for a fresh view, reconnect now", ""),
    looks(Action::Redraw, "redraw", &["ctrl-l"], ANY, "paint everything anew", ""),
    looks(Action::Suspend, "suspend", &["ctrl-z"], ANY, "suspend the console", ""),
];

/// What a key does here.
pub(super) fn lookup(context: Context, key: &str) -> Option<&'static Binding> {
    here(context).find(|b| b.keys.contains(&key))
}

/// The keys of a context, in order.
pub(super) fn here(context: Context) -> impl Iterator<Item = &'static Binding> {
    TABLE.iter().filter(move |b| b.contexts.contains(&context))
}

/// How a key is spelt in the table; none for keys that nothing uses. A terminal reports an upper-case letter with or
/// without shift, and `ctrl-\` as `ctrl-4`.
pub(super) fn name(event: &KeyEvent) -> Option<String> {
    let shift = event.modifiers.contains(KeyModifiers::SHIFT);
    let plain = match event.code {
        KeyCode::Char(c) => return char_name(c, event.modifiers),
        KeyCode::Up => "up",
        KeyCode::Down => "down",
        KeyCode::Left => "left",
        KeyCode::Right => "right",
        KeyCode::Home => "home",
        KeyCode::End => "end",
        KeyCode::PageUp => "pageup",
        KeyCode::PageDown => "pagedown",
        KeyCode::BackTab => return Some("shift-tab".into()),
        KeyCode::Tab => "tab",
        KeyCode::Enter => "enter",
        KeyCode::Esc => "esc",
        KeyCode::Backspace => "backspace",
        KeyCode::Delete => "delete",
        KeyCode::F(1) => "f1",
        _ => return None,
    };
    let arrow = matches!(event.code, KeyCode::Up | KeyCode::Down);
    Some(if shift && arrow { format!("shift-{plain}") } else { plain.to_owned() })
}

/// Control keys that terminals cannot tell apart from others are named as those others: `ctrl-h` is Backspace, `ctrl-j`
/// and `ctrl-m` are Enter. Alt is left to the terminal and the window manager.
fn char_name(c: char, modifiers: KeyModifiers) -> Option<String> {
    if modifiers.contains(KeyModifiers::ALT) {
        return None;
    }
    Some(match (c, modifiers.contains(KeyModifiers::CONTROL)) {
        ('4' | '\\', true) => "ctrl-\\".into(),
        ('h', true) => "backspace".into(),
        ('j' | 'm', true) => "enter".into(),
        (c, true) => format!("ctrl-{}", c.to_ascii_lowercase()),
        (' ', false) => "space".into(),
        (c, false) => c.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lower_case_looks_and_upper_case_changes() {
        for binding in TABLE.iter().filter(|b| b.changes) {
            for key in binding.keys {
                assert!(key.len() == 1 && key.chars().all(char::is_uppercase), "{binding:?}");
            }
            assert!(binding.command.starts_with("reeve "), "{binding:?}");
        }
    }

    #[test]
    fn keys_that_delete_elsewhere_never_change_anything() {
        for context in Context::ALL {
            for key in ["delete", "backspace", "ctrl-d", "ctrl-k", "ctrl-x"] {
                assert!(lookup(context, key).is_none_or(|b| !b.changes), "{key}");
            }
        }
    }

    #[test]
    fn no_key_means_two_things_in_one_context_and_no_word_is_used_twice() {
        for context in Context::ALL {
            let mut keys: Vec<&str> = here(context).flat_map(|b| b.keys.iter().copied()).collect();
            let all = keys.len();
            keys.sort_unstable();
            keys.dedup();
            assert_eq!(keys.len(), all, "{context:?}");
        }
        let mut ids: Vec<_> = TABLE.iter().map(|b| b.id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), TABLE.len());
    }

    #[test]
    fn keys_are_spelt_the_same_whatever_the_terminal_reports() {
        let press = |code, modifiers| name(&KeyEvent::new(code, modifiers));
        for (code, modifiers, wanted) in [
            (KeyCode::Char('X'), KeyModifiers::SHIFT, Some("X")),
            (KeyCode::Char('X'), KeyModifiers::NONE, Some("X")),
            (KeyCode::Char('*'), KeyModifiers::SHIFT, Some("*")),
            (KeyCode::Char(' '), KeyModifiers::NONE, Some("space")),
            (KeyCode::Char('4'), KeyModifiers::CONTROL, Some("ctrl-\\")),
            (KeyCode::Char('D'), KeyModifiers::CONTROL, Some("ctrl-d")),
            (KeyCode::Char('x'), KeyModifiers::ALT, None),
            (KeyCode::Down, KeyModifiers::SHIFT, Some("shift-down")),
            (KeyCode::F(5), KeyModifiers::NONE, None),
        ] {
            assert_eq!(press(code, modifiers).as_deref(), wanted, "{code:?} {modifiers:?}");
        }
    }
}
