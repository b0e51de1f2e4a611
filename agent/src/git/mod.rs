//! Checkouts: `reeve-agent keeper checkout`, the process that a guardian starts before the command of a git job, as the
//! job's user and under the same deadline and stop. It reads an order on standard input, makes the work tree, runs the
//! set-up, and leaves a report. It is an ordinary program of its own, so that the guardian stays small; it holds no state
//! but the cache, and may be killed at any instruction.
mod cache;
mod classify;
mod command;
mod image;
mod mirror;
mod modules;
pub(crate) mod order;
pub mod settings;
mod setup;
mod tree;

use cache::Cache;
use command::Git;
use mirror::Mirror;
use order::{Failure, Order, REPORT, Report, TREE, What};
use reeve_protocol::Cause;
use reeve_protocol::git::{Transport, Url};
use reeve_protocol::text::{Clean, glob};
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The words after the program that lead here.
pub const WORDS: [&str; 2] = ["keeper", "checkout"];

/// Makes one checkout. Its exit code says only whether there is one; the report says the rest.
pub fn run() -> u8 {
    let mut text = String::new();
    let read = std::io::stdin().read_to_string(&mut text).map_err(|e| e.to_string());
    let order: Order = match read.and_then(|_| serde_json::from_str(&text).map_err(|e| e.to_string())) {
        Ok(order) => order,
        Err(error) => {
            say(&format!("a checkout needs an order on its standard input: {error}"));
            return 64;
        }
    };
    let report = match make(&order) {
        Ok(ready) => ready,
        Err(failure) => {
            let cause = failure.into_cause();
            say(&format!("{cause}: {}", cause.detail()));
            Report::Failed(cause)
        }
    };
    let failed = matches!(report, Report::Failed(_));
    match write_report(&order.workdir, &report) {
        Ok(()) => u8::from(failed),
        Err(error) => {
            say(&format!("the report of the checkout cannot be written: {error}"));
            74
        }
    }
}

fn make(order: &Order) -> Result<Report, Failure> {
    let spec = &order.checkout;
    let url = Url::parse(&spec.url).map_err(Failure::Refused)?;
    let cache = Cache::open(&order.cache)?;
    let trusting = trusting(order, &url)?;
    let git = Git::find(&order.path, &order.settings, &order.machine, trusting)?;
    let tree = Path::new(&order.workdir).join(TREE);
    fs::create_dir(&tree).map_err(|e| Failure::disk("the work tree cannot be made", &e))?;
    let mut maker = Maker { git, cache, url: &url, machine: &order.machine, modules: 0 };
    let watch = watch(order);
    maker.check_allowed(&url)?;
    let moved_on = |what, why: String| match (what, &spec.reference, &spec.commit) {
        // The job was given its commit by a name that may have moved since.
        (What::Ref, Some(name), Some(_)) => {
            format!("{why}; if {name} was rewritten since, `reeve restart --latest` takes what it names now")
        }
        _ => why,
    };
    let commit = maker
        .check_out(&url, spec.reference.as_deref(), spec.commit.as_deref(), &tree)
        .map_err(|failure| failure.saying(moved_on))?;
    if spec.submodules {
        maker.check_out_modules(&tree, &url, 0)?;
    }
    if spec.lfs {
        maker.fetch_large_files(&tree)?;
    }
    if let Some(patch) = &spec.patch {
        tree::apply(&maker.git, &tree, patch)?;
    }
    let dir = tree::start_dir(&tree, spec.subdir.as_deref())?;
    watch.store(true, Ordering::Release);
    say_status(&format!("checked out {}", &commit[..12.min(commit.len())]));
    let setup_dir = match &spec.setup {
        Some(command) => {
            say_status("set-up runs");
            let root = tree.canonicalize().map_err(|e| Failure::disk("the work tree cannot be read", &e))?;
            setup::run(&maker.cache, command, &commit, &root, &dir)?
        }
        None => None,
    };
    let dir = dir.into_os_string().into_string();
    let dir = dir.map_err(|_| Failure::Checkout(What::Ref, "the directory's name is no text".to_owned()))?;
    Ok(Report::Ready { commit, dir, setup_dir })
}

/// What checkouts of a repository and its submodules share.
struct Maker<'a> {
    git: Git<'a>,
    cache: Cache,
    url: &'a Url,
    machine: &'a str,
    /// How many submodules there are so far.
    modules: usize,
}

impl Maker<'_> {
    /// One repository into one directory; its commit. A mirror that turns out to be damaged is made anew, once.
    fn check_out(
        &mut self,
        url: &Url,
        reference: Option<&str>,
        commit: Option<&str>,
        tree: &Path,
    ) -> Result<String, Failure> {
        let hold = |commit: Option<&str>| {
            Mirror::of(&self.cache, &self.git, url).hold(&self.cache, &self.git, url, reference, commit)
        };
        let held = hold(commit)?;
        match tree::check_out(&self.git, &held, url, tree) {
            Err(failure) if failure.is(What::Corrupt) => {
                say("the mirror of this repository is damaged; it is made anew");
                let commit = held.commit.clone();
                drop(held);
                Mirror::of(&self.cache, &self.git, url).throw_away(&self.cache)?;
                empty(tree).map_err(|e| Failure::disk("the work tree cannot be emptied", &e))?;
                let held = hold(Some(&commit))?;
                tree::check_out(&self.git, &held, url, tree)?;
                Ok(held.commit)
            }
            other => other.map(|()| held.commit),
        }
    }

    /// Whether this machine's configuration allows the repository. A directory of the machine needs an entry of its own, or
    /// must belong to the user of the job.
    fn check_allowed(&self, url: &Url) -> Result<(), Failure> {
        let normal = url.normal();
        let allowed = self.git.settings.allow.iter().any(|pattern| glob(pattern, &normal));
        let own = url.transport == Transport::File && owner(url).is_some_and(|uid| uid == own_uid());
        if allowed || own {
            return Ok(());
        }
        Err(Failure::Refused(format!(
            "machine {} does not check out {normal}; the list `allow` below [git] in its agent.toml decides",
            self.machine
        )))
    }
}

fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn owner(url: &Url) -> Option<u32> {
    fs::metadata(&url.path).ok().map(|meta| meta.uid())
}

/// Git refuses directories of others even when this machine allows them: then a configuration says that they are fine.
fn trusting(order: &Order, url: &Url) -> Result<Option<PathBuf>, Failure> {
    if url.transport != Transport::File || owner(url) == Some(own_uid()) {
        return Ok(None);
    }
    let path = Path::new(&order.cache).join("directories-of-others");
    let written = fs::write(&path, "[safe]\n\tdirectory = *\n");
    written.map(|()| Some(path)).map_err(|e| Failure::disk("the cache cannot be used", &e))
}

/// Ends everything when the time for checkouts is over, until the flag is set. Our own process leads the group that git
/// and its helpers are in.
fn watch(order: &Order) -> Arc<AtomicBool> {
    let done = Arc::new(AtomicBool::new(false));
    let (seen, limit) = (done.clone(), order.settings.timeout_s);
    let workdir = order.workdir.clone();
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(limit));
        if seen.load(Ordering::Acquire) {
            return;
        }
        let detail = format!("it took longer than {limit} s (timeout_s below [git] in agent.toml)");
        say(&format!("checkout timeout: {detail}"));
        let cause = Cause::Checkout { what: What::Timeout.word().to_owned(), detail };
        let _ = write_report(&workdir, &Report::Failed(cause));
        let _ = rustix::process::kill_current_process_group(rustix::process::Signal::KILL);
    });
    done
}

fn write_report(workdir: &str, report: &Report) -> std::io::Result<()> {
    let path = Path::new(workdir).join(REPORT);
    let draft = path.with_extension("draft");
    fs::write(&draft, serde_json::to_vec(report)?)?;
    fs::rename(draft, path)
}

fn empty(dir: &Path) -> std::io::Result<()> {
    fs::remove_dir_all(dir)?;
    fs::create_dir(dir)
}

/// For whoever reads the job's output.
fn say(words: &str) {
    let _ = writeln!(std::io::stderr(), "reeve: {}", Clean::short(words, 500));
}

/// For whoever looks at the job now: the same file that a job tells its progress with.
fn say_status(words: &str) {
    let Some(path) = std::env::var_os("REEVE_STATUS") else { return };
    let line = serde_json::json!({ "message": words }).to_string() + "\n";
    let file = fs::File::options().create(true).append(true).open(path);
    let _ = file.and_then(|mut f| f.write_all(line.as_bytes()));
}
