//! What may die and what must live on: the server killed, stopped, started again; the agent's keeper killed.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]
use reeve_tests::server::Server;
use reeve_tests::{alive, eventually};
use rustix::process::Signal;
use std::io::{Read, Write};

fn pid_of(server: &Server, id: &str) -> u32 {
    eventually("its process", || server.job(id)["attempts"][0]["pid"].as_u64().filter(|p| *p > 0)) as u32
}

fn parent_of(pid: u32) -> u32 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().find_map(|l| l.strip_prefix("PPid:")).unwrap().trim().parse().unwrap()
}

fn kill(pid: u32) {
    let process = rustix::process::Pid::from_raw(pid as i32).unwrap();
    rustix::process::kill_process(process, Signal::KILL).unwrap();
}

#[test]
fn a_killed_server_finds_its_jobs_again_same_attempt_same_process() {
    let mut server = Server::start();
    let id = server.ok(&["submit", "--", "sh", "-c", "echo before; sleep 600; echo after"]);
    server.until(&id, "RUNNING");
    let pid = pid_of(&server, &id);
    for signal in [Signal::KILL, Signal::TERM, Signal::HUP] {
        server.signal(signal);
        assert!(alive(pid), "the job lives without its server");
        server.up();
        let job = server.until(&id, "RUNNING");
        assert_eq!((job["attempt"].as_u64(), job["attempts"].as_array().unwrap().len()), (Some(1), 1));
        assert_eq!(pid_of(&server, &id), pid);
    }
    // It ends while nobody is there to hear it: its end and its output wait.
    server.signal(Signal::KILL);
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid as i32).unwrap(), Signal::KILL).unwrap();
    server.up();
    let job = server.until(&id, "FAILED");
    assert_eq!(job["cause"]["kind"], "signal");
    assert_eq!(server.ok(&["logs", &id]), "before");
}

#[test]
fn a_killed_keeper_is_replaced_and_adopts_what_runs() {
    let server = Server::start();
    let id = server.ok(&["submit", "--", "sleep", "600"]);
    server.until(&id, "RUNNING");
    let pid = pid_of(&server, &id);
    let keeper = keeper_of(server.scratch().to_str().unwrap());
    rustix::process::kill_process(rustix::process::Pid::from_raw(keeper as i32).unwrap(), Signal::KILL)
        .unwrap();
    let second = server.ok(&["submit", "--wait", "--", "echo", "again"]);
    assert_eq!(server.job(&second)["state"], "COMPLETED");
    let job = server.until(&id, "RUNNING");
    assert_eq!(job["attempt"], 1);
    assert!(alive(pid));
    server.post(&format!("/v1/jobs/{id}/cancel"), "");
    server.until(&id, "CANCELLED");
    assert!(!alive(pid));
}

fn keeper_of(scratch: &str) -> u32 {
    std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|e| e.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .find(|pid| {
            let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.contains("\0keeper\0") && !line.contains("\0guardians\0") && line.contains(scratch)
        })
        .expect("a keeper")
}

#[test]
fn a_killed_guardian_loses_its_one_attempt_and_nothing_of_its_tree_is_left() {
    let server = Server::start();
    let id = server.ok(&["submit", "--", "sh", "-c", "setsid sleep 600 & sleep 600"]);
    server.until(&id, "RUNNING");
    let pid = pid_of(&server, &id);
    kill(parent_of(pid));
    let job = eventually("a second attempt", || Some(server.job(&id)).filter(|j| j["attempt"] == 2));
    assert_eq!(job["attempts"][0]["cause"]["kind"], "keeper_lost");
    eventually("the tree to be gone", || (!alive(pid)).then_some(()));
}

#[test]
fn a_guardian_whose_directory_was_thrown_away_leaves_after_its_job() {
    let mut server = Server::start();
    let id = server.ok(&["submit", "--", "sleep", "600"]);
    server.until(&id, "RUNNING");
    let pid = pid_of(&server, &id);
    let guardian = parent_of(pid);
    let keeper = parent_of(guardian);
    server.signal(Signal::KILL);
    kill(keeper);
    std::fs::remove_dir_all(server.runtime().join("reeve")).unwrap();
    assert!(alive(pid) && alive(guardian), "the job is not disturbed by it");
    kill(pid);
    eventually("the guardian to leave", || (!alive(guardian)).then_some(()));
}

#[test]
fn no_acknowledged_submit_is_lost_when_the_server_is_killed_under_load() {
    let mut server = Server::start();
    server.ok(&["queue", "set", "default"]);
    server.ok(&["queue", "pause", "default"]);
    let mut acknowledged = Vec::new();
    for round in 0..3 {
        let socket = server.socket().to_owned();
        let writer = std::thread::spawn(move || {
            let mut ids = Vec::new();
            for _ in 0..5_000 {
                let Ok(mut stream) = std::os::unix::net::UnixStream::connect(&socket) else { break };
                let body = r#"{"command":["true"]}"#;
                let head = format!(
                    "POST /v1/jobs HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
                    body.len()
                );
                let mut text = String::new();
                if stream.write_all(head.as_bytes()).is_err() || stream.read_to_string(&mut text).is_err() {
                    break;
                }
                match text
                    .split("\"id\":")
                    .nth(1)
                    .and_then(|rest| rest.split(',').next())
                    .and_then(|n| n.parse::<u64>().ok())
                {
                    Some(id) => ids.push(id),
                    None => break,
                }
            }
            ids
        });
        eventually("some submits", || {
            server.get("/v1/jobs?limit=1").json()["items"][0]["id"]
                .as_u64()
                .filter(|id| *id > 50 * (round + 1))
        });
        server.signal(Signal::KILL);
        acknowledged.extend(writer.join().unwrap());
        server.up();
    }
    assert!(acknowledged.len() > 100);
    for id in &acknowledged {
        assert_eq!(server.get(&format!("/v1/jobs/{id}")).status, 200, "job {id} was acknowledged");
    }
    let unique: std::collections::HashSet<_> = acknowledged.iter().collect();
    assert_eq!(unique.len(), acknowledged.len(), "no number is given twice");
}

#[test]
fn down_stops_the_server_and_with_jobs_the_jobs_too() {
    let mut server = Server::start();
    let id = server.ok(&["submit", "--", "sleep", "600"]);
    server.until(&id, "RUNNING");
    let pid = pid_of(&server, &id);
    let data = server.data();
    server.ok(&["down", "--dir", data.to_str().unwrap()]);
    assert!(alive(pid), "the server stops, the job goes on");
    server.up();
    server.until(&id, "RUNNING");
    server.ok(&["down", "--jobs", "--dir", data.to_str().unwrap()]);
    eventually("the job's end", || (!alive(pid)).then_some(()));
    server.up();
    let job = eventually("an end or another attempt", || {
        Some(server.job(&id)).filter(|j| j["attempts"][0]["cause"] != serde_json::Value::Null)
    });
    assert_eq!(job["attempts"][0]["cause"]["kind"], "drained");
}
