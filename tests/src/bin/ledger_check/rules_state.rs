//! What is said about state: by the store (I1, I2, I9), by observers (I3), by events against rows (I4).
use crate::history::{History, Task, indices, number, words};
use crate::report::{Harm, Report};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// I1 to I4 and I9.
pub(crate) fn check(history: &History, report: &mut Report) {
    acknowledged(history, report);
    unknown_and_refused(history, report);
    keys(history, report);
    gapless(history, report);
    let verdicts = follow_events(history, &history.events, "export", report);
    for (at, stream) in history.streams.iter().enumerate() {
        follow_events(history, stream, &format!("stream {at}"), report);
        same_events(history, stream, at, report);
    }
    for (at, poll) in history.polls.iter().enumerate() {
        follow_polls(history, poll, at, &verdicts.lost, report);
    }
    folded(history, &verdicts.standing, report);
}

fn is_terminal(state: &str) -> bool {
    matches!(state, "COMPLETED" | "FAILED" | "CANCELLED")
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or("")
}

/// I1: an acknowledged job is in the store, under the number that was given, and has ended.
fn acknowledged(history: &History, report: &mut Report) {
    for line in history.submitted("A") {
        let (key, job) = (text(line, "key"), number(line, "job").unwrap_or(0));
        let row = history.rows.get(&(job, None));
        let holds = row.is_some_and(|row| is_terminal(text(row, "state")) && row["labels"]["key"] == key);
        report.hold("I1", Harm::Lost, holds, || {
            format!(
                "{line}\n{}",
                if row.is_some() { history.story((job, None)) } else { format!("there is no job {job}\n") }
            )
        });
    }
    for ((job, index), row) in &history.rows {
        report.hold("I1", Harm::Lost, is_terminal(text(row, "state")), || history.story((*job, *index)));
    }
}

/// I2: what was refused does not exist; what exists was meant.
fn unknown_and_refused(history: &History, report: &mut Report) {
    let stored: BTreeSet<&str> =
        history.rows.values().filter_map(|row| row["labels"]["key"].as_str()).collect();
    for line in history.submitted("R") {
        report.hold("I2", Harm::Unaccounted, !stored.contains(text(line, "key")), || {
            format!("refused, but exists: {line}\n")
        });
    }
    let intents = history.intents();
    for ((job, _), row) in history.rows.iter().filter(|((_, index), _)| index.is_none()) {
        let known = row["labels"]["key"].as_str().is_some_and(|key| intents.contains_key(key));
        report.hold("I2", Harm::Unaccounted, known, || format!("nobody sent job {job}: {row}\n"));
    }
}

/// I9: a key has one job, every answer to it names that job, and another content is refused.
fn keys(history: &History, report: &mut Report) {
    let mut jobs = BTreeMap::<&str, BTreeSet<u64>>::new();
    for ((job, index), row) in &history.rows {
        if let (Some(key), None) = (row["labels"]["key"].as_str(), index) {
            jobs.entry(key).or_default().insert(*job);
        }
    }
    for line in history.submitted("A") {
        jobs.entry(text(line, "key")).or_default().extend(number(line, "job"));
    }
    for (key, jobs) in &jobs {
        report
            .hold("I9", Harm::Doubled, jobs.len() == 1, || format!("the key {key} has the jobs {jobs:?}\n"));
    }
    for line in history.submitted("M") {
        let refused = line["status"] == 409 && line["code"] == "key-reused";
        report.hold("I9", Harm::Doubled, refused, || format!("another content under a used key: {line}\n"));
    }
}

/// I4, first half: numbers from 1 without a gap.
fn gapless(history: &History, report: &mut Report) {
    for (at, event) in history.events.iter().enumerate() {
        report.hold("I4", Harm::Unaccounted, number(event, "seq") == Some(at as u64 + 1), || {
            format!("event {} stands at place {}\n", event["seq"], at + 1)
        });
    }
}

/// A stream saw exactly the events of the export, in order.
fn same_events(history: &History, stream: &[Value], at: usize, report: &mut Report) {
    for (seen, kept) in stream.iter().zip(&history.events) {
        report.hold("I4", Harm::Unaccounted, seen == kept, || {
            format!("stream {at} saw\n{}\nthe export has\n{}\n", words(seen), words(kept))
        });
    }
    let whole = stream.len() <= history.events.len() && !stream.is_empty();
    report.hold("I4", Harm::Unaccounted, whole, || {
        format!("stream {at} saw {} events, the export has {}\n", stream.len(), history.events.len())
    });
}

/// Where a task stands: attempt, and how far that attempt is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Standing {
    attempt: u64,
    rank: u8,
    state: String,
}

/// How far: handed out 1, running 2, given up or waiting for the next 3, ended 4; 0 before the first.
fn rank(attempt: u64, state: &str, substate: &str) -> u8 {
    match (state, substate) {
        ("QUEUED", "assigned") => 1,
        ("QUEUED", _) => {
            if attempt == 0 {
                0
            } else {
                3
            }
        }
        ("RUNNING", _) => 2,
        _ => 4,
    }
}

struct Verdicts {
    /// Attempts that were taken for lost: they may come back.
    lost: BTreeSet<(Task, u64)>,
    standing: BTreeMap<Task, Standing>,
}

/// I3 on a list of events: nothing decreases, nothing leaves its end without a restart.
fn follow_events(history: &History, events: &[Value], who: &str, report: &mut Report) -> Verdicts {
    let restarts = history.restarts();
    let mut left = BTreeMap::<Task, u64>::new();
    let mut v = Verdicts { lost: BTreeSet::new(), standing: BTreeMap::new() };
    for event in events.iter().filter(|event| event["kind"] == "job" && event["to"].is_string()) {
        for task in tasks(history, event) {
            let (state, substate) = (text(event, "to"), text(event, "substate"));
            let attempt = number(event, "attempt").unwrap_or(0);
            let now = Standing { attempt, rank: rank(attempt, state, substate), state: state.to_owned() };
            let before = v.standing.get(&task).cloned().unwrap_or_default();
            if before.rank == 2 && now.rank == 3 && event["actor"] == "coordinator" {
                v.lost.insert((task, attempt));
            }
            let holds = if before.rank == 4 {
                let times = left.entry(task).or_default();
                *times += 1;
                *times <= restarts.get(&task.0).copied().unwrap_or(0) && now.attempt >= before.attempt
            } else {
                goes_on(&before, &now, v.lost.contains(&(task, attempt)))
            };
            report.hold("I3", Harm::Backward, holds, || {
                format!("{who}: {before:?} then {now:?} at\n{}\n{}", words(event), history.story(task))
            });
            v.standing.insert(task, now);
        }
    }
    v
}

/// Whether one standing may follow another of a job that has not ended.
fn goes_on(before: &Standing, now: &Standing, was_lost: bool) -> bool {
    now.attempt > before.attempt
        || (now.attempt == before.attempt
            && (now.rank >= before.rank || (before.rank == 3 && now.rank == 2 && was_lost)))
}

/// The tasks an event is about. An array's first event is about all of its tasks.
fn tasks(history: &History, event: &Value) -> Vec<Task> {
    let Some(first) = number(event, "id") else { return Vec::new() };
    let ranges = indices(event);
    if !ranges.is_empty() {
        return ranges.iter().flat_map(|(low, high)| (*low..=*high).map(|i| (first, Some(i)))).collect();
    }
    let count = number(event, "count").unwrap_or(1);
    let mut tasks = Vec::new();
    for job in first..first + count {
        let array = history.rows.get(&(job, None)).map(|row| &row["array"]).filter(|array| array.is_object());
        match array {
            Some(array) => {
                let (from, to) = (number(array, "from").unwrap_or(1), number(array, "to").unwrap_or(0));
                tasks.extend((from..=to).map(|index| (job, Some(index))));
            }
            None => tasks.push((job, None)),
        }
    }
    tasks
}

/// I3 for one who asks again and again.
fn follow_polls(
    history: &History,
    poll: &[Value],
    at: usize,
    lost: &BTreeSet<(Task, u64)>,
    report: &mut Report,
) {
    let restarts = history.restarts();
    let mut seen = BTreeMap::<Task, Standing>::new();
    for line in poll {
        let task = (number(line, "job").unwrap_or(0), number(line, "index"));
        let (state, attempt) = (text(line, "state"), number(line, "n").unwrap_or(0));
        let now =
            Standing { attempt, rank: rank(attempt, state, text(line, "substate")), state: state.to_owned() };
        let before = seen.get(&task).cloned().unwrap_or_default();
        let holds = if before.rank == 4 {
            restarts.contains_key(&task.0) && now.attempt >= before.attempt
        } else {
            goes_on(&before, &now, lost.contains(&(task, attempt)))
        };
        report.hold("I3", Harm::Backward, holds, || {
            format!("poll {at}: {before:?} then {now:?}\n{line}\n{}", history.story(task))
        });
        seen.insert(task, now);
    }
}

/// I4, second half: adding up the events gives the rows.
fn folded(history: &History, standing: &BTreeMap<Task, Standing>, report: &mut Report) {
    for (task, row) in history.rows.iter().filter(|(_, row)| !row["array"].is_object()) {
        let sum = standing.get(task).cloned().unwrap_or_default();
        // A task that is cancelled before it ever ran has no attempt in either.
        let same = sum.state == text(row, "state") && sum.attempt == number(row, "attempt").unwrap_or(0);
        report.hold("I4", Harm::Unaccounted, same, || {
            format!("the events add up to {sum:?}\n{}", history.story(*task))
        });
    }
    let mut sums = BTreeMap::<(u64, &str), u64>::new();
    for ((job, _), standing) in standing.iter().filter(|((_, index), _)| index.is_some()) {
        *sums.entry((*job, &standing.state)).or_default() += 1;
    }
    for ((job, _), row) in history.rows.iter().filter(|(_, row)| row["array"].is_object()) {
        for state in ["QUEUED", "RUNNING", "COMPLETED", "FAILED", "CANCELLED"] {
            let sum = sums.get(&(*job, state)).copied().unwrap_or(0);
            let counted = number(&row["array"]["counts"], state);
            report.hold("I4", Harm::Unaccounted, counted == Some(sum), || {
                format!("array {job}: {sum} tasks are {state} by the events, {counted:?} by its row\n")
            });
        }
    }
}
