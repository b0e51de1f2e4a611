//! Every key of the table, in every context, does what the table says; and nothing else does anything.
use super::fixtures::{detail, jobs, live, press, send};
use crate::console::keymap::{Context, TABLE};
use crate::console::model::{Marks, Model, Overlay, Screen, Tab};
use crate::console::msg::{Command, Kind};
use crate::console::update::context;
use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

fn at(context: Context) -> Model {
    let mut model = match context {
        Context::Jobs => jobs(),
        Context::Detail => detail(),
        Context::Overview | Context::Queues | Context::Machines | Context::Workers | Context::Later => live(),
    };
    let digit = match context {
        Context::Queues => "2",
        Context::Machines => "4",
        Context::Workers => "5",
        Context::Later => "6",
        Context::Overview | Context::Jobs | Context::Detail => "",
    };
    press(&mut model, digit);
    model
}

#[test]
fn the_fixtures_are_where_they_say() {
    for wanted in Context::ALL {
        assert_eq!(context(&at(wanted)), wanted);
    }
}

/// What an observer sees of a model: enough that a key which does something changes it.
fn seen(model: &Model) -> String {
    format!("{model:?}")
}

#[test]
fn every_key_of_the_table_does_something_somewhere() {
    for binding in TABLE {
        for key in binding.keys {
            let works = binding.contexts.iter().any(|context| {
                let mut model = at(*context);
                // Away from the edges, so that every direction is possible; with marks, so that they can be dropped.
                press(&mut model, if *context == Context::Jobs { "j j j space j j" } else { "j" });
                if *context == Context::Detail {
                    press(&mut model, if *key == "n" { "k k p" } else { "k k" });
                }
                send(&mut model, Kind::Tick);
                let before = seen(&model);
                model.now.ms -= 1;
                let commands = press(&mut model, key);
                !commands.is_empty() || seen(&model) != before
            });
            assert!(works, "{key} ({}) does nothing", binding.id);
        }
    }
}

#[test]
fn a_changing_key_opens_a_dialog_and_changes_nothing_by_itself() {
    for binding in TABLE.iter().filter(|b| b.changes) {
        for context in binding.contexts {
            let mut model = at(*context);
            if *context == Context::Overview {
                press(&mut model, "j j j");
            }
            let commands = press(&mut model, binding.keys[0]);
            assert!(matches!(model.overlay, Overlay::Dialog(_)), "{} in {context:?}", binding.id);
            assert!(!commands.iter().any(Command::changes_cluster), "{commands:?}");
        }
    }
}

#[test]
fn no_lower_case_key_and_no_deleting_key_opens_a_dialog() {
    let mut keys: Vec<String> =
        (b' '..=b'~').map(char::from).filter(|c| !c.is_ascii_uppercase()).map(String::from).collect();
    keys.retain(|k| k != " ");
    keys.extend(["space", "delete", "backspace", "enter", "esc", "tab"].map(str::to_owned));
    keys.extend(('a'..='z').map(|c| format!("ctrl-{c}")));
    for context in Context::ALL {
        for key in &keys {
            let mut model = at(context);
            let commands = press(&mut model, key);
            assert!(!matches!(model.overlay, Overlay::Dialog(_)), "{key} in {context:?}");
            assert!(!commands.iter().any(Command::changes_cluster));
        }
    }
}

#[test]
fn an_upper_case_key_that_is_not_in_the_table_does_nothing() {
    for context in Context::ALL {
        for c in 'A'..='Z' {
            let name = c.to_string();
            if TABLE.iter().any(|b| b.contexts.contains(&context) && b.keys.contains(&name.as_str())) {
                continue;
            }
            let mut model = at(context);
            send(&mut model, Kind::Tick);
            let before = seen(&model);
            model.now.ms -= 1;
            assert!(press(&mut model, &name).is_empty());
            assert_eq!(seen(&model), before, "{c} in {context:?}");
        }
    }
}

#[test]
fn digits_choose_the_screen_from_everywhere() {
    for context in Context::ALL {
        for screen in Screen::ALL {
            let mut model = at(context);
            press(&mut model, &screen.digit().to_string());
            assert_eq!((model.screen, model.detail.is_none()), (screen, true));
        }
    }
}

#[test]
fn ctrl_c_quits_from_everywhere_and_whatever_is_open() {
    for context in Context::ALL {
        for open in ["", "?", ":", "/", "X", "s", "e"] {
            let mut model = at(context);
            press(&mut model, open);
            assert_eq!(press(&mut model, "ctrl-c"), [Command::Quit], "{open} in {context:?}");
        }
    }
}

#[test]
fn q_goes_back_from_a_detail_and_quits_elsewhere() {
    let mut model = detail();
    assert!(!press(&mut model, "q").contains(&Command::Quit));
    assert!(model.detail.is_none());
    assert_eq!(press(&mut model, "q"), [Command::Quit]);
}

#[test]
fn esc_closes_then_unmarks_then_clears_the_filter() {
    let mut model = jobs();
    press(&mut model, "/ g p u enter");
    super::fixtures::load(&mut model);
    press(&mut model, "space ?");
    press(&mut model, "esc");
    assert!(matches!(model.overlay, Overlay::None) && !model.jobs.marks.is_empty());
    press(&mut model, "esc");
    assert!(model.jobs.marks.is_empty() && model.jobs.filter == "gpu");
    press(&mut model, "esc");
    assert_eq!(model.jobs.filter, "");
}

#[test]
fn the_cursor_moves_by_rows_half_pages_pages_and_to_the_ends() {
    let mut model = jobs();
    let page = model.rows_visible() as u64;
    for (key, wanted) in [
        ("j", 1),
        ("down", 2),
        ("k", 1),
        ("up", 0),
        ("up", 0),
        ("ctrl-d", page / 2),
        ("ctrl-u", 0),
        ("ctrl-f", page),
        ("pageup", 0),
        ("G", 411),
        ("j", 411),
        ("g", 0),
        ("g", 0),
    ] {
        press(&mut model, key);
        assert_eq!(model.jobs.position, wanted, "{key}");
        assert!((model.jobs.top..model.jobs.top + page).contains(&wanted));
    }
}

#[test]
fn the_parts_of_a_detail_go_around() {
    let mut model = detail();
    let mut seen = Vec::new();
    for key in ["]", "]", "]", "[", "tab", "shift-tab", "l"] {
        press(&mut model, key);
        seen.push(model.detail.as_ref().unwrap().tab);
    }
    assert_eq!(seen, [Tab::Log, Tab::Spec, Tab::Summary, Tab::Spec, Tab::Summary, Tab::Spec, Tab::Log]);
}

#[test]
fn the_log_of_another_attempt_is_asked_for_once() {
    let mut model = detail();
    let wanted = |model: &mut Model, key: &str| {
        press(model, key).into_iter().find_map(|c| match c {
            Command::Log { want, .. } => want.map(|w| w.attempt),
            _ => None,
        })
    };
    assert_eq!(wanted(&mut model, "p"), Some(1));
    assert_eq!(wanted(&mut model, "p"), None, "there is none before the first");
    assert_eq!(wanted(&mut model, "n"), Some(2));
    assert_eq!(wanted(&mut model, "n"), None);
}

#[test]
fn a_terminal_that_reports_shift_or_repeats_changes_nothing() {
    let mut model = jobs();
    send(&mut model, Kind::Key(KeyEvent::new(KeyCode::Char('*'), KeyModifiers::SHIFT)));
    assert!(matches!(model.jobs.marks, Marks::All { .. }));
    send(&mut model, Kind::Key(KeyEvent::new(KeyCode::Char('X'), KeyModifiers::ALT)));
    assert!(matches!(model.overlay, Overlay::None), "alt is for the terminal or the window manager");
}

#[test]
fn pasted_text_goes_into_inputs_and_nowhere_else() {
    let mut model = jobs();
    let commands = send(&mut model, Kind::Paste("XyRy\n".into()));
    assert!(commands.is_empty() && matches!(model.overlay, Overlay::None));
    press(&mut model, "/");
    send(&mut model, Kind::Paste("state:failed\n".into()));
    press(&mut model, "enter");
    assert_eq!(model.jobs.filter, "state:failed");
}
