//! The runtime directory: who may enter it, the lock, the words drawn when it was made.
use crate::guardian::replica;
use reeve_protocol::ids::AttemptId;
use rustix::fs::{FlockOperation, flock};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Something about the directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory in it.
    #[error("cannot use {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another keeper holds the lock.
    #[error("another keeper serves {0}")]
    Taken(PathBuf),
    /// Its name is not text, and jobs get it in their environment.
    #[error("the directory {0:?} has a name that is not UTF-8")]
    Name(PathBuf),
}

/// A runtime directory that is ours alone, and the working directory of this process.
pub(crate) struct Place {
    /// Absolute.
    pub(crate) root: String,
    /// What guardians ask of whoever connects.
    pub(crate) nonce: String,
    /// The name of this keeper.
    pub(crate) word: String,
    /// Where attempts get their directories, absolute.
    pub(crate) work: String,
    /// The machine was restarted since a keeper was here: nobody lives whom one could find.
    pub(crate) is_new_life: bool,
    spool: PathBuf,
    _lock: File,
}

impl Place {
    /// Makes what is missing and takes the lock. An agent of another user reaches sockets and nonce by its group.
    pub(crate) fn enter(
        dir: &Path,
        data: Option<&Path>,
        agent_gid: Option<u32>,
        life: &str,
    ) -> Result<Self, Error> {
        let at = |path: &Path| {
            let path = path.to_path_buf();
            move |source| Error::File { path, source }
        };
        // Others must be able to pass through to their own attempt's directory when root changes users.
        let passage = if rustix::process::geteuid().is_root() { 0o711 } else { 0o700 };
        make(dir, passage).map_err(at(dir))?;
        let dir = &dir.canonicalize().map_err(at(dir))?;
        let data = data.unwrap_or(dir);
        make(data, passage).map_err(at(data))?;
        let data = data.canonicalize().map_err(at(data))?;
        let text =
            |path: &Path| path.to_str().map(str::to_owned).ok_or_else(|| Error::Name(path.to_path_buf()));
        let (root, work) = (text(dir)?, data.join("work"));
        for (path, mode) in [(dir.join("g"), 0o700), (dir.join(replica::DIR), 0o700), (work.clone(), passage)]
        {
            make(&path, mode).map_err(at(&path))?;
        }
        let lock_path = dir.join("keeper.lock");
        let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&lock_path);
        let lock = lock.map_err(at(&lock_path))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|_| Error::Taken(dir.clone()))?;
        std::env::set_current_dir(dir).map_err(at(dir))?;
        let nonce = drawn("nonce".as_ref(), "").map_err(at(&dir.join("nonce")))?;
        if let Some(gid) = agent_gid {
            // Sockets made in the directory get its group.
            for (name, mode) in [("g", 0o2710), (replica::DIR, 0o2710), ("nonce", 0o640)] {
                share(name.as_ref(), gid, mode).map_err(at(&dir.join(name)))?;
            }
        }
        // The name of a keeper is that of its directory: in a copy of it, another keeper lives.
        let here = std::fs::metadata(dir).map_err(at(dir))?;
        let here = format!(" {:x}.{:x}", here.dev(), here.ino());
        let word = drawn("keeper".as_ref(), &here).map_err(at(&dir.join("keeper")))?;
        let is_new_life = noted_life(life).map_err(at(&dir.join("life")))?;
        let (work, spool) = (text(&work)?, data.join("spool"));
        Ok(Self { root, nonce, word, work, is_new_life, spool, _lock: lock })
    }

    /// Whether whoever looks for this directory by its name finds this one: it may have been removed or replaced.
    pub(crate) fn is_in_place(&self) -> bool {
        let same = |a: std::fs::Metadata, b: std::fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
        let guardians = Path::new(&self.root).join("g");
        std::fs::metadata(guardians).ok().zip(std::fs::metadata("g").ok()).is_some_and(|(a, b)| same(a, b))
    }

    /// Where the output of an attempt goes. The lineage is checked by the caller: it becomes part of a path.
    pub(crate) fn spool_path(&self, lineage: &str, attempt: AttemptId) -> PathBuf {
        self.spool.join(lineage).join(attempt.file_name())
    }

    /// The lineage of the attempts here, for those whose guardian can no longer say it.
    pub(crate) fn lineage() -> String {
        std::fs::read_to_string("lineage").unwrap_or_default().trim().to_owned()
    }

    pub(crate) fn set_lineage(lineage: &str) {
        if let Err(error) = std::fs::write("lineage", lineage) {
            tracing::warn!(%error, "the lineage cannot be noted");
        }
    }
}

/// Whether a lineage may be part of a path.
pub(crate) fn is_plain(lineage: &str) -> bool {
    (1..=64).contains(&lineage.len()) && lineage.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// Makes a directory, or gives one that is there this mode.
pub(super) fn make(dir: &Path, mode: u32) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(mode).create(dir)?;
    // Whatever the umask, and whoever made it.
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(mode))
}

/// Gives a file to a group, with this mode.
pub(crate) fn share(path: &Path, gid: u32, mode: u32) -> io::Result<()> {
    std::os::unix::fs::chown(path, None, Some(gid))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}

/// Notes the machine's life; whether another one was noted before.
fn noted_life(life: &str) -> io::Result<bool> {
    match std::fs::read_to_string("life") {
        Ok(before) if before == life => return Ok(false),
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            std::fs::write("life", life)?;
            return Ok(false);
        }
        Err(e) => return Err(e),
    }
    std::fs::write("life", life)?;
    Ok(true)
}

/// The word in a file; drawn at random the first time, and again when it was drawn for something else than `mark`.
fn drawn(path: &Path, mark: &str) -> io::Result<String> {
    match std::fs::read_to_string(path) {
        Ok(text) => {
            if let Some(word) = text.trim_end().strip_suffix(mark).filter(|word| word.len() >= 16) {
                return Ok(word.to_owned());
            }
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    let mut raw = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut raw)?;
    let word = raw.iter().fold(String::new(), |word, b| word + &format!("{b:02x}"));
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?
        .write_all(format!("{word}{mark}").as_bytes())?;
    Ok(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_drawn_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nonce");
        let word = drawn(&path, "").unwrap();
        assert_eq!(word.len(), 32);
        assert_eq!(drawn(&path, "").unwrap(), word);
        let marked = drawn(&path, " 1.2").unwrap();
        assert!(marked != word && marked.len() == 32, "it was drawn for something else");
        assert_eq!(drawn(&path, " 1.2").unwrap(), marked);
        assert_ne!(drawn(&path, " 1.3").unwrap(), marked, "in a copy of the directory");
        std::fs::write(&path, "short").unwrap();
        assert_ne!(drawn(&path, "").unwrap(), "short");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_lineage_is_no_path() {
        assert!(is_plain("a1b2-c3"));
        for bad in ["", ".", "..", "a/b", "a.b", "\u{e9}", &"x".repeat(65)] {
            assert!(!is_plain(bad), "{bad}");
        }
    }
}
