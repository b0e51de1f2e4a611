//! `reeve diff`: what differs between two jobs, or between what they did.
use super::context::Context;
use super::error::Error;
use super::select::job_path;
use super::show::cause_words;
use super::table::Table;
use super::values;
use reeve_protocol::api::JobView;
use reeve_protocol::selector::Selector;
use reeve_protocol::text::Clean;
use reeve_protocol::units::{show_bytes, show_duration};
use serde_json::Value;
use std::collections::BTreeMap;

/// Longest value shown.
const LONGEST: usize = 60;

/// Compare two jobs: what they are and what became of them
#[derive(Debug, clap::Args)]
pub struct Diff {
    /// A job
    #[arg(value_name = "JOB", value_parser = values::selector)]
    pub one: Selector,
    /// Another
    #[arg(value_name = "JOB", value_parser = values::selector)]
    pub other: Selector,
}

/// Runs it.
///
/// # Errors
/// When one of them cannot be read.
pub async fn run(diff: Diff, context: &mut Context) -> Result<(), Error> {
    let client = context.client()?;
    let (one, other) = (diff.one.to_string(), diff.other.to_string());
    let first: JobView = client.get(&job_path(&one, "")).await?;
    let second: JobView = client.get(&job_path(&other, "")).await?;
    let rows = compare(&fields(&first), &fields(&second));
    if context.json {
        let rows: Vec<Value> = rows
            .iter()
            .map(|(field, a, b)| serde_json::json!({"field": field, "first": a, "second": b}))
            .collect();
        return context.json_line(&rows);
    }
    if rows.is_empty() {
        return context.line(format!("{one} and {other} differ in nothing"));
    }
    let mut table = Table::new(&["FIELD", "FIRST", "SECOND"]);
    for (field, a, b) in rows {
        let cell = |text: Option<String>| Clean::short(text.as_deref().unwrap_or("-"), LONGEST).into_string();
        table.row([field, cell(a), cell(b)].map(Into::into));
    }
    context.table(&table)
}

type Row = (String, Option<String>, Option<String>);

/// The fields in which two jobs differ, by name.
fn compare(one: &BTreeMap<String, String>, other: &BTreeMap<String, String>) -> Vec<Row> {
    let mut names: Vec<&String> = one.keys().chain(other.keys()).collect();
    names.sort();
    names.dedup();
    names
        .into_iter()
        .map(|name| (name.clone(), one.get(name).cloned(), other.get(name).cloned()))
        .filter(|(_, a, b)| a != b)
        .collect()
}

/// What can be compared: the whole description, one entry per value, and how it ended. Not numbers and times, which
/// always differ.
fn fields(job: &JobView) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::new();
    if let Ok(spec) = serde_json::to_value(&job.spec) {
        flatten("", &spec, &mut fields);
    }
    // Its name says enough.
    fields.remove("git.patch.data");
    let mut set = |name: &str, value: Option<String>| fields.extend(value.map(|v| (name.to_owned(), v)));
    set("owner", Some(job.owner.clone()));
    set("queue", Some(job.queue.clone()));
    set("state", Some(job.state.to_string()));
    set("cause", job.cause.as_ref().map(cause_words));
    set("machine", job.machine.clone());
    set("result", job.result.as_ref().map(ToString::to_string));
    let ran = job.started_at.zip(job.ended_at).map(|(start, end)| end.seconds_since(start));
    set("ran", ran.map(show_duration));
    if let Some(last) = job.attempts.last() {
        set("cpu", Some(show_duration(last.cpu_s)));
        set("memory", Some(show_bytes(last.rss_peak_bytes)));
    }
    fields
}

/// `{"git":{"ref":"x"}}` -> `git.ref = x`. A command is one value.
fn flatten(at: &str, value: &Value, out: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                flatten(&if at.is_empty() { key.clone() } else { format!("{at}.{key}") }, value, out);
            }
        }
        Value::Array(words) if words.iter().all(Value::is_string) => {
            let words: Vec<&str> = words.iter().filter_map(Value::as_str).collect();
            out.insert(
                at.to_owned(),
                shlex::try_join(words.iter().copied()).unwrap_or_else(|_| words.join(" ")),
            );
        }
        Value::String(text) => drop(out.insert(at.to_owned(), text.clone())),
        other => drop(out.insert(at.to_owned(), other.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_differs_is_shown_by_its_path() {
        let of = |value: Value| {
            let mut fields = BTreeMap::new();
            flatten("", &value, &mut fields);
            fields
        };
        let one = of(
            json!({"command": ["a", "b c"], "git": {"commit": "1", "url": "u"}, "env": {"A": "1"}, "priority": 1}),
        );
        let other = of(json!({"command": ["a"], "git": {"commit": "2", "url": "u"}, "priority": 1}));
        let text = |t: &str| Some(t.to_owned());
        assert_eq!(
            compare(&one, &other),
            [
                ("command".to_owned(), text("a 'b c'"), text("a")),
                ("env.A".to_owned(), text("1"), None),
                ("git.commit".to_owned(), text("1"), text("2")),
            ]
        );
        assert_eq!(compare(&one, &one), []);
    }
}
