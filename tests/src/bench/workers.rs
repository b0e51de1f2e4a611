//! Static workers: tracked jobs and calls through one worker that answers at once, beside what the same client, the same worker
//! and the same sockets do without reeve.
use super::{Table, cpu_ticks, median, pss, seconds};
use crate::bank::Bank;
use crate::server::Server;
use crate::{binary, children_named, eventually, processes_with};
use axum::body::Bytes;
use axum::extract::State;
use axum::routing::post;
use serde_json::json;
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

const ROUNDS: usize = 3;
const CONNECTIONS: usize = 32;

/// Tracked jobs by NDJSON through one echo worker, durable; beside the rate at which they are submitted alone.
pub fn tracked(table: &mut Table) {
    const N: usize = 40_000;
    let server = Server::start();
    let bank = Bank::launch(&server, "bank", &[], &["--max-ongoing", "64"]);
    bank.until(|s| s["ready"] == 1);
    let file = server.scratch().join("jobs.jsonl");
    std::fs::write(&file, "{\"worker\":\"bank\",\"payload\":7}\n".repeat(N)).unwrap();
    let submit = || drop(server.ok(&["submit", "--file", file.to_str().unwrap()]));
    let completed = || server.get("/v1/queues/jobs.bank").json()["counts"]["COMPLETED"].as_u64().unwrap_or(0);
    let (mut ours, mut raw, mut done) = (Vec::new(), Vec::new(), 0);
    for _ in 0..ROUNDS {
        server.ok(&["queue", "pause", "jobs.bank"]);
        raw.push(N as f64 / seconds(submit));
        server.ok(&["queue", "clean", "jobs.bank"]);
        server.ok(&["queue", "resume", "jobs.bank"]);
        done += N as u64;
        let all = || eventually("all completed", || (completed() >= done).then_some(()));
        ours.push(
            N as f64
                / seconds(|| {
                    submit();
                    all();
                }),
        );
    }
    let (ours, raw) = (median(ours), median(raw));
    let share = ours / raw;
    table.row(
        "tracked jobs, one static worker",
        format!("{ours:.0} jobs/s"),
        "-".into(),
        ">= 10,000 /s",
        ours >= 10_000.0,
    );
    table.row(
        "the same, of the NDJSON submit rate",
        format!("{share:.2}"),
        format!("{raw:.0} lines/s"),
        ">= 0.4",
        share >= 0.4,
    );
}

/// Calls over 32 connections, beside the same client against a bare axum handler that pipes to the same worker.
pub fn calls(table: &mut Table) {
    let server = Server::start();
    let bank = Bank::launch(&server, "bank", &[], &["--max-ongoing", "64"]);
    bank.until(|s| s["ready"] == 1);
    let bare = Bare::start(server.scratch());
    let (mut ours, mut raw) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        raw.push(call_rate(&bare.socket));
        ours.push(call_rate(server.socket()));
    }
    let (ours, raw) = (median(ours), median(raw));
    let share = ours / raw;
    table.row(
        "calls, 32 connections",
        format!("{ours:.0} /s = {share:.2}"),
        format!("{raw:.0} /s bare axum + pipe"),
        ">= 0.4",
        share >= 0.4,
    );
}

/// One call after the other, beside a ping-pong over a Unix socket and one over QUIC.
pub fn roundtrip(table: &mut Table) {
    let server = Server::start();
    let bank = Bank::launch(&server, "bank", &[], &["--max-ongoing", "64"]);
    bank.until(|s| s["ready"] == 1);
    let unix = unix_ping();
    let quic = super::quic_ping::microseconds();
    let mut client = Client::open(server.socket());
    let mut took: Vec<f64> = (0..2_000).map(|_| 1e6 * seconds(|| client.call())).collect();
    took.drain(..200);
    let p50 = median(took);
    let limit = 3.0 * (unix + quic);
    table.row(
        "call round trip, p50",
        format!("{p50:.0} us"),
        format!("Unix {unix:.0} + QUIC {quic:.0} us"),
        "<= 3 x",
        p50 <= limit,
    );
}

/// A hundred replicas that nobody asks anything: what the machine's side costs in a minute.
pub fn idle(table: &mut Table) {
    let server = Server::start();
    let bank = Bank::launch(&server, "bank", &[], &["--replicas", "100", "--cpus", "0.01"]);
    bank.until(|s| s["ready"] == 100);
    std::thread::sleep(Duration::from_secs(20));
    let place = server.runtime().to_str().unwrap().to_owned();
    let pids: Vec<u32> = processes_with(&["keeper", &place]).into_iter().chain([server.pid()]).collect();
    let keeper = super::keeper_of(server.runtime());
    let guardians = children_named(keeper, "reeve-guardian");
    let zygotes = children_named(keeper, "reeve-zygote");
    let before: f64 = pids.iter().map(|p| cpu_ticks(*p)).sum();
    std::thread::sleep(Duration::from_mins(1));
    let share = (pids.iter().map(|p| cpu_ticks(*p)).sum::<f64>() - before) / 60.0;
    let each = guardians.iter().map(|p| pss(*p)).sum::<f64>() * 1024.0 / guardians.len().max(1) as f64;
    table.row(
        "100 idle replicas: server, keeper, zygote, guardians",
        format!("{share:.2} % CPU"),
        "-".into(),
        "<= 0.2 %",
        share <= 0.2,
    );
    table.row(
        "the same: Pss of a guardian",
        format!("{each:.0} kB"),
        format!(
            "{} guardians; zygote {:.0} kB, keeper {:.1} MB, server {:.1} MB",
            guardians.len(),
            zygotes.iter().map(|pid| pss(*pid)).sum::<f64>() * 1024.0,
            pss(keeper),
            pss(server.pid())
        ),
        "<= 60 kB",
        each <= 60.0,
    );
}

/// A connection that stays, with the smallest client there is.
struct Client {
    stream: BufReader<UnixStream>,
    request: Vec<u8>,
}

impl Client {
    fn open(socket: &Path) -> Self {
        let body = r#"{"payload":7}"#;
        let request = format!(
            "POST /v1/workers/bank/requests HTTP/1.1\r\nhost: reeve\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        Self { stream: BufReader::new(UnixStream::connect(socket).unwrap()), request: request.into_bytes() }
    }

    fn call(&mut self) {
        self.stream.get_mut().write_all(&self.request).unwrap();
        let (mut line, mut length, mut first) = (String::new(), 0, true);
        loop {
            line.clear();
            self.stream.read_line(&mut line).unwrap();
            assert!(!first || line.contains("200"), "{line}");
            first = false;
            if line.trim().is_empty() {
                break;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).unwrap();
    }
}

fn call_rate(socket: &Path) -> f64 {
    let end = Instant::now() + Duration::from_secs(4);
    let callers: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            let mut client = Client::open(socket);
            std::thread::spawn(move || {
                let mut n = 0u64;
                while Instant::now() < end {
                    client.call();
                    n += 1;
                }
                n
            })
        })
        .collect();
    callers.into_iter().map(|c| c.join().unwrap()).sum::<u64>() as f64 / 4.0
}

/// Microseconds of a byte there and back between two threads.
fn unix_ping() -> f64 {
    let (mut ours, mut theirs) = UnixStream::pair().unwrap();
    std::thread::spawn(move || {
        let mut byte = [0];
        while theirs.read_exact(&mut byte).is_ok() && theirs.write_all(&byte).is_ok() {}
    });
    let took = (0..5_000).map(|_| {
        1e6 * seconds(|| {
            ours.write_all(b"x").unwrap();
            ours.read_exact(&mut [0]).unwrap();
        })
    });
    median(took.collect())
}

/// A handler that does nothing but pass the body to the worker and its answer back.
struct Bare {
    socket: PathBuf,
    child: std::process::Child,
    _runtime: tokio::runtime::Runtime,
}

type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<Vec<u8>>>>>;

#[derive(Clone)]
struct Pipe {
    input: Arc<Mutex<(u64, std::process::ChildStdin)>>,
    waiting: Waiting,
}

impl Bare {
    fn start(dir: &Path) -> Self {
        let mut child = Command::new(binary("modelbank"))
            .arg("stdio")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let waiting = Waiting::default();
        let (out, answers) = (child.stdout.take().unwrap(), waiting.clone());
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                let rest = line.strip_prefix("{\"id\":\"c").and_then(|r| r.split_once('"'));
                if let Some((id, _)) = rest
                    && let Some(caller) = answers.lock().unwrap().remove(&id.parse().unwrap())
                {
                    let _ = caller.send(line.into_bytes());
                }
            }
        });
        let pipe = Pipe { input: Arc::new(Mutex::new((0, child.stdin.take().unwrap()))), waiting };
        let app = axum::Router::new().route("/v1/workers/bank/requests", post(answer)).with_state(pipe);
        let socket = dir.join("bare.sock");
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let listener = runtime.block_on(async { tokio::net::UnixListener::bind(&socket) }).unwrap();
        runtime.spawn(async move { axum::serve(listener, app).await });
        Self { socket, child, _runtime: runtime }
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn answer(State(pipe): State<Pipe>, body: Bytes) -> Vec<u8> {
    let request: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    let (tell, told) = oneshot::channel();
    {
        let mut input = pipe.input.lock().unwrap();
        input.0 += 1;
        pipe.waiting.lock().unwrap().insert(input.0, tell);
        let line = format!("{{\"id\":\"c{}\",\"payload\":{}}}\n", input.0, json!(request["payload"]));
        input.1.write_all(line.as_bytes()).unwrap();
    }
    told.await.unwrap_or_default()
}
