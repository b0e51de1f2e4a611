//! `reeve-agent jobs`: the process of the service `reeve-jobs`. It holds a delegated control group in which attempts
//! live, so that stopping that service, and no other, ends them. It starts nothing and speaks to nobody: the keeper reads
//! its file. Told to stop, it takes the file away (the keeper then drains what runs), and leaves when all have ended.
use crate::machine::cgroup;
use nix::sys::signal::{SigSet, Signal};
use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The part of the group that attempts live in.
pub(crate) const ATTEMPTS: &str = "attempts";
/// The part that this process moves to: a group with limits below it must be empty itself.
const HOLDER: &str = "holder";
/// The kernel's list of processes; writing to it moves one.
pub(crate) const PROCS: &str = "cgroup.procs";
/// Between two looks while attempts end.
const LOOK: Duration = Duration::from_millis(100);
/// For ends to be told once all commands have ended.
const TELL: Duration = Duration::from_secs(10);

/// Arguments of `reeve-agent jobs`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Where to write what the keeper reads; the keeper's --jobs-cgroup.
    #[arg(long)]
    pub file: PathBuf,
    /// Hold this group instead of the process's own (repeated).
    #[arg(long = "group", value_name = "DIR")]
    pub groups: Vec<PathBuf>,
    /// How long attempts may take to end when this is told to stop, seconds.
    #[arg(long, default_value_t = 60)]
    pub patience_s: u64,
}

/// The group cannot be held.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file.
    #[error("cannot write {0}")]
    File(PathBuf, #[source] io::Error),
    /// Signals.
    #[error("signals cannot be waited for")]
    Signals(#[from] nix::Error),
}

/// Holds the group of this process until TERM or INT, then waits for the attempts' end.
///
/// # Errors
/// [`Error`].
pub fn hold(args: &Args) -> Result<(), Error> {
    let mut stop = SigSet::empty();
    stop.add(Signal::SIGTERM);
    stop.add(Signal::SIGINT);
    stop.thread_block()?;
    let groups = divide(&if args.groups.is_empty() { cgroup::own() } else { args.groups.clone() });
    if groups.is_empty() {
        tracing::warn!("no control group can be divided here: attempts stay where their keeper is");
    }
    let held = write(&args.file, &groups).map_err(|e| Error::File(args.file.clone(), e))?;
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    stop.wait()?;
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    tracing::info!("closing: attempts are drained");
    let _ = std::fs::remove_file(&args.file);
    wait_for_ends(&groups, Duration::from_secs(args.patience_s));
    drop(held);
    Ok(())
}

/// Makes the two parts of each group and moves to its own. A group where that fails is left out.
fn divide(groups: &[PathBuf]) -> Vec<PathBuf> {
    let divided = groups.iter().filter(|group| {
        let divided = std::fs::create_dir_all(group.join(ATTEMPTS))
            .and_then(|()| std::fs::create_dir_all(group.join(HOLDER)))
            .and_then(|()| std::fs::write(group.join(HOLDER).join(PROCS), "0"));
        if let Err(error) = &divided {
            tracing::warn!(group = %group.display(), %error, "a control group cannot be used");
        }
        divided.is_ok()
    });
    divided.cloned().collect()
}

/// Whole and locked before it has its name: whoever finds it finds it held.
fn write(path: &Path, groups: &[PathBuf]) -> io::Result<File> {
    let beside = path.with_extension("new");
    let _ = std::fs::remove_file(&beside);
    let mut file = File::options().write(true).create_new(true).mode(0o644).open(&beside)?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    for group in groups {
        writeln!(file, "{}", group.display())?;
    }
    std::fs::rename(&beside, path)?;
    Ok(file)
}

/// First the commands, for as long as their grace lasts; then the guardians, which leave once their ends are told.
fn wait_for_ends(groups: &[PathBuf], patience: Duration) {
    let own_name = name_of("self");
    let end = Instant::now() + patience;
    let mut told_by = None;
    loop {
        let left: Vec<String> = groups.iter().flat_map(|group| members(&group.join(ATTEMPTS))).collect();
        if left.is_empty() {
            return;
        }
        // A guardian is the agent's own program. A job that calls itself so is waited for a little shorter.
        if told_by.is_none() && left.iter().all(|pid| name_of(pid) == own_name) {
            told_by = Some(Instant::now() + TELL);
        }
        if Instant::now() >= told_by.map_or(end, |by| by.min(end)) {
            tracing::warn!(processes = left.len(), "not all attempts have ended and been told");
            return;
        }
        std::thread::sleep(LOOK);
    }
}

/// Processes of a group and of all below it.
fn members(group: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(group.join(PROCS)).unwrap_or_default();
    let mut found: Vec<String> = text.lines().map(str::to_owned).collect();
    for below in std::fs::read_dir(group).into_iter().flatten().flatten() {
        if below.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(members(&below.path()));
        }
    }
    found
}

fn name_of(pid: &str) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_held_from_its_first_moment_until_its_holder_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cgroup");
        let held = write(&path, &["/sys/a".into(), "/sys/b".into()]).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "/sys/a\n/sys/b\n");
        let other = File::open(&path).unwrap();
        assert!(flock(&other, FlockOperation::NonBlockingLockShared).is_err());
        drop(held);
        assert!(flock(&other, FlockOperation::NonBlockingLockShared).is_ok());
    }

    #[test]
    fn everything_below_a_group_counts_and_an_empty_one_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let attempts = dir.path().join(ATTEMPTS);
        std::fs::create_dir_all(attempts.join("7/inner")).unwrap();
        std::fs::write(attempts.join(PROCS), "1\n2\n").unwrap();
        std::fs::write(attempts.join("7/inner").join(PROCS), "3\n").unwrap();
        assert_eq!(members(&attempts), ["1", "2", "3"]);
        std::fs::remove_dir_all(&attempts).unwrap();
        wait_for_ends(&[dir.path().to_path_buf()], Duration::from_hours(1));
    }

    #[test]
    fn a_group_that_cannot_be_divided_is_left_out() {
        assert!(divide(&["/proc/nowhere".into()]).is_empty());
    }
}
