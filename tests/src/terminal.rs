//! A terminal with a person's eyes and hands: a program on a pseudo-terminal, what the screen shows, keys.
use crate::{binary, eventually, eventually_or};
use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, SlavePty, native_pty_system};
use std::io::{Read, Write};
use std::num::NonZero;
use std::path::Path;
use std::sync::{Arc, Mutex};

/// What has come from the program.
struct Seen {
    parser: vt100::Parser,
    bytes: Vec<u8>,
}

/// A program on a terminal.
pub struct Terminal {
    seen: Arc<Mutex<Seen>>,
    keys: Box<dyn Write + Send>,
    child: Box<dyn Child + Send + Sync>,
    master: Box<dyn MasterPty + Send>,
    // Kept open: without it the terminal, and its settings, would be gone with the program.
    _slave: Box<dyn SlavePty + Send>,
    before: String,
}

impl Terminal {
    /// `reeve` with these words on a terminal of 80 columns and 24 rows.
    pub fn reeve(socket: &Path, home: &Path, words: &[&str]) -> Self {
        let size = PtySize { rows: 24, cols: 80, pixel_width: 0, pixel_height: 0 };
        let pair = native_pty_system().openpty(size).unwrap();
        let mut command = CommandBuilder::new(binary("reeve"));
        command.args(words);
        command.env("TERM", "xterm-256color");
        command.env("REEVE_HOST", socket);
        for name in ["HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_DATA_HOME"] {
            command.env(name, home);
        }
        command.cwd(home);
        let before = settings(&*pair.master);
        let child = pair.slave.spawn_command(command).unwrap();
        let cells = |count| NonZero::new(count).expect("a screen has cells");
        let parser = vt100::Parser::new(cells(24), cells(80), 0);
        let seen = Arc::new(Mutex::new(Seen { parser, bytes: Vec::new() }));
        let mut reader = pair.master.try_clone_reader().unwrap();
        let keys = pair.master.take_writer().unwrap();
        let sink = seen.clone();
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(len) = reader.read(&mut piece) {
                if len == 0 {
                    return;
                }
                let mut seen = sink.lock().unwrap();
                seen.parser.process(&piece[..len]);
                seen.bytes.extend_from_slice(&piece[..len]);
            }
        });
        Self { seen, keys, child, master: pair.master, _slave: pair.slave, before }
    }

    /// Types.
    pub fn keys(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
        self.keys.flush().unwrap();
    }

    /// The screen as text.
    pub fn screen(&self) -> String {
        self.seen.lock().unwrap().parser.screen().contents()
    }

    /// Every byte so far.
    pub fn bytes(&self) -> Vec<u8> {
        self.seen.lock().unwrap().bytes.clone()
    }

    /// Waits until the screen shows this text.
    pub fn shows(&self, text: &str) -> String {
        self.until(&format!("{text:?} on the screen"), |screen| screen.contains(text))
    }

    /// Waits until the screen is so.
    pub fn until(&self, what: &str, is_so: impl Fn(&str) -> bool) -> String {
        eventually_or(
            || format!("{what}; it shows:\n{}", self.screen()),
            || Some(self.screen()).filter(|s| is_so(s)),
        )
    }

    /// The program's process.
    pub fn pid(&self) -> u32 {
        self.child.process_id().unwrap_or(0)
    }

    /// Waits for its end; the exit code.
    pub fn ended(&mut self) -> u32 {
        eventually("the program to end", || self.child.try_wait().unwrap()).exit_code()
    }

    /// Asserts that the terminal is as it was before the program: screen, cursor, modes, settings.
    pub fn is_restored(&self) {
        // The last bytes may still be on their way to this side.
        eventually("the screen to be given back", || {
            let seen = self.seen.lock().unwrap();
            let screen = seen.parser.screen();
            (!screen.alternate_screen() && !screen.hide_cursor()).then_some(())
        });
        let seen = self.seen.lock().unwrap();
        let screen = seen.parser.screen();
        assert!(!screen.bracketed_paste(), "bracketed paste is still on");
        assert_eq!(screen.mouse_protocol_mode(), vt100::MouseProtocolMode::None);
        assert_eq!(settings(&*self.master), self.before, "the terminal's settings");
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The terminal's settings, in a form that can be compared.
fn settings(master: &dyn MasterPty) -> String {
    format!("{:?}", master.get_termios().map(libc::termios::from))
}
