//! What docs/workers.md shows runs as it stands there.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]
use reeve_tests::server::Server;

#[test]
fn the_model_bank_of_the_documentation_loads_answers_and_takes_jobs() {
    let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/workers.md");
    let page = std::fs::read_to_string(page).unwrap();
    let program = page.split("```python\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    assert!(program.starts_with("# bank.py"), "{program}");
    if std::process::Command::new("python3").arg("--version").output().is_err() {
        return reeve_tests::skip(
            "the_model_bank_of_the_documentation_loads_answers_and_takes_jobs",
            "python3 is not installed",
        );
    }
    let server = Server::start();
    let file = server.scratch().join("bank.py");
    std::fs::write(&file, program).unwrap();
    let file = file.display().to_string();
    server.ok(&["worker", "register", "bank", "--static", "--cpus", "0.1", "--", "python3", &file]);
    server.ok(&["worker", "launch", "bank"]);
    let answer = server.ok(&["worker", "call", "bank", r#"{"pixels": 7}"#]);
    let called: serde_json::Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(called, serde_json::json!({"label": "cat"}));
    let id = server.ok(&["submit", "--worker", "bank", "--payload", r#"{"pixels": 7}"#]);
    let job = server.until(&id, "COMPLETED");
    assert_eq!(job["result"], called, "both ways give the same");
}
