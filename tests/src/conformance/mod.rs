//! What every backend has to do, asked through the API of a real coordinator. Each case asks the backend's capability list
//! first and then holds it to its words: the behaviour, or exactly what it says instead.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]
mod bodies;
mod handing;
pub mod model;
pub mod random;
mod upkeep;
mod volume;

use crate::eventually_or;
use crate::http::{Answer, request};
use crate::server::Server;
use serde_json::{Value, json};
use std::cell::Cell;

/// A case by its sentence.
pub type Case = (&'static str, fn(&mut Bench));

/// Every case.
pub fn cases() -> Vec<Case> {
    [handing::CASES, bodies::CASES, upkeep::CASES, volume::CASES].concat()
}

/// A coordinator and the backend to be tried.
pub struct Bench {
    /// The coordinator.
    pub server: Server,
    backend: String,
    made: Cell<u32>,
}

impl Bench {
    /// With this backend.
    pub fn new(server: Server, backend: &str) -> Self {
        Self { server, backend: backend.to_owned(), made: Cell::new(0) }
    }

    /// Runs every case and says which failed.
    pub fn run(&mut self) {
        let mut failed = Vec::new();
        for (name, case) in cases() {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| case(self)));
            if result.is_err() {
                eprintln!("{} on {}: FAILED", name, self.backend);
                failed.push(name);
            }
        }
        assert!(
            failed.is_empty(),
            "{} does not conform: {failed:#?}\n{}",
            self.backend,
            self.server.stderr()
        );
    }

    /// A new queue of messages.
    pub fn queue(&self) -> String {
        self.queue_with(&json!({}))
    }

    /// The same with more settings.
    pub fn queue_with(&self, more: &Value) -> String {
        self.made.set(self.made.get() + 1);
        let name = format!("q{}", self.made.get());
        let mut settings = json!({"kind": "messages", "backend": self.backend});
        settings.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        // A broker with much to do may need longer than a caller is let wait: that is said, and asked again.
        let said = std::cell::RefCell::new(String::new());
        let answer = eventually_or(
            || said.borrow().clone(),
            || {
                let answer = self.put(&name, &settings);
                said.replace(answer.text());
                Some(answer).filter(|answer| answer.status != 503)
            },
        );
        assert!(matches!(answer.status, 200 | 201), "{}", answer.text());
        name
    }

    fn put(&self, name: &str, settings: &Value) -> Answer {
        request(self.server.socket(), "PUT", &format!("/v1/queues/{name}"), Some(&settings.to_string()))
    }

    /// What the backend says about something, once it can be asked.
    pub fn says(&self, queue: &str, what: &str) -> String {
        let view = || self.server.get(&format!("/v1/queues/{queue}")).json();
        let said = || view()["capabilities"][what].as_str().map(str::to_owned);
        eventually_or(|| format!("{what}: {}", view()), said)
    }

    /// Something about a queue.
    pub fn post(&self, queue: &str, what: &str, body: &Value) -> Answer {
        self.server.post(&format!("/v1/queues/{queue}/{what}"), &body.to_string())
    }

    /// The same with a key: once only.
    pub fn publish_once(&self, queue: &str, message: &Value, key: &str) -> Answer {
        let body = message.to_string();
        let head = format!(
            "POST /v1/queues/{queue}/messages HTTP/1.1\r\nhost: reeve\r\nconnection: close\r\n\
             idempotency-key: {key}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        crate::http::raw(self.server.socket(), &[head.as_bytes(), body.as_bytes()].concat())
    }

    /// Publishes, and gives the number.
    pub fn publish(&self, queue: &str, message: &Value) -> String {
        let answer = self.post(queue, "messages", message);
        assert_eq!(answer.status, 201, "{}", answer.text());
        answer.json()["id"].as_str().unwrap().to_owned()
    }

    /// Publishes lines, and gives the lines of the answer.
    pub fn lines(&self, queue: &str, body: &str, key: Option<&str>) -> Vec<Value> {
        self.lines_to(&format!("/v1/queues/{queue}/messages"), body, key)
    }

    /// The same for any path that takes lines.
    pub fn lines_to(&self, path: &str, body: &str, key: Option<&str>) -> Vec<Value> {
        let key = key.map_or_else(String::new, |key| format!("idempotency-key: {key}\r\n"));
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: reeve\r\nconnection: close\r\n{key}\
             content-type: application/x-ndjson\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let answer = crate::http::raw(self.server.socket(), &[head.as_bytes(), body.as_bytes()].concat());
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Receives, waiting up to so long for the first.
    pub fn receive(&self, queue: &str, max: u32, wait_s: f64) -> Vec<Value> {
        self.receive_for(queue, max, wait_s, 60.0)
    }

    /// The same with a lease of so long.
    pub fn receive_for(&self, queue: &str, max: u32, wait_s: f64, lease_s: f64) -> Vec<Value> {
        let answer = self.post(queue, "receive", &json!({"max": max, "wait_s": wait_s, "lease_s": lease_s}));
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["items"].as_array().unwrap().clone()
    }

    /// Receives until there are so many.
    pub fn receive_all(&self, queue: &str, n: usize) -> Vec<Value> {
        let mut all = Vec::new();
        while all.len() < n {
            let some = self.receive(queue, (n - all.len()).min(1000) as u32, 20.0);
            assert!(!some.is_empty(), "{} of {n} came", all.len());
            all.extend(some);
        }
        all
    }

    /// Acknowledges.
    pub fn ack(&self, queue: &str, message: &Value) -> Answer {
        self.post(queue, "ack", &json!({"lease": message["lease"]}))
    }

    /// Ready, delayed, leased, dead.
    pub fn counts(&self, queue: &str) -> [u64; 4] {
        let count = self.server.get(&format!("/v1/queues/{queue}/count")).json();
        ["ready", "delayed", "leased", "dead"].map(|k| count[k].as_u64().unwrap_or_else(|| panic!("{count}")))
    }
}

/// The texts of messages.
pub fn texts(messages: &[Value]) -> Vec<String> {
    messages.iter().map(|m| m["body_text"].as_str().unwrap_or_else(|| panic!("{m}")).to_owned()).collect()
}
