//! The raw limit of a round trip between two machines: a byte there and back over a QUIC stream with the transport that
//! reeve uses, on the loopback.
use super::{median, seconds};
use quinn::{Endpoint, RecvStream, SendStream};
use reeve_protocol::quic;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// Microseconds, the middle one of some thousand.
pub(super) fn microseconds() -> f64 {
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut about = rcgen::CertificateParams::new(Vec::new()).unwrap();
    about.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca = about.self_signed(&ca_key).unwrap();
    let issuer = rcgen::Issuer::new(about, ca_key);
    let of = |name: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let about = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate: CertificateDer<'static> = about.signed_by(&key, &issuer).unwrap().der().clone();
        (vec![certificate], PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der())))
    };
    let name = quic::server_name("bench");
    let ((chain, key), (own, own_key)) = (of(&name), of("machine"));
    let server = quic::server_config(ca.der(), chain, key).unwrap();
    let client = quic::client_config(ca.der(), own, own_key).unwrap();
    let (tell, port) = std::sync::mpsc::channel();
    std::thread::spawn(move || runtime().block_on(echo(server, tell)));
    let address = port.recv().unwrap();
    let runtime = runtime();
    let (mut send, mut recv) = runtime.block_on(async {
        let mut endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        endpoint.set_default_client_config(client);
        let connection = endpoint.connect(address, &name).unwrap().await.unwrap();
        let streams = connection.open_bi().await.unwrap();
        // Both live as long as the process: a benchmark.
        std::mem::forget((endpoint, connection));
        streams
    });
    let took = (0..5_000).map(|_| 1e6 * seconds(|| runtime.block_on(ping(&mut send, &mut recv))));
    median(took.collect())
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

async fn ping(send: &mut SendStream, recv: &mut RecvStream) {
    send.write_all(b"x").await.unwrap();
    recv.read_exact(&mut [0]).await.unwrap();
}

async fn echo(config: quinn::ServerConfig, tell: std::sync::mpsc::Sender<std::net::SocketAddr>) {
    let endpoint = Endpoint::server(config, "127.0.0.1:0".parse().unwrap()).unwrap();
    tell.send(endpoint.local_addr().unwrap()).unwrap();
    let connection = endpoint.accept().await.unwrap().await.unwrap();
    let (mut send, mut recv) = connection.accept_bi().await.unwrap();
    let mut byte = [0];
    while recv.read_exact(&mut byte).await.is_ok() && send.write_all(&byte).await.is_ok() {}
}
