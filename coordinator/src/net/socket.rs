//! The sockets of the agents' port: UDP for QUIC, and the same TCP number, which only answers that UDP is needed.
use super::Error;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;

/// Asked of the kernel, which may give less: bursts of a few hundred machines fit.
const UDP_BUFFER: usize = 4 * 1024 * 1024;
const COURTESY: &[u8] = b"reeve speaks QUIC over UDP on this port; open UDP, not TCP, in the firewall\n";

/// Both sockets, bound to one port.
#[derive(Debug)]
pub struct Sockets {
    pub(super) udp: UdpSocket,
    pub(super) tcp: Option<TcpListener>,
    address: SocketAddr,
}

impl Sockets {
    /// Binds. `[::]` takes IPv4 too, and falls back to `0.0.0.0` on a machine without IPv6. Port 0 lets the kernel
    /// choose.
    ///
    /// # Errors
    /// When the address cannot be had.
    pub fn bind(listen: SocketAddr) -> Result<Self, Error> {
        let udp = match udp(listen) {
            Err(error) if no_ipv6(listen, &error) => {
                udp(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), listen.port()))
            }
            other => other,
        };
        let udp = udp.map_err(|e| Error::Bind(listen, e))?;
        let address = udp.local_addr().map_err(|e| Error::Bind(listen, e))?;
        // The TCP side is a courtesy: without it everything works.
        let tcp = TcpListener::bind(address)
            .inspect_err(|error| tracing::debug!(%address, %error, "no TCP listener"))
            .ok();
        Ok(Self { udp, tcp, address })
    }

    /// The address with the port that was chosen.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

fn no_ipv6(listen: SocketAddr, error: &io::Error) -> bool {
    let missing = [rustix::io::Errno::AFNOSUPPORT, rustix::io::Errno::ADDRNOTAVAIL];
    listen.ip() == IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED)
        && missing.iter().any(|e| error.raw_os_error() == Some(e.raw_os_error()))
}

fn udp(listen: SocketAddr) -> io::Result<UdpSocket> {
    let family = if listen.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let fd: OwnedFd = rustix::net::socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    if listen.is_ipv6() {
        // The system's default may say otherwise.
        sockopt::set_ipv6_v6only(&fd, !listen.ip().is_unspecified())?;
    }
    let _ = sockopt::set_socket_recv_buffer_size(&fd, UDP_BUFFER);
    let _ = sockopt::set_socket_send_buffer_size(&fd, UDP_BUFFER);
    rustix::net::bind(&fd, &listen)?;
    Ok(UdpSocket::from(fd))
}

/// Answers TCP connections one at a time, each bounded: nobody can make this grow.
pub(super) async fn courtesy(listener: TcpListener) {
    if listener.set_nonblocking(true).is_err() {
        return;
    }
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    loop {
        let Ok((mut stream, _)) = listener.accept().await else {
            // Out of descriptors, most likely: the pause keeps this from spinning.
            tokio::time::sleep(Duration::from_secs(1)).await;
            continue;
        };
        let _ = timeout(Duration::from_secs(1), async {
            stream.write_all(COURTESY).await?;
            stream.shutdown().await
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    #[tokio::test]
    async fn tcp_on_the_same_port_says_that_udp_is_needed() {
        let sockets = Sockets::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = sockets.address();
        assert_ne!(address.port(), 0);
        let task = tokio::spawn(courtesy(sockets.tcp.unwrap()));
        let said = tokio::task::spawn_blocking(move || {
            let mut text = String::new();
            std::net::TcpStream::connect(address).unwrap().read_to_string(&mut text).unwrap();
            text
        });
        assert!(said.await.unwrap().contains("QUIC over UDP"));
        task.abort();
    }

    #[test]
    fn the_open_address_takes_both_families_where_there_are_two() {
        let sockets = Sockets::bind("[::]:0".parse().unwrap()).unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.send_to(b"x", ("127.0.0.1", sockets.address().port())).unwrap();
        let mut bytes = [0; 8];
        sockets.udp.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        assert_eq!(sockets.udp.recv(&mut bytes).unwrap(), 1);
    }

    #[test]
    fn a_port_that_is_taken_is_an_error_that_names_it() {
        let first = Sockets::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let error = Sockets::bind(first.address()).unwrap_err().to_string();
        assert!(error.contains(&first.address().to_string()), "{error}");
    }
}
