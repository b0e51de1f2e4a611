//! A RabbitMQ of the distribution, in a directory of its own and on ports of its own, with a port mapper of its own;
//! killed, frozen, stopped, wiped and started again by tests.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]
use crate::broker::free_port;
use crate::eventually_or;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Where the distribution keeps the real programs: those in the path become another user.
const BIN: &str = "/usr/lib/rabbitmq/bin";

/// A RabbitMQ.
pub struct RabbitServer {
    dir: tempfile::TempDir,
    port: u16,
    tls: Option<u16>,
    dist: u16,
    mapper: u16,
    child: Option<Child>,
}

impl RabbitServer {
    /// Starts one; `None` where none is installed.
    pub fn start() -> Option<Self> {
        Self::start_with("", None)
    }

    /// The same with TLS on another port: a directory with `cert.pem` and `key.pem`.
    pub fn start_tls(certificates: &Path) -> Option<Self> {
        let port = free_port();
        let of = |file: &str| certificates.join(file).display().to_string();
        let config = format!(
            "listeners.ssl.default = {port}\nssl_options.certfile = {}\nssl_options.keyfile = {}\n\
             ssl_options.verify = verify_none\nssl_options.fail_if_no_peer_cert = false\n",
            of("cert.pem"),
            of("key.pem")
        );
        Self::start_with(&config, Some(port))
    }

    fn start_with(config: &str, tls: Option<u16>) -> Option<Self> {
        if !Path::new(BIN).join("rabbitmq-server").exists() {
            return None;
        }
        let dir = tempfile::Builder::new().prefix("reeve-rabbitmq-").tempdir().unwrap();
        for folder in ["home", "data", "log"] {
            std::fs::create_dir(dir.path().join(folder)).unwrap();
        }
        let cookie = dir.path().join("home/.erlang.cookie");
        std::fs::write(&cookie, "of-this-test-alone").unwrap();
        std::fs::set_permissions(&cookie, std::fs::Permissions::from_mode(0o400)).unwrap();
        std::fs::write(dir.path().join("rabbitmq.conf"), config).unwrap();
        let mut server =
            Self { dir, port: free_port(), tls, dist: free_port(), mapper: free_port(), child: None };
        server.up();
        Some(server)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(Path::new(BIN).join(program));
        let at = |file: &str| self.dir.path().join(file);
        command
            .env("HOME", at("home"))
            .env("RABBITMQ_NODENAME", format!("reeve{}@localhost", self.port))
            .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODE_PORT", self.port.to_string())
            .env("RABBITMQ_DIST_PORT", self.dist.to_string())
            .env("ERL_EPMD_PORT", self.mapper.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_MNESIA_BASE", at("data"))
            .env("RABBITMQ_LOG_BASE", at("log"))
            .env("RABBITMQ_PID_FILE", at("pid"))
            .env("ERL_CRASH_DUMP", at("crash"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", at("plugins"))
            .env("RABBITMQ_CONFIG_FILE", at("rabbitmq.conf"))
            .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
            // Less of the machine: schedulers that sleep at once.
            .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "+S 2:2 +sbwt none")
            .stdin(Stdio::null());
        command
    }

    /// Starts it again, on what it kept.
    pub fn up(&mut self) {
        let log = std::fs::File::create(self.dir.path().join("out")).unwrap();
        let child = self
            .command("rabbitmq-server")
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .process_group(0)
            .spawn()
            .unwrap();
        self.child = Some(child);
        self.until_open();
    }

    fn until_open(&self) {
        let said = || std::fs::read_to_string(self.dir.path().join("out")).unwrap_or_default();
        eventually_or(
            || format!("rabbitmq-server answers: {}", said()),
            || TcpStream::connect(("127.0.0.1", self.port)).ok(),
        );
        if let Some(port) = self.tls {
            // It listens there a moment later.
            eventually_or(
                || format!("rabbitmq-server answers with TLS: {}", said()),
                || TcpStream::connect(("127.0.0.1", port)).ok(),
            );
        }
    }

    /// The end of its own log.
    pub fn said(&self) -> String {
        let name = format!("log/reeve{}@localhost.log", self.port);
        let text = std::fs::read_to_string(self.dir.path().join(name)).unwrap_or_else(|e| e.to_string());
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }

    /// As queues name it.
    pub fn url(&self) -> String {
        format!("amqp://127.0.0.1:{}", self.port)
    }

    /// Its port.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The same with TLS; the certificate has to be of `localhost`.
    pub fn tls_url(&self) -> String {
        format!("amqps://localhost:{}", self.tls.expect("it was started with TLS"))
    }

    /// The number of the Erlang machine's process.
    fn pid(&self) -> Option<Pid> {
        let text = std::fs::read_to_string(self.dir.path().join("pid")).ok()?;
        Pid::from_raw(text.trim().parse().ok()?)
    }

    /// Sends a signal to the Erlang machine.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid().expect("it runs"), signal).unwrap();
    }

    /// Kills it, with everything it started.
    pub fn kill(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        // The machine first: it may be frozen.
        let machine = self.pid();
        if let Some(pid) = machine {
            let _ = kill_process(pid, Signal::KILL);
        }
        let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
        let _ = child.wait();
        // Its listening socket is there until it is gone, and would answer for the next one. Not `eventually`: it is also
        // killed while a test panics.
        let gone = || machine.is_none_or(|pid| !crate::alive(pid.as_raw_nonzero().get().cast_unsigned()));
        for _ in 0..3_000 {
            if gone() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let _ = std::fs::remove_file(self.dir.path().join("pid"));
    }

    /// Removes everything it kept. It has to be killed first.
    pub fn wipe(&self) {
        let data = self.dir.path().join("data");
        std::fs::remove_dir_all(&data).unwrap();
        std::fs::create_dir(&data).unwrap();
    }

    /// What its control program prints.
    pub fn ctl(&self, words: &[&str]) -> String {
        let out = self.command("rabbitmqctl").arg("--quiet").args(words).output().unwrap();
        let told = String::from_utf8_lossy(&out.stderr);
        assert!(
            out.status.success(),
            "rabbitmqctl {words:?}: {told}{}",
            String::from_utf8_lossy(&out.stdout)
        );
        String::from_utf8_lossy(&out.stdout).trim().to_owned()
    }
}

impl Drop for RabbitServer {
    fn drop(&mut self) {
        self.kill();
        // Its port mapper is a daemon of its own, and ends only when it knows of nobody.
        let port = self.mapper.to_string();
        let is_gone = || {
            let out =
                Command::new("epmd").args(["-port", &port, "-kill"]).stderr(Stdio::null()).output().ok()?;
            (!String::from_utf8_lossy(&out.stdout).contains("not allowed")).then_some(())
        };
        for _ in 0..100 {
            if is_gone().is_some() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}
