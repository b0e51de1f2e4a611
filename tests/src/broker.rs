//! Brokers of the distribution, each on a port and in a directory of its own; killed, frozen and started again by tests.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]
use crate::eventually;
use rustix::process::{Pid, Signal, kill_process};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A Redis.
pub struct Redis {
    dir: tempfile::TempDir,
    port: u16,
    words: Vec<String>,
    child: Option<Child>,
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn is_installed(program: &str) -> bool {
    Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

impl Redis {
    /// Starts one that keeps what it is given; `None` where none is installed.
    pub fn start() -> Option<Self> {
        Self::start_with(&["--appendonly", "yes", "--appendfsync", "everysec"])
    }

    /// Starts one with these settings.
    pub fn start_with(words: &[&str]) -> Option<Self> {
        if !is_installed("redis-server") {
            return None;
        }
        let dir = tempfile::Builder::new().prefix("reeve-redis-").tempdir().unwrap();
        let words = words.iter().map(|w| (*w).to_owned()).collect();
        let mut redis = Self { dir, port: free_port(), words, child: None };
        redis.up();
        Some(redis)
    }

    /// Starts it again, on what it kept.
    pub fn up(&mut self) {
        let log = std::fs::File::create(self.dir.path().join("log")).unwrap();
        let child = Command::new("redis-server")
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"])
            .arg(self.dir.path())
            .args(&self.words)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
        eventually("redis-server answers", || TcpStream::connect(("127.0.0.1", self.port)).ok());
    }

    /// As queues name it.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Its port.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Where it keeps what it is given.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("it runs");
        kill_process(Pid::from_child(child), signal).unwrap();
    }

    /// Kills it.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// What its ordinary client prints.
    pub fn cli(&self, words: &[&str]) -> String {
        let out =
            Command::new("redis-cli").args(["-p", &self.port.to_string()]).args(words).output().unwrap();
        assert!(out.status.success(), "redis-cli {words:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).trim().to_owned()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}
