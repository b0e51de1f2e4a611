//! The bare clients: the crates that reeve uses, with the same settings, bodies and batches, and nothing around them.
use futures_util::StreamExt as _;
use futures_util::future::join_all;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
    QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Connection, ConnectionProperties};
use redis::{Pipeline, Value, cmd};
use std::time::Instant;

/// Messages of a batch.
pub(super) const BATCH: usize = 1_000;
/// Entries of one read of a stream.
const READ: usize = 512;

fn rate(n: usize, since: Instant) -> f64 {
    n as f64 / since.elapsed().as_secs_f64()
}

/// XADD in pipelines of a thousand; then XREADGROUP, while the entries of the read before are acknowledged and removed.
pub(super) async fn redis(url: &str, n: usize, body: &[u8]) -> (f64, f64) {
    let client = redis::Client::open(url).unwrap();
    let mut writing = client.get_multiplexed_async_connection().await.unwrap();
    let mut reading = client.get_multiplexed_async_connection().await.unwrap();
    let _: Value = cmd("DEL").arg("raw").query_async(&mut writing).await.unwrap();
    let mut group = cmd("XGROUP");
    group.arg("CREATE").arg("raw").arg("g").arg("0").arg("MKSTREAM");
    let _: Value = group.query_async(&mut writing).await.unwrap();
    let began = Instant::now();
    for batch in 0..n / BATCH {
        let mut pipe = Pipeline::new();
        for at in 0..BATCH {
            let id = format!("bench/{}", batch * BATCH + at);
            pipe.cmd("XADD").arg("raw").arg("*").arg("body").arg(body).arg("kind").arg("text");
            pipe.arg("id").arg(id).ignore();
        }
        let () = pipe.query_async(&mut writing).await.unwrap();
    }
    let published = rate(n, began);
    let began = Instant::now();
    let (mut had, mut done) = (0, Vec::<String>::new());
    while had < n || !done.is_empty() {
        let mut read = cmd("XREADGROUP");
        read.arg("GROUP").arg("g").arg("c").arg("COUNT").arg(READ).arg("STREAMS").arg("raw").arg(">");
        let mut pipe = Pipeline::new();
        pipe.atomic();
        if !done.is_empty() {
            pipe.cmd("XACK").arg("raw").arg("g").arg(&done).ignore();
            pipe.cmd("XDEL").arg("raw").arg(&done).ignore();
        }
        let acknowledge = async {
            if !done.is_empty() {
                let () = pipe.query_async(&mut writing).await.unwrap();
            }
        };
        let (value, ()) = tokio::join!(read.query_async::<Value>(&mut reading), acknowledge);
        done = ids(value.unwrap());
        had += done.len();
    }
    (published, rate(n, began))
}

fn ids(value: Value) -> Vec<String> {
    let list = |value| if let Value::Array(list) = value { list } else { Vec::new() };
    let entries = list(value).into_iter().flat_map(list).flat_map(list);
    let id = |entry| match list(entry).into_iter().next() {
        Some(Value::BulkString(id)) => String::from_utf8(id).ok(),
        _ => None,
    };
    entries.filter_map(id).collect()
}

/// Persistent, mandatory and confirmed in batches of a thousand into a quorum queue; then consumed with a thousand ahead,
/// acknowledged by the half thousand.
pub(super) async fn rabbitmq(url: &str, n: usize, body: &[u8]) -> (f64, f64) {
    let connect = || Connection::connect(url, ConnectionProperties::default());
    let (publishing, consuming) = (connect().await.unwrap(), connect().await.unwrap());
    let channel = publishing.create_channel().await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    let mut table = FieldTable::default();
    table.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare("raw".into(), durable, table).await.unwrap();
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let began = Instant::now();
    for batch in 0..n / BATCH {
        let sent = (0..BATCH).map(|at| {
            let properties = BasicProperties::default()
                .with_delivery_mode(2)
                .with_content_type("text/plain".into())
                .with_message_id(format!("bench/{}", batch * BATCH + at).into())
                .with_headers(FieldTable::default());
            channel.basic_publish("".into(), "raw".into(), options, body, properties)
        });
        let confirms = join_all(sent).await.into_iter().map(Result::unwrap);
        for confirmed in join_all(confirms).await {
            assert!(confirmed.unwrap().is_ack());
        }
    }
    let published = rate(n, began);
    let channel = consuming.create_channel().await.unwrap();
    channel.basic_qos(BATCH as u16, BasicQosOptions { global: false }).await.unwrap();
    let began = Instant::now();
    let consume = BasicConsumeOptions::default();
    let mut consumer =
        channel.basic_consume("raw".into(), "".into(), consume, FieldTable::default()).await.unwrap();
    for had in 1..=n {
        let delivery = consumer.next().await.unwrap().unwrap();
        if had % (BATCH / 2) == 0 || had == n {
            delivery.ack(BasicAckOptions { multiple: true }).await.unwrap();
        }
    }
    let received = rate(n, began);
    publishing.close(200, "OK".into()).await.unwrap();
    consuming.close(200, "OK".into()).await.unwrap();
    (published, received)
}
