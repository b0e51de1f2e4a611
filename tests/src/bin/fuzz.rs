//! `tests/fuzz [TARGET..] [--minutes N] [--seed S]`: explores every target (or those named) in turn for N minutes each.
//! Writes inputs that break a property to `target/fuzz/TARGET/crash-*`, and those that reached a new outcome to
//! `target/fuzz/TARGET/new-*`; exit code 1 when something broke.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a tool of the tests")]
use reeve_protocol::token::sha256_hex;
use reeve_tests::fuzz::{Budget, TARGETS, Target, corpus, explore};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

fn main() -> ExitCode {
    let (mut minutes, mut seed, mut names) = (1.0, None, Vec::new());
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--minutes" => minutes = words.next().and_then(|n| n.parse().ok()).unwrap_or(minutes),
            "--seed" => seed = words.next().and_then(|n| n.parse().ok()),
            "--help" | "-h" => {
                println!(
                    "tests/fuzz [TARGET..] [--minutes N (for each target)] [--seed S]\ntargets: {}",
                    known()
                );
                return ExitCode::SUCCESS;
            }
            name => names.push(name.to_owned()),
        }
    }
    if let Some(unknown) = names.iter().find(|name| TARGETS.iter().all(|t| t.name != name.as_str())) {
        eprintln!("there is no target {unknown:?}; there are: {}", known());
        return ExitCode::from(2);
    }
    // Panics are the findings: they are told once, below.
    std::panic::set_hook(Box::new(|_| {}));
    let seed: u64 = seed.unwrap_or_else(|| u64::from(std::process::id()) * 7919);
    let wanted = TARGETS.iter().filter(|t| names.is_empty() || names.iter().any(|name| name == t.name));
    let broken: usize = wanted.map(|target| one(target, seed, Duration::from_secs_f64(minutes * 60.0))).sum();
    if broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn known() -> String {
    TARGETS.iter().map(|t| t.name).collect::<Vec<_>>().join(" ")
}

/// Explores one target; how many properties broke.
fn one(target: &Target, seed: u64, time: Duration) -> usize {
    let report = explore(target, &corpus(target.name), seed, Budget::Until(Instant::now() + time));
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/fuzz").join(target.name);
    std::fs::create_dir_all(&dir).unwrap();
    let keep = |prefix: &str, input: &[u8]| {
        let path = dir.join(format!("{prefix}-{}", &sha256_hex(input)[..12]));
        std::fs::write(&path, input).unwrap();
        path
    };
    report.found.iter().for_each(|input| drop(keep("new", input)));
    println!(
        "{}: seed {seed}, {} runs, {} outcomes, {} broken",
        target.name,
        report.runs,
        report.classes.len(),
        report.crashes.len()
    );
    for crash in &report.crashes {
        println!("  {}: {}", keep("crash", &crash.input).display(), crash.message);
    }
    report.crashes.len()
}
