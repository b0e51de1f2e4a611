//! Every place where a daemon can die between two steps that belong together: it dies exactly there, comes back, and the
//! outcome is the one the table says. What ran is proved by the jobs themselves: each attempt makes a file of its own that
//! must not exist yet.
//!
//! The design is written down for machines with a synced journal: *accepted*, *journaled*, *exit record*. Here the journal
//! of a machine is its living processes: a guardian *is* the record of its attempt, and the keeper finds the guardians by
//! their sockets. So the rows read as follows.
//!
//! | row | there | here |
//! |---|---|---|
//! | C1 | the coordinator dies before the commit | `commit.before`, `commit.inside` |
//! | C2, C10 | inside COMMIT | `bad_disk.rs`: dead before, and after, the sync took effect |
//! | C3, C4 | committed; not replied, not in the memory index | `commit.after`, `release.before` of a submit |
//! | C5-C9 | the broker's hints | there is no broker yet |
//! | C11 | claimed, Dispatch not sent | `release.half`: callers are answered, frames are not sent |
//! | C12 | Dispatch sent, Accepted not seen | `agent.start-received`, `keeper.start-received`, `keeper.forked` |
//! | C13 | Started seen, not committed | `commit.before` of a start; `keeper.started-unsent`, `agent.started-unsent` |
//! | C14, C23 | coordinator, and agent, die while jobs run | `commit.after` of a start; `survive.rs` kills both at once |
//! | C15 | the agent dies while jobs run | `agent.started-unsent` |
//! | C16 | the shim dies | `guardian.started`: its command runs already |
//! | C18 | the shim dies before its record is synced | `guardian.ended` and `guardian.sealed`: the end is unknown, not guessed |
//! | C19 | recorded, the agent dies before reporting | `keeper.finished-unsent`, `agent.finished-unsent`, `agent.output-sent`, `agent.artifacts-sent` |
//! | C20 | Finished sent, not committed | `commit.before`, `commit.inside` of an end |
//! | C21 | committed, FinishAck not sent | `commit.after`, `release.before`, `release.half` of an end |
//! | C22 | FinishAck received, not obeyed | `agent.received.forget`, `keeper.forget-received`, `guardian.forgotten` |
//! | C17, C24-C27 | hosts and networks | no crash points: tests of reattachment and of partitions |
//! | C28-C31 | the broker's faults | there is no broker yet |
//! | C32 | cancel against claim | `commit.before`, `commit.after`, `release.half` of a cancel; `agent.received.stop`, `keeper.stop-received` |
//! | C33 | cancel against finish | `commit.after` of a cancel while the command ends by itself |
//! | C34-C37 | the store's disk | `bad_disk.rs` and `bad_store.rs` |
//! | C38, C39 | the machine's disk | no crash points: tests of reattachment |
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]
use reeve_tests::http::{self, Answer};
use reeve_tests::machine::{Agent, Coordinator};
use reeve_tests::{eventually, eventually_or};
use rustix::process::Signal;
use serde_json::Value;
use std::path::PathBuf;

/// What is going on when the process dies.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Scene {
    /// A short command is submitted.
    Short,
    /// The same, with more output than a message carries, and a file that is left behind.
    Loud,
    /// A job is submitted that is held, so that nothing is dispatched by the same commit; it is released afterwards.
    Held,
    /// A job that was held is released: the commit dispatches and nothing else.
    Release,
    /// A command that runs until it is let go, afterwards.
    Long,
    /// A command that has run before is cancelled.
    Cancel,
    /// The same, and it ends by itself before anybody has told it to.
    CancelAndEnd,
}

/// What the submit with the same key says after the crash.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Again {
    /// The job was not there: it is made now.
    Made,
    /// It was there.
    Replayed,
}

struct Row {
    name: &'static str,
    at: &'static str,
    scene: Scene,
    again: Again,
    /// The outcomes that are right: more than one where the death races with something that was on its way.
    outcomes: &'static [Outcome],
    state: &'static str,
}

/// How each attempt ended, in order; and the attempts whose command ran.
type Outcome = (&'static [&'static str], &'static [u32]);

/// Nothing was lost but time.
const KEPT: Outcome = (&["ok"], &[1]);
/// The first attempt never began, which costs the job nothing.
const RETURNED: Outcome = (&["rejected", "ok"], &[2]);
const CANCELLED: Outcome = (&["cancelled"], &[1]);
/// The guardian died; its command may have come to do something, or not.
const LOST: Outcome = (&["keeper_lost", "ok"], &[1, 2]);
const LOST_EARLY: Outcome = (&["keeper_lost", "ok"], &[2]);

const fn row(
    name: &'static str,
    at: &'static str,
    scene: Scene,
    again: Again,
    outcomes: &'static [Outcome],
) -> Row {
    let state = if matches!(scene, Cancel) { "CANCELLED" } else { "COMPLETED" };
    Row { name, at, scene, again, outcomes, state }
}

use Again::{Made, Replayed};
use Scene::{Cancel, CancelAndEnd, Held, Long, Loud, Release, Short};

#[test]
fn the_coordinator_dies_around_a_submit_and_a_dispatch() {
    run(&[
        row("C1", "commit.before.submit", Short, Made, &[KEPT]),
        row("C1", "commit.inside.submit", Short, Made, &[KEPT]),
        row("C3", "commit.after.submit", Held, Replayed, &[KEPT]),
        row("C4", "release.before.submit", Held, Replayed, &[KEPT]),
        row("C10", "commit.before.dispatch", Release, Replayed, &[KEPT]),
        row("C10", "commit.inside.dispatch", Release, Replayed, &[KEPT]),
        row("C11", "commit.after.submit", Short, Replayed, &[RETURNED]),
        row("C11", "commit.after.dispatch", Release, Replayed, &[RETURNED]),
        row("C11", "release.half.submit", Short, Replayed, &[RETURNED]),
        row("C12", "release.after.submit", Short, Replayed, &[KEPT, RETURNED]),
    ]);
}

#[test]
fn the_coordinator_dies_around_a_start_an_end_and_a_cancel() {
    run(&[
        row("C13", "commit.before.start", Long, Replayed, &[KEPT]),
        row("C14", "commit.after.start", Long, Replayed, &[KEPT]),
        row("C20", "commit.before.end", Short, Replayed, &[KEPT]),
        row("C20", "commit.inside.end", Loud, Replayed, &[KEPT]),
        row("C21", "commit.after.end", Loud, Replayed, &[KEPT]),
        row("C21", "release.before.end", Short, Replayed, &[KEPT]),
        row("C21", "release.half.end", Short, Replayed, &[KEPT]),
        row("C32", "commit.before.cancel", Cancel, Replayed, &[CANCELLED]),
        row("C32", "commit.after.cancel", Cancel, Replayed, &[CANCELLED]),
        row("C32", "release.half.cancel", Cancel, Replayed, &[CANCELLED]),
        row("C33", "commit.after.cancel", CancelAndEnd, Replayed, &[KEPT]),
    ]);
}

#[test]
fn the_agent_dies_with_a_word_in_its_hand() {
    run(&[
        row("C12", "agent.start-received", Short, Replayed, &[RETURNED]),
        row("C15", "agent.started-unsent", Long, Replayed, &[KEPT]),
        row("C19", "agent.finished-unsent", Short, Replayed, &[KEPT]),
        row("C19", "agent.output-sent", Loud, Replayed, &[KEPT]),
        row("C19", "agent.artifacts-sent", Loud, Replayed, &[KEPT]),
        row("C22", "agent.received.forget", Short, Replayed, &[KEPT]),
        row("C32", "agent.received.stop", Cancel, Replayed, &[CANCELLED]),
    ]);
}

#[test]
fn the_keeper_dies_between_two_of_its_acts() {
    run(&[
        row("C12", "keeper.start-received", Short, Replayed, &[RETURNED]),
        row("C12", "keeper.forked", Short, Replayed, &[KEPT, RETURNED]),
        row("C13", "keeper.started-unsent", Long, Replayed, &[KEPT]),
        row("C19", "keeper.finished-unsent", Short, Replayed, &[KEPT]),
        row("C19", "keeper.finished-unsent", Loud, Replayed, &[KEPT]),
        row("C22", "keeper.forget-received", Short, Replayed, &[KEPT]),
        row("C32", "keeper.stop-received", Cancel, Replayed, &[CANCELLED]),
    ]);
}

#[test]
fn the_guardian_dies_and_takes_its_one_attempt_with_it() {
    run(&[
        row("C16", "guardian.start", Short, Replayed, &[LOST_EARLY]),
        row("C16", "guardian.started", Long, Replayed, &[LOST, LOST_EARLY]),
        row("C18", "guardian.ended", Short, Replayed, &[LOST]),
        row("C18", "guardian.sealed", Loud, Replayed, &[LOST]),
        row("C22", "guardian.forgotten", Short, Replayed, &[KEPT]),
    ]);
}

/// A release binary has neither the points nor what would arm them; a debug binary made in the same way has both, or this
/// would look for the wrong words.
#[test]
fn a_release_build_has_no_crash_points() {
    const NAME: &str = "a_release_build_has_no_crash_points";
    let dir = tempfile::tempdir().unwrap();
    let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../protocol/src/crash.rs");
    let main = format!(
        "#[path = {source:?}] mod crash; fn main() {{ crash::point(\"one.place\"); crash::point_of(\"two\", || \"kinds\") }}"
    );
    std::fs::write(dir.path().join("main.rs"), main).unwrap();
    for (is_debug, optimised) in [(true, "0"), (false, "3")] {
        let compiler = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
        let mut build = std::process::Command::new(compiler);
        build.current_dir(dir.path()).args([
            "--edition=2024",
            "main.rs",
            "-C",
            &format!("opt-level={optimised}"),
        ]);
        build.args(["-C", &format!("debug-assertions={is_debug}"), "-C", "debuginfo=0"]);
        let Ok(output) = build.output() else { return reeve_tests::skip(NAME, "there is no rustc") };
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let binary = std::fs::read(dir.path().join("main")).unwrap();
        for word in ["REEVE_CRASH_AT", "REEVE_HOLD_AT", "one.place", "kinds"] {
            let found = binary.windows(word.len()).any(|window| window == word.as_bytes());
            assert_eq!(found, is_debug, "{word} in a build with debug-assertions={is_debug}");
        }
    }
}

/// The window between fork and socket: the next keeper finds nobody and says that the attempt never began. It must not
/// begin afterwards.
#[test]
fn a_guardian_that_no_keeper_has_found_starts_nothing() {
    let mut cluster = Cluster::start();
    let held = cluster.ledger.join("held");
    cluster.agent.env = vec![
        ("REEVE_HOLD_AT".to_owned(), "guardian.unbound".to_owned()),
        ("REEVE_HOLD_NOTE".to_owned(), held.to_str().unwrap().to_owned()),
    ];
    let note = cluster.arm("keeper.forked");
    let id = id(&cluster.submit(Short));
    eventually("the keeper's death", || note.exists().then_some(()));
    let job = eventually("an end", || Some(cluster.job(&id)).filter(|job| job["state"] == "COMPLETED"));
    assert_eq!(job["attempts"].as_array().unwrap().len(), 2, "{job:#}");
    assert!(held.exists(), "the first guardian waits");
    std::fs::write(held.with_extension("go"), "").unwrap();
    let guardians = cluster.agent.dir.join("state/run");
    eventually("the guardian to leave", || {
        let all = reeve_tests::processes_with(&["\0keeper\0", guardians.to_str().unwrap()]);
        // The keeper, and what forks its guardians.
        (all.len() == 2).then_some(())
    });
    assert!(!cluster.ledger.join(format!("{id}.1")).exists(), "the first attempt was declared never begun");
}

/// A coordinator, its one machine, and the jobs' own ledger.
struct Cluster {
    coordinator: Coordinator,
    agent: Agent,
    ledger: PathBuf,
    keys: u32,
}

/// Plays the rows, in a few clusters side by side: most of the time goes by until a machine notices that its coordinator
/// is another one.
fn run(rows: &[Row]) {
    std::thread::scope(|scope| {
        for rows in rows.chunks(4) {
            scope.spawn(move || {
                let mut cluster = Cluster::start();
                for row in rows {
                    eprintln!("--- {} {} {:?}", row.name, row.at, row.scene);
                    cluster.play(row);
                }
            });
        }
    });
}

impl Cluster {
    fn start() -> Self {
        let coordinator = Coordinator::start("127.0.0.1:0");
        let agent = Agent::start(coordinator.dir.path(), "box", &coordinator.token(), &[]);
        let ledger = coordinator.dir.path().join("ledger");
        std::fs::create_dir(&ledger).unwrap();
        let cluster = Self { coordinator, agent, ledger, keys: 0 };
        cluster.until_connected(0);
        cluster
    }

    fn play(&mut self, row: &Row) {
        self.keys += 1;
        let is_early = matches!(row.scene, Release | Cancel | CancelAndEnd);
        let early = is_early.then(|| id(&self.submit(row.scene)));
        if let (Some(id), Cancel | CancelAndEnd) = (&early, row.scene) {
            self.until_runs(id);
        }
        let note = self.arm(row.at);
        match (row.scene, &early) {
            (Release, Some(id)) => drop(self.post(id, "release")),
            (Cancel | CancelAndEnd, Some(id)) => drop(self.post(id, "cancel")),
            _ => drop(self.submit(row.scene)),
        }
        eventually("the place to be reached", || note.exists().then_some(()));
        self.recover(row);
        let again = self.submit(row.scene);
        let status = if row.again == Made { 201 } else { 200 };
        assert_eq!(again.status, status, "{}", again.text());
        let id = id(&again);
        assert!(early.is_none_or(|early| early == id), "one key, one job");
        match row.scene {
            Held => drop(self.post(&id, "release")),
            // What was not recorded was not promised either: the caller says it again.
            Release | Cancel if row.at.contains("before") || row.at.contains("inside") => {
                let verb = if row.scene == Release { "release" } else { "cancel" };
                let answer = self.post(&id, verb);
                assert!(answer.status < 300, "{answer:?}");
            }
            Long => {
                self.until_runs(&id);
                self.let_go();
            }
            _ => {}
        }
        self.check(row, &id);
    }

    /// The outcome, and that nothing of it is left on the machine.
    fn check(&self, row: &Row, id: &str) {
        let job = eventually_or(
            || format!("{} {}: job {id} to end: {:#}", row.name, row.at, self.job(id)),
            || Some(self.job(id)).filter(|job| !job["ended_at"].is_null()),
        );
        let attempts = job["attempts"].as_array().unwrap();
        let ends: Vec<&str> = attempts.iter().map(|a| a["cause"]["kind"].as_str().unwrap_or("-")).collect();
        let ran: Vec<u32> = (1..9).filter(|n| self.ledger.join(format!("{id}.{n}")).exists()).collect();
        let is_right = |outcome: &&Outcome| (outcome.0, outcome.1) == (ends.as_slice(), ran.as_slice());
        assert!(
            row.outcomes.iter().any(|o| is_right(&o)),
            "{} {}: ends {ends:?}, ran {ran:?} of {job:#}",
            row.name,
            row.at
        );
        assert_eq!(job["state"], row.state, "{job:#}");
        assert!(attempts.iter().all(|a| a["late"].is_null()), "nothing came too late: {job:#}");
        let twice = std::fs::read_to_string(self.ledger.join("twice")).unwrap_or_default();
        assert_eq!(twice, "", "an attempt ran twice");
        if row.scene == Loud {
            let log = self.coordinator.reeve(&["logs", id]).stdout;
            assert_eq!(String::from_utf8_lossy(&log).lines().count(), 5_000, "its output is complete");
            let path = format!("/v1/jobs/{id}/artifacts/numbers");
            let numbers = http::get(&self.coordinator.socket(), &path).text();
            assert_eq!(numbers.lines().count(), 5_000, "so is the file that it left: {numbers:.200}");
        }
        let sockets = self.agent.dir.join("state/run/g");
        eventually("the machine to forget", || {
            std::fs::read_dir(&sockets).unwrap().next().is_none().then_some(())
        });
        let _ = std::fs::remove_file(self.ledger.join("go"));
    }

    /// Starts whoever shall die again, armed. Gives the file that tells that it was reached.
    fn arm(&mut self, at: &str) -> PathBuf {
        let note = self.ledger.join(format!("note-{}", self.keys));
        let env = vec![
            ("REEVE_CRASH_AT".to_owned(), at.to_owned()),
            ("REEVE_CRASH_NOTE".to_owned(), note.to_str().unwrap().to_owned()),
        ];
        let before = self.connections();
        if is_coordinator(at) {
            self.coordinator.env = env;
            self.coordinator.daemon.take().unwrap().finish(Signal::KILL);
            self.coordinator.run_again();
        } else {
            self.agent.env.extend(env);
            if at == "keeper.forked" {
                // Without control groups no guardian is made ahead: the fork is that of the attempt.
                self.agent.env.push(("REEVE_CGROUPS".to_owned(), "off".to_owned()));
            }
            self.agent.daemon.take().unwrap().finish(Signal::KILL);
            self.kill_keeper();
            self.agent.run();
        }
        self.until_connected(before);
        note
    }

    /// The dead one comes back; a keeper is started by its agent.
    fn recover(&mut self, row: &Row) {
        let dead = if is_coordinator(row.at) {
            self.coordinator.daemon.take()
        } else if row.at.starts_with("agent.") {
            self.agent.daemon.take()
        } else {
            None
        };
        if let Some(dead) = dead {
            use std::os::unix::process::ExitStatusExt as _;
            assert_eq!(dead.ended().signal(), Some(6), "it died at the place and not of something else");
        }
        if row.scene == CancelAndEnd {
            self.let_go();
            let job = self.job_file();
            // The shell that made it has it among its words, and has ended, too.
            let words = job.display().to_string();
            let has_ended = || job.exists() && reeve_tests::processes_with(&[&words]).is_empty();
            eventually("the command to end", || has_ended().then_some(()));
        }
        (self.coordinator.env, self.agent.env) = (Vec::new(), Vec::new());
        if self.coordinator.daemon.is_none() {
            self.coordinator.run_again();
        }
        if self.agent.daemon.is_none() {
            self.agent.run();
        }
    }

    fn submit(&self, scene: Scene) -> Answer {
        let wait = match scene {
            Long | Cancel | CancelAndEnd => "until test -e go; do sleep 0.02; done",
            Loud => "seq 1 5000; seq 1 5000 > $REEVE_OUT_DIR/numbers",
            _ => "true",
        };
        let job = self.job_file();
        let script = format!(
            "f=$REEVE_JOB_ID.$REEVE_ATTEMPT; (set -C; : > $f) 2>/dev/null || echo $f >> twice; {wait}; : > {}",
            job.display()
        );
        let hold = matches!(scene, Held | Release);
        let body = serde_json::json!({ "command": ["sh", "-c", script], "cwd": self.ledger, "hold": hold });
        let body = body.to_string();
        let head = format!(
            "POST /v1/jobs HTTP/1.1\r\nhost: x\r\nconnection: close\r\nidempotency-key: key-{}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            self.keys,
            body.len()
        );
        http::raw(&self.coordinator.socket(), &[head, body].concat().into_bytes())
    }

    /// Made by the command of this row when it is done.
    fn job_file(&self) -> PathBuf {
        self.ledger.join(format!("done-{}", self.keys))
    }

    fn post(&self, id: &str, verb: &str) -> Answer {
        http::post(&self.coordinator.socket(), &format!("/v1/jobs/{id}/{verb}"), "{}")
    }

    fn job(&self, id: &str) -> Value {
        self.coordinator.job(id)
    }

    fn until_runs(&self, id: &str) {
        eventually_or(
            || format!("job {id} to run: {:#}", self.job(id)),
            || Some(self.job(id)).filter(|job| job["state"] == "RUNNING"),
        );
    }

    fn let_go(&self) {
        std::fs::write(self.ledger.join("go"), "").unwrap();
    }

    /// How often the machine has come and its inventory has been answered. Only then is anything dispatched.
    fn connections(&self) -> u64 {
        let store = rusqlite::Connection::open(self.coordinator.data().join("reeve.db")).unwrap();
        let count = "SELECT count(*) FROM events WHERE body LIKE '%\"connected\"%'";
        store.query_row(count, [], |row| row.get(0)).unwrap()
    }

    fn until_connected(&self, before: u64) {
        eventually("a new session", || (self.connections() > before).then_some(()));
    }

    fn kill_keeper(&self) {
        let lock = self.agent.dir.join("state/run/keeper.lock");
        let keeper = reeve_tests::lock_holder(&lock).expect("a keeper");
        rustix::process::kill_process(keeper, Signal::KILL).unwrap();
        eventually("the keeper to be gone", || {
            (reeve_tests::lock_holder(&lock) != Some(keeper)).then_some(())
        });
    }
}

fn is_coordinator(at: &str) -> bool {
    at.starts_with("commit.") || at.starts_with("release.")
}

fn id(answer: &Answer) -> String {
    answer.json()["id"].as_u64().unwrap_or_else(|| panic!("no job: {}", answer.text())).to_string()
}
