//! The calls of simulated clients, and the jobs that they submit.
use super::clients::Change;
use super::rng::Rng;
use reeve_coordinator::input::{Call, Key, NewMessage, Stored, Target};
use reeve_protocol::JobSpec;
use reeve_protocol::api::QueueSettings;
use reeve_protocol::resources::ResourceAsk;
use reeve_protocol::spec::{ArraySpec, LostAfter};

/// Queues of jobs.
pub(super) const JOBS: [&str; 3] = ["a", "b", "cons"];
/// Queues of messages.
pub(super) const MESSAGES: [&str; 2] = ["msgs", "msgs2"];

/// Publishes this text, once.
pub(super) fn publish(body: &str, delay_ms: u64) -> Call {
    Call::Publish { queue: MESSAGES[0].to_owned(), message: Box::new(message(body, delay_ms)) }
}

/// Publishes these texts, each once.
pub(super) fn publish_many(bodies: &[String]) -> Call {
    let messages = bodies.iter().map(|body| message(body, 0)).collect();
    Call::PublishMany { queue: MESSAGES[0].to_owned(), messages }
}

fn message(body: &str, delay_ms: u64) -> NewMessage {
    NewMessage {
        kind: 1,
        body: body.as_bytes().into(),
        headers: "{}".into(),
        priority: (body.len() % 3) as i32,
        delay_ms,
        ttl_ms: None,
        key: Some(Key { key: body.to_owned(), digest: "d".to_owned() }),
    }
}

/// What waits in one queue is to wait in another.
pub(super) fn move_call(rng: &mut Rng, known: &[u64]) -> Call {
    let (from, to) = *rng.pick(&[
        ("a", "b"),
        ("b", "a"),
        ("a", "cons"),
        ("cons", "b"),
        ("msgs", "msgs2"),
        ("msgs2", "msgs"),
        ("msgs", "a"),
    ]);
    let ids = rng.chance(25).then(|| known.iter().copied().filter(|_| rng.chance(50)).collect());
    Call::MoveQueue { from: from.to_owned(), to: to.to_owned(), ids, dry_run: rng.chance(15) }
}

/// A change of a job as a call.
pub(super) fn change_call(change: &Change, target: Target, stored: Stored) -> Call {
    match change {
        Change::Cancel => Call::CancelJob { target, grace_ms: None, stored },
        Change::Restart => Call::RestartJob { target, latest: false, stored },
        Change::Hold => Call::HoldJob { target, hold: true, stored },
        Change::Release => Call::HoldJob { target, hold: false, stored },
        Change::Status(request) => Call::UpdateJobStatus { target, request: request.clone(), stored },
        Change::Why => Call::Why { target, stored },
    }
}

/// Something about a queue as a whole.
pub(super) fn queue_call(rng: &mut Rng) -> Call {
    let queue = (*rng.pick(&["a", "b", "cons", "msgs"])).to_owned();
    match rng.below(6) {
        4 | 5 if rng.chance(50) => super::ingress::ingress_call(rng),
        4 | 5 => super::broker::backend_call(rng),
        0 | 1 => Call::PauseQueue { queue, paused: rng.chance(50), reason: Some("sim".to_owned()) },
        2 => Call::SetQueue {
            queue: "b".to_owned(),
            settings: QueueSettings { limit: Some(rng.range(1, 4) as u32), ..QueueSettings::default() },
            ingress_uid: None,
        },
        _ => {
            let queue = (*rng.pick(&["a", "a", "a", "msgs2"])).to_owned();
            Call::CleanQueue { queue, ids: None, dead: false, dry_run: rng.chance(30) }
        }
    }
}

/// A machine is emptied, or used again.
pub(super) fn machine_call(rng: &mut Rng, machine: String) -> Call {
    match rng.below(4) {
        0 => Call::CordonMachine { machine, cordon: true },
        1 => {
            let deadline_ms = rng.chance(70).then(|| rng.range(1_000, 40_000));
            Call::DrainMachine { machine, deadline_ms }
        }
        _ => Call::CordonMachine { machine, cordon: false },
    }
}

/// A read that goes through the core.
pub(super) fn read_call(rng: &mut Rng) -> Call {
    match rng.below(6) {
        5 => Call::Top,
        0 => Call::GetQueueStats,
        1 => Call::ListQueues,
        2 => Call::ListMachines,
        3 => Call::CountQueueMessages { queue: "a".to_owned() },
        _ => Call::Peek { queue: "cons".to_owned(), max: 3, dead: false },
    }
}

/// A job as somebody may submit it.
pub(super) fn spec(rng: &mut Rng) -> JobSpec {
    let cpus = *rng.pick(&[None, Some(0.5), Some(0.5), Some(1.0), Some(2.0)]);
    let some = |rng: &mut Rng, percent, from, to| rng.chance(percent).then(|| rng.range(from, to) as f64);
    let lost_after_s = match rng.weighted(&[40, 30, 15, 10, 5]) {
        0 => Some(LostAfter::Seconds(30.0)),
        1 => Some(LostAfter::Seconds(60.0)),
        2 => Some(LostAfter::Seconds(12.0)),
        3 => None,
        _ => Some(LostAfter::Never),
    };
    let gpus = if rng.chance(12) { Some(*rng.pick(&[0.25, 0.5, 0.5, 0.7, 1.0, 2.0])) } else { None };
    let array = rng.chance(15).then(|| {
        let from = rng.range(0, 3) as u32;
        ArraySpec {
            from,
            to: from + rng.range(0, 9) as u32,
            limit: rng.chance(30).then(|| rng.range(1, 3) as u32),
        }
    });
    JobSpec {
        command: Some(vec!["true".to_owned()]),
        queue: Some((*rng.pick(&["a", "a", "b", "cons"])).to_owned()),
        resources: ResourceAsk { cpus, gpus, ..ResourceAsk::default() },
        priority: rng.range(0, 2) as i32,
        retries: rng.chance(50).then(|| rng.range(0, 3) as u32),
        timeout_s: some(rng, 20, 1, 60),
        delay_s: some(rng, 12, 1, 90),
        expires_s: some(rng, 8, 5, 200),
        exclusive: matches!(lost_after_s, Some(LostAfter::Seconds(s)) if s >= 30.0) && rng.chance(50),
        out: rng.chance(10).then(|| "*.ckpt".to_owned()).into_iter().collect(),
        hold: rng.chance(6),
        grace_s: Some(3.0),
        lost_after_s,
        array,
        ..JobSpec::default()
    }
}
