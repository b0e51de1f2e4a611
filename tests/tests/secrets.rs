//! Where secrets and users' data are, and where they are not: found by searching every byte that the daemons leave.
//!
//! *Keys and token secrets* stand in their own files alone. *What users give a job* (arguments, environment, payload,
//! standard input) is in the store, in the job as the API shows it, in the machine's work directory and in the job's own
//! process; what a job prints is in the store, segments and spools. None of it is in a log at any level, in an event, a
//! metric, an error, or a command line or environment of a daemon.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]
use reeve_protocol::token::{Token, random_hex};
use reeve_tests::machine::{Agent, Coordinator, Daemon, agent, join};
use reeve_tests::{binary, eventually, http, skip};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Every regular file below.
fn files(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    entries
        .filter_map(Result::ok)
        .flat_map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => files(&entry.path()),
            Ok(kind) if kind.is_file() => vec![entry.path()],
            _ => Vec::new(),
        })
        .collect()
}

fn contains(bytes: &[u8], canary: &[u8]) -> bool {
    bytes.windows(canary.len()).any(|window| window == canary)
}

/// The files below in which something stands, as it is or in hexadecimal.
fn found_in(dir: &Path, canary: &[u8]) -> Vec<PathBuf> {
    let hex: String = canary.iter().map(|b| format!("{b:02x}")).collect();
    let is_in = |path: &PathBuf| {
        let bytes = std::fs::read(path).unwrap_or_default();
        contains(&bytes, canary) || contains(&bytes, hex.as_bytes())
    };
    files(dir).into_iter().filter(is_in).collect()
}

/// Processes of the daemons below a directory: whose program is one of ours and whose words name the directory.
fn daemons(dir: &Path) -> Vec<u32> {
    let pids = std::fs::read_dir("/proc").unwrap().filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let program = line.split(|b| *b == 0).next().unwrap_or_default();
        String::from_utf8_lossy(program).rsplit('/').next().is_some_and(|name| name.starts_with("reeve-"))
            && contains(&line, dir.to_string_lossy().as_bytes())
    })
    .collect()
}

/// A machine that was started in its own way.
fn running(dir: PathBuf, daemon: Daemon) -> Agent {
    let mut agent = Agent::existing(&dir);
    agent.daemon = Some(daemon);
    agent
}

/// A cluster that logs all it can.
fn talkative() -> (Coordinator, Agent, String) {
    let mut coordinator = Coordinator::start("127.0.0.1:0");
    let _ = coordinator.stop();
    let command = coordinator.command(&["run", "--listen", "127.0.0.1:0", "--log", "trace"]);
    coordinator.daemon = Some(Daemon::spawn(command, &coordinator.dir.path().join("log")));
    let socket = coordinator.socket();
    eventually("the coordinator answers", || std::os::unix::net::UnixStream::connect(&socket).ok());
    let token = coordinator.token();
    let dir = coordinator.dir.path().join("box");
    std::fs::create_dir(&dir).unwrap();
    let joined = join(&dir, &[], "box", &token);
    assert!(joined.status.success(), "{}", words(&joined));
    let config = dir.join("agent.toml");
    std::fs::write(&config, "allow_root = true\n").unwrap();
    let mut command = agent(&dir.join("state"), &["run", "--config", config.to_str().unwrap()]);
    command.env("REEVE_LOG", "trace");
    let daemon = Daemon::spawn(command, &dir.join("log"));
    let agent = running(dir, daemon);
    eventually("the machine to be up", || (coordinator.machine("box")["state"] == "up").then_some(()));
    (coordinator, agent, token)
}

/// Wrong ways to use tokens: again, with another secret, damaged. None repeats a secret.
fn refuse_tokens(token: &Token, unused: &Token) {
    let dir = tempfile::tempdir().unwrap();
    for wrong in [
        token.to_string(),
        Token { secret: random_hex(16), ..unused.clone() }.to_string(),
        unused.to_string().replace(&unused.ca_hash, "00"),
    ] {
        let refused = join(dir.path(), &[], "other", &wrong);
        assert!(!refused.status.success());
        for secret in [&token.secret, &unused.secret] {
            assert!(!words(&refused).contains(secret.as_str()), "{}", words(&refused));
        }
    }
}

#[test]
fn no_secret_is_where_it_does_not_belong() {
    let (c, machine, token) = talkative();
    let base = c.dir.path();
    let token: Token = token.parse().unwrap();
    let unused: Token = c.token().parse().unwrap();
    let scratch = tempfile::tempdir().unwrap();
    refuse_tokens(&token, &unused);
    let canaries: Vec<(&str, String)> = ["argv", "env", "payload", "stdin", "output", "label", "result"]
        .into_iter()
        .map(|what| (what, format!("canary-{what}-{}", random_hex(12))))
        .collect();
    let of = |what: &str| canaries.iter().find(|(name, _)| *name == what).unwrap().1.clone();
    let (go, large) = (scratch.path().join("go"), of("output"));
    let script = format!(
        "cat >/dev/null; printf '%s\\n' {large}; seq 1 20000; printf '{{\"r\":\"{}\"}}' > $REEVE_RESULT; until test -e {}; do sleep 0.05; done",
        of("result"),
        go.display()
    );
    let spec = json!({
        "command": ["sh", "-c", script, of("argv")], "env": {"SECRET": of("env")}, "payload": {"p": of("payload")},
        "stdin": of("stdin"), "labels": {"l": of("label")},
    });
    let answer = http::post(&c.socket(), "/v1/jobs", &spec.to_string());
    assert_eq!(answer.status, 201, "{}", answer.text());
    eventually("the job to run", || (c.job("1")["state"] == "RUNNING").then_some(()));

    let ours = daemons(base);
    assert!(ours.len() >= 3, "coordinator, agent, keeper and a guardian: {ours:?}");
    let all: Vec<String> = canaries
        .iter()
        .map(|(_, text)| text.clone())
        .chain([token.secret.clone(), unused.secret.clone()])
        .collect();
    for pid in &ours {
        for file in ["cmdline", "environ"] {
            let bytes = std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            for canary in &all {
                assert!(!contains(&bytes, canary.as_bytes()), "{canary} in {file} of {pid}");
            }
        }
    }
    std::fs::write(&go, "").unwrap();
    let job = eventually("the job to end", || Some(c.job("1")).filter(|job| job["state"] == "COMPLETED"));
    assert_eq!(job["result"]["r"], of("result"));
    // Requests that are refused do not repeat what they carried, and every kind of answer but the job's own is clean.
    let mut broken = spec.clone();
    broken["timeout_s"] = json!(-1);
    let refusal = http::post(&c.socket(), "/v1/jobs", &broken.to_string());
    assert_eq!(refusal.code(), "out-of-range");
    let shown: String = ["/v1/events?from=0", "/metrics", "/v1/stats", "/v1/machines", "/v1/health"]
        .into_iter()
        .map(|path| http::get(&c.socket(), path).text())
        .chain([refusal.text()])
        .collect();
    let logs = c.log()
        + &machine.log()
        + &std::fs::read_to_string(machine.dir.join("state/run/keeper.log")).unwrap_or_default();
    assert!(logs.contains("DEBUG") || logs.contains("TRACE"), "else this proves little");
    for canary in &all {
        assert!(!shown.contains(canary), "{canary} is shown");
        assert!(!logs.contains(canary), "{canary} is logged");
    }
    assert!(!logs.contains('\u{1b}'), "logs are plain");

    users_data_is_in_the_store_alone(&c, &canaries);
    keys_are_in_their_files_alone(&c, &machine, &token, &unused);
}

/// Users' data in the coordinator: where it is documented, and nowhere else.
fn users_data_is_in_the_store_alone(c: &Coordinator, canaries: &[(&str, String)]) {
    for (what, canary) in canaries {
        let places = found_in(&c.data(), canary.as_bytes());
        let outside: Vec<_> = places
            .iter()
            .filter(|path| {
                let path = path.to_string_lossy();
                !path.contains("reeve.db") && !path.contains("/output/")
            })
            .collect();
        assert!(!places.is_empty(), "{what} is kept");
        assert!(outside.is_empty(), "{what} is in {outside:?}");
    }
}

fn keys_are_in_their_files_alone(c: &Coordinator, machine: &Agent, token: &Token, unused: &Token) {
    // The private number of an EC key in PKCS#8: 32 bytes behind an octet string's head inside ECPrivateKey.
    let scalar = |der: &[u8]| {
        let at = der.windows(5).position(|w| w == [0x02, 0x01, 0x01, 0x04, 0x20]).expect("an EC key") + 5;
        der[at..at + 32].to_vec()
    };
    for name in ["ca.key", "server.key"] {
        let path = c.data().join("ca").join(name);
        let key = scalar(&std::fs::read(&path).unwrap());
        assert_eq!(found_in(c.dir.path(), &key), [path], "{name}");
    }
    // The machine's key is text: no line of it stands anywhere else.
    let pem = std::fs::read_to_string(machine.dir.join("state/machine.pem")).unwrap();
    let line = pem.lines().nth(1).unwrap();
    assert_eq!(found_in(c.dir.path(), line.as_bytes()), [machine.dir.join("state/machine.pem")]);
    // Of tokens the store has hashes; the test's own file has the one it was told.
    for secret in [&token.secret, &unused.secret] {
        let places = found_in(c.dir.path(), secret.as_bytes());
        assert!(places.iter().all(|path| *path == machine.dir.join("token")), "{places:?}");
    }
    for path in
        [c.data().join("ca/ca.key"), c.data().join("ca/server.key"), machine.dir.join("state/machine.pem")]
    {
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o077, 0, "{}", path.display());
    }
}

#[test]
fn words_of_strangers_reach_no_log_and_no_terminal_as_they_are() {
    let (c, machine, _) = talkative();
    let nasty = "\u{1b}[2J\u{1b}]0;owned\u{7}\u{202e}\n2026-01-01T00:00:00Z ERROR forged";
    let named = join(&machine.dir, &[], nasty, &c.token());
    assert!(!named.status.success(), "it has joined already");
    let other = tempfile::tempdir().unwrap();
    let joined = join(other.path(), &[], nasty, &c.token());
    assert!(joined.status.success(), "a name that cannot be used is replaced: {}", words(&joined));
    let list = c.reeve(&["machine", "ls"]);
    let mut said = vec![words(&named), words(&joined), String::from_utf8(list.stdout).unwrap()];
    for words_of in [
        vec!["submit", "--name", nasty, "--", "true"],
        vec!["show", nasty],
        vec!["ls", "-f", nasty],
        vec!["queue", "show", nasty],
        vec!["machine", "show", nasty],
        vec!["submit", "--wait", "--cwd", "/\u{1b}[2Jnowhere", "--", "true"],
        vec!["show", "last"],
        vec!["submit", "--run-as", nasty, "--", "true"],
        vec![nasty],
    ] {
        let output = c.reeve(&words_of);
        said.push(words(&output) + &String::from_utf8_lossy(&output.stdout));
    }
    for text in &said {
        assert!(!text.contains(['\u{1b}', '\u{7}', '\u{202e}']), "{text:?}");
    }
    for log in [c.log(), machine.log()] {
        assert!(!log.contains(['\u{1b}', '\u{7}', '\u{202e}']), "{log:?}");
        assert!(
            !log.lines().any(|line| line.contains("ERROR forged") && line.starts_with("2026-01-01")),
            "{log}"
        );
    }
}

#[test]
fn a_daemon_with_keys_leaves_no_core_dump() {
    const NAME: &str = "a_daemon_with_keys_leaves_no_core_dump";
    let dir = tempfile::tempdir().unwrap();
    let control = Command::new("sh")
        .args(["-c", "ulimit -c unlimited && kill -ABRT $$"])
        .current_dir(dir.path())
        .status()
        .unwrap();
    if !control.core_dumped() {
        return skip(NAME, "core dumps are off on this machine, so their absence proves nothing");
    }
    let (mut c, mut machine, _) = talkative();
    let _ = c.stop();
    machine.daemon = None;
    let aborted = |inner: Command, is_up: &dyn Fn() -> bool| {
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -c unlimited && exec \"$0\" \"$@\""]);
        command.arg(inner.get_program()).args(inner.get_args()).current_dir(dir.path());
        let said = dir.path().join("said");
        let mut child = command.stderr(std::fs::File::create(&said).unwrap()).spawn().unwrap();
        let has_spoken = || std::fs::metadata(&said).is_ok_and(|file| file.len() > 0);
        eventually("the daemon to work", || (has_spoken() && is_up()).then_some(()));
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::ABORT).unwrap();
        let status = child.wait().unwrap();
        assert!(status.signal() == Some(6) && !status.core_dumped(), "{status:?}");
    };
    let socket = c.socket();
    let answers = || std::os::unix::net::UnixStream::connect(&socket).is_ok();
    aborted(c.command(&["run", "--listen", "127.0.0.1:0"]), &answers);
    let agent = agent(&machine.dir.join("state"), &["run"]);
    // It says that nobody answers, and goes on.
    aborted(agent, &|| true);
}

/// A machine whose keeper is of this user, or of root without leave to run anything as root.
fn machine_of(c: &Coordinator, name: &str, uid: Option<u32>) -> Agent {
    let dir = c.dir.path().join(name);
    std::fs::create_dir(&dir).unwrap();
    let file = dir.join("token");
    std::fs::write(&file, c.token()).unwrap();
    let as_user = |mut command: Command| {
        if let Some(uid) = uid {
            command.uid(uid).gid(uid).env("HOME", &dir);
        }
        command
    };
    if let Some(uid) = uid {
        std::os::unix::fs::chown(&dir, Some(uid), Some(uid)).unwrap();
        std::os::unix::fs::chown(&file, Some(uid), Some(uid)).unwrap();
    }
    let state = dir.join("state");
    let words_of = ["join", "--name", name, "--token-file", file.to_str().unwrap()];
    let joined = as_user(agent(&state, &words_of)).output().unwrap();
    assert!(joined.status.success(), "{}", words(&joined));
    let log = dir.join("log");
    let daemon = Daemon::spawn(as_user(agent(&state, &["run"])), &log);
    eventually(&format!("{name} to be up"), || (c.machine(name)["state"] == "up").then_some(()));
    running(dir, daemon)
}

/// Submits to a machine; the job when it has ended.
fn ran(c: &Coordinator, machine: &str, run_as: Option<&str>) -> Value {
    let spec = json!({"command": ["id", "-u"], "on": [machine], "run_as": run_as, "cwd": "/"});
    let answer = http::post(&c.socket(), "/v1/jobs", &spec.to_string());
    assert_eq!(answer.status, 201, "{}", answer.text());
    let job = http::get(&c.socket(), &format!("/v1/jobs/{}?wait_s=60", answer.json()["id"])).json();
    assert!(["COMPLETED", "FAILED"].contains(&job["state"].as_str().unwrap()), "{job}");
    job
}

fn is_refused(job: &Value, why: &str) {
    assert_eq!((&job["state"], &job["cause"]["kind"]), (&json!("FAILED"), &json!("rejected")), "{job}");
    assert!(job["cause"]["detail"].as_str().unwrap().contains(why), "{job}");
    assert!(job["attempts"][0]["pid"].as_u64().unwrap_or(0) == 0, "nothing was started: {job}");
}

#[test]
fn a_keeper_runs_nothing_as_a_user_it_should_not() {
    const NAME: &str = "a_keeper_runs_nothing_as_a_user_it_should_not";
    if !rustix::process::geteuid().is_root() {
        return skip(NAME, "changing users needs root");
    }
    let c = Coordinator::start("127.0.0.1:0");
    let root = machine_of(&c, "root", None);
    is_refused(&ran(&c, "root", None), "allow_root");
    is_refused(&ran(&c, "root", Some("root")), "root");
    is_refused(&ran(&c, "root", Some("no-such-user")), "no user");
    let nobody = ran(&c, "root", Some("nobody"));
    assert_eq!(nobody["state"], "COMPLETED", "{nobody}");
    let log = http::get(&c.socket(), &format!("/v1/jobs/{}/logs", nobody["id"])).text();
    assert_eq!(log, "65534\n", "root may name another user");
    // Another user is not heard by the keeper, even where it can reach the socket.
    let keeper = root.dir.join("state/run/keeper.sock");
    for open in [c.dir.path(), root.dir.as_path()] {
        std::fs::set_permissions(open, std::fs::Permissions::from_mode(0o711)).unwrap();
    }
    std::fs::set_permissions(&keeper, std::fs::Permissions::from_mode(0o777)).unwrap();
    let within_reach = Command::new("test").arg("-w").arg(&keeper).uid(65534).gid(65534).status().unwrap();
    assert!(within_reach.success(), "else this proves nothing");
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--http0.9", "-m", "20", "--unix-socket"]).arg(&keeper).arg("http://x/");
    let told = curl.uid(65534).gid(65534).output().unwrap();
    // Closed before, at or after the request: 7, 56, 52. Anything else would have waited or heard a word.
    assert!(matches!(told.status.code(), Some(7 | 52 | 56)) && told.stdout.is_empty(), "{told:?}");
    assert_eq!(ran(&c, "root", Some("nobody"))["state"], "COMPLETED");
    drop(root);

    // A keeper that is not root runs as itself alone.
    let reachable = Command::new(binary("reeve-agent")).arg("--version").uid(65534).gid(65534).output();
    if !reachable.is_ok_and(|output| output.status.success()) {
        return skip(
            NAME,
            "another user cannot reach the binaries here, so a keeper without root is not tried",
        );
    }
    std::fs::set_permissions(c.dir.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
    let _plain = machine_of(&c, "plain", Some(65534));
    for user in ["root", "daemon", "no-such-user"] {
        is_refused(&ran(&c, "plain", Some(user)), "without root");
    }
    let own = ran(&c, "plain", None);
    assert_eq!(own["state"], "COMPLETED", "{own}");
    let log = http::get(&c.socket(), &format!("/v1/jobs/{}/logs", own["id"])).text();
    assert_eq!(log, "65534\n");
}
