//! Output that is too large for the store: tapes one after the other in shared segment files of 64 MiB.
//!
//! A tape is written while it arrives, into a segment that no other tape is being written into; the row that names it
//! belongs to the commit that records the attempt's end, after the segment has been synced. Bytes of a tape that never
//! got a row are dead space until the segment is removed.
use crate::input::Segment;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A segment that has reached this size takes no further tape.
pub const SEGMENT_BYTES: u64 = 64 * 1024 * 1024;

/// Left free when a tape is taken: what is said on the control streams must always find room.
const RESERVE: u64 = 32 * 1024 * 1024;

/// The segment files of a store.
pub struct Segments {
    dir: PathBuf,
    state: Arc<Mutex<State>>,
    waiting: Arc<AtomicUsize>,
}

/// A tape that waits for room, as long as this lives.
pub struct Waiting(Arc<AtomicUsize>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

struct State {
    next: u64,
    /// Segments with room that no tape is being written into: `(number, length)`.
    idle: Vec<(u64, u64)>,
    total: u64,
}

/// A tape that is being written. One that is dropped before its end gives its bytes and its segment back.
pub struct Writer {
    file: File,
    number: u64,
    start: u64,
    len: u64,
    state: Arc<Mutex<State>>,
    is_ended: bool,
}

impl Segments {
    /// Opens the directory, which is made if it is absent. Old segments are only read.
    ///
    /// # Errors
    /// From the file system.
    pub fn open(dir: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let (mut next, mut total) = (1, 0);
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            if let Some(number) = entry
                .file_name()
                .to_str()
                .and_then(|n| n.strip_suffix(".seg"))
                .and_then(|n| n.parse::<u64>().ok())
            {
                next = next.max(number + 1);
                total += entry.metadata()?.len();
            }
        }
        let state = Arc::new(Mutex::new(State { next, idle: Vec::new(), total }));
        Ok(Self { dir: dir.to_owned(), state, waiting: Arc::default() })
    }

    /// Begins a tape.
    ///
    /// # Errors
    /// From the file system.
    pub fn begin(&self) -> io::Result<Writer> {
        let (number, start) = {
            let mut state = self.lock();
            state.idle.pop().unwrap_or_else(|| {
                state.next += 1;
                (state.next - 1, 0)
            })
        };
        let file =
            File::options().create(true).truncate(false).read(true).write(true).open(self.path(number))?;
        Ok(Writer { file, number, start, len: 0, state: self.state.clone(), is_ended: false })
    }

    /// Ends a tape: syncs it, and gives the segment free for the next.
    ///
    /// # Errors
    /// From the file system; the tape is then not usable.
    pub fn finish(&self, mut writer: Writer) -> io::Result<Segment> {
        // After a sync that failed nobody knows what the file holds: no other tape goes there.
        writer.is_ended = true;
        writer.file.sync_data()?;
        let segment = Segment { file: writer.number, offset: writer.start, len: writer.len };
        let mut state = self.lock();
        state.total += writer.len;
        let end = writer.start + writer.len;
        if end < SEGMENT_BYTES {
            state.idle.push((writer.number, end));
        }
        Ok(segment)
    }

    /// Gives back a tape that no row will ever name. Behind the last tape of its segment that is space for the next one;
    /// elsewhere it stays dead until the segment is removed.
    pub fn discard(&self, segment: Segment) {
        let mut state = self.lock();
        let end = segment.offset + segment.len;
        let Some(at) = state.idle.iter().position(|idle| *idle == (segment.file, end)) else { return };
        // Its lock keeps the next writer away until the file is short again.
        let cut = File::options().write(true).open(self.path(segment.file));
        if cut.and_then(|file| file.set_len(segment.offset)).is_ok() {
            state.idle[at].1 = segment.offset;
            state.total = state.total.saturating_sub(segment.len);
        }
    }

    /// Reads from a tape: at most `max` bytes from `from`; empty at the end.
    ///
    /// # Errors
    /// From the file system; `NotFound` when the segment was removed.
    pub fn read(&self, segment: Segment, from: u64, max: usize) -> io::Result<Vec<u8>> {
        let left = segment.len.saturating_sub(from).min(max as u64) as usize;
        let mut bytes = vec![0; left];
        if left > 0 {
            File::open(self.path(segment.file))?.read_exact_at(&mut bytes, segment.offset + from)?;
        }
        Ok(bytes)
    }

    /// Whether the disk has room for so many bytes beside what it must always have.
    pub fn has_room(&self, bytes: u64) -> bool {
        // A disk that cannot be asked says no by itself when it is written to.
        rustix::fs::statvfs(&self.dir)
            .map_or(true, |disk| disk.f_bavail.saturating_mul(disk.f_frsize) >= bytes.saturating_add(RESERVE))
    }

    /// Counts a tape as waiting for room until the answer is dropped.
    pub fn wait(&self) -> Waiting {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Waiting(self.waiting.clone())
    }

    /// How many tapes wait for room.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Bytes in all segments.
    pub fn total_bytes(&self) -> u64 {
        self.lock().total
    }

    fn path(&self, number: u64) -> PathBuf {
        self.dir.join(format!("{number:08}.seg"))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Should it not shrink, its bytes are dead space as long as the segment is there.
        if !self.is_ended && self.file.set_len(self.start).is_ok() {
            lock(&self.state).idle.push((self.number, self.start));
        }
    }
}

impl Writer {
    /// Appends a piece.
    ///
    /// # Errors
    /// From the file system.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, self.start + self.len)?;
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Bytes so far.
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing was written yet.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tape_that_breaks_off_leaves_neither_bytes_nor_a_segment_behind() {
        let dir = tempfile::tempdir().unwrap();
        let segments = Segments::open(dir.path()).unwrap();
        let mut whole = segments.begin().unwrap();
        whole.append(b"whole").unwrap();
        let whole = segments.finish(whole).unwrap();
        for _ in 0..3 {
            let mut broken = segments.begin().unwrap();
            broken.append(&[0; 10_000]).unwrap();
        }
        let files: Vec<_> =
            std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).collect();
        assert_eq!(files, [5]);
        assert_eq!(segments.read(whole, 0, 100).unwrap(), b"whole");
        assert!(segments.has_room(0) && !segments.has_room(u64::MAX));
    }

    #[test]
    fn a_tape_that_nobody_names_gives_its_space_back_where_it_can() {
        let dir = tempfile::tempdir().unwrap();
        let segments = Segments::open(dir.path()).unwrap();
        let write = |bytes: &[u8]| {
            let mut writer = segments.begin().unwrap();
            writer.append(bytes).unwrap();
            segments.finish(writer).unwrap()
        };
        let (kept, dead) = (write(b"kept"), write(b"dead and gone"));
        segments.discard(dead);
        assert_eq!(segments.total_bytes(), 4);
        let next = write(b"next");
        assert_eq!((next.file, next.offset), (kept.file, 4));
        segments.discard(kept);
        assert_eq!(segments.read(next, 0, 10).unwrap(), b"next", "others lie behind it");
        assert_eq!(segments.total_bytes(), 8);
    }

    #[test]
    fn tapes_share_segments_and_are_read_back_in_pieces() {
        let dir = tempfile::tempdir().unwrap();
        let segments = Segments::open(dir.path()).unwrap();
        let (mut a, mut b) = (segments.begin().unwrap(), segments.begin().unwrap());
        a.append(b"hello ").unwrap();
        b.append(b"other").unwrap();
        a.append(b"world").unwrap();
        let (a, b) = (segments.finish(a).unwrap(), segments.finish(b).unwrap());
        assert_ne!(a.file, b.file, "two tapes at once never share a segment");
        assert_eq!(segments.read(a, 0, 100).unwrap(), b"hello world");
        assert_eq!(segments.read(a, 6, 3).unwrap(), b"wor");
        assert_eq!(segments.read(a, 11, 3).unwrap(), b"");
        let mut c = segments.begin().unwrap();
        c.append(b"third").unwrap();
        let c = segments.finish(c).unwrap();
        assert!(c.offset > 0, "a third tape goes behind one of the first two");
        assert_eq!(segments.read(c, 0, 100).unwrap(), b"third");
        assert_eq!(segments.total_bytes(), 21);
        assert_eq!(Segments::open(dir.path()).unwrap().total_bytes(), 21);
    }
}
