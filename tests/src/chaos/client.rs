//! A client that lives through whatever happens to the server: one connection that is kept, and errors that say whether
//! the request can have had an effect.
use std::io::{self, BufRead, BufReader, Read, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Without an answer for so long, the outcome is unknown.
const PATIENCE: Duration = Duration::from_secs(20);

/// Why there is no answer.
#[derive(Debug)]
pub enum Broken {
    /// Nothing was sent: there was no connection.
    NotSent(io::Error),
    /// It may have had its effect.
    Unknown(io::Error),
}

/// An answer.
#[derive(Debug)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// The header lines, in lower case.
    pub head: String,
    /// The body.
    pub body: Vec<u8>,
}

impl Reply {
    /// The body as JSON; null if it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// Whether the server says that nothing happened.
    pub fn is_definite(&self) -> bool {
        self.json()["outcome"] != "unknown"
    }
}

/// One connection at a time.
pub struct Client {
    socket: PathBuf,
    stream: Option<BufReader<UnixStream>>,
}

impl Client {
    /// Connects when it is first used.
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned(), stream: None }
    }

    /// Sends a request and reads its answer.
    ///
    /// # Errors
    /// [`Broken`].
    pub fn ask(&mut self, method: &str, path: &str, key: Option<&str>, body: &str) -> Result<Reply, Broken> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => BufReader::new(connect(&self.socket).map_err(Broken::NotSent)?),
        };
        let reply = send(&mut stream, method, path, key, body).and_then(|()| read(&mut stream));
        let reply = reply.map_err(Broken::Unknown)?;
        if !reply.head.contains("connection: close") {
            self.stream = Some(stream);
        }
        Ok(reply)
    }

    /// `GET`; `None` when there is no good answer.
    pub fn get(&mut self, path: &str) -> Option<Reply> {
        // A connection that the server has closed meanwhile is noticed only now; asking twice does no harm.
        for _ in 0..2 {
            if let Ok(reply) = self.ask("GET", path, None, "") {
                return (reply.status == 200).then_some(reply);
            }
        }
        None
    }
}

fn connect(socket: &Path) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn send(
    stream: &mut BufReader<UnixStream>,
    method: &str,
    path: &str,
    key: Option<&str>,
    body: &str,
) -> io::Result<()> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: reeve\r\ncontent-length: {}\r\n", body.len());
    if !body.is_empty() {
        head += "content-type: application/json\r\n";
    }
    if let Some(key) = key {
        head.extend(["idempotency-key: ", key, "\r\n"]);
    }
    head += "\r\n";
    stream.get_mut().write_all(&[head.as_bytes(), body.as_bytes()].concat())
}

fn read(stream: &mut BufReader<UnixStream>) -> io::Result<Reply> {
    let (status, head) = read_head(stream)?;
    let mut body = Vec::new();
    if head.contains("transfer-encoding: chunked") {
        Chunks::new(stream).read_to_end(&mut body)?;
    } else {
        let len = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
        body.resize(len.unwrap_or(0), 0);
        stream.read_exact(&mut body)?;
    }
    Ok(Reply { status, head, body })
}

fn read_head(stream: &mut impl BufRead) -> io::Result<(u16, String)> {
    let mut head = String::new();
    loop {
        let before = head.len();
        if stream.read_line(&mut head)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if head[before..].trim().is_empty() {
            break;
        }
    }
    let status = head.split_whitespace().nth(1).and_then(|word| word.parse().ok());
    let status = status.ok_or_else(|| io::Error::other(format!("no status in {head:?}")))?;
    Ok((status, head.to_ascii_lowercase()))
}

/// A body in chunks, as a reader.
struct Chunks<R> {
    inner: R,
    left: usize,
    done: bool,
    /// The line with the next length; kept when a patience ends in the middle of it.
    line: String,
}

impl<R> Chunks<R> {
    const fn new(inner: R) -> Self {
        Self { inner, left: 0, done: false, line: String::new() }
    }
}

impl<R: BufRead> Read for Chunks<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 && !self.done {
            // The end of the chunk before is an empty line.
            while self.line.trim().is_empty() {
                if self.inner.read_line(&mut self.line)? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            let len = usize::from_str_radix(std::mem::take(&mut self.line).trim(), 16);
            self.left = len.map_err(io::Error::other)?;
            if self.left == 0 {
                self.done = true;
                self.inner.read_line(&mut String::new())?;
            }
        }
        if self.done {
            return Ok(0);
        }
        let most = buffer.len().min(self.left);
        let len = self.inner.read(&mut buffer[..most])?;
        if len == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= len;
        Ok(len)
    }
}

/// A body that goes on: its lines, until the server ends it. A read that has waited `patience` is an error of kind
/// `WouldBlock`, after which reading may go on.
///
/// # Errors
/// When there is no such stream.
pub fn follow(socket: &Path, path: &str, patience: Duration) -> io::Result<impl BufRead + use<>> {
    let mut stream = BufReader::new(connect(socket)?);
    send(&mut stream, "GET", path, None, "")?;
    let (status, head) = read_head(&mut stream)?;
    if status != 200 {
        return Err(io::Error::other(format!("{path}: {status}")));
    }
    if !head.contains("transfer-encoding: chunked") {
        return Err(io::Error::other(format!("{path}: no stream")));
    }
    stream.get_ref().set_read_timeout(Some(patience))?;
    Ok(BufReader::new(Chunks::new(stream)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_become_the_bytes_they_carry_and_a_cut_is_an_error() {
        let all = |text: &'static str| {
            let mut out = String::new();
            Chunks::new(text.as_bytes()).read_to_string(&mut out).map(|_| out)
        };
        assert_eq!(all("3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n").unwrap(), "abc0123456789");
        for cut in ["3\r\nab", "3\r\nabc\r\n", "", "x\r\n"] {
            assert!(all(cut).is_err(), "{cut:?}");
        }
    }

    #[test]
    fn without_a_server_nothing_was_sent() {
        let dir = tempfile::tempdir().unwrap();
        let asked = Client::new(&dir.path().join("none")).ask("GET", "/", None, "");
        assert!(matches!(asked, Err(Broken::NotSent(_))));
    }
}
