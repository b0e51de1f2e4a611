//! The pipes of a replica of a static worker: two named pipes in a directory of the attempt. The guardian holds both ends of
//! the one and the agent's end of the other open, so that neither the agent's end nor its next life is seen by the replica,
//! and the agent sees when the replica closes its standard output. The agent opens them by path. What the replica writes to its standard error is its log, as for any attempt.
use reeve_protocol::ids::AttemptId;
use reeve_protocol::wire::{Batch, Replica};
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat, open};
use serde::{Deserialize, Serialize};
use std::fs::DirBuilder;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};

/// Where the directories of replicas lie, below the runtime directory.
pub(crate) const DIR: &str = "r";
/// What is said to the replica.
pub(crate) const IN: &str = "in";
/// What it says.
pub(crate) const OUT: &str = "out";
/// How it is spoken to: the frame's body.
pub(crate) const ABOUT: &str = "about";
/// Bytes that a pipe holds: more means fewer waits of either side. Less is granted to users with many pipes.
const PIPE: usize = 1 << 20;

/// How a replica is spoken to, as its guardian is told.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Spoken {
    pub(crate) replica: Replica,
    pub(crate) batch: Batch,
}

/// The same in the file that the agent reads. One that was written before there were batches has none.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct About {
    #[serde(flatten)]
    pub(crate) replica: Replica,
    #[serde(default)]
    pub(crate) batch: Batch,
}

/// The ends of both pipes.
pub(crate) struct Pipes {
    stdin: OwnedFd,
    /// Until the command has it.
    stdout: Option<OwnedFd>,
    _held: [OwnedFd; 2],
}

impl Pipes {
    /// What becomes the command's standard input.
    pub(crate) fn stdin(&self) -> RawFd {
        self.stdin.as_raw_fd()
    }

    /// What becomes its standard output.
    pub(crate) fn stdout(&self) -> RawFd {
        self.stdout.as_ref().map_or(1, std::os::fd::AsRawFd::as_raw_fd)
    }

    /// The command has its ends.
    pub(crate) fn given(&mut self) {
        self.stdout = None;
    }
}

/// The directory of an attempt, below the runtime directory.
pub(crate) fn dir(attempt: AttemptId) -> String {
    format!("{DIR}/{}", attempt.file_name())
}

/// Makes the directory with what is in it. `None`: it speaks HTTP.
pub(crate) fn make(attempt: AttemptId, about: &Spoken, shared: bool) -> io::Result<Option<Pipes>> {
    let dir = dir(attempt);
    remove(attempt);
    DirBuilder::new().mode(0o700).create(&dir)?;
    let permit = |path: &str, mode: u32| {
        if shared { std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)) } else { Ok(()) }
    };
    // The directory above gives its group to what is made in it.
    permit(&dir, 0o2770)?;
    let text = serde_json::to_vec(&About { replica: about.replica.clone(), batch: about.batch })?;
    let path = format!("{dir}/{ABOUT}");
    std::fs::write(&path, text)?;
    permit(&path, 0o640)?;
    if about.replica.protocol != 0 {
        return Ok(None);
    }
    let pipe = |name: &str| -> io::Result<(String, OwnedFd)> {
        let path = format!("{dir}/{name}");
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
        permit(&path, 0o660)?;
        // Both ways: does not wait for anybody at the other end, and is one.
        let held = open(&path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        let _ = rustix::pipe::fcntl_setpipe_size(&held, PIPE);
        Ok((path, held))
    };
    let (input, output) = (pipe(IN)?, pipe(OUT)?);
    let stdin = open(&input.0, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let stdout = open(&output.0, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    // Held so that the replica can write while no agent is there.
    let reading = open(&output.0, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?;
    Ok(Some(Pipes { stdin, stdout: Some(stdout), _held: [input.1, reading] }))
}

/// Nothing of it stays.
pub(crate) fn remove(attempt: AttemptId) {
    let _ = std::fs::remove_dir_all(dir(attempt));
}
