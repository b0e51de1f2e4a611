//! Output on its way to the coordinator: the whole tape of an ended attempt before its Finished, and live output for
//! whoever follows. Each goes over a stream of its own, read from the guardian piece by piece.
use super::local::{self, next_frame, open};
use quinn::{Connection, SendStream};
use reeve_protocol::frame::{self, Reader};
use reeve_protocol::guardian::{Hello, Output, kind as guardian};
use reeve_protocol::ids::AttemptId;
use reeve_protocol::wire::{Follow, OutputHead, kind};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{Instant, sleep};

/// Between two looks for an attempt that has not started, and how long it is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(200);
const LOOK_FOR: Duration = Duration::from_mins(10);

/// Output that cannot be sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("the guardian cannot be asked")]
    Guardian(#[from] local::Error),
    #[error("the guardian's socket cannot be used")]
    Socket(#[from] io::Error),
    #[error("the stream to the coordinator broke")]
    Write(#[from] quinn::WriteError),
    #[error("the connection to the coordinator broke")]
    Connection(#[from] quinn::ConnectionError),
    #[error("the coordinator did not take the output")]
    NotTaken,
    #[error("a frame could not be encoded")]
    Encode(#[from] reeve_protocol::codec::Error),
}

/// A guardian that answers questions about its tape.
pub(super) struct Source {
    read: OwnedReadHalf,
    write: OwnedWriteHalf,
    frames: Reader,
}

impl Source {
    pub(super) async fn open(runtime_dir: &Path, attempt: AttemptId) -> io::Result<Self> {
        let nonce = std::fs::read_to_string(runtime_dir.join("nonce"))?;
        let stream = open(runtime_dir, &crate::guardian::environment::socket_path(attempt)).await?;
        let (read, write) = stream.into_split();
        let mut source = Self { read, write, frames: Reader::new() };
        source.say(guardian::HELLO, &Hello { nonce: nonce.trim().to_owned() }).await?;
        Ok(source)
    }

    async fn say<T: serde::Serialize>(&mut self, kind: u16, body: &T) -> io::Result<()> {
        let mut bytes = Vec::new();
        frame::append(kind, 0, body, &mut bytes).map_err(io::Error::other)?;
        self.write.write_all(&bytes).await
    }

    /// The next piece of what is asked for by this kind, from an offset; waits until there is one.
    pub(super) async fn piece(&mut self, kind: u16, from: u64) -> Result<Output, local::Error> {
        self.say(kind, &Output { from, bytes: Vec::new(), end: false }).await?;
        self.expect(kind).await
    }

    /// The next of this kind; others are passed over.
    pub(super) async fn expect<T: serde::de::DeserializeOwned>(
        &mut self,
        kind: u16,
    ) -> Result<T, local::Error> {
        loop {
            let frame = next_frame(&mut self.read, &mut self.frames).await?;
            if frame.kind == kind {
                return Ok(frame.decode()?);
            }
        }
    }

    /// Everything from an offset to the end of the attempt.
    async fn copy(&mut self, mut from: u64, stream: &mut SendStream) -> Result<(), Error> {
        loop {
            let piece = self.piece(guardian::OUTPUT, from).await?;
            // Where a gap was told, asking goes on behind what is missing.
            from = piece.from + piece.bytes.len() as u64;
            stream.write_all(&piece.bytes).await?;
            if piece.end {
                return Ok(());
            }
        }
    }
}

async fn begin(connection: &Connection, head: &OutputHead) -> Result<SendStream, Error> {
    let mut stream = connection.open_uni().await?;
    let mut bytes = Vec::new();
    frame::append(kind::OUTPUT_HEAD, 0, head, &mut bytes)?;
    stream.write_all(&bytes).await?;
    Ok(stream)
}

/// Sends the whole tape of an ended attempt; done when the coordinator's side has every byte.
///
/// # Errors
/// [`Error`].
pub(crate) async fn upload(
    connection: &Connection,
    runtime_dir: &Path,
    attempt: AttemptId,
    total: u64,
) -> Result<(), Error> {
    let mut source = Source::open(runtime_dir, attempt).await?;
    let head = OutputHead { attempt, follow: None, from: 0, total };
    let mut stream = begin(connection, &head).await?;
    source.copy(0, &mut stream).await?;
    let _ = stream.finish();
    match stream.stopped().await {
        Ok(None) => Ok(()),
        _ => Err(Error::NotTaken),
    }
}

/// Sends output while it is written. An attempt that has not started is waited for.
///
/// # Errors
/// [`Error`].
pub(crate) async fn follow(
    connection: Connection,
    runtime_dir: PathBuf,
    wanted: Follow,
) -> Result<(), Error> {
    let Follow { id, attempt, from } = wanted;
    let head = OutputHead { attempt, follow: Some(id), from, total: 0 };
    let mut stream = begin(&connection, &head).await?;
    let until = Instant::now() + LOOK_FOR;
    let mut source = loop {
        match Source::open(&runtime_dir, attempt).await {
            Ok(source) => break source,
            Err(error) if error.kind() == io::ErrorKind::NotFound && Instant::now() < until => {
                sleep(LOOK_EVERY).await;
            }
            Err(error) => return Err(error.into()),
        }
    };
    source.copy(from, &mut stream).await?;
    let _ = stream.finish();
    // Dropped before every byte has arrived, a stream is still finished; waiting only keeps this task's place.
    let _ = stream.stopped().await;
    Ok(())
}
