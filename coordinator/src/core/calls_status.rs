//! `update_job_status`: the one function for consumers of a queue and outside callers; what machines say ends in the
//! same moves (see `agents`). Only legal moves, only for the current attempt, and for an attempt that a machine holds only
//! by that machine.
use super::Core;
use super::calls_cluster::ended;
use super::due::What;
use crate::effect::{Fact, Step};
use crate::input::{Now, Stored, Target};
use crate::job_manager::lifecycle::Move;
use crate::job_manager::{Holder, Task};
use crate::row::Caller;
use reeve_protocol::api::{Changed, StatusRequest};
use reeve_protocol::{Cause, Code, Problem, State, Substate, TaskId};
use std::sync::Arc;

impl Core {
    /// Moves a job that a consumer or an outside caller has.
    pub(super) fn update_job_status(
        &mut self,
        now: Now,
        caller: &Caller,
        target: Target,
        request: StatusRequest,
        stored: &Stored,
        step: &mut Step,
    ) -> Result<Changed, Problem> {
        check_request(&request)?;
        self.unpark(target.job, stored)?;
        self.check_live(target, stored)?;
        self.check_owner(caller, target.job)?;
        let task = match target.tasks {
            None => TaskId::single(target.job),
            Some((index, to)) if index == to => TaskId::of_array(target.job, index),
            Some(_) => {
                return Err(Problem::new(Code::BadId, "the status of one task at a time")
                    .hint("write for example 7.3"));
            }
        };
        let Some(t) = self.jobs.task(task) else {
            return Err(Problem::new(Code::WrongState, format!("task {task} waits and nobody has it"))
                .hint("receive it from its queue first"));
        };
        self.check_holder(t, task, &request)?;
        let actor = format!("user:{}", caller.name);
        self.take_status(now, caller, task, &request, &actor, step)?;
        if request.progress.is_some() || request.message.is_some() {
            step.facts.push(Fact::ProgressMade(task, request.progress, request.message.clone()));
            self.events.note_job(now.wall, task.job, "progress", &actor);
        }
        if let Some(result) = &request.result {
            step.facts.push(Fact::ResultKept(task, result.to_string()));
        }
        Ok(self.changed(target, 1))
    }

    fn check_holder(&self, t: &Task, task: TaskId, request: &StatusRequest) -> Result<(), Problem> {
        let state = t.phase().state();
        if request.attempt.is_some_and(|n| n != t.attempt) {
            return Err(Problem::new(
                Code::StaleAttempt,
                format!("job {task} is {state} in attempt {}", t.attempt),
            )
            .hint("only the current attempt is updated"));
        }
        match &t.holder {
            Holder::Machine(id) => {
                let name = self.cluster.get(id).map_or_else(|| id.to_string(), |m| m.name.to_string());
                Err(Problem::new(
                    Code::WrongState,
                    format!("job {task} is {state}: machine {name} has it and alone reports on it"),
                )
                .hint(
                    "a job tells its progress through the file named in REEVE_STATUS; to end it, cancel it",
                ))
            }
            Holder::Consumer(lease) if request.lease.as_ref().is_some_and(|l| l != lease) => {
                Err(Problem::new(Code::NoLease, format!("job {task} is {state} under another lease"))
                    .hint("receive again"))
            }
            Holder::Replica(_) => Err(Problem::new(
                Code::WrongState,
                format!("job {task} is {state}: a static worker has it and alone answers it"),
            )
            .hint("a worker tells progress with its answers; to end it, cancel it")),
            Holder::Consumer(_) | Holder::Outside | Holder::None => Ok(()),
        }
    }

    fn take_status(
        &mut self,
        now: Now,
        caller: &Caller,
        task: TaskId,
        request: &StatusRequest,
        actor: &str,
        step: &mut Step,
    ) -> Result<(), Problem> {
        let Some(state) = request.state else { return Ok(()) };
        let Some(t) = self.jobs.task(task) else { return Ok(()) };
        let (phase, attempt, external) =
            (t.phase(), task.attempt(t.attempt), self.jobs.get(task.job).is_some_and(|j| j.external));
        let illegal = || {
            Problem::new(
                Code::WrongState,
                format!("job {task} is {}: it cannot become {state} from there", phase.state()),
            )
            .hint("QUEUED -> RUNNING -> COMPLETED, FAILED or CANCELLED")
        };
        match (phase.state(), state) {
            (State::Running, State::Running) => self.renew(now, attempt),
            (State::Queued, State::Running) => {
                self.begin_outside(now, caller, task, step).ok_or_else(illegal)?;
            }
            (State::Queued, State::Completed | State::Failed) if external => {
                self.begin_outside(now, caller, task, step).ok_or_else(illegal)?;
                self.end_outside(now, task, request, actor, step);
            }
            (State::Running, State::Completed | State::Failed | State::Cancelled) => {
                self.end_outside(now, task, request, actor, step);
            }
            (State::Queued, State::Cancelled) => {
                if let Some(t) = self.jobs.task_mut(task) {
                    t.cause = Some(Cause::Cancelled);
                }
                self.go(now, task, Move::Cancel, actor);
            }
            _ => return Err(illegal()),
        }
        Ok(())
    }

    /// An outside caller takes the job: a new attempt without a lease.
    fn begin_outside(&mut self, now: Now, caller: &Caller, task: TaskId, step: &mut Step) -> Option<()> {
        let t = self.jobs.task(task)?;
        if t.holder != Holder::None || t.phase().is(Substate::Held) {
            return None;
        }
        let machine: Arc<str> = format!("external:{}", caller.name).into();
        let attempt = self.open_attempt(now, task, Holder::Outside, &machine, Vec::new(), step)?;
        self.begin(now, attempt, &caller.actor(), step);
        Some(())
    }

    fn end_outside(&mut self, now: Now, task: TaskId, request: &StatusRequest, actor: &str, step: &mut Step) {
        let Some(t) = self.jobs.task_mut(task) else { return };
        let attempt = task.attempt(t.attempt);
        let cause = match request.state {
            Some(State::Completed) => Cause::Ok,
            Some(State::Cancelled) => {
                t.cancel = true;
                Cause::Cancelled
            }
            _ => Cause::Reported {
                detail: request.error.clone().or_else(|| request.message.clone()).unwrap_or_default(),
            },
        };
        self.lease_until.remove(&attempt);
        self.end_attempt(now, ended(attempt, cause, now), actor, step);
    }

    /// A consumer that reports is alive: its lease starts anew with the length it had.
    fn renew(&mut self, now: Now, attempt: reeve_protocol::AttemptId) {
        const LEAST_MS: u64 = 60_000;
        let lease = self.jobs.task(attempt.task).map(|t| t.holder.clone());
        if let (Some(Holder::Consumer(lease)), Some(until)) = (lease, self.lease_until.get_mut(&attempt)) {
            *until = (*until).max(now.mono + LEAST_MS);
            let until = *until;
            self.due.push(until, What::JobLease(attempt, lease));
        }
    }
}

fn check_request(request: &StatusRequest) -> Result<(), Problem> {
    use reeve_protocol::spec_check::MAX_PAYLOAD;
    if request.state == Some(State::Queued) {
        return Err(Problem::new(Code::BadValue, "state QUEUED is not set by hand")
            .hint("restart_job queues a job again"));
    }
    if request.progress.is_some_and(|p| !(0.0..=1.0).contains(&p)) {
        return Err(Problem::new(Code::OutOfRange, "progress must be between 0 and 1"));
    }
    if request.message.as_ref().is_some_and(|m| m.len() > 1024)
        || request.error.as_ref().is_some_and(|m| m.len() > 4096)
    {
        return Err(Problem::new(Code::TooLarge, "message has at most 1024 bytes, error at most 4096"));
    }
    if request.result.as_ref().is_some_and(|r| r.to_string().len() > MAX_PAYLOAD) {
        return Err(Problem::new(Code::TooLarge, "the result has more than 256 KiB")
            .hint("put it into a file or an object store and pass its name"));
    }
    Ok(())
}
