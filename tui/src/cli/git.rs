//! `--repo` and its companions: from words to a [`GitSpec`] with a commit. The ref is resolved here, by whoever submits and
//! with that user's own means, so that what is run is fixed before the job waits; where that fails, the first machine does
//! it.
use super::error::{Error, note};
use reeve_protocol::git::{Url, is_commit};
use reeve_protocol::git_refs;
use reeve_protocol::patch::{MAX_PATCH, Patch};
use reeve_protocol::spec::GitSpec;
use reeve_protocol::text::Clean;
use reeve_protocol::{Code, Problem};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// For a server to name a commit; after that a machine is left to ask.
const PATIENCE: Duration = Duration::from_secs(15);
/// Between two looks whether it has.
const LOOK: Duration = Duration::from_millis(5);

/// Code from a repository.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "Repository")]
pub struct Git {
    /// Run in a checkout of this repository
    #[arg(long, value_name = "URL")]
    pub repo: Option<String>,
    /// A branch, tag or commit [default: the repository's own]
    #[arg(long = "ref", value_name = "REF", requires = "repo")]
    pub reference: Option<String>,
    /// The directory inside it
    #[arg(long, value_name = "DIR", requires = "repo")]
    pub subdir: Option<String>,
    /// A command for sh that prepares the checkout; what it puts into $REEVE_SETUP_DIR is kept
    #[arg(long, value_name = "CMD", requires = "repo")]
    pub setup: Option<String>,
    /// Check submodules out too
    #[arg(long, requires = "repo")]
    pub submodules: bool,
    /// Fetch what Git LFS holds
    #[arg(long, requires = "repo")]
    pub lfs: bool,
    /// Take the uncommitted changes of this directory along, on top of its HEAD
    #[arg(long, requires = "repo", conflicts_with = "reference")]
    pub dirty: bool,
}

impl Git {
    /// What was said, without asking anybody.
    ///
    /// # Errors
    /// What no machine would take.
    pub fn into_spec(self) -> Result<Option<GitSpec>, Error> {
        let Some(url) = self.repo else { return Ok(None) };
        let commit = self.reference.clone().filter(|r| is_commit(r));
        let spec = GitSpec {
            url,
            reference: self.reference,
            subdir: self.subdir,
            setup: self.setup,
            submodules: self.submodules,
            lfs: self.lfs,
            commit,
            patch: None,
        };
        spec.validate()?;
        Ok(Some(spec))
    }
}

/// Adds the commit: that of this directory with its uncommitted changes, or what the ref means at the server.
///
/// # Errors
/// When the server says that there is no such ref, or this directory is no repository.
pub async fn complete(spec: &mut GitSpec, dirty: bool) -> Result<(), Error> {
    if dirty {
        return take_along(spec, Path::new("."));
    }
    if spec.commit.is_some() {
        return Ok(());
    }
    match ask(spec).await {
        Ok(listing) => {
            let commit = git_refs::resolve(&listing, spec.reference.as_deref()).map_err(|error| {
                Problem::new(Code::BadRef, error.to_string()).hint("look at: git ls-remote URL")
            })?;
            spec.commit = Some(commit);
        }
        Err(why) => note(format!(
            "note: the ref is not resolved here ({}); the first machine that runs the job does it",
            Clean::short(&why, 200)
        )),
    }
    Ok(())
}

/// `git ls-remote`, with the user's own credentials and no question.
async fn ask(spec: &GitSpec) -> Result<String, String> {
    let scheme = Url::parse(&spec.url)?.transport.scheme();
    let mut command = git();
    command
        .args([
            "-c",
            "http.lowSpeedLimit=1",
            "-c",
            "http.lowSpeedTime=10",
            "ls-remote",
            "--quiet",
            "--",
            &spec.url,
        ])
        .args(git_refs::wanted(spec.reference.as_deref()))
        .env("GIT_ALLOW_PROTOCOL", scheme);
    let mut child = command.spawn().map_err(|e| format!("git: {e}"))?;
    let end = Instant::now() + PATIENCE;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < end => tokio::time::sleep(LOOK).await,
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("no answer within {} s", PATIENCE.as_secs()));
            }
        }
    };
    // A pipe holds the few lines that were asked for; a server that says more than that was not waited for above.
    let mut text = String::new();
    let read = if status.success() {
        child.stdout.take().map(|mut pipe| pipe.read_to_string(&mut text))
    } else {
        child.stderr.take().map(|mut pipe| pipe.read_to_string(&mut text))
    };
    match read {
        Some(Ok(_)) if status.success() => Ok(text),
        _ => Err(complaint(&text)),
    }
}

/// The line that says fatal; one that ends in a colon has its reason in the next.
fn complaint(text: &str) -> String {
    let mut lines = text.lines().skip_while(|line| !line.starts_with("fatal"));
    let line = lines.next().unwrap_or("git failed");
    match lines.next().filter(|_| line.ends_with(':')) {
        Some(reason) => format!("{line} {reason}"),
        None => line.to_owned(),
    }
}

/// Git as the user has it, but without whatever a surrounding git has set, and without questions.
fn git() -> Command {
    let mut command = Command::new("git");
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("GIT_")) {
        command.env_remove(name);
    }
    command
        .env_remove("SSH_ASKPASS")
        .env("LC_ALL", "C")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_ASKPASS", "");
    if let Some(ssh) = std::env::var_os("GIT_SSH_COMMAND") {
        command.env("GIT_SSH_COMMAND", ssh);
    } else {
        command.env("GIT_SSH_COMMAND", "ssh -o BatchMode=yes -o ConnectTimeout=10");
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The HEAD of a directory's repository, and what is not committed: changes, and new files that are not ignored.
fn take_along(spec: &mut GitSpec, dir: &Path) -> Result<(), Error> {
    let line = |words: &[&str]| -> Result<String, Error> {
        let bytes = output(git().arg("-C").arg(dir).args(words), MAX_PATCH)?;
        Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
    };
    let commit = line(&["rev-parse", "--verify", "HEAD^{commit}"])?;
    let top = line(&["rev-parse", "--show-toplevel"])?;
    let objects = line(&["rev-parse", "--path-format=absolute", "--git-path", "objects"])?;
    let index = line(&["rev-parse", "--path-format=absolute", "--git-path", "index"])?;
    // An index and objects of our own: nothing of the user's repository is changed.
    let scratch = Scratch::new()?;
    if Path::new(&index).exists() {
        copy_with_time(Path::new(&index), &scratch.0.join("index")).map_err(Error::input(index.as_str()))?;
    }
    let here = |words: &[&str]| {
        let mut command = git();
        command.arg("-C").arg(&top).args(words);
        command.env("GIT_INDEX_FILE", scratch.0.join("index"));
        command.env("GIT_OBJECT_DIRECTORY", scratch.0.join("objects"));
        command.env("GIT_ALTERNATE_OBJECT_DIRECTORIES", &objects);
        command
    };
    output(&mut here(&["add", "--all"]), MAX_PATCH)?;
    let words = [
        "diff",
        "--cached",
        "--binary",
        "--full-index",
        "--no-color",
        "--no-ext-diff",
        "--no-textconv",
        "--no-renames",
        "HEAD",
    ];
    let patch = output(&mut here(&words), MAX_PATCH + 1)?;
    if patch.is_empty() {
        note("note: nothing is uncommitted here; the job gets HEAD as it is");
    } else {
        spec.patch = Some(Patch::new(&patch)?);
    }
    spec.commit = Some(commit);
    Ok(())
}

/// Git looks into files that were changed at the time of the index or later; a copy that looks newer than it is would
/// hide a change of the same size made in the same moment.
fn copy_with_time(from: &Path, to: &Path) -> std::io::Result<()> {
    let at = std::fs::metadata(from)?.modified()?;
    std::fs::copy(from, to)?;
    let times = std::fs::FileTimes::new().set_modified(at);
    std::fs::File::options().write(true).open(to)?.set_times(times)
}

/// What a command of git says, `most` bytes of it.
fn output(command: &mut Command, most: usize) -> Result<Vec<u8>, Error> {
    let failed = |why: String| {
        let words =
            format!("--dirty needs the repository in this directory: {}", Clean::short(why.trim(), 300));
        Error::Usage(words)
    };
    let mut child = command.spawn().map_err(|e| failed(format!("git: {e}")))?;
    let mut bytes = Vec::new();
    if let Some(pipe) = child.stdout.take() {
        pipe.take(most as u64).read_to_end(&mut bytes).map_err(|e| failed(e.to_string()))?;
    }
    let ended = child.wait_with_output().map_err(|e| failed(e.to_string()))?;
    // One that was not read to its end is stopped by its closed pipe; its size is judged by the caller.
    if ended.status.success() || bytes.len() == most {
        return Ok(bytes);
    }
    Err(failed(String::from_utf8_lossy(&ended.stderr).into_owned()))
}

/// A private directory that goes with this.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self, Error> {
        use std::os::unix::fs::DirBuilderExt as _;
        let name = format!("reeve-{}-{}", std::process::id(), reeve_protocol::token::random_hex(8));
        let dir = Self(std::env::temp_dir().join(name));
        let made = std::fs::DirBuilder::new().mode(0o700).create(&dir.0);
        made.and_then(|()| std::fs::create_dir(dir.0.join("objects")))
            .map_err(|e| Error::Usage(format!("no temporary directory {}: {e}", dir.0.display())))?;
        Ok(dir)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(dir: &Path, words: &[&str]) {
        let mut command = git();
        command.arg("-C").arg(dir).args(["-c", "user.name=a", "-c", "user.email=a@example"]).args(words);
        let ended = command.output().unwrap();
        assert!(ended.status.success(), "{words:?}: {}", String::from_utf8_lossy(&ended.stderr));
    }

    fn a_repository() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        run(dir.path(), &["init", "-q"]);
        std::fs::write(dir.path().join("a"), "1\n").unwrap();
        std::fs::write(dir.path().join(".gitignore"), "ignored\n").unwrap();
        run(dir.path(), &["add", "-A"]);
        run(dir.path(), &["commit", "-qm", "x"]);
        dir
    }

    #[test]
    fn uncommitted_work_is_changes_and_new_files_and_leaves_the_repository_alone() {
        let dir = a_repository();
        std::fs::write(dir.path().join("a"), "2\n").unwrap();
        std::fs::write(dir.path().join("new"), [0, 255, 1]).unwrap();
        std::fs::write(dir.path().join("ignored"), "x").unwrap();
        let index = std::fs::read(dir.path().join(".git/index")).unwrap();
        let mut spec = GitSpec { url: "https://h/r".into(), ..GitSpec::default() };
        take_along(&mut spec, dir.path()).unwrap();
        spec.validate().unwrap();
        let patch = String::from_utf8_lossy(&spec.patch.unwrap().bytes().unwrap()).into_owned();
        assert!(
            patch.contains("+2") && patch.contains("GIT binary patch") && !patch.contains("b/ignored"),
            "{patch}"
        );
        assert_eq!(std::fs::read(dir.path().join(".git/index")).unwrap(), index);
        assert!(is_commit(&spec.commit.unwrap()));
    }

    #[test]
    fn a_change_of_the_same_size_in_the_same_moment_is_seen() {
        let dir = a_repository();
        let (file, index) = (dir.path().join("a"), dir.path().join(".git/index"));
        run(dir.path(), &["config", "core.trustctime", "false"]);
        let at = std::fs::metadata(&file).unwrap().modified().unwrap();
        std::fs::write(&file, "2\n").unwrap();
        for path in [&file, &index] {
            let times = std::fs::FileTimes::new().set_modified(at);
            std::fs::File::options().write(true).open(path).unwrap().set_times(times).unwrap();
        }
        let mut spec = GitSpec { url: "https://h/r".into(), ..GitSpec::default() };
        take_along(&mut spec, dir.path()).unwrap();
        assert!(spec.patch.is_some());
    }

    #[test]
    fn nothing_uncommitted_is_no_patch_and_too_much_is_refused() {
        let dir = a_repository();
        let mut spec = GitSpec { url: "https://h/r".into(), ..GitSpec::default() };
        take_along(&mut spec, dir.path()).unwrap();
        assert!(spec.patch.is_none() && spec.commit.is_some());
        std::fs::write(dir.path().join("big"), "line\n".repeat(MAX_PATCH / 4)).unwrap();
        let error = take_along(&mut spec, dir.path()).unwrap_err();
        assert!(error.to_string().contains("at most"), "{error}");
        let nowhere = take_along(&mut spec, Path::new("/")).unwrap_err();
        assert!(nowhere.to_string().contains("--dirty"), "{nowhere}");
    }
}
