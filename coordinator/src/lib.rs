//! The coordinator of reeve: one engine that owns every job, and the doors to it.
//!
//! Inwards: `cluster`, `orchestrator` and `job_manager` are pure and do not know each other; `core` has one function per
//! `input` and answers in `effect`s (with `row`s inside). `engine` runs it, `recorder` writes its facts to the `store` and
//! only then releases its effects; `hub` tells observers.
//!
//! Outwards: `net` (with `identity` and `segments`) speaks to machines, `api` to people and scripts. `run` puts all of it
//! together; `admission`, `config`, `logging`, `watchdog` and `clock` belong to the process. Each ring looks only inwards.
#![forbid(unsafe_code)]

pub mod admission;
pub mod api;
pub mod backend;
pub mod clock;
pub mod cluster;
pub mod config;
pub mod core;
pub mod effect;
pub mod engine;
pub mod hub;
pub mod identity;
pub mod input;
pub mod job_manager;
pub mod loader;
pub mod logging;
pub mod net;
pub mod orchestrator;
pub mod recorder;
pub mod row;
mod run;
pub mod segments;
pub mod store;
mod watchdog;

pub use config::Config;
pub use run::{Error, Ready, init, is_initialised, run};
