//! Streams that carry output: whole tapes and artifacts of ended attempts into segments, and pieces of running ones to
//! whoever follows them. Nothing here passes through the engine but the place of a finished tape.
use super::Context;
use super::bulk::{self, Digests, PIECE, STALL, Unkept};
use super::end::End;
use super::held::Part;
use crate::effect::Reply;
use crate::input::{Call, Kept, Segment};
use crate::row::Caller;
use quinn::{Connection, RecvStream, VarInt};
use reeve_protocol::artifact::check_list;
use reeve_protocol::frame::Reader;
use reeve_protocol::wire::{ArtifactsHead, OutputHead, close, kind};
use reeve_protocol::{AttemptId, text::Clean};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// The largest tape: 64 MiB of output, and room for the heads of its records.
const MAX_TAPE: u64 = 72 * 1024 * 1024;
/// For a stream's head to arrive.
const HEAD_WAIT: Duration = Duration::from_secs(10);
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

/// What is reported of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Upload {
    /// It is on its way, and will be reported once more.
    Begun(AttemptId, Part),
    /// A tape is on disk; `None`: it failed.
    Tape(AttemptId, Option<Segment>),
    /// Artifacts are on disk; `None`: they failed.
    Artifacts(AttemptId, Option<Box<Kept>>),
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
    let report = match head {
        Head::Output(OutputHead { follow: Some(id), .. }) => {
            follow(stream, &follows, id, first).await;
            return Ok(());
        }
        Head::Output(head) => {
            let attempt = head.attempt;
            let _ = uploads.send(Upload::Begun(attempt, Part::Tape));
            let stored = match held(&context, &who, attempt).await {
                Ok(()) => tape(&context, &mut stream, &head, &first).await,
                Err(unkept) => Err(unkept),
            };
            Upload::Tape(attempt, kept(stored, attempt, "output", &mut stream))
        }
        Head::Artifacts(head) => {
            let attempt = head.attempt;
            let _ = uploads.send(Upload::Begun(attempt, Part::Artifacts));
            let stored = match held(&context, &who, attempt).await {
                Ok(()) => artifacts(&context, &mut stream, head, &first).await,
                Err(unkept) => Err(unkept),
            };
            Upload::Artifacts(attempt, kept(stored, attempt, "artifacts", &mut stream).map(Box::new))
        }
    };
    if let Err(mpsc::error::SendError(report)) = uploads.send(report) {
        // The session may be over: nobody will ever name these bytes.
        match report {
            Upload::Tape(_, Some(segment)) => context.segments.discard(segment),
            Upload::Artifacts(_, Some(kept)) => context.segments.discard(kept.segment),
            _ => {}
        }
    }
    Ok(())
}

/// What was stored; else why it was not is said, to the machine and in the log.
fn kept<T>(stored: Result<T, Unkept>, attempt: AttemptId, what: &str, stream: &mut RecvStream) -> Option<T> {
    if let Err(error) = &stored {
        tracing::warn!(job = %attempt.task, attempt = attempt.attempt, %error, "{what} of an ended attempt were not kept");
        stop(stream, close::DONE);
    }
    stored.ok()
}

async fn tape(
    context: &std::sync::Arc<Context>,
    stream: &mut RecvStream,
    head: &OutputHead,
    first: &[u8],
) -> Result<Segment, Unkept> {
    if head.from != 0 || head.total > MAX_TAPE {
        return Err(Unkept::Head(head.total, head.from));
    }
    bulk::store(context, stream, head.total, first, None).await
}

async fn artifacts(
    context: &std::sync::Arc<Context>,
    stream: &mut RecvStream,
    head: ArtifactsHead,
    first: &[u8],
) -> Result<Kept, Unkept> {
    let total = check_list(&head.files).map_err(Unkept::List)?;
    let digests = Some(Digests::new(&head.files));
    let segment = bulk::store(context, stream, total, first, digests).await?;
    Ok(Kept { attempt: head.attempt, files: head.files, segment })
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

/// What a stream carries.
enum Head {
    Output(OutputHead),
    Artifacts(ArtifactsHead),
}

/// The head, and the bytes that came with it. `None`: the stream was taken back before it said anything.
async fn head(stream: &mut RecvStream) -> Result<Option<(Head, Vec<u8>)>, End> {
    let mut reader = Reader::new();
    loop {
        if let Some(frame) = reader.next_frame()? {
            let head = match frame.kind {
                kind::OUTPUT_HEAD => Head::Output(frame.decode()?),
                kind::ARTIFACTS_HEAD => Head::Artifacts(frame.decode()?),
                other => return Err(End::unexpected(format!("kind {other} at the head of a stream"))),
            };
            return Ok(Some((head, reader.take_rest())));
        }
        match stream.read_chunk(PIECE, true).await {
            Ok(Some(chunk)) => reader.feed(&chunk.bytes),
            Ok(None) | Err(quinn::ReadError::Reset(_)) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
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
}
