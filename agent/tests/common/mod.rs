//! A rig for the tests of a real keeper: starts one, plays its agent, and ends every process of both at the end.
#![allow(dead_code, unreachable_pub, reason = "every test binary uses its own part of the rig")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::large_stack_arrays,
    reason = "test code: a panic is the report"
)]
use reeve_protocol::frame::{self, Frame, Reader};
use reeve_protocol::ids::{AttemptId, TaskId};
use reeve_protocol::tape::{Decoder, STDERR, STDOUT};
use reeve_protocol::wire::{Finished, Forget, Limits, Start, Started, kind};
use reeve_protocol::{Cause, guardian};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a fact may take on a machine that is busy.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub struct Rig {
    pub root: PathBuf,
    keeper: Option<Child>,
    stream: UnixStream,
    reader: Reader,
    next_job: u64,
    _dir: tempfile::TempDir,
}

/// Milliseconds of the boot-time clock.
pub fn boot_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
}

impl Rig {
    pub fn new() -> Self {
        Self::with(|_| Vec::new())
    }

    /// With more arguments for its keeper, made of the runtime directory.
    pub fn with(arguments: impl Fn(&Path) -> Vec<String>) -> Self {
        Self::with_env(arguments, |_| Vec::new())
    }

    /// The same, with variables in its environment.
    pub fn with_env(
        arguments: impl Fn(&Path) -> Vec<String>,
        variables: impl Fn(&Path) -> Vec<(String, String)>,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Longer than a socket's address may be.
        let root = dir.path().join("d".repeat(60)).join("e".repeat(60)).join("rt");
        std::fs::create_dir_all(&root).unwrap();
        let arguments = arguments(&root);
        let keeper = spawn_keeper_with(&root, 60, &arguments, variables(&root));
        let (stream, reader) = connect(&root);
        let mut rig = Self { root, keeper: Some(keeper), stream, reader, next_job: 1, _dir: dir };
        rig.limits(4000);
        rig
    }

    pub fn limits(&mut self, cpu_milli: u32) {
        self.say_limits(cpu_milli, 0);
    }

    /// Says up to when the coordinator has heard this machine.
    pub fn heard(&mut self, boot_ms: u64) {
        self.say_limits(4000, boot_ms);
    }

    fn say_limits(&mut self, cpu_milli: u32, heard_boot_ms: u64) {
        let limits = Limits { cpu_milli, memory_bytes: 1 << 40, machine: "m1".into(), heard_boot_ms };
        self.send(kind::LIMITS, &limits);
    }

    /// Another connection to the keeper.
    pub fn visit(&self) -> UnixStream {
        connect(&self.root).0
    }

    /// Whether the keeper closes this connection.
    pub fn is_replaced(&mut self) -> bool {
        let mut rest = Vec::new();
        self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        self.stream.read_to_end(&mut rest).is_ok()
    }

    pub fn keeper_pid(&self) -> u32 {
        self.keeper.as_ref().unwrap().id()
    }

    /// Children of the keeper with this name.
    fn named(&self, name: &str) -> Vec<u32> {
        let keeper = self.keeper_pid();
        let all = std::fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children")).unwrap();
        let is_it = |pid: &u32| {
            std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name)
        };
        all.split_whitespace().map(|pid| pid.parse().unwrap()).filter(is_it).collect()
    }

    /// The guardians that the keeper has had made.
    pub fn guardians(&self) -> Vec<u32> {
        self.named("reeve-guardian")
    }

    /// What forks its guardians. A guardian that was just born still has its name.
    pub fn zygote(&self) -> u32 {
        until("there is a zygote", || match self.named("reeve-zygote")[..] {
            [pid] => Some(pid),
            _ => None,
        })
    }

    /// Kills the keeper, as a full memory would.
    pub fn kill_keeper(&mut self) {
        let mut keeper = self.keeper.take().unwrap();
        keeper.kill().unwrap();
        keeper.wait().unwrap();
    }

    pub fn start_keeper(&mut self) {
        self.keeper = Some(spawn_keeper(&self.root, 60));
        self.reconnect();
    }

    pub fn send<T: Serialize>(&mut self, kind: u16, body: &T) {
        let mut out = Vec::new();
        frame::append(kind, 0, body, &mut out).unwrap();
        self.stream.write_all(&out).unwrap();
    }

    /// Bytes as they are.
    pub fn send_raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// The agent comes back, after another connection has taken its place.
    pub fn reconnect(&mut self) {
        (self.stream, self.reader) = connect(&self.root);
        self.limits(4000);
    }

    pub fn next(&mut self) -> Frame {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(frame) = self.reader.next_frame().unwrap() {
                return frame;
            }
            let mut buffer = [0; 65536];
            self.stream
                .set_read_timeout(Some(end.saturating_duration_since(Instant::now()).max(ONE)))
                .unwrap();
            let n = self.stream.read(&mut buffer).expect("the keeper says something in time");
            assert!(n > 0, "the keeper has closed the connection");
            self.reader.feed(&buffer[..n]);
        }
    }

    /// The next frame of a kind; others before it are skipped.
    pub fn expect<T: DeserializeOwned>(&mut self, kind: u16) -> T {
        loop {
            let frame = self.next();
            if frame.kind == kind {
                return frame.decode().unwrap();
            }
        }
    }

    pub fn job(&mut self, command: &[&str]) -> Start {
        self.next_job += 1;
        Start {
            attempt: TaskId::single(self.next_job).attempt(1),
            lineage: "l1".into(),
            command: command.iter().map(|s| (*s).to_owned()).collect(),
            cwd: Some("/".into()),
            owner_uid: rustix::process::getuid().as_raw(),
            owner: "root".into(),
            cpu_milli: 1000,
            grace_ms: 15_000,
            output_cap: 64 << 20,
            ..Start::default()
        }
    }

    pub fn clone_with_new_id(&mut self, start: &Start) -> Start {
        self.next_job += 1;
        Start { attempt: TaskId::single(self.next_job).attempt(1), ..start.clone() }
    }

    pub fn sh(&mut self, script: &str) -> Start {
        self.job(&["sh", "-c", script])
    }

    pub fn start(&mut self, start: &Start) -> Started {
        self.send(kind::START, start);
        self.expect(kind::STARTED)
    }

    pub fn finish(&mut self, attempt: AttemptId) -> Finished {
        loop {
            let finished: Finished = self.expect(kind::FINISHED);
            if finished.attempt == attempt {
                return finished;
            }
        }
    }

    pub fn run(&mut self, start: &Start) -> Finished {
        self.send(kind::START, start);
        self.finish(start.attempt)
    }

    pub fn cause(&mut self, start: &Start) -> Cause {
        Cause::from_wire(self.run(start).cause)
    }

    pub fn forget(&mut self, attempt: AttemptId) {
        self.send(kind::FORGET, &Forget { attempts: vec![attempt] });
    }

    /// Whether files of the attempt are left.
    pub fn has_files(&self, attempt: AttemptId) -> bool {
        let name = attempt.file_name();
        [format!("g/{name}"), format!("spool/l1/{name}")].iter().any(|path| self.root.join(path).exists())
    }

    pub fn guardian(&self, attempt: AttemptId) -> GuardianLink {
        GuardianLink::connect(&self.root, attempt)
    }
}

const ONE: Duration = Duration::from_millis(1);

impl Drop for Rig {
    fn drop(&mut self) {
        if let Some(mut keeper) = self.keeper.take() {
            let _ = keeper.kill();
            let _ = keeper.wait();
        }
        for pid in processes_with(&self.root) {
            let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

/// Whoever carries the directory in its arguments or environment: keepers, guardians and commands.
pub fn processes_with(root: &Path) -> Vec<u32> {
    let mark = root.to_str().unwrap().as_bytes();
    let has = |path: String| {
        std::fs::read(path).is_ok_and(|text| text.windows(mark.len()).any(|window| window == mark))
    };
    std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| has(format!("/proc/{pid}/cmdline")) || has(format!("/proc/{pid}/environ")))
        .collect()
}

pub fn spawn_keeper(root: &Path, linger_s: u32) -> Child {
    spawn_keeper_with(root, linger_s, &[], Vec::new())
}

fn spawn_keeper_with(
    root: &Path,
    linger_s: u32,
    arguments: &[String],
    variables: Vec<(String, String)>,
) -> Child {
    Command::new(env!("CARGO_BIN_EXE_reeve-agent"))
        .args(["keeper", "--allow-root", "--linger-s", &linger_s.to_string(), "--dir"])
        .arg(root)
        .args(arguments)
        .envs(variables)
        .stdin(Stdio::null())
        .spawn()
        .unwrap()
}

fn connect(root: &Path) -> (UnixStream, Reader) {
    let dir = std::fs::File::open(root).unwrap();
    let path = format!("/proc/self/fd/{}/keeper.sock", std::os::fd::AsRawFd::as_raw_fd(&dir));
    let stream = until("the keeper answers", || UnixStream::connect(&path).ok());
    (stream, Reader::new())
}

/// Waits for a fact.
pub fn until<T>(what: &str, mut fact: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = fact() {
            return found;
        }
        assert!(Instant::now() < end, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether a process is there and no zombie.
pub fn lives(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat[stat.rfind(')').unwrap()..].starts_with(") Z"))
}

/// Output and error of a tape, and what is missing.
pub fn decoded(tape: &[u8]) -> (Vec<u8>, Vec<u8>, u64) {
    let (mut out, mut err, mut missing) = (Vec::new(), Vec::new(), 0);
    let mut decoder = Decoder::default();
    for record in decoder.feed(tape) {
        match record.stream {
            STDOUT => out.extend(record.bytes),
            STDERR => err.extend(record.bytes),
            _ => missing += record.gap().unwrap(),
        }
    }
    assert!(!decoder.is_damaged());
    (out, err, missing)
}

pub fn stdout(finished: &Finished) -> String {
    String::from_utf8(decoded(&finished.output).0).unwrap()
}

/// A connection to a guardian, as agents make it.
pub struct GuardianLink {
    pub stream: UnixStream,
    reader: Reader,
}

impl GuardianLink {
    pub fn connect(root: &Path, attempt: AttemptId) -> Self {
        let mut link = Self::raw(root, attempt);
        let nonce = std::fs::read_to_string(root.join("nonce")).unwrap();
        link.send(guardian::kind::HELLO, &guardian::Hello { nonce });
        link
    }

    /// Without a Hello.
    pub fn raw(root: &Path, attempt: AttemptId) -> Self {
        let dir = std::fs::File::open(root.join("g")).unwrap();
        let path = format!("/proc/self/fd/{}/{}", std::os::fd::AsRawFd::as_raw_fd(&dir), attempt.file_name());
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { stream, reader: Reader::new() }
    }

    pub fn send<T: Serialize>(&mut self, kind: u16, body: &T) {
        let mut out = Vec::new();
        frame::append(kind, 0, body, &mut out).unwrap();
        self.stream.write_all(&out).unwrap();
    }

    pub fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.reader.next_frame().unwrap() {
                return Some(frame);
            }
            let mut buffer = [0; 65536];
            let n = self.stream.read(&mut buffer).ok()?;
            if n == 0 {
                return None;
            }
            self.reader.feed(&buffer[..n]);
        }
    }

    pub fn state(&mut self) -> guardian::State {
        loop {
            let frame = self.next().unwrap();
            if frame.kind == guardian::kind::STATE {
                return frame.decode().unwrap();
            }
        }
    }

    /// The whole tape, from the beginning to the end of the attempt.
    pub fn tape(&mut self) -> Vec<u8> {
        let (mut all, mut from) = (Vec::new(), 0);
        loop {
            self.send(guardian::kind::OUTPUT, &guardian::Output { from, bytes: Vec::new(), end: false });
            let output: guardian::Output = loop {
                let frame = self.next().unwrap();
                if frame.kind == guardian::kind::OUTPUT {
                    break frame.decode().unwrap();
                }
            };
            from = output.from + output.bytes.len() as u64;
            all.extend(output.bytes);
            if output.end {
                return all;
            }
        }
    }
}
