//! Certificates over a real port: renewed in a session, revoked, and shown anew in every handshake.
use super::*;
use rustls::client::Resumption;

fn request(key: &KeyPair) -> Vec<u8> {
    CertificateParams::default().serialize_request(key).unwrap().der().to_vec()
}

#[tokio::test]
async fn a_certificate_is_renewed_in_a_session_and_the_old_one_is_over_once_the_new_one_was_used() {
    let mut head = Head::start();
    let (old, mut peer) = head.session().await;
    let key = KeyPair::generate().unwrap();
    peer.write(kind::RENEW, &wire::Renew { csr: request(&key) }).await;
    let renewed: wire::Renewed = peer.expect(kind::RENEWED).await;
    let fingerprint = token::sha256_hex(&renewed.certificate);
    peer.write(kind::RENEWAL_KEPT, &wire::RenewalKept { fingerprint: fingerprint.clone() }).await;
    assert_eq!(head.hears().await, AgentSaid::RenewalKept(fingerprint));
    let new = Identity {
        machine: old.machine.clone(),
        certificate: renewed.certificate.into(),
        key: PrivatePkcs8KeyDer::from(key.serialized_der().to_vec()).into(),
    };
    drop(head.open(&old).await);
    drop(head.open(&new).await);
    assert_eq!(head.peer(Some(&old)).await.closed().await, close::UNAUTHORISED);
    drop(head.open(&new).await);
}

#[tokio::test]
async fn a_request_that_is_none_is_answered_in_words_and_too_many_end_the_session() {
    let head = Head::start();
    let (_, mut peer) = head.session().await;
    peer.write(kind::RENEW, &wire::Renew { csr: b"junk".to_vec() }).await;
    let failed: wire::RenewalFailed = peer.expect(kind::RENEWAL_FAILED).await;
    assert!(failed.reason.contains("refused"), "{}", failed.reason);
    for _ in 0..2 {
        peer.write(kind::RENEW, &wire::Renew { csr: request(&KeyPair::generate().unwrap()) }).await;
    }
    while let Ok(frame) = peer.read().await {
        assert!([kind::RENEWED, kind::RENEWAL_FAILED].contains(&frame.kind));
    }
    assert_eq!(peer.closed().await, close::RATE);
}

/// The writer is stuck, since the machine reads nothing: it is cut all the same.
#[tokio::test]
async fn a_removed_machine_that_reads_nothing_is_cut_at_once() {
    let mut head = Head::start();
    let (identity, peer) = head.session().await;
    let start = wire::Start { attempt: attempt(1), stdin: Some(vec![7; 700_000]), ..Default::default() };
    for _ in 0..8 {
        head.sessions.send(&identity.machine, 1, vec![ToAgent::Start(Box::new(start.clone()))]);
    }
    head.sessions.close(&identity.machine, 1, close::REVOKED, "removed".into());
    assert_eq!(peer.closed().await, close::REVOKED);
    assert_eq!(head.hears().await, AgentSaid::Closed);
    assert_eq!(head.peer(Some(&identity)).await.closed().await, close::REVOKED);
}

/// A client that would resume and send early data if it could: it never can, so that each connection shows its
/// certificate, and a removed machine's is refused.
#[tokio::test]
async fn every_connection_is_a_full_handshake_even_for_a_client_that_would_resume() {
    let head = Head::start();
    let identity = head.join("secret").await.unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(head.authority.ca().clone()).unwrap();
    let mut tls = rustls::ClientConfig::builder_with_provider(quic::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![identity.certificate.clone()], identity.key.clone_key())
        .unwrap();
    tls.alpn_protocols = vec![wire::ALPN.to_vec()];
    tls.resumption = Resumption::in_memory_sessions(8);
    tls.enable_early_data = true;
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
    let config = quinn::ClientConfig::new(Arc::new(crypto));
    let endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let dial =
        || endpoint.connect_with(config.clone(), head.net.address(), &quic::server_name(CLUSTER)).unwrap();
    let first = within(dial()).await.unwrap();
    let (mut send, mut recv) = first.open_bi().await.unwrap();
    let mut bytes = Vec::new();
    frame::append(kind::HELLO, 0, &hello(&identity.machine), &mut bytes).unwrap();
    send.write_all(&bytes).await.unwrap();
    within(recv.read_chunk(1, true)).await.unwrap().unwrap();
    let Err(second) = dial().into_0rtt() else { panic!("the server has sent a ticket") };
    let second = within(second).await.unwrap();
    assert!(second.peer_identity().is_some(), "certificates were shown");
    head.machines.revoke(&identity.machine);
    let Err(third) = dial().into_0rtt() else { panic!("the server has sent a ticket") };
    match within(within(third).await.unwrap().closed()).await {
        ConnectionError::ApplicationClosed(closed) => assert_eq!(closed.error_code, close::REVOKED.into()),
        other => panic!("{other}"),
    }
}
