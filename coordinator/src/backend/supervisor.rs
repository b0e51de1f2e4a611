//! One broker's supervisor: connects, does what the core wants, tells the core what comes, sends itself canaries, and
//! begins from nothing whenever something is wrong. Waits are bounded; while it waits, the engine does not.
use super::{Backend, Heard, PATIENCE, Trouble, Work, settings::Settings};
use crate::engine::Handle;
use crate::input::Input;
use crate::orchestrator::link::{Order, REPLIES, Said};
use crate::row::QueueKind;
use reeve_protocol::Problem;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Between two canaries.
const CANARY_EVERY: Duration = Duration::from_secs(2);
/// For a canary to come back: with the rest a broker is shown as degraded within 10 s, whatever is wrong.
const CANARY_BACK: Duration = Duration::from_secs(4);
/// Between two tries to connect: the first, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3));
/// Work taken at once.
const BATCH: usize = 64;

pub(super) struct Supervisor {
    pub(super) name: Arc<str>,
    pub(super) settings: Result<Settings, Problem>,
    pub(super) lineage: String,
    pub(super) engine: Handle,
    pub(super) overrun: Arc<AtomicBool>,
}

/// Queues that are kept at this broker.
type Kept = BTreeMap<Arc<str>, QueueKind>;

/// Nobody wants anything of this broker any more.
struct Closed;

impl Supervisor {
    /// Runs for ever.
    pub(super) async fn run<B: Backend>(&self, mut work: mpsc::Receiver<Work>) {
        let Ok(settings) = &self.settings else { return };
        let mut kept = Kept::new();
        let mut pause = PAUSE.0;
        // What it said when there was nobody to connect to.
        let mut away = None;
        // What was logged last.
        let mut said = None;
        loop {
            let trouble = match within(B::connect(settings, &self.lineage), "connecting").await {
                Ok(mut backend) => {
                    if let Some(trouble) = away.take()
                        && idle(&mut work, &mut kept, B::SETTLES, &trouble).await.is_err()
                    {
                        return;
                    }
                    tracing::info!(broker = %self.name, version = backend.version(), "connected");
                    said = None;
                    let begun = Instant::now();
                    let Err(trouble) = self.serve(&mut backend, &mut work, &mut kept).await else { return };
                    if begun.elapsed() > CANARY_EVERY {
                        pause = PAUSE.0;
                    }
                    trouble
                }
                Err(trouble) => away.insert(trouble).clone(),
            };
            let words = trouble.to_string();
            if said.as_ref() == Some(&words) {
                tracing::debug!(broker = %self.name, %trouble, "the broker still cannot be used");
            } else {
                tracing::warn!(broker = %self.name, %trouble, "the broker cannot be used");
            }
            said = Some(words);
            if self.say(Said::Down(trouble.to_string())).await.is_err() {
                return;
            }
            if idle(&mut work, &mut kept, pause, &trouble).await.is_err() {
                return;
            }
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    /// For a broker that cannot even be tried.
    pub(super) async fn refuse(&self, mut work: mpsc::Receiver<Work>) {
        let why = match &self.settings {
            Err(problem) => problem.to_string(),
            Ok(settings) => format!("{settings} is of a kind that comes with a later version"),
        };
        let trouble = Trouble::Broker(why.clone());
        let mut kept = Kept::new();
        while self.say(Said::Down(why.clone())).await.is_ok()
            && idle(&mut work, &mut kept, PAUSE.1, &trouble).await.is_ok()
        {}
    }

    async fn say(&self, said: Said) -> Result<(), Closed> {
        let input = Input::Broker { name: self.name.clone(), said: vec![said] };
        self.engine.tell(input).await.map_err(|_| Closed)
    }

    async fn tell(&self, said: Said) -> Result<(), Trouble> {
        self.say(said).await.map_err(|Closed| Trouble::Broker("the coordinator is stopping".to_owned()))
    }

    /// One connection's life. `Ok`: nobody wants anything any more.
    async fn serve<B: Backend>(
        &self,
        backend: &mut B,
        work: &mut mpsc::Receiver<Work>,
        kept: &mut Kept,
    ) -> Result<(), Trouble> {
        self.overrun.store(false, Ordering::Relaxed);
        let up = Said::Up {
            version: backend.version(),
            capabilities: backend.capabilities(),
            confirms_fast: B::CONFIRMS_FAST,
        };
        self.tell(up).await?;
        let mut troubled: Vec<Arc<str>> = Vec::new();
        for (queue, kind) in kept.iter() {
            self.keep(backend, queue, *kind, &mut troubled).await?;
        }
        let mut canary = Canary::default();
        let mut depths = Depths::new();
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            tokio::select! {
                n = work.recv_many(&mut batch, BATCH) => {
                    if n == 0 {
                        return Ok(());
                    }
                    for one in batch.drain(..) {
                        if let Work::Order(Order::Use(q, _) | Order::Leave(q) | Order::Depth(q, _)) = &one {
                            // What the core was told of it otherwise, or before, is not what was told last from here.
                            depths.remove(q);
                        }
                        self.work(backend, one, kept, &mut troubled).await?;
                    }
                }
                heard = backend.next() => match heard? {
                    Heard::Canary => {
                        canary.back();
                        self.tell(Said::Heard).await?;
                    }
                    Heard::Hints(queue, hints) => self.tell(Said::Hints(queue, hints)).await?,
                    Heard::Messages(queue, messages) => self.tell(Said::Messages(queue, messages)).await?,
                },
                () = tokio::time::sleep_until(canary.due) => {
                    if self.overrun.load(Ordering::Relaxed) {
                        return Err(Trouble::Broker("it is too slow for what is published".to_owned()));
                    }
                    canary.send(backend).await?;
                    for queue in std::mem::take(&mut troubled) {
                        if let Some(kind) = kept.get(&queue) {
                            self.keep(backend, &queue, *kind, &mut troubled).await?;
                        }
                    }
                    self.depths(backend, kept, &troubled, &mut depths).await?;
                }
            }
        }
    }

    /// Keeps a queue, and says so.
    async fn keep<B: Backend>(
        &self,
        backend: &mut B,
        queue: &Arc<str>,
        kind: QueueKind,
        troubled: &mut Vec<Arc<str>>,
    ) -> Result<(), Trouble> {
        if queue.starts_with(REPLIES) {
            // Answers go to places of others: nothing is declared.
            return self.tell(Said::Trouble(queue.clone(), None)).await;
        }
        match within(backend.keep(queue, kind), "declaring a queue").await {
            Ok(is_new) => {
                self.tell(Said::Trouble(queue.clone(), None)).await?;
                if is_new { self.tell(Said::Lost(queue.clone())).await } else { Ok(()) }
            }
            Err(Trouble::Queue(_, why)) => {
                troubled.push(queue.clone());
                self.tell(Said::Trouble(queue.clone(), Some(why))).await
            }
            Err(trouble) => Err(trouble),
        }
    }

    async fn work<B: Backend>(
        &self,
        backend: &mut B,
        work: Work,
        kept: &mut Kept,
        troubled: &mut Vec<Arc<str>>,
    ) -> Result<(), Trouble> {
        let done = match work {
            Work::Order(Order::Use(queue, kind)) => {
                kept.insert(queue.clone(), kind);
                return self.keep(backend, &queue, kind, troubled).await;
            }
            Work::Order(Order::Leave(queue)) => {
                let hints = kept.remove(&queue) == Some(QueueKind::Jobs);
                let left = if hints && !troubled.contains(&queue) {
                    within(backend.abandon(&queue), "removing hints").await
                } else {
                    Ok(())
                };
                backend.leave(&queue);
                // A trouble of this queue alone is nobody's any more.
                return if let Err(trouble @ Trouble::Broker(_)) = left { Err(trouble) } else { Ok(()) };
            }
            Work::Order(Order::Hints(queue, hints)) => {
                within(backend.hint(&queue, &hints), "publishing").await
            }
            Work::Order(Order::Taken(queue, tags)) => {
                within(backend.taken(&queue, &tags), "acknowledging").await
            }
            Work::Order(Order::Room(queue, more)) => {
                within(backend.room(&queue, more), "asking for more").await
            }
            Work::Order(Order::Depth(queue, ticket)) => match within(backend.depth(&queue), "counting").await
            {
                Ok((depth, coming)) => {
                    return self.tell(Said::Depth { queue, depth, coming, ticket: Some(ticket) }).await;
                }
                Err(trouble) => Err(trouble),
            },
            // Read into `Forward` by the recorder.
            Work::Order(Order::Forward(..)) => Ok(()),
            Work::Forward(queue, rows) if queue.starts_with(REPLIES) => {
                let (unroutable, why) = within(backend.answer(&rows), "publishing answers").await?;
                if unroutable > 0 {
                    self.tell(Said::Unroutable(unroutable, why)).await?;
                }
                let ids = rows.iter().map(|row| row.id).collect();
                return self.tell(Said::Confirmed(queue, ids)).await;
            }
            Work::Forward(queue, rows) => match within(backend.publish(&queue, &rows), "publishing").await {
                Ok(()) => {
                    let ids = rows.iter().map(|row| row.id).collect();
                    return self.tell(Said::Confirmed(queue, ids)).await;
                }
                Err(trouble) => Err(trouble),
            },
            Work::Peek(queue, max, answer) => {
                tell_both(within(backend.peek(&queue, max), "looking").await, answer)
            }
            Work::Purge(queue, answer) => tell_both(within(backend.purge(&queue), "removing").await, answer),
        };
        match done {
            Err(Trouble::Queue(queue, why)) => {
                if !troubled.contains(&queue) {
                    troubled.push(queue.clone());
                }
                self.tell(Said::Trouble(queue, Some(why))).await
            }
            other => other,
        }
    }

    /// Says how much lies in queues of messages, when that has changed.
    async fn depths<B: Backend>(
        &self,
        backend: &mut B,
        kept: &Kept,
        troubled: &[Arc<str>],
        known: &mut Depths,
    ) -> Result<(), Trouble> {
        let counted = |(q, k): &(&Arc<str>, &QueueKind)| {
            **k == QueueKind::Messages && !troubled.contains(q) && !q.starts_with(REPLIES)
        };
        for (queue, _) in kept.iter().filter(counted) {
            let (depth, coming) = match within(backend.depth(queue), "counting").await {
                Err(Trouble::Queue(..)) => continue,
                other => other?,
            };
            if known.insert(queue.clone(), (depth, coming)) != Some((depth, coming)) {
                self.tell(Said::Depth { queue: queue.clone(), depth, coming, ticket: None }).await?;
            }
        }
        Ok(())
    }
}

/// What the core knows of each queue of messages: how many lie there, and how many were handed out.
type Depths = BTreeMap<Arc<str>, (u64, u64)>;

/// Answers whoever asked, and keeps what ends the connection.
fn tell_both<T>(
    result: Result<T, Trouble>,
    answer: tokio::sync::oneshot::Sender<Result<T, Trouble>>,
) -> Result<(), Trouble> {
    let ends = match &result {
        Err(trouble @ Trouble::Broker(_)) => Err(trouble.clone()),
        _ => Ok(()),
    };
    let _ = answer.send(result);
    ends
}

/// Something that waits for a broker, bounded.
async fn within<T>(what: impl Future<Output = Result<T, Trouble>>, doing: &str) -> Result<T, Trouble> {
    tokio::time::timeout(PATIENCE, what).await.unwrap_or_else(|_| {
        Err(Trouble::Broker(format!("{doing}: no answer within {} s", PATIENCE.as_secs())))
    })
}

/// While the broker is away: which queues are wanted is noted, whoever asks is told, the rest is done again by the core
/// when it is back.
async fn idle(
    work: &mut mpsc::Receiver<Work>,
    kept: &mut Kept,
    pause: Duration,
    why: &Trouble,
) -> Result<(), Closed> {
    let until = Instant::now() + pause;
    loop {
        match tokio::time::timeout_at(until, work.recv()).await {
            Err(_) => return Ok(()),
            Ok(None) => return Err(Closed),
            Ok(Some(Work::Order(Order::Use(queue, kind)))) => drop(kept.insert(queue, kind)),
            Ok(Some(Work::Order(Order::Leave(queue)))) => drop(kept.remove(&queue)),
            Ok(Some(Work::Peek(_, _, answer))) => drop(answer.send(Err(why.clone()))),
            Ok(Some(Work::Purge(_, answer))) => drop(answer.send(Err(why.clone()))),
            Ok(Some(Work::Order(_) | Work::Forward(..))) => {}
        }
    }
}

/// What is sent to ourselves, to know that both directions work.
struct Canary {
    due: Instant,
    since: Option<Instant>,
}

impl Default for Canary {
    fn default() -> Self {
        Self { due: Instant::now() + CANARY_EVERY, since: None }
    }
}

impl Canary {
    async fn send<B: Backend>(&mut self, backend: &mut B) -> Result<(), Trouble> {
        if self.since.is_some_and(|at| at.elapsed() >= CANARY_BACK) {
            return Err(Trouble::Broker(format!(
                "what was published does not come back within {} s",
                CANARY_BACK.as_secs()
            )));
        }
        self.due = Instant::now() + CANARY_EVERY;
        if self.since.is_none() {
            self.since = Some(Instant::now());
            within(backend.canary(), "publishing").await?;
        }
        Ok(())
    }

    const fn back(&mut self) {
        self.since = None;
    }
}

#[cfg(test)]
#[path = "supervisor_test.rs"]
mod tests;
