//! Random operations against a model on every backend, real ones. `REEVE_SEED=N` repeats one run; `REEVE_MINUTES=N` goes on
//! with new seeds for so long on each backend.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]
use reeve_tests::broker::Redis;
use reeve_tests::conformance::{Bench, random};
use reeve_tests::rabbitmq::RabbitServer;
use reeve_tests::server::Server;
use std::time::{Duration, Instant};

const SEEDS: u64 = 3;
const OPERATIONS: usize = 60;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap())
}

fn runs(backend: &str) {
    let mut bench = Bench::new(Server::start(), backend);
    if let Some(seed) = number("REEVE_SEED") {
        return random::run(&mut bench, seed, OPERATIONS);
    }
    for seed in 1..=SEEDS {
        random::run(&mut bench, seed, OPERATIONS);
    }
    let Some(minutes) = number("REEVE_MINUTES") else { return };
    let end = Instant::now() + Duration::from_mins(minutes);
    let first = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    for seed in first.. {
        if Instant::now() >= end {
            return;
        }
        random::run(&mut bench, seed, OPERATIONS);
    }
}

#[test]
fn whatever_is_done_the_store_does_what_the_model_does() {
    runs("local");
}

#[test]
fn whatever_is_done_memory_does_what_the_model_does() {
    runs("memory");
}

#[test]
fn whatever_is_done_redis_does_what_the_model_does() {
    let Some(redis) = Redis::start() else {
        return reeve_tests::skip("whatever_is_done_redis_does", "no redis-server");
    };
    runs(&redis.url());
}

#[test]
fn whatever_is_done_rabbitmq_does_what_the_model_does() {
    let Some(rabbit) = RabbitServer::start() else {
        return reeve_tests::skip("whatever_is_done_rabbitmq_does", "no rabbitmq-server");
    };
    runs(&rabbit.url());
}
