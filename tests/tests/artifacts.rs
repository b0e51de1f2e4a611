//! Files that jobs leave behind, through the whole of reeve: kept whatever the end, fetched as they were, and no name or
//! link leads anywhere else.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]
use reeve_tests::machine::{Agent, Coordinator};
use reeve_tests::server::Server;
use reeve_tests::{eventually, http};
use rustix::process::Signal;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

fn submit(server: &Server, words: &[&str], script: &str) -> String {
    server.ok(&[&["submit"][..], words, &["--", "sh", "-c", script]].concat())
}

fn read(dir: &Path, name: &str) -> String {
    std::fs::read_to_string(dir.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

#[test]
fn files_are_listed_fetched_and_never_overwrite_by_accident() {
    let server = Server::start();
    let work = server.scratch().join("work");
    std::fs::create_dir_all(work.join("runs/1")).unwrap();
    let cwd = work.to_str().unwrap();
    let script = "echo one > runs/1/log.txt; echo two > other; mkdir $REEVE_OUT_DIR/m; seq 1 200000 > $REEVE_OUT_DIR/m/large; echo x > $REEVE_OUT_DIR/tool; chmod 755 $REEVE_OUT_DIR/tool";
    let id = submit(&server, &["--cwd", cwd, "--out", "runs/**/*.txt"], script);
    let job = server.until(&id, "COMPLETED");
    assert_eq!(job["attempts"][0]["artifacts"], 3, "{job:#}");
    assert!(server.ok(&["show", &id]).contains("3 ("), "{}", server.ok(&["show", &id]));
    let list = server.ok(&["get", &id, "--list"]);
    assert!(list.contains("m/large") && list.contains("runs/1/log.txt") && !list.contains("other"), "{list}");
    let here = server.scratch();
    let dir = here.join("fetched");
    let at = dir.to_str().unwrap();
    let said = server.ok(&["get", &id, "-o", at]);
    assert_eq!(said.lines().count(), 3, "{said}");
    assert_eq!(read(&dir, "m/large").lines().count(), 200_000);
    assert_eq!(read(&dir, "runs/1/log.txt"), "one\n");
    assert_eq!(std::fs::metadata(dir.join("tool")).unwrap().permissions().mode() & 0o777, 0o755);
    let (code, refused) = server.fails(&["get", &id, "-o", at]);
    assert!(code == 2 && refused.contains("--force"), "{code} {refused}");
    std::fs::write(dir.join("tool"), "mine").unwrap();
    server.ok(&["get", &id, "tool", "-o", at, "--force"]);
    assert_eq!(read(&dir, "tool"), "x\n");
    assert_eq!(server.ok(&["get", &id, "runs/1/log.txt", "-o", "-"]), "one");
    let (code, words) = server.fails(&["get", &id, "m/larg", "-o", "-"]);
    assert!(code == 1 && words.contains("--list"), "{code} {words}");
    // The API: the list, the bytes, one range of them, and the nearest name.
    let large = server.get(&format!("/v1/jobs/{id}/artifacts/m%2Flarge"));
    assert_eq!((large.status, large.text().lines().count()), (200, 200_000));
    let missing = server.get(&format!("/v1/jobs/{id}/artifacts/m%2Flarg"));
    assert!(missing.status == 404 && missing.text().contains("m/large"), "{}", missing.text());
    let range = format!(
        "GET /v1/jobs/{id}/artifacts/tool HTTP/1.1\r\nhost: x\r\nconnection: close\r\nrange: bytes=0-0\r\n\r\n"
    );
    let part = http::raw(server.socket(), range.as_bytes());
    assert_eq!((part.status, part.text().as_str()), (206, "x"));
}

#[test]
fn failed_cancelled_and_timed_out_attempts_leave_files_and_each_attempt_has_its_own() {
    let server = Server::start();
    let keep = "echo $REEVE_ATTEMPT > $REEVE_OUT_DIR/n";
    let failed = submit(&server, &["--retries", "1"], &format!("{keep}; exit 3"));
    let late = submit(&server, &["--timeout", "5s"], &format!("{keep}; sleep 100"));
    let written = server.scratch().join("written");
    let long = submit(&server, &[], &format!("{keep}; touch {}; sleep 100", written.display()));
    eventually("it has written", || written.exists().then_some(()));
    server.until(&late, "FAILED");
    server.ok(&["cancel", &long]);
    server.until(&long, "CANCELLED");
    for id in [&late, &long] {
        assert_eq!(server.ok(&["get", id, "n", "-o", "-"]), "1", "job {id}");
    }
    server.until(&failed, "FAILED");
    assert_eq!(server.ok(&["get", &failed, "-o", "-"]), "2", "of the newest attempt");
    assert_eq!(server.ok(&["get", &failed, "--attempt", "1", "-o", "-"]), "1");
}

#[test]
fn hostile_names_links_and_sizes_cost_only_the_job_that_made_them() {
    let server = Server::start();
    let script = r#"cd $REEVE_OUT_DIR
        ln -s /etc/passwd link; ln -s / root; mkfifo pipe
        printf x > "$(printf 'a\033[31mred')"; printf y > "$(printf 'new\nline')"; printf z > "$(printf '\377')"
        head -c 3000 /dev/zero > large; echo fine > small"#;
    let id = submit(&server, &["--out-max", "2KiB"], script);
    server.until(&id, "COMPLETED");
    let list = server.ok(&["get", &id, "--list"]);
    assert!(!list.contains('\u{1b}') && list.contains("small") && !list.contains("passwd"), "{list}");
    let log = server.ok(&["logs", &id]);
    for part in ["link was left out", "pipe was left out", "root was left out", "large was left out", "UTF-8"]
    {
        assert!(log.contains(part), "{part}: {log}");
    }
    let dir = server.scratch().join("hostile");
    server.ok(&["get", &id, "-o", dir.to_str().unwrap()]);
    assert_eq!(read(&dir, "small"), "fine\n");
    assert_eq!(read(&dir, "new\nline"), "y");
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 3);
    for bad in ["/etc/passwd", "../x", "a/../../x", "\u{1b}[2J"] {
        let (code, words) = server.fails(&["submit", "--out", bad, "--", "true"]);
        assert!(code == 1 && words.contains("no pattern of files"), "{bad}: {code} {words}");
    }
}

#[test]
fn a_coordinator_that_is_away_when_a_job_ends_gets_its_files_later() {
    let mut c = Coordinator::start("127.0.0.1:0");
    let _agent = Agent::start(c.dir.path(), "box", &c.token(), &[]);
    let go = c.dir.path().join("go");
    let script = format!(
        "until test -e {}; do sleep 0.02; done; seq 1 100000 > $REEVE_OUT_DIR/n; echo done > {}.done",
        go.display(),
        go.display()
    );
    let output = c.reeve(&["submit", "--", "sh", "-c", &script]);
    let id = String::from_utf8(output.stdout).unwrap().trim().to_owned();
    eventually("the job to run", || (c.job(&id)["state"] == "RUNNING").then_some(()));
    c.daemon.take().unwrap().finish(Signal::KILL);
    std::fs::write(&go, "").unwrap();
    eventually("the job to end", || Path::new(&format!("{}.done", go.display())).exists().then_some(()));
    c.run_again();
    let job = eventually("its end", || Some(c.job(&id)).filter(|job| job["state"] == "COMPLETED"));
    assert_eq!((&job["attempt"], &job["attempts"][0]["artifacts"]), (&1.into(), &1.into()));
    let n = http::get(&c.socket(), &format!("/v1/jobs/{id}/artifacts/n")).text();
    assert_eq!(n.lines().count(), 100_000);
}
