//! The consuming side: one task owns the consuming connection, so that whatever is asked of it happens in one order, and
//! nobody who is interrupted loses a delivery.
//!
//! Nothing is taken but what there is room for. Hints are acknowledged as they come. Messages are taken band by band while
//! some lie there; when none does, a consumer waits on every band. A consumer that nobody needs is cancelled, so that other
//! programs have what reeve does not want.
use super::entry;
use super::names::{self, Names};
use super::queue::{HINTS_AHEAD, Kept, MESSAGES_AHEAD};
use super::{Heard, Trouble, broker, words};
use crate::orchestrator::link::{Band, Tag};
use crate::row::QueueKind;
use futures_util::StreamExt as _;
use futures_util::future::{join_all, try_join_all};
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, QueueDeleteOptions, QueuePurgeOptions};
use lapin::{Connection, Consumer};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

/// Deliveries taken at once.
const BATCH: usize = 512;
/// What was counted as lying there comes within so long, or somebody else had it.
const STALL: Duration = Duration::from_secs(1);

type Answer<T> = oneshot::Sender<Result<T, Trouble>>;

/// What is asked of the task.
pub(super) enum Command {
    Keep(Arc<str>, QueueKind, Names, Answer<bool>),
    Leave(Arc<str>),
    Room(Arc<str>, u64),
    /// No more room; answered when nothing that is published from then on comes.
    Stop(Arc<str>, Answer<()>),
    Taken(Arc<str>, Vec<Tag>),
    /// Removes the queues of its hints there, with what was handed out of them.
    Abandon(Arc<str>, Answer<()>),
    /// How many lie there, and how many were handed out and are not acknowledged.
    Depth(Arc<str>, Answer<(u64, u64)>),
    Purge(Arc<str>, Answer<u64>),
}

pub(super) struct Reader {
    pub(super) connection: Arc<Connection>,
    pub(super) major: u32,
    pub(super) lineage: Arc<str>,
    pub(super) canaries: Consumer,
    pub(super) commands: mpsc::Receiver<Command>,
    /// Without a bound of its own: no more comes than there is room for, and what is on its way when there is none.
    pub(super) heard: mpsc::UnboundedSender<Result<Heard, Trouble>>,
    pub(super) queues: BTreeMap<Arc<str>, Kept>,
}

/// What happened.
enum Event {
    Command(Option<Command>),
    Canary(Result<(), Trouble>),
    Came(Arc<str>, Band, Result<Vec<Delivery>, Trouble>),
    Stalled,
}

impl Reader {
    /// Until nobody asks any more, or the connection is of no use.
    pub(super) async fn run(mut self) {
        loop {
            let event = self.event().await;
            let done = match event {
                Event::Command(None) => return,
                Event::Command(Some(command)) => self.command(command).await,
                Event::Canary(came) => came.map(|()| self.say(Heard::Canary)),
                Event::Came(queue, band, came) => match came {
                    Ok(deliveries) => self.came(&queue, band, deliveries).await,
                    Err(trouble) => Err(trouble),
                },
                Event::Stalled => self.stalled().await,
            };
            if let Err(trouble) = done {
                let _ = self.heard.send(Err(trouble));
                return;
            }
        }
    }

    fn say(&self, heard: Heard) {
        // Nobody listens: the next command says so.
        let _ = self.heard.send(Ok(heard));
    }

    async fn event(&mut self) -> Event {
        let stalls = self.queues.values().filter_map(Kept::stalls).min();
        let (queues, canaries) = (&mut self.queues, &mut self.canaries);
        tokio::select! {
            biased;
            command = self.commands.recv() => Event::Command(command),
            canary = canaries.next() => Event::Canary(match canary {
                Some(Ok(_)) => Ok(()),
                Some(Err(error)) => Err(broker(&error)),
                None => Err(Trouble::Broker("the connection has ended".to_owned())),
            }),
            (queue, band, came) = poll_fn(|cx| poll(queues, cx)) => Event::Came(queue, band, came),
            () = tokio::time::sleep_until(stalls.unwrap_or_else(Instant::now) + STALL), if stalls.is_some() => Event::Stalled,
        }
    }

    async fn command(&mut self, command: Command) -> Result<(), Trouble> {
        match command {
            Command::Keep(queue, kind, names, answer) => {
                let kept = self.keep(&queue, kind, names).await;
                let _ = answer.send(kept);
                Ok(())
            }
            Command::Leave(queue) => {
                // What was taken and not acknowledged goes back with its channel.
                self.queues.remove(&queue);
                Ok(())
            }
            Command::Room(queue, more) => {
                let Some(kept) = self.queues.get_mut(&queue) else { return Ok(()) };
                kept.room += more;
                self.settle(&queue).await
            }
            Command::Stop(queue, answer) => {
                if let Some(kept) = self.queues.get_mut(&queue) {
                    kept.room = 0;
                    self.settle(&queue).await?;
                }
                let _ = answer.send(Ok(()));
                Ok(())
            }
            Command::Taken(queue, tags) => {
                let Some(kept) = self.queues.get_mut(&queue) else { return Ok(()) };
                kept.acknowledge(&tags).await?;
                self.settle(&queue).await
            }
            Command::Abandon(queue, answer) => {
                let Some(kept) = self.queues.remove(&queue) else {
                    let _ = answer.send(Err(not_kept(&queue)));
                    return Ok(());
                };
                let gone = Band::ALL
                    .map(|b| kept.channel.queue_delete(kept.names.of(b), QueueDeleteOptions::default()));
                answered(answer, try_join_all(gone).await.map(drop))
            }
            Command::Depth(queue, answer) => self.depth(&queue, answer).await,
            Command::Purge(queue, answer) => {
                let Some(kept) = self.queues.get(&queue) else {
                    let _ = answer.send(Err(not_kept(&queue)));
                    return Ok(());
                };
                let purges = Band::ALL
                    .map(|b| kept.channel.queue_purge(kept.names.of(b), QueuePurgeOptions::default()));
                answered(answer, try_join_all(purges).await.map(|n| n.into_iter().map(u64::from).sum()))
            }
        }
    }

    async fn keep(&mut self, queue: &Arc<str>, kind: QueueKind, names: Names) -> Result<bool, Trouble> {
        let is_new = names::declare(&self.connection, queue, &names, self.major).await?;
        let channel = self.connection.create_channel().await.map_err(|e| broker(&e))?;
        self.queues.insert(queue.clone(), Kept::new(kind, names, channel));
        Ok(is_new)
    }

    /// Two rounds: what the server had handed out before the first is here after the second.
    async fn depth(&mut self, queue: &Arc<str>, answer: Answer<(u64, u64)>) -> Result<(), Trouble> {
        let Some(kept) = self.queues.get(queue) else {
            let _ = answer.send(Err(not_kept(queue)));
            return Ok(());
        };
        let mut ready = kept.ready().await?;
        if kept.is_consuming() {
            ready = kept.ready().await?;
            let came = poll_fn(|cx| Poll::Ready(poll_ready(&mut self.queues, queue, cx))).await;
            for (band, deliveries) in came? {
                self.came(queue, band, deliveries).await?;
            }
        }
        let out = self.queues.get(queue).map_or(0, Kept::coming);
        let _ = answer.send(Ok((ready.iter().sum(), out)));
        Ok(())
    }

    /// Hands on what came, and goes on.
    async fn came(&mut self, queue: &Arc<str>, band: Band, deliveries: Vec<Delivery>) -> Result<(), Trouble> {
        self.took(queue, band, deliveries).await?;
        self.settle(queue).await
    }

    async fn took(&mut self, queue: &Arc<str>, band: Band, deliveries: Vec<Delivery>) -> Result<(), Trouble> {
        let Some(kept) = self.queues.get_mut(queue) else { return Ok(()) };
        let n = deliveries.len() as u64;
        let tags: Vec<u64> = deliveries.iter().map(|d| d.delivery_tag).collect();
        kept.saw(&tags);
        kept.room = kept.room.saturating_sub(n);
        kept.expected = kept.expected.map(|e| e.saturating_sub(n));
        kept.since = Instant::now();
        if kept.kind == QueueKind::Jobs {
            kept.acknowledge_hints(&tags).await?;
            let hints = deliveries.iter().filter_map(|d| entry::hint(d, band)).collect();
            self.say(Heard::Hints(queue.clone(), hints));
        } else {
            kept.unacknowledged.extend(tags);
            let nonce = kept.nonce.as_str();
            let messages =
                deliveries.into_iter().map(|d| entry::message(d, band, nonce, &self.lineage)).collect();
            self.say(Heard::Messages(queue.clone(), messages));
        }
        Ok(())
    }

    /// Makes the consumers of a queue what they should be now.
    async fn settle(&mut self, queue: &Arc<str>) -> Result<(), Trouble> {
        loop {
            let Some(kept) = self.queues.get_mut(queue) else { return Ok(()) };
            // What was counted is let come, wanted or not: given back in between, it might be overtaken.
            let over = kept.expected.map_or(kept.room == 0, |expected| expected == 0);
            if over && kept.is_consuming() {
                let late = kept.cancel().await?;
                for (band, deliveries) in late {
                    self.took(queue, band, deliveries).await?;
                }
                continue;
            }
            if kept.is_consuming() || !kept.clean_up().await? || kept.room == 0 {
                return Ok(());
            }
            return match kept.kind {
                QueueKind::Jobs => kept.consume(&Band::ALL, HINTS_AHEAD).await,
                QueueKind::Messages | QueueKind::Unset => kept.advance(MESSAGES_AHEAD).await,
            };
        }
    }

    /// Somebody else had what was counted: a consumer waits on every band, if there is room.
    async fn stalled(&mut self) -> Result<(), Trouble> {
        let stalls = |kept: &Kept| kept.stalls().is_some_and(|since| since.elapsed() >= STALL);
        let stalled = self.queues.iter().filter(|(_, kept)| stalls(kept)).map(|(name, _)| name.clone());
        for name in stalled.collect::<Vec<_>>() {
            match self.queues.get_mut(&name) {
                Some(kept) if kept.room > 0 => kept.wait(MESSAGES_AHEAD).await?,
                Some(kept) => kept.expected = None,
                None => {}
            }
            self.settle(&name).await?;
        }
        Ok(())
    }
}

fn not_kept(queue: &Arc<str>) -> Trouble {
    Trouble::Queue(queue.clone(), "the queue is not kept there yet".to_owned())
}

/// Answers whoever asked; what went wrong ends the connection as well, for the channel is gone.
fn answered<T>(answer: Answer<T>, result: Result<T, lapin::Error>) -> Result<(), Trouble> {
    let result = result.map_err(|e| broker(&e));
    let ends = result.as_ref().err().cloned();
    let _ = answer.send(result);
    ends.map_or(Ok(()), Err)
}

/// What came of a queue's band, or why nothing will.
type Came = (Arc<str>, Band, Result<Vec<Delivery>, Trouble>);

/// The first of the consumers that has something.
fn poll(queues: &mut BTreeMap<Arc<str>, Kept>, cx: &mut Context<'_>) -> Poll<Came> {
    for (queue, kept) in queues {
        for band in Band::ALL {
            if let Some(came) = take(queue, kept, band, cx) {
                return Poll::Ready((queue.clone(), band, came));
            }
        }
    }
    Poll::Pending
}

/// Everything that has come of one queue, by band.
fn poll_ready(
    queues: &mut BTreeMap<Arc<str>, Kept>,
    queue: &Arc<str>,
    cx: &mut Context<'_>,
) -> Result<Vec<(Band, Vec<Delivery>)>, Trouble> {
    let Some(kept) = queues.get_mut(queue) else { return Ok(Vec::new()) };
    let mut all = Vec::new();
    for band in Band::ALL {
        while let Some(came) = take(queue, kept, band, cx) {
            all.push((band, came?));
        }
    }
    Ok(all)
}

fn take(
    queue: &Arc<str>,
    kept: &mut Kept,
    band: Band,
    cx: &mut Context<'_>,
) -> Option<Result<Vec<Delivery>, Trouble>> {
    let consumer = kept.consumers[band as usize].as_mut()?;
    let mut deliveries = Vec::new();
    while deliveries.len() < BATCH {
        match consumer.poll_next_unpin(cx) {
            Poll::Ready(Some(Ok(delivery))) => deliveries.push(delivery),
            Poll::Ready(Some(Err(error))) if deliveries.is_empty() => {
                return Some(Err(Trouble::Broker(format!("reading {queue}: {}", words(&error)))));
            }
            Poll::Ready(None) if deliveries.is_empty() => {
                let name = kept.names.of(band);
                let why =
                    format!("the server cancelled the consumer of {name}: was the queue deleted there?");
                return Some(Err(Trouble::Broker(why)));
            }
            _ => break,
        }
    }
    (!deliveries.is_empty()).then_some(Ok(deliveries))
}

/// Acknowledges one by one, without waiting in between.
pub(super) async fn acknowledge(channel: &lapin::Channel, tags: &[u64]) -> Result<(), Trouble> {
    let each = tags.iter().map(|tag| channel.basic_ack(*tag, BasicAckOptions::default()));
    for done in join_all(each).await {
        done.map_err(|e| broker(&e))?;
    }
    Ok(())
}
