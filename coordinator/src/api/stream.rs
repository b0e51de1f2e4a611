//! An answer that goes on: a task produces, the connection takes, and a number of bytes may lie between them.
//!
//! The bound is in bytes, not in pieces: a client that sends a whole batch before it reads an answer must not hang as
//! long as the answers are small, and one that does not read at all must not fill the memory.
use super::App;
use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use bytes::Bytes;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};

/// For followers: some screens of output.
pub(super) const FOLLOWER: usize = 256 * 1024;
/// For batches: some 600,000 short lines.
pub(super) const BATCH: usize = 16 * 1024 * 1024;

/// The reader went away, or did not read for too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gone;

/// Where a producer writes.
pub(super) struct Out {
    pieces: mpsc::UnboundedSender<Bytes>,
    room: Arc<Semaphore>,
    size: usize,
    patience: Option<Duration>,
}

impl Out {
    /// Hands over a piece; waits while too much lies unread.
    pub(super) async fn send(&self, piece: impl Into<Bytes>) -> Result<(), Gone> {
        let piece = piece.into();
        if piece.is_empty() {
            return Ok(());
        }
        let room = self.room.acquire_many(weight(piece.len(), self.size));
        let permit = match self.patience {
            None => room.await.map_err(|_| Gone)?,
            Some(patience) => {
                tokio::time::timeout(patience, room).await.map_err(|_| Gone)?.map_err(|_| Gone)?
            }
        };
        permit.forget();
        self.pieces.send(piece).map_err(|_| Gone)
    }

    /// Hands over a value as one line.
    pub(super) async fn line<T: serde::Serialize>(&self, value: &T) -> Result<(), Gone> {
        let mut line = serde_json::to_vec(value).map_err(|_| Gone)?;
        line.push(b'\n');
        self.send(line).await
    }
}

/// A piece larger than all the room takes all of it.
fn weight(len: usize, size: usize) -> u32 {
    u32::try_from(len.min(size)).unwrap_or(u32::MAX)
}

struct Taken {
    pieces: mpsc::UnboundedReceiver<Bytes>,
    room: Arc<Semaphore>,
    size: usize,
}

impl futures_util::Stream for Taken {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.pieces.poll_recv(context).map(|piece| {
            piece.map(|piece| {
                self.room.add_permits(weight(piece.len(), self.size) as usize);
                Ok(piece)
            })
        })
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        // Wakes a producer that waits for room.
        self.room.close();
    }
}

/// What an answer that goes on looks like.
pub(super) struct Shape {
    /// Its media type.
    pub(super) media_type: &'static str,
    /// Bytes that may lie unread.
    pub(super) size: usize,
    /// How long a reader may not read before it is cut; `None`: as long as it likes.
    pub(super) patience: Option<Duration>,
}

/// Starts a producer and gives the answer it writes into. The producer ends when it is done, when the reader goes away,
/// and when the coordinator stops.
pub(super) fn respond<P, F>(app: &Arc<App>, shape: &Shape, produce: P) -> Response
where
    P: FnOnce(Out) -> F,
    F: Future<Output = Result<(), Gone>> + Send + 'static,
{
    let (tx, rx) = mpsc::unbounded_channel();
    let room = Arc::new(Semaphore::new(shape.size));
    let out = Out { pieces: tx.clone(), room: room.clone(), size: shape.size, patience: shape.patience };
    let (work, app) = (produce(out), app.clone());
    tokio::spawn(async move {
        tokio::select! {
            _ = work => {}
            () = tx.closed() => {}
            () = app.stopped() => {}
        }
    });
    let mut response = Response::new(Body::from_stream(Taken { pieces: rx, room, size: shape.size }));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(shape.media_type));
    // Without this a proxy in between may keep lines back.
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::{FutureExt, StreamExt};

    fn pair(size: usize) -> (Out, Taken) {
        let (tx, pieces) = mpsc::unbounded_channel();
        let room = Arc::new(Semaphore::new(size));
        (Out { pieces: tx, room: room.clone(), size, patience: None }, Taken { pieces, room, size })
    }

    #[tokio::test]
    async fn a_producer_waits_for_room_and_goes_on_when_read() {
        let (out, mut taken) = pair(4);
        out.send("abc").await.unwrap();
        assert!(out.send("de").now_or_never().is_none(), "five bytes do not fit into four");
        assert_eq!(taken.next().await, Some(Ok(Bytes::from("abc"))));
        out.send("larger than all the room").await.unwrap();
        assert!(taken.next().await.is_some());
        out.send("x").await.unwrap();
    }

    #[tokio::test]
    async fn a_reader_that_goes_away_ends_the_producer() {
        let (out, taken) = pair(2);
        out.send("ab").await.unwrap();
        drop(taken);
        assert_eq!(out.send("c").await, Err(Gone));
    }
}
