//! `move`: what waits in one queue waits in another from now on, in the order it had.
use super::Core;
use super::due::What;
use crate::effect::{Fact, Reply, Step};
use crate::input::{Now, Ticket};
use crate::job_manager::{Body, Job};
use crate::orchestrator::messages::Where;
use crate::orchestrator::queue::{Place, Queue};
use crate::row::{Caller, QueueKind};
use reeve_protocol::{Code, JobId, Problem, State, Substate};
use std::collections::HashSet;
use std::sync::Arc;

/// Moved in one step.
pub(super) const AT_ONCE: usize = 2_000;

impl Core {
    /// Moves what waits, or those of it that are named, at most 2,000 at once. `None`: the queue's broker is asked first.
    pub(super) fn move_queue(
        &mut self,
        now: Now,
        (ticket, caller): (Ticket, &Caller),
        (from, to): (&str, &str),
        ids: Option<Vec<u64>>,
        dry_run: bool,
        step: &mut Step,
    ) -> Result<Option<Reply>, Problem> {
        self.known_queue(from)?;
        if from == to {
            return Err(Problem::new(Code::BadValue, "a queue is not moved into itself"));
        }
        self.store_passing(now, from, None, step);
        let Some(q) = self.queues.get(from) else { return Err(Self::unknown_job(from)) };
        let (kind, wanted) = (q.row.kind, ids.map(|list| list.into_iter().collect::<HashSet<u64>>()));
        let mut list = match kind {
            QueueKind::Messages => q.messages.ids(false),
            QueueKind::Jobs => self.movable(caller, from),
            QueueKind::Unset => Vec::new(),
        };
        list.retain(|id| wanted.as_ref().is_none_or(|w| w.contains(id)));
        check_outside(q, wanted.is_some(), self.lies_outside(from))?;
        self.check_move((from, to), kind, list.len() as u64)?;
        if wanted.is_none() && self.lies_outside(from) {
            self.move_outside(now, (ticket, caller), (from, to), dry_run, step);
            return Ok(None);
        }
        let left = list.len().saturating_sub(AT_ONCE) as u64;
        if dry_run || list.is_empty() {
            return Ok(Some(Reply::Returned(if dry_run { list.len() as u64 } else { 0 }, left)));
        }
        list.truncate(AT_ONCE);
        self.queue_for(now, caller, to, kind, step)?;
        match kind {
            QueueKind::Messages => self.move_waiting(now, (from, to), &list, step),
            QueueKind::Jobs | QueueKind::Unset => {
                for id in &list {
                    self.move_job(*id, from, to, step);
                }
            }
        }
        let what = format!("moved to {to}");
        self.events.note_many(now.wall, ("queue", from, &what), list.len() as u64, &caller.actor());
        Ok(Some(Reply::Returned(list.len() as u64, left)))
    }

    /// All of it fits there, or nothing is moved.
    pub(super) fn check_move(
        &self,
        (from, to): (&str, &str),
        kind: QueueKind,
        n: u64,
    ) -> Result<(), Problem> {
        let target = self.queues.get(to);
        if let Some(q) = target.filter(|q| q.row.kind != QueueKind::Unset && q.row.kind != kind) {
            return Err(super::calls_cluster::wrong_kind(to, q.row.kind));
        }
        let has_rows = |name: &str| self.queues.get(name).is_none_or(Queue::has_rows);
        if kind == QueueKind::Messages && has_rows(from) != has_rows(to) {
            return Err(Problem::new(Code::BackendCannot, "messages do not move into memory, nor out of it")
                .hint("receive and publish them"));
        }
        self.check_room(to, n)
    }

    pub(super) fn move_waiting(&mut self, now: Now, (from, to): (&str, &str), ids: &[u64], step: &mut Step) {
        let Some((target, parked, has_rows)) =
            self.queues.get(to).map(|q| (q.row.name.clone(), q.is_parked(), q.has_rows()))
        else {
            return;
        };
        for id in ids {
            let Some(mut message) = self.queues.get_mut(from).and_then(|q| q.messages.remove(*id)) else {
                continue;
            };
            step.touch(*id);
            message.outgoing = parked;
            message.place = match message.place {
                Where::Delayed(at) => {
                    self.due.at(now, at, What::MessageDelay(target.clone(), *id));
                    Where::Delayed(at)
                }
                _ if parked => Where::Outgoing(false),
                _ => Where::Ready,
            };
            if let Some(at) = message.expires_at {
                self.due.at(now, at, What::MessageExpiry(target.clone(), *id));
            }
            if let Some(row) = &mut message.kept {
                Arc::make_mut(row).queue = target.clone();
            }
            if let Some(q) = self.queues.get_mut(to) {
                q.messages.insert(*id, message);
            }
        }
        if has_rows && !ids.is_empty() {
            step.facts.push(Fact::MessagesMoved(target, ids.to_vec(), parked));
        }
    }

    /// Jobs of a queue that wait and that nobody has: of arrays those that have not begun.
    fn movable(&self, caller: &Caller, queue: &str) -> Vec<JobId> {
        let waits = |job: &&Job| match &job.body {
            Body::Single(task) => {
                task.phase().state() == State::Queued && !task.phase().is(Substate::Assigned)
            }
            Body::Array(array) => array.live.is_empty() && array.counts.queued == array.counts.total(),
        };
        let all = self.jobs.iter().filter(|j| &*j.queue == queue && !j.external);
        let parked = self.queues.get(queue).into_iter().flat_map(Queue::all_parked);
        let mut ids: Vec<JobId> = all
            .filter(waits)
            .filter(|j| self.check_owner(caller, j.id).is_ok() && self.deployments.worker_of(j.id).is_none())
            .map(|j| j.id)
            .chain(parked.filter(|(_, o)| caller.uid == 0 || caller.uid == o.uid).map(|(place, _)| place.job))
            .collect();
        ids.sort_unstable();
        ids
    }

    /// A parked job is parked there, too.
    fn move_parked(&mut self, id: JobId, (from, to): (&str, &str), step: &mut Step) {
        let Some(old) = self.queues.get_mut(from) else { return };
        let Some((place, (owner, at))) = old.take_parked(id) else { return };
        old.count_gone(Some(Substate::Waiting), 1);
        let Some(new) = self.queues.get_mut(to) else { return };
        new.count_new(Some(Substate::Waiting), State::Queued, 1);
        new.parked.insert(place, &owner, at);
        step.facts.push(Fact::JobRequeued(id, new.row.name.clone()));
    }

    fn move_job(&mut self, id: JobId, from: &str, to: &str, step: &mut Step) {
        let Some(target) = self.queues.get(to).map(|q| q.row.name.clone()) else { return };
        let Some(job) = self.jobs.get(id) else { return self.move_parked(id, (from, to), step) };
        let place = Place { priority: job.priority, job: id, need: job.shape };
        let moved: Vec<(Option<Substate>, u64)> = match &job.body {
            Body::Single(task) => vec![(task.phase().substate(), 1)],
            Body::Array(array) => {
                let held = array.held.len();
                vec![(Some(Substate::Held), held), (Some(array.fresh()), array.counts.queued - held)]
            }
        };
        if let Some(old) = self.queues.get_mut(&job.queue.clone()) {
            old.withdraw(place);
            for (substate, n) in &moved {
                old.count_gone(*substate, *n);
            }
        }
        if let Some(new) = self.queues.get_mut(to) {
            for (substate, n) in &moved {
                new.count_new(*substate, State::Queued, *n);
            }
        }
        if let Some(job) = self.jobs.get_mut(id) {
            job.queue = target.clone();
            if let Ok(serde_json::Value::Object(mut spec)) = serde_json::from_str(&job.spec) {
                spec.insert("queue".to_owned(), to.into());
                job.spec = serde_json::Value::Object(spec).to_string().into();
            }
        }
        step.facts.push(Fact::JobRequeued(id, target));
        self.offer(id);
    }
}

/// Whether all that waits is in one place.
pub(super) fn check_between(q: &Queue) -> Result<(), Problem> {
    if !q.is_moving() {
        return Ok(());
    }
    let name = &q.row.name;
    Err(Problem::new(Code::QueueState, format!("queue {name} is moving between backends"))
        .hint(format!("wait until reeve queue show {name} says no more of it")))
}

/// Whether what lies at a broker can be moved along.
fn check_outside(q: &Queue, filtered: bool, answers: bool) -> Result<(), Problem> {
    let name = &q.row.name;
    check_between(q)?;
    if q.depth == 0 || (answers && !filtered) {
        return Ok(());
    }
    if filtered {
        let text = format!("{} messages of {name} lie at its broker, and cannot be searched there", q.depth);
        return Err(Problem::new(Code::BackendCannot, text)
            .hint(format!("first: reeve queue migrate {name} --to local")));
    }
    let text = format!("{} messages of {name} lie at its broker, which does not answer", q.depth);
    Err(Problem::new(Code::BackendUnusable, text).hint(format!("reeve queue show {name} says why")))
}
