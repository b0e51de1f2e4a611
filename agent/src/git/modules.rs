//! Submodules, only when a job asks for them. Git's own command for it is not used: each one is read as data, its URL goes
//! through the same rules as the repository's, and it is checked out by the same code.
use super::command::Git;
use super::mirror::Mirror;
use super::order::{Failure, What};
use super::{Maker, command};
use reeve_protocol::git::{Url, check_subdir};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Submodules inside submodules.
const MAX_DEPTH: usize = 5;
/// Of one checkout, all together.
const MAX_MODULES: usize = 200;

/// One entry of `.gitmodules` that stands in the tree.
#[derive(Debug, PartialEq, Eq)]
struct Module {
    path: String,
    url: String,
    commit: String,
}

impl Maker<'_> {
    /// Checks out what a tree names as its submodules, and theirs.
    pub(super) fn check_out_modules(&mut self, tree: &Path, url: &Url, depth: usize) -> Result<(), Failure> {
        let modules = modules(&self.git, tree)?;
        if modules.is_empty() {
            return Ok(());
        }
        if depth >= MAX_DEPTH || self.modules + modules.len() > MAX_MODULES {
            return Err(refused("there are too many submodules, or one leads to itself"));
        }
        self.modules += modules.len();
        if depth == 0 {
            self.check_version()?;
        }
        for module in modules {
            let at = |why: String| refused(&format!("submodule {:?}: {why}", module.path));
            check_subdir(&module.path).map_err(at)?;
            let address = url.join(&module.url).map_err(at)?;
            self.check_allowed(&address)?;
            let place = place(tree, &module.path)?;
            let of = |_, why: String| format!("submodule {:?}: {why}", module.path);
            self.check_out(&address, None, Some(&module.commit), &place)
                .map_err(|failure| failure.saying(of))?;
            self.check_out_modules(&place, &address, depth + 1)?;
        }
        Ok(())
    }

    /// Git before these versions could be led to write outside of a submodule.
    fn check_version(&self) -> Result<(), Failure> {
        let said = self.git.local(Path::new("/nonexistent"), &["version"])?;
        let said = String::from_utf8_lossy(&said).into_owned();
        if is_patched(&said) {
            return Ok(());
        }
        Err(Failure::Refused(format!(
            "{} on this machine is too old for submodules of others; 2.50.1 or a patched older one is needed",
            said.trim()
        )))
    }

    /// Fetches what Git LFS holds for the tree.
    pub(super) fn fetch_large_files(&self, tree: &Path) -> Result<(), Failure> {
        if command::find_program(self.git.path, "git-lfs").is_none() {
            return Err(Failure::Missing(format!(
                "the job asks for Git LFS, and git-lfs is not installed on machine {}",
                self.machine
            )));
        }
        let (storage, key) = Mirror::of(&self.cache, &self.git, self.url).large_files();
        // One fetches, the others wait and find everything there. The work tree keeps the mirror from being evicted.
        let _lock = self.cache.take(&key)?;
        self.git.large_files(tree, self.url, &storage)
    }
}

fn refused(why: &str) -> Failure {
    Failure::Checkout(What::Ref, why.to_owned())
}

/// Where a submodule goes: the empty directory that the checkout made for it, with no link on the way.
fn place(tree: &Path, path: &str) -> Result<PathBuf, Failure> {
    let mut place = tree.to_path_buf();
    for part in path.trim_end_matches('/').split('/') {
        place.push(part);
        let is_dir = place.symlink_metadata().is_ok_and(|m| m.is_dir());
        if !is_dir {
            return Err(refused(&format!("submodule {path:?} is not where the tree says")));
        }
    }
    Ok(place)
}

/// The submodules that both `.gitmodules` and the tree name; what only the tree names is said. The file itself must be no link.
fn modules(git: &Git<'_>, tree: &Path) -> Result<Vec<Module>, Failure> {
    let listing = git.in_tree(tree, &["ls-files", "--stage", "-z"], None)?;
    let listing = String::from_utf8_lossy(&listing);
    let file = tree.join(".gitmodules");
    let settings = if file.symlink_metadata().is_ok_and(|m| m.is_file()) {
        git.in_tree(tree, &SETTINGS, None)?
    } else {
        Vec::new()
    };
    let (found, unnamed) = pair(&String::from_utf8_lossy(&settings), &listing);
    for path in unnamed {
        super::say(&format!("submodule {path:?} has no URL in .gitmodules: its directory stays empty"));
    }
    Ok(found)
}

/// What asks `.gitmodules` for places and addresses.
const SETTINGS: [&str; 7] = [
    "config",
    "--no-includes",
    "--file",
    ".gitmodules",
    "-z",
    "--get-regexp",
    r"^submodule\..*\.(path|url)$",
];

/// From `submodule.NAME.path<LF>VALUE<NUL>` and `160000 COMMIT 0<TAB>PATH<NUL>` to modules, and the paths that
/// have no address.
fn pair(settings: &str, listing: &str) -> (Vec<Module>, Vec<String>) {
    let pairs: Vec<(&str, &str)> = settings.split('\0').filter_map(|entry| entry.split_once('\n')).collect();
    let url_of = |path: &str| {
        let name = pairs.iter().find(|(key, value)| *value == path && key.strip_suffix(".path").is_some())?.0;
        let key = format!("{}.url", name.strip_suffix(".path")?);
        pairs.iter().find(|(found, _)| *found == key).map(|(_, url)| (*url).to_owned())
    };
    let links = listing.split('\0').filter_map(|entry| entry.strip_prefix("160000 ")?.split_once('\t'));
    let (mut modules, mut unnamed) = (Vec::new(), Vec::new());
    for (head, path) in links {
        match (head.split(' ').next(), url_of(path)) {
            (Some(commit), Some(url)) => {
                modules.push(Module { path: path.to_owned(), url, commit: commit.to_owned() });
            }
            _ => unnamed.push(path.to_owned()),
        }
    }
    (modules, unnamed)
}

/// Whether `git version X.Y.Z` has the corrections of July 2025.
fn is_patched(said: &str) -> bool {
    let mut numbers = said.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse::<u32>().ok());
    let mut next = || numbers.next().unwrap_or(0);
    let (major, minor, patch) = (next(), next(), next());
    let needed = match (major, minor) {
        (2, 43) => 7,
        (2, 44..=46) => 4,
        (2, 47) => 3,
        (2, 48) => 2,
        (2, 49 | 50) => 1,
        _ => return (major, minor) > (2, 50),
    };
    patch >= needed
}

impl Git<'_> {
    /// `git lfs` with this repository as the only server, whatever a file in it says, and no other filter. It reports
    /// success also when it has left pointers where files should be: that is looked at afterwards.
    fn large_files(&self, tree: &Path, url: &Url, storage: &Path) -> Result<(), Failure> {
        let server = format!("lfs.url={}/info/lfs", url.as_str().trim_end_matches('/'));
        let storage = format!("lfs.storage={}", storage.display());
        let lfs = |words: &[&str], url: Option<&Url>| {
            let mut all = vec!["-c", server.as_str(), "-c", storage.as_str()];
            for setting in ["filter.lfs.clean=git-lfs clean -- %f", "lfs.skipdownloaderrors=false"] {
                all.extend(["-c", setting]);
            }
            all.push("lfs");
            all.extend(words);
            let mut command: Command = self.prepared(&tree.join(".git"), &all, url);
            command.current_dir(tree).env("GIT_WORK_TREE", tree);
            Self::run(command, None, url.is_some())
        };
        lfs(&["pull"], Some(url))?;
        let listing = lfs(&["ls-files", "--long"], None)?;
        match pointers(&String::from_utf8_lossy(&listing)).as_slice() {
            [] => Ok(()),
            [first, rest @ ..] => Err(Failure::Checkout(
                What::Corrupt,
                format!("Git LFS has left a pointer in place of {first:?} and {} more", rest.len()),
            )),
        }
    }
}

/// Of lines `OBJECT * PATH` (the file is there) or `OBJECT - PATH` (only its pointer) the latter paths.
fn pointers(listing: &str) -> Vec<&str> {
    listing.lines().filter_map(|line| line.split_once(' ')?.1.strip_prefix("- ")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_both_files_name_is_a_submodule() {
        let settings = "submodule.a.path\nlib/a\0submodule.a.url\n../a\0submodule.x.path\nnot/there\0submodule.x.url\nu\0";
        let listing = "100644 0 0\tfile\x00160000 c1 0\tlib/a\x00160000 c2 0\tunnamed\0";
        let wanted = Module { path: "lib/a".into(), url: "../a".into(), commit: "c1".into() };
        assert_eq!(pair(settings, listing), (vec![wanted], vec!["unnamed".to_owned()]));
        assert_eq!(pair("", ""), (vec![], vec![]));
    }

    #[test]
    fn a_pointer_that_was_left_is_found() {
        assert_eq!(pointers("aa * a.png\nbb - b - c.png\ncc - d\n"), ["b - c.png", "d"]);
        assert_eq!(pointers(""), [""; 0]);
    }

    #[test]
    fn a_path_with_a_carriage_return_or_a_dash_is_kept_as_it_is_and_refused_later() {
        let settings = "submodule.a.path\nsub\r\0submodule.a.url\n-u./x\0";
        let (found, _) = pair(settings, "160000 c 0\tsub\r\0");
        assert_eq!(found[0].path, "sub\r");
        assert!(check_subdir(&found[0].path).is_err());
        assert!(Url::parse("https://h/r").unwrap().join(&found[0].url).is_err());
    }

    #[test]
    fn versions_with_the_corrections_are_known() {
        for (said, wanted) in [
            ("git version 2.47.3", true),
            ("git version 2.47.2", false),
            ("git version 2.50.0", false),
            ("git version 2.50.1", true),
            ("git version 2.51.0 (Apple Git-1)", true),
            ("git version 3.0.0", true),
            ("git version 2.39.5", false),
            ("git version 2.43.7", true),
            ("nonsense", false),
        ] {
            assert_eq!(is_patched(said), wanted, "{said}");
        }
    }

    #[test]
    fn nothing_is_checked_out_through_a_link() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("real/sub")).unwrap();
        std::os::unix::fs::symlink("real", dir.path().join("link")).unwrap();
        assert!(place(dir.path(), "real/sub").is_ok());
        for bad in ["link", "link/sub", "nowhere"] {
            assert!(place(dir.path(), bad).is_err(), "{bad}");
        }
    }
}
