//! Jobs that are wrong, huge or hostile: each ends with a clear cause, none of them costs anybody else anything.
use reeve_tests::eventually;
use reeve_tests::server::Server;
use reeve_tests::terminal::Terminal;
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;

#[test]
fn two_megabytes_of_arguments_are_refused_whichever_way_they_come() {
    let server = Server::start();
    let long = "y".repeat(100_000);
    // What the kernel lets through on a command line of its own is less than two megabytes.
    let mut words = vec!["submit", "--", "echo"];
    words.extend(std::iter::repeat_n(long.as_str(), 17));
    let (code, said) = server.fails(&words);
    assert_eq!(code, 1);
    assert!(said.contains("[too-large]"), "{}", &said[said.len().saturating_sub(300)..]);

    let spec = serde_json::json!({"command": std::iter::repeat_n(long.as_str(), 20).collect::<Vec<_>>()})
        .to_string();
    assert_eq!(server.post("/v1/jobs", &spec).code(), "too-large");
    let mut child = server
        .command(&["submit", "--file", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = format!("{{\"command\":[\"true\"]}}\n{spec}\n{{\"command\":[\"true\"]}}\n");
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "1\n2\n", "the lines around it are jobs");
    assert!(String::from_utf8_lossy(&output.stderr).contains("too-large"));
}

#[test]
fn what_cannot_be_started_says_why() {
    let server = Server::start();
    let plain = server.scratch().join("plain");
    std::fs::write(&plain, "no program").unwrap();
    let gone = server.scratch().join("gone");
    let cases: [(&[&str], &str, i32); 3] = [
        (&["--", "no-such-program-anywhere"], "ENOENT", 127),
        (&["--", plain.to_str().unwrap()], "EACCES", 126),
        (&["--cwd", gone.to_str().unwrap(), "--", "true"], "cwd", 126),
    ];
    for (words, what, code) in cases {
        let output = server.run(&[&["submit", "--wait"], words].concat());
        assert_eq!(output.status.code(), Some(code), "{what}");
        let id = String::from_utf8(output.stdout).unwrap().trim().to_owned();
        let cause = server.job(&id)["cause"].clone();
        assert_eq!(cause["kind"], "spawn", "{cause}");
        assert!(cause.to_string().contains(what), "{cause}");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(told.contains("FAILED"), "{told}");
    }
    let cause = server.job("3")["cause"].to_string();
    assert!(cause.contains(gone.to_str().unwrap()), "the directory is named: {cause}");
}

/// Bytes of all files below, as far as they can be seen.
fn weigh(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => weigh(&entry.path()),
        Ok(meta) => meta.len(),
        Err(_) => 0,
    };
    entries.filter_map(Result::ok).map(size).sum()
}

#[test]
fn a_gigabyte_of_output_takes_little_disk_and_nobody_else_waits_for_it() {
    let server = Server::start();
    let (done, go) = (server.scratch().join("done"), server.scratch().join("go"));
    let script = format!(
        "yes 'a line of a flood of output' | head -c 1000000000; echo; echo the last line; touch {}; until test -e {}; do sleep 0.1; done",
        done.display(),
        go.display()
    );
    let flood = server.ok(&["submit", "--", "sh", "-c", &script]);
    server.until(&flood, "RUNNING");
    let other = server.ok(&["submit", "--wait", "--", "echo", "quick"]);
    assert_eq!(server.ok(&["logs", &other]), "quick");
    assert_eq!(server.job(&flood)["state"], "RUNNING");
    let (machine, memory) = (server.data().join("agent"), server.runtime().to_owned());
    let mut most = 0;
    eventually("a gigabyte to be written", || {
        most = most.max(weigh(&machine) + weigh(&memory));
        done.exists().then_some(())
    });
    assert!(most < 100_000_000, "the machine kept {most} bytes of it");
    // The job has written it; whoever reads its pipe may still be at what came before, until the job has ended.
    std::fs::write(&go, "").unwrap();
    server.until(&flood, "COMPLETED");
    assert_eq!(server.ok(&["logs", &flood, "--tail", "1"]), "the last line");
}

#[test]
fn escape_sequences_reach_no_terminal_but_a_pipe_gets_every_byte() {
    let server = Server::start();
    let (code, said) = server.fails(&["submit", "--name", "a\x1b[2Jb", "--", "true"]);
    assert_eq!(code, 1);
    assert!(said.contains("[bad-name]") && !said.contains('\x1b'), "{said:?}");
    let nasty = "\x1b[2J\x1b]0;owned\x07\x1b]52;c;ZXZpbA==\x07\u{9b}31mend";
    let id = server.ok(&["submit", "--wait", "--", "printf", "%s\\n", nasty]);
    let raw = server.run(&["logs", &id]).stdout;
    assert_eq!(raw, format!("{nasty}\n").into_bytes(), "a pipe gets what the job wrote");
    let mut t = Terminal::reeve(server.socket(), server.scratch(), &["logs", &id]);
    t.shows("end");
    assert_eq!(t.ended(), 0);
    let bytes = String::from_utf8(t.bytes()).unwrap();
    for bad in ["\x1b[2J", "\x1b]", "\x07", "\u{9b}"] {
        assert!(!bytes.contains(bad), "{bytes:?}");
    }
    t.is_restored();
}

#[test]
fn a_deep_directory_works_although_no_socket_path_is_so_long() {
    let base = tempfile::Builder::new().prefix("reeve-test-").tempdir().unwrap();
    let deep = base.path().join(["a-directory-with-a-long-name"; 6].join("/"));
    std::fs::create_dir_all(&deep).unwrap();
    let below = |name: &str| tempfile::Builder::new().prefix(name).tempdir_in(&deep).unwrap();
    let server = Server::start_in(below("d"), below("r"));
    assert!(server.socket().as_os_str().len() > 107, "else this tests nothing");
    let ran = server.run(&["submit", "--wait", "--", "echo", "deep"]);
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    assert_eq!(server.ok(&["logs", "last"]), "deep");
}

#[test]
fn a_second_up_on_a_directory_is_a_client_of_the_first() {
    let server = Server::start();
    let id = server.ok(&["submit", "--hold", "--", "true"]);
    let data = server.data();
    let second = server.run(&["up", "--no-console", "--dir", data.to_str().unwrap()]);
    assert!(second.status.success(), "{}", String::from_utf8_lossy(&second.stderr));
    let ready = format!("ready socket={}\n", server.socket().display());
    assert_eq!(String::from_utf8_lossy(&second.stdout), ready);
    assert!(String::from_utf8_lossy(&second.stderr).contains("already"));
    assert_eq!(server.job(&id)["state"], "QUEUED", "the first one serves on");
}

#[test]
fn a_task_of_a_job_that_is_no_array_is_a_mistake_that_is_named() {
    let server = Server::start();
    let id = server.ok(&["submit", "--wait", "--", "echo", "x"]);
    for words in [["logs"], ["show"], ["cancel"]] {
        let (code, said) = server.fails(&[words[0], &format!("{id}.3")]);
        assert_eq!(code, 1, "{words:?}: {said}");
        assert!(said.contains("no array") || said.contains("COMPLETED"), "{words:?}: {said}");
    }
    let answer = server.get(&format!("/v1/jobs/{id}.3/logs"));
    assert_eq!((answer.status, answer.code().as_str()), (400, "bad-id"));
}

#[test]
fn a_running_log_is_read_promptly_although_its_job_never_pauses() {
    let server = Server::start();
    let script = "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.02; done";
    let id = server.ok(&["submit", "--", "sh", "-c", script]);
    eventually("some lines", || (server.ok(&["logs", &id]).lines().count() > 30).then_some(()));
    eventually("its tail", || (server.ok(&["logs", &id, "--tail", "3"]).lines().count() == 3).then_some(()));
    // Followed, it must come while the job goes on: the reader leaves after what it wanted to see.
    let mut child = server
        .command(&["logs", "-f", &id, "--tail", "2"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    let number = |line: Option<std::io::Result<String>>| -> u64 {
        line.unwrap().unwrap().strip_prefix("line ").and_then(|n| n.parse().ok()).unwrap()
    };
    let first = number(lines.next());
    for at in 1..20 {
        assert_eq!(number(lines.next()), first + at, "no line is missing or doubled");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(server.job(&id)["state"], "RUNNING");
}
