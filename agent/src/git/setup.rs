//! The set-up command of a job: runs in the checkout before the command. One that puts its result into
//! `$REEVE_SETUP_DIR` is run once per user, command and set of lock files on a machine; any other leaves its result in the
//! work tree, which is fresh for each attempt, so it runs for each.
use super::cache::{Cache, touch};
use super::order::Failure;
use reeve_protocol::token::sha256_hex;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Files that say completely what a set-up installs. Looked for in the repository's root and where the command starts.
const LOCK_FILES: [&str; 17] = [
    "Cargo.lock",
    "Gemfile.lock",
    "Pipfile.lock",
    "composer.lock",
    "conda-lock.yml",
    "environment.yml",
    "go.sum",
    "package-lock.json",
    "pdm.lock",
    "pnpm-lock.yaml",
    "poetry.lock",
    "pylock.toml",
    "pyproject.toml",
    "requirements.txt",
    "setup.py",
    "uv.lock",
    "yarn.lock",
];
/// The variable with the directory that is kept.
pub(super) const VARIABLE: &str = "REEVE_SETUP_DIR";

/// Runs it, unless its result is here. Gives the directory that is kept, if it uses one.
pub(super) fn run(
    cache: &Cache,
    setup: &str,
    commit: &str,
    tree: &Path,
    dir: &Path,
) -> Result<Option<String>, Failure> {
    if !setup.contains(VARIABLE) {
        return call(setup, commit, dir, None).map(|()| None);
    }
    let key = key(setup, commit, tree, dir);
    let place = cache.dir("setups").join(&key);
    let (kept, stamp) = (place.join("dir"), place.join("done"));
    let shown = Some(kept.to_string_lossy().into_owned());
    // Held while it runs: whoever needs the same waits, and finds it done.
    let _lock = cache.take(&key)?;
    if stamp.is_file() {
        touch(&place);
        super::say("set-up: done before for these lock files");
        return Ok(shown);
    }
    let fresh = || {
        if place.exists() {
            fs::remove_dir_all(&place)?;
        }
        fs::create_dir_all(&kept)
    };
    fresh().map_err(|e| Failure::disk("no directory for the set-up", &e))?;
    call(setup, commit, dir, Some(&kept))?;
    fs::write(stamp, setup).map_err(|e| Failure::disk("the set-up cannot be noted", &e))?;
    Ok(shown)
}

/// What decides whether a result can be used again. Without any lock file, only for the same commit.
fn key(setup: &str, commit: &str, tree: &Path, dir: &Path) -> String {
    let below = dir.strip_prefix(tree).unwrap_or(Path::new("")).to_string_lossy().into_owned();
    let mut text = format!("{setup}\0{below}\0");
    let mut found = false;
    for place in [tree, dir] {
        for name in LOCK_FILES {
            if let Ok(bytes) = fs::read(place.join(name)) {
                found = true;
                // Writing into a string cannot fail.
                _ = write!(text, "{name} {}\0", sha256_hex(&bytes));
            }
        }
    }
    if !found {
        text.push_str(commit);
    }
    format!("setup-{}", &sha256_hex(text.as_bytes())[..32])
}

/// With the job's own environment and output.
fn call(setup: &str, commit: &str, dir: &Path, kept: Option<&Path>) -> Result<(), Failure> {
    super::say("set-up runs");
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", setup])
        .current_dir(dir)
        .env("REEVE_COMMIT", commit)
        .stdin(std::process::Stdio::null());
    if let Some(kept) = kept {
        command.env(VARIABLE, kept);
    }
    let status = command.status().map_err(|e| Failure::Setup(format!("sh cannot be started: {e}")))?;
    if status.success() {
        Ok(())
    } else {
        Err(Failure::Setup(format!("the set-up command ended with {status}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_in_its_directory_is_kept_until_a_lock_file_changes() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path().join("cache").to_str().unwrap()).unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir(&tree).unwrap();
        let setup = "echo run >> count; mkdir $REEVE_SETUP_DIR/env && cp uv.lock $REEVE_SETUP_DIR/env";
        let runs = || fs::read_to_string(tree.join("count")).unwrap_or_default().lines().count();
        fs::write(tree.join("uv.lock"), "1").unwrap();
        let first = run(&cache, setup, "c1", &tree, &tree).unwrap().unwrap();
        assert_eq!(run(&cache, setup, "c2", &tree, &tree).unwrap().unwrap(), first);
        assert_eq!(runs(), 1);
        fs::write(tree.join("uv.lock"), "2").unwrap();
        let second = run(&cache, setup, "c2", &tree, &tree).unwrap().unwrap();
        assert_ne!(first, second);
        assert_eq!(fs::read_to_string(Path::new(&second).join("env/uv.lock")).unwrap(), "2");
        fs::remove_file(tree.join("uv.lock")).unwrap();
        let by_commit = |commit| key(setup, commit, &tree, &tree);
        assert_ne!(by_commit("c1"), by_commit("c2"));
    }

    #[test]
    fn a_result_in_the_tree_is_made_each_time_and_a_failure_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path().join("cache").to_str().unwrap()).unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir(&tree).unwrap();
        for _ in 0..2 {
            assert_eq!(run(&cache, "echo run >> count", "c", &tree, &tree), Ok(None));
        }
        assert_eq!(fs::read_to_string(tree.join("count")).unwrap().lines().count(), 2);
        let failing = "touch $REEVE_SETUP_DIR/half; exit 3";
        for _ in 0..2 {
            let failed = run(&cache, failing, "c", &tree, &tree).unwrap_err();
            assert!(matches!(&failed, Failure::Setup(words) if words.contains('3')), "{failed:?}");
        }
    }
}
