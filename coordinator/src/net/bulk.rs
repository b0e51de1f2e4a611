//! Bulk that a machine sends: bytes of a known length into a segment, synced before anybody is told, and held against
//! digests where there are some. A disk without room is waited out; the machine keeps what it sends.
use super::Context;
use crate::input::Segment;
use crate::segments::{Segments, Writer};
use quinn::RecvStream;
use reeve_protocol::artifact::Artifact;
use reeve_protocol::digest::Sha256;
use reeve_protocol::text::Clean;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// Bytes read at once.
pub(super) const PIECE: usize = 64 * 1024;
/// For the next piece.
pub(super) const STALL: Duration = Duration::from_secs(30);
/// Between two looks at a disk that is full.
const FULL: Duration = Duration::from_millis(500);

/// Why something was not kept.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unkept {
    #[error("the machine does not have this attempt")]
    NotHeld,
    #[error("whether the machine has it could not be found out: {0}")]
    Engine(Clean),
    #[error("the head asks for {0} bytes from {1}")]
    Head(u64, u64),
    #[error("its list of files is not possible: {0}")]
    List(&'static str),
    #[error("{found} bytes came, {promised} were promised")]
    Length { found: u64, promised: u64 },
    #[error("the bytes of {0} are not those of its digest")]
    Digest(Clean),
    #[error("the stream broke: {0}")]
    Stream(Clean),
    #[error("nothing came for {} s", STALL.as_secs())]
    Stalled,
    #[error("the disk refused it: {0}")]
    Disk(#[from] std::io::Error),
}

/// Digests of files whose bytes come one after the other.
pub(super) struct Digests<'a> {
    files: std::slice::Iter<'a, Artifact>,
    open: Option<(&'a Artifact, u64, Sha256)>,
    wrong: Option<&'a Artifact>,
}

impl<'a> Digests<'a> {
    pub(super) fn new(files: &'a [Artifact]) -> Self {
        let mut digests = Self { files: files.iter(), open: None, wrong: None };
        digests.next_file();
        digests
    }

    fn next_file(&mut self) {
        self.open = self.files.next().map(|file| (file, file.size, Sha256::default()));
    }

    fn feed(&mut self, mut bytes: &[u8]) {
        while let Some((_, left, digest)) = &mut self.open {
            let (own, rest) = bytes.split_at((*left).min(bytes.len() as u64) as usize);
            digest.update(own);
            *left -= own.len() as u64;
            bytes = rest;
            if *left > 0 {
                return;
            }
            self.close();
        }
    }

    fn close(&mut self) {
        if let Some((file, _, digest)) = self.open.take()
            && digest.hex() != file.sha256
        {
            self.wrong = self.wrong.or(Some(file));
        }
        self.next_file();
    }

    /// The first file whose bytes are others.
    fn wrong(mut self) -> Option<&'a Artifact> {
        // Files without a byte behind the last one.
        self.feed(&[]);
        self.wrong.or(self.open.map(|(file, ..)| file))
    }
}

/// Writes so many bytes of a stream into a segment and syncs it.
pub(super) async fn store(
    context: &Arc<Context>,
    stream: &mut RecvStream,
    total: u64,
    first: &[u8],
    mut digests: Option<Digests<'_>>,
) -> Result<Segment, Unkept> {
    if !context.segments.has_room(total) {
        let _counted = context.segments.wait();
        while !context.segments.has_room(total) {
            tokio::time::sleep(FULL).await;
        }
    }
    let mut writer = loop {
        match context.segments.begin() {
            Err(error) if is_full(&error) => tokio::time::sleep(FULL).await,
            begun => break begun?,
        }
    };
    let mut take = |bytes: &[u8]| {
        if let Some(digests) = &mut digests {
            digests.feed(bytes);
        }
    };
    append(&mut writer, first, total).await?;
    take(first);
    let mut piece = vec![0; PIECE];
    loop {
        let read = timeout(STALL, stream.read(&mut piece)).await.map_err(|_| Unkept::Stalled)?;
        match read.map_err(|e| Unkept::Stream(Clean::short(&e.to_string(), 200)))? {
            Some(len) => {
                append(&mut writer, &piece[..len], total).await?;
                take(&piece[..len]);
            }
            None => break,
        }
    }
    if writer.len() != total {
        return Err(Unkept::Length { found: writer.len(), promised: total });
    }
    if let Some(wrong) = digests.and_then(Digests::wrong) {
        return Err(Unkept::Digest(Clean::short(&wrong.name, 200)));
    }
    let segments = context.segments.clone();
    // Syncing waits for the disk; everything before went to the page cache.
    let sync = move || Synced::of(segments, writer);
    let synced = tokio::task::spawn_blocking(sync).await.map_err(std::io::Error::other)??;
    Ok(synced.taken())
}

/// What was synced for somebody who may be gone by then: the session can end meanwhile, and nobody would name these bytes.
struct Synced {
    segments: Arc<Segments>,
    segment: Segment,
    is_taken: bool,
}

impl Synced {
    fn of(segments: Arc<Segments>, writer: Writer) -> std::io::Result<Self> {
        let segment = segments.finish(writer)?;
        Ok(Self { segments, segment, is_taken: false })
    }

    fn taken(mut self) -> Segment {
        self.is_taken = true;
        self.segment
    }
}

impl Drop for Synced {
    fn drop(&mut self) {
        if !self.is_taken {
            self.segments.discard(self.segment);
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use reeve_protocol::token::sha256_hex;

    #[tokio::test]
    async fn nothing_grows_beyond_what_was_promised() {
        let dir = tempfile::tempdir().unwrap();
        let segments = Segments::open(dir.path()).unwrap();
        let mut writer = segments.begin().unwrap();
        append(&mut writer, b"1234", 6).await.unwrap();
        assert!(matches!(
            append(&mut writer, b"567", 6).await,
            Err(Unkept::Length { found: 7, promised: 6 })
        ));
        assert_eq!(writer.len(), 4);
    }

    #[test]
    fn what_was_synced_for_nobody_is_given_back() {
        let dir = tempfile::tempdir().unwrap();
        let segments = Arc::new(Segments::open(dir.path()).unwrap());
        for (is_taken, total) in [(true, 4), (false, 4), (true, 8)] {
            let mut writer = segments.begin().unwrap();
            writer.append(b"1234").unwrap();
            let synced = Synced::of(segments.clone(), writer).unwrap();
            if is_taken {
                assert_eq!(synced.taken().len, 4);
            } else {
                drop(synced);
            }
            assert_eq!(segments.total_bytes(), total);
        }
    }

    #[test]
    fn every_file_is_held_against_its_own_digest_however_the_bytes_are_cut() {
        let file = |name: &str, bytes: &[u8]| Artifact {
            name: name.into(),
            size: bytes.len() as u64,
            mode: 0o644,
            sha256: sha256_hex(bytes),
        };
        let good = [file("a", b"alpha"), file("empty", b""), file("b", b"beta"), file("last", b"")];
        for cut in 1..9 {
            let mut digests = Digests::new(&good);
            b"alphabeta".chunks(cut).for_each(|piece| digests.feed(piece));
            assert_eq!(digests.wrong(), None, "{cut}");
        }
        let mut short = Digests::new(&good);
        short.feed(b"alphabet");
        assert_eq!(short.wrong().map(|f| f.name.as_str()), Some("b"));
        let mut other = Digests::new(&good);
        other.feed(b"alphaBeta");
        assert_eq!(other.wrong().map(|f| f.name.as_str()), Some("b"));
        assert_eq!(Digests::new(&[]).wrong(), None);
    }
}
