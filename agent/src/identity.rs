//! Who this machine is in its cluster: key, certificates, name, addresses; and what was seen of the store last. Files in
//! the state directory; nothing about jobs.
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use serde::{Deserialize, Serialize};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Something in the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no identity.
    #[error(
        "{0} holds no identity: this machine has not joined a cluster (reeve-agent join HOST --token-file F)"
    )]
    None(PathBuf),
    /// A file cannot be read or written.
    #[error("cannot use {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is damaged.
    #[error("{path} is damaged: {problem}")]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

/// What is public about an identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The cluster's id.
    pub cluster: String,
    /// The machine's identity in it.
    pub machine: String,
    /// The machine's name when it joined.
    pub name: String,
    /// Where the coordinator listens, `host:port`, best first.
    pub addresses: Vec<String>,
}

/// An identity with what proves it.
pub struct Credentials {
    /// The public part.
    pub identity: Identity,
    /// The machine's certificate.
    pub certificate: CertificateDer<'static>,
    /// The cluster's CA.
    pub ca: CertificateDer<'static>,
    /// The machine's key.
    pub key: PrivateKeyDer<'static>,
}

/// The newest state of the store that was seen: an older one is a restored backup.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// The store's lineage.
    pub lineage: String,
    /// Starts of the coordinator.
    pub epoch: u64,
    /// The last event's number.
    pub seq: u64,
}

const IDENTITY: &str = "agent.json";
const KEY: &str = "key.pem";
const CERTIFICATE: &str = "cert.der";
const CA: &str = "ca.der";
const SEEN: &str = "seen.json";

impl Credentials {
    /// Reads an identity.
    ///
    /// # Errors
    /// [`Error`].
    pub fn load(dir: &Path) -> Result<Self, Error> {
        let path = dir.join(IDENTITY);
        if !path.exists() {
            return Err(Error::None(dir.to_path_buf()));
        }
        let identity = serde_json::from_slice(&read(&path)?)
            .map_err(|e| Error::Damaged { path: path.clone(), problem: e.to_string() })?;
        let key_path = dir.join(KEY);
        let key = PrivateKeyDer::from_pem_slice(&read(&key_path)?)
            .map_err(|e| Error::Damaged { path: key_path, problem: e.to_string() })?;
        let certificate = CertificateDer::from(read(&dir.join(CERTIFICATE))?);
        let ca = CertificateDer::from(read(&dir.join(CA))?);
        Ok(Self { identity, certificate, ca, key })
    }
}

/// Writes a new identity; `agent.json` comes last, since it says that the rest is there.
///
/// # Errors
/// [`Error::File`].
pub fn store(
    dir: &Path,
    identity: &Identity,
    key_pem: &str,
    certificate: &[u8],
    ca: &[u8],
) -> Result<(), Error> {
    make_dir(dir)?;
    replace(&dir.join(KEY), key_pem.as_bytes())?;
    replace(&dir.join(CERTIFICATE), certificate)?;
    replace(&dir.join(CA), ca)?;
    let _ = std::fs::remove_file(dir.join(SEEN));
    let json = serde_json::to_vec_pretty(identity).expect("strings and lists of strings are always JSON");
    replace(&dir.join(IDENTITY), &json)
}

/// Removes what makes this machine a member; other files stay.
pub fn remove(dir: &Path) {
    for name in [IDENTITY, KEY, CERTIFICATE, CA, SEEN] {
        let _ = std::fs::remove_file(dir.join(name));
    }
}

impl Seen {
    /// What was seen last; nothing at first, or when the file is damaged.
    pub fn load(dir: &Path) -> Self {
        std::fs::read(dir.join(SEEN))
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default()
    }

    /// Notes it.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn store(&self, dir: &Path) -> Result<(), Error> {
        let json = serde_json::to_vec(self).expect("a string and two numbers are always JSON");
        replace(&dir.join(SEEN), &json)
    }
}

/// Makes a directory that is ours alone. Root's lets others pass through, to the directories of their attempts.
pub(crate) fn make_dir(dir: &Path) -> Result<(), Error> {
    let mode = if rustix::process::geteuid().is_root() { 0o711 } else { 0o700 };
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(dir)
        .map_err(|source| Error::File { path: dir.to_path_buf(), source })
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|source| Error::File { path: path.to_path_buf(), source })
}

/// A file is whole at any time: written beside, synced, renamed.
fn replace(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let beside = path.with_extension("new");
    let write = || {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        file.write_all(bytes)?;
        give_to_owner(&file, path)?;
        file.sync_all()?;
        std::fs::rename(&beside, path)
    };
    write().map_err(|source| Error::File { path: path.to_path_buf(), source })
}

/// What root writes, as with `sudo reeve-agent join`, belongs to whoever the directory belongs to: an agent of a service
/// has a user of its own.
fn give_to_owner(file: &File, path: &Path) -> io::Result<()> {
    let Some(dir) = path.parent().filter(|_| rustix::process::geteuid().is_root()) else { return Ok(()) };
    let owner = std::fs::metadata(dir)?;
    if owner.uid() == 0 {
        return Ok(());
    }
    std::os::unix::fs::fchown(file, Some(owner.uid()), Some(owner.gid()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn identity() -> Identity {
        Identity {
            cluster: "c".into(),
            machine: "m".into(),
            name: "n".into(),
            addresses: vec!["[::1]:7373".into()],
        }
    }

    #[test]
    fn an_identity_comes_back_and_its_key_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("deep/state");
        assert!(matches!(Credentials::load(&state), Err(Error::None(_))));
        let key = rcgen::KeyPair::generate().unwrap();
        store(&state, &identity(), &key.serialize_pem(), b"cert", b"ca").unwrap();
        let loaded = Credentials::load(&state).unwrap();
        assert_eq!((loaded.identity, loaded.ca.as_ref()), (identity(), &b"ca"[..]));
        let mode = std::fs::metadata(state.join(KEY)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        remove(&state);
        assert!(matches!(Credentials::load(&state), Err(Error::None(_))));
    }

    #[test]
    fn what_is_written_belongs_to_the_directorys_owner_even_when_root_writes() {
        let dir = tempfile::tempdir().unwrap();
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(dir.path(), Some(65534), Some(65534)).unwrap();
        }
        let owner = std::fs::metadata(dir.path()).unwrap().uid();
        store(dir.path(), &identity(), "key", b"cert", b"ca").unwrap();
        for file in [IDENTITY, KEY, CERTIFICATE, CA] {
            assert_eq!(std::fs::metadata(dir.path().join(file)).unwrap().uid(), owner, "{file}");
        }
    }

    #[test]
    fn damage_is_named_and_what_was_seen_survives() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(IDENTITY), "{").unwrap();
        assert!(matches!(Credentials::load(dir.path()), Err(Error::Damaged { .. })));
        assert_eq!(Seen::load(dir.path()), Seen::default());
        let seen = Seen { lineage: "l".into(), epoch: 3, seq: 9 };
        seen.store(dir.path()).unwrap();
        assert_eq!(Seen::load(dir.path()), seen);
    }
}
