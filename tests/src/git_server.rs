//! A web server for repositories: `git http-backend` behind a few lines of HTTP, with faults to order. It counts what it is
//! asked, since that is the only honest way to know how often somebody fetched.
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How the server behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Well.
    None,
    /// Answers everything with this status.
    Status(u16),
    /// Wants the password `ana:secret`, and answers 401 without it.
    Password,
    /// Sends everybody to this scheme.
    Redirect(&'static str),
    /// Breaks off in the middle of a pack.
    Truncate,
    /// Takes the request and says nothing, until it behaves otherwise.
    Hang,
}

struct Shared {
    root: PathBuf,
    fault: Mutex<Fault>,
    fetches: AtomicUsize,
    listings: AtomicUsize,
    ended: AtomicBool,
}

/// A server, until it is dropped.
pub struct GitServer {
    shared: Arc<Shared>,
    port: u16,
}

impl GitServer {
    /// Serves every repository below `root`.
    pub fn start(root: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            root: root.to_path_buf(),
            fault: Mutex::new(Fault::None),
            fetches: AtomicUsize::new(0),
            listings: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
        });
        let served = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if served.ended.load(Ordering::Acquire) {
                    return;
                }
                let shared = served.clone();
                // A client that leaves early is no affair of the test.
                std::thread::spawn(move || drop(serve(&shared, stream)));
            }
        });
        Self { shared, port }
    }

    /// The URL of a repository below the root.
    pub fn url(&self, name: &str) -> String {
        format!("http://127.0.0.1:{}/{name}", self.port)
    }

    /// Changes how it behaves from now on.
    pub fn set(&self, fault: Fault) {
        *self.shared.fault.lock().unwrap() = fault;
    }

    /// Packs that were asked for so far.
    pub fn fetches(&self) -> usize {
        self.shared.fetches.load(Ordering::Acquire)
    }

    /// Times somebody asked what a ref names.
    pub fn listings(&self) -> usize {
        self.shared.listings.load(Ordering::Acquire)
    }
}

impl Drop for GitServer {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Release);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

/// One request per connection.
fn serve(shared: &Shared, stream: TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split(' ');
    let (method, target) = (words.next().unwrap_or("").to_owned(), words.next().unwrap_or("").to_owned());
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        match line.trim_end().split_once(": ") {
            Some((name, value)) => headers.insert(name.to_ascii_lowercase(), value.to_owned()),
            None => break,
        };
    }
    let header = |name: &str| headers.get(name).cloned().unwrap_or_default();
    let body = read_body(&mut reader, &header("content-length"), &header("transfer-encoding"))?;
    let fault = *shared.fault.lock().unwrap();
    match fault {
        Fault::Status(status) => return answer(&mut stream, status, ""),
        Fault::Password if header("authorization") != "Basic YW5hOnNlY3JldA==" => {
            return answer(&mut stream, 401, "WWW-Authenticate: Basic realm=\"r\"\r\n");
        }
        Fault::Redirect(to) => return answer(&mut stream, 301, &format!("Location: {to}{target}\r\n")),
        Fault::Hang => {
            while !shared.ended.load(Ordering::Acquire) && *shared.fault.lock().unwrap() == Fault::Hang {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        Fault::None | Fault::Password | Fault::Truncate => {}
    }
    if shared.ended.load(Ordering::Acquire) {
        return Ok(());
    }
    let has = |word: &str| {
        unpacked(&body, &header("content-encoding")).windows(word.len()).any(|w| w == word.as_bytes())
    };
    if has("command=fetch") {
        shared.fetches.fetch_add(1, Ordering::AcqRel);
    } else if has("command=ls-refs") {
        shared.listings.fetch_add(1, Ordering::AcqRel);
    }
    if let Some((_, object)) = target.split_once("/info/lfs/objects/") {
        return large_file(shared, &mut stream, object, &header("host"), &body);
    }
    let said = backend(shared, &method, &target, &headers, &body)?;
    let said = if fault == Fault::Truncate && has("command=fetch") {
        &said[..said.len() * 2 / 3]
    } else {
        &said[..]
    };
    let end = said.windows(4).position(|w| w == b"\r\n\r\n").unwrap_or(0);
    let head = String::from_utf8_lossy(&said[..end]).into_owned();
    let status = head.lines().find_map(|l| l.strip_prefix("Status: ")).unwrap_or("200 OK").to_owned();
    let length = if fault == Fault::Truncate { said.len() * 2 } else { said.len() - end - 4 };
    write!(stream, "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n{head}\r\n\r\n")?;
    stream.write_all(&said[end + 4..])
}

fn read_body(reader: &mut impl BufRead, length: &str, encoding: &str) -> std::io::Result<Vec<u8>> {
    let mut body = Vec::new();
    if encoding.contains("chunked") {
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let size = u64::from_str_radix(line.trim(), 16).unwrap_or(0);
            reader.by_ref().take(size).read_to_end(&mut body)?;
            reader.read_line(&mut line)?;
            if size == 0 {
                return Ok(body);
            }
        }
    }
    reader.take(length.parse().unwrap_or(0)).read_to_end(&mut body)?;
    Ok(body)
}

/// Git packs long requests with gzip.
fn unpacked(body: &[u8], encoding: &str) -> Vec<u8> {
    if encoding != "gzip" {
        return body.to_vec();
    }
    let mut gzip =
        Command::new("gzip").arg("-dc").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut stdin, bytes) = (gzip.stdin.take().unwrap(), body.to_vec());
    let writer = std::thread::spawn(move || stdin.write_all(&bytes));
    let output = gzip.wait_with_output().unwrap();
    let _ = writer.join();
    output.stdout
}

fn answer(stream: &mut TcpStream, status: u16, headers: &str) -> std::io::Result<()> {
    write!(stream, "HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: 0\r\n{headers}\r\n")
}

/// What Git LFS asks: where objects are, then each of them. They are the files of `lfs` below the root.
fn large_file(
    shared: &Shared,
    stream: &mut TcpStream,
    object: &str,
    host: &str,
    body: &[u8],
) -> std::io::Result<()> {
    let place = shared.root.join("lfs");
    if object != "batch" {
        let Ok(bytes) = std::fs::read(place.join(object)) else { return answer(stream, 404, "") };
        let head = "Connection: close\r\nContent-Type: application/octet-stream";
        write!(stream, "HTTP/1.1 200 OK\r\n{head}\r\nContent-Length: {}\r\n\r\n", bytes.len())?;
        return stream.write_all(&bytes);
    }
    let asked: serde_json::Value = serde_json::from_slice(body)?;
    let objects = asked["objects"].as_array().cloned().unwrap_or_default();
    let answers = objects.iter().map(|object| {
        let (oid, size) = (object["oid"].as_str().unwrap_or(""), &object["size"]);
        if !place.join(oid).is_file() {
            return serde_json::json!({"oid": oid, "size": size, "error": {"code": 404, "message": "not here"}});
        }
        let href = format!("http://{host}/r/info/lfs/objects/{oid}");
        serde_json::json!({"oid": oid, "size": size, "actions": {"download": {"href": href}}})
    });
    let said = serde_json::json!({"transfer": "basic", "objects": answers.collect::<Vec<_>>()}).to_string();
    let head = "Connection: close\r\nContent-Type: application/vnd.git-lfs+json";
    write!(stream, "HTTP/1.1 200 OK\r\n{head}\r\nContent-Length: {}\r\n\r\n{said}", said.len())
}

fn backend(
    shared: &Shared,
    method: &str,
    target: &str,
    headers: &HashMap<String, String>,
    body: &[u8],
) -> std::io::Result<Vec<u8>> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let header = |name: &str| headers.get(name).map_or("", String::as_str);
    let mut command = Command::new("git");
    command
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", &shared.root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("REQUEST_METHOD", method)
        .env("PATH_INFO", path)
        .env("QUERY_STRING", query)
        .env("CONTENT_TYPE", header("content-type"))
        .env("CONTENT_LENGTH", body.len().to_string())
        .env("HTTP_CONTENT_ENCODING", header("content-encoding"))
        .env("GIT_PROTOCOL", header("git-protocol"))
        .env("REMOTE_USER", "ana")
        .env("GIT_CONFIG_GLOBAL", "/dev/null");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let (mut stdin, bytes) = (child.stdin.take().unwrap(), body.to_vec());
    let writer = std::thread::spawn(move || stdin.write_all(&bytes));
    let output = child.wait_with_output()?;
    let _ = writer.join();
    Ok(output.stdout)
}
