//! The cluster's own certificate authority: made once by `init`, it signs the coordinator's certificate and those of the
//! machines that join. It does not decide who may join: tokens are the core's.
mod csr;

use crate::clock;
use aws_lc_rs::hmac;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData,
};
use reeve_protocol::{quic, token};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Days of 24 hours: certificates know no other.
const YEAR_HOURS: u64 = 24 * 365;
/// The authority outlives every machine; there is no rotation that a person would have to think of.
const AUTHORITY_LIFE: Duration = Duration::from_hours(YEAR_HOURS * 20);
/// A machine's certificate, unless the configuration says otherwise.
pub const MACHINE_LIFE: Duration = Duration::from_hours(YEAR_HOURS);
/// Clocks of machines may be behind by this much, and by a tenth of the certificate's life at most.
const BACKDATED: Duration = Duration::from_hours(1);
/// Bytes of a certificate's number: random, so that none can be foreseen.
const SERIAL_BYTES: usize = 16;

/// Bytes of a connection's id.
const ID_BYTES: usize = 8;

/// What can go wrong with keys and certificates.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// From the file system.
    #[error("cannot use {0}")]
    Io(PathBuf, #[source] io::Error),
    /// There is one already.
    #[error("{0} exists already; a cluster keeps its authority for life")]
    Exists(PathBuf),
    /// Anybody could read the key.
    #[error("{0} can be read by other users; make it private with: chmod 600 {0}")]
    Open(PathBuf),
    /// A key or certificate that cannot be used.
    #[error("the authority in {0} cannot be used")]
    Damaged(PathBuf, #[source] rcgen::Error),
    /// A machine's request that is not taken.
    #[error("a machine's request was refused")]
    Request(#[from] csr::Error),
    /// Signing failed.
    #[error("cannot sign a certificate")]
    Sign(#[from] rcgen::Error),
    /// The certificates do not make an endpoint.
    #[error("the coordinator's certificate cannot be used")]
    Quic(#[from] quic::Error),
}

/// The cluster's keys. Lives in `DIR/ca`.
pub struct Authority {
    ca: CertificateDer<'static>,
    ca_hash: String,
    issuer: Issuer<'static, KeyPair>,
    server: CertificateDer<'static>,
    server_key: PrivatePkcs8KeyDer<'static>,
    machine_life: Duration,
}

/// A certificate made for a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// DER.
    pub certificate: Vec<u8>,
    /// SHA-256 of the certificate, hex: how its holder is recognised.
    pub fingerprint: String,
    /// SHA-256 of its public key, hex: a machine that asks again with the same key is the same machine.
    pub key_hash: String,
    /// Its end, wall milliseconds.
    pub until: i64,
}

impl Authority {
    /// Makes the authority of a cluster and the coordinator's certificate. All or nothing: the directory appears by one
    /// rename.
    ///
    /// # Errors
    /// When there is one already, or from the file system.
    pub fn create(dir: &Path, cluster: &str) -> Result<(), Error> {
        let (made, ready) = (dir.join("ca.new"), dir.join("ca"));
        if ready.exists() {
            return Err(Error::Exists(ready));
        }
        let key = KeyPair::generate()?;
        let params = authority_params(cluster);
        let ca = params.self_signed(&key)?;
        let issuer = Issuer::new(params, key);
        let server_key = KeyPair::generate()?;
        let server = server_params(cluster)?.signed_by(&server_key, &issuer)?;
        let io = |path: &Path| {
            let path = path.to_owned();
            move |e| Error::Io(path, e)
        };
        if made.exists() {
            fs::remove_dir_all(&made).map_err(io(&made))?;
        }
        DirBuilder::new().mode(0o700).create(&made).map_err(io(&made))?;
        let files: [(&str, &[u8], u32); 4] = [
            ("ca.key", issuer.key().serialized_der(), 0o600),
            ("ca.der", ca.der(), 0o644),
            ("server.key", server_key.serialized_der(), 0o600),
            ("server.der", server.der(), 0o644),
        ];
        for (name, bytes, mode) in files {
            write_new(&made.join(name), bytes, mode).map_err(io(&made.join(name)))?;
        }
        sync_dir(&made).map_err(io(&made))?;
        fs::rename(&made, &ready).map_err(io(&ready))?;
        sync_dir(dir).map_err(io(dir))
    }

    /// Whether a directory has an authority.
    pub fn exists(dir: &Path) -> bool {
        dir.join("ca/ca.key").exists()
    }

    /// Reads the authority of a cluster.
    ///
    /// # Errors
    /// From the file system; when a key can be read by others or cannot be used.
    pub fn load(dir: &Path, cluster: &str) -> Result<Self, Error> {
        let dir = dir.join("ca");
        let key = KeyPair::try_from(read_private(&dir.join("ca.key"))?)
            .map_err(|e| Error::Damaged(dir.clone(), e))?;
        let ca = CertificateDer::from(read(&dir.join("ca.der"))?);
        Ok(Self {
            ca_hash: token::sha256_hex(&ca),
            ca,
            issuer: Issuer::new(authority_params(cluster), key),
            server: CertificateDer::from(read(&dir.join("server.der"))?),
            server_key: PrivatePkcs8KeyDer::from(read_private(&dir.join("server.key"))?),
            machine_life: MACHINE_LIFE,
        })
    }

    /// Machines' certificates will be good for so long.
    pub const fn with_machine_life(mut self, life: Duration) -> Self {
        self.machine_life = life;
        self
    }

    /// The key in a request, whose owner has proved to hold it.
    ///
    /// # Errors
    /// When it is not taken.
    pub fn requested_key(request: &[u8]) -> Result<RequestedKey, Error> {
        Ok(RequestedKey(csr::public_key(request)?))
    }

    /// SHA-256 of the CA certificate, hex: what a join token carries.
    pub fn ca_hash(&self) -> &str {
        &self.ca_hash
    }

    /// The CA certificate.
    pub const fn ca(&self) -> &CertificateDer<'static> {
        &self.ca
    }

    /// The server side of the agents' port.
    ///
    /// # Errors
    /// When the certificates do not fit together.
    pub fn server_config(&self) -> Result<quinn::ServerConfig, Error> {
        let chain = vec![self.server.clone(), self.ca.clone()];
        Ok(quic::server_config(&self.ca, chain, PrivateKeyDer::Pkcs8(self.server_key.clone_key()))?)
    }

    /// The endpoint's side of the agents' port. Its keys come from the server's, so that a coordinator that was killed
    /// and started again can tell machines at once that their connections are gone (RFC 9000, section 10.3).
    pub fn endpoint_config(&self) -> quinn::EndpointConfig {
        let secret = hmac::Key::new(hmac::HMAC_SHA256, self.server_key.secret_pkcs8_der());
        let resets = hmac::sign(&secret, b"reeve stateless resets");
        let mut config =
            quinn::EndpointConfig::new(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, resets.as_ref())));
        config.cid_generator(|| Box::new(RandomIds));
        config
    }

    /// Makes the certificate of a machine: the key comes from its request, everything else from here.
    ///
    /// # Errors
    /// When the request's key is not taken.
    pub fn issue_machine(&self, key: &RequestedKey, machine: &str) -> Result<Issued, Error> {
        let mut params = leaf_params(machine, self.machine_life);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let mut serial = [0; SERIAL_BYTES];
        aws_lc_rs::rand::fill(&mut serial).expect("the kernel's random source always answers after boot");
        // Positive, and not shortened by a leading zero (RFC 5280, 4.1.2.2).
        serial[0] = serial[0] & 0x7f | 0x40;
        params.serial_number = Some(rcgen::SerialNumber::from_slice(&serial));
        let until = params.not_after.unix_timestamp() * 1000;
        let certificate = params.signed_by(&key.0, &self.issuer)?.der().to_vec();
        Ok(Issued { fingerprint: fingerprint(&certificate), certificate, key_hash: key.hash(), until })
    }
}

/// A public key that a machine has proved to hold.
#[derive(Debug)]
pub struct RequestedKey(csr::PublicKey);

impl RequestedKey {
    /// SHA-256 of it, hex.
    pub fn hash(&self) -> String {
        token::sha256_hex(&self.0.subject_public_key_info())
    }

    /// The identity of the machine that holds it: who asks again with the same key is the same machine.
    pub fn machine(&self) -> String {
        let mut id = token::sha256_hex(format!("reeve machine {}", self.hash()).as_bytes());
        id.truncate(16);
        id
    }
}

/// Connection ids without a mark of the process that gave them: packets of connections that an earlier one had are
/// answered with a reset instead of being dropped.
struct RandomIds;

impl quinn::ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> quinn::ConnectionId {
        let mut bytes = [0; ID_BYTES];
        aws_lc_rs::rand::fill(&mut bytes).expect("the kernel's random source always answers after boot");
        quinn::ConnectionId::new(&bytes)
    }

    fn cid_len(&self) -> usize {
        ID_BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// How a certificate is recognised: SHA-256 of its DER, hex.
pub fn fingerprint(certificate: &[u8]) -> String {
    token::sha256_hex(certificate)
}

/// Must give the same name and usages every time: the issuer of a certificate is rebuilt from it at each start.
fn authority_params(cluster: &str) -> CertificateParams {
    let mut params = leaf_params(&format!("reeve {cluster}"), AUTHORITY_LIFE);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    params
}

fn server_params(cluster: &str) -> Result<CertificateParams, rcgen::Error> {
    let mut params = leaf_params("reeve-coordinator", AUTHORITY_LIFE);
    params.subject_alt_names = CertificateParams::new(vec![quic::server_name(cluster)])?.subject_alt_names;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    Ok(params)
}

fn leaf_params(common_name: &str, life: Duration) -> CertificateParams {
    let now = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_millis(clock::now().wall.max(0) as u64);
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = now - BACKDATED.min(life / 10);
    params.not_after = now + life;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file = File::options().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|e| Error::Io(path.to_owned(), e))
}

/// As ssh does: a key that others can read is not a key.
fn read_private(path: &Path) -> Result<Vec<u8>, Error> {
    let mode = fs::metadata(path).map_err(|e| Error::Io(path.to_owned(), e))?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(Error::Open(path.to_owned()));
    }
    read(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: &str = "00112233445566aa";

    fn authority(dir: &Path) -> Authority {
        Authority::create(dir, CLUSTER).unwrap();
        Authority::load(dir, CLUSTER).unwrap()
    }

    fn request() -> (Vec<u8>, KeyPair) {
        let key = KeyPair::generate().unwrap();
        (CertificateParams::default().serialize_request(&key).unwrap().der().to_vec(), key)
    }

    #[test]
    fn an_authority_is_made_once_and_found_again() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!Authority::exists(dir.path()));
        let first = authority(dir.path());
        assert!(Authority::exists(dir.path()));
        assert!(matches!(Authority::create(dir.path(), CLUSTER), Err(Error::Exists(_))));
        let again = Authority::load(dir.path(), CLUSTER).unwrap();
        assert_eq!(first.ca_hash(), again.ca_hash());
        assert_eq!(again.ca_hash(), token::sha256_hex(again.ca()));
        assert!(again.server_config().is_ok());
    }

    #[test]
    fn keys_are_private_and_a_key_that_is_not_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        authority(dir.path());
        for name in ["ca.key", "server.key"] {
            let path = dir.path().join("ca").join(name);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
            assert!(matches!(Authority::load(dir.path(), CLUSTER), Err(Error::Open(p)) if p == path));
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        }
        assert_eq!(fs::metadata(dir.path().join("ca")).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn leftovers_of_an_interrupted_init_are_in_nobodys_way() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("ca.new")).unwrap();
        fs::write(dir.path().join("ca.new/ca.key"), "half").unwrap();
        authority(dir.path());
        assert!(!dir.path().join("ca.new").exists());
    }

    #[test]
    fn each_certificate_is_its_own_but_the_key_stays_recognisable() {
        let dir = tempfile::tempdir().unwrap();
        let authority = authority(dir.path());
        let (csr, key) = request();
        let asked = Authority::requested_key(&csr).unwrap();
        let (a, b) =
            (authority.issue_machine(&asked, "aa").unwrap(), authority.issue_machine(&asked, "bb").unwrap());
        assert_eq!(asked.machine(), Authority::requested_key(&csr).unwrap().machine());
        assert_ne!(asked.machine(), Authority::requested_key(&request().0).unwrap().machine());
        assert_ne!(a.fingerprint, b.fingerprint);
        assert_eq!(a.fingerprint, fingerprint(&a.certificate));
        assert_eq!(a.key_hash, b.key_hash);
        assert_eq!(a.key_hash, token::sha256_hex(&key.subject_public_key_info()));
        assert!(matches!(Authority::requested_key(b"junk"), Err(Error::Request(_))));
    }

    #[test]
    fn a_certificate_lives_as_long_as_the_configuration_says_and_its_end_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let key = Authority::requested_key(&request().0).unwrap();
        let year = authority(dir.path());
        for life in [MACHINE_LIFE, Duration::from_secs(30)] {
            let authority = Authority::load(dir.path(), CLUSTER).unwrap().with_machine_life(life);
            let issued = authority.issue_machine(&key, "aa").unwrap();
            let validity = reeve_protocol::validity::of(&issued.certificate).unwrap();
            assert_eq!(validity.until, issued.until);
            let (length, wanted) = (validity.until - validity.from, life.as_millis() as i64);
            assert!(length >= wanted && length <= wanted + wanted / 10 + 2_000, "{length} for {wanted}");
        }
        drop(year);
    }

    #[test]
    fn a_damaged_authority_is_told_from_an_absent_one() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(Authority::load(dir.path(), CLUSTER), Err(Error::Io(..))));
        authority(dir.path());
        fs::write(dir.path().join("ca/ca.key"), "x").unwrap();
        assert!(matches!(Authority::load(dir.path(), CLUSTER), Err(Error::Damaged(..))));
    }
}
