//! Every committed input, and a few thousand seeded mutations of them, through everything that reads strangers' bytes.
//! An input that once broke something lies in `tests/corpus/TARGET` and is run first. For longer: `tests/fuzz`.
use reeve_tests::fuzz::{Budget, TARGETS, corpus, explore};

/// Inputs per target; signing costs more than reading.
fn runs(target: &str) -> u64 {
    match target {
        "request" => 400,
        "coordinator_config" | "agent_config" => 2000,
        _ => 20_000,
    }
}

#[test]
fn what_strangers_write_breaks_no_property() {
    let mut broken = Vec::new();
    for target in TARGETS {
        let seeds = corpus(target.name);
        assert!(!seeds.is_empty(), "tests/corpus/{} has no input", target.name);
        let report = explore(target, &seeds, 7, Budget::Runs(runs(target.name)));
        for crash in &report.crashes {
            eprintln!(
                "{}: {}\n  input {:?}",
                target.name,
                crash.message,
                String::from_utf8_lossy(&crash.input)
            );
        }
        if !report.crashes.is_empty() {
            broken.push(target.name);
        }
        assert!(
            report.classes.len() > 1,
            "{}: every input has the same outcome {:?}",
            target.name,
            report.classes
        );
    }
    assert!(broken.is_empty(), "broken properties: {broken:?}");
}

#[test]
fn the_explorer_finds_what_is_hidden_behind_three_steps_and_is_the_same_every_time() {
    fn hidden(input: &[u8]) -> String {
        assert!(!input.starts_with(b"abc"), "found");
        (0..3).take_while(|at| input.get(*at) == Some(&b"abc"[*at])).count().to_string()
    }
    let target = reeve_tests::fuzz::Target { name: "hidden", dictionary: &[], run: hidden };
    let find = || explore(&target, &[], 3, Budget::Runs(200_000));
    let report = find();
    assert_eq!(report.crashes.len(), 1, "{:?}", report.classes);
    assert_eq!(report.classes, find().classes);
}
