//! The user's part of a machine's cache: locks that outlive what they guard, use by time, a bound on its size.
use super::order::Failure;
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, File, FileTimes};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Results of set-ups that nobody used this long are removed.
const SETUP_AGE: Duration = Duration::from_hours(30 * 24);
/// Work trees of a mirror that are written down; more than can live at once.
const MAX_TREES: usize = 10_000;

/// The cache.
pub(super) struct Cache {
    root: PathBuf,
}

/// A lock, until it is dropped or its process ends.
pub(super) struct Lock(#[expect(dead_code, reason = "the lock lives with its file")] File);

impl Cache {
    pub(super) fn open(root: &str) -> Result<Self, Failure> {
        let cache = Self { root: PathBuf::from(root) };
        for dir in ["locks", "mirrors", "setups"] {
            fs::create_dir_all(cache.dir(dir)).map_err(|e| Failure::disk("the cache cannot be used", &e))?;
        }
        Ok(cache)
    }

    pub(super) fn dir(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Nobody removes it.
    pub(super) fn share(&self, key: &str) -> Result<Lock, Failure> {
        self.lock(key, FlockOperation::LockShared)
    }

    /// Nobody else uses it.
    pub(super) fn take(&self, key: &str) -> Result<Lock, Failure> {
        self.lock(key, FlockOperation::LockExclusive)
    }

    /// Locks are files of their own, which are never removed: a lock on a removed file guards nothing.
    fn lock(&self, key: &str, how: FlockOperation) -> Result<Lock, Failure> {
        let path = self.dir("locks").join(key);
        let open = || {
            let file = File::options().create(true).truncate(false).write(true).open(&path)?;
            loop {
                match flock(&file, how) {
                    Err(rustix::io::Errno::INTR) => {}
                    other => return other.map(|()| Lock(file)).map_err(std::io::Error::from),
                }
            }
        };
        open().map_err(|e| Failure::disk("the cache cannot be locked", &e))
    }

    /// Removes the mirrors that were used longest ago until all together fit, but not the one just filled (`keep`), none
    /// that somebody holds and none that a work tree lives on.
    pub(super) fn evict(&self, keep: &str, most: u64) {
        let Ok(entries) = fs::read_dir(self.dir("mirrors")) else { return };
        let mut mirrors: Vec<(SystemTime, u64, PathBuf)> = entries
            .flatten()
            .filter_map(|e| Some((e.metadata().ok()?.modified().ok()?, size(&e.path()), e.path())))
            .collect();
        let mut total: u64 = mirrors.iter().map(|(_, bytes, _)| bytes).sum();
        mirrors.sort();
        for (_, bytes, path) in mirrors {
            if total <= most {
                break;
            }
            let Some(key) = path.file_name().and_then(|n| n.to_str()).filter(|name| *name != keep) else {
                continue;
            };
            let Ok(_lock) = self.lock(key, FlockOperation::NonBlockingLockExclusive) else { continue };
            if !has_live_tree(&path) && fs::remove_dir_all(&path).is_ok() {
                total = total.saturating_sub(bytes);
            }
        }
        self.remove_old_setups();
    }

    fn remove_old_setups(&self) {
        let Ok(entries) = fs::read_dir(self.dir("setups")) else { return };
        let is_old = |path: &Path| {
            let used = fs::metadata(path).and_then(|m| m.modified());
            used.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > SETUP_AGE))
        };
        for path in entries.flatten().map(|e| e.path()).filter(|path| is_old(path)) {
            let Some(key) = path.file_name().and_then(|n| n.to_str()) else { continue };
            if self.lock(key, FlockOperation::NonBlockingLockExclusive).is_ok() {
                let _ = fs::remove_dir_all(&path);
            }
        }
    }
}

/// It is used now.
pub(super) fn touch(dir: &Path) {
    let _ = File::open(dir).and_then(|d| d.set_times(FileTimes::new().set_modified(SystemTime::now())));
}

pub(super) fn note_tree(mirror: &Path, tree: &Path) {
    let path = mirror.join("trees");
    let known = fs::read_to_string(&path).unwrap_or_default();
    if known.lines().count() > MAX_TREES {
        let living: String =
            known.lines().filter(|t| Path::new(t).exists()).map(|t| format!("{t}\n")).collect();
        let _ = fs::write(&path, living);
    }
    // One write of a short line: those of several processes do not mix.
    let line = format!("{}\n", tree.display());
    let _ =
        File::options().create(true).append(true).open(path).and_then(|mut f| f.write_all(line.as_bytes()));
}

fn has_live_tree(mirror: &Path) -> bool {
    fs::read_to_string(mirror.join("trees")).is_ok_and(|trees| trees.lines().any(|t| Path::new(t).exists()))
}

/// Bytes of everything below.
pub(super) fn size(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let of = |entry: fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => size(&entry.path()),
        Ok(meta) => meta.len(),
        Err(_) => 0,
    };
    entries.flatten().map(of).sum()
}

/// Lock files and half-written packs of a git that was killed. The caller holds our own lock, so nobody uses them.
pub(super) fn remove_leftovers(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        match entry.file_type() {
            // Directories of loose objects have names of two letters and no locks in them.
            Ok(kind) if kind.is_dir() && name.len() > 2 => remove_leftovers(&entry.path()),
            Ok(kind) if !kind.is_dir() && (name.ends_with(".lock") || name.starts_with("tmp_")) => {
                let _ = fs::remove_file(entry.path());
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &Path, bytes: usize) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, vec![0; bytes]).unwrap();
    }

    #[test]
    fn what_was_used_longest_ago_goes_first_unless_a_tree_lives_on_it_or_somebody_holds_it() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path().to_str().unwrap()).unwrap();
        let mirrors = cache.dir("mirrors");
        for (age, name) in [(50, "used"), (40, "held"), (30, "old"), (20, "newer"), (10, "just-filled")] {
            file(&mirrors.join(name).join("repo.git/pack"), 1000);
            let at = SystemTime::now() - Duration::from_secs(age);
            let times = FileTimes::new().set_modified(at);
            File::open(mirrors.join(name)).unwrap().set_times(times).unwrap();
        }
        let tree = dir.path().join("tree");
        fs::create_dir(&tree).unwrap();
        fs::write(mirrors.join("used/trees"), format!("{}\n", tree.display())).unwrap();
        let held = cache.share("held").unwrap();
        cache.evict("just-filled", 4500);
        let left = |name: &str| mirrors.join(name).exists();
        assert!(left("used") && left("held") && left("newer") && left("just-filled") && !left("old"));
        drop(held);
        fs::remove_dir(&tree).unwrap();
        cache.evict("just-filled", 0);
        assert!(left("just-filled") && !left("used") && !left("held") && !left("newer"));
    }

    #[test]
    fn leftovers_of_a_killed_git_go_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["HEAD.lock", "refs/reeve/x.lock", "objects/pack/tmp_pack_1", "shallow.lock"] {
            file(&dir.path().join(name), 1);
        }
        for name in ["HEAD", "refs/reeve/x", "objects/pack/pack-1.pack", "objects/ab/tmp_obj"] {
            file(&dir.path().join(name), 1);
        }
        remove_leftovers(dir.path());
        assert_eq!(size(dir.path()), 4);
    }

    #[test]
    fn many_trees_are_written_down_and_the_gone_ones_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("trees"), "/nowhere/x\n".repeat(MAX_TREES + 1)).unwrap();
        note_tree(dir.path(), dir.path());
        assert_eq!(
            fs::read_to_string(dir.path().join("trees")).unwrap(),
            format!("{}\n", dir.path().display())
        );
        assert!(has_live_tree(dir.path()));
    }
}
