//! The invariants, walked in tests and simulation after every input.
use super::Core;
use crate::job_manager::{Body, Holder};
use reeve_protocol::{State, Substate};
use std::collections::BTreeMap;

impl Core {
    /// Every invariant that does not hold, in words.
    pub fn check(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut counted: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        for job in self.jobs.iter() {
            let entry = counted.entry(&job.queue).or_default();
            match &job.body {
                Body::Single(t) => {
                    entry.0 += u64::from(t.phase().state() == State::Queued);
                    entry.1 += u64::from(t.phase().state() == State::Running);
                    Self::check_task(job.id, t, &mut wrong);
                }
                Body::Array(a) => {
                    entry.0 += a.counts.queued;
                    entry.1 += a.counts.running;
                    let total = u64::from(a.to - a.from) + 1;
                    if a.counts.total() != total {
                        wrong.push(format!("array {} counts {} of {total} tasks", job.id, a.counts.total()));
                    }
                    for t in a.live.values() {
                        Self::check_task(job.id, t, &mut wrong);
                    }
                }
            }
        }
        for q in self.queues.iter() {
            let (queued, running) = counted.get(&*q.row.name).copied().unwrap_or_default();
            if (q.counts.queued, q.counts.running) != (queued, running) {
                wrong.push(format!(
                    "queue {} counts {:?}, its jobs are {queued} queued, {running} running",
                    q.row.name, q.counts
                ));
            }
            if q.waiting.iter().sum::<u64>() != q.counts.queued {
                wrong.push(format!(
                    "queue {} has {} queued but {:?} by substate",
                    q.row.name, q.counts.queued, q.waiting
                ));
            }
        }
        for m in self.cluster.iter() {
            for attempt in m.held().keys() {
                let holds = self.jobs.task(attempt.task).is_some_and(|t| {
                    t.attempt == attempt.attempt && t.holder == Holder::Machine(m.id.clone())
                });
                if !holds {
                    wrong.push(format!(
                        "machine {} has resources of {attempt}, which it does not hold",
                        m.name
                    ));
                }
            }
        }
        wrong
    }

    fn check_task(id: u64, t: &crate::job_manager::Task, wrong: &mut Vec<String>) {
        let phase = t.phase();
        let out = phase.state() == State::Running || phase.is(Substate::Assigned);
        if out && t.holder == Holder::None {
            wrong.push(format!("job {id} is {phase:?} and nobody holds it"));
        }
        if out && t.attempt == 0 {
            wrong.push(format!("job {id} is {phase:?} without an attempt"));
        }
        if phase.state().is_terminal() && t.holder != Holder::None {
            wrong.push(format!("job {id} has ended and is held"));
        }
    }
}
