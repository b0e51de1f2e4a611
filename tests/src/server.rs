//! `reeve up --no-console` on a private directory, and the command line against it. Ends everything it started.
use crate::http::{self, Answer};
use crate::{binary, eventually};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// A server.
pub struct Server {
    dir: tempfile::TempDir,
    runtime: tempfile::TempDir,
    child: Option<Child>,
    socket: PathBuf,
}

impl Server {
    /// Starts one and waits until jobs can be submitted.
    pub fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("reeve-test-").tempdir().unwrap();
        Self::start_in(dir, runtime_dir())
    }

    /// Starts one in these directories: the test's own, and the user's runtime directory.
    pub fn start_in(dir: tempfile::TempDir, runtime: tempfile::TempDir) -> Self {
        let mut server = Self { dir, runtime, child: None, socket: PathBuf::new() };
        server.up();
        server
    }

    /// Starts the server half again on the same directory.
    pub fn up(&mut self) {
        let log =
            std::fs::File::options().create(true).append(true).open(self.dir.path().join("stderr")).unwrap();
        let mut child = self
            .command(&["up", "--no-console", "--dir"])
            .arg(self.data())
            .stdout(Stdio::piped())
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let socket = line
            .trim()
            .strip_prefix("ready socket=")
            .unwrap_or_else(|| panic!("no ready line but {line:?}; stderr: {}", self.stderr()));
        self.socket = PathBuf::from(socket);
        self.child = Some(child);
    }

    /// The data directory.
    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// A directory for the test's own files.
    pub fn scratch(&self) -> &Path {
        self.dir.path()
    }

    /// The user's runtime directory, with the sockets.
    pub fn runtime(&self) -> &Path {
        self.runtime.path()
    }

    /// The API's socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// What the server said on stderr.
    pub fn stderr(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("stderr")).unwrap_or_default()
    }

    /// The server's process.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// Ends the server half with a signal, as a crash or an operator would; attempts go on.
    pub fn signal(&mut self, signal: rustix::process::Signal) {
        if let Some(mut child) = self.child.take() {
            let pid = rustix::process::Pid::from_child(&child);
            rustix::process::kill_process(pid, signal).unwrap();
            child.wait().unwrap();
        }
    }

    /// The command line, with its words.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(binary("reeve"));
        command
            .args(words)
            .env_remove("VIRTUAL_ENV")
            .env_remove("CONDA_PREFIX")
            .env("NO_COLOR", "1")
            .env("REEVE_HOST", &self.socket);
        command
            .env("XDG_RUNTIME_DIR", self.runtime.path())
            .env("XDG_DATA_HOME", self.dir.path())
            .current_dir(self.dir.path());
        command
    }

    /// Runs the command line to its end.
    pub fn run(&self, words: &[&str]) -> Output {
        self.command(words).stdin(Stdio::null()).output().unwrap()
    }

    /// Runs it, and its standard output, trimmed. It must have ended well.
    pub fn ok(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert!(
            output.status.success(),
            "{words:?}: {:?} {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Runs it; its exit code and standard error.
    pub fn fails(&self, words: &[&str]) -> (i32, String) {
        let output = self.run(words);
        assert!(
            !output.status.success(),
            "{words:?} ended well: {}",
            String::from_utf8_lossy(&output.stdout)
        );
        (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// `GET`.
    pub fn get(&self, path: &str) -> Answer {
        http::get(&self.socket, path)
    }

    /// `POST` of JSON.
    pub fn post(&self, path: &str, body: &str) -> Answer {
        http::post(&self.socket, path, body)
    }

    /// A job as the API shows it.
    pub fn job(&self, id: &str) -> serde_json::Value {
        let answer = self.get(&format!("/v1/jobs/{id}"));
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    }

    /// Waits until a job is in a state.
    pub fn until(&self, id: &str, state: &str) -> serde_json::Value {
        eventually(&format!("job {id} {state}"), || Some(self.job(id)).filter(|j| j["state"] == state))
    }
}

/// A private runtime directory, in memory as a session's is.
fn runtime_dir() -> tempfile::TempDir {
    let mut builder = tempfile::Builder::new();
    builder.prefix("reeve-test-");
    builder.tempdir_in("/dev/shm").or_else(|_| builder.tempdir()).unwrap()
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.child.is_none() && !std::thread::panicking() {
            self.up();
        }
        let _ = self.command(&["down", "--jobs", "--dir"]).arg(self.data()).stdin(Stdio::null()).output();
        if let Some(mut child) = self.child.take() {
            let _ = child.wait();
        }
        crate::sweep(&[self.dir.path(), self.runtime.path()]);
        if std::thread::panicking() {
            eprintln!("--- the server said:\n{}", self.stderr());
        }
    }
}
