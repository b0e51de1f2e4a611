//! Runs simulated histories by hand: one seed with its history, many seeds, or as many steps as wished. Started by
//! `tests/simulate`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a tool for people")]

use reeve_tests::sim::count::Count;
use reeve_tests::sim::{Options, run};
use std::process::ExitCode;
use std::time::Instant;

const USAGE: &str = "usage: tests/simulate [--seeds N] [--from SEED] [--steps N]
       tests/simulate --seed SEED [--trace]
--seeds  so many seeds, one after the other (default 500)
--from   the first of them (default 1)
--steps  go on until so many steps were decided
--seed   this one; its digest is printed, and its history if it fails
--trace  print everything that happens in it";

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let (mut seeds, mut from, mut steps, mut seed, mut trace) = (500, 1, 0, None, false);
    while let Some(word) = args.next() {
        let mut number = || args.next().and_then(|n| n.parse::<u64>().ok());
        let known = match word.as_str() {
            "--seeds" => number().map(|n| seeds = n),
            "--from" => number().map(|n| from = n),
            "--steps" => number().map(|n| steps = n),
            "--seed" => number().map(|n| seed = Some(n)),
            "--trace" => {
                trace = true;
                Some(())
            }
            _ => None,
        };
        if matches!(word.as_str(), "--help" | "-h") {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        if known.is_none() {
            eprintln!("{word:?} is not understood\n{USAGE}");
            return ExitCode::from(2);
        }
    }
    match seed {
        Some(seed) => one(seed, trace),
        None => many(from, seeds, steps),
    }
}

fn one(seed: u64, trace: bool) -> ExitCode {
    let report = run(Options { trace: true, print: trace, ..Options::of(seed) });
    print!("{}", report.count.table());
    println!("seed {seed} digest {:016x}", report.hash);
    let Some(broken) = report.broken else { return ExitCode::SUCCESS };
    if !trace {
        report.history.iter().for_each(|line| println!("{line}"));
    }
    println!("seed {seed}: {broken}");
    ExitCode::FAILURE
}

fn many(from: u64, seeds: u64, steps: u64) -> ExitCode {
    let started = Instant::now();
    let (mut total, mut seed, mut failed) = (Count::default(), from, Vec::new());
    while if steps > 0 { total.steps < steps } else { seed < from + seeds } {
        let report = run(Options::of(seed));
        total.merge(&report.count);
        if let Some(broken) = report.broken {
            println!("seed {seed}: {broken}");
            failed.push(seed);
        }
        seed += 1;
    }
    print!("{}", total.table());
    for path in total.missed() {
        println!("   never  {path}");
    }
    println!("{} seeds in {:.1} s, {} failed", seed - from, started.elapsed().as_secs_f64(), failed.len());
    match failed.first() {
        None => ExitCode::SUCCESS,
        Some(seed) => {
            println!("the history of the first: tests/simulate --seed {seed}");
            ExitCode::FAILURE
        }
    }
}
