//! The coordinator on a disk that loses what was not synced, fails a sync, writes halves, or has no room: what was
//! acknowledged is there afterwards, what was refused is not, and whatever is in between is settled by the same key.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]
use reeve_tests::broker::Redis;
use reeve_tests::disk::{Fault, power_on};
use reeve_tests::http::{self, Answer};
use reeve_tests::machine::{Agent, Coordinator};
use reeve_tests::{binary, eventually, skip, vfs};
use rusqlite::Connection;
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

fn on_bad_disk() -> Coordinator {
    let mut coordinator =
        Coordinator::init(tempfile::Builder::new().prefix("reeve-test-").tempdir().unwrap());
    coordinator.program = binary("coordinator-on-bad-disk");
    coordinator.run("127.0.0.1:0", &[]);
    coordinator
}

/// Back on an honest disk, after the process has died of the bad one.
fn again(coordinator: &mut Coordinator) {
    Fault::heal(&coordinator.data());
    coordinator.program = binary("reeve-coordinator");
    coordinator.run_again();
}

/// Submits one job under a key. Status 0: there was no answer.
fn submit(socket: &Path, key: &str) -> Answer {
    const BODY: &str = r#"{"command":["true"],"hold":true}"#;
    let head = format!(
        "POST /v1/jobs HTTP/1.1\r\nhost: x\r\nconnection: close\r\nidempotency-key: {key}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{BODY}",
        BODY.len()
    );
    match std::os::unix::net::UnixStream::connect(socket) {
        Ok(stream) => http::raw_on(stream, head.as_bytes()),
        Err(_) => Answer { status: 0, head: String::new(), body: Vec::new() },
    }
}

/// What became of each key: the job's number if it was acknowledged, `None` if nobody knows.
type Ledger = BTreeMap<String, Option<u64>>;

/// Four callers submit until the coordinator is gone.
fn submit_until_it_dies(coordinator: &Coordinator, round: usize) -> Ledger {
    let (socket, next) = (coordinator.socket(), AtomicU32::new(0));
    let work = || {
        let mut ledger = Ledger::new();
        loop {
            let key = format!("{round}-{}", next.fetch_add(1, Ordering::Relaxed));
            let answer = submit(&socket, &key);
            match answer.status {
                201 => drop(ledger.insert(key, answer.json()["id"].as_u64())),
                0 | 503 => {
                    // One that came too late to be looked at is refused for good, and is held to that.
                    if answer.status == 0 || answer.json()["outcome"] == "unknown" {
                        ledger.insert(key, None);
                    }
                    return ledger;
                }
                other => panic!("{other}: {}", answer.text()),
            }
        }
    };
    std::thread::scope(|scope| {
        let callers: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
        callers.into_iter().flat_map(|caller| caller.join().unwrap()).collect()
    })
}

/// Every acknowledged job is there under its number, and one key is one job, whatever became of the first answer.
fn settle(coordinator: &Coordinator, ledger: &Ledger) {
    let mut seen = std::collections::BTreeSet::new();
    for (key, acknowledged) in ledger {
        let answer = submit(&coordinator.socket(), key);
        let id = answer.json()["id"].as_u64().unwrap();
        match acknowledged {
            Some(known) => assert_eq!((answer.status, id), (200, *known), "job {known} was acknowledged"),
            None => assert!(matches!(answer.status, 200 | 201), "{}", answer.text()),
        }
        assert!(seen.insert(id), "two keys, one job");
    }
}

fn jobs_in_store(coordinator: &Coordinator) -> u64 {
    let store = Connection::open(coordinator.data().join("reeve.db")).unwrap();
    store.query_row("SELECT count(*) FROM jobs", [], |row| row.get(0)).unwrap()
}

#[test]
fn the_disk_of_these_tests_loses_what_was_not_synced_and_nothing_else() {
    vfs::register();
    for (synchronous, kept) in [("FULL", 3), ("OFF", 0)] {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("reeve.db");
        let store = Connection::open(&file).unwrap();
        let set_up = "PRAGMA synchronous = FULL; PRAGMA journal_mode = WAL; CREATE TABLE t (x); PRAGMA wal_checkpoint;";
        store.execute_batch(set_up).unwrap();
        store.execute_batch(&format!("PRAGMA synchronous = {synchronous}")).unwrap();
        for row in 0..3 {
            store.execute("INSERT INTO t VALUES (?1)", [row]).unwrap();
        }
        // The process is gone without closing anything.
        std::mem::forget(store);
        power_on(dir.path());
        let found = Connection::open(&file).unwrap();
        let count: i64 = found.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
        assert_eq!(count, kept, "synchronous = {synchronous}");
    }
}

#[test]
fn no_acknowledged_job_is_lost_when_the_power_fails() {
    let mut c = on_bad_disk();
    let mut ledger = Ledger::new();
    let rounds = [
        Fault::CutBeforeSync(1),
        Fault::CutBeforeSync(7),
        Fault::CutBeforeSync(40),
        Fault::CutAfterSync(1),
        Fault::CutAfterSync(23),
        Fault::CutInCheckpoint(1),
    ];
    for (round, fault) in rounds.into_iter().enumerate() {
        if matches!(fault, Fault::CutInCheckpoint(_)) {
            // Enough rows for a checkpoint at the next commit.
            let many = format!("[{}]", vec![r#"{"command":["true"],"hold":true}"#; 4_001].join(","));
            assert_eq!(http::post(&c.socket(), "/v1/jobs", &many).status, 201);
        }
        fault.set(&c.data());
        let more = submit_until_it_dies(&c, round);
        let status = c.daemon.take().unwrap().ended();
        assert_eq!(status.signal(), Some(Signal::ABORT.as_raw()), "{fault:?}");
        power_on(&c.data());
        ledger.extend(more);
        again(&mut c);
        settle(&c, &ledger);
        c.daemon.take().unwrap().finish(Signal::KILL);
        let verified = c.command(&["store", "verify"]).arg("--dir").arg(c.data()).output().unwrap();
        assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
        c.program = binary("coordinator-on-bad-disk");
        c.run_again();
    }
    let acknowledged = ledger.values().flatten().count();
    assert!(acknowledged > 50, "{acknowledged} of {} were acknowledged: not much of a load", ledger.len());
    assert_eq!(jobs_in_store(&c), ledger.len() as u64 + 4_001, "nothing was made twice");
}

#[test]
fn after_a_failed_sync_nothing_is_acknowledged_and_the_next_start_reads_the_truth() {
    for fault in [Fault::FailSync(5), Fault::TearWrite(30)] {
        let mut c = on_bad_disk();
        fault.set(&c.data());
        let ledger = submit_until_it_dies(&c, 0);
        // The one that failed is answered with unknown or not at all; whoever comes after it gets nothing either.
        let late = (0..20).map(|n| submit(&c.socket(), &format!("late-{n}"))).find(|a| a.status / 100 == 2);
        assert!(late.is_none(), "{late:?}");
        let status = c.daemon.take().unwrap().ended();
        assert_eq!(status.code(), Some(74), "{fault:?}: {}", c.log());
        assert!(c.log().contains("the store failed"), "{}", c.log());
        again(&mut c);
        settle(&c, &ledger);
        assert_eq!(jobs_in_store(&c), ledger.len() as u64, "late ones were never made");
    }
}

#[test]
fn a_checkpoint_that_cannot_be_synced_ends_the_coordinator_too() {
    let mut c = on_bad_disk();
    Fault::FailCheckpoint(1).set(&c.data());
    let many = format!("[{}]", vec![r#"{"command":["true"],"hold":true}"#; 4_001].join(","));
    assert_eq!(http::post(&c.socket(), "/v1/jobs", &many).status, 201);
    eventually("the checkpoint to fail", || c.log().contains("a checkpoint failed").then_some(()));
    let ledger = submit_until_it_dies(&c, 0);
    assert!(ledger.values().all(Option::is_none), "{ledger:?}");
    assert_eq!(c.daemon.take().unwrap().ended().code(), Some(74));
    assert!(c.log().contains("dmesg"), "{}", c.log());
    again(&mut c);
    assert_eq!(jobs_in_store(&c), 4_001);
}

#[test]
fn on_a_slow_disk_callers_wait_together_and_none_is_turned_away() {
    let c = on_bad_disk();
    Fault::SlowSync(200).set(&c.data());
    let socket = c.socket();
    std::thread::scope(|scope| {
        for n in 0..40 {
            let socket = &socket;
            scope.spawn(move || assert_eq!(submit(socket, &n.to_string()).status, 201));
        }
    });
    let syncs: u32 = std::fs::read_to_string(c.data().join("syncs")).unwrap().parse().unwrap();
    assert!(syncs < 20, "40 submits took {syncs} syncs: they did not share them");
}

#[test]
fn with_no_room_left_at_all_everything_waits_and_goes_on_by_itself() {
    let c = on_bad_disk();
    let before = submit(&c.socket(), "before");
    assert_eq!(before.status, 201);
    Fault::Full(1).set(&c.data());
    let socket = c.socket();
    std::thread::scope(|scope| {
        let stuck = scope.spawn(|| submit(&socket, "stuck"));
        eventually("the disk to be full", || c.log().contains("everything waits for room").then_some(()));
        let refused = submit(&socket, "refused");
        assert_eq!((refused.status, refused.code().as_str()), (507, "storage-full"), "{}", refused.text());
        assert_eq!(refused.json()["outcome"], "rejected");
        let read = http::get(&socket, &format!("/v1/jobs/{}", before.json()["id"]));
        assert_eq!(read.status, 200, "reading goes on");
        assert!(!stuck.is_finished(), "what was decided is neither answered nor taken back");
        Fault::heal(&c.data());
        assert_eq!(stuck.join().unwrap().status, 201);
    });
    eventually("submits to be taken again", || (submit(&socket, "after").status == 201).then_some(()));
    assert_eq!(c.log().matches(" ready ").count(), 1, "it was the same process all the time");
    assert_eq!(jobs_in_store(&c), 3, "the refused one was never made");
}

/// A small disk in memory.
struct Small {
    place: std::path::PathBuf,
}

impl Small {
    fn mount(place: &Path, size: &str) -> Result<Self, String> {
        std::fs::create_dir_all(place).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size},mode=0700"), "tmpfs"]).arg(place);
        let output = mount.output().map_err(|e| format!("mount: {e}"))?;
        if output.status.success() {
            Ok(Self { place: place.to_owned() })
        } else {
            Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
        }
    }

    /// Leaves so many bytes. Whoever else writes meanwhile may take some of what was just counted: then it is counted again.
    fn fill(&self, leave: u64) {
        let file =
            std::fs::File::options().create(true).append(true).open(self.place.join("filler")).unwrap();
        eventually("the disk to be filled", || {
            let disk = rustix::fs::statvfs(&self.place).unwrap();
            let free = (disk.f_bavail * disk.f_frsize).saturating_sub(leave);
            let had = file.metadata().unwrap().len();
            let filled = free == 0
                || rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), had, free).is_ok();
            filled.then_some(())
        });
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.place).output();
    }
}

#[test]
fn a_full_disk_refuses_submits_records_ends_and_recovers_without_a_restart() {
    const NAME: &str = "a_full_disk_refuses_submits_records_ends_and_recovers_without_a_restart";
    let dir = tempfile::Builder::new().prefix("reeve-test-").tempdir().unwrap();
    let small = match Small::mount(&dir.path().join("data"), "128m") {
        Ok(small) => small,
        Err(why) => return skip(NAME, &format!("a small disk needs root: {why}")),
    };
    let mut c = Coordinator::init(dir);
    c.run("127.0.0.1:0", &[]);
    let agent = Agent::start(c.dir.path(), "box", &c.token(), &[]);
    let go = |n: u32| c.dir.path().join(format!("go-{n}"));
    let job = |n: u32, then: &str| {
        let script = format!("until test -e {}; do sleep 0.02; done; {then}", go(n).display());
        let output = c.reeve(&["submit", "--cpus", "0.5", "--", "sh", "-c", &script]);
        let id = String::from_utf8(output.stdout).unwrap().trim().to_owned();
        eventually("the job to run", || (c.job(&id)["state"] == "RUNNING").then_some(()));
        id
    };
    let (first, second, loud) = (job(1, "echo little"), job(2, "echo little"), job(3, "seq 1 20000"));
    // Needs all that `second` leaves: it can run only where the room of `loud` is free.
    let machine = http::get(&c.socket(), "/v1/machines").json()["items"][0].clone();
    let rest = machine["cpu_milli"].as_f64().unwrap() / 1000.0 - 0.5;
    let wide = c.reeve(&["submit", "--cpus", &rest.to_string(), "--", "true"]).stdout;
    let wide = String::from_utf8(wide).unwrap().trim().to_owned();
    small.fill(4 << 20);
    let submitted = || http::post(&c.socket(), "/v1/jobs", r#"{"command":["true"]}"#);
    let refused = eventually("the gate to close", || Some(submitted()).filter(|a| a.status != 201));
    assert_eq!((refused.status, refused.code().as_str()), (507, "storage-full"), "{}", refused.text());
    assert_eq!(refused.json()["outcome"], "rejected");
    let ends = |n: u32, id: &str| {
        std::fs::write(go(n), "").unwrap();
        let job = eventually(&format!("job {id} to end"), || {
            Some(c.job(id)).filter(|job| job["state"] == "COMPLETED")
        });
        assert_eq!((&job["cause"]["kind"], &job["attempt"]), (&"ok".into(), &1.into()));
    };
    // What is too much for a row of the store waits on its machine for room.
    std::fs::write(go(3), "").unwrap();
    ends(1, &first);
    eventually("it is said what waits", || {
        let health = http::get(&c.socket(), "/v1/health").text();
        health.contains("the output of 1 ended jobs waits for room").then_some(())
    });
    let ended = eventually("what waits for room holds up nobody", || {
        Some(c.job(&wide)).filter(|job| job["state"] == "COMPLETED")
    });
    assert_eq!((&ended["cause"]["kind"], &c.job(&loud)["state"]), (&"ok".into(), &"RUNNING".into()));
    let machine = http::get(&c.socket(), "/v1/machines").json()["items"][0].clone();
    assert_eq!(machine["unrecorded"], 1, "{machine}");
    // Not a byte: only the ballast is left.
    small.fill(0);
    ends(2, &second);
    assert!(!c.data().join("ballast").exists(), "the ballast made room");
    let health = http::get(&c.socket(), "/v1/health").text();
    assert!(health.contains("disk"), "{health}");
    std::fs::remove_file(small.place.join("filler")).unwrap();
    eventually("submits to be taken again", || (submitted().status == 201).then_some(()));
    ends(3, &loud);
    let log = c.reeve(&["logs", &loud]).stdout;
    assert_eq!(String::from_utf8_lossy(&log).lines().count(), 20_000, "its output is complete");
    assert!(c.data().join("ballast").exists(), "the ballast lies there again");
    assert_eq!(c.log().matches(" ready ").count(), 1, "it was the same process all the time");
    drop(agent);
    // A start finds no room either: the ballast lets it begin.
    c.daemon.take().unwrap().finish(Signal::KILL);
    small.fill(0);
    c.run_again();
    assert_eq!(c.job(&first)["state"], "COMPLETED");
    c.daemon = None;
    drop(small);
}

#[test]
fn a_full_disk_takes_in_nothing_of_a_broker_and_loses_nothing() {
    const NAME: &str = "a_full_disk_takes_in_nothing_of_a_broker_and_loses_nothing";
    let Some(redis) = Redis::start() else { return skip(NAME, "redis-server is not installed") };
    let dir = tempfile::Builder::new().prefix("reeve-test-").tempdir().unwrap();
    let small = match Small::mount(&dir.path().join("data"), "128m") {
        Ok(small) => small,
        Err(why) => return skip(NAME, &format!("a small disk needs root: {why}")),
    };
    let mut c = Coordinator::init(dir);
    c.run("127.0.0.1:0", &[]);
    let me = http::get(&c.socket(), "/v1/whoami").json()["name"].as_str().unwrap().to_owned();
    let set = ["queue", "set", "work", "--backend", &redis.url(), "--ingress", &format!("as={me}")];
    let set = c.reeve(&set);
    assert!(set.status.success(), "{}", String::from_utf8_lossy(&set.stderr));
    let jobs =
        || http::get(&c.socket(), "/v1/jobs?filter=name:outside").json()["items"].as_array().unwrap().len();
    let publish = |from: u32, to: u32| {
        for n in from..to {
            let spec = r#"{"command":["true"],"name":"outside","hold":true}"#;
            redis.cli(&["xadd", "reeve:q:work:in", "*", "id", &format!("m-{n}"), "body", spec]);
        }
    };
    publish(0, 3);
    eventually("what is published becomes jobs", || (jobs() == 3).then_some(()));
    small.fill(4 << 20);
    let submitted = || http::post(&c.socket(), "/v1/jobs", r#"{"command":["true"]}"#);
    eventually("the gate to close", || (submitted().status == 507).then_some(()));
    publish(3, 40);
    // What there was room for is held, unless that room was taken back by then. This question passes the core: it has looked.
    assert_eq!(http::get(&c.socket(), "/v1/queues").status, 200);
    assert_eq!(redis.cli(&["xlen", "reeve:q:work:in"]), "37");
    assert_eq!(jobs(), 3, "nothing is taken in");
    std::fs::remove_file(small.place.join("filler")).unwrap();
    eventually("all of it comes", || (jobs() == 40).then_some(()));
    eventually("the broker hears it", || (redis.cli(&["xlen", "reeve:q:work:in"]) == "0").then_some(()));
    assert_eq!(jobs(), 40, "once each");
}
