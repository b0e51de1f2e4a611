//! Figures of the brokers: the trait beside the bare client with the same settings, messages through the API, jobs, moves,
//! what trouble costs. Each needs a real `redis-server` or `rabbitmq-server`, and says so where there is none.
mod backlog;
mod jobs;
mod look;
mod messages;
mod raw;
mod through;
mod trouble;

pub use backlog::backlog;
pub use jobs::{jobs, moves};
pub use messages::messages;
pub use through::at_the_trait;
pub use trouble::{noticed, pauses};

use super::Table;
use crate::broker::Redis;
use crate::rabbitmq::RabbitServer;
use crate::server::Server;

/// A word of the command line that chooses a figure.
pub type Word = (&'static str, fn(&mut Table));

/// All of it, by the words that choose: `brokers` means all.
pub const ALL: [Word; 7] = [
    ("brokers-trait", at_the_trait),
    ("brokers-messages", messages),
    ("brokers-jobs", jobs),
    ("brokers-move", moves),
    ("brokers-pause", pauses),
    ("brokers-noticed", noticed),
    ("brokers-backlog", backlog),
];

/// A real Redis as operators run one, and a real RabbitMQ.
fn servers() -> Option<(Redis, RabbitServer)> {
    let both = Redis::start().zip(RabbitServer::start());
    if both.is_none() {
        eprintln!("SKIPPED: no redis-server, or no rabbitmq-server");
    }
    both
}

/// A coordinator with its machine, and a queue kept there.
fn with_queue(name: &str, kind: &str, backend: &str) -> Server {
    let server = Server::start();
    keep(&server, name, kind, backend);
    server
}

/// A queue kept there, once it can be used.
fn keep(server: &Server, name: &str, kind: &str, backend: &str) {
    server.ok(&["queue", "set", name, "--kind", kind, "--backend", backend]);
    if backend.contains("://") {
        crate::eventually("the broker to be there", || {
            let view = server.get(&format!("/v1/queues/{name}")).json();
            (view["degraded"].is_null() && view["backend_version"].is_string()).then_some(())
        });
    }
}

/// How a ratio is shown.
fn ratio(ours: f64, raw: f64) -> String {
    format!("{ours:.0} /s = {:.2}", ours / raw)
}

/// The middle of ratios taken in the same round.
fn middle(ours: &[f64], raw: &[f64]) -> f64 {
    super::median(ours.iter().zip(raw).map(|(a, b)| a / b).collect())
}
