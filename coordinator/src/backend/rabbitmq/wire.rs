//! The stream below AMQP: TCP, with TLS if wanted, made by ourselves so that each way to fail has its own words. It keeps
//! the server's first words (its name and version stand there), and can be cut: a connection that a broker has blocked
//! cannot be closed in the protocol, for nothing may be written on it.
use super::{ANSWER, Trouble, settings::Settings};
use async_rs::traits::Reactor;
use async_rs::util::RuntimeParts;
use async_rs::{Runtime, Tokio};
use futures_util::Stream;
use futures_util::task::AtomicWaker;
use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo};
use lapin::{AsyncTcpStream, Connection, ConnectionProperties};
use reeve_protocol::text::Clean;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt as _};
use tokio_util::either::Either;

/// Seconds; a server that says nothing for twice as long is gone.
const HEARTBEAT: u16 = 5;
/// The server's first words are kept up to here.
const FIRST: usize = 4_096;
/// For a server that does not speak AMQP to say what it is.
const ASK: Duration = Duration::from_secs(1);

/// What a stream shares with whoever opened it.
#[derive(Default)]
struct Shared {
    cut: AtomicBool,
    reader: AtomicWaker,
    first: Mutex<Vec<u8>>,
}

/// Ends a connection at once.
#[derive(Clone)]
pub(super) struct Cut(Arc<Shared>);

impl Cut {
    pub(super) fn cut(&self) {
        self.0.cut.store(true, Ordering::SeqCst);
        self.0.reader.wake();
    }
}

/// A stream that can be cut.
pub(super) struct Tapped {
    stream: Either<TcpStream, Box<TlsStream<TcpStream>>>,
    shared: Arc<Shared>,
}

impl AsyncRead for Tapped {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.shared.reader.register(cx.waker());
        if self.shared.cut.load(Ordering::SeqCst) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        if matches!(polled, Poll::Ready(Ok(()))) {
            let mut first = self.shared.first.lock().unwrap_or_else(PoisonError::into_inner);
            let room = FIRST.saturating_sub(first.len());
            first.extend(buf.filled()[before..].iter().take(room));
        }
        polled
    }
}

impl AsyncWrite for Tapped {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

type Wire = Compat<Tapped>;

/// What lapin asks of a reactor: the sleeps of tokio, and streams that are made by [`dial`] alone.
#[derive(Clone, Debug)]
struct Dial(Tokio);

impl Reactor for Dial {
    type TcpStream = Wire;
    type Sleep = <Tokio as Reactor>::Sleep;

    #[expect(refining_impl_trait, reason = "nothing is registered: the type has no meaning")]
    fn register<H: io::Read + io::Write + Send + 'static>(&self, _: H) -> io::Result<Wire> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn sleep(&self, dur: Duration) -> Self::Sleep {
        self.0.sleep(dur)
    }

    fn interval(&self, dur: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.0.interval(dur)
    }

    fn tcp_connect_addr(&self, _: SocketAddr) -> impl Future<Output = io::Result<Wire>> + Send + 'static {
        std::future::ready(Err(io::ErrorKind::Unsupported.into()))
    }
}

fn tls_config(settings: &Settings) -> Result<rustls::ClientConfig, Trouble> {
    let mut roots = rustls::RootCertStore::empty();
    let own = settings.roots().map_err(Trouble::Broker)?;
    if let Some(pem) = &own {
        for one in CertificateDer::pem_slice_iter(pem) {
            let one =
                one.map_err(|e| Trouble::Broker(format!("the certificates to trust make no sense: {e}")))?;
            roots
                .add(one)
                .map_err(|e| Trouble::Broker(format!("a certificate to trust cannot be used: {e}")))?;
        }
        if roots.is_empty() {
            return Err(Trouble::Broker("the file of certificates to trust holds none".to_owned()));
        }
    } else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| Trouble::Broker(e.to_string()))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

/// Opens a stream to the server.
async fn dial(settings: &Settings) -> Result<Either<TcpStream, Box<TlsStream<TcpStream>>>, Trouble> {
    let tried = |why: String| Trouble::Broker(format!("tried {settings}; {why}"));
    let connecting = TcpStream::connect((settings.host.as_str(), settings.port));
    let late = || tried(format!("no connection within {} s", ANSWER.as_secs()));
    let stream = tokio::time::timeout(ANSWER, connecting)
        .await
        .map_err(|_| late())?
        .map_err(|e| tried(e.to_string()))?;
    let _ = stream.set_nodelay(true);
    if !settings.tls {
        return Ok(Either::Left(stream));
    }
    let name = ServerName::try_from(settings.host.clone()).map_err(|e| tried(e.to_string()))?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(tls_config(settings)?));
    let stream = tokio::time::timeout(ANSWER, connector.connect(name, stream)).await.map_err(|_| late())?;
    Ok(Either::Right(Box::new(stream.map_err(|e| tried(format!("TLS: {e}")))?)))
}

/// A connected server.
pub(super) struct Connected {
    pub(super) connection: Connection,
    pub(super) cut: Cut,
    /// As it names itself.
    pub(super) product: String,
    pub(super) version: String,
}

/// Connects and logs in.
pub(super) async fn connect(settings: &Settings, what: &str) -> Result<Connected, Trouble> {
    let uri = uri(settings)?;
    let shared = Arc::new(Shared::default());
    let cut = Cut(shared.clone());
    let stream = Tapped { stream: dial(settings).await?, shared: shared.clone() };
    let slot = Mutex::new(Some(stream.compat()));
    let taken = async move |_: AMQPUri, _| {
        let stream = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
        // It is asked once: lapin's own reconnecting is off.
        stream.map(AsyncTcpStream::Plain).ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected).into())
    };
    let runtime = Runtime::new(RuntimeParts::new(Tokio::current(), Dial(Tokio::current())));
    let properties = ConnectionProperties::default()
        .with_connection_name(format!("reeve: {what}").into())
        .with_client_property("product".into(), "reeve".into())
        .with_client_property("version".into(), env!("CARGO_PKG_VERSION").into());
    let opened = tokio::time::timeout(ANSWER, Connection::connector(uri, runtime, taken, properties)).await;
    let first = std::mem::take(&mut *shared.first.lock().unwrap_or_else(PoisonError::into_inner));
    let why = match opened {
        Ok(Ok(connection)) => {
            let of = |key| property(&first, key).unwrap_or_default();
            return Ok(Connected { connection, cut, product: of("product"), version: of("version") });
        }
        Ok(Err(error)) => super::words(&error),
        Err(_) => format!("no answer within {} s", ANSWER.as_secs()),
    };
    cut.cut();
    let what = stranger(settings, &first).await.map(|what| format!("{what}; ")).unwrap_or_default();
    Err(Trouble::Broker(format!("tried {settings}; {what}{why}")))
}

/// What answers there, if it is not AMQP.
async fn stranger(settings: &Settings, first: &[u8]) -> Option<String> {
    let mut said = first.to_vec();
    if said.is_empty() {
        // Some wait for the end of a line. An AMQP server answers these eight bytes with the version it wants.
        let asked = async {
            let mut stream = dial(settings).await.ok()?;
            stream.write_all(b"PING\r\n\r\n").await.ok()?;
            let mut buf = [0; 64];
            let n = stream.read(&mut buf).await.ok()?;
            Some(buf[..n].to_vec())
        };
        said = tokio::time::timeout(ASK, asked).await.ok()??;
    }
    // A method frame of channel 0, or the header that names the version.
    if said.is_empty() || said.starts_with(&[1, 0, 0]) || said.starts_with(b"AMQP") {
        return None;
    }
    let line = String::from_utf8_lossy(&said);
    let line = Clean::short(line.lines().next().unwrap_or_default(), 60);
    Some(format!("what answers there does not speak AMQP 0-9-1: it says {:?}", line.to_string()))
}

fn uri(settings: &Settings) -> Result<AMQPUri, Trouble> {
    let password = settings.password().map_err(Trouble::Broker)?;
    let username = settings.user.clone().unwrap_or_else(|| "guest".to_owned());
    Ok(AMQPUri {
        scheme: if settings.tls { AMQPScheme::AMQPS } else { AMQPScheme::AMQP },
        authority: AMQPAuthority {
            userinfo: AMQPUserInfo { username, password: password.unwrap_or_else(|| "guest".to_owned()) },
            host: settings.host.clone(),
            port: settings.port,
        },
        vhost: vhost(&settings.path),
        query: AMQPQueryString { heartbeat: Some(HEARTBEAT), ..AMQPQueryString::default() },
    })
}

/// A virtual host as a URL writes it: nothing is `/`, and `%2f` stands for a slash.
fn vhost(path: &str) -> String {
    if path.is_empty() { "/".to_owned() } else { path.replace("%2f", "/").replace("%2F", "/") }
}

/// A text among the properties in a server's first frame (connection.start): name, `S`, length, text. lapin keeps them to
/// itself.
fn property(frame: &[u8], key: &str) -> Option<String> {
    let mut wanted = vec![u8::try_from(key.len()).ok()?];
    wanted.extend(key.as_bytes());
    wanted.push(b'S');
    let at = frame.windows(wanted.len()).position(|w| w == wanted)? + wanted.len();
    let length = frame.get(at..at + 4)?.try_into().map(u32::from_be_bytes).ok()? as usize;
    let text = frame.get(at + 4..at + 4 + length.min(64))?;
    Some(Clean::short(&String::from_utf8_lossy(text), 32).into_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_servers_name_and_version_are_read_from_its_first_frame() {
        let mut frame = vec![1, 0, 0, 0, 0, 1, 0, 0, 10, 0, 10, 0, 9];
        frame.extend(b"\x07productS\x00\x00\x00\x08RabbitMQ\x07versionS\x00\x00\x00\x063.10.8");
        assert_eq!(property(&frame, "product").as_deref(), Some("RabbitMQ"));
        assert_eq!(property(&frame, "version").as_deref(), Some("3.10.8"));
        assert_eq!(property(&frame, "platform"), None);
        assert_eq!(property(&frame[..frame.len() - 3], "version"), None, "cut off");
        assert_eq!(property(b"\x07versionS\xff\xff\xff\xff", "version"), None);
    }

    #[test]
    fn virtual_hosts_are_written_as_in_urls() {
        assert_eq!(["", "lab", "%2f", "a%2Fb"].map(vhost), ["/", "lab", "/", "a/b"]);
    }
}
