//! What ARCHITECTURE.md promises about the source, held by looking at it: who may name whom, what stays pure, how large
//! a file may be, what is said where.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]
use std::path::{Path, PathBuf};

const CRATES: [&str; 4] = ["protocol", "coordinator", "agent", "tui"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every source below a directory, with its text.
fn sources(below: &str) -> Vec<(PathBuf, String)> {
    fn walk(dir: &Path, found: &mut Vec<(PathBuf, String)>) {
        for path in std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()) {
            if path.is_dir() && !path.ends_with("target") {
                walk(&path, found);
            } else if path.extension().is_some_and(|ext| ext == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    let mut found = Vec::new();
    walk(&root().join(below), &mut found);
    assert!(!found.is_empty(), "{below} has moved: this test looks at nothing");
    found
}

/// Tests of a file that stand beside it, or in its own `tests` directory.
fn is_test(path: &Path) -> bool {
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    name == "tests"
        || name.ends_with("_test")
        || name.ends_with("_tests")
        || path.iter().any(|part| part == "tests")
}

/// Code lines before the tests inside the file, without comments.
fn code(text: &str) -> impl Iterator<Item = &str> {
    let end = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    text[..end].lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("//"))
}

#[test]
fn crates_see_the_protocol_and_only_up_sees_the_server() {
    for (name, allowed) in [
        ("protocol", &[][..]),
        ("coordinator", &["protocol"]),
        ("agent", &["protocol"]),
        ("tui", &["protocol", "coordinator", "agent"]),
    ] {
        let manifest = std::fs::read_to_string(root().join(name).join("Cargo.toml")).unwrap();
        let seen =
            CRATES.iter().filter(|other| **other != name && manifest.contains(&format!("\nreeve-{other}")));
        let seen: Vec<_> = seen.filter(|other| !allowed.contains(other)).collect();
        assert!(seen.is_empty(), "{name} must not see {seen:?}");
    }
    for (path, text) in sources("tui/src") {
        let is_up = path.starts_with(root().join("tui/src/up")) || path.ends_with("tui/src/up.rs");
        let names = code(&text).any(|l| l.contains("reeve_coordinator::") || l.contains("reeve_agent::"));
        assert!(is_up || !names, "{} names the server", path.display());
    }
}

#[test]
fn what_decides_knows_no_clock_no_network_and_no_disk() {
    let pure = [
        "coordinator/src/core",
        "coordinator/src/cluster",
        "coordinator/src/orchestrator",
        "coordinator/src/job_manager",
        "coordinator/src/input.rs",
        "coordinator/src/effect.rs",
        "coordinator/src/row.rs",
        "tui/src/console/model",
        "tui/src/console/update",
        "tui/src/console/view",
        "protocol/src/spec.rs",
        "protocol/src/spec_check.rs",
        "protocol/src/filter.rs",
        "protocol/src/selector.rs",
        "protocol/src/cause.rs",
        "protocol/src/state.rs",
        "protocol/src/intervals.rs",
        "protocol/src/resources.rs",
    ];
    let impure = ["std::time::", "SystemTime", "Instant::now", "tokio::", "std::fs", "async fn", "std::net"];
    for part in pure {
        let path = root().join(part);
        let files = if path.is_file() {
            vec![(path.clone(), std::fs::read_to_string(&path).unwrap())]
        } else {
            sources(part)
        };
        for (path, text) in files.iter().filter(|(path, _)| !is_test(path)) {
            for word in impure {
                assert!(!code(text).any(|line| line.contains(word)), "{} has {word}", path.display());
            }
        }
    }
}

#[test]
fn files_are_small_open_with_their_purpose_and_promise_nothing() {
    // Two words that would be found here, too.
    let later = ["TO", "FIX"].map(|start| format!("{start}{}", if start == "TO" { "DO" } else { "ME" }));
    let mut wrong = Vec::new();
    for (path, text) in CRATES.iter().chain(&["tests"]).flat_map(|part| sources(part)) {
        let shown = path.strip_prefix(root()).unwrap().display().to_string();
        if !text.starts_with("//! ") {
            wrong.push(format!("{shown} does not say what it is for"));
        }
        let lines = code(&text).count();
        if lines > 400 && !is_test(&path) {
            wrong.push(format!("{shown} has {lines} lines of code"));
        }
        if later.iter().any(|word| text.contains(word)) {
            wrong.push(format!("{shown} promises something for later"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn unsafe_code_lives_in_one_place() {
    for (path, text) in CRATES.iter().chain(&["tests"]).flat_map(|part| sources(part)) {
        let allowed = ["agent/src/guardian/sys.rs", "tests/src/bin/bench.rs", "tests/src/vfs.rs"]
            .iter()
            .any(|known| path.ends_with(known));
        let blocks = ["unsafe {", "unsafe fn", "unsafe impl"];
        let found = code(&text).any(|l| !l.contains('"') && blocks.iter().any(|word| l.contains(word)));
        assert!(allowed || !found, "{} has unsafe code", path.display());
    }
}

#[test]
fn every_path_in_the_architecture_exists() {
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let is_path = |word: &str| {
        let plain = word.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
        let first = word.split('/').next().unwrap_or("");
        let known = CRATES.contains(&first) || ["tests", "docs", "packaging", ".ci"].contains(&first);
        plain && word.contains('/') && known
    };
    let mut seen = 0;
    for word in text.split('`').skip(1).step_by(2).filter(|word| is_path(word)) {
        seen += 1;
        assert!(root().join(word).exists(), "ARCHITECTURE.md names {word}, which does not exist");
    }
    assert!(seen > 10, "it names {seen} paths: is it about this source?");
}

#[test]
fn every_code_of_an_error_is_explained() {
    let text = std::fs::read_to_string(root().join("docs/errors.md")).expect("docs/errors.md");
    for code in reeve_protocol::Code::ALL {
        let heading = format!("## {}", code.name());
        assert!(text.lines().any(|line| line.trim_end() == heading), "docs/errors.md lacks {heading:?}");
    }
}
