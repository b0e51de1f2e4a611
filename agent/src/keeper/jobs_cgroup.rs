//! The control group that a service holds for attempts (`reeve-agent jobs`): guardians enter it before they do anything,
//! nothing starts while it is absent, and what runs is drained when it is closed. Without the setting all this is off.
use super::attempts::Keeper;
use crate::jobs::{ATTEMPTS, PROCS};
use reeve_protocol::cause::Cause;
use reeve_protocol::ids::AttemptId;
use reeve_protocol::wire::{Taking, kind};
use rustix::fs::{FlockOperation, flock};
use std::fs::{DirBuilder, File};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Between two looks while something runs.
const LOOK: Duration = Duration::from_secs(1);
/// Between TERM and KILL of what is drained.
const GRACE_MS: u64 = 15_000;
/// More than the holder ever writes.
const MAX_TEXT: u64 = 64 * 1024;

/// Whether attempts have a place to live in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gate {
    Open,
    /// Its holder has closed it, or is dead.
    Closed,
    /// It is held, and we cannot use it: nothing starts, and what runs goes on.
    Unusable,
}

/// The group of the setting.
pub(super) struct JobsCgroup {
    source: Option<PathBuf>,
    gate: Gate,
    /// Device and inode of what is open: the holder writes a new file each time.
    known: (u64, u64),
    doors: Vec<File>,
    /// The directories of the doors, in their order.
    dirs: Vec<PathBuf>,
    looked_at: Option<Instant>,
    /// What the coordinator was told last: that nothing may start, and why.
    told: Option<&'static str>,
}

impl JobsCgroup {
    pub(super) fn new(source: Option<PathBuf>) -> Self {
        let gate = if source.is_some() { Gate::Closed } else { Gate::Open };
        Self { source, gate, known: (0, 0), doors: Vec::new(), dirs: Vec::new(), looked_at: None, told: None }
    }

    /// Whether an attempt may start now.
    pub(super) fn is_open(&self) -> bool {
        self.gate == Gate::Open
    }

    /// What a guardian writes to, but for a group that it enters further down.
    pub(super) fn doors(&self, but: Option<&Path>) -> Vec<&File> {
        let each = self.dirs.iter().zip(&self.doors);
        each.filter(|(dir, _)| Some(dir.as_path()) != but).map(|(_, door)| door).collect()
    }

    /// Why nothing may start, for people.
    fn refuses(&self) -> Option<&'static str> {
        match self.gate {
            Gate::Open => None,
            Gate::Closed => {
                Some("its jobs are stopped: the jobs' control group is closed (systemctl start reeve-jobs)")
            }
            Gate::Unusable => Some("the jobs' control group cannot be used: see the log of reeve-keeper"),
        }
    }

    /// The groups that attempts live in.
    pub(super) fn dirs(&self) -> &[PathBuf] {
        &self.dirs
    }

    /// True if it was opened just now.
    fn look(&mut self) -> bool {
        let Some(source) = &self.source else { return false };
        self.looked_at = Some(Instant::now());
        let gate = match find(source, self.known) {
            Ok(None) => return false,
            Ok(Some((id, doors))) => {
                tracing::info!(source = %source.display(), groups = doors.len(), "attempts have a place to live in");
                self.known = id;
                (self.dirs, self.doors) = doors.into_iter().unzip();
                self.gate = Gate::Open;
                return true;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.known = (0, 0);
                self.doors.clear();
                self.dirs.clear();
                Gate::Closed
            }
            // A passing failure, such as too many open files, must not end what runs.
            Err(error) => {
                if self.gate == Gate::Open {
                    return false;
                }
                if self.gate != Gate::Unusable {
                    tracing::error!(source = %source.display(), %error, "the jobs' control group cannot be used");
                }
                Gate::Unusable
            }
        };
        if gate == Gate::Closed && self.gate != Gate::Closed {
            tracing::warn!(source = %source.display(), "the jobs' control group is closed: attempts are drained");
        }
        self.gate = gate;
        false
    }
}

impl Keeper {
    /// Looks whether the group is still there, as often as it matters; drains what runs when it is not.
    pub(super) fn mind_jobs(&mut self) {
        if !self.minds_jobs() {
            return;
        }
        let is_due = self.jobs.looked_at.is_none_or(|at| at.elapsed() >= LOOK);
        if self.queue.is_empty() && !is_due {
            return;
        }
        if self.jobs.look() {
            self.reopen_slots();
        }
        if self.jobs.refuses() != self.jobs.told {
            self.tell_taking();
        }
        if self.jobs.gate != Gate::Closed {
            return;
        }
        let running = self.attempts.iter().filter(|(_, a)| a.end.is_none() && a.phase < 2).map(|(id, _)| *id);
        for id in running.collect::<Vec<AttemptId>>() {
            self.stop(id, Cause::Drained.to_wire(), GRACE_MS);
        }
    }

    /// Something runs or waits here, or the coordinator believes that nothing may start.
    fn minds_jobs(&self) -> bool {
        self.jobs.source.is_some() && (self.is_busy() || self.jobs.told.is_some())
    }

    /// Looks, and says whether attempts may start, to an agent that has just asked for everything.
    pub(super) fn tell_taking_anew(&mut self) {
        if self.jobs.look() {
            self.reopen_slots();
        }
        self.jobs.told = None;
        if self.leaving || !self.jobs.is_open() {
            self.tell_taking();
        }
    }

    /// Says whether attempts may start.
    pub(super) fn tell_taking(&mut self) {
        self.jobs.told = self.jobs.refuses();
        let refuses = if self.leaving { Some("it is shutting down") } else { self.jobs.told };
        self.say(kind::TAKING, &Taking { refuses: refuses.map(str::to_owned) });
    }

    /// When to look again; `None`: nothing depends on it.
    pub(super) fn jobs_due(&self) -> Option<Duration> {
        let at = self.jobs.looked_at.filter(|_| self.minds_jobs())?;
        Some(LOOK.saturating_sub(at.elapsed()))
    }
}

/// What has to be opened: `None` when what is known is still good.
type Found = Option<((u64, u64), Vec<(PathBuf, File)>)>;

/// `NotFound`: there is no group, or nobody holds it.
fn find(source: &Path, known: (u64, u64)) -> io::Result<Found> {
    let mut file = File::open(source)?;
    let meta = file.metadata()?;
    let id = (meta.dev(), meta.ino());
    if meta.is_dir() {
        return if id == known { Ok(None) } else { Ok(Some((id, vec![door(source)?]))) };
    }
    // The holder keeps its lock for as long as it lives: a process id could be somebody else's by now.
    if flock(&file, FlockOperation::NonBlockingLockShared).is_ok() {
        return Err(io::ErrorKind::NotFound.into());
    }
    if id == known {
        return Ok(None);
    }
    let mut text = String::new();
    (&mut file).take(MAX_TEXT).read_to_string(&mut text)?;
    let doors = text.lines().map(|dir| door(Path::new(dir))).collect::<io::Result<_>>()?;
    Ok(Some((id, doors)))
}

/// The file through which processes enter the attempts' part of a group. Errors name what is missing, never NotFound.
fn door(dir: &Path) -> io::Result<(PathBuf, File)> {
    let attempts = dir.join(ATTEMPTS);
    let open = || -> io::Result<_> {
        DirBuilder::new().recursive(true).create(&attempts)?;
        let door = File::options().write(true).open(attempts.join(PROCS))?;
        Ok((attempts.clone(), door))
    };
    open().map_err(|error| io::Error::other(format!("{}: {error}", attempts.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory that looks like a group, and the holder's file about it.
    fn made() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join(ATTEMPTS)).unwrap();
        std::fs::write(dir.path().join(ATTEMPTS).join(PROCS), "").unwrap();
        let file = dir.path().join("cgroup");
        std::fs::write(&file, format!("{}\n", dir.path().display())).unwrap();
        (dir, file)
    }

    #[test]
    fn without_the_setting_everything_may_start() {
        let mut jobs = JobsCgroup::new(None);
        jobs.look();
        assert!(jobs.is_open() && jobs.doors(None).is_empty());
    }

    #[test]
    fn it_is_open_only_while_somebody_holds_it() {
        let (dir, file) = made();
        let mut jobs = JobsCgroup::new(Some(file.clone()));
        assert!(!jobs.is_open());
        jobs.look();
        assert_eq!(jobs.gate, Gate::Closed, "nobody holds the lock");
        let holder = File::open(&file).unwrap();
        flock(&holder, FlockOperation::LockExclusive).unwrap();
        jobs.look();
        assert!(jobs.is_open() && jobs.doors(None).len() == 1);
        let inside = dir.path().join(ATTEMPTS);
        assert_eq!(jobs.dirs().first(), Some(&inside));
        assert!(jobs.doors(Some(&inside)).is_empty(), "it is entered further down");
        assert!(!jobs.look() && jobs.is_open(), "what is known is not opened again");
        std::fs::remove_file(&file).unwrap();
        jobs.look();
        assert_eq!((jobs.gate, jobs.doors(None).len()), (Gate::Closed, 0));
    }

    #[test]
    fn what_is_held_and_cannot_be_entered_starts_nothing_and_ends_nothing() {
        let (dir, file) = made();
        let holder = File::open(&file).unwrap();
        flock(&holder, FlockOperation::LockExclusive).unwrap();
        std::fs::remove_file(dir.path().join(ATTEMPTS).join(PROCS)).unwrap();
        let mut jobs = JobsCgroup::new(Some(file));
        jobs.look();
        assert_eq!(jobs.gate, Gate::Unusable);
    }

    #[test]
    fn a_directory_is_a_group_by_itself() {
        let (dir, _) = made();
        let mut jobs = JobsCgroup::new(Some(dir.path().to_path_buf()));
        jobs.look();
        assert!(jobs.is_open());
        let mut absent = JobsCgroup::new(Some("/nowhere/cgroup".into()));
        absent.look();
        assert_eq!(absent.gate, Gate::Closed);
    }
}
