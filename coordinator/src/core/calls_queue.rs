//! The Orchestrator's calls on a queue as a whole: `clean_queue`, `count_queue_messages`, its settings.
use super::calls_cluster::wrong_kind;
use super::{Core, ingress};
use crate::effect::{Fact, Reply, Step};
use crate::input::{Now, Ticket};
use crate::orchestrator::queue::Queue;
use crate::row::{Backend, Caller, Paused, QueueKind};
use reeve_protocol::api::{Cleaned, QueueCount, QueueSettings};
use reeve_protocol::nearest::nearest;
use reeve_protocol::{Code, JobId, Problem, Substate};
use std::collections::HashSet;
use std::sync::Arc;

impl Core {
    /// The queue, or 404 with the nearest name.
    pub(super) fn known_queue(&self, name: &str) -> Result<(), Problem> {
        if self.queues.get(name).is_some() {
            return Ok(());
        }
        let names: Vec<String> = self.queues.iter().map(|q| q.row.name.to_string()).collect();
        let short = reeve_protocol::text::Clean::short(name, 64);
        Err(Problem::new(Code::UnknownQueue, format!("there is no queue {short}")).hint(
            match nearest(name, names.iter().map(String::as_str)) {
                Some(near) => format!("did you mean {near}? publish, submit and queue set make a queue"),
                None => "publish, submit and queue set make a queue; reeve queue ls shows those there are"
                    .to_owned(),
            },
        ))
    }

    /// `clean_queue`: cancels waiting jobs, removes waiting or dead messages. `None`: the answer comes later.
    pub(super) fn clean_queue(
        &mut self,
        now: Now,
        (ticket, caller): (Ticket, &Caller),
        queue: &str,
        ids: Option<Vec<JobId>>,
        (dead, dry_run): (bool, bool),
        step: &mut Step,
    ) -> Result<Option<Reply>, Problem> {
        self.known_queue(queue)?;
        self.store_passing(now, queue, None, step);
        let Some(q) = self.queues.get_mut(queue) else {
            return Err(Self::unknown_job(queue));
        };
        let mut outside = None;
        let removed = if q.row.kind == QueueKind::Messages {
            if !dead {
                super::calls_move::check_between(q)?;
            }
            outside = q.row.backend.broker().filter(|_| !dead).map(|broker| (broker.clone(), q.depth));
            if ids.is_some() && q.row.backend != Backend::Local {
                let text = format!("backend {} does not clean by filter", q.row.backend.as_str());
                return Err(Problem::new(Code::BackendCannot, text).hint(
                    "reeve queue show says what it can do; clean the whole queue, or receive and ack",
                ));
            }
            let wanted: Option<HashSet<u64>> = ids.map(|list| list.into_iter().collect());
            let mut list = q.messages.ids(dead);
            list.retain(|id| wanted.as_ref().is_none_or(|w| w.contains(id)));
            if !dry_run && !list.is_empty() {
                for id in &list {
                    q.messages.remove(*id);
                }
                if q.has_rows() {
                    step.facts.push(Fact::MessagesCleaned(q.row.name.clone(), list.clone()));
                }
                self.events.note(now.wall, "queue", queue, "cleaned", &caller.actor());
            }
            list.len() as u64
        } else if dead {
            self.clean_dead(now, caller, queue, ids, dry_run, step)
        } else {
            match self.clean_jobs(now, (ticket, caller), queue, ids, dry_run, step)? {
                Some(removed) => removed,
                None => return Ok(None),
            }
        };
        Ok(Some(Reply::Cleaned(Cleaned { removed, dry_run }, outside)))
    }

    /// `count_queue_messages`. `None`: the queue's broker is asked first.
    pub(super) fn count_queue_messages(
        &mut self,
        now: Now,
        ticket: Ticket,
        queue: &str,
        step: &mut Step,
    ) -> Option<Result<Reply, Problem>> {
        if let Err(problem) = self.known_queue(queue) {
            return Some(Err(problem));
        }
        match self.count_outside(now, ticket, queue, step) {
            Some(()) => None,
            None => Some(self.count_of(now, queue).map(Reply::Count)),
        }
    }

    /// What is in a queue, at this moment.
    pub(super) fn count_of(&self, now: Now, queue: &str) -> Result<QueueCount, Problem> {
        let Some(q) = self.queues.get(queue) else { return Err(Self::unknown_job(queue)) };
        let age = |at: i64| (now.wall - at).max(0) as f64 / 1000.0;
        let (ready, delayed, leased, dead) = match q.row.kind {
            QueueKind::Messages => {
                let (ready, delayed, leased, dead) = q.messages.counts();
                let old = q.drain.as_ref().and_then(|d| d.left).map_or(0, |left| left.0);
                (ready + q.depth + old, delayed, leased, dead)
            }
            QueueKind::Jobs | QueueKind::Unset => {
                let later = [Substate::Held, Substate::Blocked, Substate::Delayed, Substate::Retrying]
                    .map(|s| q.waiting_in(s))
                    .iter()
                    .sum();
                let assigned = q.waiting_in(Substate::Assigned);
                // What other programs published without sense.
                let dead = q.messages.counts().3;
                (q.waiting_in(Substate::Waiting), later, q.counts.running + assigned, dead)
            }
        };
        let oldest = match q.row.kind {
            QueueKind::Messages => q.messages.oldest(),
            QueueKind::Jobs | QueueKind::Unset => self.oldest_waiting(q),
        };
        Ok(QueueCount {
            queue: queue.to_owned(),
            kind: q.row.kind.as_str().to_owned(),
            ready,
            delayed,
            leased,
            dead,
            oldest_age_s: oldest.map(age),
            as_of_seq: self.seq(),
            degraded: self.degraded(q),
        })
    }

    /// Makes a queue, or changes its settings.
    pub(super) fn set_queue(
        &mut self,
        now: Now,
        caller: &Caller,
        queue: &str,
        settings: QueueSettings,
        ingress_uid: Option<u32>,
        step: &mut Step,
    ) -> Result<Reply, Problem> {
        let kind = match settings.kind.as_deref() {
            None => QueueKind::Unset,
            Some(word) => QueueKind::parse(word).filter(|k| *k != QueueKind::Unset).ok_or_else(|| {
                Problem::new(Code::BadValue, format!("kind {word:?} is not known")).hint("jobs or messages")
            })?,
        };
        if settings.weight.is_some_and(|w| !(1..=1000).contains(&w)) {
            return Err(Problem::new(Code::OutOfRange, "weight must be between 1 and 1000"));
        }
        let backend = settings.backend.as_deref().map(Backend::of);
        let ingress = settings.ingress.as_deref().map(|word| ingress::user_of(word, ingress_uid));
        // All of it can be done, or nothing is.
        self.check_settings(queue, kind, backend.as_ref(), ingress.as_ref().is_some_and(Option::is_some))?;
        let created = self.queue_for(now, caller, queue, QueueKind::Unset, step)?;
        if let Some(q) = self.queues.get_mut(queue).filter(|_| kind != QueueKind::Unset) {
            q.row.kind = kind;
        }
        if let Some(backend) = backend {
            self.set_backend(queue, backend)?;
        }
        if let Some(user) = ingress {
            self.set_ingress(queue, user);
        }
        let Some(q) = self.queues.get_mut(queue) else { return Err(Self::unknown_job(queue)) };
        q.row.weight = settings.weight.unwrap_or(q.row.weight);
        q.row.limit = settings.limit.unwrap_or(q.row.limit);
        q.row.max_len = settings.max_len.unwrap_or(q.row.max_len);
        step.facts.push(Fact::QueuePut(Box::new(q.row.clone())));
        if !created {
            self.events.note(now.wall, "queue", queue, "set", &caller.actor());
        }
        Ok(Reply::Queue(Box::new(self.queue_view(now, queue)), created))
    }

    /// Whether a queue can be of this kind, be kept there, and take in jobs of other programs.
    fn check_settings(
        &self,
        queue: &str,
        kind: QueueKind,
        backend: Option<&Backend>,
        takes_in: bool,
    ) -> Result<(), Problem> {
        let known = self.queues.get(queue);
        let kind_now = known.map_or(QueueKind::Unset, |q| q.row.kind);
        if ![QueueKind::Unset, kind_now].contains(&kind) && kind_now != QueueKind::Unset {
            return Err(wrong_kind(queue, kind_now));
        }
        if let (Some(q), Some(backend)) = (known, backend) {
            check_left_behind(q, backend)?;
        }
        let kind = if kind == QueueKind::Unset { kind_now } else { kind };
        let backend = backend.or_else(|| known.map(|q| &q.row.backend));
        if takes_in { ingress::check(queue, kind, backend.unwrap_or(&Backend::Local)) } else { Ok(()) }
    }

    /// Keeps a queue elsewhere from now on. Jobs go along: their records stay, their hints are made anew. Messages would be
    /// left behind, so they are moved by `migrate`.
    pub(super) fn set_backend(&mut self, queue: &str, backend: Backend) -> Result<(), Problem> {
        if let Some(broker) = backend.broker() {
            self.queues.links.entry(broker.clone()).or_default();
        }
        let Some(q) = self.queues.get_mut(queue).filter(|q| q.row.backend != backend) else { return Ok(()) };
        check_left_behind(q, &backend)?;
        q.row.backend = backend;
        q.trouble = None;
        q.room = 0;
        let mut places = q.places();
        places.extend(q.away.places());
        places.sort_unstable_by_key(|p| (std::cmp::Reverse(p.priority), p.job));
        for place in &places {
            q.withdraw(*place);
        }
        // What is parked goes as it is.
        if q.row.backend.broker().is_some() {
            q.away.take_parked(&mut q.parked);
        } else {
            q.parked.append(q.away.distant.drain());
        }
        for place in places {
            self.queues.offer(queue, place);
        }
        Ok(())
    }

    /// Why a queue's backend cannot be relied on now.
    pub(super) fn degraded(&self, q: &Queue) -> Option<String> {
        let left = q.row.moving_from.as_ref().and_then(|old| Some((old, self.queues.links.get(old)?)));
        if let Some((old, link)) = left.filter(|(_, link)| !link.up && link.since.is_some()) {
            let why = link.reason.as_deref().unwrap_or_default();
            return Some(format!("it waits for {old}, from where it moves: {why}"));
        }
        let link = self.queues.link_of(q)?;
        if let Some(trouble) = &q.trouble {
            return Some(trouble.clone());
        }
        match (link.up, link.silent) {
            (true, false) => None,
            (false, _) if link.since.is_none() => None,
            (true, true) => Some("it says nothing: hints are not waited for".to_owned()),
            (false, _) => Some(link.reason.clone().unwrap_or_default()),
        }
    }

    /// Pauses a queue or resumes it: it takes things in, and hands nothing out.
    pub(super) fn pause_queue(
        &mut self,
        now: Now,
        caller: &Caller,
        queue: &str,
        (paused, reason): (bool, Option<String>),
        step: &mut Step,
    ) -> Result<Reply, Problem> {
        self.known_queue(queue)?;
        if let Some(q) = self.queues.get_mut(queue).filter(|q| q.row.paused != paused) {
            q.row.paused = paused;
            let by = Paused { by: caller.name.clone(), why: reason, at: now.wall };
            q.row.paused_by = paused.then(|| Box::new(by));
            step.facts.push(Fact::QueuePut(Box::new(q.row.clone())));
            step.facts.push(Fact::Interval("queue_paused", queue.to_owned(), paused, caller.actor()));
            self.events.note(
                now.wall,
                "queue",
                queue,
                if paused { "paused" } else { "resumed" },
                &caller.actor(),
            );
        }
        Ok(Reply::Queue(Box::new(self.queue_view(now, queue)), false))
    }

    /// What would come next; true: ids of messages, false: of jobs.
    pub(super) fn peek(&self, queue: &str, max: u32, dead: bool) -> Result<Reply, Problem> {
        self.known_queue(queue)?;
        let Some(q) = self.queues.get(queue) else { return Err(Self::unknown_job(queue)) };
        if dead {
            let ids = q.messages.dead(max as usize);
            return Ok(peeked(q, ids, None));
        }
        if q.row.kind != QueueKind::Messages {
            let ids = q.peek(max as usize);
            return Ok(Reply::Peeked { ids, are_messages: false, kept: Vec::new(), broker: None });
        }
        let mut ids = q.messages.peek(max as usize);
        ids.extend(q.messages.unsent(max as usize - ids.len()));
        Ok(peeked(q, ids, q.row.backend.broker().cloned()))
    }
}

/// Messages to be shown: those of a queue in memory are handed over whole.
fn peeked(q: &Queue, mut ids: Vec<u64>, broker: Option<Arc<str>>) -> Reply {
    let kept = ids.iter().filter_map(|id| q.messages.get(*id)).filter_map(|m| m.kept.clone()).collect();
    ids.retain(|id| q.messages.get(*id).is_some_and(|m| m.kept.is_none()));
    Reply::Peeked { ids, are_messages: true, kept, broker }
}

/// Whether nothing would be left behind if a queue were kept elsewhere.
fn check_left_behind(q: &Queue, backend: &Backend) -> Result<(), Problem> {
    let (ready, delayed, leased, dead) = q.messages.counts();
    if q.row.backend == *backend || ready + delayed + leased + dead + q.depth == 0 {
        return Ok(());
    }
    let name = &q.row.name;
    let text = format!("queue {name} holds messages in backend {}", q.row.backend.as_str());
    Err(Problem::new(Code::QueueState, text)
        .hint(format!("move them along with: reeve queue migrate {name} --to {}", backend.as_str())))
}
