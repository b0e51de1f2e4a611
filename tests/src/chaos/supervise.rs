//! What systemd does for the daemons: starts them again when they end. Whoever ends one on purpose says so first; any
//! other end is noted as a finding.
use super::Failure;
use super::ledger::Ledger;
use super::processes;
use rustix::process::Signal;
use serde_json::json;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(20);
/// Between an end and the next start: systemd's default.
const REST: Duration = Duration::from_millis(100);

/// How a daemon is started: program and arguments.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// `coordinator`, or the machine's name.
    pub name: String,
    /// Program first.
    pub words: Vec<String>,
    /// Where its output goes.
    pub log: PathBuf,
}

impl Recipe {
    fn start(&self) -> std::io::Result<Child> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut command = Command::new(&self.words[0]);
        command.args(&self.words[1..]).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        command.spawn()
    }
}

struct Slot {
    recipe: Recipe,
    child: Option<Child>,
    /// Its next end is wanted.
    expected: bool,
    /// It stays down.
    held: bool,
    since: Instant,
    starts: u64,
}

/// All daemons.
pub struct Supervisor {
    slots: Mutex<Vec<Slot>>,
    ledger: Arc<Ledger>,
    stop: Mutex<bool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Supervisor {
    /// Looks after what [`Supervisor::add`] brings.
    pub fn start(ledger: Arc<Ledger>) -> Arc<Self> {
        let new = Self { slots: Mutex::default(), ledger, stop: Mutex::new(false), thread: Mutex::default() };
        let supervisor = Arc::new(new);
        let own = supervisor.clone();
        let thread = std::thread::spawn(move || {
            while !*own.stop.lock().unwrap() {
                own.look();
                std::thread::sleep(LOOK);
            }
        });
        *supervisor.thread.lock().unwrap() = Some(thread);
        supervisor
    }

    /// Starts one; its number.
    ///
    /// # Errors
    /// When it cannot be started at all.
    pub fn add(&self, recipe: Recipe) -> Result<usize, Failure> {
        let child = recipe.start().map_err(|e| format!("{}: {e}", recipe.words.join(" ")))?;
        let mut slots = self.slots.lock().unwrap();
        let since = Instant::now();
        slots.push(Slot { recipe, child: Some(child), expected: false, held: false, since, starts: 1 });
        Ok(slots.len() - 1)
    }

    fn look(&self) {
        for slot in self.slots.lock().unwrap().iter_mut() {
            if let Some(status) = slot.child.as_mut().and_then(|child| child.try_wait().ok().flatten()) {
                slot.child = None;
                slot.since = Instant::now();
                if !std::mem::take(&mut slot.expected) {
                    let line = json!({"op": "exit", "daemon": slot.recipe.name, "status": status.to_string(),
                        "code": status.code()});
                    self.ledger.note(line);
                }
            }
            if slot.child.is_none() && !slot.held && slot.since.elapsed() >= REST {
                slot.since = Instant::now();
                slot.child = slot.recipe.start().ok();
                slot.starts += 1;
            }
        }
    }

    /// The process, when there is one.
    pub fn pid(&self, at: usize) -> Option<u32> {
        self.slots.lock().unwrap()[at].child.as_ref().map(Child::id)
    }

    /// How often it was started.
    pub fn starts(&self, at: usize) -> u64 {
        self.slots.lock().unwrap()[at].starts
    }

    /// Its name.
    pub fn name(&self, at: usize) -> String {
        self.slots.lock().unwrap()[at].recipe.name.clone()
    }

    /// Sends a signal; `ends` says that its end is wanted.
    pub fn signal(&self, at: usize, signal: Signal, ends: bool) {
        let mut slots = self.slots.lock().unwrap();
        let slot = &mut slots[at];
        if let Some(child) = &slot.child {
            slot.expected |= ends;
            processes::signal(child.id(), signal);
        }
    }

    /// It is not started again until it is let go, or the other way round.
    pub fn hold(&self, at: usize, held: bool) {
        self.slots.lock().unwrap()[at].held = held;
    }

    /// Ends all of them for good, the last one added first, as an operator would; gives who did not end within `bound`.
    pub fn end_all(&self, bound: Duration) -> Vec<String> {
        *self.stop.lock().unwrap() = true;
        if let Some(thread) = self.thread.lock().unwrap().take() {
            let _ = thread.join();
        }
        let mut stuck = Vec::new();
        for slot in self.slots.lock().unwrap().iter_mut().rev() {
            let Some(mut child) = slot.child.take() else { continue };
            processes::signal(child.id(), Signal::CONT);
            processes::signal(child.id(), Signal::TERM);
            let end = Instant::now() + bound;
            while !matches!(child.try_wait(), Ok(Some(_)) | Err(_)) {
                if Instant::now() > end {
                    stuck.push(slot.recipe.name.clone());
                    let _ = child.kill();
                    let _ = child.wait();
                    break;
                }
                std::thread::sleep(LOOK);
            }
        }
        stuck
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eventually;

    #[test]
    fn what_ends_is_started_again_and_only_an_end_nobody_asked_for_is_noted() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Arc::new(Ledger::create(&dir.path().join("l")).unwrap());
        let supervisor = Supervisor::start(ledger);
        let words = ["sleep", "600"].map(str::to_owned).to_vec();
        let at = supervisor.add(Recipe { name: "s".into(), words, log: dir.path().join("log") }).unwrap();
        let first = supervisor.pid(at).unwrap();
        supervisor.signal(at, Signal::KILL, true);
        let second = eventually("a second start", || supervisor.pid(at).filter(|pid| *pid != first));
        assert_eq!(std::fs::read_to_string(dir.path().join("l")).unwrap(), "");
        processes::signal(second, Signal::KILL);
        let third = eventually("a third", || supervisor.pid(at).filter(|pid| *pid != second));
        assert!(std::fs::read_to_string(dir.path().join("l")).unwrap().contains("\"daemon\":\"s\""));
        supervisor.hold(at, true);
        supervisor.signal(at, Signal::KILL, true);
        eventually("it is down", || supervisor.pid(at).is_none().then_some(()));
        supervisor.hold(at, false);
        eventually("it is up", || supervisor.pid(at).filter(|pid| *pid != third));
        assert_eq!(supervisor.end_all(crate::PATIENCE), Vec::<String>::new());
        assert_eq!(supervisor.starts(at), 4);
    }
}
