//! The directory of `reeve up`: what lies where, who holds it, and the file by which commands find its socket.
use super::front::Error;
use crate::host::{pointer_paths, temporary_dir};
use rustix::fs::{FlockOperation, flock};
use std::fs::{File, OpenOptions};
use std::hash::{Hash as _, Hasher as _};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Magic numbers of file systems that other machines see, too (statfs(2)): NFS, SMB, CIFS, SMB2, Ceph, AFS, 9p, FUSE
/// (sshfs, GlusterFS), Lustre, GPFS, BeeGFS.
const NETWORK: [u64; 11] = [
    0x6969,
    0x517b,
    0xff53_4d42,
    0xfe53_4d42,
    0x00c3_6400,
    0x5346_414f,
    0x0102_1997,
    0x6573_5546,
    0x0bd0_0bd0,
    0x4750_4653,
    0x1983_0326,
];

/// Magic number of a file system in memory (statfs(2)).
const TMPFS: u64 = 0x0102_1994;

/// One directory of `reeve up`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dir {
    root: PathBuf,
}

impl Dir {
    /// The one that was named, or the user's own; made if it does not exist.
    pub fn open(named: Option<&Path>) -> Result<Self, Error> {
        let root = match named {
            Some(dir) => std::path::absolute(dir).map_err(Error::dir(dir))?,
            None => Self::of_user(),
        };
        private_dir(&root)?;
        Ok(Self { root: root.canonicalize().map_err(Error::dir(&root))? })
    }

    /// Under XDG data, unless that is shared between machines: a store needs a disk that only this machine writes.
    fn of_user() -> PathBuf {
        let data = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from).filter(|p| p.is_absolute());
        let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/share"));
        let uid = rustix::process::getuid().as_raw();
        let local = PathBuf::from(format!("/var/tmp/reeve-{uid}"));
        let Some(data) = data.or_else(home) else {
            crate::cli::note(format!(
                "note: neither XDG_DATA_HOME nor HOME is set; using {}",
                local.display()
            ));
            return local;
        };
        if is_network(&data) {
            crate::cli::note(format!(
                "note: {} is on a network file system; using {}",
                data.display(),
                local.display()
            ));
            return local;
        }
        data.join("reeve/up")
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The coordinator's store.
    pub fn coordinator(&self) -> PathBuf {
        self.root.join("coordinator")
    }

    /// The agent's identity.
    pub fn agent(&self) -> PathBuf {
        self.root.join("agent")
    }

    /// What the detached server says.
    pub fn log(&self) -> PathBuf {
        self.root.join("log/up.log")
    }

    /// Sockets. They are the machine's, so they never lie on a network file system. A running server has written down
    /// where they are, because another session may have another runtime directory.
    pub fn runtime(&self) -> PathBuf {
        let settled = std::fs::read_to_string(self.settled_path()).map(|text| PathBuf::from(text.trim_end()));
        match settled {
            Ok(path) if path.is_absolute() && path.exists() => path,
            _ => self.choose_runtime(),
        }
    }

    /// Makes the place of the sockets and writes down where it is.
    pub fn settle(&self) -> Result<(), Error> {
        let runtime = self.runtime();
        if let Some(parent) = runtime.parent().filter(|parent| !parent.exists()) {
            private_dir(parent)?;
        }
        private_dir(&runtime)?;
        let path = self.settled_path();
        std::fs::write(&path, format!("{}\n", runtime.display())).map_err(Error::dir(&path))
    }

    fn settled_path(&self) -> PathBuf {
        self.root.join("runtime")
    }

    fn choose_runtime(&self) -> PathBuf {
        let variable = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        let session = variable.filter(|p| p.is_absolute()).map(|p| p.join("reeve"));
        let mut hasher = std::hash::DefaultHasher::new();
        self.root.hash(&mut hasher);
        let name = format!("{:016x}", hasher.finish());
        let uid = rustix::process::geteuid().as_raw();
        let session = session.filter(|dir| is_for_us(dir, uid));
        match session.or_else(|| in_memory(uid)) {
            Some(base) => base.join(name),
            None if is_network(&self.root) => temporary_dir(uid).join(name),
            None => self.root.join("run"),
        }
    }

    /// The coordinator's socket.
    pub fn socket(&self) -> PathBuf {
        self.runtime().join("coordinator.sock")
    }

    fn lock_path(&self) -> PathBuf {
        self.root.join("lock")
    }

    /// Makes this process the server of the directory; `None` when another one is.
    pub fn lock(&self) -> Result<Option<Lock>, Error> {
        let path = self.lock_path();
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(Error::dir(&path))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Lock { file })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(Error::dir(&path)(error.into())),
        }
    }

    /// The server of this directory, if one runs.
    pub fn holder(&self) -> Result<Option<Holder>, Error> {
        if self.lock()?.is_some() {
            return Ok(None);
        }
        Ok(Some(self.written()?))
    }

    /// What the lock's file tells, whether or not somebody holds it.
    pub fn written(&self) -> Result<Holder, Error> {
        let path = self.lock_path();
        let mut text = String::new();
        match File::open(&path).and_then(|mut file| file.read_to_string(&mut text)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::dir(&path)(error)),
            _ => Ok(Holder::parse(&text)),
        }
    }
}

/// Held as long as this process is the server.
pub struct Lock {
    file: File,
}

impl Lock {
    /// Writes who holds it, for `reeve down` and for a second `reeve up`. Ready servers also tell their socket.
    pub fn tell(&mut self, socket: Option<&Path>) -> io::Result<()> {
        let socket = socket.map_or_else(String::new, |path| path.display().to_string());
        self.file.set_len(0)?;
        self.file.rewind()?;
        writeln!(self.file, "{}\n{socket}", std::process::id())
    }
}

/// Who serves a directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holder {
    /// Its process, once it has written that.
    pub pid: Option<i32>,
    /// Its socket, once it is ready.
    pub socket: Option<PathBuf>,
}

impl Holder {
    fn parse(text: &str) -> Self {
        let mut lines = text.lines();
        Self {
            pid: lines.next().and_then(|pid| pid.parse().ok()).filter(|pid| *pid > 1),
            socket: lines.next().filter(|path| !path.is_empty()).map(PathBuf::from),
        }
    }
}

/// Makes a directory for this user alone. One that exists must be this user's.
pub fn private_dir(path: &Path) -> Result<(), Error> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(Error::dir(path))?;
    let meta = std::fs::metadata(path).map_err(Error::dir(path))?;
    if meta.uid() == rustix::process::geteuid().as_raw() {
        Ok(())
    } else {
        Err(Error::NotOurs { path: path.to_owned() })
    }
}

/// Lets the commands of this user find the socket; taken back when this is dropped.
pub struct Pointer {
    path: PathBuf,
    socket: PathBuf,
}

impl Pointer {
    /// Writes the file whole, at the most private place there is.
    pub fn write(socket: &Path) -> Result<Self, Error> {
        let paths = pointer_paths();
        let path = paths.iter().find(|p| usable(p)).or(paths.last()).cloned().unwrap_or_default();
        private_dir(path.parent().unwrap_or(&path))?;
        let text = format!("{}\n", socket.display());
        let part = path.with_extension("part");
        let written = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&part)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .and_then(|()| std::fs::rename(&part, &path));
        written.map_err(Error::dir(&path))?;
        Ok(Self { path, socket: socket.to_owned() })
    }
}

/// Whether the runtime directory that holds this pointer's directory exists.
fn usable(pointer: &Path) -> bool {
    pointer.parent().and_then(Path::parent).is_some_and(Path::is_dir)
}

impl Drop for Pointer {
    fn drop(&mut self) {
        // A later `reeve up` of this user may have taken the pointer over.
        let ours =
            std::fs::read_to_string(&self.path).is_ok_and(|text| Path::new(text.trim_end()) == self.socket);
        if ours {
            // Gone already is as good.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// The base for runtime files of a user without a session, in memory: every start of a job makes and removes some.
fn in_memory(uid: u32) -> Option<PathBuf> {
    let run = if uid == 0 { "/run/reeve".to_owned() } else { format!("/run/reeve-{uid}") };
    [PathBuf::from(run), PathBuf::from(format!("/dev/shm/reeve-{uid}"))]
        .into_iter()
        .find(|dir| dir.parent().is_some_and(|parent| magic(parent) == Some(TMPFS)) && is_for_us(dir, uid))
}

/// Whether a directory is this user's and no other's to change, or could be made so.
fn is_for_us(dir: &Path, uid: u32) -> bool {
    use rustix::fs::{Access, access};
    // Not followed: in a directory that all may write, a link would lead where its maker likes.
    match std::fs::symlink_metadata(dir) {
        Ok(meta) => meta.is_dir() && meta.uid() == uid && meta.mode() & 0o022 == 0,
        Err(_) => {
            dir.parent().is_some_and(|parent| access(parent, Access::WRITE_OK | Access::EXEC_OK).is_ok())
        }
    }
}

/// Whether the nearest existing directory is on a file system that other machines see, too.
fn is_network(path: &Path) -> bool {
    let nearest = path.ancestors().find(|p| p.exists());
    nearest.and_then(magic).is_some_and(|magic| NETWORK.contains(&magic))
}

/// The kind of the file system that a path is on.
fn magic(path: &Path) -> Option<u64> {
    // The field is signed on some machines; the magic numbers have 32 bits.
    rustix::fs::statfs(path).ok().map(|stat| stat.f_type as u64 & 0xffff_ffff)
}

#[cfg(test)]
#[path = "dir_test.rs"]
mod tests;
