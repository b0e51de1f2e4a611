//! What an idle machine costs: keeper and agent as real processes. Figures are for the release build; here they only
//! have to be sane.
#![allow(clippy::unwrap_used, clippy::panic, reason = "test code: a panic is the report")]
mod common;
use common::Rig;

/// Proportional set size in KiB.
fn pss(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn a_keeper_that_has_worked_is_small_and_alone_again() {
    let mut rig = Rig::new();
    for _ in 0..50 {
        let job = rig.job(&["true"]);
        rig.run(&job);
        rig.forget(job.attempt);
    }
    let keeper = rig.keeper_pid();
    // Where control groups can be made one stays ready.
    let ready = common::until("idle guardians have left", || {
        let ready = rig.guardians().len();
        (ready <= 1).then_some(ready)
    });
    println!("keeper: {} KiB", pss(keeper));
    assert!(pss(keeper) < 24 * 1024);
    // Each guardian has a directory, and one for artifacts.
    assert!(std::fs::read_dir(rig.root.join("work")).unwrap().count() <= 2 * ready);
    assert_eq!(std::fs::read_dir(rig.root.join("g")).unwrap().count(), 0);
}
