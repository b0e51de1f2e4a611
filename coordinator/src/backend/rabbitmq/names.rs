//! Queues at a RabbitMQ: their documented names, and how they are declared. One durable quorum queue per queue and band of
//! priority: quorum queues before 4.0 have no priorities, and after it only two.
use super::{Trouble, words};
use crate::orchestrator::link::Band;
use crate::row::QueueKind;
use lapin::options::QueueDeclareOptions;
use lapin::protocol::AMQPErrorKind;
use lapin::protocol::AMQPSoftError;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, Connection, ErrorKind};
use std::sync::Arc;

/// The longest name that AMQP carries.
const LONGEST: usize = 255;

/// The names of a queue's queues, by band.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Names([ShortString; 3]);

impl Names {
    /// The same names as on Redis.
    pub(super) fn new(prefix: &str, queue: &Arc<str>, kind: QueueKind) -> Result<Self, Trouble> {
        let word = match kind {
            QueueKind::Jobs => "jobs",
            QueueKind::Messages | QueueKind::Unset => "q",
        };
        let base = format!("{prefix}:{word}:{queue}");
        let name = |name: String| {
            if name.len() > LONGEST {
                let why = format!("its name there would have {} bytes; AMQP carries {LONGEST}", name.len());
                return Err(Trouble::Queue(queue.clone(), why));
            }
            Ok(ShortString::from(name))
        };
        Ok(Self([name(format!("{base}:high"))?, name(base.clone())?, name(format!("{base}:low"))?]))
    }

    pub(super) fn of(&self, band: Band) -> ShortString {
        self.0[band as usize].clone()
    }
}

/// Ways to declare: the first for what is new, any for what is there. A limit of deliveries is set aside where a server has
/// one unless told otherwise (from 4.0 on); a queue that an older server made has no such argument.
pub(super) fn arguments(major: u32) -> Vec<FieldTable> {
    let mut plain = FieldTable::default();
    plain.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    if major < 4 {
        return vec![plain];
    }
    let mut unlimited = plain.clone();
    unlimited.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(-1));
    vec![unlimited, plain]
}

fn is_soft(error: &lapin::Error, soft: AMQPSoftError) -> bool {
    matches!(error.kind(), ErrorKind::ProtocolError(e) if *e.kind() == AMQPErrorKind::Soft(soft))
}

/// Declares every band. True: one of them was not there before.
pub(super) async fn declare(
    connection: &Connection,
    queue: &Arc<str>,
    names: &Names,
    major: u32,
) -> Result<bool, Trouble> {
    let mut is_new = false;
    for band in Band::ALL {
        is_new |= declare_one(connection, queue, names.of(band), major).await?;
    }
    Ok(is_new)
}

async fn open(connection: &Connection) -> Result<Channel, Trouble> {
    connection.create_channel().await.map_err(|e| Trouble::Broker(words(&e)))
}

/// Each try on a channel of its own: a refusal closes it.
async fn declare_one(
    connection: &Connection,
    queue: &Arc<str>,
    name: ShortString,
    major: u32,
) -> Result<bool, Trouble> {
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let channel = open(connection).await?;
    let is_new = match channel.queue_declare(name.clone(), passive, FieldTable::default()).await {
        Ok(_) => false,
        Err(error) if is_soft(&error, AMQPSoftError::NOTFOUND) => true,
        Err(error) => return Err(refused(queue, &name, &error)),
    };
    let mut first = None;
    for table in arguments(major) {
        let channel = open(connection).await?;
        let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        match channel.queue_declare(name.clone(), durable, table).await {
            Ok(_) => return Ok(is_new),
            Err(error) if is_soft(&error, AMQPSoftError::PRECONDITIONFAILED) => {
                first.get_or_insert(error);
            }
            Err(error) => return Err(refused(queue, &name, &error)),
        }
    }
    let why = first.map(|e| words(&e)).unwrap_or_default();
    Err(Trouble::Queue(
        queue.clone(),
        format!("declared {name} as a durable quorum queue; the server answered: {why}"),
    ))
}

/// What a channel is closed for is about this queue; everything else about the server.
fn refused(queue: &Arc<str>, name: &ShortString, error: &lapin::Error) -> Trouble {
    let why = format!("tried {name}; the server answered: {}", words(error));
    if error.is_amqp_soft_error() { Trouble::Queue(queue.clone(), why) } else { Trouble::Broker(why) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_documentation() {
        let jobs = Names::new("reeve", &"gpu".into(), QueueKind::Jobs).unwrap();
        let all = Band::ALL.map(|b| jobs.of(b).to_string());
        assert_eq!(all, ["reeve:jobs:gpu:high", "reeve:jobs:gpu", "reeve:jobs:gpu:low"]);
        let messages = Names::new("x", &"m".into(), QueueKind::Messages).unwrap();
        assert_eq!(messages.of(Band::Normal).as_str(), "x:q:m");
        let long: Arc<str> = "a".repeat(250).into();
        let refused = Names::new("reeve", &long, QueueKind::Jobs).unwrap_err();
        assert!(refused.to_string().contains("255"), "{refused}");
    }

    #[test]
    fn a_limit_of_deliveries_is_set_aside_where_there_is_one() {
        assert_eq!(arguments(3).len(), 1);
        let four = arguments(4);
        assert!(four[0].contains_key("x-delivery-limit") && !four[1].contains_key("x-delivery-limit"));
        assert!(four.iter().all(|t| t.contains_key("x-queue-type")));
    }
}
