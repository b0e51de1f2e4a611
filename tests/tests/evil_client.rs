//! Clients that send what no client sends. Each gets an honest refusal (status, code, hint; no inside of the coordinator)
//! or its connection closed; the next client is served, nothing is lost, memory stays.
//!
//! Rows of the catalogue of bad input: A4 to A6 and A31 to A33; the others in `bad_requests.rs`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]
use reeve_tests::evil::rss;
use reeve_tests::h2;
use reeve_tests::http::Answer;
use reeve_tests::machine::Coordinator;
use reeve_tests::refusals::{is_honest, pid, serves};
use reeve_tests::{PATIENCE, eventually, skip};
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// What is not HTTP, or not as HTTP is spoken, and the statuses it may get; 0: closed without an answer.
const BROKEN: [(&str, &str, &[u16]); 21] = [
    (
        "a length and a coding",
        "POST /v1/jobs HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        &[400],
    ),
    ("no HTTP", "hello\r\n\r\n", &[400]),
    ("half a request line", "GET\r\n\r\n", &[400]),
    ("another version", "GET /version HTTP/3.0\r\nhost: x\r\n\r\n", &[400]),
    ("a bad method", "G(T /version HTTP/1.1\r\nhost: x\r\n\r\n", &[400]),
    ("a space in the path", "GET /ver sion HTTP/1.1\r\nhost: x\r\n\r\n", &[400]),
    ("a control character in the path", "GET /\u{1b}[2J HTTP/1.1\r\nhost: x\r\n\r\n", &[400]),
    ("a NUL in a header", "GET /version HTTP/1.1\r\nhost: a\0b\r\n\r\n", &[400]),
    ("a header without a colon", "GET /version HTTP/1.1\r\nhost\r\n\r\n", &[400]),
    ("a space before the colon", "GET /version HTTP/1.1\r\nhost : x\r\n\r\n", &[400]),
    ("a folded header", "GET /version HTTP/1.1\r\nhost: x\r\nx-a: 1\r\n 2\r\n\r\n", &[400]),
    (
        "two lengths",
        "POST /v1/jobs HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}",
        &[400],
    ),
    ("a length of words", "POST /v1/jobs HTTP/1.1\r\nhost: x\r\ncontent-length: two\r\n\r\n{}", &[400]),
    ("a negative length", "POST /v1/jobs HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n{}", &[400]),
    ("a length with a sign", "POST /v1/jobs HTTP/1.1\r\nhost: x\r\ncontent-length: +2\r\n\r\n{}", &[400]),
    (
        "a coding that is not chunked last",
        "POST /v1/jobs HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
        &[400],
    ),
    (
        "a chunk of no number",
        "POST /v1/jobs HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
        &[400],
    ),
    (
        "a chunk of 2^64 bytes",
        "POST /v1/jobs HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n{}\r\n",
        &[400],
    ),
    (
        "a chunk that is longer than it says",
        "POST /v1/jobs HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n1\r\n{}\r\n0\r\n\r\n",
        &[400],
    ),
    ("a tunnel", "CONNECT example.org:443 HTTP/1.1\r\nhost: x\r\n\r\n", &[400, 404, 405]),
    (
        "an upgrade",
        "PATCH /v1/jobs HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        &[400, 405],
    ),
];

#[test]
fn what_is_not_http_is_refused_with_a_body_and_the_connection_closed() {
    let c = Coordinator::start("127.0.0.1:0");
    for (what, request, statuses) in BROKEN {
        let answer = one_answer(&c.socket(), request.as_bytes());
        assert!(statuses.contains(&answer.status), "{what}: {} {}", answer.head, answer.text());
        is_honest(&c, what, &answer);
        serves(&c, what);
    }
    let many: String = (0..2000).map(|n| format!("x-{n}: y\r\n")).collect();
    let cases = [
        (
            "a path of 70 kB",
            format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "p".repeat(70_000)),
            [404, 414, 431],
        ),
        (
            "a header of 70 kB",
            format!("GET /version HTTP/1.1\r\nx: {}\r\n\r\n", "h".repeat(70_000)),
            [431; 3],
        ),
        ("2000 headers", format!("GET /version HTTP/1.1\r\n{many}\r\n"), [431; 3]),
    ];
    for (what, request, statuses) in cases {
        let answer = one_answer(&c.socket(), request.as_bytes());
        assert!(statuses.contains(&answer.status), "{what}: {}", answer.head);
        is_honest(&c, what, &answer);
        serves(&c, what);
    }
    // The first of two requests in one packet is answered before the second is refused.
    let two = "GET /version HTTP/1.1\r\nhost: x\r\n\r\nnonsense\r\n\r\n";
    let all = everything(&c.socket(), two.as_bytes());
    let statuses: Vec<&str> = all.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).take(2).collect();
    assert_eq!(statuses, ["200", "400"], "{all}");
    assert!(all.contains("\"bad-request\""), "{all}");
}

/// Sends, and reads one answer: the connection may stay open after it.
fn one_answer(socket: &Path, request: &[u8]) -> Answer {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let _ = stream.write_all(request);
    let mut all = Vec::new();
    let mut piece = [0; 4096];
    loop {
        if let Some(at) = all.windows(4).position(|w| w == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&all[..at]).into_owned();
            let len = head
                .to_ascii_lowercase()
                .split("content-length: ")
                .nth(1)
                .and_then(|n| n.lines().next().and_then(|n| n.parse::<usize>().ok()));
            if len.is_none_or(|len| all.len() >= at + 4 + len) {
                let status = head.split_whitespace().nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
                return Answer { status, head, body: all[at + 4..].to_vec() };
            }
        }
        match stream.read(&mut piece) {
            Ok(n) if n > 0 => all.extend_from_slice(&piece[..n]),
            _ => {
                return Answer {
                    status: 0,
                    head: String::from_utf8_lossy(&all).into_owned(),
                    body: Vec::new(),
                };
            }
        }
    }
}

/// Sends, and reads until the other side closes.
fn everything(socket: &Path, request: &[u8]) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let _ = stream.write_all(request);
    let mut all = Vec::new();
    let _ = stream.read_to_end(&mut all);
    String::from_utf8_lossy(&all).into_owned()
}

#[test]
fn bodies_beyond_every_bound_are_refused_as_soon_as_that_is_known() {
    let c = Coordinator::start("127.0.0.1:0");
    serves(&c, "the start");
    let memory = rss(pid(&c));
    let head = |rest: &str| {
        format!("POST /v1/jobs HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n{rest}\r\n")
    };
    for len in ["67108865", "9223372036854775807", "18446744073709551614"] {
        let answer = one_answer(&c.socket(), head(&format!("content-length: {len}\r\n")).as_bytes());
        // A length that no number holds is the HTTP library's to refuse.
        let wanted = if len.len() < 20 { (413, Some("too-large")) } else { (431, Some("headers-too-large")) };
        assert_eq!((answer.status, is_honest(&c, len, &answer)["code"].as_str()), wanted);
    }
    // The same without a length: the connection takes no more than the limit.
    let mut stream = UnixStream::connect(c.socket()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(head("transfer-encoding: chunked\r\n").as_bytes()).unwrap();
    let piece = [b"100000\r\n".as_slice(), &vec![b' '; 0x10_0000], b"\r\n"].concat();
    let taken = (0..80).take_while(|_| stream.write_all(&piece).is_ok()).count();
    assert!(taken <= 70, "{taken} MiB were taken");
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 413"), "{answer}");
    // Types and codings that are not taken.
    for (rest, status) in [
        ("content-encoding: gzip\r\ncontent-length: 2\r\n", 415),
        ("transfer-encoding: gzip, chunked\r\n", 400),
        ("idempotency-key: \r\ncontent-length: 2\r\n", 400),
        ("content-length: 2\r\nexpect: 200-maybe\r\n", 400),
    ] {
        let answer = one_answer(&c.socket(), (head(rest) + "{}").as_bytes());
        assert_eq!(answer.status, status, "{rest}: {}", answer.text());
        is_honest(&c, rest, &answer);
    }
    let form = "POST /v1/jobs HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-www-form-urlencoded\r\ncontent-length: 2\r\n\r\n{}";
    assert_eq!(one_answer(&c.socket(), form.as_bytes()).status, 415);
    serves(&c, "large bodies");
    let grew = rss(pid(&c)).saturating_sub(memory);
    assert!(grew < 256 << 20, "{grew} bytes more");
}

#[test]
fn clients_that_dawdle_or_never_read_are_let_go_and_the_next_one_is_served() {
    let c = Coordinator::start("127.0.0.1:0");
    let open = |start: &str| {
        let mut stream = UnixStream::connect(c.socket()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(start.as_bytes()).unwrap();
        stream
    };
    let mut slow: Vec<UnixStream> = (0..50).map(|_| open("GET /version HTTP/1.1\r\nx-slow: ")).collect();
    let mut stalled = open(
        "POST /v1/jobs HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{\"command\"",
    );
    let mut lines = open(
        "POST /v1/jobs HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{\"com\r\n",
    );
    // Never read: followers, and answers to a batch of lines.
    let deaf: Vec<UnixStream> = (0..50)
        .map(|n| {
            let path = ["/v1/events?follow=true&from=0", "/v1/stats?follow=true"][n % 2];
            open(&format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n"))
        })
        .collect();
    let mut batch = open(
        "POST /v1/jobs HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-ndjson\r\ncontent-length: 100000000\r\n\r\n",
    );
    batch.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
    let wrong = "{}\n".repeat(50_000);
    let taken = (0..100).take_while(|_| batch.write_all(wrong.as_bytes()).is_ok()).count();
    assert!(taken < 100, "answers that nobody reads hold the questions back");
    serves(&c, "clients that dawdle");
    // A byte now and then does not help.
    let dripping = std::thread::spawn(move || {
        eventually("slow headers to be given up", || {
            slow.retain_mut(|stream| stream.write_all(b"y").is_ok());
            slow.is_empty().then_some(())
        });
    });
    let mut answer = String::new();
    let _ = stalled.read_to_string(&mut answer);
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("\"request-timeout\""), "{answer}");
    let mut answer = String::new();
    let _ = lines.read_to_string(&mut answer);
    assert!(answer.contains("request-timeout"), "{answer}");
    dripping.join().unwrap();
    serves(&c, "all of it");
    assert!(rss(pid(&c)) < 400 << 20, "{} bytes", rss(pid(&c)));
    drop(deaf);
}

#[test]
fn floods_of_http_2_end_their_own_connection_at_most() {
    let c = Coordinator::start("127.0.0.1:0");
    serves(&c, "the start");
    let memory = rss(pid(&c));
    let ids = || (0..).map(|n: u32| 2 * n + 1);
    let opened = |n: usize| -> Vec<u8> {
        ids().take(n).flat_map(|id| h2::frame(h2::HEADERS, h2::END, id, h2::GET_VERSION)).collect()
    };
    // One honest request, so that the bytes below are known to be what they should be.
    let mut honest = h2::connect(&c.socket(), &[]);
    honest.write_all(&opened(1)).unwrap();
    let answer = h2::read_until(&mut honest, b"\"api\"");
    assert!(answer.windows(5).any(|w| w == b"\"api\""), "{}", String::from_utf8_lossy(&answer));

    let reset: Vec<u8> = ids()
        .take(20_000)
        .flat_map(|id| {
            [
                h2::frame(h2::HEADERS, h2::END, id, h2::GET_VERSION),
                h2::frame(h2::RST_STREAM, 0, id, &[0, 0, 0, 8]),
            ]
            .concat()
        })
        .collect();
    let endless = [
        h2::frame(h2::HEADERS, 1, 1, h2::GET_VERSION),
        h2::frame(h2::CONTINUATION, 0, 1, &b"\x40\x01a\x01b".repeat(3000)).repeat(500),
    ]
    .concat();
    let settings = h2::frame(h2::SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 1].repeat(2000)).repeat(300);
    let followers: Vec<u8> =
        ids().take(1000).flat_map(|id| h2::frame(h2::HEADERS, h2::END, id, h2::FOLLOW)).collect();
    let large = h2::frame(h2::HEADERS, h2::END, 1, &b"\x40\x01a\x7f\x00".repeat(10));
    for (what, bytes) in [
        ("rapid reset", reset),
        ("headers without end", endless),
        ("settings", settings),
        ("pings", h2::frame(h2::PING, 0, 0, &[7; 8]).repeat(100_000)),
        ("streams", opened(5000)),
        ("followers without a window", followers),
        ("a frame of 16 MiB", vec![0xff; 100_000]),
        ("a stream of the other side", h2::frame(h2::HEADERS, h2::END, 2, h2::GET_VERSION)),
        ("a block that is none", large),
        ("only the preface", Vec::new()),
    ] {
        // No window: nothing that is asked for can be sent.
        let mut stream = h2::connect(&c.socket(), &[0, 4, 0, 0, 0, 0]);
        stream.set_nonblocking(false).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
        let _ = stream.write_all(&bytes);
        serves(&c, what);
    }
    let grew = rss(pid(&c)).saturating_sub(memory);
    assert!(grew < 128 << 20, "{grew} bytes more");
}

#[test]
fn ten_thousand_silent_connections_keep_nobody_out() {
    const NAME: &str = "ten_thousand_silent_connections_keep_nobody_out";
    const MANY: usize = 10_000;
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let now = getrlimit(Resource::Nofile);
    let wanted = MANY as u64 + 500;
    if now.maximum.is_some_and(|most| most < wanted) {
        return skip(NAME, &format!("at most {:?} open files are allowed here", now.maximum));
    }
    // For this process: the coordinator never holds more than a thousand.
    let current = Some(now.current.unwrap_or(wanted).max(wanted));
    setrlimit(Resource::Nofile, Rlimit { current, maximum: now.maximum }).unwrap();
    let c = Coordinator::start("127.0.0.1:0");
    serves(&c, "the start");
    let memory = rss(pid(&c));
    let mut silent = Vec::with_capacity(MANY);
    for n in 0..MANY {
        silent.push(UnixStream::connect(c.socket()).unwrap());
        if n % 2500 == 2499 {
            serves(&c, &format!("{n} silent connections"));
        }
    }
    serves(&c, "ten thousand silent connections");
    let grew = rss(pid(&c)).saturating_sub(memory);
    assert!(grew < 128 << 20, "{grew} bytes more");
}
