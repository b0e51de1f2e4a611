//! Pictures of every screen and state, text and styles, kept as files and read by people when they change.
use super::fixtures::{self, answer_plan, answer_view, press, send, type_text, wait};
use super::grid::picture;
use crate::console::model::Model;
use crate::console::msg::Kind;
use crate::console::theme::Theme;
use reeve_protocol::api::{PlanResult, Stats};
use reeve_protocol::{Code, Problem};

/// The sizes of the design.
const SIZES: [(u16, u16); 4] = [(120, 36), (80, 24), (60, 16), (40, 10)];

fn keep(name: &str, model: &Model) {
    insta::with_settings!({ snapshot_path => "../snapshots", prepend_module_to_snapshot => false, omit_expression => true }, {
        insta::assert_snapshot!(name, picture(model));
    });
}

/// The same story told at every size: the window of rows follows the size.
fn at_sizes(name: &str, story: impl Fn() -> Model) {
    for (width, height) in SIZES {
        let mut model = story();
        send(&mut model, Kind::Resize(width, height));
        keep(&format!("{name}-{width}x{height}"), &model);
    }
}

fn screen(keys: &str) -> Model {
    let mut model = fixtures::live();
    press(&mut model, keys);
    model
}

#[test]
fn overview() {
    at_sizes("overview", || screen(""));
}

#[test]
fn overview_of_an_idle_cluster() {
    let mut model = fixtures::silent();
    send(&mut model, Kind::LinkUp);
    send(&mut model, Kind::Stats(Box::new(Stats { cluster: "lab-main".into(), ..Stats::default() })));
    answer_view(&mut model, Vec::new(), 0);
    keep("overview-empty-120x36", &model);
}

#[test]
fn before_anything_is_heard() {
    let mut model = fixtures::silent();
    keep("connecting-120x36", &model);
    send(&mut model, Kind::LinkDown { error: "no such socket".into(), attempt: 3, retry_ms: 2000 });
    send(&mut model, Kind::Resize(80, 24));
    keep("connecting-failed-80x24", &model);
}

#[test]
fn queues() {
    at_sizes("queues", || screen("2 j"));
    let mut model = screen("2 / z z");
    keep("queues-filtered-empty-120x36", &model);
    press(&mut model, "esc esc s");
    keep("queues-sort-120x36", &model);
}

#[test]
fn queues_that_do_not_go_on_say_why() {
    let mut stats = fixtures::stats();
    let at = stats.at;
    stats.queues[0].degraded = Some("tried amqp://mq.lab:5672; Connection refused (os error 111)".into());
    stats.queues[0].degraded_since = at;
    stats.queues[2].degraded = Some("it says nothing: hints are not waited for".into());
    let paused = &mut stats.queues[3];
    (paused.paused_by, paused.paused_why, paused.paused_at) =
        (Some("ana".into()), Some("relabel".into()), at);
    let story = |keys: &str| {
        let mut model = screen(keys);
        send(&mut model, Kind::Stats(Box::new(stats.clone())));
        model
    };
    at_sizes("queues-degraded", || story("2 j"));
    keep("queues-paused-120x36", &story("2 j j j"));
    keep("queues-silent-120x36", &story("2 j j"));
}

#[test]
fn jobs() {
    at_sizes("jobs", || {
        let mut model = fixtures::jobs();
        press(&mut model, "j j j");
        model
    });
}

#[test]
fn jobs_with_marks() {
    at_sizes("jobs-marks", || {
        let mut model = fixtures::jobs();
        press(&mut model, "j space space space space k");
        model
    });
    let mut model = fixtures::jobs();
    press(&mut model, "/");
    type_text(&mut model, "state:failed since:2h");
    press(&mut model, "enter");
    fixtures::load(&mut model);
    press(&mut model, "* j space");
    keep("jobs-all-120x36", &model);
}

#[test]
fn jobs_that_are_not_there() {
    at_sizes("jobs-filtered-empty", || {
        let mut model = fixtures::jobs();
        press(&mut model, "/");
        type_text(&mut model, "state:failed queue:label");
        press(&mut model, "enter");
        answer_view(&mut model, Vec::new(), 0);
        model
    });
    let mut model = fixtures::jobs();
    answer_view(&mut model, Vec::new(), 0);
    keep("jobs-empty-80x24", &{
        send(&mut model, Kind::Resize(80, 24));
        model
    });
}

#[test]
fn jobs_while_the_link_is_down_and_while_frozen() {
    at_sizes("jobs-disconnected", || {
        let mut model = fixtures::jobs();
        press(&mut model, "j");
        send(
            &mut model,
            Kind::LinkDown { error: "ssh lab-head: broken pipe".into(), attempt: 4, retry_ms: 5000 },
        );
        wait(&mut model, 2100);
        model
    });
    let mut model = fixtures::jobs();
    press(&mut model, "f");
    wait(&mut model, 12_000);
    keep("jobs-frozen-120x36", &model);
}

#[test]
fn the_filter_points_at_a_mistake() {
    at_sizes("jobs-filter-mistake", || {
        let mut model = fixtures::jobs();
        press(&mut model, "/");
        type_text(&mut model, "queue:gpu stat:failed");
        model
    });
}

#[test]
fn details() {
    at_sizes("detail", fixtures::detail);
    at_sizes("detail-log", || {
        let mut model = fixtures::detail();
        press(&mut model, "l w k k");
        model
    });
    at_sizes("detail-spec", || {
        let mut model = fixtures::detail();
        press(&mut model, "] ]");
        model
    });
    let mut model = fixtures::jobs();
    press(&mut model, "G");
    fixtures::load(&mut model);
    press(&mut model, "enter");
    keep("detail-waiting-120x36", &model);
}

#[test]
fn machines() {
    at_sizes("machines", || screen("4 j j j"));
    let mut model = screen("4");
    send(&mut model, Kind::Machines(Vec::new()));
    keep("machines-empty-120x36", &model);
}

#[test]
fn workers() {
    at_sizes("workers", || screen("5"));
    let mut model = screen("5");
    press(&mut model, "D");
    wait(&mut model, 400);
    keep("dialog-worker-120x36", &model);
    let mut model = screen("5");
    send(&mut model, Kind::Workers(Vec::new()));
    keep("workers-empty-120x36", &model);
}

#[test]
fn screens_of_a_later_version() {
    for (name, key) in [("events", "6"), ("operations", "7")] {
        let mut model = screen(key);
        send(&mut model, Kind::Resize(80, 24));
        keep(&format!("{name}-80x24"), &model);
    }
}

#[test]
fn help_and_palette() {
    at_sizes("help", || {
        let mut model = fixtures::jobs();
        press(&mut model, "?");
        model
    });
    at_sizes("palette", || {
        let mut model = fixtures::jobs();
        press(&mut model, ": r e");
        model
    });
}

fn preview(count: u64) -> Model {
    let mut model = fixtures::jobs();
    press(&mut model, "* X");
    answer_plan(&mut model, count);
    wait(&mut model, 400);
    model
}

#[test]
fn dialogs() {
    at_sizes("dialog-few", || preview(12));
    at_sizes("dialog-count", || {
        let mut model = preview(1180);
        press(&mut model, "1 1 8 enter");
        model
    });
    keep("dialog-letter-120x36", &preview(120));
    keep("dialog-nothing-120x36", &preview(0));
    let mut model = preview(12);
    press(&mut model, "tab y");
    keep("dialog-running-120x36", &model);
    let result =
        PlanResult { id: 105, changed: 9, skipped: 3, reasons: [("moved on".into(), 3)].into(), seq: 1 };
    let ticket = model.ticket;
    send(&mut model, Kind::Ran { ticket, result: Ok(result) });
    keep("dialog-done-120x36", &model);
    let mut model = fixtures::jobs();
    press(&mut model, "X");
    let problem =
        Problem::new(Code::Unavailable, "the coordinator is stopping").hint("try again soon").unknown();
    let ticket = model.ticket;
    send(&mut model, Kind::Planned { ticket, result: Err(Box::new(problem)) });
    keep("dialog-failed-120x36", &model);
    let mut model = screen("2 P");
    wait(&mut model, 400);
    keep("dialog-queue-80x24", &{
        send(&mut model, Kind::Resize(80, 24));
        model
    });
}

/// With neither colour nor more than ASCII every state has to be told apart by its text.
#[test]
fn ascii_without_colour() {
    for (name, mut model) in [
        ("overview", screen("")),
        ("jobs", fixtures::jobs()),
        ("detail", fixtures::detail()),
        ("machines", screen("4")),
    ] {
        model.theme = Theme { color: false, ascii: true };
        if name == "jobs" {
            press(&mut model, "space space");
        }
        let shown = picture(&model);
        let own: String =
            shown.chars().filter(|c| !c.is_ascii() && !"語\u{301}␛␊\u{FFFD}".contains(*c)).collect();
        assert_eq!(own, "", "{name}");
        keep(&format!("{name}-ascii-120x36"), &model);
        send(&mut model, Kind::Resize(80, 24));
        keep(&format!("{name}-ascii-80x24"), &model);
    }
}

#[test]
fn too_small() {
    let mut model = fixtures::jobs();
    send(&mut model, Kind::Resize(36, 6));
    keep("too-small-36x6", &model);
}
