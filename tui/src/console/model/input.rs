//! One line that the user types.

/// Longest input, in characters: longer pastes are cut.
const MOST: usize = 2000;

/// The text and where the next character goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Input {
    text: Vec<char>,
    at: usize,
    /// Which older entry is shown, counted from the newest; none while the user types.
    recalled: Option<usize>,
}

impl Input {
    /// With the cursor after the text.
    pub(in super::super) fn new(text: &str) -> Self {
        let text: Vec<char> = text.chars().take(MOST).collect();
        Self { at: text.len(), text, recalled: None }
    }

    /// The whole line.
    pub(in super::super) fn text(&self) -> String {
        self.text.iter().collect()
    }

    /// The text before the cursor: its width is where the cursor stands.
    pub(in super::super) fn before(&self) -> String {
        self.text[..self.at].iter().collect()
    }

    /// Characters that would act on a terminal are not taken.
    pub(in super::super) fn insert(&mut self, c: char) {
        if self.text.len() < MOST && c != '\n' && c != '\t' && !reeve_protocol::text::is_hostile(c) {
            self.text.insert(self.at, c);
            self.at += 1;
        }
    }

    /// Removes the character before the cursor.
    pub(in super::super) fn backspace(&mut self) {
        if self.at > 0 {
            self.at -= 1;
            self.text.remove(self.at);
        }
    }

    /// Removes the character under the cursor.
    pub(in super::super) fn delete(&mut self) {
        if self.at < self.text.len() {
            self.text.remove(self.at);
        }
    }

    /// As a shell does with ctrl-w: back over spaces, then over a word.
    pub(in super::super) fn delete_word(&mut self) {
        let before = &self.text[..self.at];
        let word_end = before.iter().rposition(|c| *c != ' ').map_or(0, |i| i + 1);
        let from = before[..word_end].iter().rposition(|c| *c == ' ').map_or(0, |i| i + 1);
        self.text.drain(from..self.at);
        self.at = from;
    }

    pub(in super::super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Moves the cursor by characters, as far as there are some.
    pub(in super::super) fn step(&mut self, by: isize) {
        self.at = self.at.saturating_add_signed(by).min(self.text.len());
    }

    pub(in super::super) const fn home(&mut self) {
        self.at = 0;
    }

    pub(in super::super) const fn end(&mut self) {
        self.at = self.text.len();
    }

    /// Replaces the text by an older (or newer) entry of `history`, newest last.
    pub(in super::super) fn recall(&mut self, history: &[String], older: bool) {
        let next = match (self.recalled, older) {
            (None, true) => Some(0),
            (Some(n), true) => Some((n + 1).min(history.len().saturating_sub(1))),
            (None | Some(0), false) => None,
            (Some(n), false) => Some(n - 1),
        };
        let text = next.and_then(|n| history.len().checked_sub(n + 1)).and_then(|i| history.get(i));
        if next.is_some() && text.is_none() {
            return;
        }
        *self = Self { recalled: next, ..Self::new(text.map_or("", String::as_str)) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_edited_as_in_a_shell() {
        let mut input = Input::new("state:failed queue:gpu");
        input.delete_word();
        assert_eq!(input.text(), "state:failed ");
        input.home();
        input.delete();
        input.insert('S');
        assert_eq!((input.text().as_str(), input.before().as_str()), ("State:failed ", "S"));
        input.step(-9);
        input.backspace();
        assert_eq!(input.before(), "");
        input.end();
        input.backspace();
        assert_eq!(input.text(), "State:failed");
    }

    #[test]
    fn nothing_that_acts_on_a_terminal_gets_in_and_a_paste_is_bounded() {
        let mut input = Input::default();
        "a\u{1b}\n\t\u{202e}b".chars().for_each(|c| input.insert(c));
        assert_eq!(input.text(), "ab");
        (0..3 * MOST).for_each(|_| input.insert('x'));
        assert_eq!(input.text().len(), MOST);
    }

    #[test]
    fn older_entries_come_back_and_end_with_an_empty_line() {
        let history = vec!["one".to_owned(), "two".to_owned()];
        let mut input = Input::default();
        let mut seen = Vec::new();
        for older in [true, true, true, false, false] {
            input.recall(&history, older);
            seen.push(input.text());
        }
        assert_eq!(seen, ["two", "one", "one", "two", ""]);
        input.recall(&[], true);
        assert_eq!(input.text(), "");
    }
}
