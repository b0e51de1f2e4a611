//! What is left at the end, how long that took, what it cost: I11, I12, I13, I15.
use crate::generate::Output;
use crate::history::{History, number};
use crate::report::{Harm, Report};
use serde_json::Value;

/// The exit code of a coordinator that cannot write its store.
const STORAGE: u64 = 74;
/// A full disk is felt so long after it has been freed, in milliseconds.
const AFTER_FULL_MS: u64 = 30_000;

/// I11, I12, I13, I15.
pub(crate) fn check(history: &History, report: &mut Report) {
    report.fact("I11");
    for line in &history.left {
        report.hold("I11", Harm::Unaccounted, false, || format!("{line}\n"));
    }
    let (took, bound) = (number(&history.run, "drained_ms"), number(&history.run, "drain_bound_ms"));
    report.hold("I12", Harm::Lost, took.is_some() && took <= bound, || {
        format!("after healing it took {took:?} ms, the bound is {bound:?} ms\n")
    });
    output(history, report);
    daemons(history, report);
}

/// I13: every byte that was generated is there, in order.
fn output(history: &History, report: &mut Report) {
    let intents = history.intents();
    for log in &history.logs {
        let (job, index) = (number(log, "job").unwrap_or(0), number(log, "index"));
        let key = history.rows.get(&(job, None)).and_then(|row| row["labels"]["key"].as_str()).unwrap_or("");
        let len = intents.get(key).and_then(|intent| number(intent, "out")).unwrap_or(0);
        let whole = Output::new(key, index.map(|i| i as u32), len).digest();
        let holds = number(log, "bytes") == Some(len) && log["digest"] == whole.as_str();
        report.hold("I13", Harm::Unaccounted, holds, || {
            format!("generated {len} bytes ({whole}), fetched {log}\n{}", history.story((job, index)))
        });
    }
}

/// I15: limits hold in every sample; no daemon ended or panicked by itself.
fn daemons(history: &History, report: &mut Report) {
    for sample in &history.samples {
        let kind = sample["who"].as_str().and_then(|who| who.split(' ').next()).unwrap_or("");
        for what in ["rss", "fds", "threads", "wal"] {
            let limit = number(&history.run["limits"][kind], what).filter(|limit| *limit > 0);
            let Some(limit) = limit else { continue };
            let holds = number(sample, what).is_some_and(|used| used <= limit);
            report.hold("I15", Harm::Unaccounted, holds, || format!("{what} above {limit}: {sample}\n"));
        }
    }
    for exit in history.nemesis.iter().filter(|line| line["op"] == "exit") {
        let full = exit["daemon"] == "coordinator"
            && number(exit, "code") == Some(STORAGE)
            && disk_was_full(history, exit);
        report.hold("I15", Harm::Unaccounted, full, || format!("ended by itself: {exit}\n"));
    }
    for line in &history.panics {
        report.hold("I15", Harm::Unaccounted, false, || format!("{line}\n"));
    }
}

fn disk_was_full(history: &History, exit: &Value) -> bool {
    let when = number(exit, "w").unwrap_or(0);
    history.nemesis.iter().any(|start| {
        let ends = || history.nemesis.iter().find(|end| end["op"] == "end" && end["id"] == start["id"]);
        start["fault"].as_str().is_some_and(|fault| fault.contains("disk"))
            && number(start, "w").is_some_and(|w| w <= when)
            && ends().and_then(|end| number(end, "w")).is_none_or(|w| when <= w + AFTER_FULL_MS)
    })
}
