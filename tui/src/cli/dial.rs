//! `reeve dial-stdio`: the far end of `ssh://`. Copies standard input to the socket and the socket to standard output.
use super::error::Error;
use crate::host::{Host, Places};
use reeve_protocol::{Code, Problem};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

/// Runs until either side has ended.
pub async fn run(host: Option<String>) -> Result<(), Error> {
    let host = Places::of_process(host).find()?;
    if !matches!(host, Host::Unix(_)) {
        return Err(Problem::new(Code::NoCoordinator, format!("{host} is not a socket on this machine"))
            .hint("dial-stdio does not go on to a third machine")
            .into());
    }
    let (stream, _) = host.dial().await?;
    let socket = stream.into_std().map_err(Error::input("the coordinator's socket"))?;
    pipe(&socket).map_err(Error::input("the coordinator's socket"))
}

/// Threads, because standard input has no asynchronous reading.
fn pipe(socket: &UnixStream) -> std::io::Result<()> {
    socket.set_nonblocking(false)?;
    let up = socket.try_clone()?;
    std::thread::spawn(move || {
        // The other direction reports what ends the connection.
        let _ = copy(&mut std::io::stdin().lock(), &mut &up);
        let _ = up.shutdown(Shutdown::Write);
    });
    copy(&mut &*socket, &mut std::io::stdout().lock())
}

/// Hands over each piece at once: a request waits for its last byte.
fn copy(from: &mut impl Read, to: &mut impl Write) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => {
                to.write_all(&buffer[..read])?;
                to.flush()?;
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_copied_to_the_end() {
        let given = vec![7_u8; 200_000];
        let mut taken = Vec::new();
        copy(&mut given.as_slice(), &mut taken).unwrap();
        assert_eq!(taken, given);
    }
}
