//! The directory that a guardian lends to its attempts: fresh for each, made only once while nobody leaves anything in it.
//! Making one costs more than starting a process on some file systems.
use super::sys::Identity;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};

/// What the name of the directory for artifacts has behind that of the other.
pub(crate) const OUT: &str = ".out";
/// Ours alone, or the user's that it is lent to.
const MODE: u32 = 0o700;

/// A directory named after the guardian's process, and beside it one for artifacts.
pub(crate) struct Workdir {
    path: String,
    out: String,
    /// They exist, empty, and belong to this user.
    lent_to: Option<u32>,
}

impl Workdir {
    pub(crate) fn new(path: String) -> Self {
        Self { out: format!("{path}{OUT}"), path, lent_to: None }
    }

    /// The directory for artifacts.
    pub(crate) fn out_path(&self) -> &str {
        &self.out
    }

    /// Whether something lies in the directory for artifacts.
    pub(crate) fn has_artifacts(&self) -> bool {
        std::fs::read_dir(&self.out).is_ok_and(|mut entries| entries.next().is_some())
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Makes it ready for an attempt of a user; `None`: our own.
    pub(crate) fn lend(&mut self, user: Option<&Identity>) -> io::Result<()> {
        let uid = user.map_or_else(|| rustix::process::geteuid().as_raw(), |u| u.uid);
        if self.lent_to == Some(uid) {
            return Ok(());
        }
        self.lent_to = None;
        make(&self.path, user)?;
        make(&self.out, user)?;
        self.lent_to = Some(uid);
        Ok(())
    }

    /// Takes it back: what was left in it goes.
    pub(crate) fn take_back(&mut self) {
        if !self.is_untouched() {
            self.remove();
        }
    }

    fn is_untouched(&self) -> bool {
        [&self.path, &self.out].into_iter().all(|path| {
            let same = std::fs::symlink_metadata(path)
                .is_ok_and(|m| m.is_dir() && m.mode() & 0o7777 == MODE && Some(m.uid()) == self.lent_to);
            same && std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
        })
    }

    pub(crate) fn remove(&mut self) {
        self.lent_to = None;
        for path in [&self.path, &self.out] {
            if std::fs::remove_dir(path).is_err()
                && let Err(error) = std::fs::remove_dir_all(path)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(path, %error, "the directory of an attempt cannot be removed");
            }
        }
    }
}

fn make(path: &str, user: Option<&Identity>) -> io::Result<()> {
    match DirBuilder::new().mode(MODE).create(path) {
        // Left over from a killed guardian whose process id has come round.
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            std::fs::remove_dir_all(path)?;
            DirBuilder::new().mode(MODE).create(path)?;
        }
        other => other?,
    }
    match user {
        Some(user) => std::os::unix::fs::chown(path, Some(user.uid), Some(user.gid)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    #[test]
    fn it_is_empty_and_private_every_time_and_kept_only_while_untouched() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("7");
        let mut workdir = Workdir::new(path.to_str().unwrap().to_owned());
        workdir.lend(None).unwrap();
        let first = std::fs::metadata(&path).unwrap().ino();
        workdir.take_back();
        workdir.lend(None).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().ino(), first);
        std::fs::write(path.join("left"), "x").unwrap();
        workdir.take_back();
        assert!(!path.exists() && !Path::new(workdir.out_path()).exists());
        workdir.lend(None).unwrap();
        assert!(!workdir.has_artifacts());
        std::fs::write(format!("{}/model", workdir.out_path()), "x").unwrap();
        assert!(workdir.has_artifacts());
        workdir.take_back();
        assert!(!Path::new(workdir.out_path()).exists());
        workdir.lend(None).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).unwrap();
        workdir.take_back();
        assert!(!path.exists());
        workdir.lend(None).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, MODE);
        workdir.remove();
        workdir.remove();
        assert!(!path.exists());
    }

    #[test]
    fn a_leftover_of_somebody_else_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("7");
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("old"), "x").unwrap();
        Workdir::new(path.to_str().unwrap().to_owned()).lend(None).unwrap();
        assert_eq!(std::fs::read_dir(&path).unwrap().count(), 0);
    }
}
