//! The beginning of a session: Hello until Welcome, and single frames on a fresh stream.
use super::local::Link;
use super::session::Error;
use crate::clock::boot_ms;
use crate::identity::{Identity, Seen};
use quinn::{Connection, RecvStream, SendStream};
use reeve_protocol::frame::{self, Frame, Reader};
use reeve_protocol::wire::{self, Hello, Welcome, kind};
use std::time::Duration;
use tokio::time::timeout;

/// For the coordinator's first answer.
const FIRST_ANSWER: Duration = Duration::from_secs(10);

/// A control stream on which the coordinator has said Welcome.
pub(crate) struct Open {
    pub(crate) send: SendStream,
    pub(super) recv: RecvStream,
    pub(super) frames: Reader,
    pub(crate) welcome: Welcome,
    /// When Hello was said: the coordinator has heard us since.
    pub(super) said: u64,
}

/// Says Hello and waits for Welcome.
///
/// # Errors
/// [`Error`].
pub(crate) async fn open(
    connection: &Connection,
    identity: &Identity,
    seen: &Seen,
    link: &Link,
) -> Result<Open, Error> {
    let (mut send, mut recv) = connection.open_bi().await?;
    let hello = Hello {
        version_min: wire::VERSION,
        version_max: wire::VERSION,
        cluster: identity.cluster.clone(),
        machine: identity.machine.clone(),
        life: link.hello.life.clone(),
        keeper: link.hello.keeper.clone(),
        lineage_seen: seen.lineage.clone(),
        epoch_seen: seen.epoch,
        seq_seen: seen.seq,
        agent_version: reeve_protocol::VERSION.to_owned(),
        kinds: Vec::new(),
    };
    let said = boot_ms();
    say_now(&mut send, kind::HELLO, &hello).await?;
    let mut frames = Reader::new();
    let first =
        timeout(FIRST_ANSWER, first_frame(&mut recv, &mut frames)).await.map_err(|_| Error::Silent)??;
    match first.kind {
        kind::WELCOME => Ok(Open { send, recv, frames, welcome: first.decode()?, said }),
        kind::REFUSED => Err(Error::Refused(first.decode()?)),
        other => Err(frame::Error::UnknownKind(other).into()),
    }
}

/// Writes one frame at once.
pub(crate) async fn say_now<T: serde::Serialize>(
    send: &mut SendStream,
    kind: u16,
    body: &T,
) -> Result<(), Error> {
    let mut bytes = Vec::new();
    frame::append(kind, 0, body, &mut bytes).map_err(|e| Error::Frame(frame::Error::Body(kind, e)))?;
    send.write_all(&bytes).await.map_err(broken_write)
}

/// The first frame of a stream.
pub(crate) async fn first_frame(recv: &mut RecvStream, frames: &mut Reader) -> Result<Frame, Error> {
    loop {
        if let Some(frame) = frames.next_frame()? {
            return Ok(frame);
        }
        match recv.read_chunk(64 * 1024, true).await.map_err(broken_read)? {
            Some(chunk) => frames.feed(&chunk.bytes),
            None => return Err(Error::Stream("it ended before the first answer".to_owned())),
        }
    }
}

pub(super) fn broken_write(error: quinn::WriteError) -> Error {
    match error {
        quinn::WriteError::ConnectionLost(lost) => lost.into(),
        other => Error::Stream(other.to_string()),
    }
}

pub(super) fn broken_read(error: quinn::ReadError) -> Error {
    match error {
        quinn::ReadError::ConnectionLost(lost) => lost.into(),
        other => Error::Stream(other.to_string()),
    }
}
