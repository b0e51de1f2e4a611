//! The Cluster's calls: `submit` and `cancel_job` (`get_job_status` reads the store; workers are in `calls_worker`), and
//! the tokens by which machines join.
use super::Core;
use super::events::Change;
use crate::cluster::shape::Shape;
use crate::effect::{Effect, Fact, Reply, Step};
use crate::input::{Key, Now, Stored, Target};
use crate::job_manager::lifecycle::Move;
use crate::job_manager::{Body, Holder, Job, Task, new_array};
use crate::row::{Backend, Caller, JobRow, QueueKind, QueueRow, Standing};
use reeve_protocol::api::{Changed, Submitted};
use reeve_protocol::spec_check::check_name;
use reeve_protocol::time::Wall;
use reeve_protocol::{Cause, Code, JobSpec, Problem, State, Substate, TaskId};
use std::sync::Arc;

impl Core {
    /// `submit`: a job exists and waits. With a key that was used before: that job, if the content is the same.
    pub(super) fn submit(
        &mut self,
        now: Now,
        caller: &Caller,
        spec: JobSpec,
        key: Option<Key>,
        step: &mut Step,
    ) -> Result<(Submitted, bool), Problem> {
        if let Some(known) = self.replayed(caller, key.as_ref())? {
            return Ok((known, true));
        }
        let (spec, worker) = self.resolve_worker(spec)?;
        let shape = Shape::of(&spec)?;
        let created = self.queue_for(now, caller, spec.queue_name(), QueueKind::Jobs, step)?;
        self.check_room(spec.queue_name(), spec.array.map_or(1, |a| a.len()))?;
        self.prepare_reply(now, caller, spec.reply_to.as_deref(), step)?;
        let id = self.next_job;
        self.next_job += 1;
        let row = new_row(id, now, caller, &spec, worker, key)?;
        if let Some((key, digest)) = &row.key {
            self.recent.note(caller.uid, "", (key, digest), id);
        }
        let seq = self.note_new_job(now, &row, &caller.actor());
        let (state, substate) = (row.standing.state, row.standing.substate);
        let shape = self.cluster.shapes.intern(shape);
        self.take_in(now, &row, &spec, shape);
        self.note_reply(TaskId::single(id), None, row.standing.clone(), seq);
        step.facts.push(Fact::JobAdded(Box::new(row)));
        Ok((Submitted { id, state, substate, seq, created }, false))
    }

    /// Tells observers of a new job.
    pub(super) fn note_new_job(&mut self, now: Now, row: &JobRow, actor: &str) -> u64 {
        let change = Change {
            at: now.wall,
            task: TaskId::single(row.id),
            attempt: 0,
            from: None,
            to: (row.standing.state, row.standing.substate),
            cause: None,
            actor,
        };
        self.events.change(change)
    }

    /// `submit` of many. Atomic: the first mistake refuses all, before anything is decided.
    pub(super) fn submit_many(
        &mut self,
        now: Now,
        caller: &Caller,
        specs: Vec<(JobSpec, Option<Key>)>,
        atomic: bool,
        step: &mut Step,
    ) -> Result<Reply, Problem> {
        if atomic {
            for (at, (spec, key)) in specs.iter().enumerate() {
                let checked = self.check_submit(caller, spec, key.as_ref());
                checked.map_err(|mut p| {
                    p.detail = format!("job {} of the array: {}", at + 1, p.detail);
                    p
                })?;
            }
        }
        let results = specs
            .into_iter()
            .map(|(spec, key)| self.submit(now, caller, spec, key, step).map(|(s, _)| s.id))
            .collect();
        Ok(Reply::Many(results, self.seq()))
    }

    fn check_submit(&self, caller: &Caller, spec: &JobSpec, key: Option<&Key>) -> Result<(), Problem> {
        self.replayed(caller, key)?;
        let (spec, _) = self.resolve_worker(spec.clone())?;
        Shape::of(&spec)?;
        match self.queues.get(spec.queue_name()) {
            Some(q) if q.row.kind == QueueKind::Messages => Err(wrong_kind(spec.queue_name(), q.row.kind)),
            _ => Ok(()),
        }
    }

    /// The job that this key made, if it is remembered here.
    fn replayed(&self, caller: &Caller, key: Option<&Key>) -> Result<Option<Submitted>, Problem> {
        let Some(key) = key else { return Ok(None) };
        let id = match self.recent.used(caller.uid, "", key) {
            None => return Ok(None),
            Some(Ok(id)) => id,
            Some(Err(id)) => {
                return Err(Problem::new(
                    Code::KeyReused,
                    format!("the key was used for job {id} with another content"),
                )
                .hint("use a new key for a new job, or send the same content to get the same job"));
            }
        };
        let standing = match self.jobs.get(id) {
            Some(job) => job.standing(),
            None if self.queues.find_parked(id).is_some() => {
                Standing::new(State::Queued, Some(Substate::Waiting))
            }
            None => Standing::new(State::Completed, None),
        };
        Ok(Some(Submitted {
            id,
            state: standing.state,
            substate: standing.substate,
            seq: self.seq(),
            created: false,
        }))
    }

    /// The queue of that name, made if it does not exist; true if it was.
    pub(super) fn queue_for(
        &mut self,
        now: Now,
        caller: &Caller,
        name: &str,
        kind: QueueKind,
        step: &mut Step,
    ) -> Result<bool, Problem> {
        if let Some(queue) = self.queues.get_mut(name) {
            if queue.row.kind == QueueKind::Unset && kind != QueueKind::Unset {
                queue.row.kind = kind;
                step.facts.push(Fact::QueuePut(Box::new(queue.row.clone())));
            }
            return if kind == QueueKind::Unset || queue.row.kind == kind {
                Ok(false)
            } else {
                Err(wrong_kind(name, queue.row.kind))
            };
        }
        check_name("queue", name)?;
        check_place(name)?;
        let row = QueueRow::new(name.into(), kind, Backend::Local, (caller.uid, &caller.name), now.wall);
        step.facts.push(Fact::QueuePut(Box::new(row.clone())));
        self.events.note(now.wall, "queue", name, "created", &caller.actor());
        self.insert_queue(row);
        Ok(true)
    }

    pub(super) fn check_room(&self, name: &str, n: u64) -> Result<(), Problem> {
        match self.queues.get(name) {
            Some(q) if q.row.max_len > 0 && q.len() + n > q.row.max_len => Err(Problem::new(
                Code::QueueState,
                format!("queue {name} holds {} of at most {}", q.len(), q.row.max_len),
            )
            .hint(format!(
                "wait for it to drain, or raise the bound with: reeve queue set {name} --max-len N"
            ))),
            _ => Ok(()),
        }
    }

    /// `cancel_job`: a durable intent. What waits is cancelled now; what runs is told to stop and ends with its whole tree.
    pub(super) fn cancel_job(
        &mut self,
        now: Now,
        caller: &Caller,
        target: Target,
        grace_ms: Option<u64>,
        stored: &Stored,
        step: &mut Step,
    ) -> Result<Changed, Problem> {
        self.unpark(target.job, stored)?;
        self.check_live(target, stored)?;
        self.check_owner(caller, target.job)?;
        let actor = caller.actor();
        let tasks = self.live_tasks(target);
        let mut n = 0;
        for task in tasks {
            n += u64::from(self.cancel_task(now, task, grace_ms, &actor, step));
        }
        if let Some(Job { body: Body::Array(array), queue, .. }) = self.jobs.get_mut(target.job) {
            let (from, to) = target.tasks.unwrap_or((array.from, array.to));
            let (held, delayed) = (array.held.clone(), array.run_at.is_some());
            let set = array.cancel_untouched(from, to);
            let held = set.iter().filter(|i| held.contains(*i)).count() as u64;
            array.ended_at = array.is_over().then_some(now.wall);
            n += set.len();
            if !set.is_empty() {
                if let Some(q) = self.queues.get_mut(&queue.clone()) {
                    let fresh = if delayed { Substate::Delayed } else { Substate::Waiting };
                    q.count_move((State::Queued, Some(Substate::Held)), (State::Cancelled, None), held);
                    q.count_move((State::Queued, Some(fresh)), (State::Cancelled, None), set.len() - held);
                }
                self.note_tasks(
                    now,
                    target.job,
                    set,
                    (State::Queued, State::Cancelled, None),
                    Some(&Cause::Cancelled),
                    &actor,
                );
            }
            self.dirty_arrays.insert(target.job);
            self.offer(target.job);
        }
        Ok(self.changed(target, n))
    }

    /// Cancels one live task. False: it was being cancelled already.
    pub(super) fn cancel_task(
        &mut self,
        now: Now,
        task: TaskId,
        grace_ms: Option<u64>,
        actor: &str,
        step: &mut Step,
    ) -> bool {
        let Some(grace) = self.jobs.get(task.job).map(|j| grace_ms.unwrap_or(j.grace_ms)) else {
            return false;
        };
        let Some(t) = self.jobs.task_mut(task) else { return false };
        let again = std::mem::replace(&mut t.cancel, true);
        let attempt = task.attempt(t.attempt);
        match (t.phase().state(), t.holder.clone()) {
            (State::Running, Holder::Machine(machine)) => {
                self.go(now, task, Move::Stop, actor);
                self.send_stop(&machine, attempt, Cause::Cancelled, grace, step);
            }
            // Handed out, not started as far as we know: the keeper drops it, or stops it if it has just started. The intent
            // is kept until the machine has said which.
            (State::Queued, Holder::Machine(machine)) if t.phase().is(Substate::Assigned) => {
                // There is no substate for it: the cause is what a restart knows it by.
                t.cause = Some(Cause::Cancelled);
                self.dirty_tasks.insert(task);
                self.send_stop(&machine, attempt, Cause::Cancelled, grace, step);
            }
            (_, holder) => {
                t.cause = Some(Cause::Cancelled);
                if holder != Holder::None {
                    step.facts.push(Fact::AttemptEnded(Box::new(ended(attempt, Cause::Cancelled, now))));
                }
                self.leave(now, attempt, Move::Cancel, actor);
            }
        }
        !again
    }

    /// A join token exists; only the hash of its secret is kept.
    pub(super) fn put_token(
        &mut self,
        now: Now,
        caller: &Caller,
        id: String,
        secret_hash: String,
        expires_at: i64,
        step: &mut Step,
    ) -> Reply {
        let seq = self.events.note(now.wall, "token", &id, "created", &caller.actor());
        step.facts.push(Fact::TokenAdded {
            id: id.clone(),
            secret_hash: secret_hash.clone(),
            expires_at,
            owner_uid: caller.uid,
            owner: caller.name.clone(),
        });
        self.tokens.retain(|_, token| now.wall < token.expires_at);
        self.tokens.insert(id.clone(), crate::row::TokenRow { id, secret_hash, expires_at, bound: None });
        Reply::Done(seq)
    }

    /// Answers a caller later.
    pub(super) fn reply(step: &mut Step, ticket: u64, answer: Result<Reply, Problem>) {
        step.effects.push(Effect::Reply(ticket, Box::new(answer)));
    }
}

/// How an attempt ended that no machine told about.
pub(super) fn ended(attempt: reeve_protocol::AttemptId, cause: Cause, now: Now) -> crate::effect::Ended {
    crate::effect::Ended {
        attempt,
        cause,
        started_at: None,
        ended_at: now.wall,
        pid: None,
        cpu_ms: 0,
        rss_peak: 0,
        output: Vec::new(),
        segment: None,
    }
}

pub(super) fn new_row(
    id: u64,
    now: Now,
    caller: &Caller,
    spec: &JobSpec,
    worker: Option<(String, u32)>,
    key: Option<Key>,
) -> Result<JobRow, Problem> {
    let delay = spec.delay_s.map(|s| now.wall + (s * 1000.0) as i64);
    let run_at = spec.at.map(|Wall(ms)| ms).or(delay).filter(|at| *at > now.wall);
    let array = new_array(spec);
    let task = Core::new_task(spec.hold, run_at.is_some());
    let mut standing = task_standing(&task);
    standing.run_at = run_at;
    let json = serde_json::to_string(spec).map_err(|e| Problem::new(Code::Internal, e.to_string()))?;
    Ok(JobRow {
        id,
        owner_uid: caller.uid,
        owner: caller.name.clone(),
        queue: spec.queue_name().into(),
        priority: spec.priority,
        spec: json.into(),
        name: spec.name.clone(),
        title: spec.title().chars().take(256).collect(),
        worker,
        alias: None,
        definition: None,
        external: false,
        created_at: now.wall,
        expires_at: spec.expires_s.map(|s| now.wall + (s * 1000.0) as i64),
        key: key.map(|k| (k.key, k.digest)),
        standing,
        array,
    })
}

fn task_standing(task: &Task) -> Standing {
    task.standing()
}

/// What the names of a queue's places at a broker end in: its bands, and where others put jobs for it.
const PLACES: [&str; 3] = [":high", ":low", super::ingress::IN];

/// A queue of such a name would share its messages with another queue.
fn check_place(name: &str) -> Result<(), Problem> {
    match PLACES.iter().find(|end| name.ends_with(*end)) {
        None => Ok(()),
        Some(end) => Err(Problem::new(
            Code::BadName,
            format!(
                "queue {name} is not usable: at a broker this is a place of queue {}",
                &name[..name.len() - end.len()]
            ),
        )
        .hint("choose a name that ends in none of :high, :low and :in")),
    }
}

pub(super) fn wrong_kind(queue: &str, kind: QueueKind) -> Problem {
    Problem::new(Code::QueueKind, format!("queue {queue} holds {}", kind.as_str()))
        .hint("a queue holds jobs or messages, fixed by its first use; use another queue")
}

/// A name shared by arcs of one string.
pub(super) fn arc(name: &str) -> Arc<str> {
    name.into()
}
