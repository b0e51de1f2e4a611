//! A disk that keeps exactly what it promised, and fails when it is told to: the model behind [`crate::vfs`].
//!
//! Beside each file of a store lies `FILE.durable` with what was synced; [`power_on`] puts those in place, as a machine
//! finds them after a power cut. What goes wrong is read from the file `faults` in the store's directory, a fault and a
//! number, before every write and sync, so that a test can change it while a coordinator runs.
use rusqlite::ffi::{SQLITE_FULL, SQLITE_IOERR_FSYNC, SQLITE_IOERR_WRITE, SQLITE_OK};
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What a disk writes whole or not at all.
const SECTOR: usize = 512;
const FAULTS: &str = "faults";

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The n-th sync of the log fails, and what it should have synced is gone from then on, as after an error of the
    /// kernel's write-back. Later ones succeed.
    FailSync(u64),
    /// The n-th sync of the store's own file, which is one of a checkpoint, fails.
    FailCheckpoint(u64),
    /// The power fails before the n-th sync of the log: some of what was written is on disk, torn at a sector.
    CutBeforeSync(u64),
    /// The power fails when the n-th sync of the log has been done and nobody knows it yet.
    CutAfterSync(u64),
    /// The power fails before the n-th sync of the store's own file, in the middle of a checkpoint.
    CutInCheckpoint(u64),
    /// Every sync takes so many milliseconds. They are counted in the file `syncs`.
    SlowSync(u64),
    /// Store, log and ballast together may have so many bytes.
    Full(u64),
    /// Half of the n-th write is written, then it fails.
    TearWrite(u64),
}

type Make = fn(u64) -> Fault;

impl Fault {
    const NAMES: [(&'static str, Make); 8] = [
        ("fail-sync", Self::FailSync),
        ("fail-checkpoint", Self::FailCheckpoint),
        ("cut-before-sync", Self::CutBeforeSync),
        ("cut-after-sync", Self::CutAfterSync),
        ("cut-in-checkpoint", Self::CutInCheckpoint),
        ("slow-sync", Self::SlowSync),
        ("full", Self::Full),
        ("tear-write", Self::TearWrite),
    ];

    /// Lets the disk below a directory fail like this from now on. Counts begin anew.
    pub fn set(self, dir: &Path) {
        let name = Self::NAMES.iter().find_map(|(name, make)| {
            let number = self.number();
            (make(number) == self).then(|| format!("{name} {number}"))
        });
        // Renamed into place: whoever reads it in between must not find half of it.
        let new = dir.join("faults.new");
        std::fs::write(&new, name.unwrap()).unwrap();
        std::fs::rename(new, dir.join(FAULTS)).unwrap();
    }

    /// Nothing fails any more.
    pub fn heal(dir: &Path) {
        let _ = std::fs::remove_file(dir.join(FAULTS));
    }

    const fn number(self) -> u64 {
        match self {
            Self::FailSync(n)
            | Self::FailCheckpoint(n)
            | Self::CutBeforeSync(n)
            | Self::CutAfterSync(n)
            | Self::CutInCheckpoint(n)
            | Self::SlowSync(n)
            | Self::Full(n)
            | Self::TearWrite(n) => n,
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let (name, number) = text.trim().split_once(' ')?;
        let number = number.parse().ok()?;
        Self::NAMES.iter().find_map(|(known, make)| (*known == name).then(|| make(number)))
    }
}

enum Change {
    Write(u64, Vec<u8>),
    Cut(u64),
}

/// Everything that was written and not synced, by file; and how often what was done since the fault was set.
#[derive(Default)]
pub(crate) struct Disk {
    pending: HashMap<PathBuf, Vec<Change>>,
    fault: HashMap<PathBuf, (String, u64)>,
}

/// The one disk of this process.
pub(crate) fn disk() -> MutexGuard<'static, Disk> {
    static DISK: LazyLock<Mutex<Disk>> = LazyLock::new(Mutex::default);
    DISK.lock().unwrap_or_else(PoisonError::into_inner)
}

fn shadow(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".durable");
    name.into()
}

fn is_log(path: &Path) -> bool {
    path.as_os_str().to_string_lossy().ends_with("-wal")
}

fn dir(path: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new("/")).to_owned()
}

impl Disk {
    /// A file was opened. What a process finds when it starts is on disk.
    pub(crate) fn opened(&mut self, path: &Path) {
        if !self.pending.contains_key(path) {
            std::fs::copy(path, shadow(path)).unwrap();
            self.pending.insert(path.to_owned(), Vec::new());
        }
    }

    /// A file was deleted.
    pub(crate) fn deleted(&mut self, path: &Path) {
        if self.pending.remove(path).is_some() {
            let _ = std::fs::remove_file(shadow(path));
        }
    }

    /// Bytes are about to be written: how many of them will be, and the code to answer with.
    pub(crate) fn write(&mut self, path: &Path, at: u64, bytes: &[u8]) -> (usize, i32) {
        let (fault, count) = self.count(path, |fault| matches!(fault, Fault::TearWrite(_)));
        let (kept, code) = match fault {
            Some(Fault::TearWrite(n)) if n == count => (bytes.len() / 2, SQLITE_IOERR_WRITE),
            Some(Fault::Full(limit)) if grows_above(path, at + bytes.len() as u64, limit) => (0, SQLITE_FULL),
            _ => (bytes.len(), SQLITE_OK),
        };
        if kept > 0 {
            self.changed(path, Change::Write(at, bytes[..kept].to_vec()));
        }
        (kept, code)
    }

    /// A file was cut.
    pub(crate) fn truncated(&mut self, path: &Path, len: u64) {
        self.changed(path, Change::Cut(len));
    }

    fn changed(&mut self, path: &Path, change: Change) {
        self.pending.entry(path.to_owned()).or_default().push(change);
    }

    /// The fault of a file's directory, and how often what it is about has been done since it was set, this time included.
    fn count(&mut self, path: &Path, is_about_this: impl FnOnce(Fault) -> bool) -> (Option<Fault>, u64) {
        let dir = dir(path);
        let text = std::fs::read_to_string(dir.join(FAULTS)).unwrap_or_default();
        let fault = Fault::parse(&text);
        let seen = self.fault.entry(dir).or_default();
        if seen.0 != text {
            *seen = (text, 0);
        }
        seen.1 += u64::from(fault.is_some_and(is_about_this));
        (fault, seen.1)
    }
}

/// A file is synced: `real` does it. Gives the code to answer with.
pub(crate) fn sync(path: &Path, real: impl FnOnce() -> i32) -> i32 {
    let log = is_log(path);
    let (fault, count, changes) = {
        let mut disk = disk();
        let (fault, count) = disk.count(path, |fault| match fault {
            Fault::FailCheckpoint(_) | Fault::CutInCheckpoint(_) => !log,
            Fault::SlowSync(_) => true,
            _ => log,
        });
        // What is written from here on was not there when the sync began: it is promised to nobody.
        (fault, count, disk.pending.get_mut(path).map(std::mem::take).unwrap_or_default())
    };
    match fault {
        Some(Fault::SlowSync(ms)) => {
            std::thread::sleep(Duration::from_millis(ms));
            let _ = std::fs::write(dir(path).join("syncs"), count.to_string());
        }
        Some(Fault::FailSync(n)) if log && n == count => return SQLITE_IOERR_FSYNC,
        Some(Fault::FailCheckpoint(n)) if !log && n == count => return SQLITE_IOERR_FSYNC,
        Some(Fault::CutBeforeSync(n)) if log && n == count => cut(path, &changes, n),
        Some(Fault::CutInCheckpoint(n)) if !log && n == count => cut(path, &changes, n),
        _ => {}
    }
    let code = real();
    if code == SQLITE_OK {
        apply(path, &changes);
        if matches!(fault, Some(Fault::CutAfterSync(n)) if log && n == count) {
            std::process::abort();
        }
    }
    code
}

/// The power is gone: of what was not synced a part is on disk, in no order, the last of it torn.
fn cut(path: &Path, changes: &[Change], seed: u64) -> ! {
    let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let mut kept = Vec::new();
    for change in changes {
        match change {
            _ if next() % 2 == 0 => {}
            Change::Write(at, bytes) => kept.push(Change::Write(*at, bytes.clone())),
            Change::Cut(len) => kept.push(Change::Cut(*len)),
        }
    }
    if let Some(Change::Write(_, bytes)) = kept.last_mut() {
        let sectors = bytes.len() / SECTOR;
        bytes.truncate(next() as usize % (sectors + 1) * SECTOR);
    }
    apply(path, &kept);
    std::process::abort()
}

fn apply(path: &Path, changes: &[Change]) {
    if changes.is_empty() {
        return;
    }
    let file = File::options().write(true).open(shadow(path)).unwrap();
    for change in changes {
        match change {
            Change::Write(at, bytes) => file.write_all_at(bytes, *at).unwrap(),
            Change::Cut(len) => file.set_len(*len).unwrap(),
        }
    }
}

fn grows_above(path: &Path, end: u64, limit: u64) -> bool {
    let len = |path: &Path| std::fs::metadata(path).map_or(0, |m| m.len());
    let (own, store) = (len(path), path.to_string_lossy().trim_end_matches("-wal").to_owned());
    let all =
        len(Path::new(&store)) + len(Path::new(&format!("{store}-wal"))) + len(&dir(path).join("ballast"));
    end > own && all + (end - own) > limit
}

/// After a power cut: the files of a directory become what was synced of them. The index of the log lives in memory and is
/// gone.
pub fn power_on(dir: &Path) {
    disk().pending.retain(|path, _| !path.starts_with(dir));
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        let name = path.to_string_lossy();
        if let Some(real) = name.strip_suffix(".durable") {
            std::fs::rename(&path, real).unwrap();
        } else if name.ends_with("-shm") {
            std::fs::remove_file(&path).unwrap();
        }
    }
}
