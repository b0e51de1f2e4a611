//! `ledger-check DIR`: judges a chaos run from its files alone and shares no code with reeve. Prints for every invariant
//! how many facts were checked and what broke it, the faults that were injected, and four numbers that must be zero.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program of the tests: its report goes to people, and a ledger that makes no sense ends it"
)]

#[expect(unreachable_pub, reason = "the file is also a module of the library")]
#[path = "../../chaos/generate.rs"]
mod generate;
mod history;
mod report;
mod rules_end;
mod rules_execution;
mod rules_state;

#[cfg(test)]
mod doctored_test;

use history::History;
use report::Report;
use std::path::Path;
use std::process::ExitCode;

/// Every rule on one history.
fn check(history: &History) -> Report {
    let mut report = Report::default();
    rules_state::check(history, &mut report);
    rules_execution::check(history, &mut report);
    rules_end::check(history, &mut report);
    report
}

fn main() -> ExitCode {
    let Some(dir) = std::env::args().nth(1) else {
        eprintln!("ledger-check DIR: judges a chaos run from its files");
        return ExitCode::from(2);
    };
    let history = match History::read(Path::new(&dir)) {
        Ok(history) => history,
        Err(words) => {
            eprintln!("ledger-check: {words}");
            return ExitCode::from(2);
        }
    };
    let report = check(&history);
    print!("{}{}", history.faults_text(), report.text());
    if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::from(1) }
}
