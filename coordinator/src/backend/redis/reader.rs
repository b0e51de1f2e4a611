//! Reads streams on a connection of its own: a blocking read on a shared one would hold everything up. What was read waits
//! in a channel, so that whoever takes it may be interrupted without losing anything.
use super::entry;
use super::{GROUP, Heard, Streams, Trouble, broker, remove};
use crate::orchestrator::link::Band;
use crate::row::QueueKind;
use ::redis::aio::MultiplexedConnection;
use ::redis::{Cmd, Pipeline, RedisError, Value, cmd};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// The longest blocking read. A wish for more wakes it.
pub(super) const BLOCK: Duration = Duration::from_secs(1);
/// Batches read and not taken yet.
const WAITING: usize = 4;
/// Entries of one stream read at once.
const READ: u64 = 512;
/// The same of what was left behind by a lost connection: more than can ever be on its way.
const LEFT: u64 = 100_000;

/// What is wanted of each queue.
#[derive(Clone, Debug)]
struct Want {
    streams: Streams,
    room: u64,
    /// What was read before the connection was lost, and never acknowledged, comes first.
    fresh: bool,
}

/// Wishes, shared with the reading task.
#[derive(Default)]
pub(super) struct Wants {
    queues: Mutex<BTreeMap<Arc<str>, Want>>,
    /// The task may be in a blocking read.
    blocked: AtomicBool,
}

impl Wants {
    fn with<T>(&self, change: impl FnOnce(&mut BTreeMap<Arc<str>, Want>) -> T) -> T {
        change(&mut self.queues.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn keep(&self, queue: Arc<str>, streams: Streams) {
        self.with(|q| {
            q.entry(queue).or_insert(Want { streams, room: 0, fresh: true });
        });
    }

    pub(super) fn leave(&self, queue: &str) {
        self.with(|q| q.remove(queue));
    }

    /// True: the task has to hear of it now.
    pub(super) fn room(&self, queue: &str, more: u64) -> bool {
        self.with(|q| {
            let Some(want) = q.get_mut(queue) else { return false };
            let had = want.room > 0;
            want.room = if more == 0 { 0 } else { want.room + more };
            // What is not wanted any more is not to be taken by a read that is still waiting.
            had != (more > 0)
        })
    }

    fn took(&self, queue: &str, n: u64) {
        self.with(|q| {
            if let Some(want) = q.get_mut(queue) {
                want.room = want.room.saturating_sub(n);
            }
        });
    }

    fn settled(&self, queue: &str) {
        self.with(|q| {
            if let Some(want) = q.get_mut(queue) {
                want.fresh = false;
            }
        });
    }

    fn wanted(&self) -> Vec<(Arc<str>, Want)> {
        let some = |(name, want): (&Arc<str>, &Want)| {
            (want.room > 0 || want.fresh).then(|| (name.clone(), want.clone()))
        };
        self.with(|q| q.iter().filter_map(some).collect())
    }
}

pub(super) struct Reader {
    pub(super) wants: Arc<Wants>,
    read: mpsc::Receiver<Result<Heard, Trouble>>,
    /// Until the first look: who only tries a broker takes nothing from whoever uses it.
    idle: Option<Task>,
    task: Option<JoinHandle<()>>,
}

impl Drop for Reader {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Reader {
    pub(super) fn new(conn: MultiplexedConnection, canary: Arc<str>, lineage: Arc<str>) -> Self {
        let wants = Arc::new(Wants::default());
        let (tx, read) = mpsc::channel(WAITING);
        let task = Task { conn, canary, lineage, wants: wants.clone(), tx, done: Vec::new() };
        Self { wants, read, idle: Some(task), task: None }
    }

    pub(super) async fn next(&mut self) -> Result<Heard, Trouble> {
        if let Some(task) = self.idle.take() {
            self.task = Some(tokio::spawn(task.run()));
        }
        let ended = || Err(Trouble::Broker("the connection has ended".to_owned()));
        self.read.recv().await.unwrap_or_else(ended)
    }

    /// Ends a blocking read, so that a new wish is heard at once.
    pub(super) async fn wake(
        &self,
        conn: &mut MultiplexedConnection,
        canary: &str,
    ) -> Result<(), RedisError> {
        if self.wants.blocked.load(Ordering::SeqCst) {
            cmd("XADD").arg(canary).arg("*").arg("wake").arg("1").query_async::<Value>(conn).await?;
        }
        Ok(())
    }
}

struct Task {
    conn: MultiplexedConnection,
    canary: Arc<str>,
    lineage: Arc<str>,
    wants: Arc<Wants>,
    tx: mpsc::Sender<Result<Heard, Trouble>>,
    /// Read, and needed no more: acknowledged with the next read.
    done: Vec<(Arc<str>, Vec<String>)>,
}

/// Nobody listens any more.
struct Gone;

impl Task {
    async fn run(mut self) {
        loop {
            match self.round().await {
                Ok(Ok(())) => {}
                Ok(Err(trouble)) => {
                    let _ = self.tx.send(Err(trouble)).await;
                    return;
                }
                Err(Gone) => return,
            }
        }
    }

    /// Reads what there is; when there is nothing, waits for it.
    async fn round(&mut self) -> Result<Result<(), Trouble>, Gone> {
        self.wants.blocked.store(true, Ordering::SeqCst);
        let wanted = self.wants.wanted();
        let answers = match self.look(&wanted).await {
            Ok(answers) => answers,
            Err(error) => return Ok(Err(lost(&error))),
        };
        let mut found = false;
        for ((queue, want), answer) in wanted.iter().zip(answers) {
            let came = self.came(queue, want, answer).await?;
            found |= came;
            if want.fresh {
                self.wants.settled(queue);
                found = true;
            }
        }
        if found || !self.done.is_empty() {
            return Ok(Ok(()));
        }
        match self.wait(&wanted).await {
            Ok(answer) => self.waited(&wanted, answer).await.map(Ok),
            Err(error) => Ok(Err(lost(&error))),
        }
    }

    /// One read per queue, none of which waits, behind the acknowledgements of the round before. Messages are read band by
    /// band: what is not wanted of a lower band stays, so that what comes later in a higher one still comes first.
    async fn look(&mut self, wanted: &[(Arc<str>, Want)]) -> Result<Vec<Value>, RedisError> {
        let first = self.look_once(wanted).await?;
        let mut answers = Vec::with_capacity(first.len());
        for ((_, want), answer) in wanted.iter().zip(first) {
            let mut all = list(answer);
            if want.streams.kind == QueueKind::Messages && !want.fresh {
                for key in &want.streams.keys[1..] {
                    let had: usize = all.iter().map(entry::count).sum();
                    let left = want.room.saturating_sub(had as u64).min(READ);
                    if left > 0 {
                        let read = read(std::iter::once(key), left, None, false);
                        all.extend(list(read.query_async(&mut self.conn).await?));
                    }
                }
            }
            answers.push(Value::Array(all));
        }
        Ok(answers)
    }

    async fn look_once(&mut self, wanted: &[(Arc<str>, Want)]) -> Result<Vec<Value>, RedisError> {
        if wanted.is_empty() && self.done.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipe = Pipeline::new();
        for (key, ids) in self.done.drain(..) {
            let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
            remove(&mut pipe, &key, &ids);
        }
        for (_, want) in wanted {
            let count = if want.fresh { LEFT } else { want.room.min(READ) };
            let keys = match want.streams.kind {
                QueueKind::Messages if !want.fresh => &want.streams.keys[..1],
                _ => &want.streams.keys[..],
            };
            pipe.add_command(read(keys.iter(), count, None, want.fresh));
        }
        pipe.query_async(&mut self.conn).await
    }

    async fn wait(&mut self, wanted: &[(Arc<str>, Want)]) -> Result<Value, RedisError> {
        let keys = wanted.iter().flat_map(|(_, want)| want.streams.keys.iter()).chain([&self.canary]);
        let answer = read(keys, 1, Some(BLOCK), false).query_async(&mut self.conn).await;
        self.wants.blocked.store(false, Ordering::SeqCst);
        answer
    }

    async fn waited(&mut self, wanted: &[(Arc<str>, Want)], answer: Value) -> Result<(), Gone> {
        for (key, entries) in entry::streams(answer) {
            if key == *self.canary {
                self.done.push((self.canary.clone(), entry::ids(entries)));
                self.send(Heard::Canary).await?;
                continue;
            }
            let owner = wanted.iter().find(|(_, want)| want.streams.keys.iter().any(|k| **k == *key));
            if let Some((queue, want)) = owner {
                let answer =
                    Value::Array(vec![Value::Array(vec![Value::BulkString(key.into_bytes()), entries])]);
                self.came(queue, want, answer).await?;
            }
        }
        Ok(())
    }

    /// Hands on what came of a queue. False: nothing did.
    async fn came(&mut self, queue: &Arc<str>, want: &Want, answer: Value) -> Result<bool, Gone> {
        let mut found = false;
        for (key, entries) in entry::streams(answer) {
            let Some(band) = Band::ALL.into_iter().find(|b| want.streams.key(*b) == key) else { continue };
            let ids = entry::ids(entries.clone());
            if ids.is_empty() {
                continue;
            }
            found = true;
            self.wants.took(queue, ids.len() as u64);
            match want.streams.kind {
                QueueKind::Jobs => {
                    self.done.push((want.streams.keys[band as usize].clone(), ids));
                    let hints = entry::hints(entries, band);
                    self.send(Heard::Hints(queue.clone(), hints)).await?;
                }
                QueueKind::Messages | QueueKind::Unset => {
                    let messages = entry::messages(entries, band, &self.lineage);
                    self.send(Heard::Messages(queue.clone(), messages)).await?;
                }
            }
        }
        Ok(found)
    }

    async fn send(&self, heard: Heard) -> Result<(), Gone> {
        self.tx.send(Ok(heard)).await.map_err(|_| Gone)
    }
}

fn list(value: Value) -> Vec<Value> {
    match value {
        Value::Array(list) => list,
        _ => Vec::new(),
    }
}

fn lost(error: &RedisError) -> Trouble {
    if error.code() == Some("NOGROUP") {
        return Trouble::Broker("what was kept there is gone: it was flushed, or restarted empty".to_owned());
    }
    broker(error)
}

/// `fresh`: what was handed to us before and never acknowledged; else what nobody has had.
fn read<'a>(
    keys: impl Iterator<Item = &'a Arc<str>>,
    count: u64,
    block: Option<Duration>,
    fresh: bool,
) -> Cmd {
    let mut read = cmd("XREADGROUP");
    read.arg("GROUP").arg(GROUP).arg(GROUP).arg("COUNT").arg(count);
    if let Some(block) = block {
        read.arg("BLOCK").arg(block.as_millis() as u64);
    }
    let keys: Vec<&str> = keys.map(|k| &**k).collect();
    let from = vec![if fresh { "0" } else { ">" }; keys.len()];
    read.arg("STREAMS").arg(keys).arg(from);
    read
}
