//! The Job Manager's calls on one job: `register_job`, `restart_job`, hold and release. `list_jobs` reads the store.
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

    /// `restart_job`: the same job, queued again; its attempts stay, the next one has the next number. Of an array: its
    /// failed and cancelled tasks, or exactly those named.
    pub(super) fn restart_job(
        &mut self,
        now: Now,
        caller: &Caller,
        target: Target,
        latest: bool,
        stored: &Stored,
        step: &mut Step,
    ) -> Result<Changed, Problem> {
        let resident = self.jobs.get(target.job).is_some();
        if !resident {
            self.bring_back(target, stored)?;
        }
        if let Err(problem) = self.may_restart(caller, target, stored) {
            // What was here has facts of this step that are not written yet.
            if !resident {
                self.put_away(target.job);
            }
            return Err(problem);
        }
        let actor = caller.actor();
        if latest {
            self.forget_commit(target.job, step).inspect_err(|_| {
                if !resident {
                    self.put_away(target.job);
                }
            })?;
        }
        let n = match self.jobs.get(target.job).map(|j| matches!(j.body, Body::Array(_))) {
            Some(true) => self.restart_tasks(now, target, stored, &actor),
            _ => self.restart_single(now, target, &actor),
        };
        if n == 0 {
            let standing = self.jobs.get(target.job).map(Job::standing);
            if !resident {
                self.put_away(target.job);
            }
            let state = standing.map_or(State::Completed, |s| s.state);
            let what = if target.tasks.is_some() {
                "no task of it has ended"
            } else {
                "only what has ended is restarted"
            };
            return Err(Problem::new(Code::WrongState, format!("job {} is {state}: {what}", target.job))
                .hint("cancel it first, or clone it; restart of an array restarts its failed and cancelled tasks"));
        }
        Ok(self.changed(target, n))
    }

    fn may_restart(&self, caller: &Caller, target: Target, stored: &Stored) -> Result<(), Problem> {
        self.check_owner(caller, target.job)?;
        let stale = |index| self.gone.is_stale(TaskId::of_array(target.job, index), stored.seq);
        if stored.tasks.iter().any(|row| stale(row.index)) { Err(read_again()) } else { Ok(()) }
    }

    fn restart_single(&mut self, now: Now, target: Target, actor: &str) -> u64 {
        let task = TaskId::single(target.job);
        let Some(t) = self.jobs.task_mut(task) else { return 0 };
        if !t.phase().state().is_terminal() || target.tasks.is_some() {
            return 0;
        }
        t.renew();
        u64::from(self.go(now, task, Move::Restart, actor).is_some())
    }

    fn restart_tasks(&mut self, now: Now, target: Target, stored: &Stored, actor: &str) -> u64 {
        let Some(Job { body: Body::Array(array), queue, .. }) = self.jobs.get_mut(target.job) else {
            return 0;
        };
        let queue = queue.clone();
        let (from, to) = target.tasks.unwrap_or((array.from, array.to));
        // What was over is wanted now; what waits for the array's time goes on waiting for it.
        if array.is_over() {
            array.run_at = None;
        }
        let (next, fresh) = (array.next, array.fresh());
        let revived = array.revive(from, to);
        // Those behind the cursor have entries of their own from now on, and with them rows.
        let behind: Vec<u32> = revived.iter().take_while(|i| *i < next).collect();
        self.dirty_tasks.extend(behind.iter().map(|i| TaskId::of_array(target.job, *i)));
        let behind = behind.len() as u64;
        let mut moved: Vec<(u32, State)> = Vec::new();
        for row in &stored.tasks {
            let wanted =
                target.tasks.is_some() || matches!(row.standing.state, State::Failed | State::Cancelled);
            let inside = (from..=to).contains(&row.index);
            if !wanted || !inside || array.live.contains_key(&row.index) || !row.standing.state.is_terminal()
            {
                continue;
            }
            if let Some(task) = Task::restore(&row.standing)
                && let Some((before, _)) = array.reopen(row.index, task)
            {
                moved.push((row.index, before.state()));
            }
        }
        let n = revived.len() + moved.len() as u64;
        if n == 0 {
            return 0;
        }
        if let Some(q) = self.queues.get_mut(&queue) {
            let waiting = (State::Queued, Some(Substate::Waiting));
            q.count_move((State::Cancelled, None), waiting, behind);
            q.count_move((State::Cancelled, None), (State::Queued, Some(fresh)), revived.len() - behind);
            for (_, before) in &moved {
                q.count_move((*before, None), waiting, 1);
            }
        }
        for before in [State::Completed, State::Failed, State::Cancelled] {
            let set: Intervals = moved.iter().filter(|(_, s)| *s == before).map(|(i, _)| *i).collect();
            self.note_tasks(
                now,
                target.job,
                set,
                (before, State::Queued, Some(Substate::Waiting)),
                None,
                actor,
            );
        }
        self.note_tasks(
            now,
            target.job,
            revived,
            (State::Cancelled, State::Queued, Some(fresh)),
            None,
            actor,
        );
        self.dirty_tasks.extend(moved.iter().map(|(i, _)| TaskId::of_array(target.job, *i)));
        self.dirty_arrays.insert(target.job);
        self.offer(target.job);
        n
    }

    /// Takes a job back into memory from its row: it was over.
    fn bring_back(&mut self, target: Target, stored: &Stored) -> Result<(), Problem> {
        let row = stored
            .job
            .as_ref()
            .filter(|row| row.id == target.job)
            .ok_or_else(|| Self::unknown_job(target.job))?;
        if !row.standing.state.is_terminal() || self.gone.is_stale(TaskId::single(target.job), stored.seq) {
            return Err(read_again());
        }
        let spec: JobSpec =
            serde_json::from_str(&row.spec).map_err(|e| Problem::new(Code::Internal, e.to_string()))?;
        let shape = self.cluster.shapes.intern(Shape::of(&spec)?);
        if let Some(job) = Job::restore(row, &spec, shape) {
            self.jobs.insert(job);
        }
        Ok(())
    }

    fn put_away(&mut self, id: JobId) {
        if self.jobs.get(id).is_some_and(Job::is_over) {
            self.jobs.remove(id);
        }
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
        let task = TaskId::single(job);
        self.events.tasks(
            Change { at: now.wall, task, attempt: 0, from: Some(from), to: (to, substate), cause, actor },
            set,
        );
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
            Some(job) if caller.uid != 0 && caller.uid != job.owner_uid => {
                Err(Problem::new(Code::SingleUser, format!("job {id} belongs to {}", job.owner))
                    .hint("ask its owner, or root"))
            }
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

fn already_over(id: JobId, state: State) -> Problem {
    Problem::new(Code::WrongState, format!("job {id} is {state} already"))
        .hint("restart it, or look at it with: reeve show")
}

/// The row that came with the call is older than memory: the asking side reads it again.
pub(super) fn read_again() -> Problem {
    Problem::new(Code::Unavailable, "read again: the job has just ended").hint("try again")
}
