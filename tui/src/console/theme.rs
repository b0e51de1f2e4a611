//! How things look: the terminal's own 16 colours, never a background, and everything that a colour says is also said
//! by a word, a glyph or an attribute.
use ratatui::style::{Color, Modifier, Style};
use reeve_protocol::api::JobView;
use reeve_protocol::{State, Substate};

/// What the terminal can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Theme {
    pub(super) color: bool,
    pub(super) ascii: bool,
}

/// What a piece of text is, from which its style follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Plain,
    /// Less important.
    Dim,
    /// Column heads and titles.
    Head,
    /// The selected tab.
    Selected,
    /// A key in a hint.
    Key,
    /// The row under the cursor.
    Cursor,
    /// A marked row.
    Marked,
    Good,
    Bad,
    Warn,
    Busy,
}

impl Theme {
    /// The style of a role.
    pub(super) fn style(self, role: Role) -> Style {
        let plain = Style::new();
        let style = match role {
            Role::Plain | Role::Good | Role::Busy | Role::Warn => plain,
            Role::Dim => plain.add_modifier(Modifier::DIM),
            Role::Head | Role::Key | Role::Bad | Role::Marked => plain.add_modifier(Modifier::BOLD),
            Role::Selected | Role::Cursor => plain.add_modifier(Modifier::REVERSED),
        };
        if !self.color {
            return style;
        }
        match role {
            Role::Good => style.fg(Color::Green),
            Role::Bad => style.fg(Color::Red),
            Role::Warn => style.fg(Color::Yellow),
            Role::Busy | Role::Key => style.fg(Color::Cyan),
            Role::Marked => style.fg(Color::Magenta),
            Role::Plain | Role::Dim | Role::Head | Role::Selected | Role::Cursor => style,
        }
    }

    /// One of two spellings of the same sign.
    pub(super) const fn pick(self, utf8: &'static str, ascii: &'static str) -> &'static str {
        if self.ascii { ascii } else { utf8 }
    }

    /// The glyph, word and role of a job's state. The word is the substate where that says more.
    pub(super) fn state(self, job: &JobView) -> (&'static str, &'static str, Role) {
        self.state_of(job.state, job.substate)
    }

    /// As [`Theme::state`].
    pub(super) fn state_of(
        self,
        state: State,
        substate: Option<Substate>,
    ) -> (&'static str, &'static str, Role) {
        match (state, substate) {
            (State::Queued, Some(Substate::Held)) => (self.pick("‖", "="), "held", Role::Dim),
            (State::Queued, Some(Substate::Blocked)) => (self.pick("·", "."), "blocked", Role::Plain),
            (State::Queued, Some(Substate::Delayed)) => (self.pick("·", "."), "delayed", Role::Plain),
            (State::Queued, Some(Substate::Retrying)) => (self.pick("↻", "r"), "retrying", Role::Warn),
            (State::Queued, Some(Substate::Assigned)) => ("~", "assigned", Role::Busy),
            (State::Queued, _) => (self.pick("·", "."), "queued", Role::Plain),
            (State::Running, Some(Substate::Preparing)) => ("~", "preparing", Role::Busy),
            (State::Running, Some(Substate::Unconfirmed)) => ("?", "unconfirmed", Role::Warn),
            (State::Running, Some(Substate::Cancelling)) => (self.pick("–", "-"), "cancelling", Role::Warn),
            (State::Running, _) => (self.pick("►", ">"), "running", Role::Busy),
            (State::Completed, _) => (self.pick("✓", "+"), "completed", Role::Good),
            (State::Failed, _) => (self.pick("✗", "x"), "failed", Role::Bad),
            (State::Cancelled, _) => (self.pick("–", "-"), "cancelled", Role::Dim),
        }
    }

    /// The word and role of a machine's state: trouble is spelt in capitals.
    pub(super) fn machine(state: &str) -> (String, Role) {
        match state {
            "up" => ("up".into(), Role::Good),
            "lost" => ("LOST".into(), Role::Bad),
            "disconnected" => ("DISCONNECTED".into(), Role::Warn),
            "offline" => ("offline".into(), Role::Dim),
            other => (super::format::text(other), Role::Warn),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every state with every substate that goes with it.
    fn shown(theme: Theme) -> Vec<(&'static str, &'static str)> {
        let mut all = Vec::new();
        for state in State::ALL {
            for substate in Substate::ALL {
                let (glyph, word, _) = theme.state_of(state, Some(substate));
                all.push((glyph, word));
            }
        }
        all.sort_unstable();
        all.dedup();
        all
    }

    #[test]
    fn every_state_is_told_apart_by_its_word_alone() {
        for ascii in [false, true] {
            let shown = shown(Theme { color: false, ascii });
            let mut words: Vec<_> = shown.iter().map(|(_, word)| *word).collect();
            words.sort_unstable();
            words.dedup();
            assert_eq!(words.len(), shown.len(), "{shown:?}");
            assert!(shown.iter().all(|(glyph, _)| unicode_width::UnicodeWidthStr::width(*glyph) == 1));
            assert!(!ascii || shown.iter().all(|(glyph, _)| glyph.is_ascii()), "{shown:?}");
        }
    }

    #[test]
    fn without_colour_no_style_has_one_and_no_theme_sets_a_background() {
        use Role::{Bad, Busy, Cursor, Dim, Good, Head, Key, Marked, Plain, Selected, Warn};
        for role in [Plain, Dim, Head, Selected, Key, Cursor, Marked, Good, Bad, Warn, Busy] {
            let bare = Theme { color: false, ascii: true }.style(role);
            assert_eq!((bare.fg, bare.bg), (None, None), "{role:?}");
            assert_eq!(Theme { color: true, ascii: true }.style(role).bg, None, "{role:?}");
        }
    }
}
