//! One queue on the consuming side: its channel, its consumers, what was taken of it and is not acknowledged.
use super::entry;
use super::names::Names;
use super::reader::acknowledge;
use super::{Trouble, broker};
use crate::orchestrator::link::{Band, PREFETCH, Tag};
use crate::row::QueueKind;
use futures_util::StreamExt as _;
use futures_util::future::try_join_all;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicQosOptions, BasicRecoverOptions,
    QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{Channel, Consumer};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::time::Instant;

/// Unacknowledged hints of one band: what a gap is measured by.
pub(super) const HINTS_AHEAD: u64 = PREFETCH;
/// Unacknowledged messages of one consumer. Each consumer starts with no more than there is room for.
pub(super) const MESSAGES_AHEAD: u64 = 1_000;

/// Channels were opened so far: the numbers of deliveries mean something on their own channel only.
static CHANNELS: AtomicU64 = AtomicU64::new(0);

/// A number for a channel that no channel has, nor had in an earlier life of the coordinator.
fn nonce() -> String {
    let life = std::process::id();
    let began =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_nanos();
    format!("{began:x}-{life}-{}", CHANNELS.fetch_add(1, Ordering::Relaxed))
}

pub(super) struct Kept {
    pub(super) kind: QueueKind,
    pub(super) names: Names,
    pub(super) channel: Channel,
    pub(super) nonce: String,
    /// By band.
    pub(super) consumers: [Option<Consumer>; 3],
    /// So many more may come.
    pub(super) room: u64,
    /// So many were counted in the one band that is being read.
    pub(super) expected: Option<u64>,
    /// When something came last.
    pub(super) since: Instant,
    pub(super) unacknowledged: BTreeSet<u64>,
    /// In the store, and acknowledged once what was counted has come: a consumer of which so much is unacknowledged gets no
    /// more, and can be cancelled without losing sight of anything.
    deferred: Vec<u64>,
    /// Something may have come behind the end of a consumer: the server sends what was on its way, the client drops it.
    pub(super) is_dirty: bool,
    /// The server numbers what it sends on a channel without gaps: from this number on, so many were seen, up to that one.
    seen: Option<(u64, u64, u64)>,
    /// Hints up to this number have been acknowledged with one word, whichever band they came from.
    covered: u64,
}

impl Kept {
    pub(super) fn new(kind: QueueKind, names: Names, channel: Channel) -> Self {
        Self {
            kind,
            names,
            channel,
            nonce: nonce(),
            consumers: [None, None, None],
            room: 0,
            expected: None,
            since: Instant::now(),
            unacknowledged: BTreeSet::new(),
            deferred: Vec::new(),
            is_dirty: false,
            seen: Some((0, 0, 0)),
            covered: 0,
        }
    }

    pub(super) fn is_consuming(&self) -> bool {
        self.consumers.iter().any(Option::is_some)
    }

    /// Since when it waits for what was counted.
    pub(super) fn stalls(&self) -> Option<Instant> {
        self.expected.filter(|_| self.is_consuming()).map(|_| self.since)
    }

    /// What lies ready, by band.
    pub(super) async fn ready(&self) -> Result<Vec<u64>, Trouble> {
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let declares =
            Band::ALL.map(|b| self.channel.queue_declare(self.names.of(b), passive, FieldTable::default()));
        let told = try_join_all(declares).await.map_err(|e| broker(&e))?;
        Ok(told.iter().map(|queue| u64::from(queue.message_count())).collect())
    }

    /// Consumes these bands, with so many ahead of each.
    pub(super) async fn consume(&mut self, bands: &[Band], ahead: u64) -> Result<(), Trouble> {
        let ahead = u16::try_from(ahead.max(1)).unwrap_or(u16::MAX);
        self.channel.basic_qos(ahead, BasicQosOptions { global: false }).await.map_err(|e| broker(&e))?;
        let options = BasicConsumeOptions::default();
        for band in bands {
            if self.consumers[*band as usize].is_some() {
                continue;
            }
            let name = self.names.of(*band);
            let consumer = self.channel.basic_consume(name, "".into(), options, FieldTable::default()).await;
            self.consumers[*band as usize] = Some(consumer.map_err(|e| broker(&e))?);
        }
        self.since = Instant::now();
        Ok(())
    }

    /// Reads the first band that holds something; waits on all when none does.
    pub(super) async fn advance(&mut self, most: u64) -> Result<(), Trouble> {
        let ready = self.ready().await?;
        let first = Band::ALL.into_iter().zip(ready).find(|(_, n)| *n > 0);
        if let Some((band, n)) = first {
            let n = n.min(self.room).min(most);
            self.expected = Some(n);
            return self.consume(&[band], n).await;
        }
        self.wait(most).await
    }

    /// A consumer waits on every band.
    pub(super) async fn wait(&mut self, most: u64) -> Result<(), Trouble> {
        self.expected = None;
        self.flush().await?;
        self.consume(&Band::ALL, self.room.min(most)).await
    }

    /// Ends all consumers; what came meanwhile is given.
    pub(super) async fn cancel(&mut self) -> Result<Vec<(Band, Vec<Delivery>)>, Trouble> {
        let mut late = Vec::new();
        // Only a consumer that has all it may have is known to have nothing on its way.
        self.is_dirty |= self.expected != Some(0) || self.consumers.iter().flatten().count() > 1;
        self.expected = None;
        for band in Band::ALL {
            let Some(mut consumer) = self.consumers[band as usize].take() else { continue };
            let cancelled = self.channel.basic_cancel(consumer.tag(), BasicCancelOptions::default()).await;
            cancelled.map_err(|e| broker(&e))?;
            let mut deliveries = Vec::new();
            // It ends behind the last delivery.
            while let Some(delivery) = consumer.next().await {
                deliveries.push(delivery.map_err(|e| broker(&e))?);
            }
            if !deliveries.is_empty() {
                late.push((band, deliveries));
            }
        }
        Ok(late)
    }

    /// These came.
    pub(super) fn saw(&mut self, tags: &[u64]) {
        let (Some(first), Some(last)) = (tags.iter().min(), tags.iter().max()) else { return };
        if self.seen.is_none() && self.expected.is_some() {
            self.seen = Some((first - 1, 0, 0));
        }
        if let Some((_, n, top)) = &mut self.seen {
            (*n, *top) = (*n + tags.len() as u64, (*top).max(*last));
        }
    }

    /// Whether an acknowledgement of everything up to a number covers nothing that was dropped unseen.
    pub(super) fn is_whole(&self) -> bool {
        !self.is_dirty || self.seen.is_some_and(|(from, n, top)| from + n == top)
    }

    /// Acknowledges hints as they come. One word covers what has come of other bands besides: it is in this process
    /// already, and is not acknowledged again when it is looked at, for the server ends the channel over that.
    pub(super) async fn acknowledge_hints(&mut self, tags: &[u64]) -> Result<(), Trouble> {
        let open: Vec<u64> = tags.iter().copied().filter(|tag| *tag > self.covered).collect();
        let Some(last) = open.iter().max().copied() else { return Ok(()) };
        if !self.is_whole() {
            return acknowledge(&self.channel, &open).await;
        }
        self.covered = last;
        let all = BasicAckOptions { multiple: true };
        self.channel.basic_ack(last, all).await.map_err(|e| broker(&e))
    }

    /// How many were handed out by the server and are not in the store.
    pub(super) fn coming(&self) -> u64 {
        self.unacknowledged.len().saturating_sub(self.deferred.len()) as u64
    }

    /// These are in the store. Those of an earlier channel are nobody's any more: they come again, and are known.
    pub(super) async fn acknowledge(&mut self, tags: &[Tag]) -> Result<(), Trouble> {
        let tags = tags.iter().filter_map(|tag| entry::tag_of(tag, &self.nonce));
        let known: Vec<u64> = tags.filter(|tag| self.unacknowledged.contains(tag)).collect();
        self.deferred.extend(known);
        if self.expected.is_some() && self.is_consuming() { Ok(()) } else { self.flush().await }
    }

    async fn flush(&mut self) -> Result<(), Trouble> {
        let mut tags = std::mem::take(&mut self.deferred);
        tags.retain(|tag| self.unacknowledged.remove(tag));
        tags.sort_unstable();
        let Some(last) = tags.last().copied() else { return Ok(()) };
        // One word for all of them: a quorum queue that gets many lets what is given back wait behind them.
        if self.is_whole() && self.unacknowledged.first().is_none_or(|first| *first > last) {
            let all = BasicAckOptions { multiple: true };
            return self.channel.basic_ack(last, all).await.map_err(|e| broker(&e));
        }
        acknowledge(&self.channel, &tags).await
    }

    /// After a cancel: acknowledges what can be, and gives back what may have been dropped unseen. It goes to the front of
    /// its queue, so that nothing overtakes it. False: not yet, for then everything else has to be acknowledged.
    pub(super) async fn clean_up(&mut self) -> Result<bool, Trouble> {
        self.flush().await?;
        if self.is_dirty && self.unacknowledged.is_empty() {
            let requeue = BasicRecoverOptions { requeue: true };
            self.channel.basic_recover(requeue).await.map_err(|e| broker(&e))?;
            (self.is_dirty, self.seen) = (false, None);
        }
        Ok(!self.is_dirty)
    }
}
