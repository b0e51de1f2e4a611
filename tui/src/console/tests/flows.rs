//! What users do in several steps: find, mark, change, read.
use super::fixtures::{self, answer_plan, answer_view, jobs, load, press, send, type_text, wait};
use crate::console::model::{Dialog, Link, Marks, Model, Overlay, Screen};
use crate::console::msg::{Command, Kind, WorkerAct};
use reeve_protocol::api::{PlanRequest, PlanResult, ViewUpdate, Why, WhyLine};
use reeve_protocol::{Code, Problem, State};

fn plan_of(commands: &[Command]) -> PlanRequest {
    let found = commands.iter().find_map(|c| match c {
        Command::Plan { request, .. } => Some(request.clone()),
        _ => None,
    });
    found.unwrap_or_else(|| panic!("no plan in {commands:?}"))
}

fn runs(commands: &[Command]) -> bool {
    commands.iter().any(|c| matches!(c, Command::RunPlan { id: 105, .. }))
}

/// A preview of a plan that changes so many, with its input open.
fn preview(count: u64) -> Model {
    let mut model = jobs();
    press(&mut model, "* X");
    answer_plan(&mut model, count);
    wait(&mut model, 400);
    model
}

fn is_closed(model: &Model) -> bool {
    matches!(model.overlay, Overlay::None)
}

#[test]
fn up_to_twenty_take_y_or_enter_on_yes_and_no_has_the_focus() {
    for (keys, wanted) in [
        ("enter", false),
        ("y", true),
        ("tab enter", true),
        ("tab tab enter", false),
        ("n", false),
        ("esc", false),
        ("space x enter", false),
    ] {
        let mut model = preview(20);
        assert_eq!(runs(&press(&mut model, keys)), wanted, "{keys}");
    }
}

#[test]
fn above_twenty_only_y_says_yes() {
    for (keys, wanted) in [("y", true), ("enter", false), ("tab enter", false), ("n", false)] {
        let mut model = preview(21);
        assert_eq!(runs(&press(&mut model, keys)), wanted, "{keys}");
    }
}

#[test]
fn above_two_hundred_the_count_has_to_be_typed() {
    for (keys, wanted) in [
        ("y", false),
        ("enter", false),
        ("1 1 8 enter", false),
        ("1 1 8 0 enter", true),
        ("1 , 1 8 0 enter", true),
        ("1 1 8 1 backspace 0 enter", true),
        ("1 1 8 0 esc", false),
    ] {
        let mut model = preview(1180);
        assert_eq!(runs(&press(&mut model, keys)), wanted, "{keys}");
    }
}

#[test]
fn a_plan_that_changes_nothing_cannot_be_run() {
    for keys in ["y", "enter", "tab enter"] {
        let mut model = preview(0);
        assert!(!runs(&press(&mut model, keys)), "{keys}");
    }
}

#[test]
fn keys_right_after_the_box_opens_are_dropped() {
    let mut model = jobs();
    press(&mut model, "X");
    answer_plan(&mut model, 1);
    assert!(!runs(&press(&mut model, "y y esc enter")));
    assert!(!is_closed(&model), "esc was dropped, too");
    wait(&mut model, 300);
    assert!(runs(&press(&mut model, "y")));
}

#[test]
fn the_result_says_what_changed_and_the_marks_are_gone() {
    let mut model = preview(3);
    press(&mut model, "y");
    let result =
        PlanResult { id: 105, changed: 3, skipped: 1, reasons: [("moved on".into(), 1)].into(), seq: 1000 };
    let ticket = model.ticket;
    send(&mut model, Kind::Ran { ticket, result: Ok(result.clone()) });
    let Overlay::Dialog(open) = &model.overlay else { panic!("no box") };
    assert!(matches!(&**open, Dialog::Done { result: shown, .. } if *shown == result));
    assert!(model.jobs.marks.is_empty());
    press(&mut model, "enter");
    assert!(is_closed(&model));
}

#[test]
fn a_closed_box_still_says_how_it_went() {
    let mut model = preview(3);
    press(&mut model, "y esc");
    let result = PlanResult { id: 105, changed: 2, skipped: 1, reasons: [].into(), seq: 1000 };
    let ticket = model.ticket;
    send(&mut model, Kind::Ran { ticket, result: Ok(result) });
    assert_eq!(model.notice.unwrap().text, "Plan 105: 2 changed, 1 skipped.");
}

#[test]
fn an_answer_to_a_box_that_was_closed_opens_nothing() {
    let mut model = jobs();
    press(&mut model, "X");
    let old = model.ticket;
    press(&mut model, "esc X");
    send(&mut model, Kind::Planned { ticket: old, result: Ok(Box::new(fixtures::plan(1))) });
    let Overlay::Dialog(open) = &model.overlay else { panic!("no box") };
    assert!(matches!(**open, Dialog::Planning { .. }));
}

#[test]
fn what_is_meant_is_the_row_then_the_marks_then_all_that_match() {
    let mut model = jobs();
    assert_eq!(plan_of(&press(&mut model, "X")).ids, ["412"]);
    press(&mut model, "esc space space j space");
    let request = plan_of(&press(&mut model, "R"));
    assert_eq!((request.action.as_str(), request.ids.join(" ").as_str()), ("restart", "409 411-412"));
    press(&mut model, "esc esc /");
    type_text(&mut model, "state:failed");
    press(&mut model, "enter");
    load(&mut model);
    let request = plan_of(&press(&mut model, "* space X"));
    assert_eq!((request.filter.as_deref(), request.except), (Some("state:failed"), vec![412]));
    assert!(request.ids.is_empty(), "the coordinator finds them");
    let Overlay::Dialog(open) = &model.overlay else { panic!("no box") };
    let Dialog::Planning { asked, .. } = &**open else { panic!("{open:?}") };
    assert_eq!(asked.command, "reeve bulk cancel -f 'state:failed -id:412'");
    assert_eq!(asked.selection, "all matching  state:failed, 1 excluded");
}

#[test]
fn all_that_match_does_not_survive_another_filter_but_ids_do() {
    let mut model = jobs();
    press(&mut model, "* /");
    type_text(&mut model, "queue:gpu");
    press(&mut model, "enter");
    assert!(model.jobs.marks.is_empty() && model.notice.is_some());
    load(&mut model);
    press(&mut model, "space / esc esc");
    let mut model = jobs();
    press(&mut model, "space space /");
    type_text(&mut model, "queue:gpu");
    press(&mut model, "enter");
    load(&mut model);
    press(&mut model, "s 2");
    assert!(matches!(&model.jobs.marks, Marks::Ids(ids) if ids.len() == 2));
}

#[test]
fn ranges_invert_and_shift_arrows_mark_what_they_pass() {
    for (keys, wanted) in [
        ("v j j v", "410-412"),
        ("v j j k v", "411-412"),
        ("j j v k v", "410-411"),
        ("shift-down shift-down", "410-412"),
        ("space v j v", "410-412"),
    ] {
        let mut model = jobs();
        press(&mut model, keys);
        assert_eq!(plan_of(&press(&mut model, "X")).ids.join(" "), wanted, "{keys}");
    }
    let mut model = jobs();
    press(&mut model, "space");
    let visible = model.rows_visible();
    press(&mut model, "!");
    assert!(
        matches!(&model.jobs.marks, Marks::Ids(ids) if ids.len() == visible - 1 && !ids.contains(&(412, None)))
    );
}

#[test]
fn the_cursor_stays_on_its_job_and_on_its_line_when_new_jobs_come() {
    let mut model = jobs();
    press(&mut model, "j j j");
    let (line, under) = (model.jobs.position - model.jobs.top, model.jobs.at_cursor().unwrap().id);
    let rows: Vec<_> = (0..60).map(|n| fixtures::job(fixtures::TOTAL + 5 - n)).collect();
    let update = ViewUpdate {
        kind: "diff".into(),
        seq: 920,
        total: reeve_protocol::api::Total { value: fixtures::TOTAL + 5, exact: true },
        order: Some(rows.iter().map(|j| (j.id, None)).collect()),
        rows: rows[..5].to_vec(),
    };
    let generation = model.generations.view;
    send(&mut model, Kind::View { generation, update: Box::new(update) });
    assert_eq!(model.jobs.at_cursor().unwrap().id, under);
    assert_eq!(model.jobs.position - model.jobs.top, line);
}

#[test]
fn moving_costs_no_request_until_the_rows_run_out() {
    let mut model = jobs();
    let views = |commands: &[Command]| commands.iter().filter(|c| matches!(c, Command::View { .. })).count();
    assert_eq!(views(&press(&mut model, "j j j j j k k space v j")), 0);
    assert_eq!(views(&press(&mut model, "v G")), 1);
    let request = model.wants.view.clone().unwrap();
    assert!(request.offset + u64::from(request.limit) >= fixtures::TOTAL && request.limit <= 500);
    load(&mut model);
    assert_eq!(model.jobs.at_cursor().unwrap().id, 1);
}

#[test]
fn rows_of_an_older_view_are_dropped() {
    let mut model = jobs();
    let old = model.generations.view;
    press(&mut model, "s 2");
    assert!(model.jobs.shown.is_none());
    let update = ViewUpdate {
        kind: "snapshot".into(),
        seq: 1,
        total: reeve_protocol::api::Total { value: 1, exact: true },
        order: Some(vec![(7, None)]),
        rows: vec![fixtures::job(7)],
    };
    send(&mut model, Kind::View { generation: old, update: Box::new(update) });
    assert!(model.jobs.shown.is_none());
}

#[test]
fn a_frozen_picture_holds_still_and_says_what_waits() {
    let mut model = jobs();
    press(&mut model, "f");
    let mut changed = fixtures::job(410);
    changed.state = State::Completed;
    let update = ViewUpdate {
        kind: "diff".into(),
        seq: 920,
        total: reeve_protocol::api::Total { value: 412, exact: true },
        order: None,
        rows: vec![changed],
    };
    let generation = model.generations.view;
    send(&mut model, Kind::View { generation, update: Box::new(update) });
    let state = |model: &Model| model.jobs.shown.as_ref().unwrap().rows[&(410, None)].state;
    assert_eq!((state(&model), model.jobs.changed_since_freeze()), (State::Running, 1));
    press(&mut model, "f");
    assert_eq!((state(&model), model.jobs.changed_since_freeze()), (State::Completed, 0));
}

#[test]
fn without_a_link_everything_can_be_looked_at_and_nothing_changed() {
    let mut model = jobs();
    press(&mut model, "space");
    send(&mut model, Kind::LinkDown { error: "broken pipe".into(), attempt: 1, retry_ms: 500 });
    for key in ["X", "R", "H", "U"] {
        assert!(press(&mut model, key).is_empty() && is_closed(&model), "{key}");
        assert!(model.notice.take().unwrap().bad);
    }
    press(&mut model, "j j k");
    assert_eq!(model.jobs.position, 2);
    send(&mut model, Kind::LinkDown { error: "again".into(), attempt: 2, retry_ms: 1000 });
    assert!(matches!(model.link, Link::Down { attempt: 2, .. }));
    send(&mut model, Kind::LinkUp);
    assert!(!model.jobs.marks.is_empty(), "marks stay");
    assert!(!press(&mut model, "X").is_empty());
}

#[test]
fn a_plan_is_not_run_once_the_link_is_lost() {
    let mut model = preview(3);
    send(&mut model, Kind::LinkDown { error: "gone".into(), attempt: 1, retry_ms: 500 });
    assert!(!runs(&press(&mut model, "y")));
    send(&mut model, Kind::LinkUp);
    assert!(runs(&press(&mut model, "y")), "the box waited");
}

#[test]
fn a_filter_with_a_mistake_is_not_sent() {
    let mut model = jobs();
    press(&mut model, "/");
    type_text(&mut model, "stat:failed");
    assert!(press(&mut model, "enter").is_empty());
    assert!(matches!(model.overlay, Overlay::Filter(_)) && model.jobs.filter.is_empty());
    press(&mut model, "ctrl-w s t a t e tab");
    type_text(&mut model, "failed");
    press(&mut model, "enter");
    assert_eq!(model.jobs.filter, "state:failed");
    press(&mut model, "/ ctrl-u up");
    let Overlay::Filter(line) = &model.overlay else { panic!("closed") };
    assert_eq!(line.text(), "state:failed");
}

#[test]
fn the_palette_knows_the_words_of_the_table_and_asks_before_changes() {
    for (typed, screen) in [("queues", Screen::Queues), ("mach", Screen::Machines), ("3", Screen::Jobs)] {
        let mut model = fixtures::live();
        press(&mut model, ":");
        type_text(&mut model, typed);
        press(&mut model, "enter");
        assert_eq!(model.screen, screen, "{typed}");
    }
    let mut model = fixtures::live();
    press(&mut model, ":");
    type_text(&mut model, "jobs state:failed");
    press(&mut model, "enter");
    assert_eq!((model.screen, model.jobs.filter.as_str()), (Screen::Jobs, "state:failed"));
    press(&mut model, ": q");
    assert_eq!(press(&mut model, "enter"), [Command::Quit]);
    let mut model = jobs();
    press(&mut model, ":");
    type_text(&mut model, "cancel");
    let commands = press(&mut model, "enter");
    assert!(!commands.iter().any(Command::changes_cluster));
    assert!(matches!(model.overlay, Overlay::Dialog(_)));
    press(&mut model, "esc :");
    type_text(&mut model, "jbos");
    press(&mut model, "enter");
    assert!(model.notice.unwrap().text.contains("jobs"));
}

#[test]
fn enter_on_an_array_lists_its_tasks_and_back_leaves_them() {
    let mut model = jobs();
    let array = (1..fixtures::TOTAL).rev().find(|id| id % 16 == 9).unwrap();
    model.jobs.move_to(fixtures::TOTAL - array, 20);
    press(&mut model, "enter");
    assert_eq!(model.jobs.scope, Some(array));
    let request = model.wants.view.clone().unwrap();
    assert_eq!((request.of.as_str(), request.id), ("tasks", Some(array)));
    let mut task = fixtures::job(array);
    (task.index, task.array) = (Some(3), None);
    answer_view(&mut model, vec![task], 1);
    assert_eq!(plan_of(&press(&mut model, "X")).ids, [format!("{array}.3")]);
    press(&mut model, "esc *");
    assert!(model.jobs.marks.is_empty(), "all of an array is the array itself");
    press(&mut model, "h");
    assert_eq!(model.jobs.scope, None);
}

#[test]
fn pausing_a_queue_asks_and_says_how_it_went() {
    let mut model = fixtures::live();
    press(&mut model, "2 P");
    wait(&mut model, 300);
    assert!(press(&mut model, "enter").is_empty() && is_closed(&model), "no has the focus");
    press(&mut model, "P");
    wait(&mut model, 300);
    let commands = press(&mut model, "y");
    let Some(Command::SetQueue { ticket, name, pause: true }) = commands.first() else {
        panic!("{commands:?}")
    };
    let queue = reeve_protocol::api::QueueView { name: name.clone(), paused: true, ..Default::default() };
    send(&mut model, Kind::QueueSet { ticket: *ticket, result: Ok(Box::new(queue)) });
    assert!(is_closed(&model));
    assert_eq!(model.notice.unwrap().text, format!("Queue {name} is paused."));
}

#[test]
fn changing_a_worker_asks_and_only_static_ones_can_be_changed() {
    let mut model = fixtures::live();
    assert!(press(&mut model, "5 A").iter().all(|c| !c.changes_cluster()));
    wait(&mut model, 300);
    let commands = press(&mut model, "y");
    let Some(Command::SetWorker { ticket, name, act: WorkerAct::Scale(4) }) = commands.first() else {
        panic!("{commands:?}")
    };
    assert_eq!(name, "bank");
    let worker = fixtures::workers().remove(0);
    send(&mut model, Kind::WorkerSet { ticket: *ticket, result: Ok(Box::new(worker)) });
    assert!(is_closed(&model));
    press(&mut model, "j D");
    assert!(is_closed(&model), "it was never launched");
    press(&mut model, "j L");
    assert!(is_closed(&model) && model.notice.unwrap().bad, "it is born for each job");
}

#[test]
fn a_refusal_is_shown_with_what_to_do() {
    let mut model = jobs();
    press(&mut model, "X");
    let problem = Problem::new(Code::Overloaded, "too many plans").hint("wait a second");
    let ticket = model.ticket;
    send(&mut model, Kind::Planned { ticket, result: Err(Box::new(problem.clone())) });
    let Overlay::Dialog(open) = &model.overlay else { panic!("no box") };
    assert!(matches!(&**open, Dialog::Failed { problem: shown, .. } if **shown == problem));
}

#[test]
fn why_is_asked_and_answered_in_sentences() {
    let mut model = jobs();
    let commands = press(&mut model, "e");
    let Some(Command::Why { ticket, selector }) = commands.first() else { panic!("{commands:?}") };
    assert_eq!(selector, "412");
    let reason = WhyLine { machine: Some("lab-007".into()), text: "needs 1 gpu, 0 free".into() };
    let why = Why { id: 412, state: State::Queued, substate: None, reasons: vec![reason] };
    send(&mut model, Kind::Why { ticket: *ticket, result: Ok(why) });
    let Overlay::Why(open) = &model.overlay else { panic!("closed") };
    assert_eq!(open.lines.as_deref().unwrap(), ["lab-007: needs 1 gpu, 0 free"]);
}

#[test]
fn subscriptions_follow_the_screen() {
    let mut model = fixtures::live();
    let names = |commands: Vec<Command>| -> Vec<String> {
        commands
            .into_iter()
            .filter_map(|c| match c {
                Command::View { request, .. } => Some(format!("view {}", request.is_some())),
                Command::Machines(on) => Some(format!("machines {on}")),
                Command::Job { selector, .. } => Some(format!("job {}", selector.is_some())),
                Command::Log { want, .. } => Some(format!("log {}", want.is_some())),
                _ => None,
            })
            .collect()
    };
    assert_eq!(names(press(&mut model, "2")), ["view false", "machines false"]);
    assert_eq!(names(press(&mut model, "4")), ["machines true"]);
    assert_eq!(names(press(&mut model, "3")), ["view true", "machines false"]);
    load(&mut model);
    assert_eq!(names(press(&mut model, "j j enter")), ["view false", "job true", "log true"]);
    assert_eq!(names(press(&mut model, "esc")), ["view true", "job false", "log false"]);
    assert_eq!(names(press(&mut model, "7")), ["view false"]);
}
