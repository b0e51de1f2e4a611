//! The end of a run: every fault ends, all that waits gets its time, and then the books are compared: what clients were
//! promised, what the coordinator recorded, and what the processes themselves wrote down.
use super::agenda::Due;
use super::clients::Action;
use super::faults;
use super::world::World;
use reeve_coordinator::effect::Step;
use reeve_coordinator::input::{Call, Input, Stored, Target};
use reeve_coordinator::row::Caller;
use reeve_protocol::{Cause, State, TaskId};
use std::collections::BTreeMap;

/// How long all may take to come to an end once nothing goes wrong any more.
const DRAIN_MS: u64 = 4 * 3_600_000;
/// Between two looks.
const LOOK_MS: u64 = 30_000;

/// Lets everything come to its end.
pub fn drain(world: &mut World) {
    world.draining = true;
    faults::end_all(world);
    world.note(|| "every fault has ended".to_owned());
    world.agenda.at(world.now, Due::Client(Box::new(Action::Tidy)));
    let end = world.now + DRAIN_MS;
    while world.broken().is_none() && world.now < end {
        world.run_until(world.now + LOOK_MS);
        if is_quiet(world) && world.unsteady_workers().is_none() {
            roll(world, end);
            return stop(world, end);
        }
    }
    let steady = world.unsteady_workers();
    left_over(world, steady);
}

/// Replicas are replaced: with room for both versions as many as before take requests all the time.
fn roll(world: &mut World, end: u64) {
    world.roll_workers();
    while world.broken().is_none() && world.now < end {
        world.run_until(world.now + LOOK_MS);
        if world.unsteady_workers().is_none() && world.not_replaced().is_none() {
            world.rolling.clear();
            return;
        }
    }
    let left = world.not_replaced().or_else(|| world.unsteady_workers());
    if world.broken().is_none() {
        world.fail(format!("replicas are not replaced: {left:?}"));
    }
}

/// Replicas are stopped last.
fn stop(world: &mut World, end: u64) {
    world.stopping = true;
    world.stop_workers();
    while world.broken().is_none() && world.now < end {
        world.run_until(world.now + LOOK_MS);
        let none = world.core.as_ref().is_some_and(|core| core.unfinished().is_empty());
        if none && world.ledger.alive() == 0 {
            return;
        }
    }
    left_over(world, None);
}

/// Whether nothing is left to be done but what replicas do.
fn is_quiet(world: &World) -> bool {
    let Some(core) = &world.core else { return false };
    let (mut replicas, mut others) = (0, 0);
    for (job, standing) in core.unfinished() {
        if world.watch.is_replica(job) {
            replicas += usize::from(standing.state == State::Running);
        } else {
            others += 1;
        }
    }
    others == 0
        && world.ledger.alive() == replicas
        && leftover(world) == 0
        && world.broker.outside.left().count() == 0
        && !world.clients.waits_for_worker()
}

fn left_over(world: &mut World, workers: Option<String>) {
    if world.broken().is_none() {
        let left = world.core.as_ref().map(|core| core.unfinished()).unwrap_or_default();
        let (alive, messages) = (world.ledger.alive(), leftover(world));
        world.fail(format!(
            "after {} h without faults {} jobs ({}), {alive} processes and {messages} messages are left; {workers:?}",
            DRAIN_MS / 3_600_000,
            left.len(),
            left.iter()
                .take(5)
                .map(|(id, s)| format!("{id} {:?}", s.substate))
                .collect::<Vec<_>>()
                .join(", ")
        ));
        for (id, _) in left {
            explain(world, id);
        }
    }
}

/// Writes down why a job does not run, in the coordinator's own words.
fn explain(world: &mut World, job: u64) {
    let now = world.raw();
    let Some(core) = &mut world.core else { return };
    let target = Target { job, tasks: None };
    let call = Call::Why { target, stored: Stored::default() };
    let mut step = Step::default();
    core.decide(now, Input::Call { ticket: 0, caller: Caller::internal(), call }, &mut step);
    world.note(|| format!("why {:?}", step.effects));
}

fn leftover(world: &World) -> u64 {
    world.store.count("SELECT count(*) FROM messages WHERE dead IS NULL").unwrap_or(u64::MAX)
}

/// Compares the books.
pub fn judge(world: &mut World) {
    if world.broken().is_some() {
        return;
    }
    if let Err(error) = world.watch.compare(&world.store) {
        world.fail(error.to_string());
    }
    promises(world);
    if let Err(error) = endings(world) {
        world.fail(error.to_string());
    }
    if let Some(wrong) = world.watch.wrong.first().cloned() {
        world.fail(wrong);
    }
    world.count.add("process doubled after a loss", world.ledger.doubles);
    if world.ledger.doubles == 0 {
        world.count.hits.remove("process doubled after a loss");
    }
    world.mix(world.ledger.runs.len() as u64);
}

/// Every job whose submission was answered is there, and has ended.
fn promises(world: &mut World) {
    for id in world.clients.acked.clone() {
        match world.store.job(id) {
            Ok(Some(row)) if row.standing.state.is_terminal() => {}
            Ok(Some(row)) => world.fail(format!("job {id} is {} at the end", row.standing.state)),
            Ok(None) => world.fail(format!("job {id} was promised and is not there")),
            Err(error) => world.fail(error.to_string()),
        }
    }
    for body in world.clients.messages.keys().cloned().collect::<Vec<_>>() {
        let times = world.watch.messages.published(&body);
        if times != 1 {
            world.fail(format!("message {body} was promised and was there {times} times"));
        }
    }
    for number in world.broker.outside.jobs().collect::<Vec<_>>() {
        if !world.watch.taken_in.contains_key(&number) {
            world.fail(format!("message {number} of another program never became a job"));
        }
    }
}

/// What is recorded of an attempt is what its process wrote down, and no task ended well twice.
fn endings(world: &mut World) -> Result<(), reeve_coordinator::store::Error> {
    let mut well: BTreeMap<TaskId, u32> = BTreeMap::new();
    for (job, key, attempt, cause) in world.store.endings()? {
        let task = TaskId::from_key(job, key);
        let id = task.attempt(attempt);
        let cause: Option<Cause> = cause.and_then(|text| serde_json::from_str(&text).ok());
        let Some(cause) = cause else {
            world.fail(format!("{id} has ended without a cause"));
            continue;
        };
        *well.entry(task).or_default() += u32::from(cause == Cause::Ok);
        let said = matches!(cause, Cause::Ok | Cause::Exit { .. } | Cause::Signal { .. } | Cause::Timeout);
        let run = world.ledger.runs.get(&id).map(|run| run.end.clone());
        match run {
            Some(Some(end)) if said && end != cause => {
                world.fail(format!("{id} is recorded as {cause:?}, and its process ended {end:?}"));
            }
            Some(None) => world.fail(format!("{id} is recorded as {cause:?}, and its process lives")),
            None if said && cause != Cause::Ok && !world.watch.asked.contains_key(&id) => {
                world.fail(format!("{id} is recorded as {cause:?}, and no process ever was"));
            }
            _ => {}
        }
    }
    for (task, n) in well {
        let restarts = world.watch.restarts.get(&task.job).copied().unwrap_or(0);
        if n > 1 + restarts {
            world.fail(format!("{task} ended well {n} times with {restarts} restarts"));
        }
    }
    let rows = world.store.count("SELECT count(*) FROM attempts")?;
    world.mix(rows);
    Ok(())
}
