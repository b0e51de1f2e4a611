//! Certificates that are not a machine's, and servers that are not the coordinator (W1 to W3, W23 of the catalogue of bad
//! input): each is turned away in the handshake or with its code, and a join token's secret is never said to a server
//! whose authority is not the token's.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use reeve_coordinator::identity::Authority;
use reeve_protocol::token::Token;
use reeve_protocol::wire::{self, close, kind};
use reeve_tests::evil::{Identity, Peer, certified, client_config, closed, within};
use reeve_tests::http;
use reeve_tests::machine::{Coordinator, join};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

fn key_of(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivatePkcs8KeyDer::from(key.serialized_der().to_vec()).into()
}

/// A leaf for clients with these changes.
fn leaf(change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "0123456789abcdef");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    change(&mut params);
    params
}

/// The cluster's own authority, in the wrong hands.
fn stolen_authority(c: &Coordinator, cluster: &str) -> Issuer<'static, KeyPair> {
    let key = std::fs::read(c.data().join("ca/ca.key")).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("reeve {cluster}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    Issuer::new(params, KeyPair::try_from(key).unwrap())
}

/// How a connection with this certificate ends: in the handshake (`None`), or with a code after Hello.
async fn tried(
    evil: &Identity,
    chain: Vec<CertificateDer<'static>>,
    key: &PrivateKeyDer<'static>,
) -> Option<u32> {
    match evil.dial(Some(certified(chain, key))).await {
        // With TLS 1.3 a client may be through before its certificate was judged.
        Ok(connection) => {
            if let Ok((mut send, _recv)) = within("a stream", connection.open_bi()).await {
                let hello = reeve_tests::evil::framed(kind::HELLO, &evil.hello());
                let _ = send.write_all(&hello).await;
                return closed(&connection).await.0;
            }
            closed(&connection).await.0
        }
        Err(_) => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_certificate_that_a_machine_was_given_opens_a_session() {
    let c = Coordinator::start("127.0.0.1:0");
    let (evil, other) = (Identity::enroll(&c, "evil"), Identity::enroll(&c, "other"));
    let issuer = stolen_authority(&c, &evil.credentials.identity.cluster);
    let key = KeyPair::generate().unwrap();
    let signed = |params: &CertificateParams| params.signed_by(&key, &issuer).unwrap().der().clone();
    let day = |year| rcgen::date_time_ymd(year, 1, 1);

    let foreign_key = KeyPair::generate().unwrap();
    let mut foreign_params = leaf(|_| ());
    foreign_params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let foreign = Issuer::new(foreign_params, foreign_key);
    let names: Vec<String> = (0..1500).map(|n| format!("a-long-name-{n}.example.org")).collect();
    let own = evil.credentials.certificate.clone();
    // A certificate, the key that is shown with it, and the end.
    let cases: Vec<(&str, CertificateDer<'static>, &KeyPair, Option<u32>)> = vec![
        ("signed by itself", leaf(|_| ()).self_signed(&key).unwrap().der().clone(), &key, None),
        ("of another authority", leaf(|_| ()).signed_by(&key, &foreign).unwrap().der().clone(), &key, None),
        ("expired", signed(&leaf(|p| (p.not_before, p.not_after) = (day(2001), day(2002)))), &key, None),
        (
            "of the future",
            signed(&leaf(|p| (p.not_before, p.not_after) = (day(3001), day(3002)))),
            &key,
            None,
        ),
        (
            "a server's",
            signed(&leaf(|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth])),
            &key,
            None,
        ),
        (
            "an authority's",
            signed(&leaf(|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained))),
            &key,
            None,
        ),
        ("another's with a key of one's own", other.credentials.certificate.clone(), &key, None),
        ("one's own with another key", own.clone(), &key, None),
        ("well signed and never given", signed(&leaf(|_| ())), &key, Some(close::UNAUTHORISED)),
        (
            "with fifteen hundred names",
            signed(&leaf(|p| p.subject_alt_names = CertificateParams::new(names).unwrap().subject_alt_names)),
            &key,
            Some(close::UNAUTHORISED),
        ),
        ("no certificate", CertificateDer::from(b"no certificate".to_vec()), &key, None),
    ];
    for (what, certificate, key, wanted) in cases {
        let code = tried(&evil, vec![certificate], &key_of(key)).await;
        assert_eq!(code, wanted, "{what}");
        assert_eq!(http::get(&c.socket(), "/v1/health").status, 200, "after {what}");
    }
    // Another machine's identity in its own Hello, and a stranger that says more than Join.
    assert_eq!(tried(&other, vec![own], &evil.credentials.key).await, Some(close::UNAUTHORISED));
    let mut stranger = Peer::open(evil.dial(None).await.unwrap()).await;
    stranger.say(kind::HELLO, &evil.hello()).await;
    assert_eq!(stranger.closed().await.0, Some(close::UNAUTHORISED));
    // Another protocol, and data before the handshake is over.
    let config = client_config(&evil.credentials.ca, Some(evil.certified()), b"h3", 1 << 19);
    assert!(evil.dial_with(config).await.is_err());
    let config = client_config(&evil.credentials.ca, Some(evil.certified()), wire::ALPN, 1 << 19);
    for _ in 0..2 {
        let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        let name = reeve_protocol::quic::server_name(&evil.credentials.identity.cluster);
        let early = endpoint.connect_with(config.clone(), evil.address(), &name).unwrap().into_0rtt();
        assert!(early.is_err(), "no ticket was given, so there is nothing to resume");
        let connection = evil.dial_with(config.clone()).await.unwrap();
        connection.close(0u8.into(), b"");
    }
    // With its own everything is well.
    let peer = evil.ready().await;
    let shown = c.machine("evil");
    assert_eq!(shown["state"], "up", "{shown}");
    drop(peer);
}

#[tokio::test(flavor = "multi_thread")]
async fn renewals_that_were_never_given_change_nobodys_certificate() {
    let c = Coordinator::start("127.0.0.1:0");
    let (evil, other) = (Identity::enroll(&c, "evil"), Identity::enroll(&c, "other"));
    let mut peer = evil.ready().await;
    let theirs = reeve_protocol::token::sha256_hex(&other.credentials.certificate);
    for fingerprint in [theirs, String::new(), "\u{1b}[2J".to_owned(), "f".repeat(64)] {
        peer.say(kind::RENEWAL_KEPT, &wire::RenewalKept { fingerprint }).await;
    }
    peer.say(kind::RENEWAL_FAILED, &wire::RenewalFailed { reason: "\u{1b}]0;owned\u{7}\n".into() }).await;
    peer.say(kind::RENEW, &wire::Renew { csr: b"0\x80".repeat(4000) }).await;
    peer.decided().await;
    for csr in [Vec::new(), vec![0x30; 2000], vec![0xff; 100]] {
        peer.say(kind::RENEW, &wire::Renew { csr }).await;
    }
    assert_eq!(peer.closed().await.0, Some(close::RATE), "signing is not to be had for the asking");
    // Both certificates open what they opened before.
    drop(evil.ready().await);
    drop(other.ready().await);
    let log = c.log();
    assert!(!log.contains(['\u{1b}', '\u{7}']), "{log:?}");
}

/// A server that is not the coordinator. What it was told: connections, and streams in which anything was said.
struct Rogue {
    address: String,
    connections: Arc<AtomicUsize>,
    words: Arc<AtomicUsize>,
}

impl Rogue {
    fn start(
        ca: &CertificateDer<'_>,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Self {
        let config = reeve_protocol::quic::server_config(ca, chain, key).unwrap();
        let endpoint = quinn::Endpoint::server(config, "127.0.0.1:0".parse().unwrap()).unwrap();
        let address = endpoint.local_addr().unwrap().to_string();
        let (connections, words) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let counters = (connections.clone(), words.clone());
        tokio::spawn(async move {
            while let Some(incoming) = endpoint.accept().await {
                let counters = (counters.0.clone(), counters.1.clone());
                tokio::spawn(async move {
                    counters.0.fetch_add(1, Ordering::SeqCst);
                    let Ok(connection) = incoming.await else { return };
                    while let Ok((_send, mut recv)) = connection.accept_bi().await {
                        let said = recv.read_to_end(1 << 20).await.map_or(1, |bytes| bytes.len());
                        counters.1.fetch_add(said, Ordering::SeqCst);
                    }
                });
            }
        });
        Self { address, connections, words }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_the_tokens_hears_no_byte_of_its_secret() {
    let c = Coordinator::start("127.0.0.1:0");
    let token: Token = c.token().parse().unwrap();
    let real_ca = CertificateDer::from(std::fs::read(c.data().join("ca/ca.der")).unwrap());
    let base = tempfile::tempdir().unwrap();
    Authority::create(base.path(), &token.cluster).unwrap();
    let file = |name: &str| std::fs::read(base.path().join("ca").join(name)).unwrap();
    let (ca, server) = (CertificateDer::from(file("ca.der")), CertificateDer::from(file("server.der")));
    let key = || PrivateKeyDer::from(PrivatePkcs8KeyDer::from(file("server.key")));
    for (what, chain) in [
        ("its own authority", vec![server.clone(), ca.clone()]),
        ("the real authority's certificate beside a certificate of its own", vec![server.clone(), real_ca]),
        ("no authority", vec![server.clone()]),
    ] {
        let rogue = Rogue::start(&ca, chain, key());
        let fooled = Token { addresses: vec![rogue.address.clone()], ..token.clone() };
        let scratch = tempfile::tempdir().unwrap();
        let (dir, text) = (scratch.path().to_owned(), fooled.to_string());
        let joined = tokio::task::spawn_blocking(move || join(&dir, &[], "victim", &text)).await.unwrap();
        assert!(!joined.status.success(), "{what}");
        assert!(
            rogue.connections.load(Ordering::SeqCst) > 0,
            "{what}: it was reached, else this proves nothing"
        );
        assert_eq!(rogue.words.load(Ordering::SeqCst), 0, "{what}: something was said to it");
        assert!(!scratch.path().join("state/agent.json").exists(), "{what}: no identity is left");
    }
    // The token is as good as before: nobody has heard it.
    let scratch = tempfile::tempdir().unwrap();
    let joined = join(scratch.path(), &[], "victim", &token.to_string());
    assert!(joined.status.success(), "{}", String::from_utf8_lossy(&joined.stderr));
}
