//! What the daemons use, sampled while everything happens: numbers that must stay flat, each beside its limit.
use super::cluster::Cluster;
use super::ledger::Ledger;
use super::processes::{Use, disk_use, usage};
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Mutex;

/// One daemon at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Of the process.
    pub process: Use,
    /// Bytes of the store's log; the coordinator's alone.
    pub wal: u64,
    /// Bytes below its directory.
    pub disk: u64,
}

/// Limits that hold for all samples of a daemon: `rss`, `fds`, `threads`, `wal`.
pub const LIMITS: [(&str, [u64; 4]); 3] = [
    ("coordinator", [512 << 20, 1_024, 32, 256 << 20]),
    ("agent", [128 << 20, 512, 8, 0]),
    ("keeper", [128 << 20, 4_096, 2, 0]),
];

/// Takes samples and keeps the last of each daemon and mark.
pub struct Gauge {
    ledger: Ledger,
    kept: Mutex<BTreeMap<(String, String), Sample>>,
}

impl Gauge {
    /// Writes into this ledger.
    pub fn new(ledger: Ledger) -> Self {
        Self { ledger, kept: Mutex::default() }
    }

    /// Samples every daemon that runs. `mark` is `start`, `middle` or `end` for the table, else any word.
    pub fn sample(&self, cluster: &Cluster, mark: &str) {
        let data = cluster.data();
        let wal = |name: &str| std::fs::metadata(data.join(name)).map_or(0, |meta| meta.len());
        if let Some(process) = cluster.supervisor.pid(cluster.coordinator).and_then(usage) {
            let wal = wal_name(&data).map_or(0, |name| wal(&name));
            self.keep("coordinator", mark, Sample { process, wal, disk: disk_use(&data) });
        }
        for machine in &cluster.machines {
            let disk = disk_use(&machine.dir);
            if let Some(process) = cluster.supervisor.pid(machine.daemon).and_then(usage) {
                self.keep(&format!("agent {}", machine.name), mark, Sample { process, wal: 0, disk });
            }
            if let Some(process) = machine.keeper().and_then(usage) {
                self.keep(&format!("keeper {}", machine.name), mark, Sample { process, wal: 0, disk });
            }
        }
    }

    fn keep(&self, who: &str, mark: &str, sample: Sample) {
        let Use { rss, fds, threads } = sample.process;
        self.ledger.note(json!({"who": who, "mark": mark, "rss": rss, "fds": fds, "threads": threads,
            "wal": sample.wal, "disk": sample.disk}));
        self.kept.lock().unwrap().insert((who.to_owned(), mark.to_owned()), sample);
    }

    /// Start, middle and end of every daemon.
    pub fn table(&self) -> String {
        let kept = self.kept.lock().unwrap();
        let mut text = format!(
            "{:<14} {:<7} {:>9} {:>6} {:>8} {:>9} {:>9}\n",
            "DAEMON", "WHEN", "RSS MiB", "FDS", "THREADS", "WAL MiB", "DISK MiB"
        );
        let mib = |bytes: u64| format!("{:.1}", bytes as f64 / 1_048_576.0);
        let mut whos: Vec<&String> = kept.keys().map(|(who, _)| who).collect();
        whos.dedup();
        for who in whos {
            for mark in ["start", "middle", "end"] {
                let Some(s) = kept.get(&(who.clone(), mark.to_owned())) else { continue };
                let Use { rss, fds, threads } = s.process;
                let _ = writeln!(
                    text,
                    "{who:<14} {mark:<7} {:>9} {fds:>6} {threads:>8} {:>9} {:>9}",
                    mib(rss),
                    mib(s.wal),
                    mib(s.disk)
                );
            }
            let kind = who.split(' ').next().unwrap_or_default();
            if let Some((_, [rss, fds, threads, wal])) = LIMITS.iter().find(|(name, _)| *name == kind) {
                let wal = if *wal == 0 { String::new() } else { mib(*wal) };
                let _ = writeln!(
                    text,
                    "{:<14} {:<7} {:>9} {fds:>6} {threads:>8} {wal:>9}",
                    "",
                    "limit",
                    mib(*rss)
                );
            }
        }
        text
    }
}

fn wal_name(data: &std::path::Path) -> Option<String> {
    let entries = std::fs::read_dir(data).ok()?;
    entries.flatten().find_map(|e| e.file_name().into_string().ok().filter(|name| name.ends_with("-wal")))
}
