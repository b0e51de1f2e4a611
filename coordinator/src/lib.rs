//! The coordinator of reeve: one engine that owns every job, and the doors to it.
#![forbid(unsafe_code)]

pub mod api;
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
pub mod logging;
pub mod net;
pub mod orchestrator;
pub mod recorder;
pub mod row;
pub mod segments;
pub mod store;
