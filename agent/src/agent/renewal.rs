//! The certificate's successor, asked for over the session at two thirds of its life, with a new key. The new pair is on
//! disk before the coordinator hears so, and is shown from the next connection on; nothing that runs notices.
use crate::identity;
use rcgen::{CertificateParams, KeyPair, PublicKeyData as _};
use reeve_protocol::token::sha256_hex;
use reeve_protocol::validity::{self, Validity};
use reeve_protocol::wire::{Renew, Renewed};
use std::hash::{BuildHasher as _, RandomState};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// An answer that has not come in this time will not come.
const PATIENCE_MS: i64 = 30_000;
/// Between two attempts: a fiftieth of the certificate's life, within these.
const RETRY_MS: (i64, i64) = (1_000, 3_600_000);
/// Share of its life at which a certificate that was not renewed is somebody's business.
const ALARM: f64 = 0.8;

/// Wall milliseconds.
pub(crate) fn wall() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Watches over the certificate of a session.
pub(crate) struct Renewal {
    dir: PathBuf,
    validity: Option<Validity>,
    /// Not before, wall milliseconds.
    due: i64,
    /// The key of the request under way, and when it was made.
    pending: Option<(KeyPair, i64)>,
}

impl Renewal {
    /// For the certificate that is shown, kept in `dir`.
    pub(crate) fn new(dir: &Path, certificate: &[u8]) -> Self {
        let mut renewal = Self { dir: dir.to_path_buf(), validity: None, due: i64::MAX, pending: None };
        renewal.watch(certificate);
        renewal
    }

    fn watch(&mut self, certificate: &[u8]) {
        self.validity = validity::of(certificate);
        // A certificate that cannot be read is never due: the coordinator refuses it soon enough.
        self.due = self.validity.map_or(i64::MAX, |v| v.renew_at(spread()));
    }

    /// The request, once it is time.
    ///
    /// # Errors
    /// Why none could be made; it is tried again later.
    pub(crate) fn ask(&mut self, now: i64) -> Result<Option<Renew>, String> {
        let waits = self.pending.as_ref().is_some_and(|(_, since)| now - since < PATIENCE_MS);
        if now < self.due || waits {
            return Ok(None);
        }
        match request() {
            Ok((key, csr)) => {
                self.pending = Some((key, now));
                Ok(Some(Renew { csr }))
            }
            Err(error) => Err(self.failed(now, &error.to_string())),
        }
    }

    /// Keeps a new certificate; its fingerprint.
    ///
    /// # Errors
    /// Why it is not kept; the old one is still there, and another is asked for later.
    pub(crate) fn keep(&mut self, now: i64, renewed: &Renewed) -> Result<String, String> {
        let Some((key, _)) = self.pending.take() else {
            return Err("a certificate came that was not asked for".to_owned());
        };
        let spki = key.subject_public_key_info();
        if !renewed.certificate.windows(spki.len()).any(|w| w == spki) {
            return Err(self.failed(now, "the new certificate is not for the key that was sent"));
        }
        let kept = identity::store_certificate(&self.dir, &key.serialize_pem(), &renewed.certificate);
        if let Err(error) = kept {
            let source = std::error::Error::source(&error).map(|s| format!(": {s}")).unwrap_or_default();
            return Err(self.failed(now, &format!("{error}{source}")));
        }
        self.watch(&renewed.certificate);
        tracing::info!("the certificate was renewed; it is used from the next connection on");
        Ok(sha256_hex(&renewed.certificate))
    }

    /// It did not work: tried again after a while. Gives the reason back, for the coordinator to show.
    pub(crate) fn failed(&mut self, now: i64, why: &str) -> String {
        self.pending = None;
        let Some(validity) = self.validity else { return why.to_owned() };
        let life = (validity.until - validity.from).max(1);
        self.due = now + (life / 50).clamp(RETRY_MS.0, RETRY_MS.1);
        if (now - validity.from) as f64 > life as f64 * ALARM {
            let days = (validity.until - now) / 86_400_000;
            tracing::error!(why, days, "the certificate ends soon and cannot be renewed: look at this now");
        } else {
            tracing::warn!(why, "the certificate was not renewed; it is tried again later");
        }
        why.to_owned()
    }
}

fn request() -> Result<(KeyPair, Vec<u8>), rcgen::Error> {
    let key = KeyPair::generate()?;
    let csr = CertificateParams::default().serialize_request(&key)?.der().to_vec();
    Ok((key, csr))
}

/// From 0 to 1, another one each time.
fn spread() -> f64 {
    (RandomState::new().hash_one(0u8) % 1024) as f64 / 1024.0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A certificate for the key of a request, good for `life` seconds from now.
    fn certificate(key: &KeyPair, life: u64) -> Vec<u8> {
        let mut params = CertificateParams::default();
        let now = rcgen::date_time_ymd(1970, 1, 1) + std::time::Duration::from_millis(wall().cast_unsigned());
        (params.not_before, params.not_after) = (now, now + std::time::Duration::from_secs(life));
        params.self_signed(key).unwrap().der().to_vec()
    }

    fn rig(life: u64) -> (tempfile::TempDir, Renewal) {
        let dir = tempfile::tempdir().unwrap();
        let renewal = Renewal::new(dir.path(), &certificate(&KeyPair::generate().unwrap(), life));
        (dir, renewal)
    }

    #[test]
    fn it_asks_once_at_two_thirds_and_again_only_when_no_answer_comes() {
        let (_dir, mut renewal) = rig(3_000);
        let now = wall();
        assert_eq!(renewal.ask(now + 1_990_000), Ok(None));
        let late = now + 2_160_000;
        assert!(renewal.ask(late).unwrap().is_some());
        assert_eq!(renewal.ask(late + PATIENCE_MS - 1), Ok(None));
        assert!(renewal.ask(late + PATIENCE_MS).unwrap().is_some());
    }

    #[test]
    fn the_new_pair_is_on_disk_and_the_next_one_is_due_later() {
        let (dir, mut renewal) = rig(30);
        renewal.ask(renewal.due).unwrap().unwrap();
        let (key, _) = renewal.pending.as_ref().unwrap();
        let renewed = Renewed { certificate: certificate(key, 3_000) };
        let key = key.serialize_pem();
        assert_eq!(renewal.keep(wall(), &renewed), Ok(sha256_hex(&renewed.certificate)));
        let kept = std::fs::read_to_string(dir.path().join("machine.pem")).unwrap();
        assert!(kept.starts_with(&key) && kept.contains("BEGIN CERTIFICATE"));
        assert!(renewal.due > wall() + 1_900_000);
    }

    #[test]
    fn what_does_not_fit_or_cannot_be_kept_leaves_the_old_pair_and_is_tried_again() {
        let (dir, mut renewal) = rig(3_000);
        let stranger = Renewed { certificate: certificate(&KeyPair::generate().unwrap(), 10) };
        assert!(renewal.keep(1, &stranger).unwrap_err().contains("not asked for"));
        renewal.ask(renewal.due).unwrap().unwrap();
        let now = renewal.due;
        assert!(renewal.keep(now, &stranger).unwrap_err().contains("not for the key"));
        assert_eq!(renewal.due, now + 60_000, "a fiftieth of its life");
        renewal.ask(renewal.due).unwrap().unwrap();
        let fitting = certificate(&renewal.pending.as_ref().unwrap().0, 10);
        renewal.dir = dir.path().join("not there");
        let error = renewal.keep(now, &Renewed { certificate: fitting }).unwrap_err();
        assert!(error.contains("machine.pem") && error.contains("No such file"), "{error}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_certificate_that_cannot_be_read_is_never_due() {
        let mut renewal = Renewal::new(Path::new("/nowhere"), b"junk");
        assert_eq!(renewal.ask(i64::MAX - 1), Ok(None));
    }
}
