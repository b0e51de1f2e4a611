//! What a real keeper holds its attempts to: memory, processes, cpus; by the kernel's control groups where this machine
//! lets us make some, by reeve's own watch elsewhere; and what becomes of the groups.
#![allow(clippy::unwrap_used, clippy::panic, reason = "test code: a panic is the report")]
mod common;
use common::{Rig, lives, until};
use reeve_protocol::Cause;
use reeve_protocol::wire::{Enforced, Stop, kind};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Uses 300 MB and says so, if it can. One process: of a pipe's, the kernel may kill one, and the shell goes on.
const EATER: &str = "dd if=/dev/zero of=/dev/null bs=300000000 count=1 2>&1 && echo ate";

fn enforced(rig: &mut Rig) -> BTreeMap<String, String> {
    rig.send(kind::INVENTORY_ASK, &());
    rig.expect::<Enforced>(kind::ENFORCED).words.into_iter().collect()
}

/// A rig whose kernel enforces limits; `None`: skipped.
fn confined(test: &str, arguments: &[&str]) -> Option<Rig> {
    let mut rig = Rig::with(|_| arguments.iter().map(|word| (*word).to_owned()).collect());
    let words = enforced(&mut rig);
    let lacks = |name: &str, part: &str| !words[name].contains(part);
    if lacks("memory_limit", "kernel")
        || lacks("process_limit", "per attempt")
        || lacks("cpu_limit", "cgroup")
    {
        println!("SKIPPED: {test}: this machine enforces {words:?}");
        return None;
    }
    Some(rig)
}

/// The group of a process in a hierarchy of version 1, or of version 2.
fn group(pid: u32, controller: &str) -> PathBuf {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let path = |wanted: &str| {
        text.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, path) = (fields.next()?, fields.next()?);
            controllers.split(',').any(|c| c == wanted).then(|| path.trim_start_matches('/').to_owned())
        })
    };
    match path(controller) {
        Some(path) => PathBuf::from("/sys/fs/cgroup").join(controller).join(path),
        None => PathBuf::from("/sys/fs/cgroup").join(path("").unwrap()),
    }
}

fn said(group: PathBuf, file: &str) -> String {
    std::fs::read_to_string(group.join(file)).unwrap_or_default().trim().to_owned()
}

#[test]
fn an_attempt_above_its_memory_limit_ends_as_oom_with_its_tree_and_neighbours_notice_nothing() {
    let Some(mut rig) = confined("an_attempt_above_its_memory_limit", &[]) else { return };
    let mut neighbour = rig.sh("exec sleep 1000");
    neighbour.memory_bytes = 64 << 20;
    let neighbour_pid = rig.start(&neighbour).pid;
    let file = rig.root.join("pid");
    // A child of its tree that uses nothing and hides.
    let hidden = format!("setsid env -i sleep 1000 & echo $! > {}; {EATER}; sleep 1000", file.display());
    let mut job = rig.sh(&hidden);
    job.memory_bytes = 64 << 20;
    let end = rig.run(&job);
    let Cause::Oom { detail } = Cause::from_wire(end.cause.clone()) else { panic!("{:?}", end.cause) };
    assert!(detail.contains("its limit of 64.0 MiB of memory was reached, peak 6"), "{detail}");
    let hidden: u32 = std::fs::read_to_string(&file).unwrap().trim().parse().unwrap();
    assert!(!lives(hidden) && lives(neighbour_pid));
    assert!(!common::stdout(&end).contains("ate"));
    let mut modest = rig.sh("dd if=/dev/zero of=/dev/null bs=1000000 count=1");
    modest.memory_bytes = 64 << 20;
    assert_eq!(Cause::from_wire(rig.run(&modest).cause), Cause::Ok, "what was before does not count");
    let free = rig.sh(EATER);
    assert_eq!(rig.cause(&free), Cause::Ok, "without a limit there is none");
}

#[test]
fn a_fork_bomb_is_bounded_told_and_ended_as_a_tree() {
    let Some(mut rig) = confined("a_fork_bomb_is_bounded", &["--processes", "40"]) else { return };
    let mut bomb = rig.job(&["bash", "-c", "f() { while :; do f & sleep 0.01; done; }; f 2>/dev/null"]);
    bomb.grace_ms = 100;
    let pid = rig.start(&bomb).pid;
    let group = group(pid, "pids");
    until("the bound is reached", || {
        said(group.clone(), "pids.current").parse::<u32>().ok().filter(|n| *n >= 40)
    });
    let quiet = rig.sh("echo fine");
    assert_eq!(common::stdout(&rig.run(&quiet)), "fine\n");
    rig.send(kind::STOP, &Stop { attempt: bomb.attempt, cause: Cause::Cancelled.to_wire(), grace_ms: 100 });
    let end = rig.finish(bomb.attempt);
    assert_eq!(Cause::from_wire(end.cause.clone()), Cause::Cancelled);
    let left: u32 = said(group.clone(), "pids.current").parse().unwrap();
    assert_eq!(left, 1, "the guardian alone");
    let told = String::from_utf8(common::decoded(&end.output).1).unwrap();
    assert!(end.spooled > 0 || told.contains("at most 40 at once"), "{told}");
    rig.forget(bomb.attempt);
    let again = rig.sh("(echo child) && echo fine");
    assert_eq!(common::stdout(&rig.run(&again)), "child\nfine\n", "its slot takes the next");
}

#[test]
fn cpus_are_a_weight_and_a_quota_where_that_is_asked_for() {
    let Some(mut rig) = confined("cpus_are_a_weight", &["--cpu-limit", "quota"]) else { return };
    let mut job = rig.sh("exec sleep 1000");
    job.cpu_milli = 1500;
    let pid = rig.start(&job).pid;
    let cpu = group(pid, "cpu");
    let (shares, quota) = (said(cpu.clone(), "cpu.shares"), said(cpu, "cpu.cfs_quota_us"));
    assert_eq!((shares.as_str(), quota.as_str()), ("1536", "150000"));
}

#[test]
fn a_quiet_attempt_finds_a_guardian_that_is_in_its_slot_already() {
    let Some(mut rig) = confined("a_quiet_attempt_finds_a_guardian", &[]) else { return };
    let spare = until("a guardian is ready", || {
        let [pid] = rig.guardians()[..] else { return None };
        said(group(pid, "pids"), "pids.max").parse::<u64>().is_ok().then_some(pid)
    });
    let job = rig.sh("exec sleep 1000");
    let pid = rig.start(&job).pid;
    let parent = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(parent.contains(&format!("PPid:\t{spare}\n")), "it was given to the guardian that was ready");
    assert_eq!(group(pid, "pids"), group(spare, "pids"));
    until("another is ready", || (rig.guardians().len() == 2).then_some(()));
}

#[test]
fn limits_hold_after_the_keeper_was_killed_and_what_a_killed_guardian_leaves_is_ended() {
    let Some(mut rig) = confined("limits_hold_after_the_keeper_was_killed", &[]) else { return };
    let go = rig.root.join("go");
    let mut job =
        rig.sh(&format!("while ! test -e {}; do sleep 0.05; done; {EATER}; sleep 1000", go.display()));
    job.memory_bytes = 64 << 20;
    rig.start(&job);
    let file = rig.root.join("pid");
    let lost = rig.sh(&format!("setsid env -i sleep 1000 & echo $! > {}; sleep 1000", file.display()));
    let lost_pid = rig.start(&lost).pid;
    let hidden: u32 = until("it hides", || std::fs::read_to_string(&file).ok()?.trim().parse().ok());
    rig.kill_keeper();
    std::fs::write(&go, "").unwrap();
    // With no keeper there: its guardian dies, and nobody sees it.
    let guardian = rig.guardian(lost.attempt).state().guardian_pid;
    let guardian = rustix::process::Pid::from_raw(guardian.cast_signed()).unwrap();
    rustix::process::kill_process(guardian, rustix::process::Signal::KILL).unwrap();
    rig.start_keeper();
    rig.send(kind::INVENTORY_ASK, &());
    until("the orphans are ended", || (!lives(hidden) && !lives(lost_pid)).then_some(()));
    let verdicts = vec![(job.attempt, reeve_protocol::wire::Verdict::Report)];
    rig.send(kind::RECONCILE, &reeve_protocol::wire::Reconcile { verdicts });
    assert!(matches!(Cause::from_wire(rig.finish(job.attempt).cause), Cause::Oom { .. }));
}

#[test]
fn without_control_groups_reeve_watches_itself_and_says_so() {
    let mut rig = Rig::with(|_| vec!["--cgroups".into(), "off".into()]);
    let words = enforced(&mut rig);
    assert_eq!(
        words["memory_limit"],
        "reeve's own watch, sampled, and a data limit per process (cgroups = \"off\" in agent.toml)"
    );
    assert!(words["process_limit"].starts_with("no (") && words["cpu_limit"].starts_with("no ("));
    // Holds 300 MB in a shell variable's worth of memory, and stays.
    let mut job = rig.sh("head -c 300000000 /dev/zero | tail -c 300000000 | sleep 1000");
    job.memory_bytes = 64 << 20;
    let end = rig.run(&job);
    let Cause::Oom { detail } = Cause::from_wire(end.cause.clone()) else { panic!("{:?}", end.cause) };
    assert!(detail.contains("reeve's own watch") && detail.contains("its limit is 64.0 MiB"), "{detail}");
    let mut modest = rig.sh("sleep 0.5; echo fine");
    modest.memory_bytes = 64 << 20;
    assert_eq!(Cause::from_wire(rig.run(&modest).cause), Cause::Ok);
    // Faster than any watch: all of it at once.
    let mut greedy =
        rig.sh("grep 'Max data size' /proc/self/limits; dd if=/dev/zero of=/dev/null bs=3G count=1 2>&1");
    greedy.memory_bytes = 64 << 20;
    let end = rig.run(&greedy);
    let said = common::stdout(&end);
    let limit = ((2 << 26) + (1 << 30)).to_string();
    assert_eq!(said.matches(&limit).count(), 2, "as soft and as hard limit: {said}");
    assert!(said.contains("memory exhausted") && Cause::from_wire(end.cause) != Cause::Ok, "{said}");
    let free = rig.sh("grep 'Max data size' /proc/self/limits");
    assert!(common::stdout(&rig.run(&free)).contains("unlimited"), "without a limit there is none");
}

#[test]
fn a_keeper_that_leaves_takes_its_groups_away() {
    let Some(mut rig) = confined("a_keeper_that_leaves_takes_its_groups_away", &[]) else { return };
    let job = rig.sh("exec sleep 1000");
    let pid = rig.start(&job).pid;
    let slots = group(pid, "pids").parent().unwrap().to_owned();
    assert!(slots.exists());
    rig.send(kind::STOP, &Stop { attempt: job.attempt, cause: Cause::Cancelled.to_wire(), grace_ms: 0 });
    rig.finish(job.attempt);
    rig.forget(job.attempt);
    rig.send(kind::SHUTDOWN, &reeve_protocol::wire::Shutdown { cause: Cause::Drained.to_wire() });
    until("its groups are gone", || (!slots.exists()).then_some(()));
}
