//! Chaos on real processes: see `tests/chaos --help` and `reeve_tests::chaos`.
#![allow(clippy::print_stdout, reason = "a report for people")]

use reeve_tests::chaos::run::{Wish, run};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

const HELP: &str = "\
reeve-chaos [OPTIONS]: break a cluster of real processes by a seeded plan while jobs run; then check every promise.
  --seed N         the plan and the jobs [default: drawn, and printed]
  --jobs N         jobs to submit [default: 160; operator: 100000]
  --seconds N      how long things are broken [default: 24]
  --minutes N      the same
  --machines N     [default: 2; operator: 4]
  --scenario NAME  nemesis (default) or operator: kills in every order, stops, an unplugged link, a full disk
  --long           operator: the link is also unplugged for six minutes, longer than a machine may be silent
  --bin-dir DIR    where the binaries are [default: beside this one]
  --dir DIR        where everything is kept [default: a fresh directory, removed when all is well]
Exit: 0 everything held, 1 something did not, 2 the run could not be done.";

fn wish() -> Result<(Wish, Option<tempfile::TempDir>), String> {
    let mut words = std::env::args().skip(1);
    let drawn = std::collections::hash_map::RandomState::new();
    let seed = std::hash::BuildHasher::hash_one(&drawn, 0) % 1_000_000;
    let (mut jobs, mut machines, mut dir) = (None, None, None);
    let mut wish = Wish {
        seed,
        jobs: 0,
        time: Duration::from_secs(24),
        machines: 0,
        scenario: "nemesis".to_owned(),
        long: false,
        bins: std::env::current_exe()
            .map_err(|e| e.to_string())?
            .parent()
            .map(PathBuf::from)
            .unwrap_or_default(),
        dir: PathBuf::new(),
    };
    while let Some(word) = words.next() {
        if word == "--long" {
            wish.long = true;
            continue;
        }
        if word == "--help" || word == "-h" {
            return Err(HELP.to_owned());
        }
        let value = words.next().ok_or_else(|| format!("{word} needs a value\n{HELP}"))?;
        let number = || value.parse::<u64>().map_err(|_| format!("{word} {value}: not a number"));
        match word.as_str() {
            "--seed" => wish.seed = number()?,
            "--jobs" => jobs = Some(number()?),
            "--seconds" => wish.time = Duration::from_secs(number()?),
            "--minutes" => wish.time = Duration::from_secs(number()? * 60),
            "--machines" => machines = Some(number()?.clamp(1, 16) as usize),
            "--scenario" if value == "nemesis" || value == "operator" => wish.scenario = value,
            "--bin-dir" => wish.bins = std::path::absolute(value).map_err(|e| e.to_string())?,
            "--dir" => dir = Some(std::path::absolute(value).map_err(|e| e.to_string())?),
            _ => return Err(format!("unknown: {word} {value}\n{HELP}")),
        }
    }
    let operator = wish.scenario == "operator";
    wish.jobs = jobs.unwrap_or(if operator { 100_000 } else { 160 });
    wish.machines = machines.unwrap_or(if operator { 4 } else { 2 });
    let fresh = if let Some(dir) = dir {
        std::fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        wish.dir = dir;
        None
    } else {
        let fresh = tempfile::Builder::new().prefix("reeve-chaos-").tempdir().map_err(|e| e.to_string())?;
        fresh.path().clone_into(&mut wish.dir);
        Some(fresh)
    };
    Ok((wish, fresh))
}

fn main() -> ExitCode {
    let (wish, fresh) = match wish() {
        Ok(wish) => wish,
        Err(words) => {
            eprintln!("{words}");
            return ExitCode::from(2);
        }
    };
    println!("chaos: seed {}, files in {}", wish.seed, wish.dir.display());
    let seed = wish.seed;
    let Ok(runtime) = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()
    else {
        return ExitCode::from(2);
    };
    match runtime.block_on(run(wish)) {
        Ok(true) => return ExitCode::SUCCESS,
        Ok(false) => eprintln!("chaos: something did not hold; once more with: --seed {seed}"),
        Err(words) => eprintln!("chaos: the run could not be done: {words}"),
    }
    if let Some(kept) = fresh {
        eprintln!("chaos: everything is kept in {}", kept.keep().display());
    }
    ExitCode::from(1)
}
