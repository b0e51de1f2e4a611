//! Coordinator, agent, keeper and guardians killed, stopped, replaced, and what they lay on thrown away: each job runs
//! once where that can be, is told of once in every case, and `show` says what happened. What is lost and comes back is in
//! `reattach_loss.rs`; `survive.rs` has the same from the view of `reeve up`.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]
use reeve_tests::outage::{Cluster, keeper, keepers, kill, parent, pass, signal, until_file};
use reeve_tests::{alive, eventually, eventually_or};
use rustix::process::Signal;
use std::time::Duration;

/// Writes numbered lines until the gate opens, then one more thousand.
fn numbered(gate: &std::path::Path) -> String {
    format!(
        "i=0; until test -e {}; do i=$((i+1)); echo $i; sleep 0.005; done; seq $((i+1)) $((i+1000))",
        gate.display()
    )
}

/// Whether a log is the numbers from 1 on, without a gap, and ends where it should.
fn is_whole(log: &str) -> bool {
    log.lines().count() >= 1000 && log.lines().zip(1..).all(|(line, n)| line.parse() == Ok(n))
}

#[test]
fn ends_and_starts_during_an_outage_of_the_coordinator_are_told_once_and_nothing_runs_again() {
    let mut cluster = Cluster::start();
    let _box = cluster.machine("box");
    let (now, later) = (cluster.gate("now"), cluster.gate("later"));
    let small = |script: &str| cluster.script(&["--cpus", "0.1"], script);
    let through = small(&until_file(&later));
    let fails = small(&format!("{}; echo bye; exit 3", until_file(&now)));
    let large = small(&format!("{}; seq 20000", until_file(&now)));
    // Sent to the machine, and waits there or here for the room of the first three.
    let waits = cluster.script(&["--cpus", "2"], "echo second");
    for id in [&through, &fails, &large] {
        cluster.process(id, 1);
    }
    cluster.kill();
    std::fs::write(&now, "").unwrap();
    let ended = [cluster.process(&fails, 1), cluster.process(&large, 1)];
    eventually("both to end unheard", || ended.iter().all(|pid| !alive(*pid)).then_some(()));
    cluster.again();
    assert_eq!(cluster.until(&fails, "FAILED", "")["cause"]["code"], 3);
    cluster.until(&large, "COMPLETED", "");
    std::fs::write(&later, "").unwrap();
    for id in [&through, &waits] {
        cluster.until(id, "COMPLETED", "");
    }
    for (id, state) in
        [(&through, "COMPLETED"), (&fails, "FAILED"), (&large, "COMPLETED"), (&waits, "COMPLETED")]
    {
        assert_eq!((cluster.ran(id).len(), cluster.came_to(id, state)), (1, 1), "job {id}");
        assert_eq!(cluster.c.job(id)["attempt"], 1);
    }
    assert_eq!(cluster.ok(&["logs", &fails]), "bye");
    assert_eq!(cluster.ok(&["logs", &large]).lines().count(), 20_000);
}

#[test]
fn an_agent_killed_again_and_again_and_replaced_by_another_program_costs_no_byte() {
    let cluster = Cluster::start();
    let mut agent = cluster.machine("box");
    let gate = cluster.gate("gate");
    let id = cluster.script(&[], &numbered(&gate));
    let pid = cluster.process(&id, 1);
    let first_keeper = keeper(&agent);
    // Another file with other bytes: the keeper and the guardian of the former one go on.
    let other = cluster.c.dir.path().join("another-agent");
    let mut bytes = std::fs::read(&agent.program).unwrap();
    bytes.extend(b"another version");
    std::fs::write(&other, bytes).unwrap();
    std::fs::set_permissions(&other, std::fs::metadata(&agent.program).unwrap().permissions()).unwrap();
    for round in 2..6 {
        agent.daemon.as_mut().unwrap().kill();
        if round == 4 {
            agent.program.clone_from(&other);
        }
        agent.run();
        eventually("it is back", || (agent.log().matches("connected name").count() >= round).then_some(()));
        cluster.up("box");
        assert_eq!(cluster.until(&id, "RUNNING", "running")["attempts"][0]["pid"], pid);
    }
    assert_eq!(keeper(&agent), first_keeper);
    std::fs::write(&gate, "").unwrap();
    cluster.until(&id, "COMPLETED", "");
    assert!(is_whole(&cluster.ok(&["logs", &id])), "0 bytes lost");
    assert_eq!(cluster.ran(&id), [(1, pid)]);
    let events = cluster.events();
    assert!(
        events.iter().all(|e| e["what"] != "disconnected" && e["what"] != "refused_clone"),
        "an agent of the same keeper takes over at once: its former session is not waited for"
    );
}

#[test]
fn guardian_keeper_and_agent_killed_one_by_one_and_together_lose_what_they_must_and_no_more() {
    let cluster = Cluster::start();
    let mut agent = cluster.machine("box");
    let gate = cluster.gate("gate");
    let small = ["--cpus", "0.1"];
    let hit = cluster.script(&small, &format!("setsid sleep 600 & {}", until_file(&gate)));
    let other = cluster.script(&small, &numbered(&gate));
    let (first, bystander) = (cluster.process(&hit, 1), cluster.process(&other, 1));
    kill(parent(first));
    let second = cluster.process(&hit, 2);
    assert!(!alive(first) && alive(bystander));
    assert_eq!(cluster.attempts(&hit)[0].0, "keeper_lost");
    // The keeper: both guardians are adopted.
    let former = keeper(&agent);
    kill(former);
    let lock = agent.dir.join("state/run/keeper.lock");
    let holder = || reeve_tests::lock_holder(&lock).map(|pid| pid.as_raw_nonzero().get().cast_unsigned());
    eventually("another keeper", || holder().filter(|pid| *pid != former));
    let third = cluster.script(&small, "true");
    cluster.until(&third, "COMPLETED", "");
    assert!(alive(second) && alive(bystander));
    // All of them at once: nobody is left to hold anything, so both run again, and nothing of before is left.
    agent.daemon.as_mut().unwrap().kill();
    for pid in keepers(&agent) {
        signal(pid, Signal::KILL);
    }
    eventually("all of them gone", || keepers(&agent).is_empty().then_some(()));
    agent.run();
    cluster.process(&hit, 3);
    cluster.process(&other, 2);
    assert!(!alive(second) && !alive(bystander), "no attempt runs beside the next one");
    std::fs::write(&gate, "").unwrap();
    for id in [&hit, &other] {
        cluster.until(id, "COMPLETED", "");
    }
    let causes: Vec<_> = cluster.attempts(&hit).into_iter().map(|(cause, _)| cause).collect();
    assert_eq!(
        causes,
        ["keeper_lost", "keeper_lost", "ok"],
        "the infrastructure pays: it has no retries of its own"
    );
    assert!(is_whole(&cluster.ok(&["logs", &other])));
    let story = cluster.ok(&["show", &hit]);
    for words in ["attempt 1 was ended on box", "the process that held it was killed", "attempt 3 ran on box"]
    {
        assert!(story.contains(words), "{story}");
    }
}

#[test]
fn a_restarted_machine_takes_nothing_for_running_and_is_not_waited_for() {
    let cluster = Cluster::start();
    let mut agent = cluster.machine("box");
    let gate = cluster.gate("gate");
    let id = cluster.script(&[], &until_file(&gate));
    let first = cluster.process(&id, 1);
    // Power off: everybody dies at once, the files stay. The word stands for another boot of the machine.
    agent.daemon.as_mut().unwrap().kill();
    for pid in keepers(&agent).into_iter().chain([first]) {
        signal(pid, Signal::KILL);
    }
    eventually("the end of all", || (keepers(&agent).is_empty() && !alive(first)).then_some(()));
    agent.env.push(("REEVE_TEST_LIFE".into(), "another-boot".into()));
    agent.run();
    // Long before the five minutes after which it would be lost.
    cluster.process(&id, 2);
    assert_eq!(cluster.attempts(&id)[0].0, "rebooted");
    std::fs::write(&gate, "").unwrap();
    cluster.until(&id, "COMPLETED", "");
    let story = cluster.ok(&["show", &id]);
    assert!(story.contains("attempt 1 ended with box: the machine was restarted"), "{story}");
}

#[test]
fn a_copy_of_a_machine_is_refused_while_the_machine_is_heard_and_may_come_when_it_is_gone() {
    let cluster = Cluster::start();
    let mut agent = cluster.machine("box");
    let id = cluster.script(&[], "echo first");
    cluster.until(&id, "COMPLETED", "");
    // The same directory twice: the second agent ends, and says what to do.
    let state = agent.dir.join("state");
    let twice = reeve_tests::machine::agent(&state, &["run"]).output().unwrap();
    let said = String::from_utf8_lossy(&twice.stderr).into_owned();
    assert!(twice.status.code() == Some(1) && said.contains("stop that one first"), "{said}");
    // A copy of everything, taken while the machine lives, as an image of a disk would be. What the
    // guardian of the ended job removes meanwhile makes cp fail: the copy is taken again.
    let copied = cluster.c.dir.path().join("copy");
    eventually("a copy of the whole directory", || {
        let _ = std::fs::remove_dir_all(&copied);
        std::fs::create_dir(&copied).unwrap();
        let mut cp = std::process::Command::new("cp");
        let cp = cp.arg("-a").arg(&state).arg(&copied).output().unwrap();
        cp.status.success().then_some(())
    });
    let mut copy = reeve_tests::machine::Agent::existing(&copied);
    copy.run();
    let refusals = || copy.log().matches("another keeper with this identity").count();
    eventually_or(|| format!("two refusals: {}", copy.log()), || (refusals() >= 2).then_some(()));
    cluster.up("box");
    assert_eq!(
        agent.log().matches("connected name").count(),
        1,
        "the first was never disturbed: {}",
        agent.log()
    );
    let alarms = cluster.events().iter().filter(|e| e["what"] == "refused_clone").count();
    assert_eq!(alarms, 1, "noted, and not once for each time it comes");
    let shown = cluster.ok(&["machine", "show", "box"]);
    assert!(shown.contains("is there a copy of this machine?"), "{shown}");
    // The first is gone for good: the copy is the machine now.
    agent.daemon.as_mut().unwrap().kill();
    eventually_or(|| copy.log(), || copy.log().contains("connected name").then_some(()));
    cluster.up("box");
    let id = cluster.script(&[], "echo second");
    cluster.until(&id, "COMPLETED", "");
}

#[test]
fn whoever_is_stopped_for_a_while_goes_on_and_nothing_is_lost_or_doubled() {
    let cluster = Cluster::start();
    let agent = cluster.machine("box");
    let gate = cluster.gate("gate");
    let long = cluster.script(&["--cpus", "0.1"], &numbered(&gate));
    let pid = cluster.process(&long, 1);
    let parts = [
        cluster.c.daemon.as_ref().unwrap().pid(),
        agent.daemon.as_ref().unwrap().pid(),
        keeper(&agent),
        parent(pid),
    ];
    let mut small = Vec::new();
    for (at, part) in parts.into_iter().enumerate() {
        small.push(cluster.script(&["--cpus", "0.1"], "echo once"));
        signal(part, Signal::STOP);
        // Nobody answers while the coordinator is stopped.
        if at > 0 {
            small.push(cluster.script(&["--cpus", "0.1"], "echo once"));
        }
        pass(Duration::from_millis(1500));
        signal(part, Signal::CONT);
    }
    // Long enough for the coordinator to hold the machine for disconnected.
    signal(parts[1], Signal::STOP);
    let unconfirmed = cluster.until(&long, "RUNNING", "unconfirmed");
    let story = cluster.ok(&["show", &long]);
    assert!(story.contains("whether it still runs is not known"), "{story}");
    let why = cluster.ok(&["why", &long]);
    assert!(why.contains("box is not heard") && why.contains("queued again"), "{why}");
    assert_eq!(unconfirmed["attempt"], 1);
    signal(parts[1], Signal::CONT);
    cluster.until(&long, "RUNNING", "running");
    for id in &small {
        cluster.until(id, "COMPLETED", "");
        assert_eq!((cluster.ran(id).len(), cluster.came_to(id, "COMPLETED")), (1, 1), "job {id}");
        assert_eq!(cluster.ok(&["logs", id]), "once");
    }
    std::fs::write(&gate, "").unwrap();
    cluster.until(&long, "COMPLETED", "");
    assert!(
        is_whole(&cluster.ok(&["logs", &long])),
        "its guardian was stopped too, and it wrote on or waited"
    );
    assert_eq!(cluster.ran(&long), [(1, pid)]);
}

#[test]
fn a_machine_whose_runtime_directory_was_removed_ends_what_it_cannot_answer_for_and_works_on() {
    let cluster = Cluster::start();
    let agent = cluster.machine("box");
    let gate = cluster.gate("gate");
    let id = cluster.script(&["--cpus", "0.1"], &until_file(&gate));
    let first = cluster.process(&id, 1);
    std::fs::remove_dir_all(agent.dir.join("state/run")).unwrap();
    // The keeper finds out with the next start; that one costs nothing.
    let next = cluster.script(&["--cpus", "0.1"], "echo fine");
    cluster.until(&next, "COMPLETED", "");
    cluster.process(&id, 2);
    eventually("the attempt that nobody could answer for to end", || (!alive(first)).then_some(()));
    assert_eq!(cluster.attempts(&id)[0].0, "keeper_lost");
    assert_eq!(cluster.ran(&next).len(), 1);
    std::fs::write(&gate, "").unwrap();
    cluster.until(&id, "COMPLETED", "");
}

#[test]
fn a_machine_whose_whole_state_was_removed_says_so_and_joins_anew() {
    let cluster = Cluster::start();
    let mut agent = cluster.machine("box");
    let gate = cluster.gate("gate");
    let id = cluster.script(&["--lost-after", "10s"], &until_file(&gate));
    let first = cluster.process(&id, 1);
    agent.daemon.as_mut().unwrap().kill();
    let state = agent.dir.join("state");
    std::fs::remove_dir_all(&state).unwrap();
    let run = reeve_tests::machine::agent(&state, &["run"]).output().unwrap();
    let said = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(run.status.code() != Some(0) && said.contains("reeve-agent join"), "{said}");
    let taken = agent.join("box", &cluster.c.token());
    let said = String::from_utf8_lossy(&taken.stderr).into_owned();
    assert!(!taken.status.success() && said.contains("joined already"), "{said}");
    let joined = agent.join("box-2", &cluster.c.token());
    assert!(joined.status.success(), "{}", String::from_utf8_lossy(&joined.stderr));
    agent.run();
    cluster.up("box-2");
    eventually("what ran there before to be ended", || (!alive(first)).then_some(()));
    cluster.process(&id, 2);
    std::fs::write(&gate, "").unwrap();
    let job = cluster.until(&id, "COMPLETED", "");
    assert_eq!(
        (job["attempts"][0]["machine"].as_str(), job["attempts"][1]["machine"].as_str()),
        (Some("box"), Some("box-2"))
    );
    assert_eq!(cluster.attempts(&id)[0].0, "lost");
}
