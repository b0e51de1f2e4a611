//! Every way a checkout can fail, with a real server that misbehaves: each has its class, and with it whether trying again
//! can help.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]
use reeve_tests::eventually;
use reeve_tests::git_server::Fault;
use reeve_tests::site::Site;
use serde_json::{Value, json};
use std::path::Path;

fn job(git: Value) -> Value {
    json!({"command": ["cat", "hello"], "git": git})
}

/// How the first attempt ended; the job is not waited for, since some failures are tried again.
fn first_cause(site: &Site, id: &str) -> Value {
    let cause = eventually(&format!("the end of the first attempt of job {id}"), || {
        Some(site.coordinator.job(id)["attempts"][0]["cause"].clone()).filter(|cause| !cause.is_null())
    });
    site.coordinator.reeve(&["cancel", id]);
    cause
}

fn is_checkout(cause: &Value, what: &str) -> bool {
    cause["kind"] == "checkout"
        && cause["what"] == what
        && cause["detail"].as_str().is_some_and(|d| !d.is_empty())
}

#[test]
fn what_a_server_does_wrong_has_its_class() {
    let site = Site::start("[git]\nstall_s = 5\n");
    let (_repo, commit) = site.repo("code");
    let url = site.git.url("code");
    for (fault, what) in [
        (Fault::Status(403), "auth"),
        (Fault::Status(404), "auth"),
        (Fault::Password, "auth"),
        (Fault::Redirect("https://elsewhere.invalid"), "ref"),
        (Fault::Status(503), "network"),
        (Fault::Truncate, "network"),
        (Fault::Hang, "network"),
    ] {
        site.git.set(fault);
        let id = site.submit(&job(json!({"url": url, "commit": commit})));
        let cause = first_cause(&site, &id);
        assert!(is_checkout(&cause, what), "{fault:?}: {cause}");
        let logs = site.coordinator.reeve(&["logs", "--attempt", "1", &id]);
        let words = String::from_utf8_lossy(&logs.stdout).into_owned();
        assert!(words.contains(&format!("reeve: checkout {what}: ")), "{words}");
    }
    site.git.set(Fault::None);
    let id = site.submit(&job(json!({"url": url, "commit": commit})));
    assert_eq!(site.ended(&id)["state"], "COMPLETED", "what failed before has left nothing behind");
}

#[test]
fn what_a_job_names_wrongly_fails_at_once_and_is_its_own_fault() {
    let site = Site::start("[git]\nallow = [\"http://127.0.0.1*\"]\n");
    let (repo, commit) = site.repo("code");
    std::os::unix::fs::symlink("/etc", repo.dir().join("out")).unwrap();
    let linked = repo.commit();
    let blob = repo.git(&["rev-parse", "HEAD:hello"]);
    repo.git(&["tag", "-a", "v1", "-m", "x"]);
    let tag = repo.git(&["rev-parse", "v1"]);
    let url = site.git.url("code");
    let patch =
        reeve_protocol::patch::Patch::new(b"--- a/hello\n+++ b/hello\n@@ -1 +1 @@\n-other\n+x\n").unwrap();
    for (git, what) in [
        (json!({"url": url, "ref": "nowhere"}), "ref"),
        (json!({"url": url, "ref": "abc1234"}), "ref"),
        (json!({"url": url, "commit": "0".repeat(40)}), "ref"),
        (json!({"url": url, "commit": blob}), "ref"),
        (json!({"url": url, "commit": tag}), "ref"),
        (json!({"url": url, "commit": commit, "subdir": "missing"}), "ref"),
        (json!({"url": url, "commit": linked, "subdir": "out"}), "ref"),
        (json!({"url": site.git.url("missing"), "ref": "main"}), "auth"),
        (json!({"url": url, "commit": commit, "patch": patch}), "mismatch"),
    ] {
        let id = site.submit(&job(git.clone()));
        let ended = site.ended(&id);
        assert!(is_checkout(&ended["cause"], what), "{git}: {}", ended["cause"]);
        assert_eq!(ended["attempt"], 1, "trying again cannot help: {git}");
    }
    let id = site.submit(&job(json!({"url": "https://elsewhere.invalid/r"})));
    let refused = site.ended(&id);
    assert_eq!(refused["cause"]["kind"], "rejected");
    assert!(refused["cause"]["detail"].as_str().unwrap().contains("allow"), "{refused}");
    // Not in the list, but the job's own user's.
    let id = site.submit(&job(json!({"url": repo.url(), "commit": commit})));
    assert_eq!(site.ended(&id)["state"], "COMPLETED", "{}", site.output(&id));
}

#[test]
fn a_network_that_comes_back_is_tried_again_and_the_commit_stays() {
    let site = Site::start("");
    let (repo, commit) = site.repo("code");
    site.git.set(Fault::Status(503));
    let id = site.submit(&job(json!({"url": site.git.url("code"), "ref": "main"})));
    eventually("a failed attempt", || {
        is_checkout(&site.coordinator.job(&id)["attempts"][0]["cause"], "network").then_some(())
    });
    site.git.set(Fault::None);
    let ended = site.ended(&id);
    assert_eq!(ended["state"], "COMPLETED");
    assert!(ended["attempt"].as_u64() > Some(1));
    assert_eq!(ended["spec"]["git"]["commit"], commit.as_str(), "the machine has resolved the ref");
    let moved = repo.write("hello", "moved\n").commit();
    for (words, wanted, text) in [
        (&["restart", &id][..], &commit, "hello"),
        (&["restart", "--same", &id], &commit, "hello"),
        (&["restart", "--latest", &id], &moved, "moved"),
    ] {
        let output = site.coordinator.reeve(words);
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        let ended = site.ended(&id);
        assert_eq!(ended["spec"]["git"]["commit"], wanted.as_str(), "{words:?}");
        assert!(site.output(&id).contains(text), "{words:?}: {}", site.output(&id));
    }
}

#[test]
fn a_damaged_mirror_is_made_anew_and_stale_locks_are_removed() {
    let site = Site::start("");
    let (repo, commit) = site.repo("code");
    let run = |commit: &str| {
        let id = site.submit(&job(json!({"url": site.git.url("code"), "commit": commit})));
        assert_eq!(site.ended(&id)["state"], "COMPLETED", "{}", site.output(&id));
        site.output(&id)
    };
    run(&commit);
    let mirrors = site.cache().join("mirrors");
    let mirror = std::fs::read_dir(&mirrors).unwrap().next().unwrap().unwrap().path();
    let repository = mirror.join("repo.git");
    for lock in ["HEAD.lock", "config.lock", "shallow.lock", "packed-refs.lock"] {
        std::fs::write(repository.join(lock), "").unwrap();
    }
    let second = repo.write("more", "1").commit();
    std::fs::write(repository.join(format!("refs/reeve/{second}.lock")), "").unwrap();
    run(&second);
    // Git itself fetches again what it finds damaged in time.
    damage(&repository.join("objects"));
    let third = repo.write("more", "2").commit();
    run(&third);
    // Found out only while checking out: the images are what spares the objects otherwise.
    damage(&repository.join("objects"));
    std::fs::remove_dir_all(mirror.join("images")).unwrap();
    assert!(run(&third).contains("made anew"));
}

/// Cuts every object short.
fn damage(dir: &Path) {
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            damage(&path);
        } else {
            let len = entry.metadata().unwrap().len();
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
            std::fs::File::options().write(true).open(&path).unwrap().set_len(len / 2).unwrap();
        }
    }
}

#[test]
fn a_disk_that_cannot_be_written_and_a_checkout_that_takes_too_long_have_their_class() {
    let site = Site::start("[git]\ntimeout_s = 2\n");
    let (_repo, commit) = site.repo("code");
    let spec = job(json!({"url": site.git.url("code"), "commit": commit}));
    site.git.set(Fault::Hang);
    let cause = first_cause(&site, &site.submit(&spec));
    assert!(is_checkout(&cause, "timeout"), "{cause}");
    site.git.set(Fault::None);
    std::fs::remove_dir_all(site.cache().join("locks")).unwrap();
    std::fs::write(site.cache().join("locks"), "no directory").unwrap();
    let cause = first_cause(&site, &site.submit(&spec));
    assert!(is_checkout(&cause, "disk"), "{cause}");
}

#[test]
fn a_credential_of_the_machine_opens_a_repository_and_is_never_shown() {
    let helper = "!f() { echo username=ana; echo password=secret; }; f";
    let config = format!("[[git.credentials]]\nmatch = \"http://127.0.0.1*\"\nhelper = \"{helper}\"\n");
    let site = Site::start(&config);
    let (_repo, commit) = site.repo("code");
    site.git.set(Fault::Password);
    let mut spec = job(json!({"url": site.git.url("code"), "commit": commit}));
    spec["command"] = json!(["sh", "-c", "cat hello; env; cat .git/config"]);
    let id = site.submit(&spec);
    let ended = site.ended(&id);
    assert_eq!(ended["state"], "COMPLETED", "{}", site.output(&id));
    for text in [site.output(&id), ended.to_string(), site.agent.log()] {
        assert!(!text.contains("secret"), "{text}");
    }
}
