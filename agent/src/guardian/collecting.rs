//! Artifacts of an attempt: when the last process of its tree has ended, a process of its own collects them as the job's
//! user (see [`crate::collect`]) into a file of the guardian's, beside the tape. The end is told when that is done, and the
//! file stays until the attempt is forgotten.
use super::sys::{self, ChildSpec};
use super::{Guardian, environment, launch, tree};
use crate::collect::{Index, Order, WORDS};
use reeve_protocol::artifact::{self, DEFAULT_MAX_BYTES};
use reeve_protocol::cause::Cause;
use reeve_protocol::guardian::Artifacts;
use std::ffi::{CString, OsString};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Longest list: 1,000 files with the longest names, as JSON.
const MAX_INDEX: u64 = 8 << 20;
/// Longest time for all files of an attempt.
const LONGEST: Duration = Duration::from_mins(10);
/// The same when the machine or its jobs are being stopped, or somebody asks once more for the attempt's end.
const SHORT: Duration = Duration::from_secs(15);

/// Where collecting stands.
#[derive(Default)]
pub(super) struct Collecting {
    /// Its process; 0 while there is none.
    pid: u32,
    /// It has been tried: at most once per attempt.
    is_done: bool,
    until: Option<Instant>,
    file: Option<File>,
    told: Option<Artifacts>,
}

impl Collecting {
    /// Whether its process runs.
    pub(super) const fn is_running(&self) -> bool {
        self.pid != 0
    }

    pub(super) const fn pid(&self) -> u32 {
        self.pid
    }

    /// When it must have come to an end.
    pub(super) const fn until(&self) -> Option<Instant> {
        self.until
    }

    /// What was collected.
    pub(super) const fn told(&self) -> Option<&Artifacts> {
        self.told.as_ref()
    }

    fn total(&self) -> u64 {
        self.told.iter().flat_map(|told| &told.files).map(|file| file.size).sum()
    }

    /// Bytes of the files, one after the other, from an offset; and whether nothing follows.
    pub(super) fn read(&self, from: u64, most: usize) -> (Vec<u8>, bool) {
        let total = self.total();
        let mut bytes = vec![0; total.saturating_sub(from).min(most as u64) as usize];
        let read = self.file.as_ref().map_or(Ok(0), |file| file.read_at(&mut bytes, from)).unwrap_or(0);
        bytes.truncate(read);
        // A file that became shorter ends the answer: whoever asks counts, and finds it incomplete.
        let end = from + read as u64 >= total || read == 0;
        (bytes, end)
    }
}

/// Where the artifacts of an attempt lie, beside its tape.
pub(crate) fn place(spool: &Path) -> PathBuf {
    let mut name = OsString::from(spool);
    name.push(".out");
    name.into()
}

impl Guardian<'_> {
    /// Nobody of the tree is left: whether files are being collected now, so that the end has to wait.
    pub(super) fn begin_collecting(&mut self, cause: &Cause) -> bool {
        if std::mem::replace(&mut self.collecting.is_done, true) || self.state.pid == 0 {
            return false;
        }
        let wanted = self.task.collect.as_ref().is_some_and(|c| !c.globs.is_empty());
        if !wanted && !self.workdir.has_artifacts() {
            return false;
        }
        self.drain_all();
        // The slot of an attempt that had to be killed has no births any more; its tree is gone, and this is ours.
        self.note_refused(cause);
        self.confined.release();
        if let Err(error) = self.start_collector(cause) {
            self.remark(&format!("artifacts cannot be collected: {error}"));
            self.collecting.file = None;
            return false;
        }
        self.ending.begin_collecting();
        true
    }

    fn start_collector(&mut self, cause: &Cause) -> io::Result<()> {
        let text = serde_json::to_vec(&self.collect_order())?;
        let spool = place(&self.task.spool);
        if let Some(dir) = spool.parent() {
            std::fs::create_dir_all(dir)?;
        }
        let _ = std::fs::remove_file(&spool);
        let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(&spool)?;
        let (stderr, stderr_end) = launch::output_pipe()?;
        let stdin = launch::memory_file(&text)?;
        let socket = self.socket();
        let env = environment::complete(&self.task.start, &self.facts(&socket));
        let argv = ["reeve-agent", WORDS[0], WORDS[1]]
            .map(CString::new)
            .into_iter()
            .collect::<Result<Vec<_>, _>>()
            .map_err(io::Error::other)?;
        let spec = ChildSpec {
            // Our own program, even when another version lies in its place by now.
            candidates: &[c"/proc/self/exe".to_owned()],
            argv: &argv,
            env: &environment::strings(&env),
            cwd: &c"/".to_owned(),
            stdio: [stdin.as_raw_fd(), file.as_raw_fd(), stderr_end.as_raw_fd()],
            groups: &[],
            user: self.task.identity.as_ref(),
            no_new_privs: self.task.no_new_privs,
            data_limit: None,
        };
        let pid = sys::spawn(&spec).map_err(|failure| io::Error::from_raw_os_error(failure.errno))?;
        (self.stdout, self.stderr) = (None, Some(stderr));
        let longest = if *cause == Cause::Drained { SHORT } else { LONGEST };
        self.collecting.pid = pid;
        self.collecting.until = Some(Instant::now() + longest);
        self.collecting.file = Some(file);
        Ok(())
    }

    fn collect_order(&self) -> Order {
        let collect = self.task.collect.as_ref();
        let own = self.workdir.path();
        let cwd = self.task.start.cwd.as_deref().unwrap_or(own);
        let wanted = collect.map_or(DEFAULT_MAX_BYTES, |c| c.max_bytes);
        // Never more than half of what is free: other attempts spool on this disk, too.
        let free = rustix::fs::statvfs(self.setting.work.as_str())
            .map_or(u64::MAX, |disk| disk.f_bavail.saturating_mul(disk.f_frsize) / 2);
        Order {
            cwd: cwd.to_owned(),
            is_own: cwd == own,
            out_dir: self.workdir.out_path().to_owned(),
            globs: collect.map(|c| c.globs.clone()).unwrap_or_default(),
            max_bytes: wanted.min(self.task.out_max).min(free),
        }
    }

    /// The process that collects has ended in this way.
    pub(super) fn collector_ended(&mut self, ended: &Cause) {
        self.drain_all();
        self.collecting.pid = 0;
        self.collecting.until = None;
        let list = match (ended, &self.collecting.file) {
            (Cause::Ok, Some(file)) => read_index(file).map_err(|error| error.to_string()),
            (other, _) => Err(format!("collecting them ended as {other}")),
        };
        match list {
            Ok(index) if index.files.is_empty() => self.forget_artifacts(),
            Ok(index) => {
                let attempt = self.task.start.attempt;
                self.collecting.told = Some(Artifacts { attempt, files: index.files });
            }
            Err(why) => {
                self.remark(&format!("the artifacts of this attempt are lost: {why}"));
                self.forget_artifacts();
            }
        }
    }

    /// Collecting takes too long.
    pub(super) fn check_collecting(&mut self, now: Instant) {
        if self.collecting.until.is_some_and(|at| at <= now) {
            self.collecting.until = None;
            self.remark("collecting artifacts takes too long and is ended");
            tree::kill(self.state.guardian_pid, self.collecting.pid);
        }
    }

    /// Somebody asks for the end of an attempt whose tree has ended already: what is being collected is given little time.
    pub(super) fn hurry_collecting(&mut self) {
        let soon = Instant::now() + SHORT;
        self.collecting.until = self.collecting.until.map(|at| at.min(soon));
    }

    /// Removes what was collected.
    pub(super) fn forget_artifacts(&mut self) {
        if self.collecting.file.take().is_some() {
            let _ = std::fs::remove_file(place(&self.task.spool));
        }
        self.collecting.told = None;
    }
}

/// The list behind the bytes, held against the file that it stands in.
fn read_index(file: &File) -> io::Result<Index> {
    let bad = |why: &str| io::Error::other(format!("their list is damaged: {why}"));
    let len = file.metadata()?.len();
    let at = len.checked_sub(8).ok_or_else(|| bad("it is not there"))?;
    let mut tail = [0; 8];
    file.read_exact_at(&mut tail, at)?;
    let size = u64::from_le_bytes(tail);
    let begin = at.checked_sub(size).filter(|_| size <= MAX_INDEX).ok_or_else(|| bad("its length"))?;
    let mut text = vec![0; size as usize];
    file.read_exact_at(&mut text, begin)?;
    let index: Index = serde_json::from_slice(&text)?;
    match artifact::check_list(&index.files) {
        Ok(total) if total == begin => Ok(index),
        Ok(_) => Err(bad("the sizes")),
        Err(why) => Err(bad(why)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn of(bytes: &[u8]) -> io::Result<Index> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        read_index(&file)
    }

    #[test]
    fn a_list_counts_only_when_it_fits_its_file() {
        let list = |name: &str, size: u64| {
            let text = format!(
                "{{\"files\":[{{\"name\":\"{name}\",\"size\":{size},\"mode\":420,\"sha256\":\"{}\"}}]}}",
                "a".repeat(64)
            );
            [text.as_bytes(), &(text.len() as u64).to_le_bytes()].concat()
        };
        assert_eq!(of(&[b"12345", &list("a", 5)[..]].concat()).unwrap().files.len(), 1);
        for bad in [
            Vec::new(),
            vec![0xff; 8],
            vec![1; 4],
            list("a", 5),
            [b"12345", &list("../a", 5)[..]].concat(),
            [b"12345", &list("a", u64::MAX)[..]].concat(),
            [b"{}", &2_u64.to_le_bytes()[..]].concat(),
        ] {
            assert!(of(&bad).is_err(), "{bad:?}");
        }
    }
}
