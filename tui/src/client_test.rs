//! The client against a server of raw bytes: what it keeps, repeats, streams and gives up.
use super::*;
use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

/// A server that answers each request with the next of these texts; an empty one closes the connection instead.
struct Fake {
    _dir: tempfile::TempDir,
    path: PathBuf,
    connections: Arc<AtomicUsize>,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Fake {
    fn start(answers: Vec<String>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let (connections, requests) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
        let answers = Arc::new(Mutex::new(answers.into_iter().collect::<std::collections::VecDeque<_>>()));
        let (counted, seen) = (connections.clone(), requests.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(stream, answers.clone(), seen.clone()));
            }
        });
        Self { _dir: dir, path, connections, requests }
    }

    fn client(&self) -> Client {
        Client::new(Host::Unix(self.path.clone()))
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

async fn serve(
    mut stream: UnixStream,
    answers: Arc<Mutex<std::collections::VecDeque<String>>>,
    seen: Arc<Mutex<Vec<String>>>,
) {
    while let Some(request) = read_request(&mut stream).await {
        seen.lock().unwrap().push(request);
        let answer = answers.lock().unwrap().pop_front().unwrap_or_default();
        if answer.is_empty() || stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// Head and body, by content-length.
async fn read_request(stream: &mut UnixStream) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        let mut buffer = [0; 4096];
        let read = stream.read(&mut buffer).await.ok().filter(|n| *n > 0)?;
        bytes.extend_from_slice(&buffer[..read]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|l| l.strip_prefix("content-length: "))
                .map_or(0, |l| l.parse().unwrap());
            if body.len() >= length {
                return Some(text);
            }
        }
    }
}

fn answer(status: u16, body: &str) -> String {
    format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

fn chunked(pieces: &[&str]) -> String {
    let body: String =
        pieces.iter().map(|p| format!("{:x}\r\n{p}\r\n", p.len())).collect::<Vec<_>>().concat();
    format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{body}0\r\n\r\n")
}

#[tokio::test]
async fn requests_one_after_the_other_share_a_connection() {
    let fake = Fake::start(vec![answer(200, "1"), answer(200, "2"), answer(201, "3")]);
    let client = fake.client();
    assert!(!client.has_answered());
    assert_eq!(client.get::<u32>("/a").await.unwrap(), 1);
    assert!(client.has_answered());
    assert_eq!(client.post::<_, u32>("/b", &7).await.unwrap(), 2);
    assert_eq!(client.put::<_, u32>("/c", &8).await.unwrap(), 3);
    assert_eq!(fake.connections(), 1);
    let seen = fake.requests.lock().unwrap().clone();
    assert!(seen[0].starts_with("GET /a HTTP/1.1\r\n"), "{seen:?}");
    assert!(seen[1].contains("content-type: application/json") && seen[1].ends_with("\r\n\r\n7"), "{seen:?}");
}

#[tokio::test]
async fn a_busy_connection_gets_a_second_beside_it() {
    let fake = Fake::start(vec![answer(200, "1"), answer(200, "2")]);
    let client = fake.client();
    let (a, b) = tokio::join!(client.get::<u32>("/a"), client.get::<u32>("/b"));
    assert_eq!(a.unwrap() + b.unwrap(), 3);
    assert_eq!(fake.connections(), 2);
}

#[tokio::test]
async fn problems_come_through_and_other_refusals_become_one() {
    let problem = Problem::new(Code::WrongState, "job 7 has ended").hint("restart it");
    let fake =
        Fake::start(vec![answer(409, &serde_json::to_string(&problem).unwrap()), answer(502, "bad gateway")]);
    let client = fake.client();
    assert_eq!(client.get::<u32>("/").await.unwrap_err(), problem);
    let other = client.get::<u32>("/").await.unwrap_err();
    assert!(other.is(Code::Internal) && other.detail.contains("502 bad gateway"), "{other}");
    assert_eq!(fake.connections(), 1);
}

#[tokio::test]
async fn a_change_whose_answer_is_lost_may_have_happened() {
    let fake = Fake::start(vec![String::new()]);
    let problem = fake.client().post::<_, u32>("/", &1).await.unwrap_err();
    assert!(problem.is(Code::Unavailable), "{problem}");
    assert_eq!(problem.outcome, reeve_protocol::error::Outcome::Unknown);
}

#[tokio::test]
async fn a_question_on_a_kept_connection_that_died_is_asked_again() {
    let fake = Fake::start(vec![answer(200, "1"), String::new(), answer(200, "2")]);
    let client = fake.client();
    assert_eq!(client.get::<u32>("/").await.unwrap(), 1);
    assert_eq!(client.get::<u32>("/").await.unwrap(), 2);
    assert_eq!(fake.connections(), 2);
}

#[tokio::test]
async fn an_unexpected_answer_is_a_problem_and_no_panic() {
    let fake = Fake::start(vec![answer(200, "{}"), answer(200, "nonsense"), "rubbish\r\n\r\n".to_owned()]);
    let client = fake.client();
    for _ in 0..3 {
        let problem = client.get::<u32>("/").await.unwrap_err();
        assert!(problem.is(Code::Internal) || problem.is(Code::Unavailable), "{problem}");
    }
}

#[tokio::test]
async fn lines_are_put_together_from_pieces_and_the_connection_is_kept() {
    let fake = Fake::start(vec![chunked(&["{\"a\"", ":1}\n\n{\"a\":2}\n{\"a\"", ":3}"]), answer(200, "1")]);
    let client = fake.client();
    let mut lines = client.lines(Method::GET, "/", None, NDJSON).await.unwrap();
    let mut seen = Vec::new();
    while let Some(line) = lines.next().await {
        seen.push(String::from_utf8(line.unwrap().to_vec()).unwrap());
    }
    assert_eq!(seen, ["{\"a\":1}", "{\"a\":2}", "{\"a\":3}"]);
    assert_eq!(client.get::<u32>("/").await.unwrap(), 1);
    assert_eq!(fake.connections(), 1);
}

#[tokio::test]
async fn a_line_that_is_cut_off_is_reported_and_not_given() {
    let cut = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n6\r\nwhole\n\r\n4\r\nhalf";
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_request(&mut stream).await.unwrap();
        stream.write_all(cut.as_bytes()).await.unwrap();
    });
    let client = Client::new(Host::Unix(path));
    let mut lines = client.lines(Method::GET, "/", None, NDJSON).await.unwrap();
    assert_eq!(lines.next().await.unwrap().unwrap(), "whole");
    assert!(lines.next().await.unwrap().unwrap_err().is(Code::Unavailable));
    assert!(lines.next().await.is_none());
}

#[tokio::test]
async fn nothing_can_be_smuggled_into_a_request() {
    let fake = Fake::start(vec![]);
    let client = fake.client();
    for (path, header) in [("/a b", "x"), ("/a", "x\r\ny: z")] {
        let problem = client.post_with(path, &[("idempotency-key", header)], Bytes::new()).await.unwrap_err();
        assert!(problem.is(Code::BadValue), "{problem}");
    }
    assert!(fake.requests.lock().unwrap().is_empty());
}

#[test]
fn paths_are_escaped_by_bytes() {
    assert_eq!(escape("a/b c?é"), "a%2Fb%20c%3F%C3%A9");
    assert_eq!(escape("@mgr-42"), "@mgr-42");
}
