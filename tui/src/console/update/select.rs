//! Marks: by ids or by the filter.
use super::super::keymap::Action;
use super::super::model::{MOST_MARKS, Marks, Model};
use std::collections::BTreeSet;

/// Marks never change because rows move; only these keys change them.
pub(super) fn mark(model: &mut Model, action: Action) {
    let visible = model.rows_visible();
    let fits = match action {
        Action::Mark => {
            let fits = toggle(model);
            step(model, 1);
            fits
        }
        Action::MarkDown | Action::MarkUp => {
            let fits = set(model);
            step(model, if action == Action::MarkDown { 1 } else { -1 });
            fits && set(model)
        }
        Action::Range => {
            model.jobs.toggle_range();
            true
        }
        Action::MarkAll => {
            mark_all(model);
            true
        }
        Action::Invert => model.jobs.invert(visible),
        _ => {
            unmark(model);
            true
        }
    };
    if !fits {
        model.complain(format!(
            "{MOST_MARKS} marks are the most: filter for what you want, then * marks all that match."
        ));
    }
}

/// Ends a range, else drops the marks. True if there was something to drop.
pub(super) fn unmark(model: &mut Model) -> bool {
    if model.jobs.range.take().is_some() {
        return true;
    }
    let had = !model.jobs.marks.is_empty();
    model.jobs.marks = Marks::default();
    had
}

/// "All" means all that match the filter, wherever they are: the coordinator finds them when a plan is made.
fn mark_all(model: &mut Model) {
    if model.jobs.scope.is_some() {
        return model.say("Go back (h) and mark the array itself: that means all of its tasks.");
    }
    if model.jobs.total() == 0 {
        return model.say("Nothing matches, so there is nothing to mark.");
    }
    model.jobs.range = None;
    model.jobs.marks = Marks::All { filter: model.jobs.filter.clone(), except: BTreeSet::new() };
}

/// A single mark ends a range: from here on the user counts by hand.
fn toggle(model: &mut Model) -> bool {
    let Some(row) = model.jobs.at_cursor().map(|j| (j.id, j.index)) else { return true };
    model.jobs.range = None;
    model.jobs.marks.toggle(row)
}

/// For shift-arrows, which only ever add.
fn set(model: &mut Model) -> bool {
    let Some(row) = model.jobs.at_cursor().map(|j| (j.id, j.index)) else { return true };
    model.jobs.range = None;
    model.jobs.marks.set(row, true)
}

/// To the next row, or the one before.
fn step(model: &mut Model, by: i64) {
    let visible = model.rows_visible();
    let to = model.jobs.position.saturating_add_signed(by);
    model.jobs.move_to(to, visible);
}
