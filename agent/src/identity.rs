//! Who this machine is in its cluster: key, certificates, name, addresses; and what was seen of the store last. Files in
//! the state directory; nothing about jobs.
//!
//! Key and certificate are one file, replaced by one rename: wherever a renewal is interrupted, they fit together.
use rcgen::KeyPair;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use serde::{Deserialize, Serialize};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
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
    /// Others could read, or put something in its place.
    #[error("{path} can be read or changed by other users; make it private with: chmod {mode:o} {path}")]
    Open {
        /// Which.
        path: PathBuf,
        /// What it should be.
        mode: u32,
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
/// The key and the certificate that goes with it.
const MACHINE: &str = "machine.pem";
/// The key of a request to join that was not answered yet.
const PENDING: &str = "join.pem";
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
        private(dir, if is_root() { 0o711 } else { 0o700 })?;
        let identity = serde_json::from_slice(&read(&path)?)
            .map_err(|e| Error::Damaged { path: path.clone(), problem: e.to_string() })?;
        let path = dir.join(MACHINE);
        private(&path, 0o600)?;
        let text = read(&path)?;
        let damaged =
            |e: rustls::pki_types::pem::Error| Error::Damaged { path: path.clone(), problem: e.to_string() };
        let key = PrivateKeyDer::from_pem_slice(&text).map_err(damaged)?;
        let certificate = CertificateDer::from_pem_slice(&text).map_err(damaged)?;
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
    store_certificate(dir, key_pem, certificate)?;
    replace(&dir.join(CA), ca)?;
    let _ = std::fs::remove_file(dir.join(SEEN));
    let json = serde_json::to_vec_pretty(identity).expect("strings and lists of strings are always JSON");
    replace(&dir.join(IDENTITY), &json)
}

/// Puts a key and its certificate in the place of those before, at once and for good.
///
/// # Errors
/// [`Error::File`]; those before are untouched then.
pub fn store_certificate(dir: &Path, key_pem: &str, certificate: &[u8]) -> Result<(), Error> {
    let certificate = pem::Pem::new("CERTIFICATE", certificate);
    replace(&dir.join(MACHINE), format!("{key_pem}{certificate}").as_bytes())
}

/// The key that this machine asks to join with: the same one until it has joined, so that an answer that was lost costs
/// no token.
///
/// # Errors
/// [`Error`]; a key that cannot be made counts as a damaged file.
pub fn pending_key(dir: &Path) -> Result<KeyPair, Error> {
    let path = dir.join(PENDING);
    let damaged = |e: rcgen::Error| Error::Damaged { path: path.clone(), problem: e.to_string() };
    if path.exists() {
        private(&path, 0o600)?;
        let text = String::from_utf8_lossy(&read(&path)?).into_owned();
        return KeyPair::from_pem(&text).map_err(damaged);
    }
    let key = KeyPair::generate().map_err(damaged)?;
    make_dir(dir)?;
    replace(&path, key.serialize_pem().as_bytes())?;
    Ok(key)
}

/// The key to join with is of no use any more.
pub fn drop_pending_key(dir: &Path) {
    let _ = std::fs::remove_file(dir.join(PENDING));
}

/// Removes what makes this machine a member; other files stay.
pub fn remove(dir: &Path) {
    for name in [IDENTITY, MACHINE, PENDING, CA, SEEN] {
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

    /// Notes it; synced, since it is asked for when everything else may be gone.
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
    let mode = if is_root() { 0o711 } else { 0o700 };
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(dir)
        .map_err(|source| Error::File { path: dir.to_path_buf(), source })
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Refuses what others may do more with than `mode` says.
fn private(path: &Path, mode: u32) -> Result<(), Error> {
    let found = std::fs::metadata(path).map_err(|source| Error::File { path: path.to_path_buf(), source })?;
    match found.permissions().mode() & 0o077 & !mode {
        0 => Ok(()),
        _ => Err(Error::Open { path: path.to_path_buf(), mode }),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|source| Error::File { path: path.to_path_buf(), source })
}

/// A file is whole at any time: written beside, synced, renamed.
fn replace(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let beside = path.with_extension("new");
    let write = || {
        // What an interrupted write left, perhaps with another mode.
        let _ = std::fs::remove_file(&beside);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        file.write_all(bytes)?;
        give_to_owner(&file, path)?;
        file.sync_all()?;
        std::fs::rename(&beside, path)?;
        // The name, too: what the coordinator is told to be on disk has to survive a power cut.
        path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
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
        let key = KeyPair::generate().unwrap();
        store(&state, &identity(), &key.serialize_pem(), b"cert", b"ca").unwrap();
        let loaded = Credentials::load(&state).unwrap();
        assert_eq!((loaded.identity, loaded.ca.as_ref()), (identity(), &b"ca"[..]));
        assert_eq!(
            (loaded.certificate.as_ref(), loaded.key.secret_der()),
            (&b"cert"[..], key.serialized_der())
        );
        let mode = std::fs::metadata(state.join(MACHINE)).unwrap().permissions().mode();
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
        for file in [IDENTITY, MACHINE, CA] {
            assert_eq!(std::fs::metadata(dir.path().join(file)).unwrap().uid(), owner, "{file}");
        }
    }

    #[test]
    fn what_others_could_read_or_change_is_refused_with_the_command_that_helps() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let key = KeyPair::generate().unwrap();
        store(&state, &identity(), &key.serialize_pem(), b"cert", b"ca").unwrap();
        for (path, good, bad, wanted) in [
            (state.join(MACHINE), 0o600, vec![0o640, 0o604, 0o660, 0o622], "chmod 600"),
            (state.clone(), 0o700, vec![0o770, 0o755, 0o704, 0o722], "chmod 7"),
        ] {
            for mode in bad {
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
                let error = Credentials::load(&state).err().map(|e| e.to_string()).unwrap_or_default();
                assert!(error.contains(wanted), "{mode:o}: {error:?}");
            }
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(good)).unwrap();
            assert!(Credentials::load(&state).is_ok());
        }
    }

    /// A renewal is interrupted before its rename: the file beside is all that is left of it.
    #[test]
    fn key_and_certificate_change_together_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let (old, new) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        store(&state, &identity(), &old.serialize_pem(), b"old", b"ca").unwrap();
        let pair = || {
            let loaded = Credentials::load(&state).unwrap();
            (loaded.key.secret_der().to_vec(), loaded.certificate.to_vec())
        };
        std::fs::write(state.join("machine.new"), &new.serialize_pem()[..40]).unwrap();
        assert_eq!(pair(), (old.serialized_der().to_vec(), b"old".to_vec()));
        store_certificate(&state, &new.serialize_pem(), b"new").unwrap();
        assert_eq!(pair(), (new.serialized_der().to_vec(), b"new".to_vec()));
    }

    #[test]
    fn the_key_to_join_with_stays_the_same_until_it_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let first = pending_key(dir.path()).unwrap().serialize_pem();
        assert_eq!(pending_key(dir.path()).unwrap().serialize_pem(), first);
        let path = dir.path().join(PENDING);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        drop_pending_key(dir.path());
        assert_ne!(pending_key(dir.path()).unwrap().serialize_pem(), first);
    }

    #[test]
    fn damage_is_named_and_what_was_seen_survives() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        std::fs::write(dir.path().join(IDENTITY), "{").unwrap();
        assert!(matches!(Credentials::load(dir.path()), Err(Error::Damaged { .. })));
        assert_eq!(Seen::load(dir.path()), Seen::default());
        let seen = Seen { lineage: "l".into(), epoch: 3, seq: 9 };
        seen.store(dir.path()).unwrap();
        assert_eq!(Seen::load(dir.path()), seen);
    }
}
