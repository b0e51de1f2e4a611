//! The agents' port: QUIC in, inputs to the engine out, and the engine's frames back. This layer judges bytes and
//! identities; what is said between the lines is the core's.
//!
//! `accept` takes connections, `join` serves those without a certificate, `session` one machine's session with its
//! `reader`, `writer` and `streams`; `decode`, `encode`, `order`, `held` and `beats` are pure.
mod accept;
mod beats;
mod bulk;
mod decode;
mod encode;
mod end;
mod held;
mod join;
mod machines;
mod order;
mod reader;
mod renewal;
mod session;
pub mod sessions;
mod socket;
mod streams;
mod writer;

#[cfg(test)]
mod tests;

pub use accept::Net;
pub use machines::Machines;
pub use socket::Sockets;

use crate::engine::Handle;
use crate::identity::{self, Authority};
use crate::segments::Segments;
use beats::Pulse;
use join::Rate;
use sessions::Sessions;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What keeps the port from opening.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address cannot be had.
    #[error("cannot listen on {0}; choose another with --listen, or stop what has it (ss -lunp)")]
    Bind(SocketAddr, #[source] std::io::Error),
    /// The endpoint did not start.
    #[error("cannot start the agents' port")]
    Endpoint(#[source] std::io::Error),
    /// The coordinator's own certificate.
    #[error("cannot use the coordinator's keys")]
    Identity(#[from] identity::Error),
}

/// What every connection needs.
pub struct Context {
    /// The way to the engine.
    pub handle: Handle,
    /// Where the engine finds sessions.
    pub sessions: Arc<Sessions>,
    /// Where large output goes.
    pub segments: Arc<Segments>,
    /// Signs machines' certificates.
    pub authority: Arc<Authority>,
    /// Who holds which certificate.
    pub machines: Arc<Machines>,
    /// The cluster's id.
    pub cluster: String,
    numbers: AtomicU64,
    pulse: Pulse,
    joins: Rate,
}

impl Context {
    /// A context in which no session has been opened yet.
    pub fn new(
        handle: Handle,
        sessions: Arc<Sessions>,
        segments: Arc<Segments>,
        authority: Arc<Authority>,
        machines: Arc<Machines>,
        cluster: String,
    ) -> Self {
        Self {
            handle,
            sessions,
            segments,
            authority,
            machines,
            cluster,
            numbers: AtomicU64::new(0),
            pulse: Pulse::new(),
            joins: Rate::default(),
        }
    }

    /// The next session's number: rising, from 1.
    fn next_session(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed) + 1
    }
}
