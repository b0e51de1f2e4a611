//! The work tree of one attempt: a small repository of its own that borrows the mirror's objects, so that what the job does
//! with git stays in it, and files that are copies, so that no job can change another's.
use super::command::Git;
use super::image;
use super::mirror::Held;
use super::order::{Failure, What};
use reeve_protocol::git::Url;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Puts the held commit into `tree`, which does not exist yet or is an empty directory.
pub(super) fn check_out(git: &Git<'_>, held: &Held, url: &Url, tree: &Path) -> Result<(), Failure> {
    held.mirror.note_tree(tree);
    make_repository(held, url, tree).map_err(|e| Failure::disk("the work tree cannot be made", &e))?;
    let images = held.mirror.images();
    let unpacked = image::unpack(&images, &held.commit, tree);
    if unpacked.map_err(|e| Failure::disk("the work tree cannot be written", &e))? {
        return Ok(());
    }
    git.in_tree(tree, &["read-tree", "-u", "--reset", &held.commit], None)?;
    verify(git, &held.commit, tree)?;
    let listing = git.in_tree(tree, &["ls-files", "--stage", "-z"], None)?;
    if let Ok(Some(image)) = image::build(tree, &listing) {
        image::store(&images, &held.commit, &image);
    }
    Ok(())
}

/// What a repository needs to be one; a detached HEAD at the commit.
fn make_repository(held: &Held, url: &Url, tree: &Path) -> io::Result<()> {
    let dir = tree.join(".git");
    fs::create_dir_all(dir.join("objects/info"))?;
    fs::create_dir_all(dir.join("refs/heads"))?;
    fs::write(dir.join("HEAD"), format!("{}\n", held.commit))?;
    let objects = held.mirror.repository().join("objects");
    fs::write(dir.join("objects/info/alternates"), format!("{}\n", objects.display()))?;
    let (version, format) =
        if held.commit.len() == 64 { (1, "[extensions]\n\tobjectformat = sha256\n") } else { (0, "") };
    let config = format!(
        "[core]\n\trepositoryformatversion = {version}\n\tbare = false\n\tlogallrefupdates = true\n{format}\
         [remote \"origin\"]\n\turl = \"{}\"\n",
        url.as_str()
    );
    fs::write(dir.join("config"), config)
}

/// The tree that was written is the commit's, and HEAD is the commit.
fn verify(git: &Git<'_>, commit: &str, tree: &Path) -> Result<(), Failure> {
    let wanted = format!("{commit}^{{tree}}");
    let names = git.in_tree(tree, &["rev-parse", "HEAD", &wanted], None)?;
    let written = git.in_tree(tree, &["write-tree"], None)?;
    let names = String::from_utf8_lossy(&names).into_owned();
    let found: Vec<&str> = names.lines().collect();
    if found == [commit, String::from_utf8_lossy(&written).trim()] {
        return Ok(());
    }
    Err(Failure::Checkout(What::Mismatch, format!("the work tree is not that of commit {commit}")))
}

/// Applies uncommitted work.
pub(super) fn apply(git: &Git<'_>, tree: &Path, patch: &[u8]) -> Result<(), Failure> {
    let applied = git.in_tree(tree, &["apply", "--whitespace=nowarn", "-"], Some(patch));
    applied.map(|_| ()).map_err(|failure| match failure {
        Failure::Checkout(_, words) => Failure::Checkout(
            What::Mismatch,
            format!("the uncommitted work does not fit the commit: {words}"),
        ),
        other => other,
    })
}

/// The directory where the command starts. Links inside the repository are followed, but not out of it.
pub(super) fn start_dir(tree: &Path, subdir: Option<&str>) -> Result<PathBuf, Failure> {
    let root = tree.canonicalize().map_err(|e| Failure::disk("the work tree cannot be read", &e))?;
    let Some(subdir) = subdir else { return Ok(root) };
    let missing =
        |why: &str| Failure::Checkout(What::Ref, format!("the commit has no directory {subdir:?}: {why}"));
    let dir = root.join(subdir).canonicalize().map_err(|e| missing(&e.to_string()))?;
    if !dir.starts_with(&root) || dir.starts_with(root.join(".git")) {
        return Err(missing("a link leads out of the repository"));
    }
    if !dir.is_dir() {
        return Err(missing("it is a file"));
    }
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn the_command_starts_inside_the_tree_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("src");
        fs::create_dir_all(tree.join("a/b")).unwrap();
        fs::create_dir_all(tree.join(".git/hooks")).unwrap();
        fs::create_dir_all(dir.path().join("outside")).unwrap();
        fs::write(tree.join("file"), "x").unwrap();
        for (target, link) in [
            ("a", "inner"),
            ("../outside", "outer"),
            ("/etc", "far"),
            (".git/hooks", "repo"),
            ("loop", "loop"),
        ] {
            symlink(target, tree.join(link)).unwrap();
        }
        let root = tree.canonicalize().unwrap();
        for (subdir, wanted) in [
            (None, Some("")),
            (Some("a/b"), Some("a/b")),
            (Some("inner/b"), Some("a/b")),
            (Some("outer"), None),
        ] {
            let found = start_dir(&tree, subdir).ok();
            assert_eq!(
                found,
                wanted.map(|w| if w.is_empty() { root.clone() } else { root.join(w) }),
                "{subdir:?}"
            );
        }
        for bad in ["far", "repo", "loop", "file", "nowhere"] {
            assert!(start_dir(&tree, Some(bad)).unwrap_err().is(What::Ref), "{bad}");
        }
    }
}
