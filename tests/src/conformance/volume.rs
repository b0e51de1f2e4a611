//! Ten thousand messages at once; jobs of every priority in a stream.
use super::{Bench, Case, texts};
use serde_json::json;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

pub(super) const CASES: &[Case] = &[
    ("ten thousand messages are counted, come in order, once each, and are gone once acknowledged", many),
    ("a stream of jobs of every priority runs, and the backend stays usable", every_priority),
];

const PUBLISHERS: usize = 8;
const EACH: usize = 1_250;
const RECEIVERS: usize = 4;
/// Jobs in a lot, and lots.
const LOT: i32 = 90;
const LOTS: i32 = 8;

fn many(bench: &mut Bench) {
    let queue = bench.queue();
    let bench = &*bench;
    let all = PUBLISHERS * EACH;
    publish(bench, &queue);
    assert_eq!(bench.counts(&queue), [all as u64, 0, 0, 0]);
    let socket = bench.server.socket();
    let left = AtomicUsize::new(all);
    let had = std::thread::scope(|scope| {
        let receivers: Vec<_> =
            (0..RECEIVERS).map(|_| scope.spawn(|| receive(socket, &queue, &left))).collect();
        receivers.into_iter().flat_map(|r| r.join().unwrap()).collect::<Vec<_>>()
    });
    assert_eq!(had.len(), all);
    assert_eq!(had.into_iter().collect::<BTreeSet<_>>().len(), all);
    assert_eq!(bench.counts(&queue), [0, 0, 0, 0]);
}

/// Hints of three bands are on their way at once: none may be acknowledged in a way that the server does not take.
fn every_priority(bench: &mut Bench) {
    let queue = bench.queue_with(&json!({"kind": "jobs"}));
    bench.says(&queue, "jobs");
    let view = || bench.server.get(&format!("/v1/queues/{queue}")).json();
    let lot: String = (0..LOT)
        .map(|n| json!({"command": ["true"], "queue": queue, "priority": n % 3 - 1}).to_string() + "\n")
        .collect();
    for lots in 1..=LOTS {
        assert_eq!(bench.lines_to("/v1/jobs", &lot, None).len(), LOT as usize);
        crate::eventually_or(
            || view().to_string(),
            || {
                let view = view();
                // A server that is late is not what is looked for.
                let why = view["degraded"].as_str();
                let late = |why: &str| why.contains("no answer within") || why.contains("does not come back");
                assert!(why.is_none_or(late), "{view}");
                (view["counts"]["COMPLETED"] == json!(lots * LOT)).then_some(())
            },
        );
    }
}

fn publish(bench: &Bench, queue: &str) {
    let (socket, path) = (bench.server.socket(), format!("/v1/queues/{queue}/messages"));
    std::thread::scope(|scope| {
        for publisher in 0..PUBLISHERS {
            let path = &path;
            scope.spawn(move || {
                for n in 0..EACH {
                    let body = json!({"body_text": format!("{publisher}.{n}")}).to_string();
                    assert_eq!(crate::http::post(socket, path, &body).status, 201);
                }
            });
        }
    });
}

/// Until all have come. What one receiver gets is in the order of the numbers.
fn receive(socket: &Path, queue: &str, left: &AtomicUsize) -> Vec<String> {
    let path = |what: &str| format!("/v1/queues/{queue}/{what}");
    let body = json!({"max": 500, "wait_s": 1, "lease_s": 600}).to_string();
    let mut end = Instant::now() + crate::PATIENCE;
    let (mut had, mut last) = (Vec::new(), 0);
    while left.load(Ordering::SeqCst) > 0 {
        assert!(Instant::now() < end, "{} did not come", left.load(Ordering::SeqCst));
        let answer = crate::http::post(socket, &path("receive"), &body).json();
        let items = answer["items"].as_array().unwrap();
        left.fetch_sub(items.len(), Ordering::SeqCst);
        for item in items {
            let id: u64 = item["id"].as_str().unwrap().parse().unwrap();
            assert!(id > last, "{id} came behind {last}");
            last = id;
            let lease = json!({"lease": item["lease"]}).to_string();
            assert_eq!(crate::http::post(socket, &path("ack"), &lease).status, 200);
        }
        had.extend(texts(items));
        if !items.is_empty() {
            end = Instant::now() + crate::PATIENCE;
        }
    }
    had
}
