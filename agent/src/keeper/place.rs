//! The runtime directory: who may enter it, the lock, the words drawn when it was made.
use reeve_protocol::ids::AttemptId;
use rustix::fs::{FlockOperation, flock};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
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
    spool: PathBuf,
    _lock: File,
}

impl Place {
    /// Makes what is missing and takes the lock.
    pub(crate) fn enter(dir: &Path, data: Option<&Path>) -> Result<Self, Error> {
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
        for (path, mode) in [(dir.join("g"), 0o700), (work.clone(), passage)] {
            make(&path, mode).map_err(at(&path))?;
        }
        let lock_path = dir.join("keeper.lock");
        let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&lock_path);
        let lock = lock.map_err(at(&lock_path))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|_| Error::Taken(dir.clone()))?;
        let word = |name: &str| drawn(&dir.join(name)).map_err(at(&dir.join(name)));
        let (nonce, word) = (word("nonce")?, word("keeper")?);
        std::env::set_current_dir(dir).map_err(at(dir))?;
        Ok(Self { root, nonce, word, work: text(&work)?, spool: data.join("spool"), _lock: lock })
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

fn make(dir: &Path, mode: u32) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(mode).create(dir)?;
    // Whatever the umask, and whoever made it.
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(mode))
}

/// The word in a file; drawn at random the first time.
fn drawn(path: &Path) -> io::Result<String> {
    match std::fs::read_to_string(path) {
        Ok(word) if word.trim().len() >= 16 => return Ok(word.trim().to_owned()),
        Ok(_) => {}
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
        .write_all(word.as_bytes())?;
    Ok(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_drawn_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nonce");
        let word = drawn(&path).unwrap();
        assert_eq!(word.len(), 32);
        assert_eq!(drawn(&path).unwrap(), word);
        std::fs::write(&path, "short").unwrap();
        assert_ne!(drawn(&path).unwrap(), "short");
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
