//! The last act of a run: everything the coordinator says about what happened, into files that `ledger-check` reads.
use super::Failure;
use super::client::{Client, follow};
use super::generate::Digest;
use super::ledger::Ledger;
use serde_json::{Value, json};
use std::io::{BufRead as _, Write as _};
use std::path::Path;
use std::time::Duration;

/// Writes `events.jsonl`, `rows.jsonl`, `logs.jsonl` and `machines.json`; the number of jobs and tasks.
///
/// # Errors
/// What could not be read.
pub fn export(socket: &Path, dir: &Path, most_logs: u64) -> Result<u64, Failure> {
    let file = |name: &str| Ledger::create(&dir.join(name)).map_err(|e| format!("{name}: {e}"));
    events(socket, dir)?;
    let mut client = Client::new(socket);
    let machines = client.get("/v1/machines").ok_or("the machines cannot be read")?;
    std::fs::write(dir.join("machines.json"), machines.body).map_err(|e| e.to_string())?;
    let (rows, logs) = (file("rows.jsonl")?, file("logs.jsonl")?);
    let (mut count, mut fetched) = (0, 0);
    let mut path = "/v1/jobs?limit=1000&order=id".to_owned();
    loop {
        let page = client.get(&path).ok_or_else(|| format!("{path} cannot be read"))?.json();
        for item in page["items"].as_array().into_iter().flatten() {
            for name in names(item) {
                let view = client.get(&format!("/v1/jobs/{name}"));
                let Some(view) = view.map(|reply| reply.json()) else {
                    // A task that was cancelled before it was ever dispatched may have nothing to show.
                    continue;
                };
                count += 1;
                rows.raw(&view.to_string());
                if fetched < most_logs && view["state"] == "COMPLETED" && view["array"].is_null() {
                    fetched += 1;
                    log(&mut client, &name, &view, &logs)?;
                }
            }
        }
        match page["next"].as_str() {
            Some(cursor) => path = format!("/v1/jobs?limit=1000&order=id&cursor={}", encoded(cursor)),
            None => return Ok(count),
        }
    }
}

/// The job, and each task of an array.
fn names(item: &Value) -> Vec<String> {
    let id = item["id"].as_u64().unwrap_or(0);
    let mut names = vec![id.to_string()];
    if let (Some(from), Some(to)) = (item["array"]["from"].as_u64(), item["array"]["to"].as_u64()) {
        names.extend((from..=to).map(|index| format!("{id}.{index}")));
    }
    names
}

fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |out, b| {
        out + &if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02X}") }
    })
}

fn events(socket: &Path, dir: &Path) -> Result<(), Failure> {
    let lines = follow(socket, "/v1/events?from=1", Duration::from_mins(1));
    let mut out = std::io::BufWriter::new(
        std::fs::File::create_new(dir.join("events.jsonl")).map_err(|e| format!("events.jsonl: {e}"))?,
    );
    for line in lines.map_err(|e| format!("the events cannot be read: {e}"))?.lines() {
        let line = line.map_err(|e| format!("the events cannot be read to their end: {e}"))?;
        writeln!(out, "{line}").map_err(|e| e.to_string())?;
    }
    out.flush().map_err(|e| e.to_string())
}

fn log(client: &mut Client, name: &str, view: &Value, logs: &Ledger) -> Result<(), Failure> {
    let reply = client.get(&format!("/v1/jobs/{name}/logs?stream=stdout"));
    let reply = reply.ok_or_else(|| format!("the log of {name} cannot be read"))?;
    let mut digest = Digest::default();
    digest.feed(&reply.body);
    logs.note(json!({"job": view["id"], "index": view["index"], "attempt": view["attempt"],
        "bytes": reply.body.len(), "digest": digest.text()}));
    Ok(())
}
