//! Frames on their way: whoever has something to say appends, one task writes. What is said while a write is under way
//! goes out together, so that batches form by themselves.
use quinn::SendStream;
use reeve_protocol::frame::{self, Frame};
use serde::Serialize;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::AsyncWriteExt as _;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::Notify;

/// Bytes that may wait; beyond it the other side is as good as gone.
const LIMIT: usize = 32 << 20;

/// Shared between those who speak and the task that writes.
#[derive(Clone, Default)]
pub(crate) struct Outbox(Arc<Shared>);

#[derive(Default)]
struct Shared {
    bytes: Mutex<Vec<u8>>,
    ready: Notify,
}

impl Outbox {
    /// Says one thing.
    pub(crate) fn say<T: Serialize>(&self, kind: u16, flags: u16, body: &T) {
        self.with(|out| {
            if let Err(error) = frame::append(kind, flags, body, out) {
                tracing::error!(kind, %error, "a frame could not be encoded");
            }
        });
    }

    /// Passes a frame on as it came.
    pub(crate) fn pass(&self, frame: &Frame) {
        self.with(|out| frame::append_raw(frame, out));
    }

    /// Whether more waits than is reasonable.
    pub(crate) fn is_stuck(&self) -> bool {
        self.0.bytes.lock().unwrap_or_else(PoisonError::into_inner).len() > LIMIT
    }

    fn with(&self, append: impl FnOnce(&mut Vec<u8>)) {
        append(&mut self.0.bytes.lock().unwrap_or_else(PoisonError::into_inner));
        self.0.ready.notify_one();
    }

    /// Everything that waits, once there is something. The buffer given is used for what comes next.
    pub(super) async fn take(&self, mut empty: Vec<u8>) -> Vec<u8> {
        empty.clear();
        if empty.capacity() > 1 << 20 {
            empty = Vec::new();
        }
        loop {
            {
                let mut bytes = self.0.bytes.lock().unwrap_or_else(PoisonError::into_inner);
                if !bytes.is_empty() {
                    std::mem::swap(&mut *bytes, &mut empty);
                    return empty;
                }
            }
            self.0.ready.notified().await;
        }
    }

    /// Writes to a QUIC stream until it breaks.
    pub(crate) async fn drain_quic(&self, stream: &mut SendStream) -> quinn::WriteError {
        let mut bytes = Vec::new();
        loop {
            bytes = self.take(bytes).await;
            if let Err(error) = stream.write_all(&bytes).await {
                return error;
            }
        }
    }

    /// Writes to the keeper until it is gone.
    pub(crate) async fn drain_unix(&self, stream: &mut OwnedWriteHalf) -> std::io::Error {
        let mut bytes = Vec::new();
        loop {
            bytes = self.take(bytes).await;
            if let Err(error) = stream.write_all(&bytes).await {
                return error;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_said_meanwhile_goes_out_together() {
        let outbox = Outbox::default();
        outbox.say(1, 0, &1u8);
        outbox.pass(&Frame { kind: 2, flags: 0, body: vec![9] });
        let bytes = outbox.take(Vec::new()).await;
        assert_eq!(bytes.len(), 2 * (frame::HEADER + 1));
        let waiting = tokio::spawn({
            let outbox = outbox.clone();
            async move { outbox.take(Vec::new()).await.len() }
        });
        outbox.say(3, 0, &7u8);
        assert_eq!(waiting.await.unwrap(), frame::HEADER + 1);
        assert!(!outbox.is_stuck());
    }
}
