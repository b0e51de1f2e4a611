//! A new keeper finds the guardians of the one before by their sockets, and answers for those that are dead.
use super::attempts::{Attempt, Keeper, plain_end};
use super::place::Place;
use super::queue::Size;
use super::watch::Watch;
use crate::guardian::RESTING;
use crate::guardian::environment::socket_path;
use crate::guardian::tree;
use crate::guardian::workdir::OUT;
use reeve_protocol::cause::Cause;
use reeve_protocol::frame::{self, Reader};
use reeve_protocol::guardian::{Hello, State, kind};
use reeve_protocol::ids::AttemptId;
use rustix::process::Signal;
use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// How long a guardian may take to answer; a stopped one is taken as running.
const ANSWER: Duration = Duration::from_secs(2);

impl Keeper {
    /// Looks at every socket once, before anybody is served.
    pub(super) fn adopt(&mut self) {
        let Ok(sockets) = std::fs::read_dir("g") else { return };
        for entry in sockets.flatten() {
            let name = entry.file_name();
            if let Some(id) = name.to_str().and_then(AttemptId::from_file_name) {
                if self.place.is_new_life {
                    // Its end is the machine's, and the coordinator says so: here only files are left.
                    self.remove_files(id, 0, &Place::lineage());
                } else {
                    self.adopt_one(id);
                }
            } else {
                tracing::warn!(?name, "no socket of ours in the directory of guardians");
            }
        }
        self.end_unknown();
        self.remove_abandoned();
        remove_resting();
    }

    /// Ends what was started in a directory of this name and that nobody here can answer for: the directory was removed
    /// while it ran, its end could never be told, and its job is run again.
    fn end_unknown(&self) {
        let ours = format!("{}/g/", self.place.root);
        for (pid, socket) in tree::marked() {
            let id = socket.strip_prefix(&ours).and_then(AttemptId::from_file_name);
            // In another container a directory of the same name is another one.
            if id.is_some_and(|id| !self.attempts.contains_key(&id))
                && mounts(pid) == mounts(std::process::id())
            {
                tracing::warn!(pid, socket, "ends a process whose guardian cannot be found");
                tree::signal_one(pid, Signal::KILL);
            }
        }
    }

    /// Directories whose guardian is gone. Those of guardians that were idle are removed by them.
    fn remove_abandoned(&self) {
        if self.links.values().any(|link| link.guardian_pid == 0) {
            // One that has not answered yet owns a directory, and nobody knows which.
            return;
        }
        let Ok(directories) = std::fs::read_dir(&self.place.work) else { return };
        for entry in directories.flatten() {
            let owner =
                entry.file_name().to_str().and_then(|n| n.strip_suffix(OUT).unwrap_or(n).parse::<u32>().ok());
            if owner.is_none_or(|pid| !self.links.values().any(|link| link.guardian_pid == pid)) {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
    }

    fn adopt_one(&mut self, id: AttemptId) {
        match ask(&socket_path(id), &self.place.nonce) {
            Ok((stream, state, rest)) => self.adopt_living(id, stream, state, &rest),
            Err(error) => {
                tracing::warn!(attempt = %id, %error, "a guardian is dead");
                let lineage = Place::lineage();
                self.kill_leftovers(id, (0, 0));
                self.remove_files(id, 0, &lineage);
                let end = plain_end(id, Cause::KeeperLost.to_wire(), 0, 0);
                self.attempts.insert(id, Attempt::ended(end, lineage));
            }
        }
    }

    fn adopt_living(&mut self, id: AttemptId, stream: UnixStream, state: Option<State>, rest: &[u8]) {
        let guardian_pid = state.as_ref().map_or(0, |s| s.guardian_pid);
        let slot = self.groups.slot_of(guardian_pid);
        let Ok(link) = self.add_link(stream, id, guardian_pid, false, slot) else { return };
        let attempt = Attempt {
            link: Some(link),
            guardian_pid,
            pid: 0,
            born: 0,
            leased: true,
            phase: 1,
            lineage: state.as_ref().map_or_else(Place::lineage, |s| s.lineage.clone()),
            size: state.as_ref().map_or(Size::default(), |s| Size {
                cpu_milli: s.cpu_milli.into(),
                memory_bytes: s.memory_bytes,
            }),
            started_ms: 0,
            prepared: None,
            artifacts: None,
            end: None,
            report: false,
            watch: Watch::default(),
        };
        self.queue.adopt(attempt.size);
        self.attempts.insert(id, attempt);
        if let Some(known) = self.links.get_mut(&link) {
            known.peer.feed(rest);
            self.hear_guardian(link);
        }
        if let Some(state) = state {
            // Nobody listens yet: this only fills the tables, and gives the room back if it has ended.
            self.note(id, state);
        }
    }
}

/// What a process sees of the file system, for comparison.
fn mounts(pid: u32) -> Option<std::path::PathBuf> {
    std::fs::read_link(format!("/proc/{pid}/ns/mnt")).ok()
}

/// Says Hello and waits a little for the State; with what came behind it.
fn ask(path: &str, nonce: &str) -> io::Result<(UnixStream, Option<State>, Vec<u8>)> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(ANSWER))?;
    let mut hello = Vec::new();
    frame::append(kind::HELLO, 0, &Hello { nonce: nonce.to_owned() }, &mut hello)
        .map_err(io::Error::other)?;
    stream.write_all(&hello)?;
    let (mut reader, mut buffer, mut early) = (Reader::new(), vec![0; 64 * 1024], Vec::new());
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Err(io::ErrorKind::ConnectionReset.into()),
            Ok(n) => reader.feed(&buffer[..n]),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                early.extend(reader.take_rest());
                return Ok((stream, None, early));
            }
            Err(e) => return Err(e),
        }
        while let Some(frame) = reader.next_frame().map_err(io::Error::other)? {
            if frame.kind == kind::STATE {
                let state = frame.decode::<State>().map_err(io::Error::other)?;
                early.extend(reader.take_rest());
                return Ok((stream, Some(state), early));
            }
            // The list of its artifacts comes first; it is read with what comes behind the State.
            frame::append_raw(&frame, &mut early);
        }
    }
}

/// Sockets of guardians that held nothing and were killed; those that live leave with the keeper that forked them.
fn remove_resting() {
    let Ok(entries) = std::fs::read_dir(".") else { return };
    for entry in entries.flatten().filter(|e| e.file_name().to_string_lossy().starts_with(RESTING)) {
        let _ = std::fs::remove_file(entry.path());
    }
}
