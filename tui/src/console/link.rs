//! The console's side of the API: subscriptions that come back by themselves for ever, and single requests.
//!
//! Everything that arrives goes into one bounded channel: when the console is slow the sockets fill, and the coordinator
//! sends the newest state when they drain. Nothing here knows the model.
use super::msg::{Command, Kind, LogWant, WorkerAct};
use crate::client::{Client, Lines, NDJSON};
use bytes::Bytes;
use hyper::Method;
use reeve_protocol::api::{
    JobView, List, LogLine, MachineView, Plan, PlanRequest, PlanResult, QueueView, Stats, ViewRequest,
    ViewUpdate, WhoAmI, Why, WorkerView,
};
use reeve_protocol::{Code, Problem};
use serde::de::DeserializeOwned;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio::task::{AbortHandle, JoinSet};

/// Without a line for so long the stream of statistics is dead: the coordinator sends one at least every five seconds.
const SILENCE: Duration = Duration::from_secs(15);
/// Measured values of machines are no events; they are asked for, and only while they are on the screen.
const MACHINES_EVERY: Duration = Duration::from_secs(2);
/// Progress and attempts of the open job.
const JOB_EVERY: Duration = Duration::from_secs(1);
/// Most lines of a log in one message; after a full one the reader rests, so that a log that writes without end costs
/// a few megabytes a second at most.
const LOG_BATCH: usize = 500;
const LOG_REST: Duration = Duration::from_millis(20);
/// How much of the log of an ended attempt is asked for.
const LOG_TAIL: u32 = 10_000;

/// The subscriptions that run.
pub(super) struct Link {
    wire: Wire,
    tasks: JoinSet<()>,
    view: Option<AbortHandle>,
    machines: Option<AbortHandle>,
    workers: Option<AbortHandle>,
    job: Option<AbortHandle>,
    log: Option<AbortHandle>,
}

/// What every task needs.
#[derive(Clone)]
struct Wire {
    client: Client,
    news: mpsc::Sender<Kind>,
    /// Wakes whoever waits before trying again.
    retry: Arc<Notify>,
}

impl Link {
    /// Starts with the statistics, which also tell whether there is a coordinator.
    pub(super) fn new(client: Client, news: mpsc::Sender<Kind>) -> Self {
        let wire = Wire { client, news, retry: Arc::new(Notify::new()) };
        let mut tasks = JoinSet::new();
        tasks.spawn(wire.clone().stats());
        Self { wire, tasks, view: None, machines: None, workers: None, job: None, log: None }
    }

    /// Carries out what concerns the coordinator; other commands are not for here.
    pub(super) fn carry_out(&mut self, command: Command) {
        // What has ended is forgotten here, not when the console ends.
        while self.tasks.try_join_next().is_some() {}
        let wire = self.wire.clone();
        match command {
            Command::View { generation, request } => {
                let task = request.map(|r| self.tasks.spawn(wire.view(generation, r)));
                replace(&mut self.view, task);
            }
            Command::Machines(on) => {
                let task = on.then(|| self.tasks.spawn(wire.machines()));
                replace(&mut self.machines, task);
            }
            Command::Workers(on) => {
                let task = on.then(|| self.tasks.spawn(wire.workers()));
                replace(&mut self.workers, task);
            }
            Command::SetWorker { ticket, name, act } => {
                self.tasks.spawn(wire.set_worker(ticket, name, act));
            }
            Command::Job { generation, selector } => {
                let task = selector.map(|s| self.tasks.spawn(wire.job(generation, s)));
                replace(&mut self.job, task);
            }
            Command::Log { generation, want } => {
                let task = want.map(|w| self.tasks.spawn(wire.log(generation, w)));
                replace(&mut self.log, task);
            }
            Command::RetryNow => self.wire.retry.notify_waiters(),
            Command::Why { ticket, selector } => {
                self.tasks.spawn(async move {
                    let result: Result<Why, Problem> =
                        wire.client.get(&format!("/v1/jobs/{}/why", word(&selector))).await;
                    wire.send(Kind::Why { ticket, result: result.map_err(Box::new) }).await;
                });
            }
            Command::Plan { ticket, request } => {
                self.tasks.spawn(wire.plan(ticket, request));
            }
            Command::RunPlan { ticket, id } => {
                self.tasks.spawn(async move {
                    let path = format!("/v1/plans/{id}/run");
                    let result: Result<PlanResult, Problem> =
                        wire.client.post(&path, &serde_json::json!({})).await;
                    wire.send(Kind::Ran { ticket, result: result.map_err(Box::new) }).await;
                });
            }
            Command::SetQueue { ticket, name, pause } => {
                self.tasks.spawn(wire.set_queue(ticket, name, pause));
            }
            Command::Quit | Command::Redraw | Command::Suspend | Command::Copy(_) => {}
        }
    }
}

/// Ends the old task before the new one counts.
fn replace(slot: &mut Option<AbortHandle>, task: Option<AbortHandle>) {
    if let Some(old) = std::mem::replace(slot, task) {
        old.abort();
    }
}

impl Wire {
    /// The console may be gone already; then nobody cares.
    async fn send(&self, kind: Kind) {
        let _ = self.news.send(kind).await;
    }

    /// Waits before the next try: 0.5, 1, 2, then 5 s, a little spread, or until the user does not want to wait.
    async fn rest(&self, attempt: u32) {
        tokio::select! {
            () = tokio::time::sleep(backoff(attempt)) => {}
            () = self.retry.notified() => {}
        }
    }

    /// For ever: a console that has lost its coordinator waits for it, it never ends because of that.
    async fn stats(self) {
        let mut attempt = 0;
        loop {
            let problem = self.stats_once(&mut attempt).await;
            attempt += 1;
            let retry_ms = backoff(attempt).as_millis() as u64;
            self.send(Kind::LinkDown { error: problem.detail, attempt, retry_ms }).await;
            self.rest(attempt).await;
        }
    }

    /// Follows the statistics until that fails.
    async fn stats_once(&self, attempt: &mut u32) -> Problem {
        let mut lines = match self.client.lines(Method::GET, "/v1/stats?follow=true", None, NDJSON).await {
            Ok(lines) => lines,
            Err(problem) => return problem,
        };
        let mut first = true;
        loop {
            let next = match tokio::time::timeout(SILENCE, next::<Stats>(&mut lines)).await {
                Ok(Ok(Some(stats))) => stats,
                Ok(Ok(None)) => return gone("the coordinator ended the connection"),
                Ok(Err(problem)) => return problem,
                Err(_) => return gone("nothing was heard for 15 s"),
            };
            if std::mem::take(&mut first) {
                *attempt = 0;
                self.send(Kind::LinkUp).await;
                if let Ok(who) = self.client.get::<WhoAmI>("/v1/whoami").await {
                    self.send(Kind::Who(who)).await;
                }
            }
            self.send(Kind::Stats(Box::new(next))).await;
        }
    }

    /// Keeps the view open until it is replaced. After a lost link the coordinator sends a whole snapshot again.
    async fn view(self, generation: u64, request: ViewRequest) {
        let mut attempt = 0;
        loop {
            let problem = self.view_once(generation, &request, &mut attempt).await;
            attempt += 1;
            if is_answer(&problem) {
                // It will be refused again: say so, and try seldom, in case the coordinator changes its mind.
                self.send(Kind::ViewRefused { generation, problem: Box::new(problem) }).await;
                attempt = attempt.max(4);
            }
            self.rest(attempt).await;
        }
    }

    /// Follows the view until that fails.
    async fn view_once(&self, generation: u64, request: &ViewRequest, attempt: &mut u32) -> Problem {
        let body = match serde_json::to_vec(request) {
            Ok(body) => Bytes::from(body),
            Err(error) => return gone(&error.to_string()),
        };
        let mut lines = match self.client.lines(Method::POST, "/v1/views", Some(body), NDJSON).await {
            Ok(lines) => lines,
            Err(problem) => return problem,
        };
        loop {
            match next::<ViewUpdate>(&mut lines).await {
                Ok(Some(update)) => {
                    *attempt = 0;
                    if update.kind != "beat" {
                        self.send(Kind::View { generation, update: Box::new(update) }).await;
                    }
                }
                Ok(None) => return gone("the view ended"),
                Err(problem) => return problem,
            }
        }
    }

    /// Asks for the machines until it is ended.
    async fn machines(self) {
        loop {
            // A failure is not said here: the stream of statistics says it.
            if let Ok(list) = self.client.get::<List<MachineView>>("/v1/machines").await {
                self.send(Kind::Machines(list.items)).await;
            }
            tokio::time::sleep(MACHINES_EVERY).await;
        }
    }

    /// Asks for the workers until it is ended.
    async fn workers(self) {
        loop {
            if let Ok(list) = self.client.get::<List<WorkerView>>("/v1/workers").await {
                self.send(Kind::Workers(list.items)).await;
            }
            tokio::time::sleep(MACHINES_EVERY).await;
        }
    }

    async fn set_worker(self, ticket: u64, name: String, act: WorkerAct) {
        let (verb, body) = match act {
            WorkerAct::Launch => ("launch", serde_json::json!({})),
            WorkerAct::Scale(n) => ("scale", serde_json::json!({"replicas": n})),
            WorkerAct::Drain => ("drain", serde_json::json!({})),
            WorkerAct::Stop => ("stop", serde_json::json!({})),
        };
        let path = format!("/v1/workers/{}/{verb}", word(&name));
        let result: Result<WorkerView, Problem> = self.client.post(&path, &body).await;
        self.send(Kind::WorkerSet { ticket, result: result.map(Box::new).map_err(Box::new) }).await;
    }

    /// Sends the job whenever it has changed.
    async fn job(self, generation: u64, selector: String) {
        let path = format!("/v1/jobs/{}", word(&selector));
        let mut last: Option<Result<JobView, Problem>> = None;
        loop {
            let result = self.client.get::<JobView>(&path).await;
            if last.as_ref() != Some(&result) {
                let news = result.clone().map(Box::new).map_err(Box::new);
                self.send(Kind::Job { generation, result: news }).await;
                last = Some(result);
            }
            tokio::time::sleep(JOB_EVERY).await;
        }
    }

    /// Follows a log over lost links until its attempt has ended.
    async fn log(self, generation: u64, want: LogWant) {
        // Of a running attempt everything is read from the start: its last lines alone are only given once it is quiet,
        // and one that never is would show nothing.
        let mut from = if self.has_ended(&want).await { None } else { Some(0) };
        let mut attempt = 0;
        loop {
            if self.log_once(generation, &want, &mut from).await.is_ok() && self.has_ended(&want).await {
                return self.send(Kind::LogEnded { generation }).await;
            }
            attempt = (attempt + 1).min(3);
            self.rest(attempt).await;
        }
    }

    /// Follows the log from where it was left until it ends. A log that is not there yet is an error like others.
    async fn log_once(&self, generation: u64, want: &LogWant, from: &mut Option<u64>) -> Result<(), Problem> {
        let place = from.map_or_else(|| format!("tail={LOG_TAIL}"), |byte| format!("from={byte}"));
        let path =
            format!("/v1/jobs/{}/logs?attempt={}&follow=true&{place}", word(&want.selector), want.attempt);
        let mut lines = self.client.lines(Method::GET, &path, None, NDJSON).await?;
        while let Some(first) = next::<LogLine>(&mut lines).await? {
            let mut batch = vec![first];
            // What is there already comes along; what is not is not waited for.
            while batch.len() < LOG_BATCH {
                match tokio::time::timeout(Duration::ZERO, next::<LogLine>(&mut lines)).await {
                    Ok(Ok(Some(line))) => batch.push(line),
                    Ok(Ok(None) | Err(_)) | Err(_) => break,
                }
            }
            let full = batch.len() >= LOG_BATCH;
            *from = batch.last().map(|line| line.next);
            self.send(Kind::Log { generation, lines: batch }).await;
            if full {
                tokio::time::sleep(LOG_REST).await;
            }
        }
        Ok(())
    }

    /// Whether the attempt has ended. A coordinator that stops ends its streams too, and that is not the end of a log.
    async fn has_ended(&self, want: &LogWant) -> bool {
        let job = self.client.get::<JobView>(&format!("/v1/jobs/{}", word(&want.selector))).await;
        job.is_ok_and(|job| {
            job.state.is_terminal()
                || job.attempt > want.attempt
                || job.attempts.iter().any(|a| a.attempt == want.attempt && a.ended_at.is_some())
        })
    }

    /// Lets the coordinator count; nothing changes.
    async fn plan(self, ticket: u64, request: PlanRequest) {
        let result: Result<Plan, Problem> = self.client.post("/v1/plans", &request).await;
        self.send(Kind::Planned { ticket, result: result.map(Box::new).map_err(Box::new) }).await;
    }

    async fn set_queue(self, ticket: u64, name: String, pause: bool) {
        let path = format!("/v1/queues/{}/{}", word(&name), if pause { "pause" } else { "resume" });
        let result: Result<QueueView, Problem> = self.client.post(&path, &serde_json::json!({})).await;
        self.send(Kind::QueueSet { ticket, result: result.map(Box::new).map_err(Box::new) }).await;
    }
}

/// The next line as a value. Half a line of a lost connection is an error, never a value.
async fn next<T: DeserializeOwned>(lines: &mut Lines) -> Result<Option<T>, Problem> {
    match lines.next().await {
        None => Ok(None),
        Some(Err(problem)) => Err(problem),
        Some(Ok(line)) => match serde_json::from_slice(&line) {
            Ok(value) => Ok(Some(value)),
            Err(error) => Err(gone(&format!("the coordinator sent something unexpected: {error}"))),
        },
    }
}

/// A failure of the link itself, which is worth another try.
fn gone(why: &str) -> Problem {
    Problem::new(Code::NoCoordinator, why)
}

/// Whether the coordinator answered and means it, as opposed to not being there.
fn is_answer(problem: &Problem) -> bool {
    (400..500).contains(&problem.status) && !problem.is(Code::RequestTimeout) && !problem.is(Code::Overloaded)
}

/// Before try number `attempt`. The spread keeps many consoles from coming back at the same moment.
fn backoff(attempt: u32) -> Duration {
    let ms = match attempt {
        0 | 1 => 500,
        2 => 1000,
        3 => 2000,
        _ => 5000,
    };
    let spread = u64::from(std::process::id()) * 37 % (ms / 8);
    Duration::from_millis(ms + spread)
}

/// A name or selector as one word of a path.
fn word(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~@".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_of_a_path_cannot_leave_its_place() {
        for (given, wanted) in
            [("7.3", "7.3"), ("@mgr-42", "@mgr-42"), ("a/b?c d", "a%2Fb%3Fc%20d"), ("ü", "%C3%BC")]
        {
            assert_eq!(word(given), wanted);
        }
    }

    #[test]
    fn tries_become_rarer_and_never_stop() {
        let seconds: Vec<u64> = (1..=6).map(|n| backoff(n).as_millis() as u64).collect();
        for (given, least) in seconds.iter().zip([500, 1000, 2000, 5000, 5000, 5000]) {
            assert!((least..=least + least / 8).contains(given), "{seconds:?}");
        }
    }

    #[test]
    fn only_a_refusal_is_an_answer() {
        assert!(is_answer(&Problem::new(Code::BadFilter, "x")));
        for code in [Code::NoCoordinator, Code::Unavailable, Code::Internal, Code::Overloaded] {
            assert!(!is_answer(&Problem::new(code, "x")), "{code:?}");
        }
    }
}
