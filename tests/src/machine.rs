//! Coordinator and agents by hand, as an operator starts them: `reeve-coordinator init` and `run`, a token,
//! `reeve-agent join` and `run`. Perhaps in network namespaces.
use crate::{binary, eventually};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A process that ends with the test.
pub struct Daemon {
    child: Child,
}

impl Daemon {
    /// Starts it with its output in a file.
    pub fn spawn(mut command: Command, log: &Path) -> Self {
        let file = std::fs::File::options().create(true).append(true).open(log).unwrap();
        command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        Self { child: command.spawn().unwrap() }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let _ = rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal);
    }

    /// Sends a signal and waits for its end.
    pub fn finish(mut self, signal: rustix::process::Signal) -> Option<i32> {
        self.signal(signal);
        eventually("a daemon to end", || self.child.try_wait().ok().flatten()).code()
    }

    /// Kills it at once.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        self.signal(rustix::process::Signal::TERM);
        let gone = (0..250).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(20));
            matches!(self.child.try_wait(), Ok(Some(_)))
        });
        if !gone {
            self.kill();
        }
    }
}

/// A coordinator by hand.
pub struct Coordinator {
    /// Its files.
    pub dir: tempfile::TempDir,
    /// The process.
    pub daemon: Option<Daemon>,
    /// Settings by environment.
    environment: Vec<(&'static str, String)>,
}

impl Coordinator {
    /// `init`, then `run` on this address.
    pub fn start(listen: &str) -> Self {
        Self::start_with(listen, Vec::new())
    }

    /// The same with settings by environment.
    pub fn start_with(listen: &str, environment: Vec<(&'static str, String)>) -> Self {
        let dir = tempfile::Builder::new().prefix("reeve-test-").tempdir().unwrap();
        let mut coordinator = Self { dir, daemon: None, environment };
        let init = coordinator.command(&["init"]).output().unwrap();
        assert!(init.status.success(), "{}", String::from_utf8_lossy(&init.stderr));
        coordinator.run(listen, &[]);
        coordinator
    }

    /// `run` again, perhaps inside a network namespace (`prefix` as in `ip netns exec NAME`).
    pub fn run(&mut self, listen: &str, prefix: &[&str]) {
        let mut command = self.command(&["run", "--listen", listen]);
        if let Some((first, rest)) = prefix.split_first() {
            let mut outer = Command::new(first);
            outer.args(rest).arg(command.get_program()).args(command.get_args());
            outer.envs(self.environment.iter().map(|(name, value)| (name, value)));
            command = outer;
        }
        self.daemon = Some(Daemon::spawn(command, &self.dir.path().join("log")));
        let socket = self.socket();
        eventually("the coordinator answers", || std::os::unix::net::UnixStream::connect(&socket).ok());
    }

    /// The data directory.
    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// The API's socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("run").join("coordinator.sock")
    }

    /// `reeve-coordinator` with its directory.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(binary("reeve-coordinator"));
        let (verb, rest) = words.split_first().unwrap();
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.arg(verb);
        if *verb != "store" {
            command.arg("--dir").arg(self.data());
        }
        if *verb == "run" || *verb == "token" {
            command.arg("--socket").arg(self.socket());
        }
        command.args(rest);
        command
    }

    /// What it said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Stops it as an operator would, and gives its exit code.
    pub fn stop(&mut self) -> Option<i32> {
        self.daemon.take().and_then(|daemon| daemon.finish(rustix::process::Signal::TERM))
    }

    /// A machine as the API shows it.
    pub fn machine(&self, name: &str) -> serde_json::Value {
        crate::http::get(&self.socket(), &format!("/v1/machines/{name}")).json()
    }

    /// A job as the API shows it.
    pub fn job(&self, id: &str) -> serde_json::Value {
        crate::http::get(&self.socket(), &format!("/v1/jobs/{id}")).json()
    }

    /// A fresh join token.
    pub fn token(&self) -> String {
        let output = self.command(&["token"]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// `reeve` against it.
    pub fn reeve(&self, words: &[&str]) -> std::process::Output {
        self.reeve_command(words).output().unwrap()
    }

    /// The same, to be started by the test.
    pub fn reeve_command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(binary("reeve"));
        command.args(words).env("REEVE_HOST", self.socket()).env("NO_COLOR", "1").stdin(Stdio::null());
        command
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the coordinator said:\n{}", self.log());
        }
        self.daemon = None;
        crate::sweep(&[self.dir.path()]);
    }
}

/// A machine by hand, below the coordinator's own directory.
pub struct Agent {
    /// Its files.
    pub dir: PathBuf,
    /// The process.
    pub daemon: Option<Daemon>,
    /// The program and more environment, for the next [`Agent::run`].
    pub program: PathBuf,
    /// See `program`.
    pub env: Vec<(String, String)>,
    prefix: Vec<String>,
}

impl Agent {
    /// Joins with a token and runs.
    pub fn start(base: &Path, name: &str, token: &str, prefix: &[&str]) -> Self {
        Self::start_with(base, name, token, prefix, "")
    }

    /// The same with more lines of configuration.
    pub fn start_with(base: &Path, name: &str, token: &str, prefix: &[&str], config: &str) -> Self {
        let dir = base.join(name);
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("more.toml"), config).unwrap();
        let prefix = prefix.iter().map(|&word| word.to_owned()).collect();
        let mut agent = Self { dir, daemon: None, program: binary("reeve-agent"), env: Vec::new(), prefix };
        let joined = agent.join(name, token);
        assert!(joined.status.success(), "{}", String::from_utf8_lossy(&joined.stderr));
        agent.run();
        agent
    }

    /// What lies in a directory already; not running.
    pub fn existing(dir: &Path) -> Self {
        let dir = dir.to_owned();
        Self { dir, daemon: None, program: binary("reeve-agent"), env: Vec::new(), prefix: Vec::new() }
    }

    /// `reeve-agent join`.
    pub fn join(&self, name: &str, token: &str) -> std::process::Output {
        join(&self.dir, &self.prefix, name, token)
    }

    /// `reeve-agent run`.
    pub fn run(&mut self) {
        let config = self.dir.join("agent.toml");
        // The tests may run as root, and a keeper that is root starts nothing as root unless told so.
        let more = std::fs::read_to_string(self.dir.join("more.toml")).unwrap_or_default();
        std::fs::write(&config, format!("allow_root = true\n{more}")).unwrap();
        let mut command = Command::new(&self.program);
        command.args(["run", "--config", config.to_str().unwrap(), "--dir"]).arg(self.dir.join("state"));
        command.envs(self.env.iter().map(|(key, value)| (key, value)));
        self.daemon = Some(Daemon::spawn(prefixed(&self.prefix, command), &self.dir.join("log")));
    }

    /// What it said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the agent said:\n{}", self.log());
        }
    }
}

/// `reeve-agent join` into a directory.
pub fn join(dir: &Path, prefix: &[String], name: &str, token: &str) -> std::process::Output {
    let file = dir.join("token");
    std::fs::write(&file, token).unwrap();
    let words = ["join", "--name", name, "--token-file", file.to_str().unwrap()];
    prefixed(prefix, agent(&dir.join("state"), &words)).stdin(Stdio::null()).output().unwrap()
}

fn prefixed(prefix: &[String], command: Command) -> Command {
    let Some((first, rest)) = prefix.split_first() else { return command };
    let mut outer = Command::new(first);
    outer.args(rest).arg(command.get_program()).args(command.get_args());
    outer
}

/// `reeve-agent` with its own directory.
pub fn agent(dir: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(binary("reeve-agent"));
    let (verb, rest) = words.split_first().unwrap();
    command.arg(verb).args(rest).arg("--dir").arg(dir);
    command
}
