//! The smallest HTTP/1.1 client over a Unix socket: what a script without libraries would do. One request per
//! connection.
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The header lines.
    pub head: String,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// The problem's code.
    pub fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or("").to_owned()
    }
}

/// Sends a request with a JSON body (or none) and reads the whole answer.
pub fn request(socket: &Path, method: &str, path: &str, body: Option<&str>) -> Answer {
    let body = body.unwrap_or("");
    let kind = if body.is_empty() { String::new() } else { "content-type: application/json\r\n".to_owned() };
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: reeve\r\nconnection: close\r\n{kind}content-length: {}\r\n\r\n",
        body.len()
    );
    raw(socket, &[head.as_bytes(), body.as_bytes()].concat())
}

/// `GET`.
pub fn get(socket: &Path, path: &str) -> Answer {
    request(socket, "GET", path, None)
}

/// `POST` of JSON.
pub fn post(socket: &Path, path: &str, body: &str) -> Answer {
    request(socket, "POST", path, Some(body))
}

/// Sends bytes as they are and reads until the other side closes.
pub fn raw(socket: &Path, bytes: &[u8]) -> Answer {
    raw_on(UnixStream::connect(socket).unwrap(), bytes)
}

/// The same on a connection that is open. Status 0: there was no answer.
pub fn raw_on(mut stream: UnixStream, bytes: &[u8]) -> Answer {
    stream.set_read_timeout(Some(Duration::from_mins(3))).unwrap();
    // A server that refuses early may close before everything is written.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    parse(&answer)
}

fn parse(answer: &[u8]) -> Answer {
    let split = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap_or(answer.len());
    let head = String::from_utf8_lossy(&answer[..split]).into_owned();
    let status = head.split_whitespace().nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    let mut body = answer.get(split + 4..).unwrap_or_default().to_vec();
    if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        body = unchunk(&body);
    }
    Answer { status, head, body }
}

fn unchunk(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = rest.windows(2).position(|w| w == b"\r\n") {
        let Ok(len) = usize::from_str_radix(String::from_utf8_lossy(&rest[..end]).trim(), 16) else { break };
        if len == 0 || rest.len() < end + 2 + len {
            break;
        }
        body.extend_from_slice(&rest[end + 2..end + 2 + len]);
        rest = rest.get(end + 4 + len..).unwrap_or_default();
    }
    body
}
