//! The `reeve` binary as a library: the console and the command line, both plain clients of the HTTP API.
//!
//! Of this crate only `up` may name the coordinator and the agent.
#![forbid(unsafe_code)]

pub mod cli;
pub mod client;
pub mod console;
pub mod host;
pub mod up;
