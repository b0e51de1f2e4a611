//! A coordinator, one machine with an `agent.toml` of the test's own, and a server of repositories.
use crate::eventually;
use crate::git_server::GitServer;
use crate::machine::{Agent, Coordinator};
use crate::repo::Repo;
use serde_json::Value;
use std::path::PathBuf;

/// All of it, on private directories.
pub struct Site {
    /// The server of repositories.
    pub git: GitServer,
    /// Below it are the repositories.
    pub root: tempfile::TempDir,
    /// The machine.
    pub agent: Agent,
    /// The head.
    pub coordinator: Coordinator,
    /// Where it listens for machines, also after a restart.
    pub listen: String,
}

impl Site {
    /// Starts it; `config` is appended to the machine's configuration.
    pub fn start(config: &str) -> Self {
        let port = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let listen = format!("127.0.0.1:{port}");
        let root = tempfile::Builder::new().prefix("reeve-test-").tempdir().unwrap();
        let git = GitServer::start(root.path());
        let coordinator = Coordinator::start(&listen);
        let token = coordinator.token();
        let agent = Agent::start_with(coordinator.dir.path(), "m1", &token, &[], config);
        let site = Self { git, root, agent, coordinator, listen };
        eventually("the machine is ready", || {
            Some(site.coordinator.machine("m1")).filter(|m| m["state"] == "up")
        });
        site
    }

    /// A new repository, with one file and one commit.
    pub fn repo(&self, name: &str) -> (Repo, String) {
        let repo = Repo::new(self.root.path(), name);
        let commit = repo.write("hello", "hello\n").commit();
        (repo, commit)
    }

    /// The machine's cache of repositories.
    pub fn cache(&self) -> PathBuf {
        let own = rustix::process::geteuid().as_raw().to_string();
        self.agent.dir.join("state/data/git").join(own)
    }

    /// Submits a job by its JSON; its id.
    pub fn submit(&self, job: &Value) -> String {
        let answer = crate::http::post(&self.coordinator.socket(), "/v1/jobs", &job.to_string());
        assert_eq!(answer.status, 201, "{}", answer.text());
        answer.json()["id"].to_string()
    }

    /// Waits for a job's end.
    pub fn ended(&self, id: &str) -> Value {
        eventually(&format!("the end of job {id}"), || {
            let job = self.coordinator.job(id);
            ["COMPLETED", "FAILED", "CANCELLED"].contains(&job["state"].as_str().unwrap_or("")).then_some(job)
        })
    }

    /// Everything a job wrote.
    pub fn output(&self, id: &str) -> String {
        let output = self.coordinator.reeve(&["logs", id]);
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    }
}
