//! `restart_job`: the same job, queued again. What has ended has left memory, so its rows come along with the call, and are
//! believed only if nothing has ended since they were read.
use super::Core;
use super::calls_jobs::read_again;
use crate::cluster::shape::Shape;
use crate::effect::Step;
use crate::input::{Now, Stored, Target};
use crate::job_manager::lifecycle::Move;
use crate::job_manager::{Body, Job, Task};
use crate::row::Caller;
use reeve_protocol::api::Changed;
use reeve_protocol::intervals::Intervals;
use reeve_protocol::{Code, JobId, JobSpec, Problem, State, Substate, TaskId};

impl Core {
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
        self.unpark(target.job, stored)?;
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
}
