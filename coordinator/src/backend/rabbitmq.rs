//! RabbitMQ: one durable quorum queue per queue and band of priority, with documented names (docs/queues.md), so that any
//! AMQP 0-9-1 client can publish, consume and look. Every publish is confirmed by the server and mandatory; every delivery
//! is acknowledged by hand. Two connections: a server that runs out of memory or disk blocks those that publish, and nothing
//! else.
mod entry;
mod names;
mod queue;
mod reader;
mod wire;

use super::settings::{self, Settings};
use super::{Backend, Heard, Trouble};
use crate::orchestrator::capability;
use crate::orchestrator::link::{Hint, Incoming, Tag};
use crate::row::{MessageRow, QueueKind};
use futures_util::future::{join_all, try_join};
use futures_util::{Stream, StreamExt as _};
use lapin::options::{BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::protocol::AMQPErrorKind;
use lapin::types::{FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Confirmation, Connection, Consumer, ErrorKind, Event};
use names::Names;
use reader::{Command, Reader};
use reeve_protocol::text::Clean;
use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// For a connection.
const ANSWER: Duration = Duration::from_secs(3);
/// Commands that wait for the consuming side; whoever asks waits for it to catch up.
const COMMANDS: usize = 64;
/// Published at once; their confirms are awaited together.
const PUBLISH: usize = 1_000;
/// To say goodbye.
const GOODBYE: Duration = Duration::from_secs(1);

/// Why an answer comes back.
const NOBODY: &str = "the server sent it back: no queue takes it";

/// A connected RabbitMQ.
pub struct Rabbit {
    publishing: Arc<Connection>,
    consuming: Arc<Connection>,
    cuts: [wire::Cut; 2],
    channel: Channel,
    /// The server has refused something on the channel. A channel whose queue was full by a policy goes on being refused
    /// when the policy is taken away (seen with 3.10): a new one is not.
    is_refused: bool,
    events: Pin<Box<dyn Stream<Item = Event> + Send>>,
    canary: ShortString,
    kept: BTreeMap<Arc<str>, Names>,
    commands: mpsc::Sender<Command>,
    heard: mpsc::UnboundedReceiver<Result<Heard, Trouble>>,
    /// Heard while something else was awaited.
    ahead: VecDeque<Result<Heard, Trouble>>,
    prefix: String,
    lineage: Arc<str>,
    version: String,
}

/// What a server answered, as text from outside.
fn words(error: &lapin::Error) -> String {
    let text = match error.kind() {
        ErrorKind::ProtocolError(told) => told.get_message().to_string(),
        ErrorKind::IOError(told) => told.to_string(),
        _ => error.to_string(),
    };
    Clean::short(&text, 300).into_string()
}

fn broker(error: &lapin::Error) -> Trouble {
    Trouble::Broker(words(error))
}

/// Whether this server can be used: its name and version, and the first part of the version.
fn judge(product: &str, version: &str) -> Result<(String, u32), Trouble> {
    if product != "RabbitMQ" {
        let name = if product.is_empty() { "a server without a name" } else { product };
        return Err(Trouble::Broker(format!("it is {name}, not RabbitMQ")));
    }
    let mut parts = version.split('.').map(|part| part.parse::<u32>().ok());
    let (major, minor) = (parts.next().flatten().unwrap_or(0), parts.next().flatten().unwrap_or(0));
    if (major, minor) < (3, 8) {
        return Err(Trouble::Broker(format!("it is RabbitMQ {version}; quorum queues came with 3.8")));
    }
    Ok((format!("rabbitmq {version}"), major))
}

impl Backend for Rabbit {
    /// Seen with 3.10: a quorum queue that is asked while it recovers may get no leader, and then does not answer anybody
    /// before the server is started again. It has one about half a second after the server takes connections.
    const SETTLES: Duration = Duration::from_secs(2);

    async fn connect(settings: &Settings, lineage: &str) -> Result<Self, Trouble> {
        let (publishing, consuming) =
            try_join(wire::connect(settings, "publishing"), wire::connect(settings, "consuming")).await?;
        let cuts = [publishing.cut, consuming.cut];
        let parts = async {
            let (version, major) = judge(&publishing.product, &publishing.version)?;
            let channel = confirming(&publishing.connection).await?;
            let (canary, canaries) = nest(&consuming.connection).await.map_err(|e| broker(&e))?;
            Ok((version, major, channel, canary, canaries))
        };
        let (version, major, channel, canary, canaries) = match parts.await {
            Ok(parts) => parts,
            Err(trouble) => {
                for cut in &cuts {
                    cut.cut();
                }
                return Err(trouble);
            }
        };
        let events: Pin<Box<dyn Stream<Item = Event> + Send>> =
            Box::pin(publishing.connection.events_listener());
        let (publishing, consuming) = (Arc::new(publishing.connection), Arc::new(consuming.connection));
        let (commands, asked) = mpsc::channel(COMMANDS);
        let (tx, heard) = mpsc::unbounded_channel();
        let lineage: Arc<str> = lineage.into();
        let reader = Reader {
            connection: consuming.clone(),
            major,
            lineage: lineage.clone(),
            canaries,
            commands: asked,
            heard: tx,
            queues: BTreeMap::new(),
        };
        // It ends when the last command's sender is dropped.
        tokio::spawn(reader.run());
        let mut rabbit = Self {
            publishing,
            consuming,
            cuts,
            channel,
            is_refused: false,
            events,
            canary,
            kept: BTreeMap::new(),
            commands,
            heard,
            ahead: VecDeque::new(),
            prefix: settings.prefix.clone(),
            lineage,
            version,
        };
        // A server that blocks takes everything but what is published: it is of no use before it goes on.
        rabbit.canary().await?;
        Ok(rabbit)
    }

    fn version(&self) -> String {
        self.version.clone()
    }

    fn capabilities(&self) -> BTreeMap<String, String> {
        capability::RABBITMQ.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    async fn keep(&mut self, queue: &Arc<str>, kind: QueueKind) -> Result<bool, Trouble> {
        let names = Names::new(&self.prefix, queue, kind)?;
        if std::mem::take(&mut self.is_refused) {
            self.channel = confirming(&self.publishing).await?;
        }
        let is_new = self.ask(|answer| Command::Keep(queue.clone(), kind, names.clone(), answer)).await?;
        self.kept.insert(queue.clone(), names);
        Ok(is_new)
    }

    fn leave(&mut self, queue: &str) {
        self.kept.remove(queue);
        // Full: the connection is far behind, and the next wait for it ends it.
        let _ = self.commands.try_send(Command::Leave(queue.into()));
    }

    async fn abandon(&mut self, queue: &str) -> Result<(), Trouble> {
        self.ask(|answer| Command::Abandon(queue.into(), answer)).await
    }

    async fn hint(&mut self, queue: &str, hints: &[Hint]) -> Result<(), Trouble> {
        let names = self.names(queue)?;
        for some in hints.chunks(PUBLISH) {
            let all = some.iter().map(|hint| {
                let (text, properties) = entry::of_hint(hint);
                (names.of(hint.band), text.into_bytes(), properties)
            });
            self.confirmed(queue, all.collect()).await?;
        }
        Ok(())
    }

    async fn publish(&mut self, queue: &str, rows: &[MessageRow]) -> Result<(), Trouble> {
        let names = self.names(queue)?;
        for some in rows.chunks(PUBLISH) {
            let all = some.iter().map(|row| {
                let band = crate::orchestrator::link::Band::of(row.priority);
                (names.of(band), row.body.to_vec(), entry::of_message(row, &self.lineage))
            });
            let all = all.collect();
            self.confirmed(queue, all).await?;
        }
        Ok(())
    }

    async fn answer(&mut self, rows: &[MessageRow]) -> Result<(u64, String), Trouble> {
        let (mut refused, mut last) = (0, String::new());
        for some in rows.chunks(PUBLISH) {
            match self.answers(some).await? {
                Ok(0) => {}
                // An exchange that is not there, or not for us, ends the channel: each for itself, on a channel of its own.
                // What was taken above comes twice, as it may.
                _ => {
                    for row in some {
                        match self.answers(std::slice::from_ref(row)).await? {
                            Ok(0) => {}
                            Ok(_) => (refused, last) = (refused + 1, NOBODY.to_owned()),
                            Err(why) => (refused, last) = (refused + 1, why),
                        }
                    }
                }
            }
        }
        Ok((refused, last))
    }

    async fn taken(&mut self, queue: &str, tags: &[Tag]) -> Result<(), Trouble> {
        self.tell(Command::Taken(queue.into(), tags.to_vec())).await
    }

    async fn room(&mut self, queue: &str, more: u64) -> Result<(), Trouble> {
        if more == 0 {
            // Before anything that is published next: what is submitted to a paused queue lies there, all of it.
            return self.ask(|answer| Command::Stop(queue.into(), answer)).await;
        }
        self.tell(Command::Room(queue.into(), more)).await
    }

    async fn depth(&mut self, queue: &str) -> Result<(u64, u64), Trouble> {
        let (ready, out) = self.ask(|answer| Command::Depth(queue.into(), answer)).await?;
        // What the core has not seen yet lies there as far as it knows.
        while let Ok(heard) = self.heard.try_recv() {
            self.ahead.push_back(heard);
        }
        let of_queue = |heard: &Result<Heard, Trouble>| match heard {
            Ok(Heard::Messages(name, some)) if **name == *queue => some.len() as u64,
            _ => 0,
        };
        let unseen: u64 = self.ahead.iter().map(of_queue).sum();
        Ok((ready + unseen, out.saturating_sub(unseen)))
    }

    async fn peek(&mut self, _: &str, _: usize) -> Result<Vec<Incoming>, Trouble> {
        Err(Trouble::Cannot(capability::RABBITMQ[6].1))
    }

    async fn purge(&mut self, queue: &str) -> Result<u64, Trouble> {
        self.ask(|answer| Command::Purge(queue.into(), answer)).await
    }

    async fn canary(&mut self) -> Result<(), Trouble> {
        let (nest, properties) = (self.canary.clone(), BasicProperties::default());
        self.confirmed("", vec![(nest, b"canary".to_vec(), properties)]).await
    }

    async fn next(&mut self) -> Result<Heard, Trouble> {
        if let Some(heard) = self.ahead.pop_front() {
            return heard;
        }
        tokio::select! {
            heard = self.heard.recv() => heard.unwrap_or_else(|| Err(ended())),
            trouble = wrong(&mut self.events) => Err(trouble),
        }
    }
}

/// A channel on which what is published is confirmed.
async fn confirming(connection: &Connection) -> Result<Channel, Trouble> {
    let channel = connection.create_channel().await.map_err(|e| broker(&e))?;
    channel.confirm_select(ConfirmSelectOptions::default()).await.map_err(|e| broker(&e))?;
    Ok(channel)
}

fn ended() -> Trouble {
    Trouble::Broker("the connection has ended".to_owned())
}

/// Something that ends a publishing connection's use.
async fn wrong(events: &mut (impl Stream<Item = Event> + Unpin)) -> Trouble {
    loop {
        match events.next().await {
            None => return ended(),
            // Only a channel has ended: whoever uses it hears that there.
            Some(Event::Error(error)) if is_of_a_channel(&error) => {}
            Some(Event::Error(error)) => return broker(&error),
            Some(Event::ConnectionBlocked(why)) => {
                let why = Clean::short(&why, 200);
                return Trouble::Broker(format!(
                    "it takes nothing, because it is {why} (connection.blocked)"
                ));
            }
            Some(_) => {}
        }
    }
}

fn is_of_a_channel(error: &lapin::Error) -> bool {
    matches!(error.kind(), ErrorKind::ProtocolError(e) if matches!(e.kind(), AMQPErrorKind::Soft(_)))
}

/// A queue of this connection alone, to hear ourselves: nothing is left of it.
async fn nest(connection: &Connection) -> lapin::Result<(ShortString, Consumer)> {
    let channel = connection.create_channel().await?;
    let own = QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
    let queue = channel.queue_declare("".into(), own, FieldTable::default()).await?;
    let name = queue.name().clone();
    let taken = BasicConsumeOptions { no_ack: true, exclusive: true, ..BasicConsumeOptions::default() };
    let canaries = channel.basic_consume(name.clone(), "".into(), taken, FieldTable::default()).await?;
    Ok((name, canaries))
}

impl Rabbit {
    fn names(&self, queue: &str) -> Result<Names, Trouble> {
        let kept = self.kept.get(queue).cloned();
        kept.ok_or_else(|| Trouble::Queue(queue.into(), "the queue is not kept there yet".to_owned()))
    }

    async fn tell(&mut self, command: Command) -> Result<(), Trouble> {
        self.commands.send(command).await.map_err(|_| ended())
    }

    async fn ask<T>(
        &mut self,
        command: impl FnOnce(oneshot::Sender<Result<T, Trouble>>) -> Command + Send,
    ) -> Result<T, Trouble> {
        let (tx, answer) = oneshot::channel();
        self.tell(command(tx)).await?;
        answer.await.map_err(|_| ended())?
    }

    /// Publishes answers on a channel of their own. `Ok`: how many the server sent back; `Err`: why it ended the channel.
    async fn answers(&mut self, rows: &[MessageRow]) -> Result<Result<u64, String>, Trouble> {
        let (connection, lineage, events) = (self.publishing.clone(), self.lineage.clone(), &mut self.events);
        let publishing = async {
            let channel = connection.create_channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
            let each = rows.iter().filter_map(|row| {
                let (exchange, key, properties) = entry::of_answer(row, &lineage)?;
                Some(channel.basic_publish(exchange, key, options, &row.body, properties))
            });
            let mut confirms = Vec::with_capacity(rows.len());
            for sent in join_all(each).await {
                confirms.push(sent?);
            }
            let mut back = 0;
            for confirmation in join_all(confirms).await {
                back += u64::from(!matches!(confirmation?, Confirmation::Ack(None)));
            }
            // Nothing is left to be told on it.
            drop(channel.close(200, "done".into()).await);
            Ok::<u64, lapin::Error>(back)
        };
        let done = tokio::select! {
            done = publishing => done,
            trouble = wrong(events) => return Err(trouble),
        };
        match done {
            Ok(back) => Ok(Ok(back)),
            Err(error) if connection.status().connected() => Ok(Err(words(&error))),
            Err(error) => Err(broker(&error)),
        }
    }

    /// Publishes, in this order, and waits until the server has all of it.
    async fn confirmed(
        &mut self,
        queue: &str,
        messages: Vec<(ShortString, Vec<u8>, BasicProperties)>,
    ) -> Result<(), Trouble> {
        let (channel, events) = (&self.channel, &mut self.events);
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let publishing = async {
            let each = messages.iter().map(|(name, body, properties)| {
                channel.basic_publish("".into(), name.clone(), options, body, properties.clone())
            });
            let mut confirms = Vec::with_capacity(messages.len());
            for sent in join_all(each).await {
                confirms.push(sent.map_err(|e| broker(&e))?);
            }
            for confirmation in join_all(confirms).await {
                refused(queue, confirmation.map_err(|e| broker(&e))?)?;
            }
            Ok(())
        };
        let done = tokio::select! {
            done = publishing => done,
            trouble = wrong(events) => Err(trouble),
        };
        self.is_refused |= matches!(done, Err(Trouble::Queue(..)));
        done
    }
}

/// What a server does not take.
fn refused(queue: &str, confirmation: Confirmation) -> Result<(), Trouble> {
    match confirmation {
        Confirmation::Ack(None) => Ok(()),
        Confirmation::Ack(Some(back)) | Confirmation::Nack(Some(back)) => {
            let why = Clean::short(back.reply_text.as_str(), 100);
            let name = Clean::short(back.delivery.routing_key.as_str(), 255);
            Err(Trouble::Queue(queue.into(), format!("published to {name}; the server sent it back: {why}")))
        }
        Confirmation::Nack(None) => {
            let why = "the server refused what was published (basic.nack): a length limit set by policy, or no quorum";
            Err(Trouble::Queue(queue.into(), why.to_owned()))
        }
        Confirmation::NotRequested => Err(Trouble::Broker("the server confirms nothing".to_owned())),
    }
}

impl Drop for Rabbit {
    fn drop(&mut self) {
        let (publishing, consuming) = (self.publishing.clone(), self.consuming.clone());
        let cuts = self.cuts.clone();
        let goodbye = async move {
            let both = async {
                let one = publishing.close(200, "OK".into());
                let _ = futures_util::future::join(one, consuming.close(200, "OK".into())).await;
            };
            let _ = tokio::time::timeout(GOODBYE, both).await;
            cuts.iter().for_each(wire::Cut::cut);
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(goodbye)),
            Err(_) => self.cuts.iter().for_each(wire::Cut::cut),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_cannot_be_used_says_why() {
        assert_eq!(judge("RabbitMQ", "3.10.8").unwrap(), ("rabbitmq 3.10.8".to_owned(), 3));
        assert_eq!(judge("RabbitMQ", "4.2.0-rc.1").unwrap().1, 4);
        for (product, version, wanted) in
            [("LavinMQ", "2.0", "not RabbitMQ"), ("", "", "without a name"), ("RabbitMQ", "3.7.9", "3.8")]
        {
            let why = judge(product, version).unwrap_err().to_string();
            assert!(why.contains(wanted), "{why}");
        }
    }

    #[test]
    fn what_is_not_taken_is_about_its_queue() {
        assert_eq!(refused("q", Confirmation::Ack(None)), Ok(()));
        let Err(Trouble::Queue(queue, why)) = refused("q", Confirmation::Nack(None)) else { panic!() };
        assert!(&*queue == "q" && why.contains("basic.nack"), "{why}");
        assert!(matches!(refused("q", Confirmation::NotRequested), Err(Trouble::Broker(_))));
    }
}
