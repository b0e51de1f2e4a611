//! Git jobs: the time before their command, and the commit that a ref was found to name. The commit is kept in the job's
//! spec, so every later attempt, restart and clone gets the same one, until somebody asks for the latest.
use super::Core;
use super::agents::Record;
use crate::effect::{Fact, Step};
use crate::input::Now;
use crate::job_manager::Job;
use crate::job_manager::lifecycle::Move;
use reeve_protocol::{AttemptId, Code, JobId, JobSpec, Problem, Substate, wire};

impl Core {
    /// A machine makes the checkout of an attempt.
    pub(super) fn preparing(&mut self, now: Now, machine: &str, preparing: &wire::Preparing) {
        if self.record_of(machine, preparing.attempt) != Record::Current {
            self.stale += 1;
            return;
        }
        let task = preparing.attempt.task;
        // A machine that comes back says it again; an attempt whose command runs is past this.
        let Some(t) = self.jobs.task(task).filter(|t| t.started_at.is_none()) else { return };
        let cancel = t.cancel;
        let actor = self.agent_actor(machine);
        if let Some(m) = self.cluster.get_mut(machine) {
            m.started(preparing.attempt);
        }
        if self.go(now, task, Move::Prepare, &actor).is_some() && cancel {
            self.go(now, task, Move::Stop, &actor);
        }
    }

    /// An attempt's ref was resolved. The first answer counts for the whole job; of an array's tasks that resolved at
    /// the same time each keeps what it found, and later ones get the first.
    pub(super) fn resolved(
        &mut self,
        now: Now,
        machine: &str,
        attempt: AttemptId,
        commit: &str,
        step: &mut Step,
    ) {
        if self.record_of(machine, attempt) != Record::Current {
            self.stale += 1;
            return;
        }
        let id = attempt.task.job;
        let Some(spec) = self.jobs.get(id).and_then(|job| serde_json::from_str::<JobSpec>(&job.spec).ok())
        else {
            return;
        };
        if spec.git.as_ref().is_none_or(|git| git.commit.is_some()) {
            return;
        }
        let actor = self.agent_actor(machine);
        self.set_commit(id, spec, Some(commit), step);
        self.replica_resolved(now, id, commit, step);
        self.events.note_job(now.wall, id, "resolved", &actor);
    }

    /// `restart --latest`: the next attempt resolves the ref again.
    ///
    /// # Errors
    /// When the job has no ref that could have moved.
    pub(super) fn forget_commit(&mut self, id: JobId, step: &mut Step) -> Result<(), Problem> {
        let spec = self.jobs.get(id).and_then(|job| serde_json::from_str::<JobSpec>(&job.spec).ok());
        let refused = |why: &str| {
            Err(Problem::new(Code::BadValue, format!("job {id} {why}"))
                .hint("restart it without latest, or submit a new job"))
        };
        match spec {
            Some(spec) if spec.git.as_ref().is_some_and(|git| git.patch.is_some()) => {
                refused("carries uncommitted work that was made on its commit")
            }
            Some(spec) if spec.git.is_some() => {
                self.set_commit(id, spec, None, step);
                Ok(())
            }
            _ => refused("has no repository, so there is nothing later than it"),
        }
    }

    fn set_commit(&mut self, id: JobId, mut spec: JobSpec, commit: Option<&str>, step: &mut Step) {
        let Some(git) = spec.git.as_mut() else { return };
        git.commit = commit.map(str::to_owned);
        let Ok(text) = serde_json::to_string(&spec) else { return };
        if let Some(job) = self.jobs.get_mut(id) {
            job.spec = text.into();
            if let Some(array) = Job::array_mut(job) {
                array.parsed = None;
            }
        }
        step.facts.push(Fact::CommitResolved(id, commit.map(str::to_owned)));
    }

    /// What an inventory says about an attempt that has begun: its command runs, or comes later.
    pub(super) fn begun(&self, item: &wire::InventoryItem) -> Move {
        let is_git = || {
            let spec = &self.jobs.get(item.attempt.task.job)?.spec;
            serde_json::from_str::<JobSpec>(spec).ok()?.git
        };
        if item.pid == 0 && is_git().is_some() { Move::Prepare } else { Move::Start }
    }

    /// Whether the current attempt of a task has not started its command.
    pub(super) fn is_before_command(&self, attempt: AttemptId) -> bool {
        self.jobs.task(attempt.task).is_some_and(|t| {
            t.phase().state() == reeve_protocol::State::Queued || t.phase().is(Substate::Preparing)
        })
    }
}
