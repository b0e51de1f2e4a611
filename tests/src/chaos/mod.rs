//! Chaos on real processes: a cluster behind a proxy, a load that keeps its own books, a nemesis that breaks things by
//! a seeded plan, observers, and an export for `ledger-check`, which judges from files alone.
//!
//! Truth about execution is written by the jobs themselves (`ledgerjob`), on storage that no fault touches.
pub mod client;
pub mod cluster;
pub mod export;
pub mod gauge;
pub mod generate;
pub mod ledger;
pub mod load;
pub mod namespace;
pub mod nemesis;
pub mod observe;
pub mod operator;
pub mod plan;
pub mod processes;
pub mod proxy;
pub mod rng;
pub mod run;
pub mod supervise;

/// What a run, or a part of it, failed with: words for a person.
pub type Failure = String;
