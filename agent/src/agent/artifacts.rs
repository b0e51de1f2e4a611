//! Artifacts on their way to the coordinator: before the Finished of their attempt, on a stream of their own, read from the
//! guardian piece by piece. A stream that breaks is sent again whole in the next session: the guardian keeps the files.
use super::output::{Error, Source};
use quinn::Connection;
use reeve_protocol::frame;
use reeve_protocol::guardian::{Artifacts, kind as guardian};
use reeve_protocol::ids::AttemptId;
use reeve_protocol::wire::{ArtifactsHead, kind};
use std::path::Path;

/// Behind everything else that a connection carries.
const PRIORITY: i32 = -1;

/// Sends the artifacts of an ended attempt; done when the coordinator's side has every byte.
///
/// # Errors
/// [`Error`].
pub(super) async fn upload(
    connection: &Connection,
    runtime_dir: &Path,
    attempt: AttemptId,
) -> Result<(), Error> {
    let mut source = Source::open(runtime_dir, attempt).await?;
    let list: Artifacts = source.expect(guardian::ARTIFACTS).await?;
    let total: u64 = list.files.iter().map(|file| file.size).sum();
    let mut bytes = Vec::new();
    frame::append(kind::ARTIFACTS_HEAD, 0, &ArtifactsHead { attempt, files: list.files }, &mut bytes)?;
    let mut stream = connection.open_uni().await?;
    let _ = stream.set_priority(PRIORITY);
    stream.write_all(&bytes).await?;
    let mut from = 0;
    while from < total {
        let piece = source.piece(guardian::ARTIFACT_BYTES, from).await?;
        from += piece.bytes.len() as u64;
        stream.write_all(&piece.bytes).await?;
        if piece.end {
            break;
        }
    }
    let _ = stream.finish();
    match stream.stopped().await {
        Ok(None) => Ok(()),
        _ => Err(Error::NotTaken),
    }
}
