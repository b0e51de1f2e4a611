//! One slot: the groups that one guardian and its attempts live in, one attempt after the other. The guardian enters it
//! first; limits are written when they differ from those of the attempt before. A limit of memory has a group of its own
//! for each attempt, so that what the kernel counted before does not count again.
use super::find::{LEAF, LIMITED, SHARES, WEIGHT, turn_on};
use super::{Hierarchies, PROCS, Version};
use crate::machine::cgroup::{field, number};
use rustix::event::{EventfdFlags, eventfd};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// What holds for every attempt of a keeper.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Bounds {
    /// Processes and threads of one attempt.
    pub(crate) processes: u64,
    /// Cpus are a quota, not a weight.
    pub(crate) cpu_quota: bool,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { processes: 16_384, cpu_quota: false }
    }
}

/// A guardian's slot.
pub(crate) struct Slot {
    found: Hierarchies,
    number: u32,
    bounds: Bounds,
    /// What was written last.
    cpu_milli: Option<u32>,
    /// Births are stopped.
    is_frozen: bool,
}

impl Slot {
    pub(crate) fn new(found: &Hierarchies, number: u32, bounds: &Bounds) -> Self {
        Self { found: found.clone(), number, bounds: bounds.clone(), cpu_milli: None, is_frozen: false }
    }

    fn dir(&self, base: &Path) -> PathBuf {
        base.join(self.number.to_string())
    }

    /// Makes what is missing and moves this process in.
    pub(crate) fn enter(&mut self) -> io::Result<()> {
        let bases: Vec<&PathBuf> = match self.found.version {
            Version::One => [&self.found.pids, &self.found.cpu].into_iter().flatten().collect(),
            Version::Two => [&self.found.pids, &self.found.cpu, &self.found.memory]
                .into_iter()
                .flatten()
                .take(1)
                .collect(),
        };
        for dir in bases.into_iter().map(|base| self.dir(base)) {
            fs::create_dir_all(&dir)?;
            let leaf = self.leaf(dir)?;
            fs::create_dir_all(&leaf)?;
            fs::write(leaf.join(PROCS), "0")?;
        }
        self.thaw(true)
    }

    /// In version 2 a group with others below it holds no process itself.
    fn leaf(&self, dir: PathBuf) -> io::Result<PathBuf> {
        if self.found.version == Version::One {
            return Ok(dir);
        }
        if self.found.memory.is_some() {
            turn_on(&dir, &["memory"])?;
        }
        Ok(dir.join(LEAF))
    }

    /// Whether the kernel counts kills of this slot apart from those of the keeper's group.
    pub(crate) fn counts_kills(&self) -> bool {
        self.found.version == Version::Two && self.found.memory.is_some()
    }

    /// Before a command: its part of the cpus.
    pub(crate) fn share(&mut self, cpu_milli: u32) -> io::Result<()> {
        let Some(base) = self.found.cpu.as_ref().filter(|_| self.cpu_milli != Some(cpu_milli)) else {
            return Ok(());
        };
        let (dir, milli) = (self.dir(base), u64::from(cpu_milli));
        match self.found.version {
            Version::One => {
                fs::write(dir.join("cpu.shares"), (SHARES * milli / 1000).max(2).to_string())?;
                if self.bounds.cpu_quota {
                    let quota =
                        if milli == 0 { "-1".to_owned() } else { (milli * 100).max(1000).to_string() };
                    fs::write(dir.join("cpu.cfs_quota_us"), quota)?;
                }
            }
            Version::Two => {
                fs::write(dir.join("cpu.weight"), (WEIGHT * milli / 1000).clamp(1, 10_000).to_string())?;
                if self.bounds.cpu_quota {
                    let quota =
                        if milli == 0 { "max".to_owned() } else { (milli * 100).max(1000).to_string() };
                    fs::write(dir.join("cpu.max"), format!("{quota} 100000"))?;
                }
            }
        }
        self.cpu_milli = Some(cpu_milli);
        Ok(())
    }

    /// A fresh group with a limit of memory; `None`: this machine has none to offer.
    pub(crate) fn limit_memory(&self, bytes: u64) -> io::Result<Option<MemoryGroup>> {
        let Some(base) = &self.found.memory else { return Ok(None) };
        let dir = match self.found.version {
            Version::One => self.dir(base),
            Version::Two => self.dir(base).join(LIMITED),
        };
        // One that is left over has counted already; it may have had another limit.
        super::remove_empty(&dir);
        fs::create_dir_all(&dir)?;
        MemoryGroup::limited(dir, self.found.version, bytes).map(Some)
    }

    /// No process is born in this slot from now on: whoever kills it wins against whoever multiplies.
    pub(crate) fn freeze(&mut self) {
        if let Some(base) = self.found.pids.as_ref().filter(|_| !self.is_frozen) {
            self.is_frozen = fs::write(self.dir(base).join("pids.max"), "0").is_ok();
        }
    }

    /// Births are allowed again, up to the bound.
    pub(crate) fn thaw(&mut self, first: bool) -> io::Result<()> {
        if let Some(base) = self.found.pids.as_ref().filter(|_| first || self.is_frozen) {
            // The guardian is in it, too.
            fs::write(self.dir(base).join("pids.max"), (self.bounds.processes + 1).to_string())?;
        }
        self.is_frozen = false;
        Ok(())
    }

    /// How often something could not be born because of the bound, and the bound.
    pub(crate) fn refused_births(&self) -> Option<(u64, u64)> {
        let dir = self.dir(self.found.pids.as_ref()?);
        let text = fs::read_to_string(dir.join("pids.events")).ok()?;
        Some((field(&text, "max ")?, self.bounds.processes))
    }
}

/// The group of one attempt with a memory limit.
pub(crate) struct MemoryGroup {
    dir: PathBuf,
    version: Version,
    limit: u64,
    procs: File,
    /// The kernel says here when it is out of memory; version 2 kills the whole group by itself.
    alarm: Option<OwnedFd>,
}

impl MemoryGroup {
    fn limited(dir: PathBuf, version: Version, limit: u64) -> io::Result<Self> {
        match version {
            Version::One => {
                fs::write(dir.join("memory.limit_in_bytes"), limit.to_string())?;
                // Where swap is counted: none beyond the limit.
                let swap = dir.join("memory.memsw.limit_in_bytes");
                if swap.exists() {
                    fs::write(swap, limit.to_string())?;
                }
            }
            Version::Two => {
                fs::write(dir.join("memory.max"), limit.to_string())?;
                fs::write(dir.join("memory.oom.group"), "1")?;
                let swap = dir.join("memory.swap.max");
                if swap.exists() {
                    fs::write(swap, "0")?;
                }
            }
        }
        let procs = File::options().write(true).open(dir.join(PROCS))?;
        let alarm = if version == Version::One { alarm(&dir).ok() } else { None };
        Ok(Self { dir, version, limit, procs, alarm })
    }

    /// Whoever writes `0` here is in.
    pub(crate) fn door(&self) -> i32 {
        self.procs.as_raw_fd()
    }

    /// Becomes readable when the limit was hit and somebody was killed.
    pub(crate) fn alarm(&self) -> Option<BorrowedFd<'_>> {
        self.alarm.as_ref().map(|alarm| alarm.as_fd())
    }

    /// The alarm was heard.
    pub(crate) fn hush(&self) {
        if let Some(alarm) = &self.alarm {
            let _ = rustix::io::read(alarm, &mut [0; 8]);
        }
    }

    /// How many the kernel has killed here.
    fn kills(&self) -> u64 {
        let file = if self.version == Version::One { "memory.oom_control" } else { "memory.events" };
        let text = fs::read_to_string(self.dir.join(file)).unwrap_or_default();
        field(&text, "oom_kill ").unwrap_or(0)
    }

    /// What happened, when the kernel has killed for this limit.
    pub(crate) fn verdict(&self) -> Option<String> {
        use reeve_protocol::units::show_bytes;
        let kills = self.kills();
        let file = if self.version == Version::One { "memory.max_usage_in_bytes" } else { "memory.peak" };
        let peak = number(&self.dir.join(file)).map(|peak| format!(", peak {}", show_bytes(peak)));
        (kills > 0).then(|| {
            format!(
                "its limit of {} of memory was reached{}; the kernel killed {kills} of its processes",
                show_bytes(self.limit),
                peak.unwrap_or_default()
            )
        })
    }

    /// Everybody has left it.
    pub(crate) fn remove(self) {
        let _ = fs::remove_dir(&self.dir);
    }
}

/// Asks version 1 to say when it is out of memory.
fn alarm(dir: &Path) -> io::Result<OwnedFd> {
    let alarm = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let watched = File::open(dir.join("memory.oom_control"))?;
    let mut control = File::options().write(true).open(dir.join("cgroup.event_control"))?;
    control.write_all(format!("{} {}", alarm.as_raw_fd(), watched.as_raw_fd()).as_bytes())?;
    Ok(alarm)
}
