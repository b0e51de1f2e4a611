//! Filters of messages, in the words of the filter of jobs where both have the same: terms joined by spaces (and), `,` inside a
//! value (or), `-` before a term (not), `"` around text with spaces. This module parses; the store turns terms into SQL.
use crate::error::{Code, Problem};
use crate::nearest::nearest;
use crate::text::Clean;
use crate::units::{parse_bytes, parse_duration_s};

/// The fields; `header.NAME=VALUE` comes on top.
pub const FIELDS: [&str; 7] = ["since", "until", "priority", "size", "deliveries", "id", "text"];

/// How a number is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compare {
    /// `7`
    Is,
    /// `>7`
    Above,
    /// `<7`
    Below,
}

/// What one term asks.
#[derive(Clone, Debug, PartialEq)]
pub enum Test {
    /// Published at most this many seconds ago.
    Since(f64),
    /// Published at least this many seconds ago.
    Until(f64),
    /// One of these.
    Priority(Vec<(Compare, i64)>),
    /// Bytes of the body: one of these.
    Size(Vec<(Compare, i64)>),
    /// Times handed out: one of these.
    Deliveries(Vec<(Compare, i64)>),
    /// One of these ranges of numbers, both ends included.
    Id(Vec<(u64, u64)>),
    /// Contained in the body.
    Text(String),
    /// A header with one of these values (globs).
    Header(String, Vec<String>),
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
pub struct MessageFilter {
    /// The terms, as written.
    pub terms: Vec<Term>,
}

/// Reads a filter.
///
/// # Errors
/// `bad-filter`, with the wrong term.
pub fn parse(text: &str) -> Result<MessageFilter, Problem> {
    let mut terms = Vec::new();
    for word in words(text)? {
        let (not, rest) = word.strip_prefix('-').map_or((false, word.as_str()), |rest| (true, rest));
        let test = test(rest).map_err(|why| wrong(&word, &why))?;
        terms.push(Term { not, test });
    }
    if terms.is_empty() {
        return Err(wrong("", "it is empty"));
    }
    Ok(MessageFilter { terms })
}

fn wrong(term: &str, why: &str) -> Problem {
    let text = format!("{why} (in {:?})", Clean::short(term, 64).as_str());
    Problem::new(Code::BadFilter, text)
        .hint(format!("fields of messages: {}, header.NAME=VALUE", FIELDS.join(", ")))
}

/// Words between spaces; quotes hold a word together and are taken out.
fn words(text: &str) -> Result<Vec<String>, Problem> {
    let (mut all, mut word, mut quoted, mut begun) = (Vec::new(), String::new(), false, false);
    for c in text.chars() {
        match c {
            '"' => (quoted, begun) = (!quoted, true),
            c if c.is_whitespace() && !quoted => {
                if std::mem::take(&mut begun) {
                    all.push(std::mem::take(&mut word));
                }
            }
            c => {
                word.push(c);
                begun = true;
            }
        }
    }
    if quoted {
        return Err(wrong(&word, "a quote is not closed"));
    }
    all.extend(begun.then_some(word));
    Ok(all)
}

fn test(term: &str) -> Result<Test, String> {
    if let Some((name, values)) = term.strip_prefix("header.").and_then(|rest| rest.split_once('=')) {
        if name.is_empty() {
            return Err("a header has a name".to_owned());
        }
        return Ok(Test::Header(name.to_owned(), values.split(',').map(str::to_owned).collect()));
    }
    let Some((field, value)) = term.split_once(':').filter(|(_, value)| !value.is_empty()) else {
        return Err("a term is FIELD:VALUE".to_owned());
    };
    let ago = || parse_duration_s(value).map_err(|_| "write a time such as 2h".to_owned());
    let whole = |text: &str| text.parse::<i64>().map_err(|_| "write a whole number".to_owned());
    let bytes = |text: &str| {
        let parsed = parse_bytes(text).ok().and_then(|n| i64::try_from(n).ok());
        parsed.ok_or_else(|| "write a size such as 10KiB".to_owned())
    };
    Ok(match field {
        "since" => Test::Since(ago()?),
        "until" => Test::Until(ago()?),
        "priority" => Test::Priority(numbers(value, whole)?),
        "deliveries" => Test::Deliveries(numbers(value, whole)?),
        "size" => Test::Size(numbers(value, bytes)?),
        "id" => Test::Id(value.split(',').map(range).collect::<Result<_, _>>()?),
        "text" => Test::Text(value.to_owned()),
        other => {
            let near =
                nearest(other, FIELDS).map_or_else(String::new, |near| format!("; did you mean {near}?"));
            return Err(format!("messages have no field {}{near}", Clean::short(other, 32)));
        }
    })
}

fn numbers(text: &str, read: impl Fn(&str) -> Result<i64, String>) -> Result<Vec<(Compare, i64)>, String> {
    let one = |word: &str| {
        let (compare, rest) = match (word.strip_prefix('>'), word.strip_prefix('<')) {
            (Some(rest), _) => (Compare::Above, rest),
            (_, Some(rest)) => (Compare::Below, rest),
            (None, None) => (Compare::Is, word),
        };
        read(rest).map(|n| (compare, n))
    };
    text.split(',').map(one).collect()
}

fn range(word: &str) -> Result<(u64, u64), String> {
    let (from, to) = word.split_once('-').unwrap_or((word, word));
    match (from.parse(), to.parse()) {
        (Ok(from), Ok(to)) if from <= to => Ok((from, to)),
        _ => Err("write a number, or a range such as 5-9".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_are_read_and_mistakes_named() {
        let filter =
            parse(r#"since:2h -priority:>3,<0 size:>1KiB header.kind=a*,b text:"two words" id:5-9,12"#);
        let tests: Vec<_> = filter.unwrap().terms.into_iter().map(|t| (t.not, t.test)).collect();
        assert_eq!(
            tests,
            [
                (false, Test::Since(7200.0)),
                (true, Test::Priority(vec![(Compare::Above, 3), (Compare::Below, 0)])),
                (false, Test::Size(vec![(Compare::Above, 1024)])),
                (false, Test::Header("kind".into(), vec!["a*".into(), "b".into()])),
                (false, Test::Text("two words".into())),
                (false, Test::Id(vec![(5, 9), (12, 12)])),
            ]
        );
        for (text, said) in [
            ("", "it is empty"),
            ("state:failed", "no field state"),
            ("prio:1", "did you mean priority"),
            ("priority:high", "whole number"),
            ("since:soon", "such as 2h"),
            ("id:9-5", "range"),
            ("bare", "FIELD:VALUE"),
            ("text:\"a", "not closed"),
            ("header.=x", "has a name"),
        ] {
            let problem = parse(text).unwrap_err();
            assert!(problem.is(Code::BadFilter) && problem.detail.contains(said), "{text}: {problem}");
        }
    }
}
