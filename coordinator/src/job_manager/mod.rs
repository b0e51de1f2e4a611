//! Job Manager: the records of live jobs, their life cycle and their attempts. Knows no machine and no connection; a
//! machine is a name here.
//!
//! A job is in memory from its registration until the step that ends it; the rest is in the store.
pub mod array;
pub mod lifecycle;
pub mod retry;

use crate::row::{ArrayRow, JobRow, Standing, TaskRow};
use array::Array;
use lifecycle::{Move, Phase};
use reeve_protocol::spec::LostAfter;
use reeve_protocol::{AttemptId, Cause, JobId, JobSpec, TaskId};
use std::collections::HashMap;
use std::sync::Arc;

/// Who has the current attempt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Holder {
    /// Nobody.
    #[default]
    None,
    /// A machine, by identity.
    Machine(Arc<str>),
    /// A replica of a static worker, by its own attempt.
    Replica(AttemptId),
    /// A consumer of the queue, by lease.
    Consumer(String),
    /// A caller outside, without a lease.
    Outside,
}

/// A job that is no array, or a task of one, while it lives.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    phase: Phase,
    /// Why the last attempt ended, or the job.
    pub cause: Option<Cause>,
    /// The fence; 0 before the first.
    pub attempt: u32,
    /// Own failures.
    pub tries: u32,
    /// Infrastructure failures.
    pub losses: u32,
    /// Not before, wall milliseconds.
    pub run_at: Option<i64>,
    /// Of the current attempt, wall milliseconds.
    pub started_at: Option<i64>,
    /// Wall milliseconds.
    pub ended_at: Option<i64>,
    /// Name of the machine of the current or last attempt.
    pub machine: Option<Arc<str>>,
    /// Who has attempt `attempt`, which has not ended.
    pub holder: Holder,
    /// Somebody asked for its end.
    pub cancel: bool,
}

impl Task {
    /// A new one.
    pub const fn new(phase: Phase) -> Self {
        Self {
            phase,
            cause: None,
            attempt: 0,
            tries: 0,
            losses: 0,
            run_at: None,
            started_at: None,
            ended_at: None,
            machine: None,
            holder: Holder::None,
            cancel: false,
        }
    }

    /// From the store; `None` when the stored pair of states is not legal.
    pub fn restore(standing: &Standing) -> Option<Self> {
        Some(Self {
            phase: Phase::restore(standing.state, standing.substate)?,
            cause: standing.cause.clone(),
            attempt: standing.attempt,
            tries: standing.tries,
            losses: standing.losses,
            run_at: standing.run_at,
            started_at: standing.started_at,
            ended_at: standing.ended_at,
            machine: standing.machine.clone(),
            holder: Holder::None,
            // Handed out and cancelled before it started, or running and told to stop.
            cancel: standing.substate == Some(reeve_protocol::Substate::Cancelling)
                || (!standing.state.is_terminal() && standing.cause == Some(Cause::Cancelled)),
        })
    }

    /// Where it is.
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    /// Takes a move if it is legal, and says from where to where.
    pub fn take(&mut self, mv: Move) -> Option<(Phase, Phase)> {
        let from = self.phase;
        self.phase = from.step(mv)?;
        Some((from, self.phase))
    }

    /// For the store.
    pub fn standing(&self) -> Standing {
        Standing {
            state: self.phase.state(),
            substate: self.phase.substate(),
            cause: self.cause.clone(),
            attempt: self.attempt,
            tries: self.tries,
            losses: self.losses,
            run_at: self.run_at,
            started_at: self.started_at,
            ended_at: self.ended_at,
            machine: self.machine.clone(),
        }
    }

    /// Forgets what failed before: for `restart`.
    pub fn renew(&mut self) {
        (self.tries, self.losses, self.cause, self.cancel) = (0, 0, None, false);
        (self.run_at, self.started_at, self.ended_at) = (None, None, None);
    }
}

/// One job, or many tasks of one spec.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// One.
    Single(Task),
    /// Many.
    Array(Box<Array>),
}

/// Where a job's changes of state are told, as its spec says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// See [`reeve_protocol::reply_to::ReplyTo`].
    pub to: String,
    /// Given back with each.
    pub correlation_id: Option<String>,
}

/// A live job.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// Its number; also its place in the queue's order.
    pub id: JobId,
    /// Who submitted it.
    pub owner_uid: u32,
    /// Who submitted it.
    pub owner: Arc<str>,
    /// Where it waits.
    pub queue: Arc<str>,
    /// Higher first.
    pub priority: i32,
    /// JSON, parsed when it is dispatched.
    pub spec: Arc<str>,
    /// What it needs, as the cluster numbers such needs.
    pub shape: u32,
    /// Own failures that are tried again.
    pub retries: u32,
    /// Milliseconds between TERM and KILL.
    pub grace_ms: u64,
    /// Milliseconds without its machine; `None`: for ever.
    pub lost_after_ms: Option<u64>,
    /// Wall milliseconds.
    pub created_at: i64,
    /// Wall milliseconds.
    pub expires_at: Option<i64>,
    /// Runs elsewhere: never dispatched.
    pub external: bool,
    /// Where its changes are told.
    pub reply: Option<Box<Address>>,
    /// One or many.
    pub body: Body,
}

/// Default milliseconds without a machine before a job may run elsewhere.
pub const LOST_AFTER_MS: u64 = 300_000;
/// Tries of a request beyond the first, where the worker says that another may succeed.
const REQUEST_RETRIES: u32 = 3;
/// Default milliseconds between TERM and KILL.
pub const GRACE_MS: u64 = 15_000;

impl Job {
    /// A live job from its row and parsed spec. `None` when the row makes no sense.
    pub fn restore(row: &JobRow, spec: &JobSpec, shape: u32) -> Option<Self> {
        let body = match &row.array {
            Some(array) => Body::Array(Box::new(Array::restore(array, &row.standing))),
            None => Body::Single(Task::restore(&row.standing)?),
        };
        Some(Self {
            id: row.id,
            owner_uid: row.owner_uid,
            owner: row.owner.clone(),
            queue: row.queue.clone(),
            priority: row.priority,
            spec: row.spec.clone(),
            shape,
            retries: spec.retries.unwrap_or(if spec.is_request() { REQUEST_RETRIES } else { 0 }),
            grace_ms: spec.grace_s.map_or(GRACE_MS, |s| (s * 1000.0) as u64),
            lost_after_ms: match spec.lost_after_s {
                Some(LostAfter::Never) => None,
                Some(LostAfter::Seconds(s)) => Some((s * 1000.0) as u64),
                None => Some(LOST_AFTER_MS),
            },
            created_at: row.created_at,
            expires_at: row.expires_at,
            external: row.external,
            reply: spec
                .reply_to
                .as_ref()
                .map(|to| Box::new(Address { to: to.clone(), correlation_id: spec.correlation_id.clone() })),
            body,
        })
    }

    /// The task with that index; for a job that is no array, the job itself.
    pub fn task(&self, index: Option<u32>) -> Option<&Task> {
        match (&self.body, index) {
            (Body::Single(task), None) => Some(task),
            (Body::Array(array), Some(index)) => array.live.get(&index),
            _ => None,
        }
    }

    /// As [`Job::task`], to change.
    pub fn task_mut(&mut self, index: Option<u32>) -> Option<&mut Task> {
        match (&mut self.body, index) {
            (Body::Single(task), None) => Some(task),
            (Body::Array(array), Some(index)) => array.live.get_mut(&index),
            _ => None,
        }
    }

    /// The array, if it is one.
    pub fn array_mut(&mut self) -> Option<&mut Array> {
        match &mut self.body {
            Body::Array(array) => Some(array),
            Body::Single(_) => None,
        }
    }

    /// Whether nothing of it lives any more.
    pub fn is_over(&self) -> bool {
        match &self.body {
            Body::Single(task) => task.phase().state().is_terminal(),
            Body::Array(array) => array.is_over(),
        }
    }

    /// For the store.
    pub fn standing(&self) -> Standing {
        match &self.body {
            Body::Single(task) => task.standing(),
            Body::Array(array) => array.standing(),
        }
    }
}

/// Every live job.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JobManager {
    jobs: HashMap<JobId, Job>,
}

impl JobManager {
    /// Takes a job in.
    pub fn insert(&mut self, job: Job) {
        self.jobs.insert(job.id, job);
    }

    /// Takes a job out: its end is in this step.
    pub fn remove(&mut self, id: JobId) -> Option<Job> {
        self.jobs.remove(&id)
    }

    /// A live job.
    pub fn get(&self, id: JobId) -> Option<&Job> {
        self.jobs.get(&id)
    }

    /// A live job, to change.
    pub fn get_mut(&mut self, id: JobId) -> Option<&mut Job> {
        self.jobs.get_mut(&id)
    }

    /// A live task.
    pub fn task(&self, id: TaskId) -> Option<&Task> {
        self.jobs.get(&id.job)?.task(id.index)
    }

    /// A live task, to change.
    pub fn task_mut(&mut self, id: TaskId) -> Option<&mut Task> {
        self.jobs.get_mut(&id.job)?.task_mut(id.index)
    }

    /// Every live job, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Job> {
        self.jobs.values()
    }

    /// How many live.
    pub fn len(&self) -> usize {
        self.jobs.len()
    }

    /// Whether none lives.
    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }
}

/// Live tasks of an array as the store has them.
pub fn restore_tasks(array: &mut Array, rows: &[TaskRow]) {
    for row in rows {
        if let Some(task) = Task::restore(&row.standing) {
            array.take_in(row.index, task);
        }
    }
}

/// The array part of a new job's row.
pub fn new_array(spec: &JobSpec) -> Option<ArrayRow> {
    let array = spec.array?;
    let mut row = ArrayRow {
        from: array.from,
        to: array.to,
        limit: array.limit,
        next: array.from,
        ..ArrayRow::default()
    };
    row.counts.queued = array.len();
    if spec.hold {
        row.held.insert_range(array.from, array.to);
    }
    Some(row)
}
