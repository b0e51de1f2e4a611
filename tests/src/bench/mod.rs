//! What the benchmark's figures share, and the figures of survival.
#![allow(clippy::print_stdout, reason = "a benchmark, not the product")]
pub mod agents;
pub mod brokers;
pub mod git;
pub mod outage;
mod quic_ping;
pub mod restart;
pub mod workers;

use std::fmt::Write as _;
use std::time::Instant;

/// Rows of `figure, reeve, raw limit, bar`.
#[derive(Default)]
pub struct Table {
    rows: Vec<[String; 4]>,
}

impl Table {
    /// One figure: said at once, and in the table at the end. A bar `-` is none.
    pub fn row(&mut self, figure: &str, reeve: String, raw: String, bar: &str, ok: bool) {
        let mark = match (bar, ok) {
            ("-", _) => "",
            (_, true) => " met",
            (_, false) => " MISSED",
        };
        eprintln!("{figure}: {reeve} (raw {raw}) bar {bar}{mark}");
        self.rows.push([figure.to_owned(), reeve, raw, format!("{bar}{mark}")]);
    }

    /// The table.
    pub fn text(&self) -> String {
        let head =
            ["figure".to_owned(), "reeve".to_owned(), "raw limit, same run".to_owned(), "bar".to_owned()];
        let width = |at: usize| self.rows.iter().chain([&head]).map(|r| r[at].len()).max().unwrap_or(0);
        let widths = [width(0), width(1), width(2), width(3)];
        let mut out = String::new();
        for row in [&head].into_iter().chain(&self.rows) {
            let cells: Vec<String> = row.iter().zip(widths).map(|(cell, w)| format!("{cell:w$}")).collect();
            let _ = writeln!(out, "| {} |", cells.join(" | "));
        }
        out
    }
}

/// The middle one.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// How long something takes.
pub fn seconds(run: impl FnOnce()) -> f64 {
    let start = Instant::now();
    run();
    start.elapsed().as_secs_f64()
}

/// Proportional set size, MB.
pub fn pss(pid: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let kib: f64 = text
        .lines()
        .find_map(|l| l.strip_prefix("Pss:"))
        .and_then(|l| l.split_whitespace().next())
        .and_then(|n| n.parse().ok())
        .unwrap_or(0.0);
    kib / 1024.0
}

/// Clock ticks of cpu time of a process, its own and its kernel's.
pub fn cpu_ticks(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let rest: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    rest.get(11).and_then(|n| n.parse::<f64>().ok()).unwrap_or(0.0)
        + rest.get(12).and_then(|n| n.parse::<f64>().ok()).unwrap_or(0.0)
}

/// The keeper of a machine below a directory.
pub fn keeper_of(dir: &std::path::Path) -> u32 {
    let wanted = dir.to_string_lossy().into_owned();
    std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|e| e.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .find(|pid| {
            let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.contains("keeper\0") && !line.contains("\0guardians\0") && line.contains(&wanted)
        })
        .unwrap_or(0)
}
