//! Where things go, from the size of the screen alone. Both update (how far is a page?) and draw ask here, so that they
//! cannot disagree.
use super::model::{Model, Screen};
use ratatui::layout::Rect;

/// Below this nothing but the counters fits.
pub(super) const LEAST: (u16, u16) = (40, 8);

/// The common frame, top to bottom.
#[derive(Clone, Copy, Debug)]
pub(super) struct Areas {
    pub(super) tabs: Rect,
    pub(super) counters: Rect,
    /// Filter and sort, or the path to the detail.
    pub(super) crumb: Rect,
    pub(super) body: Rect,
    /// A message, the marks, or an input.
    pub(super) message: Rect,
    pub(super) hints: Rect,
}

/// How much fits side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Width {
    /// 40 to 59.
    Narrow,
    /// 60 to 99.
    Medium,
    /// 100 to 159.
    Wide,
    /// 160 and more.
    Huge,
}

impl Width {
    pub(super) const fn of(columns: u16) -> Self {
        match columns {
            0..60 => Self::Narrow,
            60..100 => Self::Medium,
            100..160 => Self::Wide,
            _ => Self::Huge,
        }
    }
}

/// The frame; none when the screen is too small for any.
pub(super) fn areas(model: &Model) -> Option<Areas> {
    let (width, height) = model.size;
    if width < LEAST.0 || height < LEAST.1 {
        return None;
    }
    let mut left = Rect::new(0, 0, width, height);
    let mut take = |rows: u16| {
        let rows = rows.min(left.height);
        let taken = Rect { height: rows, ..left };
        left.y += rows;
        left.height -= rows;
        taken
    };
    let tabs = take(1);
    let counters = take(u16::from(height >= 16));
    let crumb = take(u16::from(model.detail.is_some() || model.screen == Screen::Jobs));
    let bottom = message_rows(model) + 1;
    let body = take(height.saturating_sub(tabs.height + counters.height + crumb.height + bottom));
    let message = take(bottom - 1);
    let hints = take(1);
    Some(Areas { tabs, counters, crumb, body, message, hints })
}

/// The marks get a box of their own where there is room for it.
pub(super) fn has_bulk_box(model: &Model) -> bool {
    let (width, height) = model.size;
    model.screen == Screen::Jobs
        && model.detail.is_none()
        && !model.jobs.marks.is_empty()
        && Width::of(width) >= Width::Wide
        && height >= 30
}

/// One line for messages is always there: a list that jumps when something is said would move under the cursor.
fn message_rows(model: &Model) -> u16 {
    if has_bulk_box(model) { 3 } else { 1 }
}

/// A list above, and a box about its row below: 0 rows where there is no room.
pub(super) fn list_and_box(body: Rect, width: u16) -> (Rect, Rect) {
    let below = match body.height {
        0..12 => 0,
        12..26 => 6,
        _ => 11,
    };
    let below = if Width::of(width) == Width::Narrow { 0 } else { below };
    split_bottom(body, below)
}

/// Cuts rows off the bottom.
pub(super) fn split_bottom(area: Rect, rows: u16) -> (Rect, Rect) {
    let rows = rows.min(area.height);
    let above = Rect { height: area.height - rows, ..area };
    (above, Rect { y: area.y + above.height, height: rows, ..area })
}

/// Cuts columns off the right.
pub(super) fn split_right(area: Rect, columns: u16) -> (Rect, Rect) {
    let columns = columns.min(area.width);
    let left = Rect { width: area.width - columns, ..area };
    (left, Rect { x: area.x + left.width, width: columns, ..area })
}

/// Summary, attempts and log of a job. At medium width there are no attempts, at small height no summary.
pub(super) fn detail(body: Rect) -> (Rect, Rect, Rect) {
    let top = match body.height {
        0..10 => 0,
        10..24 => 7,
        _ => 13,
    };
    let above = Rect { height: top, ..body };
    let log = Rect { y: body.y + top, height: body.height - top, ..body };
    let columns = if Width::of(body.width) >= Width::Wide { body.width / 2 + 2 } else { 0 };
    let (summary, attempts) = split_right(above, columns);
    (summary, attempts, log)
}

/// Whether the overview has room for more than the queues. Rows that are not shown cannot be under the cursor.
pub(super) fn overview_has_alerts(model: &Model) -> bool {
    areas(model).is_some_and(|a| a.body.height >= 10)
}

/// The rows inside a box.
pub(super) const fn inside(area: Rect) -> u16 {
    area.height.saturating_sub(2)
}

/// How many rows of the list on the screen (or lines of the text in a detail) are visible at once.
pub(super) fn list_rows(model: &Model) -> u16 {
    let Some(areas) = areas(model) else { return 1 };
    let rows = if let Some(open) = &model.detail {
        match open.tab {
            super::model::Tab::Summary => inside(detail(areas.body).2),
            super::model::Tab::Log | super::model::Tab::Spec => inside(areas.body),
        }
    } else {
        match model.screen {
            Screen::Jobs => inside(areas.body).saturating_sub(2),
            Screen::Queues | Screen::Machines | Screen::Workers => {
                inside(list_and_box(areas.body, model.size.0).0).saturating_sub(1)
            }
            Screen::Overview | Screen::Events | Screen::Operations => 10,
        }
    };
    rows.max(1)
}

/// A box in the middle, no larger than the screen.
pub(super) fn centred(screen: Rect, width: u16, height: u16) -> Rect {
    let (width, height) = (width.min(screen.width), height.min(screen.height));
    Rect {
        x: screen.x + (screen.width - width) / 2,
        y: screen.y + (screen.height - height) / 2,
        width,
        height,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::tests::fixtures;

    #[test]
    fn the_frame_fills_the_screen_exactly_at_every_size() {
        for width in 0..170 {
            for height in 0..50 {
                let mut model = fixtures::live();
                for screen in Screen::ALL {
                    (model.screen, model.size) = (screen, (width, height));
                    let Some(a) = areas(&model) else {
                        assert!(width < LEAST.0 || height < LEAST.1);
                        continue;
                    };
                    let parts = [a.tabs, a.counters, a.crumb, a.body, a.message, a.hints];
                    assert_eq!(parts.iter().map(|r| r.height).sum::<u16>(), height);
                    assert!(parts.iter().all(|r| r.width == width && r.bottom() <= height));
                    assert!(a.body.height >= 3, "{width}x{height}");
                }
            }
        }
    }

    #[test]
    fn the_breakpoints_are_those_of_the_design() {
        for (columns, wanted) in [
            (40, Width::Narrow),
            (59, Width::Narrow),
            (60, Width::Medium),
            (99, Width::Medium),
            (100, Width::Wide),
            (160, Width::Huge),
        ] {
            assert_eq!(Width::of(columns), wanted, "{columns}");
        }
    }
}
