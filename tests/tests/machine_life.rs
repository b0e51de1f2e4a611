//! The life of a machine in its cluster, on real binaries: certificates that are renewed while jobs run, cordon and drain,
//! removal, and the audit of all of it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]
use reeve_protocol::time::Wall;
use reeve_tests::machine::{Agent, Coordinator, join};
use reeve_tests::{alive, eventually, http};
use rustix::process::Signal;
use serde_json::Value;

fn started(life: Option<&str>) -> Coordinator {
    let life = life.map(|life| ("REEVE_CERTIFICATE_LIFE", life.to_owned()));
    Coordinator::start_with("127.0.0.1:0", life.into_iter().collect())
}

fn up(c: &Coordinator, machine: &str) {
    eventually(&format!("{machine} to be up"), || (c.machine(machine)["state"] == "up").then_some(()));
}

fn ok(c: &Coordinator, words: &[&str]) -> String {
    let output = c.reeve(words);
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A job that runs until it is ended: its number and its process.
fn running(c: &Coordinator) -> (String, u32) {
    let id = ok(c, &["submit", "--", "sleep", "1000"]).trim().to_owned();
    let pid = eventually("the job to run", || {
        let job = c.job(&id);
        job["attempts"][0]["pid"].as_u64().filter(|_| job["state"] == "RUNNING")
    });
    (id, u32::try_from(pid).unwrap())
}

fn events(c: &Coordinator, what: &str) -> usize {
    let text = http::get(&c.socket(), "/v1/events").text();
    text.lines().filter(|line| serde_json::from_str::<Value>(line).unwrap()["what"] == what).count()
}

/// The end of the machine's certificate, wall milliseconds.
fn until(c: &Coordinator, machine: &str) -> i64 {
    let shown = c.machine(machine)["certificate_until"].clone();
    serde_json::from_value::<Wall>(shown).unwrap().0
}

#[test]
fn a_certificate_is_renewed_three_times_while_a_job_runs_and_each_is_used() {
    let c = started(Some("18s"));
    let mut agent = Agent::start(c.dir.path(), "one", &c.token(), &[]);
    up(&c, "one");
    let (job, pid) = running(&c);
    for round in 1..=3 {
        let before = until(&c, "one");
        eventually(&format!("renewal {round}"), || (until(&c, "one") > before).then_some(()));
        // The next connection shows it: an agent that is killed and comes back reads it from its disk.
        agent.daemon.take().unwrap().finish(Signal::KILL);
        agent.run();
        eventually("the new certificate to be used", || {
            (events(&c, "certificate_renewed") == round).then_some(())
        });
        up(&c, "one");
    }
    let shown = c.job(&job);
    assert_eq!((&shown["state"], &shown["attempt"]), (&"RUNNING".into(), &1.into()));
    assert!(alive(pid), "no attempt was disturbed");
    let shown = ok(&c, &["machine", "show", "one"]);
    assert!(shown.contains("certificate") && shown.contains("good until"), "{shown}");
    assert!(ok(&c, &["audit"]).matches("renew_certificate").count() >= 3);
    ok(&c, &["cancel", &job]);
    eventually("the job to end", || (!alive(pid)).then_some(()));
}

#[test]
fn a_renewal_that_cannot_be_kept_is_shown_with_its_reason_and_disturbs_nothing() {
    let c = started(Some("18s"));
    let agent = Agent::start(c.dir.path(), "one", &c.token(), &[]);
    up(&c, "one");
    // Something is in the way that not even root replaces.
    std::fs::create_dir(agent.dir.join("state/machine.new")).unwrap();
    std::fs::write(agent.dir.join("state/machine.new/x"), "").unwrap();
    let shown = eventually("the failure to be shown", || {
        let machine = c.machine("one");
        machine["renewal_error"].is_string().then_some(machine)
    });
    assert!(shown["renewal_error"].as_str().unwrap().contains("machine.pem"), "{shown}");
    assert!(shown["renewal_failed_at"].is_string() && shown["state"] == "up");
    assert!(ok(&c, &["machine", "show", "one"]).contains("fails since"));
    std::fs::remove_dir_all(agent.dir.join("state/machine.new")).unwrap();
    eventually("the next attempt to succeed", || c.machine("one")["renewal_error"].is_null().then_some(()));
}

#[test]
fn an_expired_certificate_is_refused_with_words_about_clocks_and_a_new_token_takes_its_place() {
    let c = started(Some("12s"));
    let mut agent = Agent::start(c.dir.path(), "one", &c.token(), &[]);
    up(&c, "one");
    agent.daemon.take().unwrap().finish(Signal::TERM);
    let end = until(&c, "one");
    eventually("the certificate to expire", || {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        // Certificates count whole seconds, the last one included.
        (now.as_millis() > (end + 1_000).unsigned_abs().into()).then_some(())
    });
    agent.run();
    eventually("the agent to say why", || {
        let log = agent.log();
        (log.contains("certificate has expired") && log.contains("clock")).then_some(())
    });
    agent.daemon.take().unwrap().finish(Signal::TERM);
    assert!(!join(&agent.dir, &[], "one", &c.token()).status.success(), "its name is still the old one's");
    ok(&c, &["machine", "rm", "one"]);
    let joined = join(&agent.dir, &[], "one", &c.token());
    assert!(joined.status.success(), "{}", String::from_utf8_lossy(&joined.stderr));
    agent.run();
    up(&c, "one");
}

#[test]
fn a_removed_machine_is_cut_ends_its_jobs_and_never_comes_back() {
    let mut c = started(None);
    let mut agent = Agent::start(c.dir.path(), "one", &c.token(), &[]);
    up(&c, "one");
    let (job, pid) = running(&c);
    let refused = c.reeve(&["machine", "rm", "one"]);
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(1) && words.contains("1 attempt runs"), "{words}");
    ok(&c, &["machine", "rm", "--force", "one"]);
    let shown = c.job(&job);
    assert_eq!((&shown["state"], &shown["attempts"][0]["cause"]["kind"]), (&"QUEUED".into(), &"lost".into()));
    eventually("its processes to end", || (!alive(pid)).then_some(()));
    eventually("the agent to say what to do", || {
        agent.log().contains("join HOST --token-file").then_some(())
    });
    assert_eq!(http::get(&c.socket(), "/v1/machines/one").status, 404);
    // Over a restart of both.
    let listen = http::get(&c.socket(), "/v1/health").json()["listen"].as_str().unwrap().to_owned();
    c.stop();
    c.run(&listen, &[]);
    agent.daemon.take().unwrap().finish(Signal::TERM);
    let said = agent.log().len();
    agent.run();
    eventually("the same certificate to be refused again", || {
        agent.log().get(said..).is_some_and(|log| log.contains("was removed")).then_some(())
    });
    assert_eq!(http::get(&c.socket(), "/v1/machines/one").status, 404);
    // Its name is free for another.
    let _other = Agent::start(&c.data(), "one", &c.token(), &[]);
    up(&c, "one");
    eventually("the job to run again there", || (c.job(&job)["state"] == "RUNNING").then_some(()));
    ok(&c, &["cancel", &job]);
    eventually("the job to end", || (c.job(&job)["state"] == "CANCELLED").then_some(()));
    let verified = c.command(&["store", "verify", "--dir", c.data().to_str().unwrap()]).output().unwrap();
    assert!(String::from_utf8_lossy(&verified.stdout).contains("its audit has"), "{verified:?}");
}

#[test]
fn cordon_and_drain_from_the_command_line() {
    let c = started(None);
    let _agent = Agent::start(c.dir.path(), "one", &c.token(), &[]);
    up(&c, "one");
    let (job, pid) = running(&c);
    assert_eq!(ok(&c, &["machine", "cordon", "one"]), "one cordoned, 1 running\n");
    let waiting = ok(&c, &["submit", "--", "true"]).trim().to_owned();
    assert!(ok(&c, &["why", &waiting]).contains("is cordoned"));
    assert!(ok(&c, &["machine", "ls"]).contains("cordoned"));
    assert_eq!(ok(&c, &["machine", "uncordon", "one"]), "one up, 1 running\n");
    ok(&c, &["wait", &waiting]);
    let emptied = ok(&c, &["machine", "drain", "--deadline", "1s", "--wait", "one"]);
    assert!(
        emptied.starts_with("one draining, 1 running\n") && emptied.ends_with("one drained\n"),
        "{emptied}"
    );
    assert!(!alive(pid));
    let shown = c.job(&job);
    assert_eq!(
        (&shown["state"], &shown["attempts"][0]["cause"]["kind"]),
        (&"QUEUED".into(), &"drained".into())
    );
    assert!(ok(&c, &["why", &job]).contains("is draining"));
    ok(&c, &["machine", "uncordon", "one"]);
    eventually("the job to run again", || (c.job(&job)["state"] == "RUNNING").then_some(()));
    ok(&c, &["cancel", &job]);
    eventually("the job to end", || (c.job(&job)["state"] == "CANCELLED").then_some(()));
    let wrong = c.reeve(&["machine", "drain", "on"]);
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("did you mean \"one\""), "{wrong:?}");
}
