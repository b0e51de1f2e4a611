//! Messages through the API of a real coordinator: published as lines, received and acknowledged by the thousand.
use super::look::Brokers;
use super::{Table, keep, raw, with_queue};
use crate::bench::{median, seconds};
use crate::http;
use crate::server::Server;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

const MESSAGES: usize = 50_000;
const ROUNDS: usize = 3;
const RECEIVERS: usize = 2;

/// Rates of one round.
struct Rates {
    published: f64,
    /// Until the backend has all of it.
    settled: f64,
    received: f64,
}

type Rate = fn(&Rates) -> f64;

/// Local, Redis, RabbitMQ, in turn.
pub fn messages(table: &mut Table) {
    let Some(brokers) = Brokers::start() else { return };
    let backends = brokers.backends();
    let server = with_queue("local", "messages", "local");
    for (name, backend) in &backends[1..] {
        keep(&server, name, "messages", backend);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut rounds: [Vec<Rates>; 3] = Default::default();
    let mut bare: [Vec<Rates>; 3] = Default::default();
    for _ in 0..ROUNDS {
        for (at, (name, _)) in backends.iter().enumerate() {
            rounds[at].push(round(&server, name, &brokers));
        }
        for (at, (_, url)) in backends.iter().enumerate().skip(1) {
            let body = [b'x'; 100];
            let (published, received) = runtime.block_on(async {
                if at == 1 {
                    raw::redis(url, MESSAGES, &body).await
                } else {
                    raw::rabbitmq(&format!("{url}/%2f"), MESSAGES, &body).await
                }
            });
            bare[at].push(Rates { published, settled: published, received });
        }
    }
    let of = |at: usize, rate: Rate| median(rounds[at].iter().map(rate).collect());
    let figures: [(&str, Rate); 2] =
        [("NDJSON publish, each line durable", |r| r.published), ("receive + ack", |r| r.received)];
    for (figure, rate) in figures {
        let local = of(0, rate);
        table.row(
            &format!("messages, {figure}: local"),
            format!("{local:.0} /s"),
            "-".into(),
            ">= 20,000 /s",
            local >= 20_000.0,
        );
        for (at, bar) in [(1, 0.8), (2, 0.5)] {
            let ours = of(at, rate);
            table.row(
                &format!("messages, {figure}: {}", backends[at].0),
                super::ratio(ours, local),
                // What the server itself takes bounds it too, however fast this machine's own disk is.
                format!(
                    "{local:.0} /s local, {:.0} bare client",
                    median(bare[at].iter().map(rate).collect())
                ),
                &format!(">= {bar}"),
                ours >= bar * local,
            );
        }
    }
    for at in [1, 2] {
        let all = of(at, |r| r.settled);
        let figure = format!("messages, NDJSON publish until all lie there: {}", backends[at].0);
        table.row(&figure, format!("{all:.0} /s"), "-".into(), "-", true);
    }
}

fn round(server: &Server, queue: &str, brokers: &Brokers) -> Rates {
    let line = format!("{{\"body_text\":\"{}\"}}\n", "x".repeat(100));
    let body = line.repeat(MESSAGES);
    let head = format!(
        "POST /v1/queues/{queue}/messages HTTP/1.1\r\nhost: reeve\r\nconnection: close\r\n\
         content-type: application/x-ndjson\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let began = Instant::now();
    let answer = http::raw(server.socket(), &[head.as_bytes(), body.as_bytes()].concat());
    let published = MESSAGES as f64 / began.elapsed().as_secs_f64();
    assert_eq!(answer.status, 200, "{}", answer.text());
    let last = answer.text().lines().last().unwrap_or_default().to_owned();
    assert!(last.contains(&format!("\"published\":{MESSAGES}")), "{last}");
    if queue != "local" {
        brokers.until(queue, &format!("reeve:q:{queue}"), MESSAGES as u64);
    }
    let settled = MESSAGES as f64 / began.elapsed().as_secs_f64();
    let left = AtomicUsize::new(MESSAGES);
    let took = seconds(|| {
        std::thread::scope(|scope| {
            for _ in 0..RECEIVERS {
                scope.spawn(|| receive(server.socket(), queue, &left));
            }
        });
    });
    Rates { published, settled, received: MESSAGES as f64 / took }
}

fn receive(socket: &Path, queue: &str, left: &AtomicUsize) {
    let of = |what: &str| format!("/v1/queues/{queue}/{what}");
    while left.load(Ordering::SeqCst) > 0 {
        let answer = http::post(socket, &of("receive"), r#"{"max":1000,"wait_s":1,"lease_s":600}"#);
        let text = answer.text();
        let leases: Vec<&str> =
            text.split("\"lease\":\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        if leases.is_empty() {
            continue;
        }
        let body = serde_json::json!({ "leases": leases }).to_string();
        let settled = http::post(socket, &of("ack"), &body);
        assert_eq!(settled.status, 200, "{}", settled.text());
        left.fetch_sub(leases.len(), Ordering::SeqCst);
    }
}
