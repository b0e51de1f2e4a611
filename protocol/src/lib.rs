//! What is said between the parts of reeve, and how it is carried.
//!
//! * JSON for people and scripts: [`spec`], [`api`], [`error`], [`filter`], [`selector`].
//! * Binary frames between coordinator, agent, keeper and guardian: [`wire`], [`guardian`], carried by [`frame`] and
//!   encoded by [`codec`].
//! * Repositories and what may be asked of them: [`git`], [`git_refs`], [`patch`].
//! * The vocabulary both share: [`ids`], [`state`], [`cause`], [`resources`], [`time`], [`units`], [`text`].
//!
//! This crate decides nothing: it holds no job and opens no socket, except for the recipe of a QUIC endpoint in
//! [`quic`].
#![forbid(unsafe_code)]

pub mod api;
pub mod artifact;
pub mod cause;
pub mod codec;
pub mod crash;
pub mod digest;
pub mod error;
pub mod filter;
pub mod frame;
pub mod git;
pub mod git_refs;
pub mod guardian;
pub mod ids;
pub mod intervals;
pub mod message_filter;
pub mod nearest;
pub mod patch;
pub mod quic;
pub mod reply_to;
pub mod resources;
pub mod selector;
pub mod spec;
pub mod spec_check;
pub mod state;
pub mod tape;
pub mod template;
pub mod text;
pub mod time;
pub mod token;
pub mod units;
pub mod validity;
pub mod wire;

pub use cause::Cause;
pub use error::{Code, Problem};
pub use ids::{AttemptId, JobId, TaskId};
pub use spec::JobSpec;
pub use state::{State, Substate};

/// The version of every binary of this workspace.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
