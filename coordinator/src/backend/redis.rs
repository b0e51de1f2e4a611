//! Redis Streams, one stream per queue and band of priority, one consumer group. Names are documented (docs/queues.md), so
//! that any client can publish, read and look. What was taken is removed in the same transaction as its acknowledgement:
//! entries would stay for ever otherwise.
mod entry;
mod reader;

pub(super) use entry::kind_of;

use super::settings::Settings;
use super::{Backend, Heard, Trouble};
use crate::orchestrator::capability;
use crate::orchestrator::link::{Band, Hint, Incoming, Tag};
use crate::row::{MessageRow, QueueKind};
use ::redis::aio::MultiplexedConnection;
use ::redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ErrorKind, IntoConnectionInfo as _, Pipeline,
    ProtocolVersion, RedisConnectionInfo, RedisError, TlsCertificates, Value, cmd,
};
use futures_util::future::try_join_all;
use reader::Reader;
use reeve_protocol::text::Clean;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// The consumer group, and the consumer in it: one coordinator reads.
const GROUP: &str = "reeve";
/// For a connection, and for an answer that nobody waits for on purpose.
const ANSWER: Duration = Duration::from_secs(4);
/// Entries removed at once.
const PURGE: usize = 1_000;
/// Messages of one pipeline; fewer than 50 pipelines go at once, which is what a connection takes without waiting.
const PART: usize = 250;

/// The names of a queue's streams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Streams {
    kind: QueueKind,
    /// By band.
    keys: [Arc<str>; 3],
}

impl Streams {
    fn new(prefix: &str, queue: &str, kind: QueueKind) -> Self {
        let base = match kind {
            QueueKind::Jobs => format!("{prefix}:jobs:{queue}"),
            QueueKind::Messages | QueueKind::Unset => format!("{prefix}:q:{queue}"),
        };
        let keys = [format!("{base}:high").into(), base.as_str().into(), format!("{base}:low").into()];
        Self { kind, keys }
    }

    fn key(&self, band: Band) -> &str {
        &self.keys[band as usize]
    }
}

/// A connected Redis.
pub struct Redis {
    conn: MultiplexedConnection,
    reader: Reader,
    kept: BTreeMap<Arc<str>, Streams>,
    prefix: String,
    lineage: Arc<str>,
    version: String,
    /// What to be careful about on this server.
    durable: String,
    canary: Arc<str>,
}

fn broker(error: &RedisError) -> Trouble {
    if error.is_timeout() {
        return Trouble::Broker(format!("no answer within {} s", ANSWER.as_secs()));
    }
    if error.kind() == ErrorKind::Parse {
        return Trouble::Broker("what answers there does not speak the protocol of Redis".to_owned());
    }
    // What a server answers is text from outside.
    Trouble::Broker(Clean::short(&error.to_string(), 300).into_string())
}

/// Errors that are about one key only.
fn of_queue(queue: &str, key: &str, error: &RedisError) -> Trouble {
    // The errors of a pipeline come as one that has no code of its own.
    if error.code() == Some("WRONGTYPE") || error.to_string().contains("\"WRONGTYPE\"") {
        let why = format!("the key {key} there is no stream; the server answered: {error}");
        return Trouble::Queue(queue.into(), Clean::short(&why, 300).into_string());
    }
    broker(error)
}

impl Redis {
    fn streams(&self, queue: &str) -> Result<&Streams, Trouble> {
        self.kept
            .get(queue)
            .ok_or_else(|| Trouble::Queue(queue.into(), "the queue is not kept there yet".to_owned()))
    }

    async fn run<T: ::redis::FromRedisValue>(
        &self,
        queue: &str,
        key: &str,
        pipe: &Pipeline,
    ) -> Result<T, Trouble> {
        let mut conn = self.conn.clone();
        pipe.query_async(&mut conn).await.map_err(|e| of_queue(queue, key, &e))
    }
}

fn client(settings: &Settings) -> Result<Client, Trouble> {
    let (host, port) = (settings.host.clone(), settings.port);
    let addr = if settings.tls {
        ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
    } else {
        ConnectionAddr::Tcp(host, port)
    };
    let mut login = RedisConnectionInfo::default()
        .set_protocol(ProtocolVersion::RESP2)
        .set_db(settings.path.parse().unwrap_or(0));
    if let Some(user) = &settings.user {
        login = login.set_username(user);
    }
    if let Some(password) = settings.password().map_err(Trouble::Broker)? {
        login = login.set_password(password);
    }
    let info = addr.into_connection_info().map_err(|e| broker(&e))?.set_redis_settings(login);
    if settings.tls {
        let root_cert = settings.roots().map_err(Trouble::Broker)?;
        Client::build_with_tls(info, TlsCertificates { client_tls: None, root_cert })
    } else {
        Client::open(info)
    }
    .map_err(|e| broker(&e))
}

/// The server's own words about itself.
fn info(text: &str) -> BTreeMap<&str, &str> {
    text.lines().filter_map(|line| line.trim().split_once(':')).collect()
}

/// Whether this server can be used, and how durable it is.
fn judge(told: &str, append: Option<&str>, policy: Option<&str>) -> Result<(String, String), Trouble> {
    let told = info(told);
    let version = told.get("redis_version").copied().unwrap_or_default();
    let refuse = |why: String| Err(Trouble::Broker(why));
    if version.is_empty() {
        return refuse("the server answers, but does not say redis_version: it is not Redis".to_owned());
    }
    let shown = Clean::short(version, 32);
    if version.split('.').next().and_then(|n| n.parse::<u32>().ok()).is_none_or(|n| n < 5) {
        return refuse(format!("it is Redis {shown}; streams came with version 5"));
    }
    match told.get("redis_mode").copied() {
        Some("sentinel") => return refuse("it is a Sentinel, which keeps no data".to_owned()),
        Some("cluster") => {
            return refuse("it is a node of a Redis Cluster, which is not supported".to_owned());
        }
        _ => {}
    }
    if told.get("role").copied() == Some("slave") {
        return refuse("it is a replica, which takes no writes; name the primary".to_owned());
    }
    let mut durable = match append {
        Some("yes") => capability::REDIS[3].1.to_owned(),
        _ => {
            "answered when Redis or the store has it; this Redis has no append-only file: a restart may lose it"
                .to_owned()
        }
    };
    if policy.is_some_and(|p| p != "noeviction") {
        durable.push_str("; its maxmemory-policy may remove what lies there: set noeviction");
    }
    Ok((format!("redis {shown}"), durable))
}

async fn setting(conn: &mut MultiplexedConnection, name: &str) -> Option<String> {
    // Servers that hide CONFIG are not asked further.
    let pair: Vec<String> = cmd("CONFIG").arg("GET").arg(name).query_async(conn).await.ok()?;
    pair.into_iter().nth(1)
}

impl Backend for Redis {
    const CONFIRMS_FAST: bool = true;

    async fn connect(settings: &Settings, lineage: &str) -> Result<Self, Trouble> {
        let client = client(settings)?;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(ANSWER))
            .set_response_timeout(Some(ANSWER));
        let at = |e: RedisError| match broker(&e) {
            Trouble::Broker(why) => Trouble::Broker(format!("tried {settings}; {why}")),
            other @ (Trouble::Queue(..) | Trouble::Cannot(_)) => other,
        };
        let mut conn = client.get_multiplexed_async_connection_with_config(&config).await.map_err(at)?;
        let told: String = cmd("INFO").query_async(&mut conn).await.map_err(at)?;
        let append = setting(&mut conn, "appendonly").await;
        let policy = setting(&mut conn, "maxmemory-policy").await;
        let (version, durable) = judge(&told, append.as_deref(), policy.as_deref())?;
        let canary: Arc<str> = format!("{}:canary:{lineage}", settings.prefix).into();
        create_group(&mut conn, &canary).await.map_err(|e| of_queue("", &canary, &e))?;
        let blocking = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(ANSWER))
            .set_response_timeout(Some(reader::BLOCK + ANSWER));
        let reading = client.get_multiplexed_async_connection_with_config(&blocking).await.map_err(at)?;
        let lineage: Arc<str> = lineage.into();
        let reader = Reader::new(reading, canary.clone(), lineage.clone());
        let prefix = settings.prefix.clone();
        Ok(Self { conn, reader, kept: BTreeMap::new(), prefix, lineage, version, durable, canary })
    }

    fn version(&self) -> String {
        self.version.clone()
    }

    fn capabilities(&self) -> BTreeMap<String, String> {
        let pairs = capability::REDIS.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        pairs.chain([("durable".to_owned(), self.durable.clone())]).collect()
    }

    async fn keep(&mut self, queue: &Arc<str>, kind: QueueKind) -> Result<bool, Trouble> {
        let streams = Streams::new(&self.prefix, queue, kind);
        let mut is_new = false;
        for key in &streams.keys {
            is_new |= create_group(&mut self.conn, key).await.map_err(|e| of_queue(queue, key, &e))?;
        }
        self.kept.insert(queue.clone(), streams.clone());
        self.reader.wants.keep(queue.clone(), streams);
        self.reader.wake(&mut self.conn, &self.canary).await.map_err(|e| broker(&e))?;
        Ok(is_new)
    }

    fn leave(&mut self, queue: &str) {
        self.kept.remove(queue);
        self.reader.wants.leave(queue);
    }

    async fn abandon(&mut self, queue: &str) -> Result<(), Trouble> {
        let streams = self.streams(queue)?.clone();
        self.reader.wants.leave(queue);
        let mut pipe = Pipeline::new();
        // A stream that went away altogether would end the wait of whoever reads several.
        for key in &streams.keys {
            pipe.cmd("XTRIM").arg(&**key).arg("MAXLEN").arg(0).ignore();
        }
        self.run(queue, streams.key(Band::Normal), &pipe).await
    }

    async fn hint(&mut self, queue: &str, hints: &[Hint]) -> Result<(), Trouble> {
        let streams = self.streams(queue)?;
        let mut pipe = Pipeline::new();
        for hint in hints {
            pipe.cmd("XADD")
                .arg(streams.key(hint.band))
                .arg("*")
                .arg("hint")
                .arg(entry::of_hint(hint))
                .ignore();
        }
        self.run(queue, streams.key(Band::Normal), &pipe).await
    }

    async fn publish(&mut self, queue: &str, rows: &[MessageRow]) -> Result<(), Trouble> {
        let this = &*self;
        let streams = this.streams(queue)?;
        // The connection writes them in this order; the server works on one while the next is put into bytes.
        let parts = rows.chunks(PART).map(|part| async move {
            let mut pipe = Pipeline::with_capacity(part.len());
            for row in part {
                let mut add = cmd("XADD");
                add.arg(streams.key(Band::of(row.priority))).arg("*");
                entry::of_message(&mut add, row, &this.lineage);
                pipe.add_command(add).ignore();
            }
            this.run::<()>(queue, streams.key(Band::Normal), &pipe).await
        });
        try_join_all(parts).await.map(drop)
    }

    async fn answer(&mut self, rows: &[MessageRow]) -> Result<(u64, String), Trouble> {
        let mut pipe = Pipeline::new();
        let all: Vec<_> = rows.iter().filter_map(|row| entry::of_answer(row, &self.lineage)).collect();
        for (_, add) in &all {
            pipe.add_command(add.clone()).ignore();
        }
        match self.run::<()>("", "", &pipe).await {
            Err(Trouble::Queue(..)) => {}
            other => return other.map(|()| (0, String::new())),
        }
        // One of them is no stream: each for itself. What was taken above comes twice, as it may.
        let (mut refused, mut last) = (0, String::new());
        for (stream, add) in all {
            let mut one = Pipeline::new();
            one.add_command(add).ignore();
            match self.run::<()>("", &stream, &one).await {
                Err(Trouble::Queue(_, why)) => (refused, last) = (refused + 1, why),
                other => other?,
            }
        }
        Ok((refused, last))
    }

    async fn taken(&mut self, queue: &str, tags: &[Tag]) -> Result<(), Trouble> {
        let streams = self.streams(queue)?;
        let mut pipe = Pipeline::new();
        pipe.atomic();
        for band in Band::ALL {
            let ids: Vec<&str> = tags.iter().filter(|t| t.band == band).map(|t| &*t.name).collect();
            if !ids.is_empty() {
                remove(&mut pipe, streams.key(band), &ids);
            }
        }
        self.run(queue, streams.key(Band::Normal), &pipe).await
    }

    async fn room(&mut self, queue: &str, more: u64) -> Result<(), Trouble> {
        if self.reader.wants.room(queue, more) {
            self.reader.wake(&mut self.conn, &self.canary).await.map_err(|e| broker(&e))?;
        }
        Ok(())
    }

    async fn depth(&mut self, queue: &str) -> Result<(u64, u64), Trouble> {
        let streams = self.streams(queue)?;
        let mut pipe = Pipeline::new();
        for key in &streams.keys {
            pipe.cmd("XLEN").arg(&**key);
            pipe.cmd("XPENDING").arg(&**key).arg(GROUP);
        }
        let answers: Vec<Value> = self.run(queue, streams.key(Band::Normal), &pipe).await?;
        let (mut all, mut coming) = (0_i64, 0);
        for pair in answers.chunks(2) {
            if let [Value::Int(len), pending] = pair {
                all += len;
                coming += first_number(pending);
            }
        }
        Ok(((all - coming).max(0) as u64, coming.max(0) as u64))
    }

    async fn peek(&mut self, queue: &str, max: usize) -> Result<Vec<Incoming>, Trouble> {
        let streams = self.streams(queue)?.clone();
        let mut found = Vec::new();
        for band in Band::ALL {
            let key = streams.key(band);
            let after = self.last_delivered(queue, key).await?;
            let mut pipe = Pipeline::new();
            pipe.cmd("XRANGE").arg(key).arg(format!("({after}")).arg("+").arg("COUNT").arg(max - found.len());
            let (entries,): (Value,) = self.run(queue, key, &pipe).await?;
            found.extend(entry::messages(entries, band, &self.lineage));
            if found.len() >= max {
                break;
            }
        }
        Ok(found)
    }

    async fn purge(&mut self, queue: &str) -> Result<u64, Trouble> {
        let streams = self.streams(queue)?.clone();
        let mut removed = 0;
        for key in &streams.keys {
            let after = self.last_delivered(queue, key).await?;
            loop {
                let mut pipe = Pipeline::new();
                pipe.cmd("XRANGE").arg(&**key).arg(format!("({after}")).arg("+").arg("COUNT").arg(PURGE);
                let (entries,): (Value,) = self.run(queue, key, &pipe).await?;
                let ids = entry::ids(entries);
                if ids.is_empty() {
                    break;
                }
                let mut pipe = Pipeline::new();
                pipe.cmd("XDEL").arg(&**key).arg(&ids);
                let (n,): (u64,) = self.run(queue, key, &pipe).await?;
                removed += n;
            }
        }
        Ok(removed)
    }

    async fn canary(&mut self) -> Result<(), Trouble> {
        let add = cmd("XADD").arg(&*self.canary).arg("*").arg("canary").arg("1").to_owned();
        add.query_async::<Value>(&mut self.conn).await.map_err(|e| broker(&e))?;
        Ok(())
    }

    async fn next(&mut self) -> Result<Heard, Trouble> {
        self.reader.next().await
    }
}

impl Redis {
    /// Up to where a stream was handed out.
    async fn last_delivered(&self, queue: &str, key: &str) -> Result<String, Trouble> {
        let mut pipe = Pipeline::new();
        pipe.cmd("XINFO").arg("GROUPS").arg(key);
        let (groups,): (Value,) = self.run(queue, key, &pipe).await?;
        Ok(entry::last_delivered(groups, GROUP).unwrap_or_else(|| "0-0".to_owned()))
    }
}

/// Acknowledges entries and takes them out.
fn remove(pipe: &mut Pipeline, key: &str, ids: &[&str]) {
    pipe.cmd("XACK").arg(key).arg(GROUP).arg(ids).ignore();
    pipe.cmd("XDEL").arg(key).arg(ids).ignore();
}

fn first_number(value: &Value) -> i64 {
    match value {
        Value::Array(list) => match list.first() {
            Some(Value::Int(n)) => *n,
            _ => 0,
        },
        _ => 0,
    }
}

/// True: neither the stream's group nor what it had read was there.
async fn create_group(conn: &mut MultiplexedConnection, key: &str) -> Result<bool, RedisError> {
    let made = cmd("XGROUP")
        .arg("CREATE")
        .arg(key)
        .arg(GROUP)
        .arg("0")
        .arg("MKSTREAM")
        .query_async::<Value>(conn)
        .await;
    match made {
        Ok(_) => Ok(true),
        Err(error) if error.code() == Some("BUSYGROUP") => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_cannot_be_used_says_why() {
        let fine = "# Server\r\nredis_version:7.0.15\r\nredis_mode:standalone\r\nrole:master\r\n";
        let (version, durable) = judge(fine, Some("yes"), Some("noeviction")).unwrap();
        assert_eq!((version.as_str(), durable.as_str()), ("redis 7.0.15", capability::REDIS[3].1));
        assert!(judge(fine, Some("no"), None).unwrap().1.contains("no append-only file"));
        assert!(judge(fine, None, Some("allkeys-lru")).unwrap().1.contains("noeviction"));
        for (told, wanted) in [
            ("hello", "not Redis"),
            ("redis_version:4.0.9", "version 5"),
            ("redis_version:7.0\r\nredis_mode:sentinel", "Sentinel"),
            ("redis_version:7.0\r\nredis_mode:cluster", "Cluster"),
            ("redis_version:7.0\r\nrole:slave", "replica"),
        ] {
            assert!(judge(told, None, None).unwrap_err().to_string().contains(wanted), "{told}");
        }
    }

    #[test]
    fn names_of_streams_are_those_of_the_documentation() {
        let jobs = Streams::new("reeve", "gpu", QueueKind::Jobs);
        assert_eq!(
            Band::ALL.map(|b| jobs.key(b).to_owned()),
            ["reeve:jobs:gpu:high", "reeve:jobs:gpu", "reeve:jobs:gpu:low"]
        );
        assert_eq!(Streams::new("x", "m", QueueKind::Messages).key(Band::Normal), "x:q:m");
    }
}
