//! The targets. Each states what must hold for every input, not only that nothing panics.
use super::Target;
use reeve_protocol::error::parse_json;
use reeve_protocol::filter::{self, Filter, Test};
use reeve_protocol::frame::{self, Frame, Reader};
use reeve_protocol::guardian as held;
use reeve_protocol::selector::Selector;
use reeve_protocol::text::{Clean, glob, is_hostile, plain_log_line};
use reeve_protocol::token::Token;
use reeve_protocol::wire::{self, kind};
use reeve_protocol::{AttemptId, JobSpec, Problem, codec, tape, units};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::Path;
use std::sync::OnceLock;

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

/// What decodes is exactly what its encoding says: one value, one spelling.
fn canonical<T: Serialize + DeserializeOwned>(body: &[u8]) -> String {
    match codec::decode::<T>(body) {
        Ok(value) => {
            let mut again = Vec::new();
            codec::encode_into(&value, &mut again).expect("what was decoded fits");
            assert_eq!(again, body, "another spelling of the same value");
            "ok".to_owned()
        }
        Err(error) => format!("{error:?}").chars().take_while(char::is_ascii_alphabetic).collect(),
    }
}

fn split_kind(input: &[u8]) -> (u16, &[u8]) {
    match input.split_first_chunk::<2>() {
        Some((kind, body)) => (u16::from_le_bytes(*kind), body),
        None => (0, input),
    }
}

fn wire_body(input: &[u8]) -> String {
    let (kind, body) = split_kind(input);
    let kind = 1 + kind % kind::KNOWN.len() as u16;
    let outcome = match kind {
        kind::HELLO => canonical::<wire::Hello>(body),
        kind::WELCOME => canonical::<wire::Welcome>(body),
        kind::REFUSED => canonical::<wire::Refused>(body),
        kind::MACHINE => canonical::<wire::Machine>(body),
        kind::INVENTORY => canonical::<wire::Inventory>(body),
        kind::INVENTORY_END => canonical::<wire::InventoryEnd>(body),
        kind::RECONCILE => canonical::<wire::Reconcile>(body),
        kind::BEAT | kind::BEAT_ECHO => canonical::<wire::Beat>(body),
        kind::START => canonical::<wire::Start>(body),
        kind::STARTED => canonical::<wire::Started>(body),
        kind::PROGRESS => canonical::<wire::Progress>(body),
        kind::FINISHED => canonical::<wire::Finished>(body),
        kind::FORGET => canonical::<wire::Forget>(body),
        kind::STOP => canonical::<wire::Stop>(body),
        kind::REVOKE | kind::RETURNED => canonical::<wire::Revoke>(body),
        kind::FOLLOW => canonical::<wire::Follow>(body),
        kind::UNFOLLOW => canonical::<wire::Unfollow>(body),
        kind::SAMPLE => canonical::<wire::Sample>(body),
        kind::JOIN => canonical::<wire::Join>(body),
        kind::JOINED => canonical::<wire::Joined>(body),
        kind::OUTPUT_HEAD => canonical::<wire::OutputHead>(body),
        kind::KEEPER_HELLO => canonical::<wire::KeeperHello>(body),
        kind::LIMITS => canonical::<wire::Limits>(body),
        kind::USAGE => canonical::<wire::Usage>(body),
        kind::SHUTDOWN => canonical::<wire::Shutdown>(body),
        _ => canonical::<()>(body),
    };
    format!("{kind} {outcome}")
}

fn guardian_body(input: &[u8]) -> String {
    let (kind, body) = split_kind(input);
    let outcome = match kind % 5 {
        0 => canonical::<held::Hello>(body),
        1 => canonical::<held::State>(body),
        2 => canonical::<held::Signal>(body),
        3 => canonical::<held::Output>(body),
        _ => canonical::<held::Forget>(body),
    };
    format!("{} {outcome}", kind % 5)
}

fn read_frames<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Frame>, Option<frame::Error>, Vec<u8>) {
    let (mut reader, mut found) = (Reader::new(), Vec::new());
    for piece in pieces {
        reader.feed(piece);
        loop {
            match reader.next_frame() {
                Ok(Some(frame)) => found.push(frame),
                Ok(None) => break,
                Err(error) => return (found, Some(error), Vec::new()),
            }
        }
    }
    (found, None, reader.take_rest())
}

/// However a stream is cut, the same frames come out, and they and the rest are exactly what went in.
fn frames(input: &[u8]) -> String {
    let Some((first, bytes)) = input.split_first() else { return "empty".to_owned() };
    let whole = read_frames(std::iter::once(bytes));
    let cut = read_frames(bytes.chunks(1 + usize::from(*first)));
    assert_eq!((&whole.0, &whole.1), (&cut.0, &cut.1), "cutting changes what is read");
    let mut again = Vec::new();
    whole.0.iter().for_each(|frame| frame::append_raw(frame, &mut again));
    if whole.1.is_none() {
        again.extend(&whole.2);
        assert_eq!(again, bytes, "bytes were lost or invented");
    } else {
        assert!(bytes.starts_with(&again), "bytes were lost or invented");
    }
    format!("{} {}", whole.0.len().min(9), whole.1.is_some())
}

fn tapes(input: &[u8]) -> String {
    let Some((first, bytes)) = input.split_first() else { return "empty".to_owned() };
    let read = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let mut decoder = tape::Decoder::default();
        let records: Vec<_> = pieces
            .flat_map(|piece| decoder.feed(piece))
            .map(|r| (r.stream, r.at_ms, r.gap(), r.bytes))
            .collect();
        (records, decoder.is_damaged())
    };
    let whole = read(&mut std::iter::once(bytes));
    assert_eq!(whole, read(&mut bytes.chunks(1 + usize::from(*first))), "cutting changes what is read");
    let mut again = Vec::new();
    whole.0.iter().for_each(|(stream, at, _, bytes)| tape::append(*stream, *at, bytes, &mut again));
    assert!(bytes.starts_with(&again), "records are not what was written");
    format!("{} {} {}", whole.0.len().min(9), whole.1, whole.0.iter().any(|r| r.2.is_some()))
}

/// A request to sign: it is refused, or the certificate is a machine's and can be read.
fn signing_request(input: &[u8]) -> String {
    static AUTHORITY: OnceLock<reeve_coordinator::identity::Authority> = OnceLock::new();
    let authority = AUTHORITY.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        reeve_coordinator::identity::Authority::create(dir.path(), "00112233445566aa").unwrap();
        reeve_coordinator::identity::Authority::load(dir.path(), "00112233445566aa").unwrap()
    });
    match authority.issue_machine(input, "0123456789abcdef") {
        Ok(issued) => {
            assert!(issued.certificate.len() < 4096, "the request decides how long a certificate is");
            "issued".to_owned()
        }
        Err(error) => std::error::Error::source(&error).map_or_else(String::new, ToString::to_string),
    }
}

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
