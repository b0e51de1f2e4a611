//! What ran against what is recorded: I5 to I8 and I10.
use crate::history::{Attempt, History, Life, Task, number, words};
use crate::report::{Harm, Report};
use serde_json::Value;
use std::collections::BTreeMap;

/// Losses of machines that are retried without being charged to the job; one more ends it.
const LOSSES: u64 = 4;
/// After a fault is healed, a machine needs so long to be heard again, in milliseconds.
const BACK_MS: u64 = 10_000;
/// After heal and grace, so long may pass until the last process of a cancelled job is gone, in nanoseconds.
const GONE_NS: u64 = 45_000_000_000;

/// I5 to I8 and I10.
pub(crate) fn check(history: &History, report: &mut Report) {
    starts(history, report);
    results(history, report);
    budgets(history, report);
    explained(history, report);
    exclusive(history, report);
    cancelled(history, report);
}

/// The attempts of a row.
fn attempts(row: &Value) -> impl Iterator<Item = &Value> {
    row["attempts"].as_array().into_iter().flatten()
}

fn kind(attempt: &Value) -> &str {
    attempt["cause"]["kind"].as_str().unwrap_or("")
}

/// Whether it was handed out and came back without having begun.
fn was_returned(attempt: &Value) -> bool {
    kind(attempt) == "rejected"
        && attempt["cause"]["detail"].as_str().is_some_and(|d| d.contains("not started"))
}

fn is_loss(kind: &str) -> bool {
    matches!(kind, "lost" | "rebooted" | "keeper_lost" | "worker_lost" | "preempted" | "drained" | "no_space")
}

/// Rows that have attempts of their own: jobs and tasks, not arrays.
fn tasks(history: &History) -> impl Iterator<Item = (&Task, &Value)> {
    history.rows.iter().filter(|(_, row)| !row["array"].is_object())
}

/// What the job of a task was submitted with.
fn intent<'a>(history: &'a History, intents: &BTreeMap<&str, &'a Value>, task: Task) -> Option<&'a Value> {
    let key = history.rows.get(&(task.0, None))?["labels"]["key"].as_str()?;
    intents.get(key).copied()
}

/// I5: the file system saw one start per attempt, and each has a record with the same machine and key.
fn starts(history: &History, report: &mut Report) {
    for odd in &history.odd {
        report.hold("I5", Harm::Doubled, false, || format!("{odd}\n"));
    }
    for ((job, index, n), life) in &history.lives {
        let task = (*job, *index);
        let row = history.rows.get(&task);
        let attempt = row.and_then(|row| attempts(row).find(|a| number(a, "attempt") == Some(*n)));
        let right =
            |a: &Value| !was_returned(a) && (life.start == 0 || a["machine"] == life.machine.as_str());
        let key = history.rows.get(&(*job, None)).map(|row| &row["labels"]["key"]);
        let holds =
            attempt.is_some_and(right) && (life.start == 0 || key.is_some_and(|key| *key == life.key));
        report.hold("I5", Harm::Unaccounted, holds, || {
            format!("attempt {n} ran, its record is {attempt:?}\n{}", history.story(task))
        });
    }
}

/// I6: a recorded end is the end that the job itself wrote down.
fn results(history: &History, report: &mut Report) {
    for ((job, index), row) in tasks(history) {
        let life = |n: u64| history.lives.get(&(*job, *index, n));
        if row["state"] == "COMPLETED" {
            let n = number(row, "attempt").unwrap_or(0);
            let ended_well = life(n).and_then(|life| life.finish).is_some_and(|(code, _)| code == 0);
            report.hold("I6", Harm::Lost, ended_well, || history.story((*job, *index)));
        }
        for attempt in attempts(row) {
            let told = match kind(attempt) {
                "ok" => Some(0),
                "exit" => attempt["cause"]["code"].as_i64(),
                _ => None,
            };
            let (Some(told), Some(n)) = (told, number(attempt, "attempt")) else { continue };
            let wrote = life(n).and_then(|life| life.finish).map(|(code, _)| code);
            report.hold("I6", Harm::Unaccounted, wrote == Some(told), || {
                format!(
                    "attempt {n} is said to have ended with {told}, it wrote {wrote:?}\n{}",
                    history.story((*job, *index))
                )
            });
        }
    }
}

/// I7: starts are explained by losses, retries and restarts, and neither budget is exceeded.
fn budgets(history: &History, report: &mut Report) {
    let (restarts, intents) = (history.restarts(), history.intents());
    let mut starts = BTreeMap::<Task, u64>::new();
    for (job, index, _) in history.lives.keys() {
        *starts.entry((*job, *index)).or_default() += 1;
    }
    for (task, row) in tasks(history) {
        let times = 1 + restarts.get(&task.0).copied().unwrap_or(0);
        let retries = intent(history, &intents, *task).and_then(|i| number(i, "retries")).unwrap_or(0);
        let losses = attempts(row).filter(|a| is_loss(kind(a))).count() as u64;
        let own =
            attempts(row).filter(|a| matches!(kind(a), "exit" | "signal" | "oom" | "timeout")).count() as u64;
        let opened = attempts(row).filter(|a| !was_returned(a)).count() as u64;
        let allowed = times + losses + own.min(retries * times);
        let ran = starts.get(task).copied().unwrap_or(0);
        report.hold("I7", Harm::Doubled, ran <= allowed && opened <= allowed, || {
            format!("{ran} starts, {opened} attempts, allowed {allowed}: {losses} losses, {own} failures, {retries} retries, {times} times\n{}",
                history.story(*task))
        });
        report.hold("I7", Harm::Doubled, losses <= LOSSES * times && own <= (retries + 1) * times, || {
            format!("{losses} losses, {own} failures of its own\n{}", history.story(*task))
        });
    }
}

/// A fault as an interval of wall time in milliseconds.
struct Fault<'a> {
    id: u64,
    name: &'a str,
    machine: &'a str,
    start: u64,
    end: u64,
}

fn faults(history: &History) -> Vec<Fault<'_>> {
    let ends: BTreeMap<u64, u64> = history
        .nemesis
        .iter()
        .filter(|line| line["op"] == "end")
        .filter_map(|line| Some((number(line, "id")?, number(line, "w")?)))
        .collect();
    let starts = history.nemesis.iter().filter(|line| line["op"] == "start");
    let fault = |line: &'_ Value| -> Option<(u64, u64)> { Some((number(line, "id")?, number(line, "w")?)) };
    starts
        .filter_map(|line| {
            let (id, start) = fault(line)?;
            let (name, machine) = (line["fault"].as_str()?, line["machine"].as_str()?);
            Some(Fault { id, name, machine, start, end: ends.get(&id).copied().unwrap_or(u64::MAX) })
        })
        .collect()
}

/// I7b: what cost an attempt was done on purpose. An outage of coordinator, agent or keeper costs none.
fn explained(history: &History, report: &mut Report) {
    let (faults, intents) = (faults(history), history.intents());
    let struck: Vec<(Attempt, u64)> = history
        .nemesis
        .iter()
        .filter(|line| line["op"] == "guardian")
        .filter_map(|l| {
            Some(((number(l, "job")?, number(l, "index"), number(l, "attempt")?), number(l, "id")?))
        })
        .collect();
    let killed = |attempt: Attempt| {
        let by = |id: u64| {
            faults.iter().any(|f| f.id == id && (f.name.starts_with("kill") || f.name.starts_with("SIGTERM")))
        };
        struck.iter().any(|(struck, id)| *struck == attempt && by(*id))
    };
    for (task, row) in tasks(history) {
        let lost_after = intent(history, &intents, *task)
            .and_then(|i| i["lost_after_ms"].as_f64())
            .unwrap_or(300_000.0) as u64;
        for attempt in attempts(row) {
            let n = number(attempt, "attempt").unwrap_or(0);
            let machine = attempt["machine"].as_str().unwrap_or("");
            let holds = match kind(attempt) {
                "keeper_lost" => killed((task.0, task.1, n)),
                "lost" => was_silent(&faults, machine, lost_after, wall_ms(&attempt["ended_at"])),
                "signal" => {
                    row["state"] == "CANCELLED"
                        || history.submitted("CI").any(|l| number(l, "job") == Some(task.0))
                }
                other => !is_loss(other),
            };
            report.hold("I7b", Harm::Doubled, holds, || {
                format!(
                    "attempt {n} ended as {:?} without a fault that explains it\n{}",
                    kind(attempt),
                    history.story(*task)
                )
            });
        }
    }
}

/// Whether a machine can have been silent for `lost_after` before `when`: faults of its own that follow each other closely
/// are one silence. An outage of the coordinator explains nothing: every machine gets a fresh window after it.
fn was_silent(faults: &[Fault<'_>], machine: &str, lost_after: u64, when: Option<u64>) -> bool {
    let Some(when) = when else { return false };
    let mut own: Vec<(u64, u64)> =
        faults.iter().filter(|f| f.machine == machine).map(|f| (f.start, f.end)).collect();
    own.sort_unstable();
    let mut chains: Vec<(u64, u64)> = Vec::new();
    for (start, end) in own {
        match chains.last_mut() {
            Some(last) if start <= last.1.saturating_add(BACK_MS) => last.1 = last.1.max(end),
            _ => chains.push((start, end)),
        }
    }
    chains.iter().any(|(start, end)| {
        start + lost_after <= when && end.saturating_add(BACK_MS).saturating_sub(*start) >= lost_after
    })
}

/// I8: attempts of an exclusive job follow each other. A stopped guardian cannot stop its attempt: a declared freeze.
fn exclusive(history: &History, report: &mut Report) {
    let intents = history.intents();
    let stops: Vec<u64> =
        faults(history).iter().filter(|f| f.name.starts_with("SIGSTOP")).map(|f| f.id).collect();
    let frozen: Vec<Attempt> = history
        .nemesis
        .iter()
        .filter(|line| line["op"] == "guardian" && number(line, "id").is_some_and(|id| stops.contains(&id)))
        .filter_map(|l| Some((number(l, "job")?, number(l, "index"), number(l, "attempt")?)))
        .collect();
    let mut of = BTreeMap::<Task, Vec<(u64, &Life)>>::new();
    for ((job, index, n), life) in history.lives.iter().filter(|(_, life)| life.start > 0) {
        of.entry((*job, *index)).or_default().push((*n, life));
    }
    for (task, lives) in of {
        if intent(history, &intents, task).is_none_or(|i| i["exclusive"] != true) {
            continue;
        }
        report.fact("I8");
        for pair in lives.windows(2) {
            let ((n, first), (_, second)) = (pair[0], pair[1]);
            let apart = first.end() <= second.start || frozen.contains(&(task.0, task.1, n));
            report.hold("I8", Harm::Doubled, apart, || {
                format!(
                    "attempt {n} lived until {}, the next started at {}\n{}",
                    first.end(),
                    second.start,
                    history.story(task)
                )
            });
        }
    }
}

/// I10: after an acknowledged cancel nothing is handed out any more, and what ran goes.
fn cancelled(history: &History, report: &mut Report) {
    let restarts = history.restarts();
    let healed =
        history.nemesis.iter().filter(|line| line["op"] == "heal").filter_map(|line| number(line, "t")).max();
    let mut handed = BTreeMap::<u64, Vec<&Value>>::new();
    for event in history.events.iter().filter(|event| event["substate"] == "assigned") {
        let first = number(event, "id").unwrap_or(0);
        let count = if event["indices"].is_string() { 1 } else { number(event, "count").unwrap_or(1) };
        for job in first..first + count {
            handed.entry(job).or_default().push(event);
        }
    }
    for line in history.submitted("CA") {
        let Some(job) = number(line, "job").filter(|job| !restarts.contains_key(job)) else { continue };
        let seq = number(line, "seq").unwrap_or(0);
        let after = handed.get(&job).and_then(|events| events.iter().find(|e| number(e, "seq") > Some(seq)));
        report.hold("I10", Harm::Doubled, after.is_none(), || {
            let event = after.map(|event| words(event)).unwrap_or_default();
            format!("cancelled at {seq}, handed out at {event}\n{}", history.story((job, None)))
        });
        let bound = number(line, "t").unwrap_or(0).max(healed.unwrap_or(0)) + GONE_NS;
        for ((_, index, n), life) in history.lives.range((job, None, 0)..(job + 1, None, 0)) {
            let state = history.rows.get(&(job, *index)).map(|row| &row["state"]);
            let holds = state.is_none_or(|state| state != "CANCELLED") || life.end() <= bound;
            report.hold("I10", Harm::Doubled, holds, || {
                format!(
                    "attempt {n} lived until {}, the bound is {bound}\n{}",
                    life.end(),
                    history.story((job, *index))
                )
            });
        }
    }
}

/// `2026-11-24T10:00:00.123Z` as milliseconds since 1970.
pub(crate) fn wall_ms(text: &Value) -> Option<u64> {
    let text = text.as_str()?.strip_suffix('Z')?;
    let (date, time) = text.split_once('T')?;
    let mut date = date.split('-').map(|part| part.parse::<u64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let (clock, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let mut clock = clock.split(':').map(|part| part.parse::<u64>().ok());
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    // Days since 1970 by Howard Hinnant's days_from_civil, for years that are not negative.
    let year = if month <= 2 { year - 1 } else { year };
    let era = year / 400;
    let of_era = year - era * 400;
    let of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    let ms = format!("{fraction:0<3}")[..3].parse::<u64>().ok()?;
    Some((((days * 24 + hour) * 60 + minute) * 60 + second) * 1_000 + ms)
}
