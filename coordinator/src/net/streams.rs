//! Streams that carry output: whole tapes of ended attempts into segments, and pieces of running ones to whoever
//! follows them. Nothing here passes through the engine but the place of a finished tape.
use super::Context;
use super::end::End;
use crate::effect::Reply;
use crate::input::{Call, Segment};
use crate::row::Caller;
use crate::segments::Writer;
use quinn::{Connection, RecvStream, VarInt};
use reeve_protocol::frame::Reader;
use reeve_protocol::wire::{OutputHead, close, kind};
use reeve_protocol::{AttemptId, text::Clean};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// The largest tape: 64 MiB of output, and room for the heads of its records.
const MAX_TAPE: u64 = 72 * 1024 * 1024;
/// Bytes read at once.
const PIECE: usize = 64 * 1024;
/// For a stream's head to arrive.
const HEAD_WAIT: Duration = Duration::from_secs(10);
/// For the next piece of a tape, or for a follower to take one.
const STALL: Duration = Duration::from_secs(30);
/// Between two looks at a disk that is full.
const FULL: Duration = Duration::from_millis(500);
/// Followers per machine: half of the streams that a connection may have, so that tapes always find one.
const MAX_FOLLOWS: usize = 8;

/// Who follows output of one machine.
#[derive(Debug, Default)]
pub(super) struct Follows {
    state: Mutex<Followers>,
}

/// The last number given, and who is there.
type Followers = (u64, HashMap<u64, mpsc::Sender<Vec<u8>>>);

impl Follows {
    /// A new follower's number. `None` when there are too many: dropping the sender tells the follower.
    pub(super) fn enter(&self, into: mpsc::Sender<Vec<u8>>) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.1.len() >= MAX_FOLLOWS {
            return None;
        }
        state.0 += 1;
        let id = state.0;
        state.1.insert(id, into);
        Some(id)
    }

    /// Takes out the followers that went away.
    pub(super) fn abandoned(&self) -> Vec<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.1.extract_if(|_, into| into.is_closed()).map(|(id, _)| id).collect()
    }

    fn find(&self, id: u64) -> Option<mpsc::Sender<Vec<u8>>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).1.get(&id).cloned()
    }

    /// Ends one: its receiver sees the end once the last piece was taken.
    fn end(&self, id: u64) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).1.remove(&id);
    }
}

/// What is reported of a tape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Upload {
    /// It is on its way, and will be reported once more.
    Begun(AttemptId),
    /// It is on disk; `None`: it failed.
    Ended(AttemptId, Option<Segment>),
}

/// Whose streams these are.
#[derive(Clone, Debug)]
pub(super) struct Who {
    pub(super) machine: String,
    pub(super) session: u64,
}

/// Where tapes are reported.
pub(super) type Uploads = mpsc::UnboundedSender<Upload>;

/// Takes streams until the connection ends, or one of them breaks the rules.
pub(super) async fn run(
    context: &std::sync::Arc<Context>,
    connection: &Connection,
    who: &Who,
    follows: &std::sync::Arc<Follows>,
    uploads: Uploads,
) -> End {
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            stream = connection.accept_uni() => match stream {
                Ok(stream) => {
                    tasks.spawn(take(context.clone(), who.clone(), stream, follows.clone(), uploads.clone()));
                }
                Err(error) => return error.into(),
            },
            Some(done) = tasks.join_next() => {
                if let Ok(Err(end)) = done {
                    return end;
                }
            }
        }
    }
}

async fn take(
    context: std::sync::Arc<Context>,
    who: Who,
    mut stream: RecvStream,
    follows: std::sync::Arc<Follows>,
    uploads: Uploads,
) -> Result<(), End> {
    let Ok(head) = timeout(HEAD_WAIT, head(&mut stream)).await else {
        stop(&mut stream, close::MALFORMED);
        return Ok(());
    };
    let Some((head, first)) = head? else { return Ok(()) };
    if let Some(id) = head.follow {
        follow(stream, &follows, id, first).await;
        return Ok(());
    }
    let attempt = head.attempt;
    let _ = uploads.send(Upload::Begun(attempt));
    let stored = match held(&context, &who, attempt).await {
        Ok(()) => store(&context, &mut stream, &head, &first).await,
        Err(unkept) => Err(unkept),
    };
    if let Err(error) = &stored {
        tracing::warn!(job = %attempt.task, attempt = attempt.attempt, %error, "output of an ended attempt was not kept");
        stop(&mut stream, close::DONE);
    }
    // The session may be over: nobody will ever name these bytes.
    if let Err(mpsc::error::SendError(Upload::Ended(_, Some(segment)))) =
        uploads.send(Upload::Ended(attempt, stored.ok()))
    {
        context.segments.discard(segment);
    }
    Ok(())
}

/// Only output of an attempt that the machine has is taken: the space of any other would never be given back.
async fn held(context: &Context, who: &Who, attempt: AttemptId) -> Result<(), Unkept> {
    let call = Call::HoldsAttempt { machine: who.machine.clone(), session: who.session, attempt };
    match context.handle.ask(&Caller::internal(), call).await {
        Ok(Reply::Held(true)) => Ok(()),
        Ok(_) => Err(Unkept::NotHeld),
        Err(problem) => Err(Unkept::Engine(Clean::short(&problem.detail, 200))),
    }
}

/// The head, and the bytes that came with it. `None`: the stream was taken back before it said anything.
async fn head(stream: &mut RecvStream) -> Result<Option<(OutputHead, Vec<u8>)>, End> {
    let mut reader = Reader::new();
    loop {
        if let Some(frame) = reader.next_frame()? {
            if frame.kind != kind::OUTPUT_HEAD {
                return Err(End::unexpected(format!("kind {} at the head of a stream", frame.kind)));
            }
            return Ok(Some((frame.decode()?, reader.take_rest())));
        }
        match stream.read_chunk(PIECE, true).await {
            Ok(Some(chunk)) => reader.feed(&chunk.bytes),
            Ok(None) | Err(quinn::ReadError::Reset(_)) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Why a tape was not kept.
#[derive(Debug, thiserror::Error)]
enum Unkept {
    #[error("the machine does not have this attempt")]
    NotHeld,
    #[error("whether the machine has it could not be found out: {0}")]
    Engine(Clean),
    #[error("the head asks for {0} bytes from {1}")]
    Head(u64, u64),
    #[error("{found} bytes came, {promised} were promised")]
    Length { found: u64, promised: u64 },
    #[error("the stream broke: {0}")]
    Stream(Clean),
    #[error("nothing came for {} s", STALL.as_secs())]
    Stalled,
    #[error("the disk refused it: {0}")]
    Disk(#[from] std::io::Error),
}

/// Writes a whole tape into a segment and syncs it. While the disk is full the tape waits, and the machine keeps it.
async fn store(
    context: &std::sync::Arc<Context>,
    stream: &mut RecvStream,
    head: &OutputHead,
    first: &[u8],
) -> Result<Segment, Unkept> {
    if head.from != 0 || head.total > MAX_TAPE {
        return Err(Unkept::Head(head.total, head.from));
    }
    if !context.segments.has_room(head.total) {
        let _counted = context.segments.wait();
        while !context.segments.has_room(head.total) {
            tokio::time::sleep(FULL).await;
        }
    }
    let mut writer = loop {
        match context.segments.begin() {
            Err(error) if is_full(&error) => tokio::time::sleep(FULL).await,
            begun => break begun?,
        }
    };
    append(&mut writer, first, head.total).await?;
    let mut piece = vec![0; PIECE];
    loop {
        let read = timeout(STALL, stream.read(&mut piece)).await.map_err(|_| Unkept::Stalled)?;
        match read.map_err(|e| Unkept::Stream(Clean::short(&e.to_string(), 200)))? {
            Some(len) => append(&mut writer, &piece[..len], head.total).await?,
            None => break,
        }
    }
    if writer.len() != head.total {
        return Err(Unkept::Length { found: writer.len(), promised: head.total });
    }
    let segments = context.segments.clone();
    // Syncing waits for the disk; everything before went to the page cache.
    tokio::task::spawn_blocking(move || segments.finish(writer))
        .await
        .map_err(std::io::Error::other)?
        .map_err(Unkept::Disk)
}

async fn append(writer: &mut Writer, bytes: &[u8], total: u64) -> Result<(), Unkept> {
    let found = writer.len() + bytes.len() as u64;
    if found > total {
        return Err(Unkept::Length { found, promised: total });
    }
    loop {
        match writer.append(bytes) {
            // It was filled meanwhile: the same bytes again, at the same place.
            Err(error) if is_full(&error) => tokio::time::sleep(FULL).await,
            written => return Ok(written?),
        }
    }
}

fn is_full(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
}

/// Hands pieces to a follower until either side ends. A follower that takes nothing for a while is let go: it holds one
/// of the few streams.
async fn follow(mut stream: RecvStream, follows: &Follows, id: u64, first: Vec<u8>) {
    if let Some(into) = follows.find(id) {
        let mut piece = first;
        loop {
            if !piece.is_empty() && !matches!(timeout(STALL, into.send(piece)).await, Ok(Ok(()))) {
                break;
            }
            let next = tokio::select! {
                () = into.closed() => break,
                next = stream.read_chunk(PIECE, true) => next,
            };
            match next {
                Ok(Some(chunk)) => piece = chunk.bytes.to_vec(),
                _ => break,
            }
        }
    }
    follows.end(id);
    stop(&mut stream, close::DONE);
}

/// Tells the machine to send no more; a stream that has ended is past caring.
fn stop(stream: &mut RecvStream, code: u32) {
    let _ = stream.stop(VarInt::from_u32(code));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn followers_are_numbered_bounded_and_swept() {
        let follows = Follows::default();
        let (into, bytes) = mpsc::channel(1);
        let ids: Vec<_> = (0..MAX_FOLLOWS).map(|_| follows.enter(into.clone())).collect();
        assert_eq!(ids[..2], [Some(1), Some(2)]);
        assert_eq!(follows.enter(into.clone()), None);
        assert!(follows.abandoned().is_empty());
        follows.end(1);
        assert!(follows.find(1).is_none() && follows.find(2).is_some());
        assert_eq!(follows.enter(into), Some(MAX_FOLLOWS as u64 + 1), "numbers are never used twice");
        drop(bytes);
        assert_eq!(follows.abandoned().len(), MAX_FOLLOWS);
    }

    #[tokio::test]
    async fn a_tape_never_grows_beyond_what_was_promised() {
        let dir = tempfile::tempdir().unwrap();
        let segments = crate::segments::Segments::open(dir.path()).unwrap();
        let mut writer = segments.begin().unwrap();
        append(&mut writer, b"1234", 6).await.unwrap();
        assert!(matches!(
            append(&mut writer, b"567", 6).await,
            Err(Unkept::Length { found: 7, promised: 6 })
        ));
        assert_eq!(writer.len(), 4);
    }
}
