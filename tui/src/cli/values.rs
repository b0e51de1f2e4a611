//! Readers of single words: each error names what would have been accepted, and clap points at the word.
use reeve_protocol::selector::Selector;
use reeve_protocol::spec::{ArraySpec, LostAfter};
use reeve_protocol::text::Clean;
use reeve_protocol::time::Wall;
use serde_json::Value;
use std::io::Read as _;

use super::error::Error;

/// `30m` in seconds.
pub fn duration(text: &str) -> Result<f64, String> {
    reeve_protocol::units::parse_duration_s(text)
}

/// `4GiB` in bytes.
pub fn bytes(text: &str) -> Result<u64, String> {
    reeve_protocol::units::parse_bytes(text)
}

/// `4GiB` of memory in bytes. A bare number is bytes everywhere here, and megabytes elsewhere: a small one is no size that
/// any program could start with.
pub fn memory(text: &str) -> Result<u64, String> {
    match bytes(text)? {
        n if n > 0 && n < 1 << 20 && text.bytes().all(|b| b.is_ascii_digit()) => {
            Err(format!("{text} is {n} bytes, in which nothing can run; write {text}MiB or {text}GiB"))
        }
        n => Ok(n),
    }
}

/// `7.3`, `last`, `@name`, `5-9`.
pub fn selector(text: &str) -> Result<Selector, String> {
    Selector::parse(text).map_err(|problem| format!("{}; {}", problem.detail, problem.hint))
}

/// `5m` or `never`.
pub fn lost_after(text: &str) -> Result<LostAfter, String> {
    if text == "never" { Ok(LostAfter::Never) } else { duration(text).map(LostAfter::Seconds) }
}

/// The command that stands behind the options of `reeve WITHIN`, if any does. A word with a dash in front of it is a mistyped
/// option: the command has options of its own, so none is unknown to clap, and no program is called like that.
pub fn program(words: Vec<String>, within: &[&str]) -> Result<Option<Vec<String>>, Error> {
    let Some(first) = words.first().filter(|word| word.starts_with('-')) else {
        return Ok((!words.is_empty()).then_some(words));
    };
    let tree = <super::args::Args as clap::CommandFactory>::command();
    let here = within.iter().try_fold(&tree, |command, name| command.find_subcommand(name));
    let known: Vec<String> = here
        .into_iter()
        .flat_map(clap::Command::get_arguments)
        .filter_map(|option| option.get_long().map(|long| format!("--{long}")))
        .collect();
    let typed = first.split('=').next().unwrap_or_default();
    let near = reeve_protocol::nearest::nearest(typed, known.iter().map(String::as_str));
    let near = near.map_or_else(String::new, |near| format!("; did you mean {near}?"));
    Err(Error::Usage(format!(
        "reeve {} has no option {:?}{near}",
        within.join(" "),
        Clean::short(typed, 40).as_str()
    )))
}

/// `K=V`; the value may be empty.
pub fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write NAME=VALUE".to_owned()),
    }
}

/// `name=3`.
pub fn counted(text: &str) -> Result<(String, u64), String> {
    let (name, count) = pair(text)?;
    let count = count.parse().map_err(|_| format!("{count:?} is not a whole number; write NAME=3"))?;
    Ok((name, count))
}

/// A number of cpus or gpus.
pub fn amount(text: &str) -> Result<f64, String> {
    text.parse::<f64>()
        .ok()
        .filter(|n| n.is_finite() && *n >= 0.0)
        .ok_or_else(|| format!("{text:?} is not a number, such as 4 or 0.5"))
}

/// `1-1000` or `1-1000%50`, or `5` for the one task 5.
pub fn array(text: &str) -> Result<ArraySpec, String> {
    let wrong = || "write FROM-TO or FROM-TO%LIMIT, for example 1-1000%50".to_owned();
    let (range, limit) = match text.split_once('%') {
        Some((range, limit)) => (range, Some(limit.parse().map_err(|_| wrong())?)),
        None => (text, None),
    };
    let (from, to) = range.split_once('-').unwrap_or((range, range));
    let number = |word: &str| word.parse::<u32>().map_err(|_| wrong());
    let (from, to) = (number(from)?, number(to)?);
    if from > to || limit == Some(0) {
        return Err(wrong());
    }
    Ok(ArraySpec { from, to, limit })
}

/// A time with its zone, or one of this machine's zone: `2026-11-24T10:00:00Z`, `2026-11-24 10:00`, `07:30` (the next
/// one).
pub fn time(text: &str) -> Result<Wall, String> {
    time_at(text, &jiff::Zoned::now())
}

fn time_at(text: &str, now: &jiff::Zoned) -> Result<Wall, String> {
    if let Ok(wall) = Wall::parse(text) {
        return Ok(wall);
    }
    let zoned = |local: jiff::civil::DateTime| local.to_zoned(now.time_zone().clone());
    if let Ok(local) = text.parse::<jiff::civil::DateTime>()
        && let Ok(at) = zoned(local)
    {
        return Ok(Wall(at.timestamp().as_millisecond()));
    }
    if let Ok(clock) = text.parse::<jiff::civil::Time>()
        && let Ok(today) = zoned(now.date().to_datetime(clock))
        && let Ok(tomorrow) = now.date().tomorrow().map(|day| day.to_datetime(clock))
        && let Ok(tomorrow) = zoned(tomorrow)
    {
        let at = if today > *now { today } else { tomorrow };
        return Ok(Wall(at.timestamp().as_millisecond()));
    }
    Err("write 2026-11-24T10:00:00Z, 2026-11-24 10:00 or 07:30".to_owned())
}

/// The text of `JSON`, `@file` or `-` (standard input).
pub fn text_or_file(word: &str) -> Result<String, Error> {
    match word.strip_prefix('@') {
        Some(path) => std::fs::read_to_string(path).map_err(Error::input(path)),
        None if word == "-" => read_stdin(),
        None => Ok(word.to_owned()),
    }
}

/// A JSON value given as [`text_or_file`].
pub fn json(option: &str, word: &str) -> Result<Value, Error> {
    let text = text_or_file(word)?;
    serde_json::from_str(&text).map_err(|error| {
        Error::Usage(format!("{option} is not JSON: {error}; text needs its own quotes: '\"text\"'"))
    })
}

/// The content of a file, or of standard input for `-`.
pub fn file_or_stdin(path: &str) -> Result<String, Error> {
    if path == "-" { read_stdin() } else { std::fs::read_to_string(path).map_err(Error::input(path)) }
}

fn read_stdin() -> Result<String, Error> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).map_err(Error::input("standard input"))?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_without_a_unit_is_refused_where_it_can_only_be_a_mistake() {
        assert!(memory("3").unwrap_err().contains("write 3MiB or 3GiB"));
        assert!(memory("4096").is_err());
        for (text, wanted) in [("0", 0), ("4294967296", 1 << 32), ("300kB", 300_000), ("3GiB", 3 << 30)] {
            assert_eq!(memory(text), Ok(wanted), "{text}");
        }
    }

    #[test]
    fn arrays() {
        let spec = |from, to, limit| Ok(ArraySpec { from, to, limit });
        for (text, wanted) in [
            ("1-1000", spec(1, 1000, None)),
            ("0-9%3", spec(0, 9, Some(3))),
            ("5", spec(5, 5, None)),
            ("5%1", spec(5, 5, Some(1))),
        ] {
            assert_eq!(array(text), wanted, "{text}");
        }
        for bad in ["", "9-1", "1-", "-3", "1-9%0", "1-9%", "a-b", "1-99999999999"] {
            assert!(array(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn pairs_keep_the_values_own_signs() {
        assert_eq!(pair("A=b=c"), Ok(("A".into(), "b=c".into())));
        assert_eq!(pair("A="), Ok(("A".into(), String::new())));
        assert!(pair("A").is_err() && pair("=b").is_err());
        assert_eq!(counted("db=4"), Ok(("db".into(), 4)));
        assert!(counted("db=x").is_err());
    }

    #[test]
    fn amounts_are_finite_and_not_negative() {
        assert_eq!(amount("0.5"), Ok(0.5));
        for bad in ["x", "-1", "NaN", "inf", ""] {
            assert!(amount(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_without_a_zone_are_local_and_a_clock_means_the_next() {
        let now: jiff::Zoned = "2026-11-24T12:00:00+01:00[+01:00]".parse().unwrap();
        for (text, wanted) in [
            ("2026-11-24T10:00:00Z", "2026-11-24T10:00:00Z"),
            ("2026-11-25 10:00", "2026-11-25T09:00:00Z"),
            ("13:30", "2026-11-24T12:30:00Z"),
            ("07:30", "2026-11-25T06:30:00Z"),
        ] {
            assert_eq!(time_at(text, &now), Ok(Wall::parse(wanted).unwrap()), "{text}");
        }
        assert!(time_at("soon", &now).is_err());
    }

    #[test]
    fn never_is_a_loss_time() {
        assert_eq!(lost_after("never"), Ok(LostAfter::Never));
        assert_eq!(lost_after("5m"), Ok(LostAfter::Seconds(300.0)));
    }
}
