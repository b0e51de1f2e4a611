//! The answers that the HTTP library gives by itself, to what is not HTTP or has no end of headers, leave with a body like
//! every other refusal: problem details with a code and a hint.
//!
//! They never reach a handler, so they are met where they are written. Answers of our own always have a body when they
//! are refusals; one of 4xx without a body is the library's.
use reeve_protocol::{Code, Problem};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream that gives the library's bare refusals a body.
pub(super) struct Polite<S> {
    stream: S,
    /// What takes the place of a refusal, and how much of it is written.
    instead: Vec<u8>,
    written: usize,
}

impl<S> Polite<S> {
    pub(super) const fn new(stream: S) -> Self {
        Self { stream, instead: Vec::new(), written: 0 }
    }
}

/// The whole answer that replaces this one, if it is a bare refusal.
fn instead_of(answer: &[u8]) -> Option<Vec<u8>> {
    if !answer.starts_with(b"HTTP/1.") || answer.get(8..10) != Some(b" 4") || !answer.ends_with(b"\r\n\r\n") {
        return None;
    }
    let head = std::str::from_utf8(answer).ok()?;
    if !head.to_ascii_lowercase().contains("\r\ncontent-length: 0\r\n") {
        return None;
    }
    let status = head.get(9..12)?.parse::<u16>().ok()?;
    let mut problem = match status {
        431 => Problem::new(Code::HeadersTooLarge, "the head of the request is larger than 64 KiB, has more than a hundred headers, or names a length beyond all bounds")
            .hint("send fewer or shorter headers; a long filter goes into a plan or a view, as a body"),
        414 => Problem::new(Code::TooLarge, "the path with its query is too long")
            .hint("a long filter goes into a plan or a view, as a body"),
        _ => Problem::new(Code::BadRequest, "this is not a request that HTTP/1.1 allows")
            .hint("speak HTTP/1.1 or HTTP/2 with prior knowledge; try: curl --unix-socket SOCKET http://reeve/version"),
    };
    problem.status = status;
    let body = serde_json::to_vec(&problem).ok()?;
    let line = head.lines().next()?;
    let mut whole = format!(
        "{line}\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\ncache-control: no-store\r\nconnection: close\r\n\r\n",
        body.len()
    )
    .into_bytes();
    whole.extend(body);
    Some(whole)
}

impl<S: AsyncWrite + Unpin> Polite<S> {
    fn poll_instead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.instead.len() {
            let n = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.instead[self.written..]))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += n;
        }
        (self.instead, self.written) = (Vec::new(), 0);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Polite<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Polite<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_instead(cx))?;
        if let Some(instead) = instead_of(bytes) {
            self.instead = instead;
            // Flushing goes on with it, so whatever is left may wait.
            if let Poll::Ready(Err(error)) = self.poll_instead(cx) {
                return Poll::Ready(Err(error));
            }
            return Poll::Ready(Ok(bytes.len()));
        }
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // A refusal without a body is one piece.
        if let [piece] = pieces {
            return self.poll_write(cx, piece);
        }
        ready!(self.poll_instead(cx))?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_instead(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_instead(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[test]
    fn only_bare_refusals_are_replaced() {
        let bare = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\ndate: x\r\n\r\n";
        let answer = String::from_utf8(instead_of(bare).unwrap()).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let problem: Problem = serde_json::from_str(body).unwrap();
        assert_eq!((problem.status, problem.code.as_str()), (431, "headers-too-large"));
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())) && !problem.hint.is_empty());
        for other in [
            &b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"[..],
            b"HTTP/1.1 404 Not Found\r\ncontent-length: 7\r\n\r\n",
            b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n",
            b"HTTP/1.1 4",
            b"some bytes of a body\r\n\r\n",
            b"",
        ] {
            assert_eq!(instead_of(other), None, "{}", String::from_utf8_lossy(other));
        }
    }

    #[tokio::test]
    async fn a_replaced_answer_is_whole_although_the_reader_is_slow() {
        let (mut client, server) = tokio::io::duplex(16);
        let mut server = Polite::new(server);
        let writing = async {
            let bare = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
            server.write_all(bare).await.unwrap();
            server.shutdown().await.unwrap();
        };
        let mut answer = String::new();
        let ((), read) = tokio::join!(writing, client.read_to_string(&mut answer));
        read.unwrap();
        assert!(answer.ends_with('}') && answer.contains("\"code\":\"bad-request\""), "{answer}");
    }
}
