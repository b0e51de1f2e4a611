//! Plain tables: aligned with spaces, cut to the terminal's width on a terminal only.
use reeve_protocol::State;
use reeve_protocol::text::Clean;
use unicode_width::UnicodeWidthStr;

/// Spaces between columns.
const GAP: usize = 2;
/// A column is not cut narrower than this.
const NARROWEST: usize = 6;

/// One cell: clean by its type.
#[derive(Clone, Debug, Default)]
pub struct Cell {
    text: Clean,
    paint: Option<&'static str>,
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self { text: Clean::line(text), paint: None }
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        text.as_str().into()
    }
}

impl From<State> for Cell {
    fn from(state: State) -> Self {
        Self { text: Clean::line(state.as_str()), paint: paint(state) }
    }
}

/// The colour of a state, as the parameters of SGR.
pub fn paint(state: State) -> Option<&'static str> {
    match state {
        State::Queued => None,
        State::Running => Some("36"),
        State::Completed => Some("32"),
        State::Failed => Some("31"),
        State::Cancelled => Some("33"),
    }
}

/// A word with its state's colour, if colours are wanted.
pub fn painted(state: State, color: bool) -> String {
    match paint(state) {
        Some(code) if color => format!("\u{1b}[{code}m{state}\u{1b}[0m"),
        _ => state.to_string(),
    }
}

/// How one column is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// Rows under a head.
#[derive(Debug)]
pub struct Table {
    head: Vec<(&'static str, Align)>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// An empty table. A `>` before a title aligns its column to the right.
    pub fn new(titles: &[&'static str]) -> Self {
        let head = titles
            .iter()
            .map(|t| t.strip_prefix('>').map_or((*t, Align::Left), |rest| (rest, Align::Right)))
            .collect();
        Self { head, rows: Vec::new() }
    }

    /// Adds a row; missing cells are empty.
    pub fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The text, each line ended. `width` is the terminal's, if there is one.
    pub fn render(&self, width: Option<usize>, color: bool) -> String {
        let widths = self.widths(width);
        let mut out = String::new();
        let head: Vec<Cell> = self.head.iter().map(|(title, _)| Cell::from(*title)).collect();
        for row in std::iter::once(&head).chain(&self.rows) {
            self.line(row, &widths, color, &mut out);
        }
        out
    }

    fn widths(&self, limit: Option<usize>) -> Vec<usize> {
        let mut widths: Vec<usize> = self.head.iter().map(|(title, _)| title.width()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.text.as_str().width());
            }
        }
        let gaps = GAP * widths.len().saturating_sub(1);
        // The widest column gives way, so that a long command costs no other column its text.
        while let Some(limit) = limit
            && widths.iter().sum::<usize>() + gaps > limit
            && let Some(widest) = widths.iter_mut().max()
            && *widest > NARROWEST
        {
            *widest -= 1;
        }
        widths
    }

    fn line(&self, row: &[Cell], widths: &[usize], color: bool, out: &mut String) {
        let last = row.iter().rposition(|cell| !cell.text.as_str().is_empty()).unwrap_or(0);
        for (at, (cell, width)) in row.iter().zip(widths).take(last + 1).enumerate() {
            if at > 0 {
                out.push_str("  ");
            }
            let text = fit(cell.text.as_str(), *width);
            let pad = " ".repeat(width - text.width());
            let right = self.head.get(at).is_some_and(|(_, align)| *align == Align::Right);
            if right {
                out.push_str(&pad);
            }
            match cell.paint.filter(|_| color) {
                Some(code) => out.extend(["\u{1b}[", code, "m", &text, "\u{1b}[0m"]),
                None => out.push_str(&text),
            }
            if !right && at < last {
                out.push_str(&pad);
            }
        }
        out.push('\n');
    }
}

/// The text in at most `width` columns; what is cut is marked.
fn fit(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut out = String::new();
    for c in text.chars() {
        let next = unicode_width::UnicodeWidthChar::width(c).unwrap_or(0);
        if out.width() + next + 1 > width {
            break;
        }
        out.push(c);
    }
    out.push('~');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Table {
        let mut table = Table::new(&[">ID", "STATE", "NAME"]);
        table.row(["7".into(), State::Running.into(), "a rather long name of a job".into()]);
        table.row(["1004".into(), State::Failed.into(), "x".into()]);
        table
    }

    #[test]
    fn columns_are_aligned_and_no_line_ends_in_spaces() {
        let wanted = "  ID  STATE    NAME\n   7  RUNNING  a rather long name of a job\n1004  FAILED   x\n";
        assert_eq!(sample().render(None, false), wanted);
    }

    #[test]
    fn the_widest_column_gives_way_to_the_terminal() {
        let text = sample().render(Some(30), false);
        assert!(text.contains("a rather long ~\n"), "{text}");
        assert!(text.lines().all(|line| line.width() <= 30), "{text}");
    }

    #[test]
    fn colour_changes_no_width_and_only_when_wanted() {
        let text = sample().render(None, true);
        assert!(text.contains("\u{1b}[36mRUNNING\u{1b}[0m  a rather"), "{text:?}");
        assert!(!sample().render(None, false).contains('\u{1b}'));
    }

    #[test]
    fn hostile_text_is_shown_and_not_obeyed() {
        let mut table = Table::new(&["NAME"]);
        table.row(["a\u{1b}[2Jb\n".into()]);
        assert!(!table.render(None, true).contains('\u{1b}'));
        assert_eq!(table.render(None, true).lines().count(), 2);
    }

    #[test]
    fn wide_characters_are_cut_by_columns() {
        assert_eq!(fit("日本語テスト", 7), "日本語~");
        assert_eq!(fit("abc", 3), "abc");
    }
}
