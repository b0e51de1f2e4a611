//! The recipe of a QUIC endpoint: TLS from reeve's own CA, no resumption, windows set so that bulk cannot starve
//! control.
use crate::wire;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::sync::Arc;
use std::time::Duration;

/// Silence after which a connection is given up. Longer than `disconnected`, which is judged by heartbeats.
pub const IDLE: Duration = Duration::from_secs(30);
/// Keep-alive packets of QUIC itself.
pub const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Bytes in flight on one bulk stream.
const STREAM_WINDOW: u32 = 512 * 1024;
/// Bytes in flight on a connection: the control stream's share is never used up by bulk, since at most
/// [`BULK_STREAMS`] bulk streams of [`STREAM_WINDOW`] exist at once.
const CONNECTION_WINDOW: u32 = 12 * 1024 * 1024;
/// Output streams at once per connection.
const BULK_STREAMS: u32 = 16;

/// A TLS or transport setting that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// From rustls.
    #[error("TLS settings")]
    Tls(#[from] rustls::Error),
    /// A certificate of the CA cannot be used.
    #[error("the CA certificate cannot be used: {0}")]
    Ca(String),
    /// The cipher suites of QUIC are missing.
    #[error("QUIC needs TLS 1.3")]
    NoTls13,
}

/// The one crypto provider.
pub fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    static PROVIDER: std::sync::OnceLock<Arc<rustls::crypto::CryptoProvider>> = std::sync::OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider())).clone()
}

/// The fixed TLS server name of a cluster, so that any address works.
pub fn server_name(cluster: &str) -> String {
    format!("{cluster}.reeve")
}

fn transport() -> Arc<quinn::TransportConfig> {
    let mut config = quinn::TransportConfig::default();
    config
        .max_idle_timeout(quinn::IdleTimeout::try_from(IDLE).ok())
        .keep_alive_interval(Some(KEEP_ALIVE))
        .stream_receive_window(STREAM_WINDOW.into())
        .receive_window(CONNECTION_WINDOW.into())
        .send_window(u64::from(CONNECTION_WINDOW))
        .max_concurrent_uni_streams(BULK_STREAMS.into())
        .max_concurrent_bidi_streams(2u8.into())
        .datagram_receive_buffer_size(None);
    Arc::new(config)
}

fn roots(ca: &CertificateDer<'_>) -> Result<Arc<rustls::RootCertStore>, Error> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca.clone().into_owned()).map_err(|e| Error::Ca(e.to_string()))?;
    Ok(Arc::new(roots))
}

/// For the coordinator: machines show a certificate of `ca`; a connection without one may only join.
///
/// # Errors
/// When certificate, key or CA cannot be used.
pub fn server_config(
    ca: &CertificateDer<'_>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<quinn::ServerConfig, Error> {
    let crypto = QuicServerConfig::try_from(server_tls(ca, chain, key)?).map_err(|_| Error::NoTls13)?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    config.transport_config(transport());
    Ok(config)
}

/// No tickets, no early data, nothing to resume: every connection shows its certificate anew, so that one that was
/// revoked is never taken on the word of an earlier handshake.
fn server_tls(
    ca: &CertificateDer<'_>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<rustls::ServerConfig, Error> {
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(roots(ca)?, provider())
        .allow_unauthenticated()
        .build()
        .map_err(|e| Error::Ca(e.to_string()))?;
    let mut tls = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    tls.alpn_protocols = vec![wire::ALPN.to_vec()];
    tls.send_tls13_tickets = 0;
    tls.max_early_data_size = 0;
    tls.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Ok(tls)
}

/// For an agent that has joined: its own certificate, and only the cluster's CA is trusted.
///
/// # Errors
/// When certificate, key or CA cannot be used.
pub fn client_config(
    ca: &CertificateDer<'_>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<quinn::ClientConfig, Error> {
    let tls = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots(ca)?)
        .with_client_auth_cert(chain, key)?;
    finish_client(tls)
}

/// For an agent that joins: it trusts exactly the CA whose SHA-256 the token carries. The server sends its CA as the
/// last certificate of its chain; the hash is compared inside the handshake, before any secret is sent.
///
/// # Errors
/// Never in practice: the settings are fixed.
pub fn joining_config(ca_hash: String) -> Result<(quinn::ClientConfig, Arc<PinnedCa>), Error> {
    let pinned = Arc::new(PinnedCa { ca_hash, seen: std::sync::Mutex::new(None) });
    let tls = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(pinned.clone())
        .with_no_client_auth();
    Ok((finish_client(tls)?, pinned))
}

fn finish_client(tls: rustls::ClientConfig) -> Result<quinn::ClientConfig, Error> {
    let crypto = QuicClientConfig::try_from(client_tls(tls)).map_err(|_| Error::NoTls13)?;
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.transport_config(transport());
    Ok(config)
}

fn client_tls(mut tls: rustls::ClientConfig) -> rustls::ClientConfig {
    tls.alpn_protocols = vec![wire::ALPN.to_vec()];
    tls.resumption = rustls::client::Resumption::disabled();
    tls.enable_early_data = false;
    tls
}

/// Trusts the one CA with a known hash, then verifies the chain below it as always.
#[derive(Debug)]
pub struct PinnedCa {
    ca_hash: String,
    seen: std::sync::Mutex<Option<CertificateDer<'static>>>,
}

impl PinnedCa {
    /// The CA certificate that had the hash, after a handshake.
    pub fn ca(&self) -> Option<CertificateDer<'static>> {
        self.seen.lock().ok().and_then(|seen| seen.clone())
    }
}

impl rustls::client::danger::ServerCertVerifier for PinnedCa {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &rustls::pki_types::ServerName<'_>,
        ocsp: &[u8],
        now: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        let ca = intermediates
            .iter()
            .find(|c| crate::token::sha256_hex(c) == self.ca_hash)
            .ok_or(rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer))?;
        let roots = roots(ca).map_err(|e| rustls::Error::General(e.to_string()))?;
        let inner = rustls::client::WebPkiServerVerifier::builder_with_provider(roots, provider())
            .build()
            .map_err(|e| rustls::Error::General(e.to_string()))?;
        let verified = inner.verify_server_cert(end_entity, &[], server_name, ocsp, now)?;
        if let Ok(mut seen) = self.seen.lock() {
            *seen = Some(ca.clone().into_owned());
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.3 only".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            cert,
            dss,
            &provider().signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    use rustls::pki_types::PrivatePkcs8KeyDer;

    /// A CA, a certificate for this server name below it, and its key.
    fn chain(name: &str) -> (CertificateDer<'static>, CertificateDer<'static>, PrivateKeyDer<'static>) {
        let ca_key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = params.self_signed(&ca_key).unwrap().der().clone();
        let issuer = Issuer::new(params, ca_key);
        let key = KeyPair::generate().unwrap();
        let server = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
        (ca, server.der().clone(), PrivatePkcs8KeyDer::from(key.serialize_der()).into())
    }

    #[test]
    fn nothing_can_be_resumed_and_nothing_is_sent_early() {
        let (ca, server, key) = chain("x.reeve");
        let tls = server_tls(&ca, vec![server, ca.clone()], key).unwrap();
        assert_eq!((tls.send_tls13_tickets, tls.max_early_data_size), (0, 0));
        assert!(!tls.session_storage.can_cache());
        assert_eq!(tls.alpn_protocols, [wire::ALPN]);
        let plain = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots(&ca).unwrap())
            .with_no_client_auth();
        let tls = client_tls(plain);
        assert!(!tls.enable_early_data);
        assert!(format!("{:?}", tls.resumption).contains("NoClientSessionStorage"), "{:?}", tls.resumption);
    }

    /// Somebody in the middle has a good chain of a CA of their own: the handshake ends before a byte of the token is sent.
    #[tokio::test]
    async fn a_server_with_another_ca_hears_nothing_of_the_token() {
        let (ca, server, key) = chain("x.reeve");
        let config = server_config(&ca, vec![server, ca.clone()], key).unwrap();
        let middle = quinn::Endpoint::server(config, "127.0.0.1:0".parse().unwrap()).unwrap();
        let (config, pinned) = joining_config("0".repeat(64)).unwrap();
        let client = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        let dialled = client.connect_with(config, middle.local_addr().unwrap(), "x.reeve").unwrap();
        let (refused, accepted) = tokio::join!(dialled, async { middle.accept().await.unwrap().await });
        assert!(refused.is_err() && pinned.ca().is_none());
        assert!(accepted.is_err(), "the connection never stood, so there was no stream to send on");
        // With the hash of that CA the same server is trusted.
        let (config, pinned) = joining_config(crate::token::sha256_hex(&ca)).unwrap();
        let dialled = client.connect_with(config, middle.local_addr().unwrap(), "x.reeve").unwrap();
        let (dialled, accepted) = tokio::join!(dialled, async { middle.accept().await.unwrap().await });
        assert!(dialled.is_ok() && accepted.is_ok());
        assert_eq!(pinned.ca(), Some(ca));
    }
}
