//! `docs/promises.md` names, for each promise, the test that would prove it wrong: each of them must exist.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The words of Rust functions below `dir`.
fn functions(dir: &Path, into: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "target") {
                functions(&path, into);
            }
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            for line in text.lines() {
                let Some((_, after)) = line.split_once("fn ") else { continue };
                into.insert(after.split(['(', '<']).next().unwrap_or_default().to_owned());
            }
        }
    }
}

/// What looks like the name of a test: three words at least.
fn named(text: &str) -> BTreeSet<&str> {
    text.split('`')
        .skip(1)
        .step_by(2)
        .filter(|word| word.matches('_').count() >= 3)
        .filter(|word| word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'))
        .collect()
}

#[test]
fn every_test_that_a_promise_names_exists() {
    let mut known = BTreeSet::new();
    for part in ["tests", "agent", "coordinator", "protocol", "tui"] {
        functions(&root().join(part), &mut known);
    }
    let text = std::fs::read_to_string(root().join("docs/promises.md")).unwrap();
    let named = named(&text);
    assert!(named.len() > 50, "the document names {} tests only", named.len());
    let missing: Vec<&&str> = named.iter().filter(|name| !known.contains(**name)).collect();
    assert!(missing.is_empty(), "promises.md names tests that do not exist: {missing:?}");
}

#[test]
fn every_promise_has_its_line() {
    let text = std::fs::read_to_string(root().join("docs/promises.md")).unwrap();
    for number in 1..=40 {
        assert!(text.contains(&format!("| P{number} |")), "promise P{number} is not in the document");
    }
}
