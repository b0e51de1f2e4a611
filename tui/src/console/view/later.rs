//! The screens that come with a later version: they say so, and what helps now.
use super::super::model::{Model, Screen};
use super::paint::Painter;
use ratatui::layout::Rect;

pub(super) fn draw(model: &Model, p: &mut Painter<'_>, area: Rect) {
    let (what, now) = match model.screen {
        Screen::Events => (
            "The list of events comes with a later version of the console.",
            "Now:  reeve events -f    follows what happens, one line each",
        ),
        _ => (
            "The list of bulk operations comes with a later version of the console.",
            "Now:  reeve bulk ACTION -f FILTER    or mark jobs on screen 3 and press X or R",
        ),
    };
    let inner = p.frame(area, model.screen.title());
    p.notice(inner, &[what.to_owned(), String::new(), now.to_owned()]);
}
