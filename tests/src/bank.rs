//! A static worker made of the `modelbank` binary, on a server.
use crate::http::{self, Answer};
use crate::server::Server;
use crate::{binary, eventually_or};
use serde_json::{Value, json};

/// A worker on a server.
pub struct Bank<'a> {
    server: &'a Server,
    name: String,
}

impl<'a> Bank<'a> {
    /// One that is there already.
    pub fn of(server: &'a Server, name: &str) -> Self {
        Self { server, name: name.to_owned() }
    }

    /// Registers one: `flags` of the registration, `words` of the worker itself.
    pub fn register(server: &'a Server, name: &str, flags: &[&str], protocol: &str, words: &[&str]) -> Self {
        let binary = binary("modelbank");
        let mut line = vec!["worker", "register", name, "--protocol", protocol];
        if !flags.contains(&"--cpus") {
            line.extend(["--cpus", "0.1"]);
        }
        line.extend(flags);
        line.extend(["--", binary.to_str().unwrap(), protocol]);
        line.extend(words);
        // What its processes are found by.
        line.extend(["--in", server.scratch().to_str().unwrap()]);
        server.ok(&line);
        Self::of(server, name)
    }

    /// Registers and launches one that speaks JSON lines.
    pub fn launch(server: &'a Server, name: &str, words: &[&str], flags: &[&str]) -> Self {
        Self::run(server, name, "stdio", words, flags)
    }

    /// Registers and launches one that speaks HTTP.
    pub fn launch_http(server: &'a Server, name: &str, words: &[&str], flags: &[&str]) -> Self {
        Self::run(server, name, "http", words, flags)
    }

    fn run(server: &'a Server, name: &str, protocol: &str, words: &[&str], flags: &[&str]) -> Self {
        let flags: Vec<&str> = ["--static"].iter().chain(flags).copied().collect();
        let bank = Self::register(server, name, &flags, protocol, words);
        server.ok(&["worker", "launch", name]);
        bank
    }

    /// Calls it.
    pub fn ask(&self, payload: &Value, deadline_s: f64) -> Answer {
        let body = json!({"payload": payload, "deadline_s": deadline_s}).to_string();
        http::post(self.server.socket(), &format!("/v1/workers/{}/requests", self.name), &body)
    }

    /// Calls it; what it answered.
    pub fn call(&self, payload: Value) -> Value {
        let answer = self.ask(&payload, 60.0);
        assert_eq!(answer.status, 200, "{payload}: {}", answer.text());
        answer.json()["result"].clone()
    }

    /// Calls it; the problem that comes back.
    pub fn refused(&self, payload: &Value) -> Value {
        self.refused_within(payload, 60.0)
    }

    /// The same with a deadline.
    pub fn refused_within(&self, payload: &Value, deadline_s: f64) -> Value {
        let answer = self.ask(payload, deadline_s);
        assert!(answer.status >= 400, "{payload}: {}", answer.text());
        answer.json()
    }

    /// Where it stands.
    pub fn status(&self) -> Value {
        self.server.get(&format!("/v1/workers/{}", self.name)).json()["status"].clone()
    }

    /// Waits until it stands like this.
    pub fn until(&self, stands: impl Fn(&Value) -> bool) -> Value {
        let what = || format!("worker {}: {}", self.name, self.status());
        eventually_or(what, || Some(self.status()).filter(&stands))
    }
}
