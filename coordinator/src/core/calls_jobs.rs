//! The Job Manager's calls on one job: `register_job`, hold and release (`restart_job` is in `calls_restart`). `list_jobs`
//! reads the store.
use super::Core;
use super::due::What;
use super::events::Change;
use crate::cluster::shape::Shape;
use crate::effect::{Fact, Reply, Step};
use crate::input::{Now, Stored, Target};
use crate::job_manager::lifecycle::Move;
use crate::job_manager::{Body, Job, Task};
use crate::row::{Caller, JobRow, QueueKind};
use reeve_protocol::api::Changed;
use reeve_protocol::intervals::Intervals;
use reeve_protocol::spec_check::check_key;
use reeve_protocol::{Cause, Code, JobId, JobSpec, Problem, State, Substate, TaskId};

impl Core {
    /// `register_job`: gives a job the caller's own name, or records a job that runs elsewhere. That the name is free was
    /// looked up in the store; its unique index has the last word.
    pub(super) fn register_job(
        &mut self,
        now: Now,
        caller: &Caller,
        alias: String,
        definition: Option<String>,
        cluster_id: Option<JobId>,
        stored: &Stored,
        step: &mut Step,
    ) -> Result<Reply, Problem> {
        check_key("id", &alias)?;
        let taken = |id: JobId| {
            Problem::new(Code::NameTaken, format!("@{alias} is the name of job {id}"))
                .hint("choose another id, or leave the name where it is")
        };
        let known = self.aliases.get(&(caller.uid, alias.clone())).copied();
        match (known, cluster_id) {
            (Some(id), Some(wanted)) if id == wanted => return Ok(Reply::Registered(id, false)),
            (Some(id), None) => return Ok(Reply::Registered(id, false)),
            (Some(id), Some(_)) => return Err(taken(id)),
            (None, _) => {}
        }
        if let Some(id) = cluster_id {
            self.unpark(id, stored)?;
            if self.jobs.get(id).is_none() && stored.job.as_ref().is_none_or(|row| row.id != id) {
                return Err(Self::unknown_job(id));
            }
            self.check_owner(caller, id)?;
            self.aliases.insert((caller.uid, alias.clone()), id);
            self.events.note_job(now.wall, id, "named", &caller.actor());
            step.facts.push(Fact::JobNamed(id, alias, definition));
            return Ok(Reply::Registered(id, false));
        }
        let id = self.record_external(now, caller, alias, definition, step)?;
        Ok(Reply::Registered(id, true))
    }

    fn record_external(
        &mut self,
        now: Now,
        caller: &Caller,
        alias: String,
        definition: Option<String>,
        step: &mut Step,
    ) -> Result<JobId, Problem> {
        let spec = JobSpec {
            name: reeve_protocol::spec_check::check_title("name", &alias).is_ok().then(|| alias.clone()),
            ..JobSpec::default()
        };
        self.queue_for(now, caller, spec.queue_name(), QueueKind::Jobs, step)?;
        let id = self.next_job;
        self.next_job += 1;
        let task = Task::new(crate::job_manager::lifecycle::Phase::WAITING);
        let row = JobRow {
            id,
            owner_uid: caller.uid,
            owner: caller.name.clone(),
            queue: spec.queue_name().into(),
            priority: 0,
            spec: serde_json::to_string(&spec).unwrap_or_default().into(),
            name: spec.name.clone(),
            title: alias.clone(),
            worker: None,
            alias: Some(alias.clone()),
            definition,
            external: true,
            created_at: now.wall,
            expires_at: None,
            key: None,
            standing: task.standing(),
            array: None,
        };
        let change = Change {
            at: now.wall,
            task: TaskId::single(id),
            attempt: 0,
            from: None,
            to: (State::Queued, Some(Substate::Waiting)),
            cause: None,
            actor: &caller.actor(),
        };
        self.events.change(change);
        self.aliases.insert((caller.uid, alias), id);
        let shape = self.cluster.shapes.intern(Shape::of(&spec)?);
        if let Some(job) = Job::restore(&row, &spec, shape) {
            self.adopt(job, now);
        }
        step.facts.push(Fact::JobAdded(Box::new(row)));
        Ok(id)
    }

    /// Hold and release. What has been handed out is not held: its end is waited for, or it is cancelled.
    pub(super) fn hold_job(
        &mut self,
        now: Now,
        caller: &Caller,
        target: Target,
        hold: bool,
        stored: &Stored,
    ) -> Result<Changed, Problem> {
        self.unpark(target.job, stored)?;
        self.check_live(target, stored)?;
        self.check_owner(caller, target.job)?;
        let actor = caller.actor();
        let mut n = 0;
        for task in self.live_tasks(target) {
            let Some(t) = self.jobs.task_mut(task) else { continue };
            let later = t.run_at.is_some_and(|at| at > now.wall);
            let mv = match (hold, t.phase().substate()) {
                (true, Some(Substate::Held)) => continue,
                (true, _) => Move::Hold,
                (false, Some(Substate::Held)) if later => Move::Delay,
                (false, Some(Substate::Held)) => Move::Ready,
                (false, _) => continue,
            };
            if let (Move::Delay, Some(at)) = (mv, t.run_at) {
                self.due.at(now, at, What::Run(task));
            }
            n += u64::from(self.go(now, task, mv, &actor).is_some());
        }
        n += self.hold_untouched(now, target, hold, &actor);
        if n == 0 {
            let state = self.jobs.get(target.job).map_or(State::Completed, |j| j.standing().state);
            let why = if hold { "only what waits can be held" } else { "it is not held" };
            return Err(Problem::new(Code::WrongState, format!("job {} is {state}: {why}", target.job))
                .hint("reeve show tells what it does"));
        }
        Ok(self.changed(target, n))
    }

    fn hold_untouched(&mut self, now: Now, target: Target, hold: bool, actor: &str) -> u64 {
        let Some(Job { body: Body::Array(array), queue, .. }) = self.jobs.get_mut(target.job) else {
            return 0;
        };
        let queue = queue.clone();
        let (from, to) = target.tasks.unwrap_or((array.from, array.to));
        let mut set = array.untouched(from, to);
        for (low, high) in set.clone().ranges() {
            for index in (*low..=*high).filter(|i| array.held.contains(*i) == hold) {
                set.remove(index);
            }
        }
        if set.is_empty() {
            return 0;
        }
        for (low, high) in set.ranges() {
            if hold {
                array.held.insert_range(*low, *high);
            } else {
                for index in *low..=*high {
                    array.held.remove(index);
                }
            }
        }
        let fresh = array.fresh();
        let (from, to) = if hold { (fresh, Substate::Held) } else { (Substate::Held, fresh) };
        if let Some(q) = self.queues.get_mut(&queue) {
            q.count_move((State::Queued, Some(from)), (State::Queued, Some(to)), set.len());
        }
        let n = set.len();
        self.note_tasks(now, target.job, set, (State::Queued, State::Queued, Some(to)), None, actor);
        self.dirty_arrays.insert(target.job);
        self.offer(target.job);
        n
    }

    /// Notes a change of many tasks that have no entry of their own.
    pub(super) fn note_tasks(
        &mut self,
        now: Now,
        job: JobId,
        set: Intervals,
        (from, to, substate): (State, State, Option<Substate>),
        cause: Option<&Cause>,
        actor: &str,
    ) {
        if set.is_empty() {
            return;
        }
        self.changes.hit(now.mono, set.len());
        let (task, indices) = (TaskId::single(job), set.to_string());
        let seq = self.events.tasks(
            Change { at: now.wall, task, attempt: 0, from: Some(from), to: (to, substate), cause, actor },
            set,
        );
        self.note_replies(job, indices, (from, to), substate, cause, seq);
    }

    /// Live tasks that a target means.
    pub(super) fn live_tasks(&self, target: Target) -> Vec<TaskId> {
        match self.jobs.get(target.job).map(|j| &j.body) {
            Some(Body::Single(task)) if target.tasks.is_none() && !task.phase().state().is_terminal() => {
                vec![TaskId::single(target.job)]
            }
            Some(Body::Array(array)) => {
                let (from, to) = target.tasks.unwrap_or((array.from, array.to));
                let mut list: Vec<u32> =
                    array.live.keys().copied().filter(|i| (from..=to).contains(i)).collect();
                list.sort_unstable();
                list.into_iter().map(|i| TaskId::of_array(target.job, i)).collect()
            }
            _ => Vec::new(),
        }
    }

    /// That a target lives, or why it does not.
    pub(super) fn check_live(&self, target: Target, stored: &Stored) -> Result<(), Problem> {
        if let Some(job) = self.jobs.get(target.job) {
            if job.is_over() {
                return Err(already_over(target.job, job.standing().state));
            }
            return match (&job.body, target.tasks) {
                (Body::Single(_), Some(_)) => {
                    Err(Problem::new(Code::BadId, format!("job {} is no array", target.job))
                        .hint(format!("write {} alone", target.job)))
                }
                _ => Ok(()),
            };
        }
        match stored.job.as_ref().filter(|row| row.id == target.job) {
            None => Err(Self::unknown_job(target.job)),
            Some(row) if row.standing.state.is_terminal() => {
                Err(already_over(target.job, row.standing.state))
            }
            Some(_) => Err(read_again()),
        }
    }

    /// That the caller may change the job: its own, or any for root.
    pub(super) fn check_owner(&self, caller: &Caller, id: JobId) -> Result<(), Problem> {
        match self.jobs.get(id) {
            Some(job) if caller.uid != 0 && caller.uid != job.owner_uid => Err(foreign(id, &job.owner)),
            _ => Ok(()),
        }
    }

    /// The answer to a change.
    pub(super) fn changed(&self, target: Target, tasks: u64) -> Changed {
        let job = self.jobs.get(target.job);
        let one = target.tasks.filter(|(a, b)| a == b).map(|(a, _)| a);
        let standing =
            job.map(|j| one.and_then(|i| j.task(Some(i))).map_or_else(|| j.standing(), Task::standing));
        let standing = standing.unwrap_or_else(|| crate::row::Standing::new(State::Cancelled, None));
        Changed {
            id: target.job,
            state: standing.state,
            substate: standing.substate,
            attempt: standing.attempt,
            tasks: job.is_some_and(|j| matches!(j.body, Body::Array(_))).then_some(tasks),
            seq: self.seq(),
        }
    }
}

/// A job is somebody else's.
pub(super) fn foreign(id: JobId, owner: &str) -> Problem {
    Problem::new(Code::SingleUser, format!("job {id} belongs to {owner}")).hint("ask its owner, or root")
}

fn already_over(id: JobId, state: State) -> Problem {
    Problem::new(Code::WrongState, format!("job {id} is {state} already"))
        .hint("restart it, or look at it with: reeve show")
}

/// The row that came with the call is older than memory: the asking side reads it again.
pub(super) fn read_again() -> Problem {
    Problem::new(Code::Unavailable, "read again: the job has just moved").hint("try again")
}
