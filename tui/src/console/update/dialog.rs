//! The boxes between a key and a change. This file alone makes the commands that change the cluster, each out of a
//! dialog that was open, armed and confirmed.
use super::super::model::{Confirm, Dialog, Input, Model, Overlay, Preview, confirm_for};
use super::super::msg::Command;
use super::ask;
use reeve_protocol::Problem;
use reeve_protocol::api::{Plan, PlanResult, QueueView, WorkerView};

/// Keys within this time after a box has opened were meant for what was there before.
pub(super) const ARM_MS: u64 = 300;

/// What a key means for the box that is open. The box has been taken out of the model: what is not put back is closed.
pub(super) fn key(model: &mut Model, open: Dialog, name: &str) -> Vec<Command> {
    if model.now.ms < open.armed_at() {
        model.overlay = Overlay::Dialog(Box::new(open));
        return Vec::new();
    }
    match open {
        Dialog::Preview(preview) => preview_key(model, preview, name),
        Dialog::Queue { name: queue, pause, armed_at, yes } => {
            let answer = choose(name, yes);
            match answer {
                Answer::Yes if ask::may_change(model) => {
                    let ticket = model.next_ticket();
                    keep(model, Dialog::QueueRunning { ticket, name: queue.clone(), pause });
                    return vec![Command::SetQueue { ticket, name: queue, pause }];
                }
                Answer::No => {}
                Answer::Yes => keep(model, Dialog::Queue { name: queue, pause, armed_at, yes }),
                Answer::Focus(yes) => keep(model, Dialog::Queue { name: queue, pause, armed_at, yes }),
            }
            Vec::new()
        }
        Dialog::Worker { name: worker, act, armed_at, yes } => {
            let answer = choose(name, yes);
            match answer {
                Answer::Yes if ask::may_change(model) => {
                    let ticket = model.next_ticket();
                    keep(model, Dialog::WorkerRunning { ticket, name: worker.clone(), act });
                    return vec![Command::SetWorker { ticket, name: worker, act }];
                }
                Answer::No => {}
                Answer::Yes => keep(model, Dialog::Worker { name: worker, act, armed_at, yes }),
                Answer::Focus(yes) => keep(model, Dialog::Worker { name: worker, act, armed_at, yes }),
            }
            Vec::new()
        }
        // What runs goes on in the coordinator; the box may be closed.
        Dialog::Planning { .. }
        | Dialog::Running { .. }
        | Dialog::QueueRunning { .. }
        | Dialog::WorkerRunning { .. } => {
            if !matches!(name, "esc" | "q") {
                keep(model, open);
            }
            Vec::new()
        }
        Dialog::Done { .. } | Dialog::Failed { .. } => {
            if !matches!(name, "esc" | "q" | "enter" | "space") {
                keep(model, open);
            }
            Vec::new()
        }
    }
}

/// Leaves a box open.
fn keep(model: &mut Model, dialog: Dialog) {
    model.overlay = Overlay::Dialog(Box::new(dialog));
}

/// What was said to a question with "yes" and "no".
enum Answer {
    Yes,
    No,
    /// Not answered; whether "yes" has the focus now.
    Focus(bool),
}

/// The short question. Anything that is not an answer leaves it open: a stray key must not count as either.
fn choose(name: &str, yes: bool) -> Answer {
    match name {
        "y" => Answer::Yes,
        "enter" if yes => Answer::Yes,
        "enter" | "n" | "esc" | "q" => Answer::No,
        "tab" | "shift-tab" | "left" | "right" | "h" | "l" => Answer::Focus(!yes),
        _ => Answer::Focus(yes),
    }
}

/// The plan is the fixed set: what is run is its number, never the filter or the marks again.
fn preview_key(model: &mut Model, mut preview: Preview, name: &str) -> Vec<Command> {
    let count = preview.plan.will_change;
    if count == 0 {
        // Nothing would change, so there is nothing to confirm.
        if !matches!(name, "esc" | "q" | "n" | "enter") {
            keep(model, Dialog::Preview(preview));
        }
        return Vec::new();
    }
    let answer = match confirm_for(count) {
        Confirm::Choose => choose(name, preview.yes),
        Confirm::Letter => match name {
            "y" => Answer::Yes,
            "n" | "esc" | "q" => Answer::No,
            _ => Answer::Focus(false),
        },
        Confirm::Count => type_count(&mut preview, name),
    };
    match answer {
        Answer::No => {}
        Answer::Yes if ask::may_change(model) => {
            let (ticket, id) = (model.next_ticket(), preview.plan.id);
            keep(model, Dialog::Running { ticket, asked: preview.asked, plan: preview.plan });
            return vec![Command::RunPlan { ticket, id }];
        }
        Answer::Yes => keep(model, Dialog::Preview(preview)),
        Answer::Focus(yes) => {
            preview.yes = yes;
            keep(model, Dialog::Preview(preview));
        }
    }
    Vec::new()
}

/// Only the exact count says yes; commas are taken, since the box shows them.
fn type_count(preview: &mut Preview, name: &str) -> Answer {
    match name {
        "esc" => return Answer::No,
        "backspace" => preview.typed.backspace(),
        "enter" => {
            let typed = preview.typed.text().replace(',', "");
            if typed == preview.plan.will_change.to_string() {
                return Answer::Yes;
            }
            preview.wrong = true;
            return Answer::Focus(false);
        }
        digit if digit.len() == 1 && digit.starts_with(|c: char| c.is_ascii_digit() || c == ',') => {
            digit.chars().for_each(|c| preview.typed.insert(c));
        }
        _ => {}
    }
    preview.wrong = false;
    Answer::Focus(false)
}

/// The coordinator has counted.
pub(super) fn planned(model: &mut Model, ticket: u64, result: Result<Box<Plan>, Box<Problem>>) {
    let Overlay::Dialog(open) = &model.overlay else { return };
    let Dialog::Planning { ticket: waiting, asked } = &**open else { return };
    if *waiting != ticket {
        return;
    }
    let asked = asked.clone();
    let next = match result {
        Ok(plan) => Dialog::Preview(Preview {
            asked,
            plan: *plan,
            armed_at: model.now.ms + ARM_MS,
            yes: false,
            typed: Input::default(),
            wrong: false,
        }),
        Err(problem) => {
            Dialog::Failed { what: format!("{} {}", asked.request.action, asked.selection), problem }
        }
    };
    keep(model, next);
}

/// The coordinator has acted. If the box was closed meanwhile, one line says how it went.
pub(super) fn ran(model: &mut Model, ticket: u64, result: Result<PlanResult, Box<Problem>>) {
    if let Ok(done) = &result
        && done.changed > 0
    {
        model.jobs.marks = super::super::model::Marks::default();
        model.jobs.range = None;
    }
    if let Overlay::Dialog(open) = &model.overlay
        && let Dialog::Running { ticket: waiting, asked, .. } = &**open
        && *waiting == ticket
    {
        let asked = asked.clone();
        let next = match result {
            Ok(result) => Dialog::Done { asked, result },
            Err(problem) => {
                Dialog::Failed { what: format!("{} {}", asked.request.action, asked.selection), problem }
            }
        };
        return keep(model, next);
    }
    match result {
        Ok(done) => {
            model.say(format!("Plan {}: {} changed, {} skipped.", done.id, done.changed, done.skipped));
        }
        Err(problem) => model.complain(one_line(&problem)),
    }
}

/// A queue was paused or resumed.
pub(super) fn queue_set(model: &mut Model, ticket: u64, result: Result<Box<QueueView>, Box<Problem>>) {
    let waiting = matches!(&model.overlay, Overlay::Dialog(open)
        if matches!(&**open, Dialog::QueueRunning { ticket: waiting, .. } if *waiting == ticket));
    match result {
        Ok(queue) => {
            let word = if queue.paused { "paused" } else { "open" };
            model.say(format!("Queue {} is {word}.", super::super::format::text(&queue.name)));
            if waiting {
                model.overlay = Overlay::None;
            }
        }
        Err(problem) if waiting => keep(model, Dialog::Failed { what: "changing the queue".into(), problem }),
        Err(problem) => model.complain(one_line(&problem)),
    }
}

/// A worker was changed.
pub(super) fn worker_set(model: &mut Model, ticket: u64, result: Result<Box<WorkerView>, Box<Problem>>) {
    let waiting = matches!(&model.overlay, Overlay::Dialog(open)
        if matches!(&**open, Dialog::WorkerRunning { ticket: waiting, .. } if *waiting == ticket));
    match result {
        Ok(worker) => {
            let wanted = worker.status.as_ref().map_or(0, |s| s.desired);
            let name = super::super::format::text(&worker.name);
            model.say(format!("Worker {name} shall have {wanted} replicas."));
            if waiting {
                model.overlay = Overlay::None;
            }
        }
        Err(problem) if waiting => {
            keep(model, Dialog::Failed { what: "changing the worker".into(), problem });
        }
        Err(problem) => model.complain(one_line(&problem)),
    }
}

/// A problem as one line: what, and the code.
pub(super) fn one_line(problem: &Problem) -> String {
    super::super::format::text(&format!("{} [{}]", problem.detail, problem.code))
}
