//! The link against a played coordinator: what it says when the coordinator comes, goes and comes back.
use super::fixtures;
use crate::client::Client;
use crate::console::link::Link;
use crate::console::msg::{Command, Kind, LogWant};
use crate::host::Host;
use reeve_protocol::api::{LogLine, PlanResult};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;

/// Answers one request of each connection with what `answer` says for its first line and body, then closes it.
fn play(
    answer: impl Fn(&str) -> (u16, String) + Send + Sync + Copy + 'static,
) -> (tempfile::TempDir, Client) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (status, body) = answer(&request(&mut stream).await);
                let head = format!(
                    "HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
                    body.len()
                );
                stream.write_all((head + &body).as_bytes()).await.unwrap();
            });
        }
    });
    (dir, Client::new(Host::Unix(path)))
}

/// The head of a request and as much of its body as belongs to it.
async fn request(stream: &mut UnixStream) -> String {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length =
                head.to_lowercase().lines().find_map(|l| l.strip_prefix("content-length: ")?.parse().ok());
            if body.len() >= length.unwrap_or(0) {
                return text;
            }
        }
        assert!(stream.read_buf(&mut bytes).await.unwrap() > 0, "the request was cut");
    }
}

/// The next piece of news for which `wanted` has something to say, within a bound.
async fn until<T>(news: &mut mpsc::Receiver<Kind>, mut wanted: impl FnMut(Kind) -> Option<T>) -> T {
    let wait = async {
        loop {
            if let Some(found) = wanted(news.recv().await.expect("the link lives")) {
                return found;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.expect("news come in time")
}

fn json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap()
}

#[tokio::test]
async fn statistics_mean_up_and_their_end_means_down_and_up_again() {
    let (_dir, client) = play(|request| match request.split(' ').nth(1) {
        Some("/v1/stats?follow=true") => (200, json(&fixtures::stats()) + "\n"),
        _ => (404, "{}".into()),
    });
    let (tx, mut news) = mpsc::channel(8);
    let _link = Link::new(client, tx);
    for _ in 0..2 {
        let up = until(&mut news, |k| matches!(k, Kind::LinkUp).then_some(true)).await;
        let queues =
            until(&mut news, |k| if let Kind::Stats(s) = k { Some(s.queues.len()) } else { None }).await;
        let attempt =
            until(&mut news, |k| if let Kind::LinkDown { attempt, .. } = k { Some(attempt) } else { None });
        assert_eq!((up, queues, attempt.await), (true, 5, 1), "each success starts the count anew");
    }
}

#[tokio::test]
async fn nobody_there_is_said_and_tried_again_with_growing_waits() {
    let dir = tempfile::tempdir().unwrap();
    let (tx, mut news) = mpsc::channel(8);
    let _link = Link::new(Client::new(Host::Unix(dir.path().join("nothing"))), tx);
    let mut waits = Vec::new();
    for wanted in 1..=2 {
        let down = |k| {
            if let Kind::LinkDown { attempt, retry_ms, .. } = k { Some((attempt, retry_ms)) } else { None }
        };
        let (attempt, retry_ms) = until(&mut news, down).await;
        assert_eq!(attempt, wanted);
        waits.push(retry_ms);
    }
    assert!(waits[0] < waits[1], "{waits:?}");
}

#[tokio::test]
async fn a_view_that_is_refused_says_why() {
    let problem = reeve_protocol::Problem::new(reeve_protocol::Code::BadFilter, "no such field");
    let (_dir, client) = play(|request| {
        let problem = reeve_protocol::Problem::new(reeve_protocol::Code::BadFilter, "no such field");
        if request.starts_with("POST /v1/views") { (400, json(&problem)) } else { (404, "{}".into()) }
    });
    let (tx, mut news) = mpsc::channel(8);
    let mut link = Link::new(client, tx);
    link.carry_out(Command::View {
        generation: 7,
        request: Some(reeve_protocol::api::ViewRequest::default()),
    });
    let refused = |k| {
        if let Kind::ViewRefused { generation, problem } = k { Some((generation, problem)) } else { None }
    };
    assert_eq!(until(&mut news, refused).await, (7, Box::new(problem)));
}

#[tokio::test]
async fn a_log_goes_on_where_it_was_cut_and_ends_with_its_attempt() {
    let (_dir, client) = play(|request| {
        let line = |next, text: &str| {
            json(&LogLine { next, at: None, stream: "stdout".into(), text: text.into(), missing: None })
                + "\n"
        };
        match request.split(' ').nth(1) {
            Some(path) if path.contains("logs") && path.ends_with("from=0") => (200, line(4, "one\n")),
            Some(path) if path.contains("logs") && path.contains("from=4") => (200, line(8, "two\n")),
            Some(path) if path.contains("logs") => (200, String::new()),
            // The first asks come while the attempt runs; nothing says when it ends but the bytes that were read.
            Some("/v1/jobs/410") => (200, json(&fixtures::whole_job())),
            _ => (404, "{}".into()),
        }
    });
    let (tx, mut news) = mpsc::channel(8);
    let mut link = Link::new(client, tx);
    link.carry_out(Command::Log {
        generation: 3,
        want: Some(LogWant { selector: "410".into(), attempt: 2 }),
    });
    for wanted in ["one\n", "two\n"] {
        let text =
            |k| if let Kind::Log { generation: 3, lines } = k { Some(lines[0].text.clone()) } else { None };
        assert_eq!(until(&mut news, text).await, wanted);
    }
    // The first attempt of that job has ended.
    link.carry_out(Command::Log {
        generation: 4,
        want: Some(LogWant { selector: "410".into(), attempt: 1 }),
    });
    until(&mut news, |k| matches!(k, Kind::LogEnded { generation: 4 }).then_some(())).await;
}

#[tokio::test]
async fn a_plan_is_run_by_its_number_and_a_queue_paused_by_its_name() {
    let (_dir, client) = play(|request| match request.split("\r\n").next().unwrap_or("") {
        "POST /v1/plans/105/run HTTP/1.1" => {
            (200, json(&PlanResult { id: 105, changed: 3, skipped: 0, reasons: [].into(), seq: 1 }))
        }
        "POST /v1/queues/a%2Fb/pause HTTP/1.1" => (
            200,
            json(&reeve_protocol::api::QueueView { name: "a/b".into(), paused: true, ..Default::default() }),
        ),
        _ => (404, "{}".into()),
    });
    let (tx, mut news) = mpsc::channel(8);
    let mut link = Link::new(client, tx);
    link.carry_out(Command::RunPlan { ticket: 1, id: 105 });
    let ran =
        |k| if let Kind::Ran { ticket: 1, result } = k { Some(result.map(|r| r.changed)) } else { None };
    assert_eq!(until(&mut news, ran).await, Ok(3));
    link.carry_out(Command::SetQueue { ticket: 2, name: "a/b".into(), pause: true });
    let set =
        |k| if let Kind::QueueSet { ticket: 2, result } = k { Some(result.map(|q| q.paused)) } else { None };
    assert_eq!(until(&mut news, set).await, Ok(true));
}
