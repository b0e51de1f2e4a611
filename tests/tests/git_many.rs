//! Checkouts among many, and what is killed, stopped or lost meanwhile.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]
use reeve_tests::eventually;
use reeve_tests::git_server::Fault;
use reeve_tests::site::Site;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

fn job(site: &Site, git: Value) -> Value {
    let mut git = git;
    git["url"] = site.git.url("code").into();
    json!({"command": ["cat", "hello"], "git": git, "resources": {"cpus": 0.02}})
}

/// Processes of git that work for this site.
fn gits(site: &Site) -> Vec<u32> {
    let server = site.git.url("");
    processes(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(&server)
    })
}

fn processes(is_wanted: impl Fn(u32) -> bool) -> Vec<u32> {
    let all = std::fs::read_dir("/proc").unwrap();
    let pids = all.filter_map(|e| e.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| is_wanted(*pid)).collect()
}

/// A job whose checkout waits for the server.
fn hanging(site: &Site, mut spec: Value, more: Value) -> String {
    site.git.set(Fault::Hang);
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    let id = site.submit(&spec);
    eventually("git waits for the server", || (!gits(site).is_empty()).then_some(()));
    id
}

#[test]
fn fifty_jobs_of_one_branch_are_served_by_one_fetch() {
    let site = Site::start("");
    let (_repo, commit) = site.repo("code");
    let specs = Value::Array((0..50).map(|_| job(&site, json!({"ref": "main"}))).collect());
    let answer = reeve_tests::http::post(&site.coordinator.socket(), "/v1/jobs", &specs.to_string());
    assert_eq!(answer.status, 201, "{}", answer.text());
    for id in 1..=50 {
        let ended = site.ended(&id.to_string());
        assert_eq!(ended["state"], "COMPLETED", "{}", site.output(&id.to_string()));
        assert_eq!(ended["spec"]["git"]["commit"], commit.as_str());
    }
    assert_eq!(site.git.fetches(), 1);
    assert!(site.git.listings() < 50, "{} questions for one answer", site.git.listings());
}

#[test]
fn a_job_says_that_it_is_preparing_and_a_cancel_ends_git_and_removes_what_was_begun() {
    let site = Site::start("");
    let (_repo, commit) = site.repo("code");
    let id = hanging(&site, job(&site, json!({"commit": commit})), json!({}));
    eventually("the job to say what it does", || {
        let job = site.coordinator.job(&id);
        let fetching = job["message"].as_str().is_some_and(|m| m.starts_with("fetching http://"));
        (job["state"] == "RUNNING" && job["substate"] == "preparing" && fetching).then_some(())
    });
    site.coordinator.reeve(&["cancel", &id]);
    assert_eq!(site.ended(&id)["state"], "CANCELLED");
    assert!(gits(&site).is_empty());
    let work = site.agent.dir.join("state/data/work");
    eventually("the directory to be gone", || {
        let left = std::fs::read_dir(&work).unwrap().flatten().any(|e| e.path().join("src").exists());
        (!left).then_some(())
    });
    site.git.set(Fault::None);
    let next = site.submit(&job(&site, json!({"commit": commit})));
    assert_eq!(site.ended(&next)["state"], "COMPLETED", "{}", site.output(&next));
}

#[test]
fn the_jobs_own_time_limit_counts_its_checkout() {
    let site = Site::start("");
    let (_repo, commit) = site.repo("code");
    site.git.set(Fault::Hang);
    let mut spec = job(&site, json!({"commit": commit}));
    // Shorter than git takes to be seen, perhaps: whatever the checkout is at, its time is up.
    (spec["timeout_s"], spec["grace_s"]) = (json!(1.0), json!(1.0));
    let id = site.submit(&spec);
    assert_eq!(site.ended(&id)["cause"]["kind"], "timeout");
    assert!(gits(&site).is_empty());
}

#[test]
fn agent_keeper_and_coordinator_may_die_during_a_checkout() {
    let mut site = Site::start("");
    let (_repo, commit) = site.repo("code");
    let id = hanging(&site, job(&site, json!({"ref": "main"})), json!({}));
    eventually("preparing", || (site.coordinator.job(&id)["substate"] == "preparing").then_some(()));
    let dir = site.agent.dir.to_string_lossy().into_owned();
    let keeper = processes(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        line.contains("\0keeper\0--dir") && line.contains(&dir) && parent_is_not(pid, &dir)
    });
    for pid in &keeper {
        kill_process(Pid::from_raw(*pid as i32).unwrap(), Signal::KILL).unwrap();
    }
    assert_eq!(keeper.len(), 1);
    site.agent.daemon.as_mut().unwrap().kill();
    site.coordinator.daemon.take().unwrap().kill();
    site.agent.daemon = None;
    let listen = site.listen.clone();
    site.coordinator.run(&listen, &[]);
    site.git.set(Fault::None);
    site.agent.run();
    let ended = site.ended(&id);
    assert_eq!((ended["state"].as_str(), ended["attempt"].as_u64()), (Some("COMPLETED"), Some(1)), "{ended}");
    assert_eq!(ended["spec"]["git"]["commit"], commit.as_str(), "what was resolved meanwhile is told");
}

/// A guardian is a copy of its keeper with the same words; the keeper's parent is no keeper.
fn parent_is_not(pid: u32, dir: &str) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let parent = status.lines().find_map(|l| l.strip_prefix("PPid:")).unwrap_or("").trim().to_owned();
    let line = std::fs::read(format!("/proc/{parent}/cmdline")).unwrap_or_default();
    let line = String::from_utf8_lossy(&line).into_owned();
    !(line.contains("\0keeper\0") && line.contains(dir))
}
