//! Jobs in checkouts: which commit they get, what they see, what stays, through the whole of reeve with the real git.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]
use reeve_tests::repo::Repo;
use reeve_tests::server::Server;

/// What a job itself wrote.
fn output(server: &Server, id: &str) -> String {
    let text = server.ok(&["logs", id]);
    text.lines().filter(|line| !line.starts_with("reeve: ")).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_job_runs_in_a_checkout_of_the_commit_that_the_ref_named_at_submit() {
    let server = Server::start();
    let repo = Repo::new(server.scratch(), "code");
    let first = repo.write("sub/hello", "one\n").commit();
    let submit = |script: &str| {
        let url = repo.url();
        server.ok(&[
            "submit", "--hold", "--repo", &url, "--ref", "main", "--subdir", "sub", "--", "sh", "-c", script,
        ])
    };
    let script = "cat hello; git rev-parse HEAD; git status --porcelain; echo $REEVE_COMMIT $REEVE_REPO $REEVE_REF; basename $PWD";
    let id = submit(script);
    repo.write("sub/hello", "two\n").commit();
    server.ok(&["release", &id]);
    let job = server.until(&id, "COMPLETED");
    assert_eq!(job["spec"]["git"]["commit"], first.as_str());
    let url = repo.url();
    assert_eq!(output(&server, &id), format!("one\n{first}\n{first} {url} main\nsub"));
    assert!(server.ok(&["show", &id]).contains(&first[..12]));
}

#[test]
fn uncommitted_work_travels_with_the_job_and_diff_says_what_differs() {
    let server = Server::start();
    let repo = Repo::new(server.scratch(), "code");
    let commit = repo.write("hello", "one\n").write("gone", "x\n").commit();
    let url = repo.url();
    repo.write("hello", "two\n").write("new", "three\n");
    std::fs::remove_file(repo.dir().join("gone")).unwrap();
    let words = ["submit", "--wait", "--repo", &url, "--dirty", "--", "sh", "-c", "cat hello new; ls"];
    let dirty = server.command(&words).current_dir(repo.dir()).output().unwrap();
    assert!(dirty.status.success(), "{}", String::from_utf8_lossy(&dirty.stderr));
    assert_eq!(output(&server, "1"), "two\nthree\nhello\nnew");
    assert_eq!(server.job("1")["spec"]["git"]["commit"], commit.as_str());
    assert_eq!(repo.git(&["status", "--porcelain"]).lines().count(), 3, "nothing is added for it");
    let clean = server.ok(&["submit", "--wait", "--repo", &url, "--", "cat", "hello"]);
    assert_eq!(output(&server, &clean), "one");
    let differs = server.ok(&["diff", "1", &clean]);
    assert!(
        differs.contains("git.patch.sha256") && differs.contains("command") && !differs.contains("git.url"),
        "{differs}"
    );
    assert_eq!(server.ok(&["diff", "1", "1"]), "1 and 1 differ in nothing");
    let (_, refused) = server.fails(&["restart", "--latest", "1"]);
    assert!(refused.contains("uncommitted"), "{refused}");
}

#[test]
fn a_ref_that_is_not_there_is_refused_at_submit_and_one_that_cannot_be_asked_for_is_left_to_the_machine() {
    let server = Server::start();
    let repo = Repo::new(server.scratch(), "code");
    repo.write("hello", "one\n").commit();
    let (code, words) = server.fails(&["submit", "--repo", &repo.url(), "--ref", "nowhere", "--", "true"]);
    assert!(code == 1 && words.contains("no branch and no tag"), "{code} {words}");
    let url = "http://127.0.0.1:1/nobody";
    let output = server.run(&["submit", "--hold", "--repo", url, "--", "true"]);
    assert!(output.status.success());
    let note = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(note.contains("the first machine"), "{note}");
    assert_eq!(server.job("1")["spec"]["git"]["commit"], serde_json::Value::Null);
    let (code, words) = server.fails(&["submit", "--repo", "https://a:b@h/r", "--", "true"]);
    assert!(code != 0 && words.contains("credential helper") && !words.contains("a:b"), "{words}");
}

#[test]
fn a_git_worker_and_a_daemon_of_gits_own_serve_jobs_too() {
    let server = Server::start();
    let repo = Repo::new(server.scratch(), "code");
    repo.write("hello", "one\n").commit();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut daemon = std::process::Command::new("git")
        .args(["daemon", "--export-all", "--reuseaddr", "--listen=127.0.0.1"])
        .arg(format!("--port={port}"))
        .arg(format!("--base-path={}", server.scratch().display()))
        .env("GIT_CONFIG_COUNT", "0")
        .spawn()
        .unwrap();
    reeve_tests::eventually("git daemon", || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
    let url = format!("git://127.0.0.1:{port}/code");
    server.ok(&["worker", "register", "reader", "--repo", &url, "--ref", "main", "--", "cat"]);
    let id = server.ok(&["submit", "--worker", "reader", "--", "hello"]);
    let job =
        reeve_tests::eventually("its end", || Some(server.job(&id)).filter(|j| j["ended_at"].is_string()));
    // Its children have its group; it ends them itself.
    rustix::process::kill_process(rustix::process::Pid::from_child(&daemon), rustix::process::Signal::TERM)
        .unwrap();
    daemon.wait().unwrap();
    assert_eq!(job["state"], "COMPLETED", "{}", server.ok(&["logs", &id]));
    assert_eq!(output(&server, &id), "one");
}
