//! The terminal: taken with [`Screen::enter`], and given back whatever happens (return, error, panic, suspend).
//!
//! Frames are put together here and not by ratatui's own `Terminal`: that one asks the terminal where its cursor is
//! whenever the size changes, and the answer would have to be fished out of the keys.
use super::model::Model;
use super::view;
use crossterm::clipboard::CopyToClipboard;
use crossterm::cursor::{Hide, MoveTo, Show};
use crossterm::event::{DisableBracketedPaste, EnableBracketedPaste};
use crossterm::style::{Attribute, SetAttribute};
use crossterm::terminal::{
    BeginSynchronizedUpdate, Clear, ClearType, EndSynchronizedUpdate, EnterAlternateScreen,
    LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use crossterm::{Command, QueueableCommand};
use ratatui::backend::{Backend, CrosstermBackend};
use ratatui::buffer::Buffer;
use ratatui::layout::{Position, Rect};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether the terminal is ours at the moment: what gives it back may run twice, also from a panic.
static TAKEN: AtomicBool = AtomicBool::new(false);
/// The hook stays for the life of the process; it does nothing while the terminal is not ours.
static HOOK: Once = Once::new();

/// The terminal while the console has it.
pub(super) struct Screen {
    out: File,
    /// What the terminal shows.
    shown: Buffer,
    cursor: Option<Position>,
}

impl Screen {
    /// Takes the terminal.
    pub(super) fn enter() -> io::Result<Self> {
        HOOK.call_once(|| {
            let before = std::panic::take_hook();
            // The message of a panic must not be painted over the screen and vanish with it.
            std::panic::set_hook(Box::new(move |info| {
                leave();
                before(info);
            }));
        });
        // The theme decides about colours. crossterm's own NO_COLOR would write bare resets that end reverse video.
        crossterm::style::force_color_output(true);
        // Unbuffered: one frame is one write.
        let out = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        let mut screen = Self { out, shown: Buffer::empty(Rect::ZERO), cursor: None };
        screen.take()?;
        Ok(screen)
    }

    /// Takes the terminal again after [`leave`].
    pub(super) fn take(&mut self) -> io::Result<()> {
        enable_raw_mode()?;
        TAKEN.store(true, Ordering::SeqCst);
        let mut bytes = Vec::new();
        bytes.queue(EnterAlternateScreen)?.queue(EnableBracketedPaste)?.queue(Hide)?;
        self.out.write_all(&bytes)?;
        self.forget();
        Ok(())
    }

    /// The next frame is painted in full.
    pub(super) fn forget(&mut self) {
        self.shown = Buffer::empty(Rect::ZERO);
    }

    /// Shows the model: only the cells that differ, in one write that the terminal shows at once.
    pub(super) fn paint(&mut self, model: &Model) -> io::Result<()> {
        let (width, height) = model.size;
        if width == 0 || height == 0 {
            return Ok(());
        }
        let bytes = self.frame(model, Rect::new(0, 0, width, height))?;
        if bytes.is_empty() { Ok(()) } else { self.out.write_all(&bytes) }
    }

    /// The bytes of the next frame; none when nothing would change.
    fn frame(&mut self, model: &Model, area: Rect) -> io::Result<Vec<u8>> {
        let mut next = Buffer::empty(area);
        let cursor = view::draw(model, &mut next);
        let mut bytes = Vec::with_capacity(4096);
        bytes.queue(BeginSynchronizedUpdate)?.queue(Hide)?;
        let empty = bytes.len();
        if self.shown.area != area {
            bytes.queue(SetAttribute(Attribute::Reset))?.queue(Clear(ClearType::All))?;
            self.shown = Buffer::empty(area);
        }
        let changes = self.shown.diff(&next);
        if !changes.is_empty() {
            CrosstermBackend::new(&mut bytes).draw(changes.into_iter())?;
        }
        if bytes.len() == empty && cursor == self.cursor {
            return Ok(Vec::new());
        }
        if let Some(at) = cursor {
            bytes.queue(MoveTo(at.x, at.y))?.queue(Show)?;
        }
        bytes.queue(EndSynchronizedUpdate)?;
        (self.shown, self.cursor) = (next, cursor);
        Ok(bytes)
    }

    /// Asks the terminal to put text on the clipboard (OSC 52, which also works through ssh).
    pub(super) fn copy(&mut self, text: &str) -> io::Result<()> {
        let mut code = String::new();
        CopyToClipboard::to_clipboard_from(text)
            .write_ansi(&mut code)
            .map_err(|_| io::Error::other("formatting an escape sequence"))?;
        self.out.write_all(code.as_bytes())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        leave();
    }
}

/// Gives the terminal back. Failures are not reported: there is nobody left to show them to, and every step is worth
/// trying.
pub(super) fn leave() {
    if !TAKEN.swap(false, Ordering::SeqCst) {
        return;
    }
    let mut bytes = Vec::new();
    let queued = bytes
        .queue(EndSynchronizedUpdate)
        .and_then(|b| b.queue(SetAttribute(Attribute::Reset)))
        .and_then(|b| b.queue(DisableBracketedPaste))
        .and_then(|b| b.queue(Show))
        .and_then(|b| b.queue(LeaveAlternateScreen))
        .map(|_| ());
    if queued.is_ok() {
        let mut out = io::stdout();
        let _ = out.write_all(&bytes).and_then(|()| out.flush());
    }
    let _ = disable_raw_mode();
}

/// Gives the terminal back, stops this process until it is continued in the foreground, and takes the terminal again.
pub(super) fn suspend(screen: &mut Screen) -> io::Result<()> {
    leave();
    loop {
        // SIGSTOP and not SIGTSTP: a stop signal that one sends to oneself is lost in an orphaned process group.
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::STOP)?;
        if in_foreground() {
            break;
        }
    }
    screen.take()
}

/// Whether the terminal listens to us. Without a controlling terminal there is nothing to wait for.
fn in_foreground() -> bool {
    rustix::termios::tcgetpgrp(io::stdin()).map_or(true, |group| group == rustix::process::getpgrp())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::tests::fixtures;

    fn screen() -> Screen {
        let out = File::options().write(true).open("/dev/null").unwrap();
        Screen { out, shown: Buffer::empty(Rect::ZERO), cursor: None }
    }

    #[test]
    fn a_frame_is_synchronized_and_an_equal_one_is_not_sent() {
        let mut screen = screen();
        let model = fixtures::live();
        let area = Rect::new(0, 0, model.size.0, model.size.1);
        let first = String::from_utf8(screen.frame(&model, area).unwrap()).unwrap();
        assert!(first.starts_with("\u{1b}[?2026h") && first.ends_with("\u{1b}[?2026l"), "{first:?}");
        assert!(first.len() < 12_000, "{}", first.len());
        assert!(screen.frame(&model, area).unwrap().is_empty());
        screen.forget();
        assert!(!screen.frame(&model, area).unwrap().is_empty());
    }

    #[test]
    fn only_what_moved_is_sent_again() {
        let mut screen = screen();
        let mut model = fixtures::live();
        let area = Rect::new(0, 0, model.size.0, model.size.1);
        screen.frame(&model, area).unwrap();
        model.now.wall.0 += 1000;
        let next = screen.frame(&model, area).unwrap();
        assert!(!next.is_empty() && next.len() < 200, "{}", next.len());
    }
}
