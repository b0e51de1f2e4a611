//! A static worker of its own for the tests and benchmarks: speaks JSON lines or HTTP, and does what its payload says, bad things
//! included. Without orders it answers with what it got.
//!
//! `modelbank stdio|http [--load MS] [--steps N] [--never-ready] [--tag WORD] [--crash-at-start]`. Orders in a payload: `sleep_ms`, `wait_for` (a file), `error`,
//! `retry`, `exit`, `hang`, `junk` (lines), `big` (bytes), `twice`, `wrong_id`, `half`, `stderr` (bytes), `note` (a file to append a line to),
//! `tag` (answers with the tag and the process id), `status` (HTTP).
#![allow(clippy::unwrap_used, reason = "a helper of tests")]

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

struct Options {
    http: bool,
    load_ms: u64,
    steps: u64,
    never_ready: bool,
    tag: String,
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let after = |name: &str| words.iter().position(|w| w == name).and_then(|at| words.get(at + 1)).cloned();
    let has = |name: &str| words.iter().any(|w| w == name);
    if has("--crash-at-start") {
        eprintln!("no weights here");
        std::process::exit(7);
    }
    let number = |name: &str| after(name).and_then(|w| w.parse().ok()).unwrap_or(0);
    let options = Options {
        http: has("http"),
        load_ms: number("--load"),
        steps: number("--steps").max(1),
        never_ready: has("--never-ready"),
        tag: after("--tag").unwrap_or_default(),
    };
    if options.http { serve_http(options) } else { serve_lines(&options) }
}

fn load(options: &Options, mut say: impl FnMut(f64)) {
    for step in 0..options.steps {
        say(step as f64 / options.steps as f64);
        std::thread::sleep(Duration::from_millis(options.load_ms / options.steps));
    }
}

/// What the payload asks for beside an answer. `None`: no answer at all.
fn obey(payload: &Value, options: &Options) -> Option<Result<Value, String>> {
    let number = |name: &str| payload.get(name).and_then(Value::as_u64);
    if let Some(path) = payload.get("note").and_then(Value::as_str) {
        let mut file = std::fs::File::options().create(true).append(true).open(path).unwrap();
        // One write: a line is there whole or not at all, whenever this process is killed.
        file.write_all(format!("{payload}\n").as_bytes()).unwrap();
    }
    if let Some(bytes) = number("stderr") {
        std::io::stderr().write_all(&vec![b'e'; bytes as usize]).unwrap();
    }
    std::thread::sleep(Duration::from_millis(number("sleep_ms").unwrap_or(0)));
    while payload
        .get("wait_for")
        .and_then(Value::as_str)
        .is_some_and(|path| !std::path::Path::new(path).exists())
    {
        std::thread::sleep(Duration::from_millis(10));
    }
    if let Some(code) = number("exit") {
        std::process::exit(code as i32);
    }
    if payload.get("hang").is_some() {
        return None;
    }
    if let Some(error) = payload.get("error").and_then(Value::as_str) {
        return Some(Err(error.to_owned()));
    }
    if let Some(bytes) = number("big") {
        return Some(Ok(json!("x".repeat(bytes as usize))));
    }
    if payload.get("tag").is_some() {
        return Some(Ok(json!({"tag": options.tag, "pid": std::process::id()})));
    }
    Some(Ok(payload.clone()))
}

fn serve_lines(options: &Options) {
    load(options, |progress| println!("{}", json!({"progress": progress, "message": "weights"})));
    if !options.never_ready {
        println!("{}", json!({"ready": true}));
    }
    let out = Arc::new(Mutex::new(std::io::BufWriter::new(std::io::stdout())));
    let mut input = BufReader::with_capacity(1 << 20, std::io::stdin());
    let mut line = String::new();
    loop {
        line.clear();
        if input.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        let mut out = out.lock().unwrap();
        if let Some(answer) = echo(&line) {
            out.write_all(answer.as_bytes()).unwrap();
        } else if let Ok(request) = serde_json::from_str::<Value>(&line) {
            match request.as_array() {
                Some(batch) => answer_batch(batch, options, &mut *out),
                None => answer_line(&request, options, &mut *out),
            }
        }
        // What waits is answered with one write.
        if !input.buffer().contains(&b'\n') {
            out.flush().unwrap();
        }
    }
}

/// The answer to a payload without orders, without looking into it.
fn echo(line: &str) -> Option<String> {
    let rest = line.strip_prefix("{\"id\":\"")?;
    let (id, rest) = rest.split_once("\",\"payload\":")?;
    let payload = rest.trim_end().strip_suffix('}')?;
    let plain = !payload.contains(['{', '"']);
    plain.then(|| format!("{{\"id\":\"{id}\",\"result\":{payload}}}\n"))
}

/// A batch: answered by an array when everybody in it wants one, else each by a line.
fn answer_batch(batch: &[Value], options: &Options, out: &mut impl Write) {
    let answers = |one: &Value| {
        let mut line = Vec::new();
        let sized = one["payload"].get("size_of_batch").is_some();
        if sized {
            writeln!(line, "{}", json!({"id": one["id"], "result": {"batch": batch.len()}})).unwrap();
        } else {
            answer_line(one, options, &mut line);
        }
        (sized, String::from_utf8(line).unwrap())
    };
    let all: Vec<(bool, String)> = batch.iter().map(answers).collect();
    if all.iter().all(|(sized, _)| *sized) {
        let lines: Vec<&str> = all.iter().map(|(_, line)| line.trim()).collect();
        writeln!(out, "[{}]", lines.join(",")).unwrap();
    } else {
        out.write_all(all.iter().map(|(_, line)| line.as_str()).collect::<String>().as_bytes()).unwrap();
    }
}

/// A batch over HTTP: one that holds a `poison` fails as a whole, a `short` one lacks a result.
fn batch_over_http(batch: &[Value], options: &Options) -> (u64, String) {
    let has = |name: &str| batch.iter().any(|one| one.get(name).is_some());
    if has("poison") {
        return (500, "a bad image".to_owned());
    }
    let result = |one: &Value| match obey(one, options) {
        Some(Ok(_)) if one.get("size_of_batch").is_some() => json!({"batch": batch.len()}),
        Some(Ok(result)) => result,
        _ => Value::Null,
    };
    let mut results: Vec<Value> = batch.iter().map(result).collect();
    if has("short") {
        results.pop();
    }
    (200, Value::Array(results).to_string())
}

fn answer_line(request: &Value, options: &Options, out: &mut impl Write) {
    let (id, payload) = (&request["id"], &request["payload"]);
    let has = |name: &str| payload.get(name).is_some();
    for _ in 0..payload.get("junk").and_then(Value::as_u64).unwrap_or(0) {
        writeln!(out, "\u{1b}[2Jthis is no line of the protocol").unwrap();
    }
    if has("half") {
        write!(out, "{{\"id\":{id},\"result\":[1,").unwrap();
        writeln!(out).unwrap();
        return;
    }
    if has("junk") && !has("tag") {
        return;
    }
    let Some(answer) = obey(payload, options) else { return };
    let id = if has("wrong_id") { json!("c424242") } else { id.clone() };
    let line = match answer {
        Ok(result) => json!({"id": id, "result": result}),
        Err(error) => json!({"id": id, "error": error, "retry": has("retry")}),
    };
    for _ in 0..if has("twice") { 2 } else { 1 } {
        writeln!(out, "{line}").unwrap();
    }
}

fn serve_http(options: Options) {
    let port: u16 = std::env::var("PORT").unwrap().parse().unwrap();
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let ready = Arc::new(Mutex::new(false));
    let options = Arc::new(options);
    let (flag, loading) = (ready.clone(), options.clone());
    std::thread::spawn(move || {
        load(&loading, |_| {});
        *flag.lock().unwrap() = !loading.never_ready;
    });
    for stream in listener.incoming().flatten() {
        let (ready, options) = (ready.clone(), options.clone());
        std::thread::spawn(move || while exchange(&stream, &ready, &options).is_some() {});
    }
}

/// One request and its answer; `None`: the connection is over.
fn exchange(mut stream: &TcpStream, ready: &Mutex<bool>, options: &Options) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let (mut first, mut length) = (String::new(), 0);
    reader.read_line(&mut first).ok().filter(|n| *n > 0)?;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok().filter(|n| *n > 0)?;
        if header.trim().is_empty() {
            break;
        }
        if let Some(value) = header.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let (status, text) = if first.starts_with("GET") {
        (if *ready.lock().unwrap() { 200 } else { 503 }, String::new())
    } else {
        let payload: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        if payload.get("half").is_some() {
            write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{{").ok()?;
            return None;
        }
        let status = payload.get("status").and_then(Value::as_u64).unwrap_or(200);
        let junk = payload.get("junk").is_some();
        match payload.as_array().map(|batch| batch_over_http(batch, options)) {
            Some(answer) => answer,
            None => match obey(&payload, options) {
                None => loop {
                    std::thread::park();
                },
                Some(Ok(_)) if junk => (status, "<html>".to_owned()),
                Some(Ok(result)) => (status, result.to_string()),
                Some(Err(error)) => (500, error),
            },
        }
    };
    write!(
        stream,
        "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{text}",
        text.len()
    )
    .ok()
}
