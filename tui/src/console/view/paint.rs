//! Putting text on the screen: clipped, measured in columns, in roles instead of colours.
use super::super::format;
use super::super::theme::{Role, Theme};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};

/// The buffer and the theme.
pub(super) struct Painter<'a> {
    buffer: &'a mut Buffer,
    pub(super) theme: Theme,
}

impl<'a> Painter<'a> {
    pub(super) const fn new(buffer: &'a mut Buffer, theme: Theme) -> Self {
        Self { buffer, theme }
    }

    /// Writes pieces one after the other into a row of an area. What does not fit is cut, and the cut is marked.
    pub(super) fn line(&mut self, area: Rect, row: u16, parts: &[(&str, Role)]) {
        self.at(area, row, 0, parts);
    }

    /// As [`Painter::line`], some columns in. Gives the column after the text.
    pub(super) fn at(&mut self, area: Rect, row: u16, column: u16, parts: &[(&str, Role)]) -> u16 {
        let mut column = column;
        if row >= area.height {
            return column;
        }
        for (text, role) in parts {
            let left = usize::from(area.width.saturating_sub(column));
            let text = format::fit(text, left);
            self.put(area.x + column.min(area.width), area.y + row, &text, *role);
            column = column.saturating_add(format::columns(&text) as u16);
        }
        column
    }

    /// Writes pieces so that they end at the right edge of a row.
    pub(super) fn right(&mut self, area: Rect, row: u16, parts: &[(&str, Role)]) {
        let wide: usize = parts.iter().map(|(text, _)| format::columns(text)).sum();
        let column = usize::from(area.width).saturating_sub(wide);
        self.at(area, row, column as u16, parts);
    }

    /// Draws a box with a title and gives what is inside.
    pub(super) fn frame(&mut self, area: Rect, title: &str) -> Rect {
        if area.width < 2 || area.height < 2 {
            return Rect { width: 0, height: 0, ..area };
        }
        let t = self.theme;
        let flat = t.pick("─", "-").repeat(usize::from(area.width - 2));
        let (wall, right, bottom) = (t.pick("│", "|"), area.right() - 1, area.bottom() - 1);
        let ends =
            [(area.y, t.pick("┌", "+"), t.pick("┐", "+")), (bottom, t.pick("└", "+"), t.pick("┘", "+"))];
        for (y, left_end, right_end) in ends {
            self.put(area.x, y, left_end, Role::Dim);
            self.put(area.x + 1, y, &flat, Role::Dim);
            self.put(right, y, right_end, Role::Dim);
        }
        for y in area.y + 1..bottom {
            self.put(area.x, y, wall, Role::Dim);
            self.put(right, y, wall, Role::Dim);
        }
        if !title.is_empty() && area.width > 6 {
            let title = format!(" {} ", format::fit(title, usize::from(area.width - 6)));
            self.put(area.x + 2, area.y, &title, Role::Head);
        }
        Rect { x: area.x + 1, y: area.y + 1, width: area.width - 2, height: area.height - 2 }
    }

    /// A box that covers what was there.
    pub(super) fn popup(&mut self, area: Rect, title: &str) -> Rect {
        for y in area.top()..area.bottom() {
            for x in area.left()..area.right() {
                if let Some(cell) = self.buffer.cell_mut((x, y)) {
                    cell.reset();
                }
            }
        }
        self.frame(area, title)
    }

    /// The row under the cursor: its style covers the whole width.
    pub(super) fn highlight(&mut self, area: Rect, row: u16, role: Role) {
        if row < area.height {
            let style = self.theme.style(role);
            self.buffer.set_style(Rect { y: area.y + row, height: 1, ..area }, style);
        }
    }

    /// Adds to what is there, for example dims a picture that is old.
    pub(super) fn modify(&mut self, area: Rect, modifier: Modifier) {
        self.buffer.set_style(area, Style::new().add_modifier(modifier));
    }

    /// Sentences in the middle of an area: the first one stands out.
    pub(super) fn notice(&mut self, area: Rect, lines: &[String]) {
        let top = area.height.saturating_sub(lines.len() as u16) / 3;
        for (at, line) in lines.iter().enumerate() {
            let role = if at == 0 { Role::Head } else { Role::Plain };
            self.at(area, top + at as u16, 2, &[(line, role)]);
        }
    }

    /// The one place that writes text. Outside of the buffer it does nothing, so that no layout can panic.
    fn put(&mut self, x: u16, y: u16, text: &str, role: Role) {
        if self.buffer.area.contains((x, y).into()) {
            // Reset first: a style only adds to what the cell had, and titles stand on dim borders.
            let style = Style::reset().patch(self.theme.style(role));
            self.buffer.set_stringn(x, y, text, usize::MAX, style);
        }
    }
}

/// An area without its first and last column.
pub(super) const fn padded(area: Rect) -> Rect {
    if area.width < 3 { area } else { Rect { x: area.x + 1, width: area.width - 2, ..area } }
}

/// Breaks sentences into rows of at most `width` columns, at spaces where there are some.
pub(super) fn wrapped(text: &str, width: usize) -> Vec<String> {
    let width = width.max(1);
    let mut rows = vec![String::new()];
    for word in text.split(' ') {
        let mut word = word.to_owned();
        while let Some(row) = rows.last_mut() {
            let gap = usize::from(!row.is_empty());
            if format::columns(row) + gap + format::columns(&word) <= width {
                row.push_str(if gap == 1 { " " } else { "" });
                row.push_str(&word);
                break;
            }
            if !row.is_empty() {
                rows.push(String::new());
                continue;
            }
            // A word longer than the row: cut it where the row ends, at least one character in.
            let (mut end, mut used) = (0, 0);
            for (at, c) in word.char_indices() {
                used += unicode_width::UnicodeWidthChar::width(c).unwrap_or(0);
                if used > width && end > 0 {
                    break;
                }
                end = at + c.len_utf8();
            }
            let rest = word.split_off(end);
            *row = std::mem::replace(&mut word, rest);
            if word.is_empty() {
                break;
            }
            rows.push(String::new());
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_break_at_spaces_and_long_words_where_they_must() {
        for (text, width, wanted) in [
            ("one two three", 7, vec!["one two", "three"]),
            ("abcdefgh", 3, vec!["abc", "def", "gh"]),
            ("ab cdefgh", 3, vec!["ab", "cde", "fgh"]),
            ("日本語", 3, vec!["日", "本", "語"]),
            ("日", 1, vec!["日"]),
            ("", 5, vec![""]),
        ] {
            assert_eq!(wrapped(text, width), wanted, "{text} {width}");
        }
    }
}
