//! The binary against a server that plays a coordinator: requests, output, exit codes.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

/// What was asked, and with which key.
type Kept = (Arc<Mutex<Vec<(String, String)>>>, Arc<Mutex<Vec<Option<String>>>>);
type Answer = Arc<dyn Fn(&str, &str, &str) -> (u16, String) + Send + Sync>;

/// Answers by `(method, path and query, body)`, and keeps what was asked. Status 0 drops the connection.
struct Fake {
    dir: tempfile::TempDir,
    socket: PathBuf,
    seen: Arc<Mutex<Vec<(String, String)>>>,
    keys: Arc<Mutex<Vec<Option<String>>>>,
}

impl Fake {
    fn start(answer: impl Fn(&str, &str, &str) -> (u16, String) + Send + Sync + 'static) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("coordinator.sock");
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        listener.set_nonblocking(true).unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let keys = Arc::new(Mutex::new(Vec::new()));
        let (kept, answer): (_, Answer) = ((seen.clone(), keys.clone()), Arc::new(answer));
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::UnixListener::from_std(listener).unwrap();
                while let Ok((stream, _)) = listener.accept().await {
                    let (kept, answer) = (kept.clone(), answer.clone());
                    let service = hyper::service::service_fn(move |request| {
                        reply(request, kept.clone(), answer.clone())
                    });
                    tokio::spawn(
                        hyper::server::conn::http1::Builder::new()
                            .serve_connection(TokioIo::new(stream), service),
                    );
                }
            });
        });
        Self { dir, socket, seen, keys }
    }

    fn reeve(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_reeve"));
        command
            .args(words)
            .env_clear()
            .env("REEVE_HOST", &self.socket)
            .current_dir(self.dir.path())
            .stdin(Stdio::null());
        command
    }

    fn run(&self, words: &[&str]) -> Ran {
        self.reeve(words).output().unwrap().into()
    }

    fn asked(&self) -> Vec<String> {
        self.seen.lock().unwrap().iter().map(|(what, _)| what.clone()).collect()
    }

    fn body(&self, at: usize) -> serde_json::Value {
        serde_json::from_str(&self.seen.lock().unwrap()[at].1).unwrap()
    }
}

async fn reply(
    request: Request<Incoming>,
    (seen, keys): Kept,
    answer: Answer,
) -> Result<Response<Full<Bytes>>, Box<dyn std::error::Error + Send + Sync>> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map_or(String::new(), ToString::to_string);
    let body = String::from_utf8(body.collect().await?.to_bytes().to_vec()).unwrap();
    let key = parts.headers.get("idempotency-key").and_then(|value| value.to_str().ok());
    keys.lock().unwrap().push(key.map(str::to_owned));
    seen.lock().unwrap().push((format!("{} {path}", parts.method), body.clone()));
    let (status, text) = answer(parts.method.as_str(), &path, &body);
    if status == 0 {
        return Err("the connection is dropped".into());
    }
    Ok(Response::builder().status(status).body(Full::from(text)).unwrap())
}

#[derive(Debug)]
struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
    }
}

const SUBMITTED: &str = r#"{"id":7,"state":"QUEUED","substate":"waiting","seq":918}"#;

fn job(id: u64, state: &str, cause: &str) -> String {
    format!(
        r#"{{"id":{id},"alias":null,"name":null,"owner":"ana","queue":"default","state":"{state}","substate":null,
        "cause":{cause},"attempt":1,"priority":0,"created_at":"2026-11-24T10:00:00Z","progress":null,"result":null,
        "labels":{{}},"spec":{{"command":["true"]}},"a_field_of_a_newer_version":1}}"#
    )
    .replace('\n', " ")
}

fn problem(code: &str, status: u16) -> (u16, String) {
    let body = format!(
        r#"{{"type":"urn:reeve:problem:{code}","title":"t","status":{status},"detail":"this happened","code":"{code}","hint":"do that","outcome":"rejected"}}"#
    );
    (status, body)
}

fn plan(will_change: u64) -> String {
    format!(
        r#"{{"kind":"BulkPlan","id":5,"action":"cancel","seq":9,"matched":{will_change},"will_change":{will_change},
        "no_change":{{}},"refused":{{}},"sample":[{{"id":7,"name":"train","state":"RUNNING"}}]}}"#
    )
}

#[test]
fn submit_prints_the_id_alone_and_sends_the_directory() {
    let fake = Fake::start(|_, _, _| (201, SUBMITTED.to_owned()));
    let ran = fake.run(&["submit", "--name", "x", "--", "echo", "hi"]);
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (0, "7\n", ""));
    let body = fake.body(0);
    assert_eq!(body["command"], serde_json::json!(["echo", "hi"]));
    assert_eq!(body["cwd"].as_str().map(PathBuf::from), fake.dir.path().canonicalize().ok());
}

#[test]
fn submit_wait_exits_with_the_jobs_own_code() {
    for (state, cause, code) in [
        ("COMPLETED", r#"{"kind":"ok"}"#, 0),
        ("FAILED", r#"{"kind":"exit","code":3}"#, 3),
        ("FAILED", r#"{"kind":"signal","signal":9}"#, 137),
        ("CANCELLED", r#"{"kind":"cancelled"}"#, 143),
        ("FAILED", r#"{"kind":"lost"}"#, 125),
    ] {
        let fake = Fake::start(move |method, _, _| match method {
            "POST" => (201, SUBMITTED.to_owned()),
            _ => (200, job(7, state, cause)),
        });
        let ran = fake.run(&["submit", "--wait", "--", "x"]);
        assert_eq!((ran.code, ran.out.as_str()), (code, "7\n"), "{ran:?}");
        assert!(ran.err.starts_with(&format!("job 7 {state}")) && ran.err.lines().count() == 1, "{ran:?}");
        assert_eq!(fake.asked(), ["POST /v1/jobs", "GET /v1/jobs/7?wait_s=3600"]);
    }
}

#[test]
fn refusals_name_what_why_and_what_to_do() {
    let fake = Fake::start(|_, _, _| problem("not-yet", 501));
    let ran = fake.run(&["submit", "--", "make"]);
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));
    assert_eq!(ran.err, "error: this happened [not-yet]\n  do that\n");
    assert_eq!(fake.run(&["submit", "--wait", "--", "x"]).code, 125);
    let json = fake.run(&["submit", "--json", "--", "x"]);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&json.err).unwrap()["code"], "not-yet");
}

#[test]
fn usage_mistakes_exit_2_and_ask_nobody() {
    let fake = Fake::start(|_, _, _| (500, String::new()));
    for words in [
        vec!["submit", "--cpus", "x", "--", "true"],
        vec!["submit"],
        vec!["ls", "stat:failed"],
        vec!["show", "7x"],
        vec!["sumbit", "--", "true"],
        vec!["cancel"],
        vec!["queue", "publsh", "q", "1"],
        vec!["bulk", "cancle", "7"],
    ] {
        let ran = fake.run(&words);
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{words:?} {ran:?}");
        assert!(!ran.err.is_empty(), "{words:?}");
    }
    assert!(fake.run(&["ls", "stat:failed"]).err.contains("^^^^"));
    assert_eq!(fake.asked(), Vec::<String>::new());
}

#[test]
fn without_a_coordinator_it_says_where_it_looked() {
    let fake = Fake::start(|_, _, _| (500, String::new()));
    let away = fake.dir.path().join("nobody.sock");
    let ran: Ran = fake.reeve(&["ls"]).env("REEVE_HOST", &away).output().unwrap().into();
    assert_eq!(ran.code, 125, "{ran:?}");
    for words in ["nobody.sock", "reeve up", "REEVE_HOST", "[no-coordinator]"] {
        assert!(ran.err.contains(words), "{ran:?}");
    }
}

#[test]
fn a_list_is_a_table_or_the_coordinators_own_json() {
    let list = |items: &str| {
        format!(
            r#"{{"api":"v1","kind":"JobList","items":[{items}],"next":null,"total":{{"value":1,"exact":true}}}}"#
        )
    };
    let text = list(&job(7, "FAILED", r#"{"kind":"exit","code":3}"#));
    let fake = Fake::start(move |_, _, _| (200, text.clone()));
    let ran = fake.run(&["ls", "state:failed", "train"]);
    let lines: Vec<&str> = ran.out.lines().collect();
    assert!(lines[0].starts_with("ID  STATE   NAME  QUEUE") && lines[1].ends_with("exit 3"), "{ran:?}");
    assert_eq!(fake.asked()[0], "GET /v1/jobs?limit=50&filter=state%3Afailed%20train");
    let json = fake.run(&["ls", "--json"]);
    let value: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(value["items"][0]["a_field_of_a_newer_version"], 1);
}

#[test]
fn one_job_is_changed_directly_and_many_through_a_plan() {
    let fake = Fake::start(|_, path, _| match path {
        "/v1/plans" => (201, plan(30)),
        "/v1/plans/5/run" => {
            (200, r#"{"id":5,"changed":29,"skipped":1,"reasons":{"wrong-state":1},"seq":10}"#.to_owned())
        }
        _ => (200, r#"{"id":7,"state":"RUNNING","substate":"cancelling","attempt":1,"seq":9}"#.to_owned()),
    });
    let one = fake.run(&["cancel", "7", "--reason", "old"]);
    assert_eq!((one.code, one.out.as_str()), (0, "7 RUNNING cancelling\n"));
    assert_eq!(fake.body(0), serde_json::json!({"reason": "old"}));
    let refused = fake.run(&["cancel", "-f", "state:running"]);
    assert_eq!(refused.code, 2);
    assert!(refused.err.contains("--yes") && refused.err.contains("30"), "{refused:?}");
    let dry = fake.run(&["cancel", "-f", "state:running", "--dry-run"]);
    assert!(dry.out.contains("30 of 30") && dry.out.contains("train"), "{dry:?}");
    let done = fake.run(&["cancel", "-f", "state:running", "--yes"]);
    assert_eq!((done.code, done.out.as_str()), (0, "cancel: 29 changed, 1 skipped (1 wrong-state)\n"));
    assert_eq!(fake.asked().iter().filter(|what| what.ends_with("/run")).count(), 1);
}

#[test]
fn a_file_of_jobs_prints_ids_and_reports_wrong_lines() {
    let fake = Fake::start(|_, _, body| {
        assert_eq!(body.lines().count(), 2);
        let wrong = problem("bad-value", 400).1;
        (200, format!("{{\"line\":1,\"id\":8}}\n{{\"line\":2,\"error\":{wrong}}}\n"))
    });
    let file = fake.dir.path().join("jobs.jsonl");
    std::fs::write(&file, "{\"command\":[\"true\"]}\n{\"command\":5}\n").unwrap();
    let ran = fake.run(&["submit", "--file", "jobs.jsonl"]);
    assert_eq!((ran.code, ran.out.as_str()), (1, "8\n"), "{ran:?}");
    assert!(
        ran.err.contains("line 2: this happened [bad-value]") && ran.err.contains("1 submitted, 1 failed"),
        "{ran:?}"
    );
}

#[test]
fn logs_to_a_pipe_are_the_bytes_of_the_job() {
    let fake = Fake::start(|_, _, _| (200, "a\u{1b}[31mb\r\n".to_owned()));
    let ran = fake.run(&["logs", "7", "--tail", "5", "--stderr"]);
    assert_eq!((ran.code, ran.out.as_str()), (0, "a\u{1b}[31mb\r\n"));
    assert_eq!(fake.asked(), ["GET /v1/jobs/7/logs?stream=stderr&tail=5"]);
}

#[test]
fn waiting_for_several_jobs_is_all_or_one() {
    let fake = Fake::start(|_, path, _| match path {
        "/v1/jobs/7?wait_s=3600" => (200, job(7, "COMPLETED", r#"{"kind":"ok"}"#)),
        "/v1/jobs/8?wait_s=3600" => (200, job(8, "FAILED", r#"{"kind":"exit","code":3}"#)),
        _ => problem("not-found", 404),
    });
    assert_eq!(fake.run(&["wait", "7"]).code, 0);
    assert_eq!(fake.run(&["wait", "8"]).code, 3);
    assert_eq!(fake.run(&["wait", "7", "8"]).code, 1);
    assert_eq!(fake.run(&["wait", "9"]).code, 125);
    assert_eq!(fake.run(&["wait", "5-7"]).code, 0);
}

#[test]
fn a_closed_pipe_ends_quietly() {
    let items = vec![job(7, "COMPLETED", "null"); 2000].join(",");
    let list = format!(
        r#"{{"api":"v1","kind":"JobList","items":[{items}],"next":null,"total":{{"value":1,"exact":true}}}}"#
    );
    let fake = Fake::start(move |_, _, _| (200, list.clone()));
    let mut child =
        fake.reeve(&["ls", "--json"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let ran: Ran = child.wait_with_output().unwrap().into();
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
}

#[test]
fn version_and_help_need_no_coordinator() {
    let reeve = |words: &[&str]| -> Ran {
        Command::new(env!("CARGO_BIN_EXE_reeve")).args(words).stdin(Stdio::null()).output().unwrap().into()
    };
    assert_eq!(reeve(&["--version"]).out, format!("reeve {}\n", env!("CARGO_PKG_VERSION")));
    let bare = reeve(&[]);
    assert!(bare.out.contains("Usage: reeve") && bare.err.contains("terminal"), "{bare:?}");
    assert!(reeve(&["completions", "bash"]).out.contains("_reeve"));
    let later = reeve(&["df"]);
    assert_eq!(later.code, 1);
    assert!(later.err.contains("[not-yet]"), "{later:?}");
}

#[test]
fn a_lost_answer_is_asked_for_again_with_the_same_key() {
    let asked = Arc::new(Mutex::new(0));
    let fake = Fake::start(move |_, _, _| {
        let mut asked = asked.lock().unwrap();
        *asked += 1;
        if *asked == 1 { (0, String::new()) } else { (200, SUBMITTED.to_owned()) }
    });
    let ran = fake.run(&["submit", "--", "true"]);
    assert_eq!((ran.code, ran.out.as_str()), (0, "7\n"), "{ran:?}");
    assert_eq!(fake.asked().len(), 2);
    let keys = fake.keys.lock().unwrap();
    assert!(keys[0].is_some() && keys[0] == keys[1], "{keys:?}");
}

#[test]
fn ctrl_c_leaves_the_job_alone_and_says_how_to_cancel_it() {
    let fake = Fake::start(|method, _, _| {
        if method == "POST" {
            return (201, SUBMITTED.to_owned());
        }
        // Long enough for the signal to arrive first; the process does not wait for the rest of it.
        std::thread::sleep(std::time::Duration::from_mins(1));
        (200, job(7, "COMPLETED", "null"))
    });
    let child =
        fake.reeve(&["submit", "--wait", "--", "x"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let child = child.unwrap();
    while fake.asked().len() < 2 {
        std::thread::yield_now();
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let ran: Ran = child.wait_with_output().unwrap().into();
    assert_eq!((ran.code, ran.out.as_str()), (130, "7\n"), "{ran:?}");
    assert!(ran.err.contains("reeve cancel 7"), "{ran:?}");
}

#[test]
fn another_machine_is_reached_by_ssh() {
    use std::os::unix::fs::PermissionsExt as _;
    let fake = Fake::start(|_, _, _| (200, r#"{"uid":5,"name":"ana","role":"admin"}"#.to_owned()));
    let ssh = fake.dir.path().join("ssh");
    // The last word is what the far shell gets; `reeve` there is this one.
    let reeve = env!("CARGO_BIN_EXE_reeve");
    let far = format!("eval \"exec {reeve} ${{last#reeve}}\"");
    let script = format!("#!/bin/sh\necho \"$@\" > seen\nfor last; do :; done\n{far}\n");
    std::fs::write(&ssh, script).unwrap();
    std::fs::set_permissions(&ssh, std::fs::Permissions::from_mode(0o700)).unwrap();
    let host = format!("ssh://ana@head:2222{}", fake.socket.display());
    let path = format!("{}:/usr/bin:/bin", fake.dir.path().display());
    let ran: Ran = fake.reeve(&["whoami", "--host", &host]).env("PATH", path).output().unwrap().into();
    assert_eq!((ran.code, ran.out.as_str()), (0, "ana (uid 5, admin)\n"), "{ran:?}");
    let seen = std::fs::read_to_string(fake.dir.path().join("seen")).unwrap();
    assert!(seen.starts_with("-p 2222 -T -- ana@head reeve --host "), "{seen}");
}
