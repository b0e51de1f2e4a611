//! The public key inside a PKCS#10 request (RFC 2986). Nothing else of a request counts: names, extensions and
//! attributes that a machine writes into it are never read.
use aws_lc_rs::signature;
use rcgen::{PublicKeyData, SignatureAlgorithm};

/// Why a request is not taken.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// Not the structure of a request.
    #[error("the certificate request is malformed")]
    Malformed,
    /// Not one of the kinds of keys that are taken.
    #[error("the key is of a kind that is not taken; use ECDSA P-256 or P-384, Ed25519, or RSA with SHA-256")]
    KeyKind,
    /// The request was not signed by the key in it, or an RSA key is shorter than 2048 bits.
    #[error("the request is not signed by its own key, or the key is too weak")]
    Signature,
}

/// A public key whose owner has proved to hold the private one.
#[derive(Debug)]
pub(super) struct PublicKey {
    algorithm: &'static SignatureAlgorithm,
    key: Vec<u8>,
}

impl PublicKeyData for PublicKey {
    fn der_bytes(&self) -> &[u8] {
        &self.key
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.algorithm
    }
}

/// A kind of key: its AlgorithmIdentifier as DER, how certificates name it, and how its signatures are verified.
type Kind = (&'static [u8], &'static SignatureAlgorithm, &'static dyn signature::VerificationAlgorithm);

/// The kinds that are taken (RFC 5480, RFC 8410, RFC 3279). The verifier of RSA refuses keys below 2048 bits by itself.
static KINDS: [Kind; 4] = [
    (
        b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07",
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &signature::ECDSA_P256_SHA256_ASN1,
    ),
    (
        b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22",
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &signature::ECDSA_P384_SHA384_ASN1,
    ),
    (b"\x06\x03\x2b\x65\x70", &rcgen::PKCS_ED25519, &signature::ED25519),
    (
        b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00",
        &rcgen::PKCS_RSA_SHA256,
        &signature::RSA_PKCS1_2048_8192_SHA256,
    ),
];

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const SEQUENCE: u8 = 0x30;

/// Takes the key out of a request, after its signature has been verified with that key.
///
/// # Errors
/// When it is not such a request, the key is not taken, or the signature is wrong.
pub(super) fn public_key(der: &[u8]) -> Result<PublicKey, Error> {
    let mut outer = Der(der);
    let mut request = Der(outer.take(SEQUENCE)?.body);
    if !outer.0.is_empty() {
        return Err(Error::Malformed);
    }
    let info = request.take(SEQUENCE)?;
    let _algorithm = request.take(SEQUENCE)?;
    let signed = request.bits()?;
    let mut fields = Der(info.body);
    let _version = fields.take(INTEGER)?;
    let _subject = fields.take(SEQUENCE)?;
    let mut spki = Der(fields.take(SEQUENCE)?.body);
    let name = spki.take(SEQUENCE)?.body;
    let key = spki.bits()?;
    let (_, algorithm, verify) = KINDS.iter().find(|(known, ..)| *known == name).ok_or(Error::KeyKind)?;
    signature::UnparsedPublicKey::new(*verify, key)
        .verify(info.whole, signed)
        .map_err(|_| Error::Signature)?;
    Ok(PublicKey { algorithm, key: key.to_vec() })
}

/// What is left of a run of DER elements.
struct Der<'a>(&'a [u8]);

/// One element.
struct Element<'a> {
    whole: &'a [u8],
    body: &'a [u8],
}

impl<'a> Der<'a> {
    /// The next element, which must have this tag. Lengths above 64 KiB do not occur in a request.
    fn take(&mut self, tag: u8) -> Result<Element<'a>, Error> {
        let (head, len) = match *self.0 {
            [t, len @ 0..=0x7f, ..] if t == tag => (2, usize::from(len)),
            [t, 0x81, len, ..] if t == tag => (3, usize::from(len)),
            [t, 0x82, high, low, ..] if t == tag => (4, usize::from(high) << 8 | usize::from(low)),
            _ => return Err(Error::Malformed),
        };
        let (whole, rest) = self.0.split_at_checked(head + len).ok_or(Error::Malformed)?;
        self.0 = rest;
        Ok(Element { whole, body: &whole[head..] })
    }

    /// The next element, a bit string of whole bytes.
    fn bits(&mut self) -> Result<&'a [u8], Error> {
        match self.take(BIT_STRING)?.body {
            [0, bytes @ ..] => Ok(bytes),
            _ => Err(Error::Malformed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair};

    fn request(algorithm: &'static SignatureAlgorithm) -> (Vec<u8>, KeyPair) {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let csr =
            CertificateParams::new(vec!["evil.example".to_owned()]).unwrap().serialize_request(&key).unwrap();
        (csr.der().to_vec(), key)
    }

    #[test]
    fn the_key_of_each_taken_kind_comes_out() {
        for kind in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
            let (der, key) = request(kind);
            let found = public_key(&der).unwrap();
            assert_eq!(found.subject_public_key_info(), key.subject_public_key_info());
        }
    }

    #[test]
    fn an_rsa_key_is_taken_from_2048_bits_on() {
        let key = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
        let csr = CertificateParams::default().serialize_request(&key).unwrap();
        assert_eq!(public_key(csr.der()).unwrap().der_bytes(), key.der_bytes());
    }

    #[test]
    fn keys_of_other_kinds_are_refused() {
        let (der, _) = request(&rcgen::PKCS_ECDSA_P521_SHA512);
        assert_eq!(public_key(&der).unwrap_err(), Error::KeyKind);
    }

    #[test]
    fn a_changed_request_is_refused_whatever_byte_it_is() {
        let (der, key) = request(&rcgen::PKCS_ECDSA_P256_SHA256);
        let spki = key.subject_public_key_info();
        for at in 0..der.len() {
            let mut changed = der.clone();
            changed[at] ^= 1;
            // The outer algorithm's name is not used: a change there leaves the same proven key.
            if let Ok(found) = public_key(&changed) {
                assert_eq!(found.subject_public_key_info(), spki, "byte {at}");
            }
            assert!(public_key(&der[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn what_is_not_a_request_is_malformed() {
        for bytes in [&b""[..], b"\x30", b"\x30\x82\xff\xff", b"\x30\x00", b"\x30\x80\x00\x00", b"hello"] {
            assert_eq!(public_key(bytes).unwrap_err(), Error::Malformed, "{bytes:?}");
        }
        let (mut der, _) = request(&rcgen::PKCS_ECDSA_P256_SHA256);
        der.push(0);
        assert_eq!(public_key(&der).unwrap_err(), Error::Malformed);
    }
}
