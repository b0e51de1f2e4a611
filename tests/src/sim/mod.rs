//! A seeded simulation of the whole: the real core with the real store, driven by simulated machines, clients, network and
//! clocks, with faults of every kind. One seed is one history, and replays exactly.
//!
//! `tests/tests/simulation.rs` runs many seeds and demands that every path was taken; `tests/simulate` runs one seed with
//! its history, or goes on for millions of steps.
pub mod agenda;
pub mod broker;
pub mod calls;
pub mod clients;
pub mod count;
pub mod disk;
pub mod door;
pub mod faults;
pub mod gpus;
pub mod head;
pub mod host;
pub mod ingress;
pub mod ledger;
pub mod messages;
pub mod network;
pub mod replicas;
pub mod rng;
pub mod store;
pub mod verdict;
pub mod watch;
pub mod workers;
pub mod world;

use agenda::Due;
use clients::Action;
use count::Count;
use std::panic::{AssertUnwindSafe, catch_unwind};
use world::World;

/// A deliberate mistake: a simulation that does not notice it proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// One fact whose name begins so never reaches the disk.
    DropFact(&'static str),
    /// Every Start is sent to another machine too.
    DoubleStart,
    /// The end of a fenced attempt passes for the end of its successor.
    StaleEnd,
    /// Effects are released although the commit that they depend on never happens.
    ReleaseBeforeRecord,
    /// The core is never told that the disk is full.
    DiskUntold,
    /// A Start names a gpu that was not given.
    WrongGpu,
}

/// How a run goes.
#[derive(Clone, Debug)]
pub struct Options {
    /// The history.
    pub seed: u64,
    /// Thousandths of cpus of each machine.
    pub cpu_milli: Vec<u32>,
    /// Virtual milliseconds with faults and clients.
    pub length_ms: u64,
    /// Longest pause between two faults.
    pub pause_ms: u64,
    /// Longest pause between two calls.
    pub calls_ms: u64,
    /// After so many of a hundred writing steps a restart is compared with what lives.
    pub compare_percent: u64,
    /// Jobs at hand per queue and need: the fewer, the more are parked.
    pub window: usize,
    /// Keep a history.
    pub trace: bool,
    /// Print it, too.
    pub print: bool,
    /// A deliberate mistake.
    pub sabotage: Option<Sabotage>,
}

impl Options {
    /// The run of a seed: its size and its temper are chance, too.
    pub fn of(seed: u64) -> Self {
        let mut rng = rng::Rng::new(seed ^ 0x5eed);
        let machines = rng.range(2, 5);
        Self {
            seed,
            // One is large: with all the replicas that anybody asks for it still has room for the largest job.
            cpu_milli: (0..machines)
                .map(|at| if at == 0 { 4_000 } else { *rng.pick(&[2_000, 2_000, 4_000]) })
                .collect(),
            length_ms: rng.range(90_000, 420_000),
            pause_ms: *rng.pick(&[6_000, 15_000, 45_000]),
            calls_ms: *rng.pick(&[1_500, 3_000, 6_000]),
            compare_percent: 5,
            window: *rng.pick(&[1, 2, 3, 8, 2_048]),
            trace: false,
            print: false,
            sabotage: None,
        }
    }
}

/// What became of a run.
#[derive(Clone, Debug)]
pub struct Report {
    /// Its seed.
    pub seed: u64,
    /// The digest of everything that happened.
    pub hash: u64,
    /// What was exercised.
    pub count: Count,
    /// How often its sabotage struck.
    pub sabotaged: u64,
    /// What did not hold.
    pub broken: Option<String>,
    /// The last lines of history, if one was kept.
    pub history: Vec<String>,
}

/// Runs one history to its end, and judges it.
pub fn run(options: Options) -> Report {
    let mut world = World::new(options);
    let outcome = catch_unwind(AssertUnwindSafe(|| play(&mut world)));
    if let Err(panic) = outcome {
        let words = panic.downcast_ref::<String>().cloned();
        let words = words.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        world.fail(format!("panicked: {}", words.unwrap_or_default()));
    }
    Report {
        seed: world.options.seed,
        hash: world.hash,
        sabotaged: world.sabotaged,
        broken: world.broken().cloned(),
        history: world.history(),
        count: world.count,
    }
}

fn play(world: &mut World) {
    world.agenda.at(world.now, Due::HeadStart);
    for host in 0..world.hosts.len() {
        world.agenda.at(world.now + 10, Due::AgentBorn(host));
    }
    world.agenda.at(world.now + 100, Due::Client(Box::new(Action::Anything)));
    for call in workers::first(&world.options, &mut world.rng) {
        world.agenda.at(world.now + 50, Due::Client(Box::new(Action::Other(Box::new(call)))));
    }
    world.agenda.at(world.now + 5_000, Due::Fault);
    world.run_until(world.now + world.options.length_ms);
    verdict::drain(world);
    verdict::judge(world);
}
