//! Loss in two steps, fencing, exclusive jobs and a coordinator that did not run: with real processes that put on record
//! themselves when they ran.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]
use reeve_tests::outage::{Cluster, pass, signal, until_file};
use reeve_tests::{alive, eventually, eventually_or};
use rustix::process::Signal;
use std::time::Duration;

const SMALL: [&str; 4] = ["--cpus", "0.1", "--lost-after", "10s"];

#[test]
fn an_attempt_that_comes_back_before_the_next_one_goes_on_or_its_end_counts() {
    let cluster = Cluster::start();
    let mut agent = cluster.machine("box");
    let (now, later) = (cluster.gate("now"), cluster.gate("later"));
    let goes_on = cluster.script(&SMALL, &until_file(&later));
    let ends = cluster.script(&SMALL, &format!("{}; echo done", until_file(&now)));
    let pids = [cluster.process(&goes_on, 1), cluster.process(&ends, 1)];
    for id in [&goes_on, &ends] {
        cluster.until(id, "RUNNING", "running");
    }
    // Nothing new is dispatched, whatever waits.
    cluster.ok(&["queue", "pause", "default"]);
    agent.daemon.as_mut().unwrap().kill();
    for id in [&goes_on, &ends] {
        cluster.until(id, "QUEUED", "waiting");
        let story = cluster.ok(&["show", id]);
        assert!(story.contains("attempt 1 is taken for lost: box was not heard for 10.0s"), "{story}");
        let why = cluster.ok(&["why", id]);
        assert!(why.contains("if it comes back before another attempt starts, it goes on"), "{why}");
    }
    std::fs::write(&now, "").unwrap();
    eventually("one to end unheard", || (!alive(pids[1])).then_some(()));
    agent.run();
    cluster.until(&ends, "COMPLETED", "");
    assert_eq!(cluster.until(&goes_on, "RUNNING", "running")["attempts"][0]["pid"], pids[0]);
    assert_eq!(cluster.ok(&["logs", &ends]), "done");
    cluster.ok(&["queue", "resume", "default"]);
    std::fs::write(&later, "").unwrap();
    cluster.until(&goes_on, "COMPLETED", "");
    for id in [&goes_on, &ends] {
        assert_eq!((cluster.ran(id).len(), cluster.came_to(id, "COMPLETED")), (1, 1), "job {id}");
    }
}

#[test]
fn once_the_next_attempt_is_dispatched_the_former_is_stopped_when_it_is_heard_and_its_end_is_late() {
    let cluster = Cluster::start();
    let mut one = cluster.machine("one");
    let (now, later) = (cluster.gate("now"), cluster.gate("later"));
    let runs_on = cluster.script(&SMALL, &until_file(&later));
    // This one ends, well, as soon as it may; its next attempt waits for the other gate.
    let script = format!("{}; test $REEVE_ATTEMPT = 1 || {{ {}; }}", until_file(&now), until_file(&later));
    let has_ended = cluster.script(&SMALL, &script);
    let first = [cluster.process(&runs_on, 1), cluster.process(&has_ended, 1)];
    for id in [&runs_on, &has_ended] {
        cluster.until(id, "RUNNING", "running");
    }
    one.daemon.as_mut().unwrap().kill();
    let _two = cluster.machine("two");
    for id in [&runs_on, &has_ended] {
        cluster.process(id, 2);
        cluster.until(id, "RUNNING", "running");
    }
    std::fs::write(&now, "").unwrap();
    eventually("the other to end unheard", || (!alive(first[1])).then_some(()));
    one.run();
    eventually("the former to be stopped", || (!alive(first[0])).then_some(()));
    let late = |id: &str| cluster.attempts(id)[0].clone();
    eventually_or(
        || format!("late outcomes: {} {}", cluster.c.job(&runs_on), cluster.c.job(&has_ended)),
        || (!late(&runs_on).1.is_empty() && !late(&has_ended).1.is_empty()).then_some(()),
    );
    assert_eq!(late(&runs_on), ("lost".to_owned(), "fenced".to_owned()));
    assert_eq!(late(&has_ended), ("lost".to_owned(), "ok".to_owned()));
    for (id, words) in [
        (&runs_on, "it was still there when one came back, and was stopped"),
        (&has_ended, "one told later that it had ended with ok, which does not count any more"),
    ] {
        let story = cluster.ok(&["show", id]);
        assert!(story.contains("attempt 1 was lost: one was not heard for 10.0s"), "{story}");
        assert!(story.contains(words) && story.contains("attempt 2 runs on two since"), "{story}");
        assert_eq!(cluster.c.job(id)["state"], "RUNNING", "attempt 2 is untouched");
    }
    std::fs::write(&later, "").unwrap();
    for id in [&runs_on, &has_ended] {
        cluster.until(id, "COMPLETED", "");
        assert_eq!((cluster.ran(id).len(), cluster.came_to(id, "COMPLETED")), (2, 1), "job {id}");
    }
}

#[test]
fn a_coordinator_that_did_not_run_judges_nobody_when_it_wakes() {
    let cluster = Cluster::start();
    let mut agent = cluster.machine("box");
    let gate = cluster.gate("gate");
    let id = cluster.script(&["--lost-after", "16s"], &until_file(&gate));
    let pid = cluster.process(&id, 1);
    cluster.until(&id, "RUNNING", "running");
    agent.daemon.as_mut().unwrap().kill();
    // Ten seconds after the last beat; six later it would be lost. The coordinator sleeps over that.
    cluster.until(&id, "RUNNING", "unconfirmed");
    let coordinator = cluster.c.daemon.as_ref().unwrap().pid();
    signal(coordinator, Signal::STOP);
    pass(Duration::from_millis(7_500));
    signal(coordinator, Signal::CONT);
    assert_eq!(cluster.c.job(&id)["state"], "RUNNING", "{}", cluster.c.log());
    agent.run();
    assert_eq!(cluster.until(&id, "RUNNING", "running")["attempts"][0]["pid"], pid);
    std::fs::write(&gate, "").unwrap();
    cluster.until(&id, "COMPLETED", "");
    assert_eq!((cluster.ran(&id).len(), cluster.came_to(&id, "QUEUED")), (1, 1), "it was never queued again");
}

/// The first and the last moment that an attempt has put on record, in nanoseconds.
fn lived(cluster: &Cluster, attempt: u64) -> Option<(u128, u128)> {
    let text = std::fs::read_to_string(cluster.gate(&format!("lived-{attempt}"))).ok()?;
    let times: Vec<u128> = text.lines().filter_map(|line| line.parse().ok()).collect();
    Some((*times.first()?, *times.last()?))
}

#[test]
fn an_exclusive_attempt_has_ended_by_its_own_clock_before_the_next_one_starts() {
    let cluster = Cluster::start();
    let one = cluster.machine("one");
    let gate = cluster.gate("gate");
    // It does not care about TERM, and puts on record that it lives, until KILL.
    let record = cluster.gate("lived-");
    let script = format!(
        "trap '' TERM; until test -e {}; do date +%s%N >> {}$REEVE_ATTEMPT; sleep 0.02; done",
        gate.display(),
        record.display()
    );
    let id = cluster.script(&["--exclusive", "--grace", "1s", "--lost-after", "16s"], &script);
    let first = cluster.process(&id, 1);
    cluster.until(&id, "RUNNING", "running");
    // While its machine is heard it lives longer than its lease is long.
    pass(Duration::from_secs(11));
    assert!(alive(first), "its lease is renewed");
    let two = cluster.machine("two");
    // Agents can say nothing for their machine; what the network still brings lies in their sockets.
    let stopped = one.daemon.as_ref().unwrap().pid();
    signal(stopped, Signal::STOP);
    eventually("its guardian to end it", || (!alive(first)).then_some(()));
    assert_eq!(cluster.ran(&id).len(), 1, "before another one was started");
    cluster.process(&id, 2);
    signal(stopped, Signal::CONT);
    cluster.up("one");
    std::fs::write(&gate, "").unwrap();
    cluster.until(&id, "COMPLETED", "");
    let ((_, end), (begin, _)) = (lived(&cluster, 1).unwrap(), lived(&cluster, 2).unwrap());
    assert!(end < begin, "attempt 1 lived until {end}, attempt 2 from {begin}");
    // The machine tells the same end as the coordinator had supposed: nothing else is to be kept.
    assert_eq!(cluster.attempts(&id)[0], ("lost".to_owned(), String::new()));
    let story = cluster.ok(&["show", &id]);
    assert!(story.contains("it had to end by its own clock before another may start"), "{story}");
    drop(two);
}
