//! A table of the rows that are visible: columns with a fixed width, columns that share what is left, and columns that
//! appear only on wider screens.
use super::super::format;
use super::super::layout::Width;
use super::super::theme::Role;
use super::paint::Painter;
use ratatui::layout::Rect;

/// A column.
#[derive(Clone, Copy)]
pub(super) struct Column {
    head: &'static str,
    /// 0: shares what the others leave.
    width: u16,
    right: bool,
    /// Not on narrower screens.
    from: Width,
}

/// A column of words.
pub(super) const fn left(head: &'static str, width: u16, from: Width) -> Column {
    Column { head, width, right: false, from }
}

/// A column of numbers.
pub(super) const fn right(head: &'static str, width: u16, from: Width) -> Column {
    Column { head, width, right: true, from }
}

/// A row: what stands before it, its cells, one per column (also those not shown), and how it is emphasised.
#[derive(Default)]
pub(super) struct Row {
    pub(super) at_cursor: bool,
    pub(super) marked: bool,
    /// Needs attention.
    pub(super) attention: bool,
    pub(super) cells: Vec<(String, Option<Role>)>,
}

impl Row {
    /// Adds a cell.
    pub(super) fn cell(mut self, text: impl Into<String>) -> Self {
        self.cells.push((text.into(), None));
        self
    }

    /// Adds a cell with a role of its own.
    pub(super) fn role(mut self, text: impl Into<String>, role: Role) -> Self {
        self.cells.push((text.into(), Some(role)));
        self
    }
}

/// Columns before the first cell: the cursor, the mark, a space.
const LEAD: u16 = 3;

/// Draws the head and the rows.
pub(super) fn draw(p: &mut Painter<'_>, area: Rect, screen: Width, columns: &[Column], rows: &[Row]) {
    // One column stays free, so that right-aligned numbers do not touch the border.
    let area = Rect { width: area.width.saturating_sub(1), ..area };
    let shown = shown(area.width, screen, columns);
    let (widths, gap) = widths(area.width, columns, &shown);
    let mut x = LEAD;
    for (index, width) in shown.iter().zip(&widths) {
        let column = &columns[*index];
        p.at(area, 0, x, &[(&aligned(column.head, *width, column.right), Role::Head)]);
        x += width + gap;
    }
    for (at, row) in rows.iter().enumerate() {
        let y = at as u16 + 1;
        let base = if row.marked { Role::Marked } else { Role::Plain };
        let sign = match (row.marked, row.attention) {
            (true, _) => "*",
            (false, true) => "!",
            (false, false) => " ",
        };
        let pointer = if row.at_cursor { ">" } else { " " };
        p.line(area, y, &[(pointer, Role::Head), (sign, if row.marked { base } else { Role::Warn })]);
        let mut x = LEAD;
        for (index, width) in shown.iter().zip(&widths) {
            if let Some((text, role)) = row.cells.get(*index) {
                let text = aligned(text, *width, columns[*index].right);
                p.at(area, y, x, &[(&text, role.unwrap_or(base))]);
            }
            x += width + gap;
        }
        if row.at_cursor {
            p.highlight(area, y, Role::Cursor);
        }
    }
}

/// Which columns are shown: those of this screen, less some while the sharing columns would starve. Columns of the widest
/// screens go first, the last one of them before the others; sharing columns hold names and results and go last.
fn shown(total: u16, screen: Width, columns: &[Column]) -> Vec<usize> {
    let mut shown: Vec<usize> = (0..columns.len()).filter(|i| screen >= columns[*i].from).collect();
    loop {
        let starving =
            shown.iter().zip(widths(total, columns, &shown).0).any(|(i, w)| columns[*i].width == 0 && w < 10);
        let spare = (0..shown.len())
            .filter(|at| columns[shown[*at]].from > Width::Narrow)
            .max_by_key(|at| (columns[shown[*at]].width > 0, columns[shown[*at]].from, *at));
        match (starving, spare) {
            (true, Some(at)) => drop(shown.remove(at)),
            _ => return shown,
        }
    }
}

/// The width of each shown column, and the gap between them: two columns where the sharing ones keep room, else one.
fn widths(total: u16, columns: &[Column], shown: &[usize]) -> (Vec<u16>, u16) {
    let fixed: u16 = shown.iter().map(|i| columns[*i].width).sum();
    let sharing = shown.iter().filter(|i| columns[**i].width == 0).count() as u16;
    let gaps = (shown.len() as u16).saturating_sub(1);
    let left = |gap: u16| total.saturating_sub(LEAD + fixed + gaps * gap);
    let gap = if left(2) >= sharing * 20 { 2 } else { 1 };
    let (each, mut more) = match left(gap).checked_div(sharing) {
        Some(each) => (each, left(gap) % sharing),
        None => (0, 0),
    };
    let widths = shown.iter().map(|i| match columns[*i].width {
        0 => {
            let extra = u16::from(more > 0);
            more -= extra;
            each + extra
        }
        width => width,
    });
    (widths.collect(), gap)
}

/// Exactly `width` columns, whatever the text.
fn aligned(text: &str, width: u16, right: bool) -> String {
    let text = format::fit(text, usize::from(width));
    let space = " ".repeat(usize::from(width).saturating_sub(format::columns(&text)));
    if right { space + &text } else { text + &space }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 4] = [
        left("ID", 8, Width::Narrow),
        left("NAME", 0, Width::Narrow),
        right("AGE", 8, Width::Wide),
        left("RESULT", 0, Width::Medium),
    ];

    #[test]
    fn sharing_columns_take_exactly_what_is_left() {
        for total in 0..200u16 {
            for shown in [vec![0, 1], vec![0, 1, 3], vec![0, 1, 2, 3], vec![0, 2], vec![]] {
                let (widths, gap) = widths(total, &COLUMNS, &shown);
                let gaps = (shown.len() as u16).saturating_sub(1) * gap;
                let used = LEAD + widths.iter().sum::<u16>() + gaps;
                let shares = shown.iter().any(|i| COLUMNS[*i].width == 0);
                assert!(!shares || used == total || widths.contains(&0), "{total} {shown:?} {widths:?}");
            }
        }
    }

    #[test]
    fn columns_of_wider_screens_make_room_before_results_do() {
        for (total, wanted) in
            [(60, vec![0, 1, 2, 3]), (40, vec![0, 1, 3]), (25, vec![0, 1]), (0, vec![0, 1])]
        {
            assert_eq!(shown(total, Width::Wide, &COLUMNS), wanted, "{total}");
        }
    }

    #[test]
    fn cells_are_cut_and_padded_in_columns_not_in_characters() {
        assert_eq!(aligned("日本", 5, false), "日本 ");
        assert_eq!(aligned("日本語", 5, true), "日本~");
        assert_eq!(aligned("9", 3, true), "  9");
    }
}
