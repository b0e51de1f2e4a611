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
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions,
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
        self.consume(&Band::ALL, self.room.min(most)).await
    }

    /// Ends all consumers; what came meanwhile is given.
    pub(super) async fn cancel(&mut self) -> Result<Vec<(Band, Vec<Delivery>)>, Trouble> {
        let mut late = Vec::new();
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

    /// These are in the store. Those of an earlier channel are nobody's any more: they come again, and are known.
    pub(super) async fn acknowledge(&mut self, tags: &[Tag]) -> Result<(), Trouble> {
        let mut tags: Vec<u64> = tags.iter().filter_map(|tag| entry::tag_of(tag, &self.nonce)).collect();
        tags.retain(|tag| self.unacknowledged.remove(tag));
        tags.sort_unstable();
        let Some(last) = tags.last().copied() else { return Ok(()) };
        if self.unacknowledged.first().is_none_or(|first| *first > last) {
            let all = BasicAckOptions { multiple: true };
            return self.channel.basic_ack(last, all).await.map_err(|e| broker(&e));
        }
        acknowledge(&self.channel, &tags).await
    }
}
