//! Every screen at every small size, with text that is hostile to a terminal: nothing may panic, and nothing that acts
//! on a terminal may reach a cell.
use super::fixtures::{self, answer_plan, press, send, wait};
use crate::console::model::Model;
use crate::console::msg::Kind;
use crate::console::view::draw;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use reeve_protocol::Problem;
use reeve_protocol::api::Alert;

const HOSTILE: &str = "a\u{1b}[31m\u{202e}語\u{301}\u{7}\n\t👩‍🚀\u{200b}é";

/// One model per thing that can be on the screen.
fn everything() -> Vec<(&'static str, Model)> {
    let mut all =
        vec![("silent", fixtures::silent()), ("live", fixtures::live()), ("jobs", fixtures::jobs())];
    for (name, keys) in
        [("queues", "2"), ("machines", "4"), ("workers", "5"), ("events", "6"), ("operations", "7")]
    {
        let mut model = fixtures::live();
        press(&mut model, keys);
        all.push((name, model));
    }
    for (name, keys) in [
        ("marks", "space space"),
        ("all", "*"),
        ("filter", "/ s t a t : x"),
        ("palette", ": c a n"),
        ("help", "?"),
        ("sort", "s"),
        ("why", "e"),
        ("frozen", "f"),
        ("planning", "X"),
    ] {
        let mut model = fixtures::jobs();
        press(&mut model, keys);
        all.push((name, model));
    }
    for (name, count) in [("no change", 0), ("few", 3), ("more", 40), ("many", 5000)] {
        let mut model = fixtures::jobs();
        press(&mut model, "* X");
        answer_plan(&mut model, count);
        wait(&mut model, 400);
        press(&mut model, "1 2");
        all.push((name, model));
    }
    for (name, keys) in [("detail", ""), ("log", "l w k"), ("spec", "] ]")] {
        let mut model = fixtures::detail();
        press(&mut model, keys);
        all.push((name, model));
    }
    let mut down = fixtures::jobs();
    send(&mut down, Kind::LinkDown { error: HOSTILE.repeat(40), attempt: 4, retry_ms: 3000 });
    all.push(("down", down));
    let mut refused = fixtures::jobs();
    let problem = Box::new(Problem { detail: HOSTILE.repeat(90), hint: HOSTILE.into(), ..problem() });
    let generation = refused.generations.view;
    send(&mut refused, Kind::ViewRefused { generation, problem });
    all.push(("refused", refused));
    all
}

fn problem() -> Problem {
    Problem::new(reeve_protocol::Code::BadFilter, "x")
}

/// Puts hostile text everywhere that text can be.
fn poison(model: &mut Model) {
    let big = HOSTILE.repeat(2000);
    if let Some(stats) = &mut model.stats.shown {
        stats.cluster.clone_from(&big);
        stats.queues.iter_mut().for_each(|q| {
            q.name = format!("{}{big}", q.name);
            q.kind.clone_from(&big);
            q.waiting.insert(big.clone(), u64::MAX / 4);
            q.history = vec![u32::MAX; 900];
            q.ended_per_s = f64::NAN;
            q.oldest_age_s = Some(f64::INFINITY);
        });
        stats.alerts.push(Alert { level: 9, subject: big.clone(), text: big.clone() });
        stats.causes.insert(big.clone(), 7);
    }
    for machine in model.machines.shown.iter_mut().flatten() {
        machine.os.clone_from(&big);
        machine.labels.insert(big.clone(), big.clone());
        (machine.cpu_busy, machine.disk, machine.seen_s) = (Some(f64::NAN), Some(-3.0), Some(1e300));
    }
    if let Some(window) = &mut model.jobs.shown {
        for job in window.rows.values_mut() {
            (job.owner, job.queue, job.machine) = (big.clone(), big.clone(), Some(big.clone()));
            (job.message, job.progress) = (Some(big.clone()), Some(f64::NAN));
        }
    }
    if let Some(job) = model.detail.as_mut().and_then(|d| d.job.as_mut()) {
        job.spec.command = Some(vec![big.clone(); 3]);
        job.attempts.iter_mut().for_each(|a| a.machine.clone_from(&big));
        job.message = Some(big);
    }
}

fn check(name: &str, model: &Model, width: u16, height: u16) {
    let mut buffer = Buffer::empty(Rect::new(0, 0, width, height));
    if let Some(at) = draw(model, &mut buffer) {
        assert!(at.x < width && at.y < height, "{name} {width}x{height}: the cursor is outside");
    }
    for cell in buffer.content() {
        let hostile =
            cell.symbol().chars().any(|c| c == '\n' || c == '\t' || reeve_protocol::text::is_hostile(c));
        // The joiner inside an emoji is no danger, but our sanitiser replaces it all the same.
        assert!(!hostile, "{name} {width}x{height}: {:?}", cell.symbol());
    }
}

#[test]
fn nothing_panics_at_any_small_size() {
    for (name, mut model) in everything() {
        for height in 0..=20 {
            for width in (0..=60).chain([79, 80, 120, 161, 300]) {
                send(&mut model, Kind::Resize(width, height));
                check(name, &model, width, height);
            }
        }
    }
}

#[test]
fn hostile_text_is_drawn_as_text_at_every_size() {
    for (name, mut model) in everything() {
        poison(&mut model);
        for (width, height) in [(0, 0), (1, 1), (40, 8), (41, 9), (60, 16), (80, 24), (120, 36), (200, 60)] {
            send(&mut model, Kind::Resize(width, height));
            check(name, &model, width, height);
        }
    }
}

#[test]
fn a_size_that_the_model_does_not_know_yet_is_drawn_too() {
    let model = fixtures::jobs();
    for (width, height) in [(0, 0), (10, 3), (119, 36), (300, 100)] {
        check("jobs", &model, width, height);
    }
}
