//! The two lines that the user can type into: the filter and the palette.
use super::super::keymap::{self, Binding};
use super::super::model::{Input, Model, Overlay, Screen};
use super::super::msg::Command;
use super::{act, context, navigate};

/// Opens the filter of this screen, with what it holds. The overview has none: its filter is that of the jobs.
pub(super) fn open_filter(model: &mut Model) {
    if model.screen == Screen::Overview {
        model.screen = Screen::Jobs;
    }
    let text = match model.names() {
        Some(list) => list.filter.clone(),
        None => model.jobs.filter.clone(),
    };
    model.overlay = Overlay::Filter(Input::new(&text));
}

/// Keys of the filter. The list of jobs takes it with Enter, once it parses; short lists take it as it is typed.
pub(super) fn filter_key(model: &mut Model, mut line: Input, name: &str) -> Vec<Command> {
    match name {
        "enter" if model.screen == Screen::Jobs => {
            let text = line.text().trim().to_owned();
            if reeve_protocol::filter::parse(&text).is_err() {
                model.overlay = Overlay::Filter(line);
            } else if text != model.jobs.filter {
                navigate::set_filter(model, &text);
            }
            return Vec::new();
        }
        // Closes the line; the filter that holds stays. A second esc clears it.
        "enter" | "esc" => return Vec::new(),
        "up" | "down" if model.screen == Screen::Jobs => line.recall(&model.jobs.history, name == "up"),
        "tab" => complete(&mut line),
        _ => edit(&mut line, name),
    }
    if let Some(list) = model.names_mut() {
        line.text().trim().clone_into(&mut list.filter);
    }
    model.overlay = Overlay::Filter(line);
    Vec::new()
}

/// Completes the word before the cursor to the name of a field, if only one begins so.
fn complete(line: &mut Input) {
    let before = line.before();
    let word = before.rsplit([' ', '-']).next().unwrap_or("");
    let mut fields = reeve_protocol::filter::FIELDS.iter().filter(|f| f.starts_with(word));
    if let (false, Some(field), None) = (word.is_empty(), fields.next(), fields.next()) {
        field[word.len()..].chars().chain(":".chars()).for_each(|c| line.insert(c));
    }
}

/// Keys of the palette.
pub(super) fn palette_key(model: &mut Model, mut line: Input, name: &str) -> Vec<Command> {
    match name {
        "esc" => return Vec::new(),
        "enter" => return run_word(model, &line.text()),
        "tab" => {
            if let [only] = candidates(model, &line.text()).as_slice() {
                line = Input::new(only.id);
            }
        }
        "backspace" if line.text().is_empty() => return Vec::new(),
        _ => edit(&mut line, name),
    }
    model.overlay = Overlay::Palette(line);
    Vec::new()
}

/// What the words typed so far may become, best first.
pub(in super::super) fn candidates(model: &Model, typed: &str) -> Vec<&'static Binding> {
    let word = typed.split_whitespace().next().unwrap_or("");
    let mut found: Vec<_> = keymap::here(context(model)).filter(|b| b.id.contains(word)).collect();
    found.sort_by_key(|b| (b.id != word, !b.id.starts_with(word)));
    found
}

/// `jobs state:failed`, `filter queue:gpu`, `q`, a digit, or the beginning of any word of the key table. A word that
/// changes the cluster opens the same dialog as its key.
fn run_word(model: &mut Model, text: &str) -> Vec<Command> {
    let (word, rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
    let rest = rest.trim();
    if word.is_empty() {
        return Vec::new();
    }
    if matches!(word, "filter" | "jobs" | "f") && !rest.is_empty() {
        match reeve_protocol::filter::parse(rest) {
            Ok(_) => navigate::show_jobs(model, rest),
            Err(error) => model.complain(super::super::format::text(&error.message)),
        }
        return Vec::new();
    }
    if matches!(word, "q" | "quit" | "exit") {
        return vec![Command::Quit];
    }
    if let Some(binding) = keymap::lookup(context(model), word).filter(|b| word.len() == 1 && !b.changes) {
        return act(model, binding.action);
    }
    if let Some(binding) = candidates(model, word).first() {
        return act(model, binding.action);
    }
    let words = keymap::here(context(model)).map(|b| b.id);
    let near = reeve_protocol::nearest::nearest(word, words)
        .map(|n| format!(" Did you mean {n}?"))
        .unwrap_or_default();
    model.complain(format!("There is no command {:?} here.{near}", super::super::format::text(word)));
    Vec::new()
}

/// The keys that every line understands.
fn edit(line: &mut Input, name: &str) {
    match name {
        "backspace" => line.backspace(),
        "delete" | "ctrl-d" => line.delete(),
        "left" | "ctrl-b" => line.step(-1),
        "right" | "ctrl-f" => line.step(1),
        "home" | "ctrl-a" => line.home(),
        "end" | "ctrl-e" => line.end(),
        "ctrl-w" => line.delete_word(),
        "ctrl-u" => line.clear(),
        "space" => line.insert(' '),
        _ => {
            let mut chars = name.chars();
            if let (Some(c), None) = (chars.next(), chars.next()) {
                line.insert(c);
            }
        }
    }
}

/// Pasted text goes into a line, and nowhere else.
pub(super) fn paste(model: &mut Model, text: &str) {
    let (Overlay::Filter(line) | Overlay::Palette(line)) = &mut model.overlay else { return };
    text.chars().for_each(|c| line.insert(c));
    if let Overlay::Filter(line) = &model.overlay {
        let text = line.text().trim().to_owned();
        if let Some(list) = model.names_mut() {
            list.filter = text;
        }
    }
}
