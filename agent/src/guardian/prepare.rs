//! What comes before the command of a git job: a process of its own makes the checkout, as the job's user, in this attempt's
//! tree and under its deadline. The command starts when it has left a report that says where.
use super::ending::Phase;
use super::sys::{self, ChildSpec};
use super::{Guardian, environment, launch};
use crate::git::WORDS;
use crate::git::order::{REPORT, Report, TREE};
use reeve_protocol::cause::Cause;
use reeve_protocol::guardian::Prepared;
use reeve_protocol::tape::STDERR;
use reeve_protocol::time::Wall;
use std::ffi::CString;
use std::io::{self, Read as _};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Largest report.
const MAX_REPORT: u64 = 64 * 1024;
/// How long the work tree of a failed attempt is kept.
const KEPT: Duration = Duration::from_hours(24);
/// What a checkout and its set-up may use, bytes, where the job may use less: how much git needs depends on the repository.
const MEMORY: u64 = 2 << 30;
/// With less than this share of the disk free, and fewer bytes than the next, nothing is kept.
const FREE_SHARE: f64 = 0.1;
const FREE_BYTES: f64 = (10u64 << 30) as f64;

/// Where the checkout of an attempt stands.
pub(super) struct Preparation {
    /// Its process; 0 once it has ended.
    pub(super) pid: u32,
    /// What the keeper is told.
    pub(super) told: Prepared,
}

impl Guardian<'_> {
    /// Starts the process that makes the checkout.
    pub(super) fn start_checkout(&mut self) -> Result<(), Cause> {
        let Some(mut order) = self.task.checkout.take() else { return Ok(()) };
        self.workdir.path().clone_into(&mut order.workdir);
        let text = serde_json::to_vec(&order).map_err(|e| Cause::Error { detail: e.to_string() })?;
        let refused = |e: io::Error| launch::refused("the checkout cannot be started", &e);
        let (stdout, stdout_end) = launch::output_pipe().map_err(refused)?;
        let (stderr, stderr_end) = launch::output_pipe().map_err(refused)?;
        let stdin = launch::memory_file(&text).map_err(refused)?;
        let socket = self.socket();
        let env = environment::complete(&self.task.start, &self.facts(&socket));
        let name = |word: &str| CString::new(word).map_err(|e| refused(io::Error::other(e)));
        let start = &self.task.start;
        let memory = if start.memory_bytes == 0 { 0 } else { start.memory_bytes.max(MEMORY) };
        self.confined.prepare(start.cpu_milli, memory);
        let argv =
            ["reeve-agent", WORDS[0], WORDS[1]].map(name).into_iter().collect::<Result<Vec<_>, _>>()?;
        let spec = ChildSpec {
            // Our own program, even when another version lies in its place by now.
            candidates: &[c"/proc/self/exe".to_owned()],
            argv: &argv,
            env: &environment::strings(&env),
            cwd: &name(self.workdir.path())?,
            stdio: [stdin.as_raw_fd(), stdout_end.as_raw_fd(), stderr_end.as_raw_fd()],
            groups: &self.confined.doors(),
            user: self.task.identity.as_ref(),
            no_new_privs: self.task.no_new_privs,
            data_limit: self.confined.data_limit(),
        };
        let pid =
            sys::spawn(&spec).map_err(|failure| refused(io::Error::from_raw_os_error(failure.errno)))?;
        (self.stdout, self.stderr) = (Some(stdout), Some(stderr));
        let told =
            Prepared { attempt: self.task.start.attempt, began_ms: Wall::now().0, commit: String::new() };
        self.preparation = Some(Preparation { pid, told });
        self.ending.end_by(self.task.start.timeout_ms);
        self.announce();
        Ok(())
    }

    /// The process that makes the checkout; 0 when there is none.
    pub(super) fn checkout_pid(&self) -> u32 {
        self.preparation.as_ref().map_or(0, |p| p.pid)
    }

    /// It has ended in this way: starts the command, or ends the attempt.
    pub(super) fn checkout_ended(&mut self, ended: Cause) {
        self.drain_all();
        let report = self.read_report();
        let Some(preparation) = &mut self.preparation else { return };
        preparation.pid = 0;
        let failure = match report {
            Some(Report::Ready { commit, dir, setup_dir }) if ended == Cause::Ok => {
                preparation.told.commit.clone_from(&commit);
                let start = &mut self.task.start;
                start.env.push(("REEVE_COMMIT".to_owned(), commit));
                start.env.extend(setup_dir.map(|kept| ("REEVE_SETUP_DIR".to_owned(), kept)));
                start.cwd = Some(dir);
                if self.ending.phase() != Phase::Running {
                    return;
                }
                self.announce();
                match self.launch() {
                    Ok(()) => return,
                    Err(cause) => cause,
                }
            }
            Some(Report::Failed(cause)) => cause,
            _ if ended == Cause::Ok => Cause::Error { detail: "the checkout left no report".to_owned() },
            _ => ended,
        };
        self.fail(failure);
    }

    /// The user may write there: neither is a link followed nor a pipe waited for.
    fn read_report(&self) -> Option<Report> {
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
        let path = format!("{}/{REPORT}", self.workdir.path());
        let fd =
            rustix::fs::open(path, flags | rustix::fs::OFlags::CLOEXEC, rustix::fs::Mode::empty()).ok()?;
        let mut bytes = Vec::new();
        std::fs::File::from(fd).take(MAX_REPORT).read_to_end(&mut bytes).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Before the tape is sealed: whether the work tree of a failed attempt will be kept, and where.
    pub(super) fn promise_tree(&mut self, cause: &Cause) {
        let tree = Path::new(self.workdir.path()).join(TREE);
        let failed = !matches!(cause, Cause::Ok | Cause::Cancelled | Cause::Fenced | Cause::Checkout { .. });
        if self.preparation.is_none() || !failed || !tree.is_dir() || is_low(Path::new(&self.setting.work)) {
            return;
        }
        let place = self.kept_dir().join(self.task.start.attempt.file_name());
        let note = format!(
            "reeve: the checkout is kept for a day: {} on machine {}\n",
            place.display(),
            self.task.machine
        );
        self.tape.record(STDERR, Wall::now().0.max(0) as u64, note.as_bytes());
        self.keep_tree = Some(place);
    }

    /// Moves the work tree away before the attempt's directory is emptied.
    pub(super) fn keep_tree(&mut self) {
        let Some(place) = self.keep_tree.take() else { return };
        let kept = self.kept_dir();
        let tree = Path::new(self.workdir.path()).join(TREE);
        let moved = std::fs::create_dir_all(&kept).and_then(|()| {
            // Others must be able to pass through to what is theirs, as through the attempts' directories.
            let mode = std::fs::metadata(&self.setting.work)?.permissions();
            std::fs::set_permissions(&kept, mode)?;
            std::fs::rename(tree, place)
        });
        if let Err(error) = moved {
            tracing::warn!(%error, "a work tree cannot be kept");
        }
        remove_old(&kept);
    }

    fn kept_dir(&self) -> PathBuf {
        Path::new(&self.setting.work).with_file_name("kept")
    }
}

/// Removes what was kept long enough, or everything when the disk fills up.
pub(crate) fn remove_old(kept: &Path) {
    let Ok(entries) = std::fs::read_dir(kept) else { return };
    let low = is_low(kept);
    for entry in entries.flatten() {
        // The time that the directory itself was changed last; a rename does not change it, so it is never too young.
        let age = entry.metadata().and_then(|m| m.modified()).map(|at| SystemTime::now().duration_since(at));
        if low || age.is_ok_and(|age| age.is_ok_and(|age| age > KEPT)) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

fn is_low(dir: &Path) -> bool {
    rustix::fs::statvfs(dir).is_ok_and(|disk| {
        let block = disk.f_frsize as f64;
        let free = disk.f_bavail as f64 * block;
        free < FREE_BYTES && free < FREE_SHARE * disk.f_blocks as f64 * block
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_trees_go_after_a_day() {
        let dir = tempfile::tempdir().unwrap();
        for (name, age_h) in [("old", 25), ("new", 1)] {
            let path = dir.path().join(name);
            std::fs::create_dir(&path).unwrap();
            let at = SystemTime::now() - Duration::from_hours(age_h);
            let times = std::fs::FileTimes::new().set_modified(at);
            std::fs::File::open(&path).unwrap().set_times(times).unwrap();
        }
        remove_old(dir.path());
        let low = is_low(dir.path());
        assert_eq!((dir.path().join("old").exists(), dir.path().join("new").exists()), (false, !low));
    }
}
