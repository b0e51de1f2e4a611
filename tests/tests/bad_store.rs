//! Stores that were damaged, swapped, lost or locked while no coordinator ran: each is refused with 74, in words that name
//! the next command, and is never served from; what a crash may leave behind is accepted.
//!
//! Beside this: `by_hand.rs` has the absent and the newer store and the second coordinator, `store/open.rs` the foreign
//! file and the torn high-water mark, `store/maintain.rs` backups of junk.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]
use reeve_tests::http;
use reeve_tests::machine::{Agent, Coordinator};
use reeve_tests::{alive, eventually, skip};
use rustix::process::Signal;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

/// A store with some acknowledged jobs in a log that was not folded in: the coordinator was killed.
fn killed(jobs: usize) -> Coordinator {
    let mut c = Coordinator::start("127.0.0.1:0");
    for _ in 0..jobs {
        assert_eq!(hold(&c).status, 201);
    }
    c.daemon.take().unwrap().finish(Signal::KILL);
    c
}

fn hold(c: &Coordinator) -> http::Answer {
    http::post(&c.socket(), "/v1/jobs", r#"{"command":["true"],"hold":true}"#)
}

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs the coordinator on a store that it must refuse; gives what it says.
fn refused(c: &Coordinator, case: &str) -> String {
    let output = c.command(&["run", "--listen", "127.0.0.1:0"]).output().unwrap();
    let said = words(&output);
    assert_eq!(output.status.code(), Some(74), "{case}: {said}");
    assert!(std::os::unix::net::UnixStream::connect(c.socket()).is_err(), "{case}: it never serves");
    said
}

fn edit(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).unwrap();
    change(&mut bytes);
    std::fs::write(path, bytes).unwrap();
}

type Damage = fn(&Path);

#[test]
fn a_log_that_lost_something_acknowledged_is_refused_until_somebody_decides() {
    let lose: [(&str, Damage); 4] = [
        ("cut by 100 bytes", |log| edit(log, |bytes| bytes.truncate(bytes.len() - 100))),
        ("cut in the middle", |log| edit(log, |bytes| bytes.truncate(bytes.len() / 2))),
        ("one bit flipped", |log| edit(log, |bytes| bytes[3 * (24 + 4096) + 777] ^= 4)),
        ("deleted", |log| std::fs::remove_file(log).unwrap()),
    ];
    for (case, lose) in lose {
        let mut c = killed(8);
        lose(&c.data().join("reeve.db-wal"));
        let said = refused(&c, case);
        assert!(
            said.contains("had been acknowledged") && said.contains("restore --accept-loss"),
            "{case}: {said}"
        );
        assert_eq!(refused(&c, case), said, "it does not become better by trying");
        let accept =
            c.command(&["store", "restore", "--accept-loss", "--dir"]).arg(c.data()).output().unwrap();
        assert!(accept.status.success(), "{case}: {}", words(&accept));
        c.run("127.0.0.1:0", &[]);
        let id = hold(&c).json()["id"].as_u64().unwrap();
        assert!(id > 1_000_000, "{case}: number {id} may have been given to somebody");
    }
}

#[test]
fn half_a_commit_that_nobody_was_told_of_is_no_damage() {
    let mut c = killed(8);
    edit(&c.data().join("reeve.db-wal"), |bytes| {
        let frame = bytes[bytes.len() - 4120..].to_vec();
        bytes.extend_from_slice(&frame[..2000]);
    });
    c.run("127.0.0.1:0", &[]);
    for id in 1..=8 {
        assert_eq!(c.job(&id.to_string())["id"], id);
    }
    assert_eq!(hold(&c).json()["id"], 9);
}

#[test]
fn a_damaged_page_of_the_store_is_refused_and_a_backup_brings_it_back() {
    let mut c = killed(8);
    c.run("127.0.0.1:0", &[]);
    let backup = c.dir.path().join("backup.db");
    let made = c.command(&["store", "backup", "--dir"]).arg(c.data()).arg(&backup).output().unwrap();
    assert!(made.status.success(), "{}", words(&made));
    assert_eq!(c.stop(), Some(0));
    // After an orderly stop everything lies in the one file; the mark of that stop is taken away, as by a crash.
    let store = c.data().join("reeve.db");
    let crashed = || {
        let conn = rusqlite::Connection::open(&store).unwrap();
        conn.execute("UPDATE meta SET value = '0' WHERE key = 'clean'", []).unwrap();
        conn.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    };
    crashed();
    let good = std::fs::read(&store).unwrap();
    let pages = good.len() / 4096;
    // The byte that says what kind of page it is, of every page in turn: found, or the page is a free one and harmless.
    let mut found = 0;
    for page in (1..pages).step_by((pages / 12).max(1)) {
        let mut bad = good.clone();
        bad[page * 4096] ^= 0x55;
        std::fs::write(&store, &bad).unwrap();
        let said = refused(&c, &format!("page {page}"));
        assert!(said.contains("damaged") && said.contains("store restore"), "{said}");
        found += 1;
    }
    assert!(found > 5);
    let restored = c.command(&["store", "restore", "--dir"]).arg(c.data()).arg(&backup).output().unwrap();
    assert!(restored.status.success(), "{}", words(&restored));
    c.run("127.0.0.1:0", &[]);
    assert_eq!(c.job("8")["state"], "QUEUED");
}

#[test]
fn a_store_that_was_taken_away_is_not_begun_anew() {
    let c = killed(2);
    for file in ["reeve.db", "reeve.db-wal", "reeve.db-shm"] {
        std::fs::remove_file(c.data().join(file)).unwrap();
    }
    let said = refused(&c, "deleted");
    assert!(said.contains("no store in") && said.contains("restore"), "{said}");
    let init = c.command(&["init"]).output().unwrap();
    assert!(!init.status.success(), "the keys of a cluster are there: its store is missing, not new");
    std::fs::remove_dir_all(c.data()).unwrap();
    std::fs::create_dir(c.data()).unwrap();
    let said = refused(&c, "empty directory");
    assert!(said.contains("reeve-coordinator init") && said.contains("restore"), "{said}");
}

#[test]
fn a_store_that_may_not_be_written_is_refused_in_words() {
    const NAME: &str = "a_store_that_may_not_be_written_is_refused_in_words";
    let c = killed(2);
    let data = c.data();
    let bind = |words: &[&str]| Command::new("mount").args(words).arg(&data).output();
    // Root may write everywhere but where nobody may.
    let made = bind(&["--bind", data.to_str().unwrap()]).and_then(|_| bind(&["-o", "remount,ro,bind"]));
    let done = made.as_ref().is_ok_and(|output| output.status.success());
    if done {
        let said = refused(&c, "read-only");
        let undone = Command::new("umount").arg("-l").arg(&data).output().unwrap();
        assert!(undone.status.success(), "{}", words(&undone));
        assert!(said.contains(data.to_str().unwrap()), "{said}");
        assert!(said.to_lowercase().contains("read-only"), "{said}");
        return;
    }
    let _ = Command::new("umount").arg("-l").arg(&data).output();
    if rustix::process::geteuid().is_root() {
        return skip(NAME, "root writes everywhere, and nothing can be mounted here");
    }
    let set = |mode: u32| std::fs::set_permissions(&data, std::fs::Permissions::from_mode(mode)).unwrap();
    set(0o500);
    let said = refused(&c, "no permission");
    set(0o700);
    assert!(said.contains(data.to_str().unwrap()) && said.contains("denied"), "{said}");
}

/// Copies what lies in a directory, not what lies below it.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten().filter(|e| e.path().is_file()) {
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// An old copy put in place by hand: where the mark beside it is younger the start is refused, and where it is old, too,
/// the machines refuse to come. `restore` makes it another store: what they run is kept and shown.
#[test]
fn an_old_copy_is_found_out_by_the_mark_or_by_the_machines_and_restored_on_purpose() {
    let mut c = Coordinator::start("127.0.0.1:0");
    let agent = Agent::start(c.dir.path(), "box", &c.token(), &[]);
    let up = |c: &Coordinator| {
        eventually("the machine to be up", || (c.machine("box")["state"] == "up").then_some(()));
    };
    up(&c);
    // A copy of the whole directory while it is used, as a snapshot of the disk makes one.
    let old = c.dir.path().join("old");
    copy(&c.data(), &old);
    let submitted = c.reeve(&["submit", "--", "sleep", "600"]);
    let id = String::from_utf8(submitted.stdout).unwrap().trim().to_owned();
    let pid =
        eventually("the job to run", || c.job(&id)["attempts"][0]["pid"].as_u64().filter(|pid| *pid > 0));
    // More than the old copy will write of its own before the machine is back.
    for _ in 0..20 {
        assert_eq!(hold(&c).status, 201);
    }
    let seq = || {
        let seen = std::fs::read_to_string(agent.dir.join("state/seen.json")).unwrap();
        serde_json::from_str::<serde_json::Value>(&seen).unwrap()["seq"].as_u64()
    };
    eventually("the machine to learn how far the store is", || seq().filter(|seq| *seq > 20));
    assert_eq!(c.stop(), Some(0));

    for end in ["", "-wal", "-shm"] {
        let name = format!("reeve.db{end}");
        let _ = std::fs::remove_file(c.data().join(&name));
        std::fs::copy(old.join(&name), c.data().join(&name)).unwrap();
    }
    let said = refused(&c, "only the store is old");
    assert!(said.contains("had been acknowledged"), "{said}");

    copy(&old, &c.data());
    c.run_again();
    let health = eventually("the machine to be turned away", || {
        let health = http::get(&c.socket(), "/v1/health").json();
        health.to_string().contains("recovery required").then_some(health)
    });
    assert_ne!(health["status"], "ok", "{health}");
    assert!(health.to_string().contains("store restore --accept-loss"), "{health}");
    eventually("the machine says it, too", || agent.log().contains("recovery required").then_some(()));
    assert_ne!(c.machine("box")["state"], "up");
    assert!(alive(pid as u32), "its job runs on");
    assert_eq!(c.stop(), Some(0));

    let restored = c.command(&["store", "restore", "--accept-loss", "--dir"]).arg(c.data()).output().unwrap();
    assert!(restored.status.success(), "{}", words(&restored));
    c.run_again();
    // It was told to wait for somebody; that somebody starts it again.
    let mut agent = agent;
    agent.daemon.take().unwrap().finish(Signal::TERM);
    agent.run();
    up(&c);
    eventually("what this store does not know to be shown", || {
        let health = http::get(&c.socket(), "/v1/health").text();
        health.contains("1 attempts that this coordinator does not know").then_some(())
    });
    assert!(alive(pid as u32), "what this store does not know is kept");
    let next = hold(&c).json()["id"].as_u64().unwrap();
    assert!(next > 1_000_000, "{next}");
    let ran = c.reeve(&["submit", "--wait", "--", "true"]);
    assert!(ran.status.success(), "new work runs beside it: {}", words(&ran));
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid as i32).unwrap(), Signal::KILL).unwrap();
}
