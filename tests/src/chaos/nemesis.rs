//! Breaks and heals, by plan or by hand, and writes down what it did and when.
use super::cluster::Cluster;
use super::ledger::Ledger;
use super::plan::{Fault, Link, Planned, Whom};
use super::processes;
use super::proxy::{Faults, Way};
use rustix::process::Signal;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// 256 kbit/s.
const SLOW: u64 = 32_000;
/// Left free on a nearly full disk: below the mark at which new work is refused.
const LOW: u64 = 24 << 20;

/// The one who breaks things.
pub struct Nemesis {
    cluster: Arc<Cluster>,
    ledger: Arc<Ledger>,
    jobs: PathBuf,
    ids: AtomicU64,
    /// Stopped processes that are not daemons.
    stopped: Mutex<BTreeMap<u64, Vec<u32>>>,
    /// Jobs whose guardian was struck.
    hit: Mutex<Vec<u64>>,
}

impl Nemesis {
    /// `jobs` is the directory that every job names in its command line.
    pub fn new(cluster: Arc<Cluster>, ledger: Arc<Ledger>, jobs: PathBuf) -> Self {
        Self {
            cluster,
            ledger,
            jobs,
            ids: AtomicU64::new(1),
            stopped: Mutex::default(),
            hit: Mutex::default(),
        }
    }

    /// Follows a plan, step by step, and heals everything at its end.
    pub fn follow(&self, plan: &[Planned]) {
        let mut steps: Vec<(u64, Step)> = Vec::new();
        for (at, planned) in plan.iter().enumerate() {
            let id = self.ids.fetch_add(1, Ordering::Relaxed);
            let period = match planned.fault {
                Fault::Link(_, Link::Flap) => 1_000,
                Fault::Loop => 2_000,
                _ => u64::MAX,
            };
            steps.push((planned.start, Step::Begin(at, id)));
            let mut next = planned.start.saturating_add(period);
            let mut odd = true;
            while next < planned.end {
                steps.push((next, Step::Turn(at, odd)));
                odd = !odd;
                next += period;
            }
            steps.push((planned.end, Step::End(at, id)));
        }
        steps.sort_by_key(|(at, _)| *at);
        let start = Instant::now();
        for (at, step) in steps {
            std::thread::sleep(Duration::from_millis(at).saturating_sub(start.elapsed()));
            match step {
                Step::Begin(at, id) => self.begin(plan[at].fault, id),
                Step::Turn(at, odd) => self.turn(plan[at].fault, odd),
                Step::End(at, id) => self.end(plan[at].fault, id),
            }
        }
        self.heal();
    }

    /// Does one thing for so long.
    pub fn strike(&self, fault: Fault, long: Duration) {
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        self.begin(fault, id);
        std::thread::sleep(long);
        self.end(fault, id);
    }

    /// Does all of them, one after the other and each as long as all of it takes.
    pub fn strike_all(&self, faults: &[Fault], gap: Duration) {
        let mut begun = Vec::new();
        for fault in faults {
            let id = self.ids.fetch_add(1, Ordering::Relaxed);
            self.begin(*fault, id);
            begun.push((*fault, id));
            std::thread::sleep(gap);
        }
        for (fault, id) in begun {
            self.end(fault, id);
        }
    }

    /// Whether a machine has a cable of its own.
    pub fn has_cable(&self, m: usize) -> bool {
        self.cluster.machines[m].namespace.is_some()
    }

    /// Jobs whose guardian was struck, oldest first.
    pub fn hit(&self) -> Vec<u64> {
        self.hit.lock().unwrap().clone()
    }

    fn begin(&self, fault: Fault, id: u64) {
        let machine = fault.machine().map_or("*", |m| &self.cluster.machines[m].name);
        self.ledger.note(json!({"op": "start", "id": id, "fault": fault.to_string(), "machine": machine}));
        match fault {
            Fault::Kill(whom) => self.down(whom, Signal::KILL, id),
            Fault::Term(whom) => self.down(whom, Signal::TERM, id),
            Fault::Stop(whom) => self.stop(whom, id),
            Fault::Loop => self.down(Whom::Coordinator, Signal::KILL, id),
            Fault::Link(m, link) => self.link(m, link),
            Fault::Rebind(m) => self.cluster.machines[m].proxy.rebind(),
            Fault::Cable(m) => self.cable(m, false),
            Fault::DiskLow => self.fill(LOW),
            Fault::DiskFull => self.fill(0),
        }
        if fault == Fault::Loop {
            self.cluster.supervisor.hold(self.cluster.coordinator, false);
        }
    }

    fn turn(&self, fault: Fault, odd: bool) {
        match fault {
            Fault::Link(m, _) if odd => self.cluster.machines[m].proxy.heal(),
            Fault::Link(m, link) => self.link(m, link),
            _ => self.cluster.supervisor.signal(self.cluster.coordinator, Signal::KILL, true),
        }
    }

    fn end(&self, fault: Fault, id: u64) {
        let supervisor = &self.cluster.supervisor;
        match fault {
            Fault::Kill(whom) | Fault::Term(whom) => {
                for daemon in self.daemons(whom) {
                    supervisor.hold(daemon, false);
                }
            }
            Fault::Stop(whom) => {
                for daemon in self.daemons(whom) {
                    supervisor.signal(daemon, Signal::CONT, false);
                }
                for pid in self.stopped.lock().unwrap().remove(&id).unwrap_or_default() {
                    processes::signal(pid, Signal::CONT);
                }
            }
            Fault::Link(m, _) => self.cluster.machines[m].proxy.heal(),
            Fault::Cable(m) => self.cable(m, true),
            Fault::DiskLow | Fault::DiskFull => self.free(),
            Fault::Loop | Fault::Rebind(_) => {}
        }
        self.ledger.note(json!({"op": "end", "id": id}));
    }

    /// Everything runs, everything passes.
    pub fn heal(&self) {
        let supervisor = &self.cluster.supervisor;
        for daemon in self.daemons(Whom::Everyone) {
            supervisor.hold(daemon, false);
            supervisor.signal(daemon, Signal::CONT, false);
        }
        for pid in std::mem::take(&mut *self.stopped.lock().unwrap()).into_values().flatten() {
            processes::signal(pid, Signal::CONT);
        }
        for m in 0..self.cluster.machines.len() {
            self.cluster.machines[m].proxy.heal();
            self.cable(m, true);
        }
        self.free();
        self.ledger.note(json!({"op": "heal"}));
    }

    /// The daemons that the supervisor looks after.
    fn daemons(&self, whom: Whom) -> Vec<usize> {
        let head = self.cluster.coordinator;
        match whom {
            Whom::Coordinator => vec![head],
            Whom::Agent(m) | Whom::Pair(m) => vec![self.cluster.machines[m].daemon],
            Whom::Keeper(_) | Whom::Guardian(_) => Vec::new(),
            Whom::Everyone => {
                [head].into_iter().chain(self.cluster.machines.iter().map(|m| m.daemon)).collect()
            }
        }
    }

    fn down(&self, whom: Whom, signal: Signal, id: u64) {
        for daemon in self.daemons(whom) {
            self.cluster.supervisor.hold(daemon, true);
            self.cluster.supervisor.signal(daemon, signal, true);
        }
        match whom {
            Whom::Keeper(m) | Whom::Pair(m) => {
                if let Some(pid) = self.cluster.machines[m].keeper() {
                    processes::signal(pid, signal);
                }
            }
            Whom::Guardian(m) => {
                if let Some(pid) = self.stop_guardian(m, id) {
                    processes::signal(pid, signal);
                }
            }
            _ => {}
        }
    }

    fn stop(&self, whom: Whom, id: u64) {
        for daemon in self.daemons(whom) {
            self.cluster.supervisor.signal(daemon, Signal::STOP, false);
        }
        let other = match whom {
            Whom::Keeper(m) | Whom::Pair(m) => self.cluster.machines[m].keeper(),
            Whom::Guardian(m) => self.stop_guardian(m, id),
            _ => None,
        };
        if let Some(pid) = other {
            processes::signal(pid, Signal::STOP);
            self.stopped.lock().unwrap().entry(id).or_default().push(pid);
        }
    }

    /// Stops the guardian of a running attempt and writes down which. Stopped first and read then: a guardian goes on to
    /// other attempts.
    fn stop_guardian(&self, m: usize, id: u64) -> Option<u32> {
        let machine = &self.cluster.machines[m];
        let home = machine.dir.display().to_string();
        let keeper = machine.keeper();
        let mut jobs = processes::with_text(&self.jobs.display().to_string());
        // The one that has run longest is the least likely to end just now.
        jobs.sort_unstable();
        for job in jobs {
            let Some(guardian) = processes::parent(job).filter(|pid| Some(*pid) != keeper) else { continue };
            let line = processes::command_line(guardian);
            if !line.contains(&format!("{home}/")) || !line.contains(" keeper ") {
                continue;
            }
            processes::signal(guardian, Signal::STOP);
            let held = processes::attempt_of(job).filter(|_| processes::parent(job) == Some(guardian));
            let Some((number, index, attempt)) = held else {
                processes::signal(guardian, Signal::CONT);
                continue;
            };
            self.ledger.note(json!({"op": "guardian", "id": id, "job": number, "index": index,
                "attempt": attempt, "machine": machine.name}));
            self.hit.lock().unwrap().push(number);
            return Some(guardian);
        }
        None
    }

    fn link(&self, m: usize, link: Link) {
        let none = Faults::default;
        let (up, down) = match link {
            Link::Blackhole | Link::Flap => (Faults::blackhole(), Faults::blackhole()),
            Link::DeafHead => (Faults::blackhole(), none()),
            Link::DeafMachine => (none(), Faults::blackhole()),
            other => (damage(other), damage(other)),
        };
        self.cluster.machines[m].proxy.set(Way::Up, up);
        self.cluster.machines[m].proxy.set(Way::Down, down);
    }

    fn cable(&self, m: usize, is_in: bool) {
        if let Some(namespace) = &self.cluster.machines[m].namespace {
            namespace.cable(is_in);
        }
    }

    fn filler(&self) -> PathBuf {
        self.cluster.options.dir.join("head/filler")
    }

    /// Leaves so much free on the coordinator's own disk.
    fn fill(&self, leave: u64) {
        if !self.cluster.own_disk {
            return;
        }
        let Ok(file) = std::fs::File::create(self.filler()) else { return };
        let mut len = 0;
        for piece in [16 << 20, 1 << 20, 4096] {
            let room = || rustix::fs::fstatvfs(&file).map_or(0, |disk| disk.f_bavail * disk.f_frsize);
            while room() >= leave + piece
                && rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), len, piece).is_ok()
            {
                len += piece;
            }
        }
    }

    fn free(&self) {
        let _ = std::fs::remove_file(self.filler());
    }
}

enum Step {
    Begin(usize, u64),
    Turn(usize, bool),
    End(usize, u64),
}

fn damage(link: Link) -> Faults {
    let ms = Duration::from_millis;
    let none = Faults::default();
    match link {
        Link::Loss(percent) => Faults { drop: f64::from(percent), ..none },
        Link::Jitter => Faults { delay: (ms(100), ms(300)), ..none },
        Link::Reorder => Faults { reorder: 20.0, window: 5, ..none },
        Link::Duplicate => Faults { duplicate: 20.0, ..none },
        Link::Corrupt => Faults { corrupt: 5.0, truncate: 5.0, ..none },
        Link::Slow => Faults { rate: Some(SLOW), ..none },
        Link::Blackhole | Link::Flap | Link::DeafHead | Link::DeafMachine => Faults::blackhole(),
    }
}
