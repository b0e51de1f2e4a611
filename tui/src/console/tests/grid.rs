//! A picture as text: the characters, then every run of cells whose style is not plain. A highlight that moves or
//! vanishes is a difference, which the text alone would not show.
use crate::console::model::Model;
use crate::console::view::draw;
use ratatui::buffer::{Buffer, Cell};
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier};
use std::fmt::Write;

/// The whole screen.
pub(super) fn picture(model: &Model) -> String {
    let mut buffer = Buffer::empty(Rect::new(0, 0, model.size.0, model.size.1));
    let cursor = draw(model, &mut buffer);
    let mut out = text(&buffer);
    if let Some(at) = cursor {
        let _ = writeln!(out, "cursor {}:{}", at.y, at.x);
    }
    styles(&buffer, &mut out);
    out
}

/// The characters alone.
pub(super) fn text(buffer: &Buffer) -> String {
    let mut out = String::new();
    for y in 0..buffer.area.height {
        let mut line = String::new();
        let mut skip = 0;
        for x in 0..buffer.area.width {
            if skip > 0 {
                skip -= 1;
                continue;
            }
            let symbol = buffer[(x, y)].symbol();
            skip = crate::console::format::columns(symbol).saturating_sub(1);
            line.push_str(symbol);
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

fn styles(buffer: &Buffer, out: &mut String) {
    for y in 0..buffer.area.height {
        let mut runs: Vec<(u16, u16, String)> = Vec::new();
        for x in 0..buffer.area.width {
            let name = style(&buffer[(x, y)]);
            match runs.last_mut() {
                Some((_, to, last)) if *last == name => *to = x,
                _ => runs.push((x, x, name)),
            }
        }
        runs.retain(|(_, _, name)| !name.is_empty());
        if !runs.is_empty() {
            let runs: Vec<String> =
                runs.iter().map(|(from, to, name)| format!("{from}-{to} {name}")).collect();
            let _ = writeln!(out, "{y:>2}: {}", runs.join(", "));
        }
    }
}

fn style(cell: &Cell) -> String {
    // A blank without reversal looks the same in any style.
    if cell.symbol() == " " && !cell.modifier.contains(Modifier::REVERSED) {
        return String::new();
    }
    let mut words = Vec::new();
    if cell.fg != Color::Reset {
        words.push(cell.fg.to_string().to_lowercase());
    }
    for (modifier, word) in
        [(Modifier::BOLD, "bold"), (Modifier::DIM, "dim"), (Modifier::REVERSED, "reversed")]
    {
        if cell.modifier.contains(modifier) {
            words.push(word.to_owned());
        }
    }
    words.join("+")
}
