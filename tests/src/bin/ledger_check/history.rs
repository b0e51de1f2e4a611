//! The files of a run as one history. Lines of JSON are kept as they are; only what is asked for often is indexed.
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

/// A job, or a task of an array.
pub(crate) type Task = (u64, Option<u64>);
/// An attempt.
pub(crate) type Attempt = (u64, Option<u64>, u64);

/// What one attempt wrote about itself. Times are boot-time nanoseconds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Life {
    /// The key it was given.
    pub(crate) key: String,
    /// Where.
    pub(crate) machine: String,
    /// When it started.
    pub(crate) start: u64,
    /// Its last beat.
    pub(crate) beat: u64,
    /// Exit code and time, when it came to its end.
    pub(crate) finish: Option<(i64, u64)>,
}

impl Life {
    /// The last moment at which it is known to have lived.
    pub(crate) fn end(&self) -> u64 {
        self.finish.map_or(self.beat, |(_, at)| at).max(self.start)
    }
}

/// Everything.
#[derive(Debug, Default)]
pub(crate) struct History {
    /// `run.json`.
    pub(crate) run: Value,
    /// The submitters' book.
    pub(crate) submits: Vec<Value>,
    /// The nemesis's book.
    pub(crate) nemesis: Vec<Value>,
    /// The export of events.
    pub(crate) events: Vec<Value>,
    /// The rows of jobs and tasks.
    pub(crate) rows: BTreeMap<Task, Value>,
    /// What streams saw, per observer.
    pub(crate) streams: Vec<Vec<Value>>,
    /// What polls saw, per observer.
    pub(crate) polls: Vec<Vec<Value>>,
    /// Fetched output.
    pub(crate) logs: Vec<Value>,
    /// What the daemons used.
    pub(crate) samples: Vec<Value>,
    /// The attempts' own files.
    pub(crate) lives: BTreeMap<Attempt, Life>,
    /// Files of attempts that were started twice, and files that make no sense.
    pub(crate) odd: Vec<String>,
    /// What was left over.
    pub(crate) left: Vec<String>,
    /// Lines of logs that speak of a panic.
    pub(crate) panics: Vec<String>,
}

impl History {
    /// Reads a run's directory.
    pub(crate) fn read(dir: &Path) -> Result<Self, String> {
        let text = |name: &str| {
            std::fs::read_to_string(dir.join(name)).map_err(|e| format!("{}: {e}", dir.join(name).display()))
        };
        let lines = |name: &str| parse(name, &text(name)?);
        let plain = |name: &str| text(name).map(|t| t.lines().map(str::to_owned).collect::<Vec<_>>());
        let run = serde_json::from_str(&text("run.json")?).map_err(|e| format!("run.json: {e}"))?;
        let mut new = Self {
            run,
            submits: lines("submit.jsonl")?,
            nemesis: lines("nemesis.jsonl")?,
            events: lines("events.jsonl")?,
            logs: lines("logs.jsonl")?,
            samples: lines("samples.jsonl")?,
            left: plain("left.txt")?,
            panics: plain("panics.txt")?,
            ..Self::default()
        };
        for row in lines("rows.jsonl")? {
            new.rows.insert((number(&row, "id").unwrap_or(0), number(&row, "index")), row);
        }
        for at in 0.. {
            let (stream, poll) = (format!("stream-{at}.jsonl"), format!("poll-{at}.jsonl"));
            if !dir.join(&stream).exists() {
                break;
            }
            new.streams.push(lines(&stream)?);
            new.polls.push(lines(&poll)?);
        }
        for entry in std::fs::read_dir(dir.join("jobs")).map_err(|e| format!("jobs: {e}"))?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let body = std::fs::read_to_string(entry.path()).map_err(|e| format!("jobs/{name}: {e}"))?;
            new.life(name, &body);
        }
        Ok(new)
    }

    /// Takes one attempt's file.
    pub(crate) fn life(&mut self, name: String, body: &str) {
        let mut parts = name.split('_');
        let mut part = || parts.next().unwrap_or_default();
        let (job, index, attempt) = (part().parse(), part().parse().ok(), part().parse());
        let (Ok(job), Ok(attempt)) = (job, attempt) else { return self.odd.push(name) };
        let mut life = Life::default();
        let mut starts = 0;
        // A line that a kill has cut is no line.
        let whole = body.rfind('\n').map_or("", |end| &body[..end]);
        for line in whole.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let time = words.last().and_then(|t| t.parse().ok()).unwrap_or(0);
            match words.as_slice() {
                ["S", _run, key, _job, _index, _attempt, machine, ..] if words.len() == 12 => {
                    starts += 1;
                    (life.key, life.machine, life.start) = ((*key).to_owned(), (*machine).to_owned(), time);
                }
                ["B", _] => life.beat = time,
                ["F", code, _] => life.finish = Some((code.parse().unwrap_or(-1), time)),
                _ => self.odd.push(format!("{name}: {line}")),
            }
        }
        // Killed before its first line was out: it has written nothing, and there is nothing to know but that it began.
        if starts > 1 {
            self.odd.push(format!("{name}: {starts} starts"));
        }
        self.lives.insert((job, index, attempt), life);
    }

    /// Lines of a book with this `op`.
    pub(crate) fn submitted<'a>(&'a self, op: &'a str) -> impl Iterator<Item = &'a Value> {
        self.submits.iter().filter(move |line| line["op"] == op)
    }

    /// What a key was submitted with.
    pub(crate) fn intents(&self) -> BTreeMap<&str, &Value> {
        self.submitted("I").filter_map(|line| Some((line["key"].as_str()?, line))).collect()
    }

    /// How often a job may have been restarted.
    pub(crate) fn restarts(&self) -> BTreeMap<u64, u64> {
        let mut restarts = BTreeMap::new();
        for job in self.submitted("PI").filter_map(|line| number(line, "job")) {
            *restarts.entry(job).or_default() += 1;
        }
        restarts
    }

    /// All that is known about a task, oldest first.
    pub(crate) fn story(&self, task: Task) -> String {
        let mut lines: Vec<(u64, String)> = Vec::new();
        for event in self.events.iter().filter(|event| concerns(event, task)) {
            lines.push((number(event, "seq").unwrap_or(0), format!("event {}", words(event))));
        }
        lines.sort();
        let mut text: String = lines.into_iter().map(|(_, line)| line + "\n").collect();
        for ((job, index, n), life) in self.lives.iter().filter(|((job, index, _), _)| (*job, *index) == task)
        {
            let _ = writeln!(
                text,
                "ledger {job}{} attempt {n}: {life:?}",
                index.map_or(String::new(), |i| format!(".{i}"))
            );
        }
        for line in self.submits.iter().filter(|line| number(line, "job") == Some(task.0)) {
            let _ = writeln!(text, "book {line}");
        }
        if let Some(row) = self.rows.get(&task) {
            let _ = writeln!(
                text,
                "row state {} attempt {} attempts {}",
                row["state"], row["attempt"], row["attempts"]
            );
        }
        text
    }

    /// The faults by kind, with how often.
    pub(crate) fn faults_text(&self) -> String {
        let mut counts = BTreeMap::<&str, u64>::new();
        for line in self.nemesis.iter().filter(|line| line["op"] == "start") {
            *counts.entry(line["fault"].as_str().unwrap_or("?")).or_default() += 1;
        }
        let all: u64 = counts.values().sum();
        let mut text = format!("faults injected: {all}\n");
        for (fault, n) in counts {
            let _ = writeln!(text, "  {n:>4} x {fault}");
        }
        let mut ends = BTreeMap::<&str, u64>::new();
        for attempt in self.rows.values().flat_map(|row| row["attempts"].as_array().into_iter().flatten()) {
            *ends.entry(attempt["cause"]["kind"].as_str().unwrap_or("none")).or_default() += 1;
        }
        let ends: Vec<String> = ends.into_iter().map(|(kind, n)| format!("{kind} {n}")).collect();
        let _ = writeln!(text, "attempts by how they ended: {}", ends.join(" · "));
        text
    }
}

/// Whether an event is about a task: one job, a run of neighbouring jobs, or tasks of an array.
pub(crate) fn concerns(event: &Value, (job, index): Task) -> bool {
    let Some(first) = number(event, "id").filter(|_| event["kind"] == "job") else { return false };
    let indices = indices(event);
    if index.is_some() {
        return first == job
            && (indices.is_empty()
                || indices.iter().any(|(low, high)| (*low..=*high).contains(&index.unwrap_or(0))));
    }
    let count = if indices.is_empty() { number(event, "count").unwrap_or(1) } else { 1 };
    (first..first + count).contains(&job) && indices.is_empty()
}

/// The tasks of an array that an event names, as ranges; none for other events.
pub(crate) fn indices(event: &Value) -> Vec<(u64, u64)> {
    if let Some(index) = number(event, "index") {
        return vec![(index, index)];
    }
    let Some(text) = event["indices"].as_str() else { return Vec::new() };
    let range = |part: &str| {
        let (low, high) = part.split_once('-').unwrap_or((part, part));
        Some((low.parse().ok()?, high.parse().ok()?))
    };
    text.split(',').filter_map(range).collect()
}

/// A number of a line.
pub(crate) fn number(line: &Value, name: &str) -> Option<u64> {
    line[name].as_u64()
}

/// An event in a few words.
pub(crate) fn words(event: &Value) -> String {
    let text = |name: &str| event[name].as_str().unwrap_or("-").to_owned();
    format!(
        "{} {} {} {} -> {} {} attempt {} cause {} by {} {}",
        event["seq"],
        text("at"),
        event["id"],
        text("from"),
        text("to"),
        text("substate"),
        event["attempt"],
        event["cause"],
        text("actor"),
        text("what"),
    )
}

/// Lines of JSON. A last line without its end was cut by a kill and is left out.
pub(crate) fn parse(name: &str, text: &str) -> Result<Vec<Value>, String> {
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let lines = whole.lines().filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_str(line).map_err(|e| format!("{name}: {e}: {line}"))).collect()
}
