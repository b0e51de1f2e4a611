//! The job's journey through the real parts: command line, socket, store, QUIC, agent, keeper, guardian, process.
use reeve_tests::server::Server;
use std::io::Write;
use std::process::Stdio;

#[test]
fn submit_wait_gives_the_jobs_own_exit_code_and_its_output_is_kept() {
    let server = Server::start();
    let output = server.run(&["submit", "--wait", "--", "sh", "-c", "echo hi; echo there >&2; exit 3"]);
    assert_eq!(output.status.code(), Some(3));
    let id = String::from_utf8(output.stdout).unwrap().trim().to_owned();
    assert!(String::from_utf8_lossy(&output.stderr).contains("FAILED"), "one line says state and cause");
    assert_eq!(server.ok(&["logs", &id]), "hi\nthere");
    assert_eq!(server.ok(&["logs", &id, "--stderr"]), "there");
    let job = server.job(&id);
    assert_eq!((job["state"].as_str(), job["attempt"].as_u64()), (Some("FAILED"), Some(1)));
    assert_eq!(job["cause"], serde_json::json!({"kind": "exit", "code": 3}));
    assert_eq!(job["attempts"][0]["exit_code"], 3);
    for (script, code) in [("kill -9 $$", 137), ("exit 0", 0)] {
        assert_eq!(
            server.run(&["submit", "--wait", "--", "sh", "-c", script]).status.code(),
            Some(code),
            "{script}"
        );
    }
    assert_eq!(
        server.run(&["submit", "--wait", "--timeout", "0.3s", "--", "sleep", "60"]).status.code(),
        Some(124)
    );
    assert_eq!(server.run(&["submit", "--wait", "--", "no-such-program"]).status.code(), Some(127));
    assert_eq!(server.run(&["submit", "--wait", "--", "/etc/passwd"]).status.code(), Some(126));
}

#[test]
fn a_job_gets_the_environment_directory_and_input_that_were_promised() {
    let server = Server::start();
    let script = "pwd; cat; echo $K $REEVE_JOB_ID $REEVE_ATTEMPT $REEVE_QUEUE $REEVE_LABEL_TEAM [$CUDA_VISIBLE_DEVICES] $REEVE $UNSET; test -f $REEVE_PAYLOAD && cat $REEVE_PAYLOAD; umask";
    let mut child = server
        .command(&[
            "submit",
            "--wait",
            "--env",
            "K=V",
            "--label",
            "team=vision",
            "--stdin",
            "-",
            "--payload",
            r#"{"a":1}"#,
            "--",
            "sh",
            "-c",
            script,
        ])
        .env("UNSET", "leaks")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"from stdin\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let log = server.ok(&["logs", "last"]);
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(lines[0], server.scratch().canonicalize().unwrap().to_str().unwrap());
    assert_eq!(lines[1], "from stdin");
    assert_eq!(lines[2], "V 1 1 default vision [] 1");
    assert!(lines[3].starts_with(r#"{"a":1}"#), "{log}");
    assert!(log.ends_with("0022"), "{log}");
}

#[test]
fn results_and_progress_come_back() {
    let server = Server::start();
    let script = r#"echo '{"progress":0.5,"message":"half"}' >> $REEVE_STATUS; sleep 2.5; echo '{"acc":0.9}' > $REEVE_RESULT"#;
    let id = server.ok(&["submit", "--", "sh", "-c", script]);
    let job =
        reeve_tests::eventually("progress", || Some(server.job(&id)).filter(|j| !j["progress"].is_null()));
    assert_eq!((job["progress"].as_f64(), job["message"].as_str()), (Some(0.5), Some("half")));
    assert_eq!(server.until(&id, "COMPLETED")["result"], serde_json::json!({"acc": 0.9}));
}

#[test]
fn an_array_is_one_job_with_exact_counts() {
    let server = Server::start();
    let output =
        server.run(&["submit", "--wait", "--array", "1-200", "--", "sh", "-c", "test $REEVE_INDEX -ne 7"]);
    assert_eq!(output.status.code(), Some(1), "several jobs: 1 unless all completed");
    let job = server.job("1");
    assert_eq!(job["array"]["counts"]["COMPLETED"], 199);
    assert_eq!(job["array"]["counts"]["FAILED"], 1);
    assert_eq!(job["state"], "FAILED");
    assert_eq!(server.job("1.7")["state"], "FAILED");
    assert_eq!(server.job("1.8")["state"], "COMPLETED");
    let listed = server.ok(&["ls"]);
    assert_eq!(listed.lines().count(), 2, "an array is one line: {listed}");
    server.ok(&["restart", "1"]);
    reeve_tests::eventually("attempt 2 of the failed task", || {
        Some(server.job("1.7")).filter(|j| j["attempt"] == 2 && j["state"] == "FAILED")
    });
    assert_eq!(server.job("1.8")["attempt"], 1, "what completed is left alone");
}

#[test]
fn cancel_ends_the_whole_tree_even_what_hides_from_it() {
    let server = Server::start();
    let pids = server.scratch().join("pids");
    let script = format!(
        "for i in 1 2; do setsid env -i sh -c 'trap \"\" TERM; echo $$ >> {0}; while :; do sleep 0.2; done' & done; echo $$ >> {0}; wait; sleep 600",
        pids.display()
    );
    let id = server.ok(&["submit", "--", "sh", "-c", &script]);
    let read = || {
        std::fs::read_to_string(&pids)
            .unwrap_or_default()
            .lines()
            .filter_map(|l| l.parse::<u32>().ok())
            .collect::<Vec<_>>()
    };
    let list = reeve_tests::eventually("three processes", || Some(read()).filter(|l| l.len() == 3));
    server.post(&format!("/v1/jobs/{id}/cancel"), r#"{"grace_s":0.5}"#);
    let job = server.until(&id, "CANCELLED");
    assert_eq!(job["cause"]["kind"], "cancelled");
    for pid in list {
        assert!(!reeve_tests::alive(pid), "process {pid} lives after the end was shown");
    }
}

#[test]
fn hold_release_delay_priority_and_expiry() {
    let server = Server::start();
    let held = server.ok(&["submit", "--hold", "--", "true"]);
    let delayed = server.ok(&["submit", "--delay", "1h", "--", "true"]);
    let short = server.ok(&["submit", "--hold", "--expires", "0.2s", "--", "true"]);
    assert_eq!(server.until(&short, "FAILED")["cause"]["kind"], "expired");
    assert_eq!(server.job(&held)["substate"], "held");
    assert_eq!(server.job(&delayed)["substate"], "delayed");
    server.ok(&["release", &held]);
    server.until(&held, "COMPLETED");
    let (code, stderr) = server.fails(&["release", &held]);
    assert_eq!(code, 1);
    assert!(stderr.contains("[wrong-state]"), "{stderr}");
    server.ok(&["cancel", &delayed]);
    assert_eq!(server.job(&delayed)["state"], "CANCELLED");
}

#[test]
fn a_batch_of_lines_is_answered_line_by_line_and_a_bad_line_loses_nothing() {
    let server = Server::start();
    server.ok(&["queue", "set", "default"]);
    server.ok(&["queue", "pause", "default"]);
    let file = server.scratch().join("jobs.jsonl");
    let good = "{\"command\":[\"true\"]}\n".repeat(300);
    std::fs::write(&file, format!("{good}{{\"comand\":[\"true\"]}}\n{good}")).unwrap();
    let output = server.run(&["submit", "--file", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 600);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(stderr.contains("301") && stderr.contains("command"), "the line and the nearest word: {stderr}");
    assert_eq!(server.get("/v1/queues/default/count").json()["ready"], 600);
}

#[test]
fn following_a_log_shows_it_while_it_is_written_and_ends_with_the_job() {
    let server = Server::start();
    let output = server.run(&[
        "submit",
        "--follow",
        "--wait",
        "--",
        "sh",
        "-c",
        "for i in 1 2 3; do echo line $i; sleep 0.3; done; exit 4",
    ]);
    assert_eq!(output.status.code(), Some(4));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "line 1\nline 2\nline 3\n");
}

#[test]
fn a_large_output_comes_back_whole_and_a_flood_keeps_head_and_tail() {
    let server = Server::start();
    let id = server.ok(&["submit", "--wait", "--", "sh", "-c", "seq 1 200000"]);
    let log = server.ok(&["logs", &id]);
    assert_eq!(log.lines().count(), 200_000);
    assert!(log.starts_with("1\n2\n") && log.ends_with("199999\n200000"));
    let flood = server.ok(&[
        "submit",
        "--wait",
        "--",
        "sh",
        "-c",
        "echo first; yes flood | head -c 300000000; echo last",
    ]);
    let output = server.run(&["logs", &flood]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.starts_with("first\n") && text.ends_with("last\n"));
    assert!(text.contains("bytes of output were not kept"), "the gap is marked");
    assert!((60_000_000..72_000_000).contains(&output.stdout.len()), "{}", output.stdout.len());
}

#[test]
fn following_a_task_that_ends_at_once_never_hangs() {
    let server = Server::start();
    let id = server.ok(&["submit", "--array", "1-300", "--", "sh", "-c", "echo task $REEVE_INDEX"]);
    for index in [1, 7, 40, 150, 300] {
        let log = server.ok(&["logs", "-f", &format!("{id}.{index}")]);
        assert_eq!(log, format!("task {index}"));
    }
}
