//! Which waiting jobs are in memory. Of each queue and need a window is at hand; the others are parked: the store has their
//! rows, memory their numbers. A step that leaves too few at hand asks for the next rows, and whatever touches a parked job
//! brings it into memory from the row that came with the call. A parked job never moves but from queue to queue, so that any
//! row of it that shows it waiting in its queue and untouched is its row.
use super::Core;
use super::calls_jobs::read_again;
use crate::effect::{Effect, Portion, Step};
use crate::input::{Now, Stored};
use crate::job_manager::lifecycle::Phase;
use crate::job_manager::{Body, Job, Task};
use crate::orchestrator::parked::Owner;
use crate::orchestrator::queue::Place;
use crate::row::{JobRow, Standing};
use reeve_protocol::{JobId, JobSpec, Problem, State, Substate};
use std::sync::Arc;

/// Jobs at hand per queue and need: some hundred milliseconds of the highest rate of starts.
const WINDOW: usize = 2_048;

/// How many jobs are kept at hand, and when and how many are read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    /// With so many at hand a new job is parked; with twice as many the last ones are.
    at_hand: usize,
    /// With no more than so many the next are read, at most as many again.
    low: usize,
}

impl Window {
    fn of(at_hand: usize) -> Self {
        Self { at_hand: at_hand.max(1), low: (at_hand / 2).max(1) }
    }
}

impl Default for Window {
    fn default() -> Self {
        Self::of(WINDOW)
    }
}

impl Core {
    /// Keeps so many jobs at hand per queue and need, at least one. For tests: nothing else than memory and speed changes.
    pub fn set_window(&mut self, at_hand: usize) {
        self.window = Window::of(at_hand);
    }

    /// Takes a new or restored job in: into memory, or parked.
    pub(super) fn take_in(&mut self, now: Now, row: &JobRow, spec: &JobSpec, shape: u32) {
        let place = Place { priority: row.priority, job: row.id, need: shape };
        let owner = Owner { uid: row.owner_uid, name: row.owner.clone() };
        let parks = is_plain(row)
            && spec.reply_to.is_none()
            && self.cluster.shapes.get(shape).worker.is_none()
            && self.queues.park(&row.queue, place, self.window.at_hand, &owner, row.created_at);
        if !parks {
            if let Some(job) = Job::restore(row, spec, shape) {
                self.adopt(job, now);
            }
        } else if let Some(q) = self.queues.get_mut(&row.queue) {
            q.count_new(Some(Substate::Waiting), State::Queued, 1);
        }
    }

    /// Brings a parked job into memory, from the row that came with a call.
    ///
    /// # Errors
    /// `read again` when that row is older than the parking.
    pub(super) fn unpark(&mut self, id: JobId, stored: &Stored) -> Result<(), Problem> {
        if self.jobs.get(id).is_some() {
            return Ok(());
        }
        let Some((queue, place, _)) = self.queues.find_parked(id) else { return Ok(()) };
        let row = stored.job.as_deref().filter(|row| shows(row, id, &queue)).ok_or_else(read_again)?;
        let job = whole(row, place.need).ok_or_else(read_again)?;
        self.enter(&queue, place, job);
        Ok(())
    }

    /// What is parked here comes to hand; what stood at a broker gets a hint anew, and the old one is void.
    fn enter(&mut self, queue: &str, place: Place, job: Job) {
        self.jobs.insert(job);
        let Some(q) = self.queues.get_mut(queue) else { return };
        if q.parked.remove(place) {
            q.offer(place);
        } else if q.away.distant.remove(place) {
            self.queues.offer(queue, place);
        }
    }

    /// A parked job as it is, from the row that came with a call; it stays parked.
    pub(super) fn parked_job(&self, id: JobId, stored: &Stored) -> Option<Job> {
        let (queue, place, _) = self.queues.find_parked(id)?;
        whole(stored.job.as_deref().filter(|row| shows(row, id, &queue))?, place.need)
    }

    /// Brings a parked job of this queue into memory, unless its row is older. False: nobody can read it.
    pub(super) fn unpark_from(&mut self, queue: &Arc<str>, row: &JobRow) -> bool {
        let parked = self.queues.find_parked(row.id).filter(|(of, ..)| of == queue);
        let Some((_, place, _)) = parked.filter(|_| shows(row, row.id, queue)) else { return true };
        let Some(job) = whole(row, place.need) else { return false };
        self.enter(queue, place, job);
        true
    }

    /// Rows of parked jobs have come: of as many of those that were asked for as fit.
    pub(super) fn loaded(
        &mut self,
        now: Now,
        (queue, portion): (&Arc<str>, Portion),
        asked: &[JobId],
        rows: &[JobRow],
        step: &mut Step,
    ) {
        match portion {
            Portion::Need(need) => self.come_to_hand(now, queue, need, asked, rows),
            Portion::Clean(ticket) => self.clean_loaded(now, ticket, asked, rows, step),
        }
    }

    /// They come next. Those that were touched meanwhile are in memory already.
    fn come_to_hand(&mut self, now: Now, queue: &Arc<str>, need: u32, asked: &[JobId], rows: &[JobRow]) {
        let Some(q) = self.queues.get_mut(queue) else { return };
        q.parked.loading.remove(&need);
        let mut found = std::collections::HashSet::with_capacity(rows.len());
        for row in rows {
            let place = Place { priority: row.priority, job: row.id, need };
            let parked = self.queues.get(queue).is_some_and(|q| q.parked.has(place));
            // A row that shows it otherwise was read before it was parked: it is read again.
            if parked && row.queue == *queue && is_plain(row) {
                let Some(job) = whole(row, need) else { continue };
                self.enter(queue, place, job);
            }
            found.insert(row.id);
        }
        for id in asked.iter().filter(|id| !found.contains(id)) {
            self.forget_parked(now, queue, *id);
        }
    }

    /// The store has no such job, or nothing that could be run: as at a start, it does not exist.
    pub(super) fn forget_parked(&mut self, now: Now, queue: &Arc<str>, id: JobId) {
        let Some(q) = self.queues.get_mut(queue) else { return };
        let Some((place, _)) = q.parked.find(id).or_else(|| q.away.distant.find(id)) else { return };
        if !q.parked.remove(place) {
            q.away.distant.remove(place);
        }
        q.counts.queued = q.counts.queued.saturating_sub(1);
        let waiting = &mut q.waiting[Substate::Waiting as usize];
        *waiting = waiting.saturating_sub(1);
        self.events.note_job(now.wall, id, "unreadable", "coordinator");
    }

    /// Ends a step for what is at hand: where there is too much the last are parked, where there is little more is read.
    /// What moved in this step has its fact by now.
    pub(super) fn park(&mut self, step: &mut Step) {
        let Window { at_hand, low } = self.window;
        let mut away: Vec<Place> = Vec::new();
        for q in self.queues.iter_mut() {
            away.extend(q.beyond(at_hand));
        }
        for place in away {
            self.park_one(place);
        }
        for q in self.queues.iter_mut().filter(|q| !q.parked.is_empty()) {
            let needs: Vec<u32> = q.parked.needs().collect();
            for need in needs {
                if !q.parked.loading.contains(&need) && q.is_low(need, low) {
                    let jobs = q.parked.next_of(need, low);
                    q.parked.loading.insert(need);
                    step.effects.push(Effect::Load(q.row.name.clone(), Portion::Need(need), jobs));
                }
            }
        }
    }

    fn park_one(&mut self, place: Place) {
        let Some(job) = self.jobs.get(place.job) else { return };
        let plain = matches!(&job.body, Body::Single(task) if *task == Task::new(Phase::WAITING));
        let never = job.external
            || job.reply.is_some()
            || job.expires_at.is_some()
            || &*job.queue == crate::row::REPLICAS
            || self.cluster.shapes.get(job.shape).worker.is_some();
        if !plain || never {
            return;
        }
        let Some(job) = self.jobs.remove(place.job) else { return };
        if let Some(q) = self.queues.get_mut(&job.queue) {
            q.withdraw(place);
            let owner = Owner { uid: job.owner_uid, name: job.owner };
            q.parked.insert(place, &owner, job.created_at);
        }
    }
}

/// Whether a row shows a job that waits and was never touched, of a kind that may be parked. One that has somebody to tell
/// of its changes is not: its spec says so, which is not looked at here.
fn is_plain(row: &JobRow) -> bool {
    row.array.is_none()
        && !row.external
        && row.expires_at.is_none()
        && &*row.queue != crate::row::REPLICAS
        && row.standing == Standing::new(State::Queued, Some(Substate::Waiting))
}

/// Whether a row shows this job as one that is parked in that queue.
fn shows(row: &JobRow, id: JobId, queue: &Arc<str>) -> bool {
    row.id == id && row.queue == *queue && is_plain(row)
}

fn whole(row: &JobRow, need: u32) -> Option<Job> {
    let spec: JobSpec = serde_json::from_str(&row.spec).ok()?;
    Job::restore(row, &spec, need)
}
