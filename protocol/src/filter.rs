//! The filter language: the same in command line, API, console and bulk.
//!
//! Terms joined by spaces (and), `,` inside a value (or), `-` before a term (not), `"` around text with spaces. This
//! module parses; `coordinator::store::filter` turns the terms into SQL.
use crate::cause::Cause;
use crate::nearest::nearest;
use crate::selector::Selector;
use crate::state::{State, Substate};
use crate::units::parse_duration_s;
use std::fmt;

/// The fields, for messages and completions. `label.KEY=VALUE` and bare words (a part of the name) come on top.
pub const FIELDS: [&str; 14] = [
    "state", "substate", "queue", "worker", "machine", "cause", "exit", "since", "until", "user", "name",
    "id", "text", "warning",
];

/// What one term asks.
#[derive(Clone, Debug, PartialEq)]
pub enum Test {
    /// One of these states.
    State(Vec<State>),
    /// One of these substates.
    Substate(Vec<Substate>),
    /// One of these globs.
    Queue(Vec<String>),
    /// One of these globs.
    Worker(Vec<String>),
    /// One of these globs, of the current or last attempt's machine.
    Machine(Vec<String>),
    /// One of these kinds.
    Cause(Vec<String>),
    /// One of these exit codes.
    Exit(Vec<i32>),
    /// Submitted at most this many seconds ago.
    Since(f64),
    /// Submitted at least this many seconds ago.
    Until(f64),
    /// One of these owners (globs).
    User(Vec<String>),
    /// One of these globs.
    Name(Vec<String>),
    /// One of these.
    Id(Vec<Selector>),
    /// With a warning of one of these kinds (globs).
    Warning(Vec<String>),
    /// Contained in name, command or last message.
    Text(String),
    /// A label with one of these values (globs).
    Label(String, Vec<String>),
}

/// A test, perhaps turned around.
#[derive(Clone, Debug, PartialEq)]
pub struct Term {
    /// `-` stood before it.
    pub not: bool,
    /// The test.
    pub test: Test,
}

/// A whole filter: every term must hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    /// The terms, as written.
    pub terms: Vec<Term>,
}

/// A mistake, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// The whole filter.
    pub input: String,
    /// Byte of the first character of the wrong term.
    pub at: usize,
    /// Bytes of the wrong term.
    pub len: usize,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for Error {
    /// Three lines: the message, the filter, and a mark under the wrong term.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let before = self.input.get(..self.at).map_or(0, |s| s.chars().count());
        let width = self.input.get(self.at..self.at + self.len).map_or(1, |s| s.chars().count()).max(1);
        write!(
            f,
            "{}\n  {}\n  {}{}",
            self.message,
            crate::text::Clean::line(&self.input),
            " ".repeat(before),
            "^".repeat(width)
        )
    }
}

impl std::error::Error for Error {}

impl From<Error> for crate::Problem {
    fn from(error: Error) -> Self {
        let term = error.input.get(error.at..error.at + error.len).unwrap_or("").to_owned();
        let short = crate::text::Clean::short(&term, 64);
        Self::new(
            crate::Code::BadFilter,
            format!("{} (at character {}: {short})", error.message, error.at + 1),
        )
        .hint(format!("fields: {}, label.KEY=VALUE; a bare word is part of the name", FIELDS.join(", ")))
    }
}

/// Parses a filter. The empty one matches everything.
///
/// # Errors
/// The first mistake, with its place.
pub fn parse(input: &str) -> Result<Filter, Error> {
    if input.len() > 8192 {
        return Err(Error {
            input: input.chars().take(40).collect(),
            at: 0,
            len: 1,
            message: "the filter is longer than 8192 bytes".into(),
        });
    }
    let mut terms = Vec::new();
    for (at, word) in words(input) {
        let fail = |message: String| Error { input: input.to_owned(), at, len: word.len(), message };
        let (not, body) = match word.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, word),
        };
        terms.push(Term { not, test: term(body).map_err(fail)? });
    }
    Ok(Filter { terms })
}

/// Words with their places; quotes keep spaces together.
fn words(input: &str) -> Vec<(usize, &str)> {
    let (mut found, mut start, mut quoted) = (Vec::new(), None, false);
    for (at, c) in input.char_indices() {
        if c == '"' {
            quoted = !quoted;
        }
        if c.is_whitespace() && !quoted {
            if let Some(from) = start.take() {
                found.push((from, &input[from..at]));
            }
        } else if start.is_none() {
            start = Some(at);
        }
    }
    if let Some(from) = start {
        found.push((from, &input[from..]));
    }
    found
}

fn term(body: &str) -> Result<Test, String> {
    if body.matches('"').count() % 2 == 1 {
        return Err("a quotation mark is not closed".into());
    }
    if let Some(label) = body.strip_prefix("label.").or_else(|| body.strip_prefix("label:")) {
        let (key, value) = label.split_once('=').ok_or("labels are written label.KEY=VALUE")?;
        if key.is_empty() {
            return Err("labels are written label.KEY=VALUE".into());
        }
        return Ok(Test::Label(key.to_owned(), list(value)?));
    }
    let Some((field, value)) = body.split_once(':') else {
        let word = unquote(body);
        return if word.is_empty() {
            Err("a term is empty".into())
        } else {
            Ok(Test::Name(vec![format!("*{word}*")]))
        };
    };
    if value.is_empty() {
        return Err(format!("{}: needs a value", crate::text::Clean::short(field, 40)));
    }
    field_test(field, value)
}

fn field_test(field: &str, value: &str) -> Result<Test, String> {
    let each = |one: fn(&str) -> Option<State>| -> Result<Vec<State>, String> {
        list(value)?
            .iter()
            .map(|v| one(v).ok_or_else(|| unknown("state", v, State::ALL.iter().map(|s| s.as_str()))))
            .collect()
    };
    Ok(match field {
        "state" => Test::State(each(|v| v.parse().ok())?),
        "substate" => Test::Substate(
            list(value)?
                .iter()
                .map(|v| {
                    v.parse().map_err(|()| unknown("substate", v, Substate::ALL.iter().map(|s| s.as_str())))
                })
                .collect::<Result<_, _>>()?,
        ),
        "queue" => Test::Queue(list(value)?),
        "worker" => Test::Worker(list(value)?),
        "machine" => Test::Machine(list(value)?),
        "user" | "owner" => Test::User(list(value)?),
        "name" => Test::Name(list(value)?),
        "cause" => {
            let kinds = list(value)?;
            if let Some(wrong) = kinds.iter().find(|k| !Cause::KINDS.contains(&k.as_str())) {
                return Err(unknown("cause", wrong, Cause::KINDS));
            }
            Test::Cause(kinds)
        }
        "exit" => Test::Exit(
            list(value)?
                .iter()
                .map(|v| {
                    let shown = || crate::text::Clean::short(v, 40);
                    v.parse().map_err(|_| format!("{:?} is not an exit code", shown().as_str()))
                })
                .collect::<Result<_, _>>()?,
        ),
        "since" => Test::Since(parse_duration_s(value)?),
        "until" => Test::Until(parse_duration_s(value)?),
        "id" => Test::Id(
            list(value)?
                .iter()
                .map(|v| Selector::parse(v).map_err(|p| p.detail))
                .collect::<Result<_, _>>()?,
        ),
        "text" => Test::Text(unquote(value)),
        "warning" => Test::Warning(list(value)?),
        other => return Err(unknown("field", other, FIELDS)),
    })
}

fn unknown<'a>(what: &str, word: &str, known: impl IntoIterator<Item = &'a str> + Clone) -> String {
    let word = crate::text::Clean::short(word, 40);
    match nearest(word.as_str(), known.clone()) {
        Some(near) => format!("unknown {what} {:?}, did you mean {near:?}?", word.as_str()),
        None => format!(
            "unknown {what} {:?}; known: {}",
            word.as_str(),
            known.into_iter().collect::<Vec<_>>().join(", ")
        ),
    }
}

/// Splits at commas outside quotes.
fn list(value: &str) -> Result<Vec<String>, String> {
    let (mut items, mut item, mut quoted) = (Vec::new(), String::new(), false);
    for c in value.chars() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => items.push(std::mem::take(&mut item)),
            c => item.push(c),
        }
    }
    items.push(item);
    if items.iter().any(String::is_empty) { Err("a value of the list is empty".into()) } else { Ok(items) }
}

fn unquote(value: &str) -> String {
    value.chars().filter(|c| *c != '"').collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_contracts_example_parses() {
        let text = r#"state:failed,cancelled queue:vbrain worker:bank machine:gpu-* label.team=vision cause:oom exit:137 since:2h until:10m user:ana name:train* id:5-9 text:"CUDA out of memory""#;
        let filter = parse(text).unwrap();
        assert_eq!(filter.terms.len(), 13);
        assert_eq!(filter.terms[0].test, Test::State(vec![State::Failed, State::Cancelled]));
        assert_eq!(filter.terms[12].test, Test::Text("CUDA out of memory".into()));
        assert_eq!(filter.terms[11].test, Test::Id(vec![Selector::Jobs(5, 9)]));
    }

    #[test]
    fn not_and_bare_words() {
        let filter = parse("-state:completed train").unwrap();
        assert!(filter.terms[0].not);
        assert_eq!(filter.terms[1].test, Test::Name(vec!["*train*".into()]));
        assert_eq!(parse("   ").unwrap(), Filter::default());
    }

    #[test]
    fn a_mistake_is_pointed_at_and_the_nearest_is_named() {
        let error = parse("queue:a stat:failed").unwrap_err();
        assert_eq!((error.at, error.len), (8, 11));
        assert!(error.message.contains("state"), "{error}");
        assert!(error.to_string().ends_with("          ^^^^^^^^^^^"), "{error}");
        for bad in [
            "state:",
            "state:faild",
            "exit:x",
            "since:soon",
            "id:x",
            "text:\"a",
            "label.x",
            "label.=y",
            "cause:bang",
            "state:a,,b",
        ] {
            let error = parse(bad).unwrap_err();
            assert_eq!(error.at, 0, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_input_parses_or_points_inside_itself(text in ".{0,80}") {
            if let Err(error) = parse(&text) {
                prop_assert!(error.at <= text.len());
                let _ = error.to_string();
                let _ = crate::Problem::from(error);
            }
        }
    }
}
