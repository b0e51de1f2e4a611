//! Observers: some follow the event stream, some ask again and again. Each writes down everything it sees, in the order
//! in which it sees it.
use super::client::{Client, follow};
use super::ledger::Ledger;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::{BufRead as _, ErrorKind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// How long an observer waits before it looks whether it may go.
const LOOK: Duration = Duration::from_millis(500);
/// Between two polls.
const POLL: Duration = Duration::from_millis(250);

/// Follows every event from the first on, across whatever breaks, until it is over and everything up to `last` is seen.
pub fn stream(socket: &Path, ledger: &Ledger, over: &AtomicBool, last: &AtomicU64) {
    let mut next = 1;
    let done = |next: u64| over.load(Ordering::Relaxed) && next > last.load(Ordering::Relaxed);
    while !done(next) {
        let path = format!("/v1/events?follow=true&from={next}");
        if let Ok(mut lines) = follow(socket, &path, LOOK) {
            let mut line = Vec::new();
            while !done(next) {
                match lines.read_until(b'\n', &mut line) {
                    Ok(_) if line.ends_with(b"\n") => {
                        let text = String::from_utf8_lossy(&line).into_owned();
                        let event: Value = serde_json::from_str(&text).unwrap_or_default();
                        next = event["seq"].as_u64().map_or(next, |seq| seq + 1);
                        ledger.raw(&text);
                        line.clear();
                    }
                    Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                    // A line that was cut is sent again: the next connection starts at its number.
                    Ok(_) | Err(_) => break,
                }
            }
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Asks for the newest jobs and tasks again and again, and writes down each that has changed since this observer saw it.
pub fn poll(socket: &Path, ledger: &Ledger, over: &AtomicBool) {
    let mut client = Client::new(socket);
    let mut seen: HashMap<(u64, Option<u64>), Value> = HashMap::new();
    while !over.load(Ordering::Relaxed) {
        if let Some(reply) = client.get("/v1/jobs?tasks=true&limit=500&order=-id") {
            for item in reply.json()["items"].as_array().into_iter().flatten() {
                note(item, &mut seen, ledger);
            }
        }
        std::thread::sleep(POLL);
    }
}

fn note(item: &Value, seen: &mut HashMap<(u64, Option<u64>), Value>, ledger: &Ledger) {
    let Some(job) = item["id"].as_u64().filter(|_| item["array"].is_null()) else { return };
    let index = item["index"].as_u64();
    let now = json!({"job": job, "index": index, "n": item["attempt"], "state": item["state"],
        "substate": item["substate"]});
    if seen.insert((job, index), now.clone()).as_ref() != Some(&now) {
        ledger.note(now);
    }
}
