//! One bare mirror per user, credential and repository on a machine. It is filled under a lock of its own, so that one
//! fetch serves everybody who waits for the same commit; whoever comes later finds the commit's ref and asks nobody.
use super::cache::{self, Cache, Lock};
use super::command::{Git, credential_for};
use super::order::{Failure, What};
use reeve_protocol::git::{Url, is_commit};
use reeve_protocol::git_refs;
use reeve_protocol::token::sha256_hex;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Times a commit that was just fetched may vanish again before this is given up.
const ROUNDS: usize = 3;

/// A mirror on disk.
pub(super) struct Mirror {
    key: String,
    /// Everything of it.
    dir: PathBuf,
}

/// A commit that is in its mirror, and stays there while this lives.
pub(super) struct Held {
    pub(super) mirror: Mirror,
    pub(super) commit: String,
    _lock: Lock,
}

impl Mirror {
    /// The mirror of a repository. Whoever has another credential sees another repository.
    pub(super) fn of(cache: &Cache, git: &Git<'_>, url: &Url) -> Self {
        let credential = credential_for(git.settings, url);
        let whose = credential.map_or("", |c| c.helper.as_deref().or(c.ssh_key.as_deref()).unwrap_or(""));
        let user = url.user.as_deref().unwrap_or("");
        let key = sha256_hex(format!("{whose}\n{user}\n{}", url.normal()).as_bytes())[..32].to_owned();
        Self { dir: cache.dir("mirrors").join(&key), key }
    }

    /// The repository itself.
    pub(super) fn repository(&self) -> PathBuf {
        self.dir.join("repo.git")
    }

    /// A place for files about a commit.
    pub(super) fn images(&self) -> PathBuf {
        self.dir.join("images")
    }

    /// A place for what Git LFS holds, and the name of the lock of whoever fetches into it.
    pub(super) fn large_files(&self) -> (PathBuf, String) {
        (self.dir.join("lfs"), format!("{}-lfs", self.key))
    }

    fn has(&self, commit: &str) -> bool {
        self.repository().join(kept_ref(commit)).is_file()
    }

    /// Writes down that a work tree uses its objects, so that it is not evicted under it.
    pub(super) fn note_tree(&self, tree: &Path) {
        cache::note_tree(&self.dir, tree);
    }

    /// Makes sure that the commit is here: the one named, or what the ref means now.
    pub(super) fn hold(
        self,
        cache: &Cache,
        git: &Git<'_>,
        url: &Url,
        reference: Option<&str>,
        commit: Option<&str>,
    ) -> Result<Held, Failure> {
        let asked_at = SystemTime::now();
        let mut commit =
            commit.map(str::to_owned).or_else(|| reference.filter(|r| is_commit(r)).map(str::to_owned));
        for _ in 0..ROUNDS {
            if let Some(found) = &commit {
                let lock = cache.share(&self.key)?;
                if self.has(found) {
                    cache::touch(&self.dir);
                    return Ok(Held { commit: found.clone(), mirror: self, _lock: lock });
                }
            }
            let lock = cache.take(&self.key)?;
            let resolved = match &commit {
                Some(commit) => commit.clone(),
                None => self.resolve(git, url, reference, asked_at)?,
            };
            if !self.has(&resolved) {
                super::say(&format!("fetching {}", url.as_str()));
                super::say_status(&format!("fetching {}", url.as_str()));
                self.fetch_or_heal(git, url, &resolved)?;
                cache.evict(&self.key, git.settings.cache_bytes());
            }
            drop(lock);
            commit = Some(resolved);
        }
        Err(Failure::Checkout(What::Corrupt, "a commit that was just fetched is gone again".to_owned()))
    }

    /// The commit that a ref names. What somebody else was told after we asked is as good as asking again.
    fn resolve(
        &self,
        git: &Git<'_>,
        url: &Url,
        reference: Option<&str>,
        asked_at: SystemTime,
    ) -> Result<String, Failure> {
        let note = self.dir.join("resolved").join(&sha256_hex(reference.unwrap_or("HEAD").as_bytes())[..32]);
        let fresh = fs::metadata(&note).and_then(|m| m.modified()).is_ok_and(|at| at > asked_at);
        if let Some(commit) = fresh.then(|| fs::read_to_string(&note).ok()).flatten().filter(|c| is_commit(c))
        {
            return Ok(commit);
        }
        let names = git_refs::wanted(reference);
        let mut words = vec!["ls-remote", "--quiet", "--", url.as_str()];
        words.extend(names.iter().map(String::as_str));
        let listing = git.remote(Path::new("/nonexistent"), url, &words)?;
        let commit = git_refs::resolve(&String::from_utf8_lossy(&listing), reference)
            .map_err(|error| Failure::Checkout(What::Ref, error.to_string()))?;
        // Only a saving: without the note the next one asks again.
        let _ = note.parent().map(fs::create_dir_all);
        let _ = fs::write(&note, &commit);
        Ok(commit)
    }

    /// Fetches; a damaged mirror is thrown away and made anew, once.
    fn fetch_or_heal(&self, git: &Git<'_>, url: &Url, commit: &str) -> Result<(), Failure> {
        let first = self.prepare(git, commit).and_then(|()| self.fetch(git, url, commit));
        match first {
            Err(failure) if failure.is(What::Corrupt) => {
                super::say("the mirror of this repository is damaged; it is made anew");
                self.remove()?;
                self.prepare(git, commit)?;
                self.fetch(git, url, commit)
            }
            other => other,
        }
    }

    /// Throws a damaged mirror away, for whoever found out while checking out.
    pub(super) fn throw_away(self, cache: &Cache) -> Result<(), Failure> {
        let _lock = cache.take(&self.key)?;
        self.remove()
    }

    fn remove(&self) -> Result<(), Failure> {
        match fs::remove_dir_all(&self.dir) {
            // Something else lies in its place.
            Err(e) if e.kind() == std::io::ErrorKind::NotADirectory => fs::remove_file(&self.dir)
                .map_err(|e| Failure::disk("a damaged mirror cannot be removed", &e)),
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Failure::disk("a damaged mirror cannot be removed", &e))
            }
            _ => Ok(()),
        }
    }

    /// An empty repository if there is none; no lock files, since nobody else can hold one while we hold ours.
    fn prepare(&self, git: &Git<'_>, commit: &str) -> Result<(), Failure> {
        let repository = self.repository();
        if repository.join("HEAD").is_file() {
            cache::remove_leftovers(&repository);
            return Ok(());
        }
        self.remove()?;
        fs::create_dir_all(&repository).map_err(|e| Failure::disk("no mirror can be made", &e))?;
        let format = if commit.len() == 64 { "--object-format=sha256" } else { "--object-format=sha1" };
        git.local(&repository, &["init", "--quiet", "--bare", "--template=", format]).map(|_| ())
    }

    fn fetch(&self, git: &Git<'_>, url: &Url, commit: &str) -> Result<(), Failure> {
        let repository = self.repository();
        let kept = kept_ref(commit);
        let one = format!("{commit}:{kept}");
        match git.remote(&repository, url, &fetch_words(url, &[&one])) {
            // Old servers give only what a ref names: everything is fetched, and the commit looked for in it.
            Err(failure) if failure.is(What::Ref) => self.fetch_all(git, url, commit, &kept)?,
            other => drop(other?),
        }
        let kind = git.local(&repository, &["cat-file", "-t", &kept])?;
        if kind.trim_ascii() != b"commit" {
            git.local(&repository, &["update-ref", "-d", &kept])?;
            let kind = String::from_utf8_lossy(kind.trim_ascii()).into_owned();
            return Err(Failure::Checkout(What::Ref, format!("{commit} is a {kind}, not a commit")));
        }
        Ok(())
    }

    fn fetch_all(&self, git: &Git<'_>, url: &Url, commit: &str, kept: &str) -> Result<(), Failure> {
        let repository = self.repository();
        let all = ["+refs/heads/*:refs/all/heads/*", "+refs/tags/*:refs/all/tags/*"];
        let mut words = fetch_words(url, &all);
        words.insert(1, "--prune");
        git.remote(&repository, url, &words)?;
        let contains = format!("--contains={commit}");
        let found = git.local(&repository, &["for-each-ref", "--count=1", &contains, "refs/all"]);
        if found.is_ok_and(|refs| !refs.is_empty()) {
            return git.local(&repository, &["update-ref", kept, commit]).map(|_| ());
        }
        Err(Failure::Checkout(
            What::Ref,
            format!("no branch and no tag of the repository leads to commit {commit}"),
        ))
    }
}

/// A commit with this ref is complete in its mirror.
fn kept_ref(commit: &str) -> String {
    format!("refs/reeve/{commit}")
}

fn fetch_words<'w>(url: &'w Url, refs: &[&'w str]) -> Vec<&'w str> {
    let mut words = vec![
        "fetch",
        "--quiet",
        "--no-tags",
        "--no-write-fetch-head",
        "--no-recurse-submodules",
        "--no-auto-maintenance",
        "--force",
        "--",
        url.as_str(),
    ];
    words.extend(refs);
    words
}
