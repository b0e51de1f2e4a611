//! Collecting artifacts: `reeve-agent keeper collect`, the process that a guardian starts when the last process of an attempt
//! has ended. It runs as the job's user, so it can read what the job could and nothing else; it copies the chosen files
//! one after the other into its standard output, a file of the guardian's, and their list behind them. What it leaves out
//! it says on standard error, which is part of the attempt's output.
use reeve_protocol::artifact::{self, Artifact};
use reeve_protocol::digest::Sha256;
use reeve_protocol::text::Clean;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, openat};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;

/// The words after the program that lead here.
pub const WORDS: [&str; 2] = ["keeper", "collect"];
/// Directory entries that are looked at.
const MAX_ENTRIES: usize = 100_000;
/// Directories below each other.
const MAX_DEPTH: usize = 64;
/// Bytes copied at once.
const PIECE: usize = 256 * 1024;
/// Lines about what was left out.
const MAX_REMARKS: usize = 20;
/// What reeve itself puts into the directory of an attempt.
const OURS: [&str; 4] = ["payload", "status", "result", crate::git::order::REPORT];

/// What is collected.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Order {
    /// Where the command started, absolute; patterns are relative to it.
    pub(crate) cwd: String,
    /// It is the attempt's own directory, where reeve has files of its own.
    pub(crate) is_own: bool,
    /// Everything below it is collected, absolute.
    pub(crate) out_dir: String,
    pub(crate) globs: Vec<String>,
    pub(crate) max_bytes: u64,
}

/// What stands behind the bytes, with its own length in eight bytes behind it.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Index {
    pub(crate) files: Vec<Artifact>,
}

/// Collects. Its exit code says whether the list is there.
pub fn run() -> u8 {
    let mut text = String::new();
    let read = io::stdin().read_to_string(&mut text).map_err(|e| e.to_string());
    let order: Order = match read.and_then(|_| serde_json::from_str(&text).map_err(|e| e.to_string())) {
        Ok(order) => order,
        Err(error) => {
            say(&format!("collecting needs an order on its standard input: {error}"));
            return 64;
        }
    };
    let result = io::stdout().as_fd().try_clone_to_owned().map(File::from).and_then(|into| {
        let mut collector = Collector::new(&order, into);
        collector.collect()
    });
    match result {
        Ok(()) => 0,
        Err(error) => {
            say(&format!("artifacts cannot be collected: {error}"));
            74
        }
    }
}

/// Into the output of the attempt; who cannot be told is not waited for.
fn say(what: &str) {
    let _ = writeln!(io::stderr(), "reeve: {}", Clean::short(what, 700));
}

/// Where a file was found.
struct Found {
    root: String,
    path: String,
}

struct Collector<'a> {
    order: &'a Order,
    into: File,
    found: BTreeMap<String, Found>,
    entries: usize,
    remarks: usize,
}

impl<'a> Collector<'a> {
    fn new(order: &'a Order, into: File) -> Self {
        Self { order, into, found: BTreeMap::new(), entries: 0, remarks: 0 }
    }

    fn remark(&mut self, what: &str) {
        self.remarks += 1;
        match self.remarks.cmp(&MAX_REMARKS) {
            std::cmp::Ordering::Less => say(what),
            std::cmp::Ordering::Equal => say("more artifacts were left out"),
            std::cmp::Ordering::Greater => {}
        }
    }

    fn collect(&mut self) -> io::Result<()> {
        // What lies in its own directory for artifacts comes last, and so wins.
        if !self.order.globs.is_empty() {
            self.walk_root(&self.order.cwd);
        }
        self.walk_root(&self.order.out_dir);
        let found = std::mem::take(&mut self.found);
        if found.len() > artifact::MAX_FILES {
            self.remark(&format!(
                "{} files are artifacts, the first {} are kept; pack many small files into one",
                found.len(),
                artifact::MAX_FILES
            ));
        }
        let mut files = Vec::new();
        let mut left = self.order.max_bytes;
        for (name, place) in found.into_iter().take(artifact::MAX_FILES) {
            match self.copy(&name, &place, left) {
                Ok(file) => {
                    left -= file.size;
                    files.push(file);
                }
                Err(error) => self.remark(&format!("artifact {name} was left out: {error}")),
            }
        }
        let index = serde_json::to_vec(&Index { files })?;
        self.into.write_all(&index)?;
        self.into.write_all(&(index.len() as u64).to_le_bytes())
    }

    fn walk_root(&mut self, root: &str) {
        let mut flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        // The directory that we made for it, and no other: the job may have put a link in its place.
        if root == self.order.out_dir {
            flags |= OFlags::NOFOLLOW;
        }
        match openat(rustix::fs::CWD, root, flags, Mode::empty()) {
            Ok(dir) => self.walk(root, &dir, "", 0),
            // A job may remove its directories.
            Err(rustix::io::Errno::NOENT) => {}
            Err(error) => self.remark(&format!("no artifacts can be looked for in {root}: {error}")),
        }
    }

    fn walk(&mut self, root: &str, dir: &OwnedFd, prefix: &str, depth: usize) {
        let entries = match Dir::read_from(dir) {
            Ok(entries) => entries,
            Err(error) => return self.remark(&format!("{prefix} cannot be searched for artifacts: {error}")),
        };
        for entry in entries.flatten() {
            let raw = entry.file_name();
            if raw == c"." || raw == c".." {
                continue;
            }
            self.entries += 1;
            if self.entries > MAX_ENTRIES {
                if self.entries == MAX_ENTRIES + 1 {
                    self.remark(
                        "more than 100,000 files were looked at for artifacts; the rest was left out",
                    );
                }
                return;
            }
            let Ok(name) = raw.to_str() else {
                if self.order.globs.is_empty() || root == self.order.out_dir {
                    self.remark(&format!(
                        "artifact {} was left out: its name is no UTF-8",
                        raw.to_string_lossy()
                    ));
                }
                continue;
            };
            let path = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}/{name}") };
            self.look_at(root, dir.as_fd(), name, path, depth);
        }
    }

    fn look_at(&mut self, root: &str, dir: BorrowedFd<'_>, name: &str, path: String, depth: usize) {
        let all = root == self.order.out_dir;
        if !all && depth == 0 && self.order.is_own && OURS.contains(&name) {
            return;
        }
        let Ok(stat) = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) else { return };
        let chosen = all || self.order.globs.iter().any(|glob| artifact::chooses(glob, &path));
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let below = chosen || self.order.globs.iter().any(|g| artifact::may_choose_below(g, &path));
                if !below {
                    return;
                }
                if depth >= MAX_DEPTH {
                    return self.remark(&format!("{path} is too deep to be searched for artifacts"));
                }
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                match openat(dir, name, flags, Mode::empty()) {
                    Ok(below) => self.walk(root, &below, &path, depth + 1),
                    Err(error) => self.remark(&format!("{path} cannot be searched for artifacts: {error}")),
                }
            }
            FileType::RegularFile if chosen => match artifact::check_name(&path) {
                Ok(()) => {
                    self.found.insert(path.clone(), Found { root: root.to_owned(), path });
                }
                Err(why) => self.remark(&format!("artifact {path} was left out: {why}")),
            },
            FileType::Symlink if chosen => {
                self.remark(&format!("artifact {path} was left out: it is a link"));
            }
            _ if chosen => self.remark(&format!("artifact {path} was left out: it is no plain file")),
            _ => {}
        }
    }

    /// Copies one file behind the others; what does not fit leaves nothing.
    fn copy(&mut self, name: &str, place: &Found, left: u64) -> io::Result<Artifact> {
        let begin = self.into.stream_position()?;
        let copied = self.append(name, place, left);
        if copied.is_err() {
            self.into.set_len(begin)?;
            self.into.seek(io::SeekFrom::Start(begin))?;
        }
        copied
    }

    fn append(&mut self, name: &str, place: &Found, left: u64) -> io::Result<Artifact> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let path = format!("{}/{}", place.root, place.path);
        let mut file = File::from(openat(rustix::fs::CWD, path, flags, Mode::empty())?);
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Err(io::Error::other("it is no plain file"));
        }
        let too_large = || {
            let most = reeve_protocol::units::show_bytes(self.order.max_bytes);
            io::Error::other(format!(
                "all artifacts together would be above {most} (--out-max, or half of what is free there)"
            ))
        };
        if meta.len() > left {
            return Err(too_large());
        }
        let (mut digest, mut size) = (Sha256::default(), 0);
        let mut piece = vec![0; PIECE];
        loop {
            let n = match file.read(&mut piece) {
                Ok(0) => break,
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            size += n as u64;
            // It may still grow: whoever writes is outside the attempt.
            if size > left {
                return Err(too_large());
            }
            digest.update(&piece[..n]);
            self.into.write_all(&piece[..n])?;
        }
        Ok(Artifact { name: name.to_owned(), size, mode: meta.mode() & 0o777, sha256: digest.hex() })
    }
}

#[cfg(test)]
#[path = "collect_test.rs"]
mod tests;
