//! Slots on a directory tree that takes what the kernel's files would, for version 2, whose limits not every machine has;
//! and on the kernel's own groups of version 1 where they can be made. agent/tests/limits.rs has real commands.
use super::find::{LEAF, LIMITED};
use super::*;
use std::fs;

/// A delegated group of version 2, as files.
fn played() -> (tempfile::TempDir, Hierarchies) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("cgroup.controllers"), "cpu memory pids\n").unwrap();
    let found = find::two(dir.path(), "reeve-x", 2).unwrap();
    (dir, found)
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn a_slot_of_version_two_has_its_processes_in_leaves() {
    let (dir, found) = played();
    let slot_dir = dir.path().join("reeve-x/3");
    let mut slot = Slot::new(&found, 3, &Bounds { processes: 50, cpu_quota: true });
    slot.enter().unwrap();
    assert_eq!(text(&slot_dir.join(LEAF).join(PROCS)), "0");
    assert_eq!(text(&slot_dir.join("cgroup.subtree_control")), "+memory");
    assert_eq!(text(&slot_dir.join("pids.max")), "51", "the guardian is one of them");
    slot.share(1500).unwrap();
    assert_eq!(text(&slot_dir.join("cpu.weight")), "150");
    assert_eq!(text(&slot_dir.join("cpu.max")), "150000 100000");
    slot.share(0).unwrap();
    assert_eq!(
        (text(&slot_dir.join("cpu.weight")), text(&slot_dir.join("cpu.max"))),
        ("1".into(), "max 100000".into())
    );
    slot.freeze();
    assert_eq!(text(&slot_dir.join("pids.max")), "0");
    slot.thaw(false).unwrap();
    assert_eq!(text(&slot_dir.join("pids.max")), "51");
}

#[test]
fn what_has_not_changed_is_not_written_again() {
    let (dir, found) = played();
    let weight = dir.path().join("reeve-x/0/cpu.weight");
    let mut slot = Slot::new(&found, 0, &Bounds::default());
    slot.enter().unwrap();
    slot.share(1000).unwrap();
    fs::remove_file(&weight).unwrap();
    slot.share(1000).unwrap();
    assert!(!weight.exists());
    slot.share(2000).unwrap();
    assert_eq!(text(&weight), "200");
    assert!(!weight.with_file_name("cpu.max").exists(), "without the setting there is no quota");
}

#[test]
fn a_memory_limit_of_version_two_kills_the_whole_group_and_is_told_with_its_peak() {
    let (dir, found) = played();
    let mut slot = Slot::new(&found, 1, &Bounds::default());
    slot.enter().unwrap();
    let limited = dir.path().join("reeve-x/1").join(LIMITED);
    fs::create_dir_all(&limited).unwrap();
    fs::write(limited.join(PROCS), "").unwrap();
    fs::write(limited.join("memory.swap.max"), "max").unwrap();
    let memory = slot.limit_memory(64 << 20).unwrap().unwrap();
    assert_eq!(text(&limited.join("memory.max")), (64 << 20).to_string());
    assert_eq!(text(&limited.join("memory.oom.group")), "1");
    assert_eq!(text(&limited.join("memory.swap.max")), "0");
    assert!(memory.alarm().is_none() && memory.verdict().is_none());
    fs::write(limited.join("memory.events"), "low 0\nhigh 0\nmax 9\noom 1\noom_kill 3\noom_group_kill 1\n")
        .unwrap();
    fs::write(limited.join("memory.peak"), "67108864\n").unwrap();
    let told = memory.verdict().unwrap();
    assert_eq!(
        told,
        "its limit of 64.0 MiB of memory was reached, peak 64.0 MiB; the kernel killed 3 of its processes"
    );
}

#[test]
fn slots_are_used_again_once_they_are_empty_and_the_next_keeper_finds_them() {
    let (dir, found) = played();
    let mut groups = Groups { found: found.clone(), ..Groups::none("") };
    assert_eq!((groups.take(), groups.take()), (Some(0), Some(1)));
    for number in [0, 1] {
        let leaf = dir.path().join(format!("reeve-x/{number}/{LEAF}"));
        fs::create_dir_all(&leaf).unwrap();
        fs::write(leaf.join(PROCS), "4242\n").unwrap();
    }
    groups.give_back(Some(0));
    groups.give_back(Some(0));
    assert_eq!(groups.take(), Some(2), "somebody is still in there");
    fs::write(dir.path().join(format!("reeve-x/0/{LEAF}/{PROCS}")), "").unwrap();
    assert_eq!((groups.take(), groups.take()), (Some(0), Some(3)));
    assert_eq!((groups.slot_of(4242), groups.slot_of(7)), (Some(1), None));

    let mut next = Groups { found, ..Groups::none("") };
    next.take_over();
    assert_eq!((next.next, next.free.as_slice()), (2, [0].as_slice()));
}

#[test]
fn the_words_say_what_is_enforced_and_why_not() {
    let words = |groups: &Groups, bounds: &Bounds| {
        groups.words(bounds).into_iter().collect::<std::collections::BTreeMap<_, _>>()
    };
    let none = words(&Groups::none("cgroups = \"off\""), &Bounds::default());
    assert_eq!(
        none["memory_limit"],
        "reeve's own watch, sampled, and a data limit per process (cgroups = \"off\")"
    );
    assert_eq!(none["process_limit"], "no (cgroups = \"off\")");
    assert_eq!(none["tree_kill"], "guardian");
    let (_dir, found) = played();
    let groups = Groups { found, ..Groups::none("") };
    let some = words(&groups, &Bounds { processes: 7, cpu_quota: true });
    assert_eq!(some["memory_limit"], "kernel, cgroup v2");
    assert_eq!(some["process_limit"], "7 per attempt, cgroup v2");
    assert!(some["cpu_limit"].starts_with("quota"));
}

/// Groups of this kernel, or why there are none.
fn real(name: &str) -> Result<Groups, String> {
    let groups = Groups::open(name, &[], 2);
    if groups.found.version == Version::One && groups.found.pids.is_some() && groups.found.memory.is_some() {
        return Ok(groups);
    }
    Err(groups.why_not)
}

#[test]
fn what_a_dead_guardian_left_in_its_slot_is_ended_however_it_hides() {
    let mut groups = match real("testkillxxxxxxxx") {
        Ok(groups) => groups,
        Err(why) => return println!("SKIPPED: what_a_dead_guardian_left_in_its_slot_is_ended: {why}"),
    };
    let number = groups.take().unwrap();
    let slot = groups.found.pids.as_ref().unwrap().join(number.to_string());
    fs::create_dir_all(&slot).unwrap();
    let enter = format!(
        "echo 0 > {}/{PROCS}; setsid env -i sleep 1000 & exec setsid env -i sleep 1000",
        slot.display()
    );
    let mut child = std::process::Command::new("sh").args(["-c", &enter]).spawn().unwrap();
    while groups.found.members(number).len() < 2 {
        assert_eq!(child.try_wait().unwrap(), None);
    }
    let members = groups.found.members(number);
    groups.end_strangers(&[members[0]]);
    assert_eq!(groups.found.members(number), members, "one of them is a guardian");
    let waiter = std::thread::spawn(move || child.wait().unwrap());
    groups.end_strangers(&[]);
    assert!(!slot.exists(), "an empty slot is removed");
    assert!(!waiter.join().unwrap().success());
    groups.close();
    assert!(groups.found.bases().iter().all(|base| !base.exists()));
}

#[test]
fn groups_of_a_keeper_that_is_gone_are_removed_by_another_and_those_of_one_that_lives_are_not() {
    let gone = match real("testgonexxxxxxxx") {
        Ok(groups) => groups,
        Err(why) => return println!("SKIPPED: groups_of_a_keeper_that_is_gone_are_removed: {why}"),
    };
    let left: Vec<PathBuf> = gone.found.bases().iter().map(|base| base.join("0")).collect();
    for dir in &left {
        fs::create_dir_all(dir).unwrap();
    }
    real("testnextxxxxxxxx").unwrap().close();
    assert!(left.iter().all(|dir| dir.exists()), "its next attempt is about to enter what is empty now");
    // Its guardian lives on without it, in one hierarchy of several.
    let procs = gone.found.pids.as_ref().unwrap().join("0").join(PROCS);
    let mut guardian = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    fs::write(procs, guardian.id().to_string()).unwrap();
    drop(gone);
    real("testnextxxxxxxxx").unwrap().close();
    assert!(left.iter().all(|dir| dir.exists()), "its guardian may be about to enter the others");
    guardian.kill().unwrap();
    guardian.wait().unwrap();
    let other = real("testnextxxxxxxxx").unwrap();
    assert!(left.iter().all(|dir| !dir.exists()));
    other.close();
}

#[test]
fn a_group_is_held_by_one_alone_and_only_while_it_is_there() {
    let parent = tempfile::tempdir().unwrap();
    let base = parent.path().join("reeve-x");
    fs::create_dir(&base).unwrap();
    let sweeper = hold(std::slice::from_ref(&base)).unwrap();
    assert!(hold(std::slice::from_ref(&base)).is_none(), "it waits for whoever sweeps");
    remove_empty(&base);
    drop(sweeper);
    assert!(hold(std::slice::from_ref(&base)).is_none(), "there is nothing to hold");
    fs::create_dir(&base).unwrap();
    assert!(hold(std::slice::from_ref(&base)).is_some());
}
