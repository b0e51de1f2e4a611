//! Puts a coordinator together and takes it apart again. Up: settings, store, core, engine, agents' port, API, ready.
//! Down: no new callers, no new machines, then the engine drains, then the store closes.
use crate::admission;
use crate::api;
use crate::backend::Backends;
use crate::clock;
use crate::config::Config;
use crate::core::{Core, Identity};
use crate::engine::{Engine, Handle};
use crate::hub::Hub;
use crate::identity::{self, Authority};
use crate::loader;
use crate::net::{self, Context, Machines, Net, Sockets, sessions::Sessions};
use crate::recorder::Recorder;
use crate::segments::Segments;
use crate::store;
use crate::store::writer::{Full, Writer};
use crate::watchdog;
use reeve_protocol::token;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::UnixListener;
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};

/// For the engine to drain once nobody can ask any more. What was acknowledged is on disk whatever happens then.
const DRAIN: Duration = Duration::from_secs(10);

/// What keeps a coordinator from running.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The cluster's keys.
    #[error("the cluster's keys cannot be used")]
    Identity(#[from] identity::Error),
    /// The agents' port.
    #[error("the agents' port cannot be opened")]
    Net(#[from] net::Error),
    /// The API's socket.
    #[error("cannot listen on {0}")]
    Socket(PathBuf, #[source] io::Error),
    /// A file or directory.
    #[error("cannot use {0}")]
    Io(PathBuf, #[source] io::Error),
    /// Others could read jobs, outputs and keys.
    #[error("{0} can be read or changed by other users; make it private with: chmod {1:o} {0}")]
    Open(PathBuf, u32),
    /// The engine's thread.
    #[error("the engine ended without a word")]
    Engine,
}

impl Error {
    /// The process's exit code: 74 for the store and the disk, 1 for the rest.
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Store(_) | Self::Io(..) => 74,
            Self::Identity(_) | Self::Net(_) | Self::Socket(..) | Self::Open(..) | Self::Engine => 1,
        }
    }
}

/// A coordinator that takes jobs now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    /// The API.
    pub socket: PathBuf,
    /// The agents' port.
    pub listen: SocketAddr,
}

/// Whether `init` was done and finished.
pub fn is_initialised(config: &Config) -> bool {
    has_store(&config.dir) && Authority::exists(&config.dir)
}

/// Makes store and keys. An `init` that was interrupted can be repeated; a finished one is refused.
///
/// # Errors
/// When there is a store already, or from the file system.
pub fn init(config: &Config) -> Result<(), Error> {
    let dir = &config.dir;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|e| Error::Io(dir.clone(), e))?;
    check_private(dir)?;
    match (has_store(dir), Authority::exists(dir)) {
        (true, true) => return Err(store::Error::Exists(dir.display().to_string()).into()),
        (false, true) => return Err(identity::Error::Exists(dir.join("ca")).into()),
        (true, false) => tracing::info!("finishing an init that was interrupted"),
        (false, false) => store::open::create(dir, &config.cluster_name())?,
    }
    // Whatever the directory's own mode is: the store holds environments and outputs of jobs.
    let file = dir.join(store::open::FILE);
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600))
        .map_err(|e| Error::Io(file, e))?;
    Ok(Authority::create(dir, &store::maintain::cluster(dir)?)?)
}

fn has_store(dir: &Path) -> bool {
    dir.join(store::open::FILE).exists()
}

/// Runs until `shutdown` turns true (or its sender is gone), or something fails. `on_ready` is called once jobs can be
/// submitted.
///
/// # Errors
/// What kept it from starting; when a step could not be recorded, that: the process must end then.
pub async fn run(
    config: Config,
    on_ready: impl FnOnce(&Ready),
    shutdown: watch::Receiver<bool>,
) -> Result<(), Error> {
    let (parts, engine) = build(&config)?;
    let bound = bind(&config)?;
    let listener = api::bind(&config.socket).map_err(|e| Error::Socket(config.socket.clone(), e))?;
    let running = start(&config, parts, engine, bound, listener)?;
    let ready = Ready { socket: config.socket.clone(), listen: running.net.address() };
    tracing::info!(socket = %ready.socket.display(), listen = %ready.listen, dir = %config.dir.display(), "ready");
    on_ready(&ready);
    running.until(shutdown).await
}

/// What the doors need of what was built.
struct Parts {
    handle: Handle,
    full: Full,
    hub: Arc<Hub>,
    sessions: Arc<Sessions>,
    segments: Arc<Segments>,
    authority: Arc<Authority>,
    machines: Arc<Machines>,
    reads: Arc<store::read::ReadPool>,
    backends: Arc<Backends>,
    who: Identity,
    /// The store has to be checked while it is used.
    unchecked: bool,
}

/// Refuses a store that others could look into: its directory, and each file that holds something of jobs or machines.
fn check_private(dir: &Path) -> Result<(), Error> {
    let private = |path: PathBuf, mode: u32| match std::fs::metadata(&path) {
        Ok(found) if found.permissions().mode() & 0o077 != 0 => Err(Error::Open(path, mode)),
        // What is not there is made, or missed, by whoever needs it.
        Ok(_) | Err(_) => Ok(()),
    };
    private(dir.to_owned(), 0o700)?;
    private(dir.join("ca"), 0o700)?;
    private(dir.join("output"), 0o700)?;
    for end in ["", "-wal", "-shm"] {
        private(dir.join(format!("{}{end}", store::open::FILE)), 0o600)?;
    }
    Ok(())
}

/// From the disk to an engine that could run.
fn build(config: &Config) -> Result<(Parts, Engine), Error> {
    // Without a store there is nothing to look into, and the store says how to make one.
    if has_store(&config.dir) {
        check_private(&config.dir)?;
    }
    let opened = store::open::open(&config.dir)?;
    let who =
        Identity { cluster: opened.cluster, name: opened.name, lineage: opened.lineage, epoch: opened.epoch };
    let loaded = store::load::load(&opened.conn, who.clone(), opened.seq)?;
    let authority = Authority::load(&config.dir, &who.cluster)?.with_machine_life(config.certificate_life);
    let authority = Arc::new(authority);
    let output = config.dir.join("output");
    let segments = Arc::new(open_output(&output).map_err(|e| Error::Io(output, e))?);
    let machines = Arc::new(Machines::new(&loaded.machines));
    let reads = Arc::new(store::read::ReadPool::open(&config.dir.join(store::open::FILE))?);
    let (hub, sessions) = (Arc::new(Hub::new(opened.seq)), Arc::new(Sessions::default()));
    tracing::info!(lineage = who.lineage, epoch = who.epoch, seq = opened.seq, "store opened");
    let raw = clock::now();
    let mut clock = clock::Steady::since(raw.mono, loaded.at);
    let mut core = Core::restore(loaded, token::random_hex(32), clock.read(raw));
    core.warn_idle_after(config.idle_warning.as_millis() as u64);
    core.keep_history_in(config.history_queue.clone());
    let full = Full::default();
    let unchecked = opened.unchecked;
    let writer = Writer::new(opened.conn, opened.mark, opened.lock, config.dir.clone(), full.clone())?;
    let backends = Arc::new(Backends::new(config.backends.clone(), &who.lineage));
    let (loader, wishes) = loader::channel();
    let recorder =
        |callers| Recorder::new(writer, callers, sessions.clone(), hub.clone(), backends.clone(), loader);
    let (engine, handle) = Engine::new(core, clock, recorder);
    loader::start(wishes, config.dir.join(store::open::FILE), handle.weak())?;
    let (engine, handle) = (engine.watching(full.clone()), handle.guarded(full.clone()));
    let parts =
        Parts { handle, full, hub, sessions, segments, authority, machines, reads, backends, who, unchecked };
    Ok((parts, engine))
}

/// Output of jobs is for the coordinator's user alone, whatever the mode of the directory above.
fn open_output(dir: &Path) -> io::Result<Segments> {
    let segments = Segments::open(dir)?;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))?;
    Ok(segments)
}

/// Binds the agents' port. `reeve up` lets the kernel choose once and keeps the port, so that tokens and agents stay
/// good across restarts.
fn bind(config: &Config) -> Result<Sockets, Error> {
    let file = config.dir.join("port");
    let keep = config.keep_port && config.listen.port() == 0;
    let kept = if keep { kept_port(&file) } else { None };
    let again = kept.and_then(|port| Sockets::bind(SocketAddr::new(config.listen.ip(), port)).ok());
    let sockets = match again {
        Some(sockets) => sockets,
        None => Sockets::bind(config.listen)?,
    };
    if keep && kept != Some(sockets.address().port()) {
        std::fs::write(&file, format!("{}\n", sockets.address().port())).map_err(|e| Error::Io(file, e))?;
    }
    Ok(sockets)
}

fn kept_port(file: &Path) -> Option<u16> {
    std::fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// A coordinator with open doors.
struct Running {
    net: Net,
    api: JoinHandle<()>,
    api_stop: watch::Sender<bool>,
    chores: JoinSet<()>,
    engine: oneshot::Receiver<Result<(), store::Error>>,
    thread: std::thread::JoinHandle<()>,
    check: oneshot::Receiver<store::Error>,
    backends: Arc<Backends>,
}

fn start(
    config: &Config,
    parts: Parts,
    engine: Engine,
    sockets: Sockets,
    listener: UnixListener,
) -> Result<Running, Error> {
    let (done, engine_done) = oneshot::channel();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .map_err(|e| Error::Io("/".into(), e))?;
    let callers = parts.handle.callers();
    parts.backends.start(parts.handle.clone());
    let thread = std::thread::Builder::new().name("engine".to_owned());
    let thread = thread
        .spawn(move || {
            let result = engine.run(&runtime);
            callers.abandon();
            let _ = done.send(result);
        })
        .map_err(|e| Error::Io("/".into(), e))?;
    let listen = sockets.address();
    let Parts { handle, full, hub, sessions, segments, authority, machines, reads, backends, who, unchecked } =
        parts;
    let mint = api::TokenMint {
        cluster: who.cluster.clone(),
        ca_hash: authority.ca_hash().to_owned(),
        addresses: config.addresses(listen),
    };
    let context = Context::new(
        handle.clone(),
        sessions.clone(),
        segments.clone(),
        authority,
        machines,
        who.cluster.clone(),
    );
    let net = Net::start(context, sockets)?;
    let info = api::Info {
        cluster: who.cluster,
        name: who.name,
        lineage: who.lineage,
        epoch: who.epoch,
        dir: config.dir.clone(),
        listen: listen.to_string(),
        started: Instant::now(),
    };
    let (api_stop, stopping) = watch::channel(false);
    let mut chores = JoinSet::new();
    chores.spawn(admission::watch(config.dir.clone(), full));
    if let Some(ping) = watchdog::start(&handle) {
        chores.spawn(ping);
    }
    let owner_uid = rustix::process::geteuid().as_raw();
    let state = api::State {
        handle,
        hub,
        reads,
        segments,
        sessions,
        backends: backends.clone(),
        mint,
        info,
        owner_uid,
    };
    let api = tokio::spawn(api::serve(state, listener, stopping));
    let check = check(config, unchecked);
    Ok(Running { net, api, api_stop, chores, engine: engine_done, thread, check, backends })
}

/// Checks the store beside the work, if that is due. Whatever it finds ends the process: what is damaged is not served.
fn check(config: &Config, is_due: bool) -> oneshot::Receiver<store::Error> {
    let (found, damage) = oneshot::channel();
    let dir = config.dir.clone();
    if is_due {
        // A thread of its own: nobody waits for it when the process stops.
        let thread = std::thread::Builder::new().name("check".to_owned());
        let spawned = thread.spawn(move || match store::open::check(&dir) {
            Ok(()) => tracing::info!("the store is whole, though it was not closed in order"),
            Err(error) => drop(found.send(error)),
        });
        if let Err(error) = spawned {
            tracing::warn!(%error, "the store is not checked");
        }
    }
    damage
}

impl Running {
    /// Waits for the end, and takes everything apart.
    async fn until(mut self, mut shutdown: watch::Receiver<bool>) -> Result<(), Error> {
        let failed = tokio::select! {
            // An error means that the sender is gone: nobody could ever say stop.
            _ = shutdown.wait_for(|stop| *stop) => None,
            ended = &mut self.engine => Some(ended),
            Ok(damage) = &mut self.check => {
                tracing::error!(error = &damage as &dyn std::error::Error, "the store is damaged; stopping");
                return Err(damage.into());
            }
        };
        tracing::info!("stopping");
        let _ = self.api_stop.send(true);
        self.chores.shutdown().await;
        self.backends.stop();
        let _ = tokio::join!(self.net.stop(), self.api);
        let ended = match failed {
            Some(ended) => Ok(ended),
            None => tokio::time::timeout(DRAIN, self.engine).await,
        };
        let Ok(ended) = ended else {
            tracing::warn!("the engine did not come to an end in time; what was acknowledged is on disk");
            return Ok(());
        };
        let panicked = self.thread.join().is_err();
        match ended {
            Ok(result) if !panicked => Ok(result?),
            _ => Err(Error::Engine),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    /// Runs a coordinator while `during` does something with it.
    async fn while_running<T>(config: &Config, during: impl AsyncFnOnce(Ready) -> T) -> T {
        let (stop, shutdown) = watch::channel(false);
        let (tx, ready) = oneshot::channel();
        let running = tokio::spawn(run(config.clone(), move |r| drop(tx.send(r.clone())), shutdown));
        let result = during(ready.await.unwrap()).await;
        stop.send(true).unwrap();
        running.await.unwrap().unwrap();
        result
    }

    async fn get(socket: &Path, path: &str) -> String {
        let mut stream = tokio::net::UnixStream::connect(socket).await.unwrap();
        stream
            .write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes())
            .await
            .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn it_starts_serves_stops_and_starts_again_on_the_same_port() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config::for_dir(dir.path().join("data"));
        assert!(!is_initialised(&config));
        init(&config).unwrap();
        assert!(is_initialised(&config));
        let (first, health) = while_running(&config, async |ready| {
            let health = get(&ready.socket, "/v1/health").await;
            (ready, health)
        })
        .await;
        assert!(health.starts_with("HTTP/1.1 200") && health.contains("\"epoch\":1"), "{health}");
        let (second, health) = while_running(&config, async |ready| {
            let health = get(&ready.socket, "/v1/health").await;
            (ready, health)
        })
        .await;
        assert!(health.contains("\"epoch\":2"), "{health}");
        assert_eq!(first, second);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_second_coordinator_on_one_store_is_refused_while_the_first_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config::for_dir(dir.path().join("data"));
        init(&config).unwrap();
        let error = while_running(&config, async |_| {
            let (_stop, shutdown) = watch::channel(false);
            run(config.clone(), |_| {}, shutdown).await.unwrap_err()
        })
        .await;
        assert!(matches!(error, Error::Store(store::Error::InUse(..))), "{error}");
        assert_eq!(error.exit_code(), 74);
    }

    #[test]
    fn a_finished_init_is_refused_and_an_interrupted_one_finished() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config::for_dir(dir.path().join("data"));
        init(&config).unwrap();
        assert!(matches!(init(&config), Err(Error::Store(store::Error::Exists(_)))));
        std::fs::remove_dir_all(config.dir.join("ca")).unwrap();
        assert!(!is_initialised(&config));
        init(&config).unwrap();
        std::fs::remove_file(config.dir.join(store::open::FILE)).unwrap();
        assert!(matches!(init(&config), Err(Error::Identity(identity::Error::Exists(_)))));
    }

    #[tokio::test]
    async fn a_store_that_others_could_look_into_is_refused_with_the_command_that_helps() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config::for_dir(dir.path().join("data"));
        init(&config).unwrap();
        let set = |path: &Path, mode: u32| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        let (file, ca) = (config.dir.join(store::open::FILE), config.dir.join("ca"));
        let key = ca.join("ca.key");
        for (path, bad, good) in [
            (&config.dir, 0o750, 0o700),
            (&config.dir, 0o701, 0o700),
            (&file, 0o640, 0o600),
            (&file, 0o602, 0o600),
            (&ca, 0o755, 0o700),
            (&key, 0o644, 0o600),
        ] {
            set(path, bad);
            let (_stop, shutdown) = watch::channel(false);
            let error = run(config.clone(), |_| {}, shutdown).await.unwrap_err();
            let told = std::error::Error::source(&error).map_or(error.to_string(), ToString::to_string);
            assert!(told.contains(&format!("chmod {good:o} {}", path.display())), "{bad:o}: {told}");
            set(path, good);
        }
        let open = Config::for_dir(dir.path().join("open"));
        std::fs::create_dir(&open.dir).unwrap();
        set(&open.dir, 0o755);
        assert!(matches!(init(&open), Err(Error::Open(..))), "not made where others can look");
    }

    #[tokio::test]
    async fn without_a_store_it_says_how_to_make_one() {
        let dir = tempfile::tempdir().unwrap();
        let (_stop, shutdown) = watch::channel(false);
        let error = run(Config::for_dir(dir.path().into()), |_| {}, shutdown).await.unwrap_err();
        assert!(error.to_string().contains("reeve-coordinator init"), "{error}");
    }
}
