//! Seeded histories of the whole: the real core and store between simulated machines, clients and faults. What must hold is
//! in `tests/src/sim`; here it is run often, every path must have been taken, and deliberate mistakes must be noticed.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use reeve_tests::sim::count::Count;
use reeve_tests::sim::{Options, Sabotage, run};

/// Histories of the ordinary run.
const SEEDS: u64 = 300;

/// Runs seeds on this thread; the first that breaks ends the test with its history.
fn hold(seeds: impl Iterator<Item = u64>) -> Count {
    let mut total = Count::default();
    for seed in seeds {
        let report = run(Options::of(seed));
        if let Some(broken) = report.broken {
            let again = run(Options { trace: true, ..Options::of(seed) });
            panic!(
                "seed {seed}: {broken}\n{}\nrun it again: tests/simulate --seed {seed} --trace",
                again.history.join("\n")
            );
        }
        total.merge(&report.count);
    }
    total
}

#[test]
fn hundreds_of_histories_hold_and_every_path_is_taken() {
    // Two threads: the machines that run the tests have two cores.
    let halves =
        [0, 1].map(|half| std::thread::spawn(move || hold((1..=SEEDS).filter(|seed| seed % 2 == half))));
    let mut total = Count::default();
    for half in halves {
        match half.join() {
            Ok(count) => total.merge(&count),
            Err(broken) => std::panic::resume_unwind(broken),
        }
    }
    println!("{}", total.table());
    assert_eq!(total.missed(), [""; 0], "no history went there: the simulator has a hole");
}

#[test]
fn a_seed_is_a_history_and_another_seed_another_one() {
    let digest = |seed| run(Options::of(seed)).hash;
    for seed in [3, 14, 159] {
        assert_eq!(digest(seed), digest(seed), "seed {seed}");
    }
    assert_ne!(digest(3), digest(14));
}

#[test]
fn deliberate_mistakes_are_noticed() {
    let cases = [
        Sabotage::DropFact("JobMoved"),
        Sabotage::DropFact("TaskMoved"),
        Sabotage::DropFact("ArrayMoved"),
        Sabotage::DropFact("AttemptDispatched"),
        Sabotage::DropFact("AttemptEnded"),
        Sabotage::DropFact("MessageMoved"),
        Sabotage::DropFact("JobAdded"),
        Sabotage::DropFact("JobRequeued"),
        Sabotage::DropFact("MessagesMoved"),
        Sabotage::DropFact("InboxNoted"),
        Sabotage::DoubleStart,
        Sabotage::StaleEnd,
        Sabotage::ReleaseBeforeRecord,
        Sabotage::DiskUntold,
        Sabotage::WrongGpu,
    ];
    for sabotage in cases {
        let mut struck = 0;
        let caught = (1..=40).find_map(|seed| {
            let report = run(Options { sabotage: Some(sabotage), ..Options::of(seed) });
            struck += u64::from(report.sabotaged > 0);
            report.broken.filter(|_| report.sabotaged > 0)
        });
        assert!(struck > 0, "{sabotage:?} never struck: it proves nothing");
        println!("{sabotage:?}: {}", caught.expect("a mistake that 40 histories do not notice"));
    }
}
