//! The trait itself, in batches, beside the bare client.
use super::raw::BATCH;
use super::{Table, middle, ratio, raw, servers};
use crate::bench::median;
use reeve_coordinator::backend::settings::Settings;
use reeve_coordinator::backend::{Backend, Heard, Rabbit, Redis};
use reeve_coordinator::orchestrator::link::Tag;
use reeve_coordinator::row::{MessageRow, QueueKind};
use std::sync::Arc;
use std::time::Instant;

const MESSAGES: usize = 50_000;
const BODY: usize = 100;
const ROUNDS: usize = 3;

/// Publish, and receive with acknowledgement.
pub fn at_the_trait(table: &mut Table) {
    let Some((redis, rabbit)) = servers() else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let body = vec![b'x'; BODY];
    let mut rates: [Vec<f64>; 4] = Default::default();
    let mut bare: [Vec<f64>; 4] = Default::default();
    for round in 0..ROUNDS {
        let (redis_url, rabbit_url) = (redis.url(), rabbit.url());
        runtime.block_on(async {
            let queue: Arc<str> = format!("q{round}").into();
            let raw = [
                raw::redis(&redis_url, MESSAGES, &body).await,
                raw::rabbitmq(&format!("{rabbit_url}/%2f"), MESSAGES, &body).await,
            ];
            let ours = [
                through::<Redis>(&redis_url, &queue, &body).await,
                through::<Rabbit>(&rabbit_url, &queue, &body).await,
            ];
            for at in 0..2 {
                rates[at * 2].push(ours[at].0);
                rates[at * 2 + 1].push(ours[at].1);
                bare[at * 2].push(raw[at].0);
                bare[at * 2 + 1].push(raw[at].1);
            }
        });
    }
    let figures = ["redis: publish", "redis: receive + ack", "rabbitmq: publish", "rabbitmq: receive + ack"];
    for (at, figure) in figures.iter().enumerate() {
        let share = middle(&rates[at], &bare[at]);
        let (ours, raw) = (median(rates[at].clone()), median(bare[at].clone()));
        table.row(
            &format!("trait, batches of {BATCH} x {BODY} bytes, {figure}"),
            ratio(ours, ours / share),
            format!("{raw:.0} /s bare client"),
            ">= 0.5",
            share >= 0.5,
        );
    }
}

async fn through<B: Backend>(url: &str, queue: &Arc<str>, body: &[u8]) -> (f64, f64) {
    let settings = Settings::parse(url).unwrap();
    let mut backend = B::connect(&settings, "bench").await.unwrap();
    backend.keep(queue, QueueKind::Messages).await.unwrap();
    let rows: Vec<MessageRow> = (0..MESSAGES as u64).map(|id| row(queue, id + 1, body)).collect();
    let began = Instant::now();
    for some in rows.chunks(BATCH) {
        backend.publish(queue, some).await.unwrap();
    }
    let published = MESSAGES as f64 / began.elapsed().as_secs_f64();
    let began = Instant::now();
    backend.room(queue, MESSAGES as u64).await.unwrap();
    let mut had = 0;
    while had < MESSAGES {
        if let Heard::Messages(_, messages) = backend.next().await.unwrap() {
            had += messages.len();
            let tags: Vec<Tag> = messages.into_iter().map(|m| m.tag).collect();
            backend.taken(queue, &tags).await.unwrap();
        }
    }
    // Behind the last acknowledgement.
    backend.depth(queue).await.unwrap();
    (published, MESSAGES as f64 / began.elapsed().as_secs_f64())
}

fn row(queue: &Arc<str>, id: u64, body: &[u8]) -> MessageRow {
    MessageRow {
        id,
        queue: queue.clone(),
        owner_uid: 0,
        owner: "bench".into(),
        kind: 1,
        body: body.into(),
        headers: "{}".into(),
        priority: 0,
        published_at: 0,
        run_at: None,
        expires_at: None,
        deliveries: 0,
        lease: None,
        dead: None,
        outgoing: true,
        source: None,
        key: None,
    }
}
