//! The API for people and scripts: HTTP/1.1 and h2c on a Unix socket, JSON as `protocol::api` describes it.
//!
//! Handlers translate: a request becomes a [`Call`] to the engine or a read of the store, and the
//! answer becomes JSON. Nothing is decided here. [`socket`] accepts and serves connections, [`routes`] is the table of
//! paths, [`request`] and [`reply`] are the two ends of a handler, [`stream`] is an answer that goes on.
mod artifacts;
mod events;
mod guests;
mod jobs;
mod lines;
mod listing;
mod logs;
mod machines;
mod metrics;
mod ndjson;
mod openapi;
mod plans;
mod polite;
mod publish;
mod queues;
mod reply;
mod request;
mod routes;
mod routing;
mod select;
mod server;
mod socket;
mod stats;
mod stream;
mod submit;
mod tape;
mod views;
mod workers;

pub use server::serve;
pub use socket::bind;

use crate::backend::Backends;
use crate::engine::Handle;
use crate::hub::Hub;
use crate::input::Call;
use crate::net::sessions::Sessions;
use crate::row::Caller;
use crate::segments::Segments;
use crate::store::read::ReadPool;
use reeve_protocol::time::Wall;
use reply::Failure;
use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Instant;
use tokio::sync::watch;

/// What the API works with.
pub struct State {
    /// The way to the engine.
    pub handle: Handle,
    /// What has been committed.
    pub hub: Arc<Hub>,
    /// Committed snapshots.
    pub reads: Arc<ReadPool>,
    /// Output that is too large for the store.
    pub segments: Arc<Segments>,
    /// The machines' sessions, for output while it is written.
    pub sessions: Arc<Sessions>,
    /// The brokers that queues are kept at.
    pub backends: Arc<Backends>,
    /// What join tokens are made of.
    pub mint: TokenMint,
    /// What does not change while it runs.
    pub info: Info,
    /// The one user that is served, beside root.
    pub owner_uid: u32,
}

/// The public half of the cluster's identity: what a join token carries beside its secret.
#[derive(Clone, Debug)]
pub struct TokenMint {
    /// The cluster's id.
    pub cluster: String,
    /// SHA-256 of the CA certificate, hex.
    pub ca_hash: String,
    /// Where agents reach this coordinator, best first.
    pub addresses: Vec<String>,
}

/// What does not change while the coordinator runs.
#[derive(Clone, Debug)]
pub struct Info {
    /// The cluster's id.
    pub cluster: String,
    /// Its name, for people.
    pub name: String,
    /// The store's lineage.
    pub lineage: String,
    /// Counts starts.
    pub epoch: u64,
    /// The data directory.
    pub dir: PathBuf,
    /// Where agents connect, UDP.
    pub listen: String,
    /// When this process began to serve.
    pub started: Instant,
}

/// What every handler sees.
struct App {
    state: State,
    /// True once the coordinator stops: whatever waits or follows ends then.
    stopping: watch::Receiver<bool>,
    /// Plans being run: a plan is run once, and its end is recorded only after its last portion.
    running_plans: Mutex<HashSet<u64>>,
}

impl std::ops::Deref for App {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

impl App {
    fn new(state: State, stopping: watch::Receiver<bool>) -> Self {
        Self { state, stopping, running_plans: Mutex::default() }
    }

    /// Asks the engine; the answer comes after everything it depends on is on disk.
    async fn ask(&self, caller: &Caller, call: Call) -> Result<crate::effect::Reply, Failure> {
        self.handle.ask(caller, call).await.map_err(Failure)
    }

    /// The last committed event.
    fn seq(&self) -> u64 {
        *self.hub.seq().borrow()
    }

    /// Resolves when the coordinator stops.
    async fn stopped(&self) {
        // An error means that the sender is gone, which is a stop as well.
        let _ = self.stopping.clone().wait_for(|stop| *stop).await;
    }
}

/// This moment, for what is shown and for times that callers give as a distance from now.
fn now() -> Wall {
    Wall(crate::clock::now().wall)
}

#[cfg(test)]
mod tests;
