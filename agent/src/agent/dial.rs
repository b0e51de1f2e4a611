//! Finding the coordinator: names into addresses, addresses into a connection. It speaks no frame.
use quinn::{ClientConfig, Connection, Endpoint};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use tokio::time::timeout;

/// For one address to answer. QUIC says its first word again after 1 s and then after 3: trying anew comes before that.
const PATIENCE: Duration = Duration::from_millis(2_500);
/// Of the coordinator, when an address names none.
const DEFAULT_PORT: u16 = 7373;

/// The coordinator cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No socket of our own.
    #[error("no UDP socket can be opened")]
    Socket(#[from] std::io::Error),
    /// No address worked.
    #[error("the coordinator cannot be reached: {0}")]
    Unreachable(String),
    /// It was reached and turned us away.
    #[error("the coordinator turned this machine away (code {code}): {reason}")]
    TurnedAway {
        /// One of the protocol's close codes.
        code: u32,
        /// Its words.
        reason: String,
    },
}

/// A socket for outgoing connections of both families where the machine has both.
///
/// # Errors
/// [`Error::Socket`].
pub(crate) fn endpoint() -> Result<Endpoint, Error> {
    let any6 = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0);
    let any4 = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
    Ok(Endpoint::client(any6).or_else(|_| Endpoint::client(any4))?)
}

/// Tries every address in turn; the connection, and which address it was.
///
/// # Errors
/// [`Error`], with what was tried.
pub(crate) async fn dial(
    endpoint: &Endpoint,
    config: &ClientConfig,
    addresses: &[String],
    server_name: &str,
) -> Result<(Connection, usize), Error> {
    let mut tried = Vec::new();
    for (at, address) in addresses.iter().enumerate() {
        let found = match timeout(PATIENCE, tokio::net::lookup_host(with_port(address))).await {
            Ok(Ok(found)) => found.collect::<Vec<_>>(),
            Ok(Err(error)) => {
                tried.push(format!("{address}: {error}"));
                continue;
            }
            Err(_) => {
                tried.push(format!("{address}: its name is not resolved in time"));
                continue;
            }
        };
        for target in found {
            let connecting =
                match endpoint.connect_with(config.clone(), mapped(endpoint, target), server_name) {
                    Ok(connecting) => connecting,
                    Err(error) => {
                        tried.push(format!("{target}: {error}"));
                        continue;
                    }
                };
            match timeout(PATIENCE, connecting).await {
                Ok(Ok(connection)) => return Ok((connection, at)),
                Ok(Err(quinn::ConnectionError::ApplicationClosed(close))) => return Err(turned_away(&close)),
                Ok(Err(quinn::ConnectionError::TransportError(error)))
                    if error.code == quinn::TransportErrorCode::crypto(45) =>
                {
                    tried.push(format!(
                        "{target}: its certificate is not good at this machine's time; is this machine's clock right?"
                    ));
                }
                Ok(Err(error)) => tried.push(format!("{target}: {error}")),
                Err(_) => tried.push(format!("{target}: no answer over UDP")),
            }
        }
    }
    Err(Error::Unreachable(tried.join("; ")))
}

/// Whether TLS ended because a certificate is not good at this time. The server verifies ours after our half of the
/// handshake is done, so this may come as the end of a connection that was made.
pub(crate) fn is_expired(error: &quinn::ConnectionError) -> bool {
    // RFC 8446, section 6: alert 45, certificate_expired.
    let alert = quinn::TransportErrorCode::crypto(45);
    match error {
        quinn::ConnectionError::ConnectionClosed(close) => close.error_code == alert,
        _ => false,
    }
}

/// What a close by the other side says.
pub(crate) fn turned_away(close: &quinn::ApplicationClose) -> Error {
    Error::TurnedAway {
        code: u32::try_from(close.error_code.into_inner()).unwrap_or(u32::MAX),
        reason: String::from_utf8_lossy(&close.reason).into_owned(),
    }
}

/// A socket of both families takes addresses of the old one in their mapped form.
fn mapped(endpoint: &Endpoint, target: SocketAddr) -> SocketAddr {
    match (endpoint.local_addr(), target.ip()) {
        (Ok(SocketAddr::V6(_)), IpAddr::V4(ip)) => SocketAddr::new(ip.to_ipv6_mapped().into(), target.port()),
        _ => target,
    }
}

/// `host`, `host:port`, `[v6]`, `[v6]:port` or a bare v6 address, with a port in any case.
pub(crate) fn with_port(address: &str) -> String {
    if let Ok(ip) = address.parse::<Ipv6Addr>() {
        return format!("[{ip}]:{DEFAULT_PORT}");
    }
    let after_brackets = address.rsplit(']').next().unwrap_or(address);
    if after_brackets.contains(':') { address.to_owned() } else { format!("{address}:{DEFAULT_PORT}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_an_address_has_a_port_in_the_end() {
        for (given, wanted) in [
            ("head", "head:7373"),
            ("head:1", "head:1"),
            ("[::1]", "[::1]:7373"),
            ("[::1]:5", "[::1]:5"),
            ("::1", "[::1]:7373"),
            ("10.0.0.1", "10.0.0.1:7373"),
        ] {
            assert_eq!(with_port(given), wanted);
        }
    }

    #[tokio::test]
    async fn what_was_tried_is_told() {
        let (config, _) = reeve_protocol::quic::joining_config(String::new()).unwrap();
        let error =
            dial(&endpoint().unwrap(), &config, &["no such host:1".into()], "x.reeve").await.unwrap_err();
        assert!(error.to_string().contains("no such host"), "{error}");
    }
}
