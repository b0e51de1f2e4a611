//! What every refusal of the coordinator has to be, and that it serves the next client.
use crate::http::{self, Answer};
use crate::machine::Coordinator;
use serde_json::Value;

/// The coordinator answers, and takes a job.
pub fn serves(c: &Coordinator, after: &str) {
    assert_eq!(http::get(&c.socket(), "/v1/health").status, 200, "after {after}");
    let held = http::post(&c.socket(), "/v1/jobs", r#"{"command":["true"],"hold":true}"#);
    assert_eq!(held.status, 201, "after {after}: {}", held.text());
}

/// The coordinator's process.
pub fn pid(c: &Coordinator) -> u32 {
    c.daemon.as_ref().unwrap().pid()
}

/// A refusal as it has to be.
pub fn is_honest(c: &Coordinator, what: &str, answer: &Answer) -> Value {
    let head = answer.head.to_ascii_lowercase();
    assert!(
        head.contains("content-type: application/problem+json"),
        "{what}: {} {}",
        answer.head,
        answer.text()
    );
    let problem = answer.json();
    assert_eq!(problem["status"], answer.status, "{what}: {problem}");
    for field in ["code", "hint", "detail", "title"] {
        assert!(
            problem[field].as_str().is_some_and(|text| !text.is_empty()),
            "{what}: no {field}: {problem}"
        );
    }
    let text = answer.text();
    assert!(text.len() < 3000, "{what}: {} bytes", text.len());
    let data = c.data().display().to_string();
    for inside in [data.as_str(), "/src/", ".rs:", "SELECT", "sqlite", "panicked", "backtrace"] {
        assert!(!text.contains(inside), "{what} shows {inside}: {text}");
    }
    let bad = |c: char| reeve_protocol::text::is_hostile(c) || c == '\n';
    assert!(!problem["detail"].as_str().unwrap().chars().any(bad), "{what}: {problem}");
    problem
}
