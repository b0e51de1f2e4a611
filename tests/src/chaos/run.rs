//! One run from start to verdict: cluster, load, observers, nemesis; heal and drain; export; `ledger-check`.
use super::client::Client;
use super::cluster::{Cluster, Options};
use super::gauge::{Gauge, LIMITS};
use super::ledger::Ledger;
use super::load::Load;
use super::nemesis::Nemesis;
use super::plan::{Terrain, plan};
use super::proxy::Way;
use super::rng::Rng;
use super::{Failure, export, observe, operator, processes};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Healed and without new work, everything has ended after so long, and after so much more for every job.
pub const DRAIN: Duration = Duration::from_mins(2);
const DRAIN_EACH: Duration = Duration::from_millis(20);
/// The coordinator's own disk, so large that only the nemesis fills it: a share for every job's record and output. It
/// lies in memory and is filled to the last byte, so it may never take much of that.
const DISK: u64 = 256 << 20;
const DISK_EACH: u64 = 256 << 10;
const DISK_MOST: u64 = 2 << 30;
/// Jobs that were hit and are shown.
const STORIES: usize = 3;
/// What may linger after the last end.
const LINGER: Duration = Duration::from_mins(1);

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Wish {
    /// Chance.
    pub seed: u64,
    /// Jobs to submit.
    pub jobs: u64,
    /// How long things are broken.
    pub time: Duration,
    /// Machines.
    pub machines: usize,
    /// `nemesis` or `operator`.
    pub scenario: String,
    /// The operator's drill with its six minutes.
    pub long: bool,
    /// Where the binaries are.
    pub bins: PathBuf,
    /// Where everything is kept.
    pub dir: PathBuf,
}

/// A run that has been set up.
pub struct Run {
    /// As asked for.
    pub wish: Wish,
    /// The cluster.
    pub cluster: Arc<Cluster>,
    /// The load.
    pub load: Arc<Load>,
    /// The nemesis.
    pub nemesis: Arc<Nemesis>,
    /// The gauge.
    pub gauge: Arc<Gauge>,
    /// Chance.
    pub rng: Rng,
    over: Arc<AtomicBool>,
    last: Arc<AtomicU64>,
    observers: Vec<JoinHandle<()>>,
}

/// Bytes of the coordinator's own disk for so many jobs: at most a quarter of the memory that is available.
fn disk(jobs: u64) -> u64 {
    let wanted = DISK.saturating_add(jobs.saturating_mul(DISK_EACH));
    wanted.min(DISK_MOST).min(processes::available_memory() / 4)
}

/// Does all of it; whether everything that must hold did.
///
/// # Errors
/// When the run itself could not be done.
pub async fn run(wish: Wish) -> Result<bool, Failure> {
    let mut run = Run::set_up(wish).await?;
    let verdict = tokio::task::spawn_blocking(move || {
        let is_operator = run.wish.scenario == "operator";
        if is_operator {
            operator::drill(&run)?;
        } else {
            run.nemesis();
        }
        let drained = run.drain();
        run.finish(drained)
    });
    verdict.await.map_err(|e| e.to_string())?
}

impl Run {
    async fn set_up(wish: Wish) -> Result<Self, Failure> {
        let file = |name: &str| {
            let path = wish.dir.join(name);
            Ledger::create(&path).map(Arc::new).map_err(|e| format!("{}: {e}", path.display()))
        };
        let (records, jobs) = (file("nemesis.jsonl")?, wish.dir.join("jobs"));
        std::fs::create_dir(&jobs).map_err(|e| format!("{}: {e}", jobs.display()))?;
        let rng = Rng::new(wish.seed);
        let operator = wish.scenario == "operator";
        let cpus = if operator {
            operator::RUNNING.div_ceil(wish.machines as u64) as f64 + 10.0 * operator::SLIVER
        } else {
            6.0
        };
        let disk = disk(wish.jobs);
        let options = Options {
            bins: wish.bins.clone(),
            dir: wish.dir.join("cluster"),
            machines: wish.machines,
            cpus,
            disk,
        };
        let cluster = Arc::new(Cluster::start(options, records.clone(), &rng).await?);
        let gauge = Gauge::new(Ledger::create(&wish.dir.join("samples.jsonl")).map_err(|e| e.to_string())?);
        let name = format!("r{}", wish.seed);
        let program = wish.bins.join("ledgerjob");
        let load = Arc::new(Load::new(cluster.socket(), jobs.clone(), program, name, file("submit.jsonl")?));
        let nemesis = Arc::new(Nemesis::new(cluster.clone(), records, jobs));
        let (over, last) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(u64::MAX)));
        let mut observers = Vec::new();
        for at in 0..2 {
            let (ledger, over, last, socket) =
                (file(&format!("stream-{at}.jsonl"))?, over.clone(), last.clone(), cluster.socket());
            observers.push(std::thread::spawn(move || observe::stream(&socket, &ledger, &over, &last)));
            let (ledger, over, socket) =
                (file(&format!("poll-{at}.jsonl"))?, Arc::clone(&load), cluster.socket());
            observers.push(std::thread::spawn(move || observe::poll(&socket, &ledger, &over.over)));
        }
        let run = Self { wish, cluster, load, nemesis, gauge: Arc::new(gauge), rng, over, last, observers };
        run.gauge.sample(&run.cluster, "start");
        Ok(run)
    }

    /// Breaks things by plan while jobs are submitted.
    fn nemesis(&self) {
        let terrain = Terrain {
            machines: self.cluster.machines.len(),
            ms: self.wish.time.as_millis() as u64,
            disk: self.cluster.own_disk,
            cables: self.cluster.machines.iter().all(|m| m.namespace.is_some()),
        };
        if !terrain.disk {
            println!("SKIPPED full disks (a disk of its own for the coordinator takes root)");
        }
        if !terrain.cables {
            println!(
                "SKIPPED pulled cables (network namespaces take root; the machines share the loopback interface)"
            );
        }
        let plan = plan(&mut self.rng.part("plan"), terrain);
        let (done, half) = (AtomicBool::new(false), self.wish.jobs / 2);
        std::thread::scope(|scope| {
            for (name, n) in [("a", half), ("b", self.wish.jobs - half)] {
                let mut rng = self.rng.part(name);
                let time = self.wish.time.mul_f64(0.9);
                scope.spawn(move || self.load.submit_mix(&mut rng, &format!("{name}-"), n, time));
            }
            scope.spawn(|| self.load.meddle());
            scope.spawn(|| self.sample_until(&done));
            self.nemesis.follow(&plan);
            done.store(true, Ordering::Relaxed);
            self.load.over.store(true, Ordering::Relaxed);
        });
    }

    /// Samples every few seconds; the one nearest to the middle is marked.
    fn sample_until(&self, done: &AtomicBool) {
        let (start, mut middle) = (Instant::now(), false);
        let every = (self.wish.time / 10).clamp(Duration::from_secs(1), Duration::from_secs(10));
        while !done.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(100));
            if start.elapsed().as_millis() % every.as_millis() < 100 {
                let now = !middle && start.elapsed() * 2 >= self.wish.time;
                middle |= now;
                self.gauge.sample(&self.cluster, if now { "middle" } else { "between" });
            }
        }
    }

    /// Waits until nothing waits or runs any more; how long that took.
    fn drain(&self) -> Duration {
        let bound = self.drain_bound();
        let start = Instant::now();
        let mut client = Client::new(&self.cluster.socket());
        loop {
            let stats = client.get("/v1/stats").map(|reply| reply.json());
            let counts = stats.as_ref().map(|stats| &stats["counts"]);
            let live = counts.and_then(|c| Some(c["QUEUED"].as_u64()? + c["RUNNING"].as_u64()?));
            if live == Some(0) {
                return start.elapsed();
            }
            if start.elapsed() > bound {
                // The checker names the jobs; the run goes on to it.
                eprintln!("after {bound:?} there are still jobs: {live:?} live");
                return start.elapsed();
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn drain_bound(&self) -> Duration {
        DRAIN + DRAIN_EACH * self.wish.jobs as u32
    }

    fn finish(&mut self, drained: Duration) -> Result<bool, Failure> {
        self.load.over.store(true, Ordering::Relaxed);
        self.gauge.sample(&self.cluster, "end");
        let left = self.left_over();
        let dir = self.wish.dir.clone();
        let socket = self.cluster.socket();
        let mut client = Client::new(&socket);
        let health = client.get("/v1/health").ok_or("the coordinator does not answer")?;
        self.last.store(health.json()["seq"].as_u64().unwrap_or(0), Ordering::Relaxed);
        self.over.store(true, Ordering::Relaxed);
        for observer in self.observers.drain(..) {
            observer.join().map_err(|_| "an observer failed")?;
        }
        let rows = export::export(&socket, &dir, 20_000)?;
        let stories = self.stories();
        let stuck = self.cluster.end();
        let left = left.into_iter().chain(stuck.into_iter().map(|name| format!("daemon {name} did not end")));
        write(&dir.join("left.txt"), &left.map(|line| line + "\n").collect::<String>())?;
        write(&dir.join("panics.txt"), &self.panics())?;
        let limits: serde_json::Map<_, _> = LIMITS
            .iter()
            .map(|(who, [rss, fds, threads, wal])| {
                ((*who).to_owned(), json!({"rss": rss, "fds": fds, "threads": threads, "wal": wal}))
            })
            .collect();
        let facts = json!({"run": self.load.run, "seed": self.wish.seed, "limits": limits,
            "drained_ms": drained.as_millis() as u64, "drain_bound_ms": self.drain_bound().as_millis() as u64});
        write(&dir.join("run.json"), &facts.to_string())?;
        self.report(drained, rows, &stories);
        let checked = Command::new(self.wish.bins.join("ledger-check")).arg(&dir).status();
        Ok(checked.map_err(|e| format!("ledger-check: {e}"))?.success())
    }

    fn report(&self, drained: Duration, rows: u64, stories: &[String]) {
        let (accepted, refused) =
            (self.load.accepted.load(Ordering::Relaxed), self.load.refused.load(Ordering::Relaxed));
        println!(
            "seed {} · {} accepted, {} refused · {rows} rows · drained in {:.1} s (bound {} s) · coordinator started {} times",
            self.wish.seed,
            accepted,
            refused,
            drained.as_secs_f64(),
            self.drain_bound().as_secs(),
            self.cluster.supervisor.starts(self.cluster.coordinator)
        );
        for machine in &self.cluster.machines {
            for way in [Way::Up, Way::Down] {
                println!("link {} {way:?}: {}", machine.name, machine.proxy.counts(way));
            }
        }
        print!("{}", self.gauge.table());
        for story in stories {
            println!("{story}");
        }
    }

    /// What `reeve show` tells of a few jobs that were hit.
    fn stories(&self) -> Vec<String> {
        let mut hit = self.nemesis.hit();
        hit.dedup();
        let show = |job: &u64| {
            let mut command = Command::new(self.wish.bins.join("reeve"));
            command
                .arg("show")
                .arg(job.to_string())
                .env("REEVE_HOST", self.cluster.socket())
                .env("NO_COLOR", "1");
            let output = command.output().map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
            format!("reeve show {job}:\n{}", output.unwrap_or_else(|e| e.to_string()))
        };
        hit.iter().take(STORIES).map(show).collect()
    }

    /// What is still there although every job has ended: processes of jobs, guardians' sockets, attempts' directories.
    fn left_over(&self) -> Vec<String> {
        let end = Instant::now() + LINGER;
        loop {
            let left = self.look_for_left_over();
            if left.is_empty() || Instant::now() > end {
                return left;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn look_for_left_over(&self) -> Vec<String> {
        let jobs = self.wish.dir.join("jobs").display().to_string();
        let lines = processes::with_text(&jobs)
            .into_iter()
            .map(|pid| format!("process {pid} {}", processes::command_line(pid)));
        let mut left: Vec<String> = lines.collect();
        for machine in &self.cluster.machines {
            let home = format!("{}/", machine.dir.display());
            let keeper = machine.keeper();
            let known = [self.cluster.supervisor.pid(machine.daemon), keeper];
            let stays = |pid: u32| known.contains(&Some(pid)) || processes::is_zygote(pid, keeper);
            for pid in processes::with_text(&home).into_iter().filter(|pid| !stays(*pid)) {
                left.push(format!("process {pid} {}", processes::command_line(pid)));
            }
            for (what, dir) in [("socket", "run/g"), ("directory", "data/work"), ("spool", "data/spool")] {
                left.extend(files(&machine.dir.join(dir)).into_iter().map(|path| format!("{what} {path}")));
            }
        }
        left
    }

    fn panics(&self) -> String {
        let logs =
            self.cluster.machines.iter().flat_map(|m| [m.dir.join("log"), m.runtime().join("keeper.log")]);
        let mut found = String::new();
        for log in logs.chain([self.cluster.options.dir.join("coordinator.log")]) {
            let text = std::fs::read(&log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
            for line in text.unwrap_or_default().lines().filter(|line| line.contains("panicked")) {
                found.extend([&log.display().to_string(), ": ", line, "\n"]);
            }
        }
        found
    }
}

/// Everything below a directory that is no directory, and empty directories of one level.
fn files(dir: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    entries
        .flatten()
        .flat_map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => files(&entry.path()),
            _ => vec![entry.path().display().to_string()],
        })
        .collect()
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))
}
