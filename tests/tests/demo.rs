//! `reeve up --demo`: the first thing that a new user sees must work from an empty directory to the last line.
use reeve_tests::binary;
use std::process::{Command, Stdio};

#[test]
fn the_demo_runs_to_its_end_and_sums_up() {
    let base = tempfile::Builder::new().prefix("reeve-test-").tempdir().unwrap();
    let run = |words: &[&str]| {
        let mut command = Command::new(binary("reeve"));
        // One place for both, as some who have no session do: the parts must not be in each other's way.
        command.args(words);
        command.env("XDG_RUNTIME_DIR", base.path()).env("XDG_DATA_HOME", base.path()).env("NO_COLOR", "1");
        command.env_remove("REEVE_HOST").stdin(Stdio::null()).output().unwrap()
    };
    let output = run(&["up", "--demo", "--exit-when-idle", "--no-console"]);
    let stopped = run(&["down", "--jobs"]);
    reeve_tests::sweep(&[base.path()]);
    let (said, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{told}");
    assert!(stopped.status.success(), "nothing runs any more, and that is fine");
    assert!(said.starts_with("ready socket="), "{said}");
    let build = said.lines().find(|line| line.contains("build")).unwrap_or_default();
    assert!(build.contains("COMPLETED"), "the job in a checkout: {said}");
    let asked = said.lines().filter(|line| line.contains("ask-") && line.contains("COMPLETED")).count();
    assert_eq!(asked, 3, "the static worker has answered: {said}");
    assert!(said.contains("COMPLETED") && said.contains("FAILED"), "a summary of what became of it: {said}");
}
