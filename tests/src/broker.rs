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

fn copy_files(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
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
        self.spawn();
        eventually("redis-server answers", || TcpStream::connect(("127.0.0.1", self.port)).ok());
    }

    fn spawn(&mut self) {
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
    }

    /// One that speaks TLS, with this certificate (of `localhost`), and nothing else; `None` also where it was built
    /// without.
    pub fn start_tls(certificate: &Path, key: &Path) -> Option<Self> {
        if !is_installed("redis-server") {
            return None;
        }
        let dir = tempfile::Builder::new().prefix("reeve-redis-").tempdir().unwrap();
        let port = free_port();
        let of = |path: &Path| path.display().to_string();
        let words = [
            ["--tls-port", &port.to_string()],
            ["--tls-cert-file", &of(certificate)],
            ["--tls-key-file", &of(key)],
            ["--tls-auth-clients", "no"],
            ["--appendonly", "yes"],
        ];
        let words = words.concat().into_iter().map(str::to_owned).collect();
        let mut redis = Self { dir, port: 0, words, child: None };
        redis.spawn();
        redis.port = port;
        let is_up = eventually("redis-server answers, or ends", || {
            let ended = redis.child.as_mut()?.try_wait().unwrap().is_some();
            let answers = TcpStream::connect(("127.0.0.1", port)).is_ok();
            (ended || answers).then_some(answers)
        });
        is_up.then_some(redis)
    }

    /// With TLS, by the name of its certificate.
    pub fn tls_url(&self) -> String {
        format!("rediss://localhost:{}", self.port)
    }

    /// Removes everything it kept. It has to be killed first.
    pub fn wipe(&self) {
        let kept = self.dir.path().join("appendonlydir");
        std::fs::remove_dir_all(kept).unwrap();
    }

    /// Copies what it kept into a directory.
    pub fn keep_copy(&self, to: &Path) {
        copy_files(&self.dir.path().join("appendonlydir"), to);
    }

    /// Puts back what was copied. It has to be killed first.
    pub fn bring_back(&self, from: &Path) {
        self.wipe();
        let kept = self.dir.path().join("appendonlydir");
        std::fs::create_dir(&kept).unwrap();
        copy_files(from, &kept);
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
