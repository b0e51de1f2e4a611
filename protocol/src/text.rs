//! Untrusted text is data: the one sanitiser, and the type that proves it ran.
use std::fmt;
use std::io;

/// Text that may be written to a terminal: no control characters, no escape sequences, no bidirectional overrides.
/// Tables, the console and error messages take this type, so nothing else can get there.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Clean(String);

impl Clean {
    /// One line: every control character, line ends included, becomes a visible stand-in.
    pub fn line(text: &str) -> Self {
        Self(
            text.chars()
                .map(|c| if is_hostile(c) || c == '\n' || c == '\t' { stand_in(c) } else { c })
                .collect(),
        )
    }

    /// Several lines: as [`Clean::line`], but line feeds and tabs stay.
    pub fn block(text: &str) -> Self {
        Self(text.chars().map(|c| if is_hostile(c) { stand_in(c) } else { c }).collect())
    }

    /// One line of at most `limit` characters, cut with `...`.
    pub fn short(text: &str, limit: usize) -> Self {
        if text.chars().count() <= limit {
            return Self::line(text);
        }
        let cut: String = text.chars().take(limit.saturating_sub(3)).collect();
        Self(Self::line(&cut).0 + "...")
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text, owned.
    pub fn into_string(self) -> String {
        self.0
    }
}

impl fmt::Display for Clean {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Where logs go: every write is one line, and becomes one. Words of a peer end up in log messages on many ways (a reason
/// to close, a host's error); here none of them can begin a line of its own or act on the terminal that shows it.
#[derive(Debug)]
pub struct CleanLines<W>(pub W);

impl<W: io::Write> io::Write for CleanLines<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        let (text, end) = text.strip_suffix('\n').map_or((&*text, ""), |text| (text, "\n"));
        self.0.write_all((Clean::line(text).into_string() + end).as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Whether a character can make a terminal do something, or hide or reorder text. Line feed and tab are judged by
/// the caller.
pub fn is_hostile(c: char) -> bool {
    match c {
        '\n' | '\t' => false,
        c if c.is_control() => true,
        '\u{200B}'..='\u{200F}'
        | '\u{202A}'..='\u{202E}'
        | '\u{2060}'..='\u{2064}'
        | '\u{2066}'..='\u{206F}'
        | '\u{FEFF}' => true,
        _ => false,
    }
}

/// What is shown instead: the "control picture" of C0 characters, else the replacement character. (Unicode, block
/// Control Pictures, U+2400.)
fn stand_in(c: char) -> char {
    match c as u32 {
        code @ 0..=0x1f => char::from_u32(0x2400 + code).unwrap_or('\u{FFFD}'),
        0x7f => '\u{2421}',
        _ => '\u{FFFD}',
    }
}

/// Removes escape sequences (ECMA-48: CSI, OSC, DCS, SOS, PM, APC and two-character ones) from one line of a log and
/// replaces what control characters remain; a carriage return folds the line to what a terminal would show last.
pub fn plain_log_line(line: &str) -> Clean {
    let mut out = String::with_capacity(line.len());
    let mut chars = line.trim_end_matches(['\r', '\n']).chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => skip_sequence(&mut chars),
            '\u{9b}' => skip_csi(&mut chars),
            '\r' => out.clear(),
            '\u{8}' => {
                out.pop();
            }
            '\t' => out.push_str("    "),
            c if is_hostile(c) || c == '\n' => out.push(stand_in(c)),
            c => out.push(c),
        }
    }
    Clean(out)
}

fn skip_sequence(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) {
    match chars.next() {
        Some('[') => skip_csi(chars),
        Some(']' | 'P' | 'X' | '^' | '_') => {
            while let Some(c) = chars.next() {
                if c == '\u{7}' || c == '\u{9c}' {
                    break;
                }
                if c == '\u{1b}' {
                    chars.next_if_eq(&'\\');
                    break;
                }
            }
        }
        Some('(' | ')' | '*' | '+' | '#' | '%' | ' ') => {
            chars.next();
        }
        _ => {}
    }
}

fn skip_csi(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) {
    for c in chars.by_ref() {
        if ('\u{40}'..='\u{7e}').contains(&c) {
            break;
        }
    }
}

/// Whether `text` matches `pattern`, in which `*` stands for any run of characters and `?` for one.
pub fn glob(pattern: &str, text: &str) -> bool {
    let (p, t): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut i, mut j, mut star) = (0, 0, None);
    while j < t.len() {
        if i < p.len() && (p[i] == '?' || p[i] == t[j]) && p[i] != '*' {
            i += 1;
            j += 1;
        } else if i < p.len() && p[i] == '*' {
            star = Some((i, j));
            i += 1;
        } else if let Some((si, sj)) = star {
            star = Some((si, sj + 1));
            i = si + 1;
            j = sj + 1;
        } else {
            return false;
        }
    }
    p[i..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn escape_sequences_of_every_family_are_removed() {
        let cases = [
            ("\u{1b}[31mred\u{1b}[0m", "red"),
            ("\u{1b}]0;title\u{7}x", "x"),
            ("\u{1b}]52;c;AAAA\u{1b}\\x", "x"),
            ("\u{1b}Pq#0\u{1b}\\x", "x"),
            ("\u{9b}2Jx", "x"),
            ("10%\r50%\r100%", "100%"),
            ("a\tb", "a    b"),
            ("\u{202e}evil", "\u{FFFD}evil"),
        ];
        for (given, wanted) in cases {
            assert_eq!(plain_log_line(given).as_str(), wanted, "{given:?}");
        }
    }

    #[test]
    fn a_line_of_a_log_stays_one_line() {
        use std::io::Write as _;
        let mut log = CleanLines(Vec::new());
        log.write_all(b"WARN reason=bye\x1b[2J\nINFO all is well\xff\n").unwrap();
        log.flush().unwrap();
        let wanted = "WARN reason=bye\u{241b}[2J\u{240a}INFO all is well\u{fffd}\n";
        assert_eq!(String::from_utf8(log.0).unwrap(), wanted);
    }

    #[test]
    fn globs() {
        for (pattern, text, wanted) in [
            ("gpu-*", "gpu-07", true),
            ("gpu-*", "cpu-07", false),
            ("*", "", true),
            ("a*b*c", "axxbxxc", true),
            ("a*b*c", "axxbxx", false),
            ("?", "x", true),
            ("?", "", false),
            ("train", "train", true),
            ("*n", "train", true),
        ] {
            assert_eq!(glob(pattern, text), wanted, "{pattern} {text}");
        }
    }

    proptest! {
        #[test]
        fn nothing_hostile_survives_and_cleaning_twice_changes_nothing(text in ".*") {
            for clean in [Clean::line(&text), Clean::short(&text, 10), plain_log_line(&text)] {
                prop_assert!(!clean.as_str().chars().any(|c| is_hostile(c) || c == '\n'));
                prop_assert_eq!(&Clean::line(clean.as_str()), &clean);
            }
        }
    }
}
