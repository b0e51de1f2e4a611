//! How much lies at a broker, asked of the broker itself.
use crate::broker::Redis;
use crate::rabbitmq::RabbitServer;
use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ConnectionProperties};
use std::time::{Duration, Instant};

/// Both brokers, and an ordinary client of each.
pub(super) struct Brokers {
    pub(super) redis: Redis,
    pub(super) rabbit: RabbitServer,
    runtime: tokio::runtime::Runtime,
    channel: Channel,
    _connection: Connection,
}

impl Brokers {
    /// `None` where one of them is not installed.
    pub(super) fn start() -> Option<Self> {
        let (redis, rabbit) = super::servers()?;
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let url = format!("{}/%2f", rabbit.url());
        let (connection, channel) = runtime.block_on(async {
            let connection = Connection::connect(&url, ConnectionProperties::default()).await.unwrap();
            let channel = connection.create_channel().await.unwrap();
            (connection, channel)
        });
        Some(Self { redis, rabbit, runtime, channel, _connection: connection })
    }

    /// What lies at the broker of this kind under this name.
    pub(super) fn depth(&self, backend: &str, name: &str) -> u64 {
        if backend == "redis" {
            return self.redis.cli(&["xlen", name]).parse().unwrap();
        }
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let asked = self.channel.queue_declare(name.into(), passive, FieldTable::default());
        u64::from(self.runtime.block_on(asked).unwrap().message_count())
    }

    /// Waits until so much lies there.
    pub(super) fn until(&self, backend: &str, name: &str, n: u64) {
        let end = Instant::now() + Duration::from_mins(3);
        loop {
            let there = self.depth(backend, name);
            if there >= n {
                return;
            }
            assert!(Instant::now() < end, "{there} of {n} are there");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// As queues name them: local, redis, rabbitmq.
    pub(super) fn backends(&self) -> [(&'static str, String); 3] {
        [("local", "local".to_owned()), ("redis", self.redis.url()), ("rabbitmq", self.rabbit.url())]
    }
}
