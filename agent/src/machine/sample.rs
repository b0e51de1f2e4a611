//! How busy the machine is, as differences of /proc/stat between two looks.
use super::memory;
use reeve_protocol::wire::Sample;
use std::path::{Path, PathBuf};

/// Remembers the last look.
pub(crate) struct Sampler {
    last: Option<Ticks>,
    disk: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ticks {
    busy: u64,
    all: u64,
}

impl Sampler {
    /// `disk`: a directory on the disk that holds the spool.
    pub(crate) fn new(disk: &Path) -> Self {
        Self { last: None, disk: disk.to_path_buf() }
    }

    pub(crate) fn look(&mut self) -> Sample {
        let now = Ticks::parse(&std::fs::read_to_string("/proc/stat").unwrap_or_default());
        let cpu = now.zip(self.last).map_or(0.0, |(now, last)| now.share_since(last));
        self.last = now.or(self.last);
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        Sample {
            cpu,
            memory_used: memory::used(),
            load1: load.split(' ').next().and_then(|w| w.parse().ok()).unwrap_or(0.0),
            disk: disk_share(&self.disk).unwrap_or(0.0),
        }
    }
}

/// Used share of the disk with `path`, 0 to 1, as `df` counts it.
pub(crate) fn disk_share(path: &Path) -> Option<f64> {
    let stat = rustix::fs::statvfs(path).ok()?;
    let used = stat.f_blocks.saturating_sub(stat.f_bfree);
    let usable = used + stat.f_bavail;
    (usable > 0).then(|| used as f64 / usable as f64)
}

impl Ticks {
    /// The first line: user, nice, system, idle, iowait and others.
    fn parse(stat: &str) -> Option<Self> {
        let numbers: Vec<u64> = stat
            .lines()
            .next()?
            .strip_prefix("cpu ")?
            .split_ascii_whitespace()
            .flat_map(str::parse)
            .collect();
        // Guest time, beyond the eighth number, is in user time already.
        let all: u64 = numbers.iter().take(8).sum();
        let idle = numbers.get(3)? + numbers.get(4).unwrap_or(&0);
        Some(Self { busy: all.saturating_sub(idle), all })
    }

    fn share_since(self, last: Self) -> f64 {
        let all = self.all.saturating_sub(last.all);
        if all == 0 { 0.0 } else { (self.busy.saturating_sub(last.busy) as f64 / all as f64).min(1.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_taken_of_the_time_between_two_looks() {
        let first = Ticks::parse("cpu  100 0 100 700 100 0 0 0 50 0\ncpu0 1 2 3\n").unwrap();
        assert_eq!(first, Ticks { busy: 200, all: 1000 });
        let second = Ticks { busy: 250, all: 1100 };
        assert!((second.share_since(first) - 0.5).abs() < 1e-9);
        assert!(first.share_since(second) < 1e-9);
        assert_eq!(Ticks::parse("nothing"), None);
    }

    #[test]
    fn a_look_at_this_machine_gives_plausible_numbers() {
        let mut sampler = Sampler::new(Path::new("/"));
        sampler.look();
        let sample = sampler.look();
        assert!((0.0..=1.0).contains(&sample.cpu) && (0.0..=1.0).contains(&sample.disk));
        assert!(sample.memory_used > 0);
    }
}
