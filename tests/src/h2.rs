//! HTTP/2 frames by hand: what no client library lets one send.
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// A header block: `GET /version` (RFC 7541: three indexed fields would not do, the path is written out).
pub const GET_VERSION: &[u8] = b"\x82\x86\x04\x08/version\x41\x01x";
/// `GET /v1/events?follow=true`, an answer without end.
pub const FOLLOW: &[u8] = b"\x82\x86\x04\x16/v1/events?follow=true\x41\x01x";
/// Kinds of frames.
pub const HEADERS: u8 = 1;
/// Ends a stream at once.
pub const RST_STREAM: u8 = 3;
/// Settings of the connection.
pub const SETTINGS: u8 = 4;
/// Asks for an echo.
pub const PING: u8 = 6;
/// More of a header block.
pub const CONTINUATION: u8 = 9;
/// Flags: the stream's last frame, and the last of a header block.
pub const END: u8 = 5;

/// One frame.
pub fn frame(kind: u8, flags: u8, stream: u32, body: &[u8]) -> Vec<u8> {
    let len = (body.len() as u32).to_be_bytes();
    [&len[1..], &[kind, flags], &stream.to_be_bytes(), body].concat()
}

/// A connection that has sent its preface and these settings.
pub fn connect(socket: &Path, settings: &[u8]) -> UnixStream {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(Duration::from_mins(2))).unwrap();
    stream.set_write_timeout(Some(Duration::from_mins(2))).unwrap();
    let _ = stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    let _ = stream.write_all(&frame(SETTINGS, 0, 0, settings));
    stream
}

/// Everything that comes until the other side closes, or until this is found in it.
pub fn read_until(stream: &mut UnixStream, wanted: &[u8]) -> Vec<u8> {
    let (mut all, mut piece) = (Vec::new(), vec![0; 64 * 1024]);
    while !all.windows(wanted.len().max(1)).any(|w| w == wanted) {
        match stream.read(&mut piece) {
            Ok(n) if n > 0 => all.extend_from_slice(&piece[..n]),
            _ => break,
        }
    }
    all
}
