//! The cluster under test: a coordinator, machines that reach it only through their own proxy, each in a network
//! namespace where this user may make them.
use super::client::Client;
use super::ledger::Ledger;
use super::namespace::Namespace;
use super::proxy::udp::UdpProxy;
use super::rng::Rng;
use super::supervise::{Recipe, Supervisor};
use super::{Failure, processes};
use reeve_protocol::token::Token;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// For anything that is awaited while nothing is broken.
const BOUND: Duration = Duration::from_mins(2);

/// How it is made.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the binaries are.
    pub bins: PathBuf,
    /// Everything of this run.
    pub dir: PathBuf,
    /// How many machines.
    pub machines: usize,
    /// Cpus that each offers.
    pub cpus: f64,
    /// Bytes of the coordinator's disk when it can be given one of its own.
    pub disk: u64,
}

/// One machine.
pub struct Machine {
    /// Its name in the cluster.
    pub name: String,
    /// Its files.
    pub dir: PathBuf,
    /// Its number with the supervisor.
    pub daemon: usize,
    /// Between it and the coordinator.
    pub proxy: UdpProxy,
    /// Where it lives, when it has a network of its own.
    pub namespace: Option<Namespace>,
}

impl Machine {
    /// Its keeper's process.
    pub fn keeper(&self) -> Option<u32> {
        processes::keeper(&self.runtime())
    }

    /// Sockets and guardians.
    pub fn runtime(&self) -> PathBuf {
        self.dir.join("run")
    }
}

/// All of it.
pub struct Cluster {
    /// As asked for.
    pub options: Options,
    /// Starts daemons again.
    pub supervisor: Arc<Supervisor>,
    /// The coordinator's number with the supervisor.
    pub coordinator: usize,
    /// In order of their names.
    pub machines: Vec<Machine>,
    /// Whether the coordinator's disk can be filled without harm to others.
    pub own_disk: bool,
}

impl Cluster {
    /// Starts everything and waits until every machine is up.
    ///
    /// # Errors
    /// What did not work.
    pub async fn start(options: Options, ledger: Arc<Ledger>, rng: &Rng) -> Result<Self, Failure> {
        let base = &options.dir;
        std::fs::create_dir_all(base.join("head")).map_err(|e| format!("{}: {e}", base.display()))?;
        let size = format!("size={}", options.disk);
        let own_disk =
            ran(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "none"]).arg(base.join("head")))
                .is_ok();
        let supervisor = Supervisor::start(ledger);
        let port = free_port()?;
        let mut new = Self { options, supervisor, coordinator: 0, machines: Vec::new(), own_disk };
        ran(Command::new(new.bin("reeve-coordinator")).arg("init").arg("--dir").arg(new.data()))?;
        new.coordinator = new.supervisor.add(new.head_recipe(port))?;
        let mut client = Client::new(&new.socket());
        wait("the coordinator answers", || client.get("/v1/health").is_some()).await?;
        for at in 0..new.options.machines {
            let machine = new.machine(at, SocketAddr::from((Ipv4Addr::LOCALHOST, port)), rng).await?;
            new.machines.push(machine);
        }
        for machine in &new.machines {
            let path = format!("/v1/machines/{}", machine.name);
            wait(&format!("{} is up", machine.name), || {
                client.get(&path).is_some_and(|reply| reply.json()["state"] == "up")
            })
            .await?;
        }
        Ok(new)
    }

    fn head_recipe(&self, port: u16) -> Recipe {
        let listen = format!("127.0.0.1:{port}");
        let (dir, socket) = (self.data().display().to_string(), self.socket().display().to_string());
        let bin = self.bin("reeve-coordinator").display().to_string();
        let words = [bin.as_str(), "run", "--dir", &dir, "--socket", &socket, "--listen", &listen];
        let log = self.options.dir.join("coordinator.log");
        Recipe { name: "coordinator".to_owned(), words: words.map(str::to_owned).to_vec(), log }
    }

    async fn machine(&self, at: usize, server: SocketAddr, rng: &Rng) -> Result<Machine, Failure> {
        let name = format!("m{}", at + 1);
        let dir = self.options.dir.join(&name);
        // The machine's key lies here: an agent refuses a directory that others may read.
        let made = std::fs::DirBuilder::new().mode(0o711).create(&dir);
        made.map_err(|e| format!("{}: {e}", dir.display()))?;
        let namespace = Namespace::new(at).ok();
        let here = namespace.as_ref().map_or(Ipv4Addr::LOCALHOST, |namespace| namespace.here);
        let proxy = UdpProxy::start((here, 0).into(), server, &rng.part(&name)).await;
        let proxy = proxy.map_err(|e| format!("the proxy of {name}: {e}"))?;
        let mut token: Token = self.token()?.parse()?;
        // Its own proxy is the only address it ever learns.
        token.addresses = vec![proxy.address().to_string()];
        let file = dir.join("token");
        let settings = format!("allow_root = true\ncpus = {}\n", self.options.cpus);
        let config = dir.join("agent.toml");
        for (path, text) in [(&file, token.to_string()), (&config, settings)] {
            std::fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))?;
        }
        let text = |path: &Path| path.display().to_string();
        let mut words = namespace.as_ref().map(Namespace::prefix).unwrap_or_default();
        words.push(text(&self.bin("reeve-agent")));
        let mut join = words.clone();
        join.extend(
            ["join", "--name", &name, "--token-file", &text(&file), "--dir", &text(&dir)].map(str::to_owned),
        );
        let joined = tokio::task::spawn_blocking(move || ran(Command::new(&join[0]).args(&join[1..]))).await;
        joined.map_err(|e| e.to_string())??;
        words.extend(["run", "--dir", &text(&dir), "--config", &text(&config)].map(str::to_owned));
        let daemon = self.supervisor.add(Recipe { name: name.clone(), words, log: dir.join("log") })?;
        Ok(Machine { name, dir, daemon, proxy, namespace })
    }

    fn token(&self) -> Result<String, Failure> {
        let mut command = Command::new(self.bin("reeve-coordinator"));
        ran(command.arg("token").arg("--dir").arg(self.data()).arg("--socket").arg(self.socket()))
    }

    /// One of the binaries.
    pub fn bin(&self, name: &str) -> PathBuf {
        self.options.bins.join(name)
    }

    /// The API's socket.
    pub fn socket(&self) -> PathBuf {
        self.options.dir.join("coordinator.sock")
    }

    /// The coordinator's files.
    pub fn data(&self) -> PathBuf {
        self.options.dir.join("head/data")
    }

    /// Ends every daemon, then whatever should have gone by itself; gives what did not end when it was told to.
    pub fn end(&self) -> Vec<String> {
        let stuck = self.supervisor.end_all(Duration::from_secs(30));
        for machine in &self.machines {
            if let Some(pid) = machine.keeper() {
                processes::signal(pid, rustix::process::Signal::TERM);
            }
        }
        stuck
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.end();
        crate::sweep(&[&self.options.dir]);
        if self.own_disk {
            let _ = Command::new("umount").arg("--lazy").arg(self.options.dir.join("head")).output();
        }
    }
}

/// Asks until it is so.
///
/// # Errors
/// When it has not come in two minutes.
pub async fn wait(what: &str, mut is_so: impl FnMut() -> bool) -> Result<(), Failure> {
    let end = Instant::now() + BOUND;
    while !is_so() {
        if Instant::now() > end {
            return Err(format!("waited {BOUND:?} for: {what}"));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Runs a command to its end; its standard output.
///
/// # Errors
/// What it said when it failed.
pub fn ran(command: &mut Command) -> Result<String, Failure> {
    let output = command.output().map_err(|e| format!("{}: {e}", command.get_program().display()))?;
    if !output.status.success() {
        return Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// A port that is free for UDP and TCP now.
fn free_port() -> Result<u16, Failure> {
    let socket = std::net::UdpSocket::bind(("127.0.0.1", 0)).and_then(|socket| socket.local_addr());
    socket.map(|address| address.port()).map_err(|e| format!("no free port: {e}"))
}
