//! The one request that this binary makes: a join token, from the coordinator that runs on this machine.
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use reeve_protocol::Problem;
use reeve_protocol::api::TokenReply;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use tokio::net::UnixStream;

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The time to live.
    #[error("--ttl: {0}")]
    Ttl(String),
    /// Nobody listens.
    #[error(
        "no coordinator answers on {0}; start one with: reeve-coordinator run, or name its socket with --socket"
    )]
    Nobody(PathBuf, #[source] io::Error),
    /// The connection broke.
    #[error("the coordinator did not answer")]
    Http(#[from] hyper::Error),
    /// It said no.
    #[error("{0}")]
    Refused(Problem),
    /// An answer that makes no sense.
    #[error("the coordinator's answer makes no sense; is it of another version?")]
    Answer(#[from] serde_json::Error),
    /// A request that cannot be made.
    #[error("cannot ask")]
    Request(#[from] hyper::http::Error),
}

/// Asks for a token.
pub(crate) async fn token(socket: &Path, ttl_s: f64) -> Result<TokenReply, Error> {
    let stream = connect(socket).await.map_err(|e| Error::Nobody(socket.to_owned(), e))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = Request::post("/v1/machines/token")
        .header("host", "reeve")
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(format!(r#"{{"ttl_s":{ttl_s}}}"#))))?;
    let response = sender.send_request(request).await?;
    let ok = response.status().is_success();
    let body = response.into_body().collect().await?.to_bytes();
    connection.abort();
    if ok { Ok(serde_json::from_slice(&body)?) } else { Err(Error::Refused(serde_json::from_slice(&body)?)) }
}

/// Through a descriptor of its directory, since the kernel takes only 107 bytes of a path.
async fn connect(socket: &Path) -> io::Result<UnixStream> {
    let (Some(dir), Some(name)) = (socket.parent(), socket.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not the path of a socket"));
    };
    let dir = std::fs::File::open(dir)?;
    UnixStream::connect(Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name)).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    /// A coordinator that gives this answer to whatever comes.
    fn answering(answer: &'static str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.sock");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let len = stream.read(&mut request).await.unwrap();
            let text = String::from_utf8_lossy(&request[..len]).into_owned();
            assert!(
                text.starts_with("POST /v1/machines/token") && text.ends_with(r#"{"ttl_s":60}"#),
                "{text}"
            );
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        (dir, path)
    }

    #[tokio::test]
    async fn a_token_comes_back() {
        let body = r#"{"token":"reeve1.x","expires_at":"2026-11-24T10:00:00Z"}"#;
        let answer = format!("HTTP/1.1 201 Created\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        let (_dir, path) = answering(answer.leak());
        assert_eq!(token(&path, 60.0).await.unwrap().token, "reeve1.x");
    }

    #[tokio::test]
    async fn a_refusal_is_shown_in_the_coordinators_words() {
        let (_dir, path) = answering("HTTP/1.1 502 Bad\r\ncontent-length: 2\r\n\r\n{}");
        assert!(matches!(token(&path, 60.0).await, Err(Error::Answer(_))));
    }

    #[tokio::test]
    async fn where_nobody_listens_it_says_how_to_start_one() {
        let error = token(Path::new("/nowhere/c.sock"), 60.0).await.unwrap_err().to_string();
        assert!(error.contains("/nowhere/c.sock") && error.contains("reeve-coordinator run"), "{error}");
    }
}
