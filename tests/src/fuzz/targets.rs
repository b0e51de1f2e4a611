//! The targets, and those that read text. Each states what must hold for every input, not only that nothing panics.
use super::Target;
use super::binary::{frames, guardian_body, signing_request, tapes, wire_body};
use reeve_protocol::error::parse_json;
use reeve_protocol::filter::{self, Filter, Test};
use reeve_protocol::selector::Selector;
use reeve_protocol::text::{Clean, glob, is_hostile, plain_log_line};
use reeve_protocol::token::Token;
use reeve_protocol::{AttemptId, JobSpec, Problem, git, git_refs, units};
use std::path::Path;

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "wire", dictionary: &[], run: wire_body },
    Target { name: "guardian", dictionary: &[], run: guardian_body },
    Target { name: "frames", dictionary: &[], run: frames },
    Target { name: "tape", dictionary: &[], run: tapes },
    Target { name: "request", dictionary: &[], run: signing_request },
    Target {
        name: "filter",
        dictionary: &[
            "state:",
            "failed",
            "queue:",
            "machine:",
            "cause:",
            "oom",
            "exit:",
            "since:",
            "2h",
            "id:",
            "5-9",
            "text:",
            "label.",
            "=",
            "\"",
            ",",
            "-",
            " ",
            "*",
            "name:",
            "user:",
            "until:",
            "substate:",
            "waiting",
            "last",
            "7.3",
        ],
        run: filters,
    },
    Target {
        name: "selector",
        dictionary: &["last", "@", "[", "]", ".", "-", "0", "18446744073709551615", "4294967295"],
        run: selectors,
    },
    Target {
        name: "spec",
        dictionary: &[
            "\"command\":",
            "\"env\":",
            "\"array\":{\"from\":1,\"to\":9}",
            "\"resources\":",
            "\"cpus\":",
            "\"at\":",
            "\"labels\":",
            "\"name\":",
            "\"priority\":",
            "\"timeout_s\":",
            "\"lost_after_s\":\"never\"",
            "\"payload\":",
            "\"run_as\":",
            "\"on\":",
            "null",
            "1e308",
            "-1",
            "\\u0000",
            "\\u202e",
            "\"K\"",
            "[",
            "]",
            "{",
            "}",
            ",",
            "\"2026-11-24T10:00:00Z\"",
        ],
        run: specs,
    },
    Target {
        name: "git",
        dictionary: &[
            "https://",
            "ssh://",
            "file:///",
            "git@",
            "host:",
            "host/",
            "..",
            "./",
            "%0a",
            "::",
            "-",
            "@",
            ":22",
            "refs/heads/",
            ".lock",
            "@{",
            "~1",
            "\n",
        ],
        run: git_words,
    },
    Target {
        name: "clean",
        dictionary: &["\u{1b}[", "\u{1b}]", "\u{9b}", "\u{202e}", "\r", "\u{7}", "\u{8}", "\u{1b}P"],
        run: cleaned,
    },
    Target {
        name: "token",
        dictionary: &["reeve1.", ".", ",", "0123456789abcdef", "[::1]:7373"],
        run: tokens,
    },
    Target {
        name: "coordinator_config",
        dictionary: &[
            "dir",
            "socket",
            "listen",
            "advertise",
            " = ",
            "\"",
            "[",
            "]",
            "log_format",
            "\n",
            ":7373",
            "name",
        ],
        run: coordinator_config,
    },
    Target {
        name: "agent_config",
        dictionary: &[
            "path", "cpus", "memory", "labels", "gpus", "run_as", " = ", "\"", "[", "]", "{", "}", "\n",
            "4GiB", "nan",
        ],
        run: agent_config,
    },
    Target {
        name: "units",
        dictionary: &["ms", "h", "d", "GiB", "kb", ".", "1e", "inf", "nan"],
        run: amounts,
    },
    Target {
        name: "attempt_name",
        dictionary: &[".", "-1", "+", "18446744073709551615", "4294967296"],
        run: attempt_names,
    },
    Target { name: "glob", dictionary: &["*", "?", "\0", "**"], run: globs },
];

fn text(input: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(input)
}

/// A filter as its terms say it, in the plainest spelling.
fn shown(filter: &Filter) -> String {
    let words = |field: &str, values: Vec<String>| {
        let quoted: Vec<String> = values.iter().map(|value| format!("\"{value}\"")).collect();
        format!("{field}:{}", quoted.join(","))
    };
    let terms = filter.terms.iter().map(|term| {
        let body = match &term.test {
            Test::State(all) => words("state", all.iter().map(ToString::to_string).collect()),
            Test::Substate(all) => words("substate", all.iter().map(|s| s.as_str().to_owned()).collect()),
            Test::Queue(all) => words("queue", all.clone()),
            Test::Worker(all) => words("worker", all.clone()),
            Test::Machine(all) => words("machine", all.clone()),
            Test::Cause(all) => words("cause", all.clone()),
            Test::Exit(all) => words("exit", all.iter().map(ToString::to_string).collect()),
            Test::Warning(all) => words("warning", all.clone()),
            Test::Since(s) => format!("since:{s}"),
            Test::Until(s) => format!("until:{s}"),
            Test::User(all) => words("user", all.clone()),
            Test::Name(all) => words("name", all.clone()),
            Test::Id(all) => words("id", all.iter().map(ToString::to_string).collect()),
            Test::Text(part) => format!("text:\"{part}\""),
            Test::Label(key, values) => words(&format!("label.{key}"), values.clone()).replacen(':', "=", 1),
        };
        format!("{}{body}", if term.not { "-" } else { "" })
    });
    terms.collect::<Vec<_>>().join(" ")
}

fn filters(input: &[u8]) -> String {
    let text = text(input);
    match filter::parse(&text) {
        Ok(filter) => {
            let odd_key = filter
                .terms
                .iter()
                .any(|t| matches!(&t.test, Test::Label(key, _) if key.contains([':', '"', ' ', '\t'])));
            if !odd_key
                && filter.terms.iter().all(|t| !matches!(&t.test, Test::Text(part) if part.is_empty()))
            {
                let again = filter::parse(&shown(&filter));
                assert_eq!(again.as_ref(), Ok(&filter), "printed as {}", shown(&filter));
            }
            let kinds =
                filter.terms.iter().map(|t| format!("{:?}", t.test).chars().take(4).collect::<String>());
            kinds.take(3).collect::<Vec<_>>().join("+")
        }
        Err(error) => {
            assert!(error.input.get(error.at..).is_some(), "points into the middle of a character");
            bounded(&error.to_string().replace('\n', " "), 20_000);
            let problem = Problem::from(error);
            said_well(&problem);
            problem.detail.chars().filter(char::is_ascii_alphabetic).take(12).collect()
        }
    }
}

fn bounded(text: &str, most: usize) {
    assert!(text.len() <= most, "{} bytes", text.len());
    assert!(!text.chars().any(|c| is_hostile(c) || c == '\n'), "raw control characters: {text:?}");
}

/// What every refusal keeps to: short, clean, with a code and something to do.
fn said_well(problem: &Problem) {
    bounded(&problem.detail, 2000);
    bounded(&problem.hint, 2000);
    assert!(!problem.code.is_empty() && !problem.hint.is_empty(), "no code or hint: {problem:?}");
    let is_ours = problem.status >= 500 && problem.code != "not-yet";
    assert!(problem.status >= 400 && !is_ours, "a mistake of the caller's is told as ours: {problem:?}");
}

fn selectors(input: &[u8]) -> String {
    match Selector::parse(&text(input)) {
        Ok(selector) => {
            assert_eq!(Selector::parse(&selector.to_string()).as_ref(), Ok(&selector));
            format!("{selector:?}").chars().take_while(char::is_ascii_alphabetic).collect()
        }
        Err(problem) => {
            said_well(&problem);
            problem.code
        }
    }
}

fn specs(input: &[u8]) -> String {
    let spec: JobSpec = match parse_json(input) {
        Ok(spec) => spec,
        Err(problem) => {
            said_well(&problem);
            return problem.code
                + &problem.detail.chars().filter(char::is_ascii_alphabetic).take(8).collect::<String>();
        }
    };
    let kept = serde_json::to_vec(&spec).expect("a spec is JSON");
    let again: JobSpec = parse_json(&kept).expect("what was written can be read");
    assert_eq!(serde_json::to_vec(&again).unwrap(), kept, "a spec changes when it is stored");
    match spec.validate() {
        Ok(()) => {
            assert!(again.validate().is_ok());
            assert!(spec.command.is_some() || spec.worker.is_some());
            "valid".to_owned()
        }
        Err(problem) => {
            said_well(&problem);
            problem.code + &problem.detail.chars().take(8).collect::<String>()
        }
    }
}

/// What reaches the command line of git: no option, no control character, one reading.
fn git_words(input: &[u8]) -> String {
    let text = text(input);
    let (first, second) = text.split_once('\n').unwrap_or((&text, ""));
    let harmless =
        |word: &str| !word.starts_with('-') && !word.chars().any(|c| is_hostile(c) || c.is_whitespace());
    let url = git::Url::parse(first);
    if let Ok(url) = &url {
        assert_eq!(url.as_str(), first);
        assert!(harmless(first) && !first.contains("::"), "{first:?}");
        let normal = url.normal();
        let again = git::Url::parse(&normal).map(|url| url.normal());
        assert_eq!(again.as_ref(), Ok(&normal), "one spelling for all");
        if let Ok(joined) = url.join(second) {
            assert!(git::Url::parse(joined.as_str()).is_ok() && harmless(joined.as_str()), "{joined:?}");
        }
    }
    let (is_ref, is_dir) = (git::check_ref(first).is_ok(), git::check_subdir(first).is_ok());
    assert!(!is_ref || harmless(first) && !first.contains(".."), "{first:?} as a ref");
    let climbs = first.starts_with('/') || first.split('/').any(|part| part == "..");
    assert!(!is_dir || !climbs, "{first:?} as a directory");
    assert!(!git::is_commit(first) || first.bytes().all(|b| b.is_ascii_hexdigit()));
    let _ =
        git_refs::resolve(&text, Some("main")).map(|commit| assert!(git::is_commit(&commit), "{commit:?}"));
    format!("{:?} {is_ref} {is_dir}", url.map(|url| url.transport))
}

fn cleaned(input: &[u8]) -> String {
    let text = text(input);
    let hostile = |text: &str| text.chars().any(is_hostile);
    for clean in [Clean::line(&text), Clean::short(&text, 7), plain_log_line(&text)] {
        assert!(!hostile(clean.as_str()) && !clean.as_str().contains(['\n', '\t']), "{clean:?}");
        assert_eq!(Clean::line(clean.as_str()), clean, "cleaning twice changes something");
    }
    assert!(Clean::short(&text, 7).as_str().chars().count() <= 7);
    let block = Clean::block(&text);
    assert!(!hostile(block.as_str()));
    assert_eq!(Clean::block(block.as_str()), block);
    assert_eq!(block.as_str().lines().count(), text.lines().count(), "line feeds stay");
    let log = plain_log_line(&text);
    assert_eq!(plain_log_line(log.as_str()), log, "a clean line of a log stays as it is");
    let mut lines = reeve_protocol::text::CleanLines(Vec::new());
    std::io::Write::write_all(&mut lines, input).unwrap();
    let logged = String::from_utf8(lines.0).unwrap();
    assert!(logged.matches('\n').count() <= 1 && !logged.contains('\u{1b}'));
    format!("{} {}", hostile(&text), log.as_str().chars().count().min(9))
}

fn tokens(input: &[u8]) -> String {
    let text = text(input);
    match text.parse::<Token>() {
        Ok(token) => {
            assert_eq!(token.to_string(), text.trim());
            // Unless the same words stand elsewhere in it.
            let once = text.matches(&token.secret).count() == 1;
            assert!(!once || !format!("{token:?}").contains(&token.secret));
            "ok".to_owned()
        }
        Err(error) => {
            if let Some(secret) = text.split('.').nth(3).filter(|s| s.len() >= 16) {
                assert!(!error.contains(secret), "the secret is repeated: {error}");
            }
            bounded(&error, 500);
            error
        }
    }
}

/// Configurations are read from files; these lie in memory and are removed with the process's last thread.
fn in_a_file<T>(input: &[u8], read: impl FnOnce(&Path) -> T) -> T {
    thread_local! {
        static DIR: tempfile::TempDir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    }
    DIR.with(|dir| {
        let path = dir.path().join("c.toml");
        std::fs::write(&path, input).unwrap();
        read(&path)
    })
}

fn coordinator_config(input: &[u8]) -> String {
    use reeve_coordinator::config::{Config, Layer};
    match in_a_file(input, |path| Config::load(Layer::default(), Some(path), |_| None)) {
        Ok(config) => {
            assert!(config.dir.is_absolute() && config.socket.is_absolute());
            format!("{} {}", config.advertise.len().min(3), config.name.is_empty())
        }
        Err(error) => {
            let words = error.to_string();
            assert!(words.len() < 2000, "{} bytes", words.len());
            words.chars().filter(char::is_ascii_alphabetic).skip(20).take(30).collect()
        }
    }
}

fn agent_config(input: &[u8]) -> String {
    let mut config = reeve_agent::Config::below(Path::new("/nowhere"));
    match in_a_file(input, |path| config.read(Some(path))) {
        Ok(()) => "ok".to_owned(),
        Err(error) => error.to_string().chars().filter(char::is_ascii_alphabetic).skip(20).take(30).collect(),
    }
}

fn amounts(input: &[u8]) -> String {
    let text = text(input);
    let (seconds, bytes) = (units::parse_duration_s(&text), units::parse_bytes(&text));
    if let Ok(seconds) = &seconds {
        assert!(seconds.is_finite() && *seconds >= 0.0 && !units::show_duration(*seconds).is_empty());
    }
    if let Ok(bytes) = &bytes {
        assert!(i64::try_from(*bytes).is_ok() && !units::show_bytes(*bytes).is_empty());
    }
    format!("{} {}", seconds.is_ok(), bytes.is_ok())
}

/// Names of files become ids only if that id has that name.
fn attempt_names(input: &[u8]) -> String {
    let name = text(input);
    let id = AttemptId::from_file_name(&name);
    if let Some(id) = id {
        assert_eq!(id.file_name(), name, "two names for one attempt");
    }
    format!("{}", id.is_some())
}

fn globs(input: &[u8]) -> String {
    let text = text(input);
    let (pattern, word) = text.split_once('\0').unwrap_or((&text, &text));
    let fits = glob(pattern, word);
    assert!(glob("*", word) && glob(&format!("*{pattern}*"), word) >= fits);
    if !pattern.contains(['*', '?']) {
        assert_eq!(fits, pattern == word, "a plain word fits itself alone");
    }
    format!("{fits}")
}
