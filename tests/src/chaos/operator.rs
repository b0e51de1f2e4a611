//! The operator's drill: 200 jobs run, very many wait, and everything an operator fears happens, one thing after the
//! other. Between the blows the cluster must come back to exactly what ran before.
use super::Failure;
use super::client::Client;
use super::nemesis::Nemesis;
use super::plan::{Fault, Link, Whom};
use super::run::Run;
use std::fs::File;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Jobs that run throughout.
pub const RUNNING: u64 = 200;
/// For all of them to run again after a blow; slow machines and retries with pauses included.
const BACK: Duration = Duration::from_mins(3);
/// Between two kills of one order.
const GAP: Duration = Duration::from_millis(150);
/// Jobs that write while the disk is full.
const TALKING: u64 = 8;
/// Cpus of theirs: what is left beside those that run throughout.
pub const SLIVER: f64 = 0.001;
/// Cancelled while a machine is lost, so that some of what it ran can start elsewhere.
const MAKE_ROOM: u64 = 20;

/// The drill.
///
/// # Errors
/// What did not come back, or could not be done.
pub fn drill(run: &Run) -> Result<(), Failure> {
    let release = run.wish.dir.join("release");
    let words = [format!("until={}", release.display()), "beat=1000".to_owned()];
    let mut rng = run.rng.part("operator");
    run.load.submit_alike(&mut rng, "long-", RUNNING, 1.0, 0, &words);
    all_run(run, RUNNING)?;
    let start = Instant::now();
    run.load.submit_alike(&mut rng, "queued-", run.wish.jobs, 1.0, 0, &["ms=0".to_owned()]);
    println!(
        "{} jobs queued behind {RUNNING} running in {:.1} s",
        run.wish.jobs,
        start.elapsed().as_secs_f64()
    );
    every_order(run)?;
    run.gauge.sample(&run.cluster, "middle");
    stops(run)?;
    let mut left = RUNNING;
    unplugged(run)?;
    if run.wish.long {
        left -= lost(run)?;
        all_run(run, left)?;
    }
    full_disk(run, &mut rng);
    all_run(run, left)?;
    File::create(&release).map_err(|e| format!("{}: {e}", release.display()))?;
    run.nemesis.heal();
    run.load.over.store(true, Ordering::Relaxed);
    Ok(())
}

/// Coordinator, agent, keeper and a guardian are killed in each of the 24 orders.
fn every_order(run: &Run) -> Result<(), Failure> {
    for (at, order) in orders().into_iter().enumerate() {
        let m = at % run.cluster.machines.len();
        let four = [Whom::Coordinator, Whom::Agent(m), Whom::Keeper(m), Whom::Guardian(m)];
        let faults = order.map(|which| Fault::Kill(four[which]));
        let start = Instant::now();
        run.nemesis.strike_all(&faults, GAP);
        all_run(run, RUNNING)?;
        let names = order.map(|which| ["coordinator", "agent", "keeper", "guardian"][which]);
        println!(
            "kill -9 {}: all {RUNNING} run again after {:.1} s",
            names.join(", "),
            start.elapsed().as_secs_f64()
        );
        run.gauge.sample(&run.cluster, "between");
    }
    Ok(())
}

/// All orders of four.
fn orders() -> Vec<[usize; 4]> {
    let mut orders = Vec::new();
    for a in 0..4 {
        for b in (0..4).filter(|b| *b != a) {
            for c in (0..4).filter(|c| *c != a && *c != b) {
                orders.push([a, b, c, 6 - a - b - c]);
            }
        }
    }
    orders
}

fn stops(run: &Run) -> Result<(), Failure> {
    let long = Duration::from_secs(if run.wish.long { 60 } else { 8 });
    for whom in [Whom::Coordinator, Whom::Agent(0), Whom::Keeper(0), Whom::Guardian(0), Whom::Pair(0)] {
        run.nemesis.strike(Fault::Stop(whom), long);
        all_run(run, RUNNING)?;
        println!("{} for {long:?}: all {RUNNING} run", Fault::Stop(whom));
    }
    Ok(())
}

/// How a link is unplugged: the cable where there is one.
fn unplug(nemesis: &Nemesis, m: usize) -> Fault {
    if nemesis.has_cable(m) { Fault::Cable(m) } else { Fault::Link(m, Link::Blackhole) }
}

fn unplugged(run: &Run) -> Result<(), Failure> {
    let m = run.cluster.machines.len() - 1;
    run.nemesis.strike(unplug(&run.nemesis, m), Duration::from_secs(30));
    all_run(run, RUNNING)?;
    println!("link unplugged for 30 s: all {RUNNING} run, none was started again");
    Ok(())
}

/// Six minutes without a machine are more than it may be silent: some of its jobs start elsewhere, the rest goes on when
/// it is back. Gives how many jobs were cancelled for that.
fn lost(run: &Run) -> Result<u64, Failure> {
    let m = run.cluster.machines.len() - 1;
    let name = run.cluster.machines[m].name.clone();
    let mut client = Client::new(&run.cluster.socket());
    std::thread::scope(|scope| {
        let away = scope.spawn(|| run.nemesis.strike(unplug(&run.nemesis, m), Duration::from_mins(6)));
        std::thread::sleep(Duration::from_secs(330));
        let path = format!("/v1/jobs?filter=name:long%20state:running%20-machine:{name}&limit={MAKE_ROOM}");
        let page = client.get(&path).ok_or("the running jobs cannot be listed")?.json();
        let jobs: Vec<u64> =
            page["items"].as_array().into_iter().flatten().filter_map(|j| j["id"].as_u64()).collect();
        for job in &jobs {
            run.load.cancel(&mut client, *job);
        }
        away.join().map_err(|_| "the link could not be unplugged")?;
        println!("link unplugged for 6 min: {} jobs were cancelled to make room", jobs.len());
        Ok(jobs.len() as u64)
    })
}

/// Nothing that ran is disturbed by a full disk; new work is refused or waits, and later taken.
fn full_disk(run: &Run, rng: &mut super::rng::Rng) {
    if !run.cluster.own_disk {
        println!("SKIPPED the full disk (a disk of its own for the coordinator takes root)");
        return;
    }
    for fault in [Fault::DiskLow, Fault::DiskFull] {
        let (prefix, before) =
            (format!("{}-", fault.to_string().replace(' ', "-")), run.load.refused.load(Ordering::Relaxed));
        // These end while the disk is full, with more output than fits into a record of the store.
        run.load.submit_alike(
            rng,
            &format!("talking-{prefix}"),
            TALKING,
            SLIVER,
            300_000,
            &["ms=4000".to_owned()],
        );
        std::thread::scope(|scope| {
            scope.spawn(|| run.nemesis.strike(fault, Duration::from_secs(8)));
            std::thread::sleep(Duration::from_secs(3));
            run.load.submit_alike(rng, &prefix, 20, 1.0, 0, &[]);
        });
        println!("{fault}: {} of 20 submits refused", run.load.refused.load(Ordering::Relaxed) - before);
        open_again(run, rng, &prefix);
    }
}

/// Waits until new work is taken again: one job after the other is tried.
fn open_again(run: &Run, rng: &mut super::rng::Rng, prefix: &str) {
    let (end, before) = (Instant::now() + BACK, run.load.accepted.load(Ordering::Relaxed));
    for at in 0.. {
        run.load.submit_alike(rng, &format!("open-{prefix}{at}-"), 1, 1.0, 0, &[]);
        if run.load.accepted.load(Ordering::Relaxed) > before || Instant::now() > end {
            return;
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// Waits until so many of the long jobs run and are confirmed.
fn all_run(run: &Run, n: u64) -> Result<(), Failure> {
    let mut client = Client::new(&run.cluster.socket());
    let (end, mut seen) = (Instant::now() + BACK, None);
    while Instant::now() < end {
        let page =
            client.get("/v1/jobs?filter=name:long%20substate:running&limit=1").map(|reply| reply.json());
        seen = page.and_then(|page| page["total"]["value"].as_u64());
        if seen == Some(n) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Err(format!("{seen:?} of {n} jobs run {BACK:?} after the last blow"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_24_orders_and_no_two_are_alike() {
        let all: std::collections::BTreeSet<[usize; 4]> = orders().into_iter().collect();
        assert_eq!(all.len(), 24);
        for mut order in all {
            order.sort_unstable();
            assert_eq!(order, [0, 1, 2, 3]);
        }
    }
}
