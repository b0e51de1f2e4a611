//! The agent's part in gpus: looks at them off its own thread (a driver can hang), holds a Start back until its devices are
//! found fit, and says what it found. Nothing of it is kept when the session ends.
use crate::config::Settings;
use crate::gpu::health::Health;
use crate::gpu::{self, Device, Source};
use reeve_protocol::frame::Frame;
use reeve_protocol::ids::AttemptId;
use reeve_protocol::units::parse_bytes;
use reeve_protocol::wire::{self, LaunchReplica, Start, StartGit, StartReplica, kind};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// How long a driver may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Labels that say what the gpus are.
const MODEL: &str = "gpu";
const MEMORY: &str = "gpu_memory";

type Seen = Result<Vec<Device>, String>;

/// What a look was for.
enum For {
    /// The regular word to the coordinator.
    Report,
    /// An attempt that waits for it.
    Attempt(Box<Waiting>),
}

/// A Start that is held back.
struct Waiting {
    frame: Frame,
    attempt: AttemptId,
    gpus: Vec<String>,
    whole: bool,
}

/// What the session has to do after a look.
pub(super) enum Found {
    /// Tell the coordinator.
    Report(wire::Gpus),
    /// Its devices are fit: pass the Start on.
    Fit(Frame),
    /// They are not: tell, and give the attempt back.
    Unfit(wire::Gpus, AttemptId),
}

/// The devices of a session.
pub(super) struct Watch {
    source: Option<Arc<Mutex<Box<dyn Source>>>>,
    health: Health,
    looks: JoinSet<(For, Seen)>,
    reporting: bool,
}

impl Watch {
    /// Looks for the first time, and completes what the machine says about itself: which gpus it has, and labels of them.
    pub(super) async fn begin(settings: &Settings, machine: &mut wire::Machine) -> Self {
        let opened = settings.clone();
        let begun = aside(move || {
            let mut source = gpu::source(&opened)?;
            let seen = source.look();
            Some((source, seen))
        });
        let foreign = parse_bytes(&settings.gpu_foreign_memory).unwrap_or(u64::MAX);
        let Some((source, seen)) = begun.await.flatten() else {
            return Self::new(None, Health::new(Vec::new(), foreign));
        };
        if let (Ok(devices), None) = (&seen, &settings.gpus) {
            machine.gpus = devices.iter().map(|device| device.uuid.clone()).collect();
        }
        label(machine, seen.as_deref().unwrap_or_default());
        let mut health = Health::new(machine.gpus.clone(), foreign);
        health.checked(seen);
        Self::new(Some(Arc::new(Mutex::new(source))), health)
    }

    fn new(source: Option<Arc<Mutex<Box<dyn Source>>>>, health: Health) -> Self {
        Self { source, health, looks: JoinSet::new(), reporting: false }
    }

    /// What the coordinator is told; `None`: nobody looks here.
    pub(super) fn told(&self) -> Option<wire::Gpus> {
        self.source.as_ref().map(|_| self.health.told())
    }

    /// Something is in quarantine: it is looked at more often.
    pub(super) fn has_sick(&self) -> bool {
        self.health.has_sick()
    }

    /// Looks again, unless the last look still lasts.
    pub(super) fn report(&mut self) {
        if self.source.is_some() && !std::mem::replace(&mut self.reporting, true) {
            self.look(For::Report);
        }
    }

    /// Holds a Start back whose devices have to be examined. False: nothing has to.
    pub(super) fn holds_back(&mut self, frame: &Frame) -> bool {
        if self.source.is_none() {
            return false;
        }
        let start: Option<Start> = match frame.kind {
            kind::START => frame.decode().ok(),
            kind::START_REPLICA => frame.decode::<StartReplica>().ok().map(|order| order.start),
            kind::LAUNCH_REPLICA => frame.decode::<LaunchReplica>().ok().map(|order| order.start),
            _ => frame.decode::<StartGit>().ok().map(|git| git.start),
        };
        let Some(start) = start.filter(|start| !start.gpus.is_empty()) else { return false };
        let share = start.env.iter().rev().find(|(name, _)| name == "REEVE_GPUS");
        let whole = share.and_then(|(_, value)| value.parse::<f64>().ok()).is_none_or(|gpus| gpus >= 1.0);
        let (attempt, gpus) = (start.attempt, start.gpus);
        self.look(For::Attempt(Box::new(Waiting { frame: frame.clone(), attempt, gpus, whole })));
        true
    }

    fn look(&mut self, why: For) {
        let Some(source) = self.source.clone() else { return };
        self.looks.spawn(async move {
            let hangs = || Err(format!("the driver does not answer within {} s", PATIENCE.as_secs()));
            // One look at a time, so that a driver that hangs gathers no threads.
            let Ok(turn) = timeout(PATIENCE, source.lock_owned()).await else { return (why, hangs()) };
            let seen = aside(move || {
                let mut turn = turn;
                turn.look()
            });
            (why, seen.await.unwrap_or_else(hangs))
        });
    }

    /// The next look that is done; waits for ever when there is none.
    pub(super) async fn next(&mut self) -> Found {
        loop {
            match self.looks.join_next().await {
                Some(Ok((For::Report, seen))) => {
                    self.reporting = false;
                    self.health.checked(seen);
                    return Found::Report(self.health.told());
                }
                Some(Ok((For::Attempt(waiting), seen))) => {
                    return match self.health.preflight(seen, &waiting.gpus, waiting.whole) {
                        Ok(()) => Found::Fit(waiting.frame),
                        Err(reason) => {
                            tracing::warn!(attempt = %waiting.attempt, reason, "an attempt goes elsewhere");
                            Found::Unfit(self.health.told(), waiting.attempt)
                        }
                    };
                }
                // A look that panicked says nothing; the next one may.
                Some(Err(_)) => self.reporting = false,
                None => std::future::pending().await,
            }
        }
    }
}

/// Runs something that may hang on a thread of its own, which nobody waits for at the end: a pool would. `None`: it takes
/// too long.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (tell, told) = oneshot::channel();
    let thread = std::thread::Builder::new().name("gpus".to_owned()).spawn(move || {
        let _ = tell.send(work());
    });
    thread.ok()?;
    timeout(PATIENCE, told).await.ok()?.ok()
}

/// What jobs can be sent to with `--on label.gpu=*A100*`, unless the configuration says it itself.
fn label(machine: &mut wire::Machine, devices: &[Device]) {
    let mut add = |name: &str, value: String| {
        let known = machine.labels.iter().any(|(key, _)| key == name);
        if !known && !value.is_empty() {
            machine.labels.push((name.to_owned(), value));
        }
    };
    // The smallest: what a job may count on wherever it lands.
    if let Some(least) =
        devices.iter().filter(|device| device.memory_bytes > 0).min_by_key(|d| d.memory_bytes)
    {
        add(MEMORY, format!("{}GiB", least.memory_bytes >> 30));
    }
    let mut models: Vec<String> =
        devices.iter().map(|device| device.model.trim().replace(' ', "-")).collect();
    models.sort();
    models.dedup();
    add(MODEL, models.join("+"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use reeve_protocol::frame;
    use reeve_protocol::ids::TaskId;

    fn start(gpus: &[&str], share: &str) -> Frame {
        framed(kind::START, &body(gpus, share))
    }

    fn framed<T: serde::Serialize>(kind: u16, body: &T) -> Frame {
        let (mut bytes, mut reader) = (Vec::new(), frame::Reader::new());
        frame::append(kind, 0, body, &mut bytes).unwrap();
        reader.feed(&bytes);
        reader.next_frame().unwrap().unwrap()
    }

    fn body(gpus: &[&str], share: &str) -> Start {
        Start {
            attempt: TaskId::single(7).attempt(1),
            gpus: gpus.iter().map(|gpu| (*gpu).to_owned()).collect(),
            env: vec![("REEVE_GPUS".into(), share.into())],
            ..Start::default()
        }
    }

    async fn begun(text: &str) -> (tempfile::TempDir, std::path::PathBuf, wire::Machine, Watch) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("gpus.toml");
        std::fs::write(&file, text).unwrap();
        let settings = Settings { gpu_file: Some(file.clone()), ..Settings::default() };
        let mut machine = wire::Machine::default();
        let watch = Watch::begin(&settings, &mut machine).await;
        (dir, file, machine, watch)
    }

    const TWO: &str = "[[gpu]]\nuuid = \"GPU-1\"\nmodel = \"A100 SXM\"\nmemory = \"80GiB\"\n\
                       [[gpu]]\nuuid = \"GPU-2\"\nmodel = \"A100 SXM\"\nmemory = \"40GiB\"\n";

    #[tokio::test]
    async fn a_machine_tells_its_gpus_and_what_they_are() {
        let (_dir, _file, machine, watch) = begun(TWO).await;
        assert_eq!(machine.gpus, ["GPU-1", "GPU-2"]);
        assert_eq!(
            machine.labels,
            [("gpu_memory".into(), "40GiB".into()), ("gpu".into(), "A100-SXM".into())]
        );
        let told = watch.told().unwrap();
        assert!(told.devices.len() == 2 && told.devices.iter().all(|gpu| gpu.quarantine.is_none()));
    }

    #[tokio::test]
    async fn a_replica_waits_for_its_devices_like_everybody() {
        let (_dir, file, _, mut watch) = begun(TWO).await;
        let order = StartReplica { start: body(&["GPU-1"], "1"), ..StartReplica::default() };
        let launch = LaunchReplica { start: body(&["GPU-1"], "1"), ..LaunchReplica::default() };
        for frame in [framed(kind::START_REPLICA, &order), framed(kind::LAUNCH_REPLICA, &launch)] {
            assert!(watch.holds_back(&frame));
            assert!(matches!(watch.next().await, Found::Fit(fit) if fit == frame));
        }
        std::fs::write(&file, TWO.replacen("memory = \"80GiB\"", "memory = \"80GiB\"\nused = \"5GiB\"", 1))
            .unwrap();
        assert!(watch.holds_back(&framed(kind::START_REPLICA, &order)));
        assert!(matches!(watch.next().await, Found::Unfit(..)));
    }

    #[tokio::test]
    async fn a_start_waits_until_its_devices_are_found_fit() {
        let (_dir, file, _, mut watch) = begun(TWO).await;
        assert!(!watch.holds_back(&start(&[], "0")));
        let fit = start(&["GPU-1"], "1");
        assert!(watch.holds_back(&fit));
        assert!(matches!(watch.next().await, Found::Fit(frame) if frame == fit));
        std::fs::write(&file, TWO.replacen("memory = \"80GiB\"", "memory = \"80GiB\"\nused = \"5GiB\"", 1))
            .unwrap();
        assert!(watch.holds_back(&start(&["GPU-1"], "0.5")));
        assert!(matches!(watch.next().await, Found::Fit(_)), "a shared device may be in use");
        assert!(watch.holds_back(&start(&["GPU-1"], "1")));
        let Found::Unfit(told, attempt) = watch.next().await else { panic!("it is occupied") };
        assert_eq!(attempt, TaskId::single(7).attempt(1));
        assert!(told.devices[0].quarantine.is_some() && told.devices[1].quarantine.is_none());
        std::fs::write(&file, TWO).unwrap();
        for _ in 0..3 {
            watch.report();
            assert!(matches!(watch.next().await, Found::Report(_)));
        }
        assert!(watch.told().unwrap().devices[0].quarantine.is_none());
    }
}
