//! `clean_queue` for jobs: what waits is cancelled in steps of a bounded size, and answered when all of it is. Parked jobs are
//! read first, so that whoever keeps their records has the whole of them. What was submitted after the call stays, and
//! whatever begins before its turn comes goes on.
use super::Core;
use super::calls_jobs::foreign;
use super::due::What;
use crate::effect::{Effect, Portion, Reply, Step};
use crate::input::{Now, Stored, Target, Ticket};
use crate::job_manager::Body;
use crate::row::{Caller, JobRow};
use reeve_protocol::api::Cleaned;
use reeve_protocol::{JobId, Problem, State};
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

/// Cancelled in one step, and read at once.
const AT_ONCE: usize = 1_000;
/// Between two steps of those that need not be read.
const PAUSE_MS: u64 = 1;

/// A queue of jobs that is being cleaned.
pub(super) struct Cleaning {
    caller: Caller,
    queue: Arc<str>,
    /// Those yet to come: first those in memory, then those that were parked.
    left: VecDeque<JobId>,
    removed: u64,
}

impl Core {
    /// Cancels what waits in a queue of jobs, or those that are named. `None`: the answer comes when all of it is done.
    pub(super) fn clean_jobs(
        &mut self,
        now: Now,
        (ticket, caller): (Ticket, &Caller),
        queue: &str,
        ids: Option<Vec<JobId>>,
        dry_run: bool,
        step: &mut Step,
    ) -> Result<Option<u64>, Problem> {
        let Some(q) = self.queues.get(queue) else { return Err(Self::unknown_job(queue)) };
        let (name, wanted) =
            (q.row.name.clone(), ids.map(|list| list.into_iter().collect::<HashSet<JobId>>()));
        let is_meant = |id: JobId| wanted.as_ref().is_none_or(|w| w.contains(&id));
        let here = self.jobs.iter().filter(|j| j.queue == name && is_meant(j.id));
        let mut list: Vec<JobId> =
            here.filter(|j| j.standing().state == State::Queued).map(|j| j.id).collect();
        list.sort_unstable();
        let mut parked: Vec<JobId> = Vec::new();
        for (place, owner) in q.all_parked().filter(|(place, _)| is_meant(place.job)) {
            if !dry_run && caller.uid != 0 && caller.uid != owner.uid {
                return Err(foreign(place.job, &owner.name));
            }
            parked.push(place.job);
        }
        if dry_run {
            return Ok(Some(list.iter().map(|id| self.waiting_of(*id)).sum::<u64>() + parked.len() as u64));
        }
        for id in &list {
            self.check_owner(caller, *id)?;
        }
        parked.sort_unstable();
        list.append(&mut parked);
        let all = list.len();
        let cleaning =
            Cleaning { caller: caller.clone(), queue: name.clone(), left: list.into(), removed: 0 };
        let done = self.clean_on(now, ticket, cleaning, AT_ONCE, step);
        if done.is_none() {
            // Its own line comes with the answer: should we die before that, this one says who began it.
            self.audit.note(now, caller, "clean_queue", format!("queue:{name}, {all} jobs, begun"));
        }
        Ok(done)
    }

    /// Tasks that wait of a job in memory.
    fn waiting_of(&self, id: JobId) -> u64 {
        match self.jobs.get(id).map(|j| &j.body) {
            Some(Body::Array(array)) => array.counts.queued,
            Some(Body::Single(_)) => 1,
            None => 0,
        }
    }

    /// The next step of a cleaning, of at most so many jobs; how many there were once all are done.
    fn clean_on(
        &mut self,
        now: Now,
        ticket: Ticket,
        mut cleaning: Cleaning,
        most: usize,
        step: &mut Step,
    ) -> Option<u64> {
        for _ in 0..most {
            let Some(id) = cleaning.left.front().copied().filter(|id| !self.is_parked_in(&cleaning, *id))
            else {
                break;
            };
            cleaning.left.pop_front();
            self.clean_one(now, &mut cleaning, id, step);
        }
        let Some(next) = cleaning.left.front().copied() else { return Some(cleaning.removed) };
        if self.is_parked_in(&cleaning, next) {
            let jobs = cleaning.left.iter().take(AT_ONCE).copied().collect();
            step.effects.push(Effect::Load(cleaning.queue.clone(), Portion::Clean(ticket), jobs));
        } else {
            self.due.after(now, PAUSE_MS, What::Clean(ticket));
        }
        self.cleaning.insert(ticket, cleaning);
        None
    }

    fn is_parked_in(&self, cleaning: &Cleaning, id: JobId) -> bool {
        self.jobs.get(id).is_none()
            && self.queues.find_parked(id).is_some_and(|(queue, ..)| queue == cleaning.queue)
    }

    /// Cancels a job if it still waits there.
    fn clean_one(&mut self, now: Now, cleaning: &mut Cleaning, id: JobId, step: &mut Step) {
        let waits =
            |j: &crate::job_manager::Job| j.queue == cleaning.queue && j.standing().state == State::Queued;
        if !self.jobs.get(id).is_some_and(waits) {
            return;
        }
        let (n, target) = (self.waiting_of(id), Target { job: id, tasks: None });
        if self.cancel_job(now, &cleaning.caller, target, None, &Stored::default(), step).is_ok() {
            cleaning.removed += n;
        }
    }

    /// It is time for the next step.
    pub(super) fn clean_due(&mut self, now: Now, ticket: Ticket, step: &mut Step) {
        if let Some(cleaning) = self.cleaning.remove(&ticket) {
            self.clean_further(now, ticket, cleaning, AT_ONCE, step);
        }
    }

    /// Rows of parked jobs have come that are to be cancelled.
    pub(super) fn clean_loaded(
        &mut self,
        now: Now,
        ticket: Ticket,
        asked: &[JobId],
        rows: &[JobRow],
        step: &mut Step,
    ) {
        let Some(mut cleaning) = self.cleaning.remove(&ticket) else { return };
        let rows: HashMap<JobId, &JobRow> = rows.iter().map(|row| (row.id, row)).collect();
        for id in asked {
            cleaning.left.pop_front();
            if !rows.get(id).is_some_and(|row| self.unpark_from(&cleaning.queue, row)) {
                self.forget_parked(now, &cleaning.queue, *id);
            }
            if self.is_parked_in(&cleaning, *id) {
                // The row is older than its parking: it is read again.
                cleaning.left.push_back(*id);
            }
            self.clean_one(now, &mut cleaning, *id, step);
        }
        self.clean_further(now, ticket, cleaning, AT_ONCE.saturating_sub(asked.len()), step);
    }

    fn clean_further(&mut self, now: Now, ticket: Ticket, cleaning: Cleaning, most: usize, step: &mut Step) {
        if let Some(removed) = self.clean_on(now, ticket, cleaning, most, step) {
            let cleaned = Cleaned { removed, dry_run: false };
            Self::reply(step, ticket, Ok(Reply::Cleaned(cleaned, None)));
        }
    }
}
