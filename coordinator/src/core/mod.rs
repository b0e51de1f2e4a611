//! The core: decides. Pure: no IO, no clock, no async; time comes in with every input.
//!
//! The three components do not call each other; the files here do, with one short function per input: `calls_*` the
//! named calls, `agents` what machines can say, `time` what falls due, `place` who gets the next slot.
mod agents;
mod arrivals;
mod audit;
mod brokers;
mod calls;
mod calls_bulk;
mod calls_clean;
mod calls_cluster;
mod calls_dead;
mod calls_delivery;
mod calls_jobs;
mod calls_machine;
mod calls_move;
mod calls_queue;
mod calls_restart;
mod calls_route;
mod calls_settle;
mod calls_static;
mod calls_status;
mod calls_worker;
mod changes;
pub mod check;
mod checkouts;
mod due;
mod events;
mod exits;
mod gone;
pub mod idle;
mod in_flight;
mod ingress;
mod messages;
mod migrate;
mod moves;
mod moving;
mod parking;
mod passing;
mod place;
mod random;
mod recent;
mod replicas;
pub mod replies;
mod requests;
mod restore;
mod scaling;
mod serving;
mod sessions;
mod time;
mod views;

use crate::cluster::Cluster;
use crate::cluster::machine::Machine;
use crate::effect::{Effect, Fact, Reply, Step, ToAgent};
use crate::input::{Call, Input, Now, Ticket};
use crate::job_manager::{Body, Job, JobManager};
use crate::orchestrator::Orchestrator;
use crate::row::{Caller, TokenRow, WorkerRow};
use crate::store::load::Loaded;
use audit::Audit;
use changes::Changes;
use due::Due;
use events::Events;
use random::Random;
use reeve_protocol::api::Route;
use reeve_protocol::{AttemptId, Code, JobId, Problem, TaskId};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// The longest lease that can be asked for.
const LONGEST_LEASE_MS: i64 = 86_400_000;

/// Who this coordinator is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The cluster's id.
    pub cluster: String,
    /// Its name.
    pub name: String,
    /// The store's lineage.
    pub lineage: String,
    /// Counts starts.
    pub epoch: u64,
}

/// Everything that is decided about.
pub struct Core {
    identity: Identity,
    jobs: JobManager,
    queues: Orchestrator,
    cluster: Cluster,
    workers: BTreeMap<String, WorkerRow>,
    tokens: HashMap<String, TokenRow>,
    aliases: HashMap<(u32, String), JobId>,
    /// Life and keeper of machines that opened a session and have not told their inventory yet.
    hellos: HashMap<String, (String, String)>,
    /// When consumers' leases of jobs end, boot-time milliseconds.
    lease_until: HashMap<AttemptId, u64>,
    due: Due,
    /// When to look next whether this process runs at all; `None` while nobody can be judged.
    watch_at: Option<u64>,
    events: Events,
    next_job: JobId,
    next_message: u64,
    /// Numbers of messages below this one are never given again, whatever of them has a row.
    numbers_kept: u64,
    next_plan: u64,
    recent: recent::Recent,
    dirty_tasks: BTreeSet<TaskId>,
    ended_tasks: Vec<(TaskId, crate::row::Standing)>,
    gone: gone::Gone,
    dirty_arrays: BTreeSet<JobId>,
    forget: BTreeMap<(Arc<str>, u64), Vec<AttemptId>>,
    causes: BTreeMap<&'static str, u64>,
    stale: u64,
    changes: Changes,
    random: Random,
    audit: Audit,
    /// Deliveries of brokers that were taken lately, so that what comes again after a lost connection is not taken twice.
    taken: arrivals::Taken,
    /// What brokers delivered while the disk was full: not taken yet. `None`: there is room.
    held: Option<Vec<arrivals::Delivered>>,
    /// Rules that say which queues a message goes to, in order.
    routes: Vec<Route>,
    /// Queues of jobs that are being cleaned, by who asked for it.
    cleaning: BTreeMap<Ticket, calls_clean::Cleaning>,
    /// Moves out of queues whose messages lie at a broker.
    moving: BTreeMap<Ticket, moving::Moving>,
    /// Callers that count a queue whose messages are at a broker.
    counting: HashMap<Ticket, Arc<str>>,
    /// Publishers whose messages are on their way to a broker.
    publishing: HashMap<Ticket, passing::Publishing>,
    /// A look at the jobs that stand at brokers is due.
    absorb_armed: bool,
    /// Machines that are being emptied, and have not become empty yet.
    draining: BTreeSet<Arc<str>>,
    /// The highest registration of every name, removed ones included.
    versions: BTreeMap<String, u32>,
    deployments: serving::Deployments,
    /// Requests that agents have said they know of; whole when the last page came.
    told: HashMap<Arc<str>, BTreeSet<(AttemptId, reeve_protocol::wire::RequestId)>>,
    /// A job that does nothing for so long gets a warning; 0: never.
    idle_after_ms: u64,
    window: parking::Window,
    replies: replies::Replies,
}

impl Core {
    /// The core as the store has it. `seed` must not be guessable.
    #[expect(
        clippy::too_many_lines,
        reason = "one line per field: a table, which nothing is gained by cutting"
    )]
    pub fn restore(loaded: Loaded, seed: String, now: Now) -> Self {
        let mut core = Self {
            identity: loaded.identity,
            jobs: JobManager::default(),
            queues: Orchestrator::default(),
            cluster: Cluster::default(),
            workers: loaded.workers.into_iter().map(|w| (w.name.clone(), w)).collect(),
            tokens: loaded.tokens.into_iter().map(|t| (t.id.clone(), t)).collect(),
            aliases: loaded.aliases.into_iter().collect(),
            hellos: HashMap::new(),
            lease_until: HashMap::new(),
            due: Due::default(),
            watch_at: None,
            events: Events::new(loaded.seq),
            next_job: loaded.next_job,
            next_message: loaded.next_message,
            numbers_kept: loaded.next_message,
            next_plan: loaded.next_plan,
            recent: recent::Recent::default(),
            dirty_tasks: BTreeSet::new(),
            ended_tasks: Vec::new(),
            gone: gone::Gone::default(),
            dirty_arrays: BTreeSet::new(),
            forget: BTreeMap::new(),
            causes: BTreeMap::new(),
            stale: 0,
            changes: Changes::default(),
            random: Random { seed, counter: 0 },
            audit: Audit::default(),
            taken: arrivals::Taken::default(),
            held: None,
            routes: loaded.routes,
            cleaning: BTreeMap::new(),
            moving: BTreeMap::new(),
            counting: HashMap::new(),
            publishing: HashMap::new(),
            absorb_armed: false,
            draining: BTreeSet::new(),
            versions: loaded.versions.into_iter().collect(),
            deployments: serving::Deployments::default(),
            told: HashMap::new(),
            idle_after_ms: idle::IDLE_AFTER_MS,
            window: parking::Window::default(),
            replies: replies::Replies::default(),
        };
        for (row, recipe) in loaded.deployments {
            core.deployments.put(row, recipe, now.mono);
        }
        loaded.replicated.iter().for_each(|row| core.deployments.remember(row));
        for row in &loaded.machines {
            core.cluster.insert(Machine::restore(row));
        }
        for row in loaded.queues {
            core.insert_queue(row);
        }
        for source in loaded.inbox {
            core.taken.note(source);
        }
        for (queue, counts) in loaded.counts {
            core.count_restored(&queue, counts);
        }
        for message in loaded.messages {
            core.restore_message(message, now);
        }
        for waiting in loaded.waiting {
            core.restore_waiting(now, waiting);
        }
        for (row, tasks) in loaded.jobs {
            core.restore_job(&row, &tasks, now);
        }
        let (replicas, others): (Vec<_>, Vec<_>) = loaded
            .attempts
            .into_iter()
            .partition(|live| core.deployments.worker_of(live.attempt.task.job).is_some());
        for live in replicas.iter().chain(&others) {
            core.restore_attempt(live, now);
        }
        for row in &loaded.machines {
            core.arm_drain(now, &row.id.as_str().into());
        }
        core
    }

    /// Boot-time milliseconds of the next thing that falls due.
    pub fn next_due(&self) -> Option<u64> {
        self.due.next().into_iter().chain(self.watch_at).min()
    }

    /// The last event's number, this step's included.
    pub fn seq(&self) -> u64 {
        self.events.seq()
    }

    /// Decides one input.
    pub fn decide(&mut self, now: Now, input: Input, step: &mut Step) {
        match input {
            Input::Tick => self.tick(now, step),
            Input::Gone(ticket) => self.gone(now, ticket, step),
            Input::Refused { caller, object, code } => self.audit.refused(now, caller, object, code),
            Input::Loaded { queue, portion, jobs, rows } => {
                self.loaded(now, (&queue, portion), &jobs, &rows, step);
            }
            Input::Disk { full } => self.disk(now, full, step),
            Input::Broker { name, said } => self.broker_said(now, &name, said, step),
            Input::Agent { machine, session, said } => self.agent(now, &machine, session, said, step),
            Input::Call { ticket, caller, call } => {
                self.audit.enter(ticket, &caller, &call);
                if let Some(answer) = self.call(now, ticket, &caller, call, step) {
                    step.effects.push(Effect::Reply(ticket, Box::new(answer)));
                }
            }
        }
    }

    /// One arm per call; `None`: the caller waits.
    #[expect(clippy::too_many_lines, reason = "one arm per call, so that a new call cannot be forgotten")]
    fn call(
        &mut self,
        now: Now,
        ticket: Ticket,
        caller: &Caller,
        call: Call,
        step: &mut Step,
    ) -> Option<Result<Reply, Problem>> {
        Some(match call {
            Call::Submit { spec, key } => {
                self.submit(now, caller, *spec, key, step).map(|(s, replayed)| Reply::Submitted(s, replayed))
            }
            Call::SubmitMany { specs, atomic } => self.submit_many(now, caller, specs, atomic, step),
            call @ (Call::RegisterWorker { .. }
            | Call::LaunchWorker { .. }
            | Call::ScaleWorker { .. }
            | Call::RemoveWorker { .. }
            | Call::CallWorker { .. }
            | Call::ListWorkers) => self.worker_call(now, ticket, caller, call, step)?,
            Call::CancelJob { target, grace_ms, stored } => {
                self.cancel_job(now, caller, target, grace_ms, &stored, step).map(Reply::Changed)
            }
            Call::RegisterJob { id, definition, cluster_id, stored } => {
                self.register_job(now, caller, id, definition, cluster_id, &stored, step)
            }
            Call::UpdateJobStatus { target, request, stored } => {
                self.update_job_status(now, caller, target, *request, &stored, step).map(Reply::Changed)
            }
            Call::RestartJob { target, latest, stored } => {
                self.restart_job(now, caller, target, latest, &stored, step).map(Reply::Changed)
            }
            Call::HoldJob { target, hold, stored } => {
                self.hold_job(now, caller, target, hold, &stored).map(Reply::Changed)
            }
            Call::Publish { queue, message } => {
                return self.publish(now, ticket, caller, &queue, *message, step).transpose();
            }
            Call::PublishMany { queue, messages } => {
                return self.publish_many(now, ticket, caller, &queue, messages, step).transpose();
            }
            Call::ReceiveMessage { queue, max, wait_ms, lease_ms } => {
                return self.receive_message(now, ticket, caller, &queue, (max, wait_ms, lease_ms), step);
            }
            Call::Settle { queue, how, request } => self.settle(now, caller, &queue, how, *request, step),
            Call::CleanQueue { queue, ids, dead, dry_run } => {
                let answer = self.clean_queue(now, (ticket, caller), &queue, ids, (dead, dry_run), step);
                return answer.transpose();
            }
            Call::CountQueueMessages { queue } => {
                return self.count_queue_messages(now, ticket, &queue, step);
            }
            Call::SetQueue { queue, settings, ingress_uid } => {
                self.set_queue(now, caller, &queue, settings, ingress_uid, step)
            }
            Call::MigrateQueue { queue, to } => self.migrate_queue(now, caller, &queue, &to, step),
            Call::MoveQueue { from, to, ids, dry_run } => {
                let answer = self.move_queue(now, (ticket, caller), (&from, &to), ids, dry_run, step);
                return answer.transpose();
            }
            Call::ReturnDead { queue, ids, dry_run } => {
                self.return_dead(now, caller, &queue, ids, dry_run, step)
            }
            Call::PutRoutes { routes } => self.put_routes(now, caller, routes, step),
            Call::ListRoutes => Ok(Reply::Routes(self.routes.clone())),
            Call::ExplainRoute { labels } => Ok(Reply::Routed(self.route_of(&labels).cloned())),
            Call::PublishRouted { labels, message } => {
                self.publish_routed(now, caller, &labels, *message, step)
            }
            Call::PauseQueue { queue, paused, reason } => {
                self.pause_queue(now, caller, &queue, (paused, reason), step)
            }
            Call::Peek { queue, max, dead } => self.peek(&queue, max, dead),
            Call::GetQueueStats => Ok(Reply::Stats(Box::new(self.stats(now)))),
            Call::ListQueues => Ok(Reply::Queues(self.queue_views(now))),
            Call::ListMachines => Ok(Reply::Machines(self.machine_views(now))),
            Call::Top => Ok(Reply::Machines(self.top(now))),
            Call::Why { target, stored } => self.why(now, target, &stored).map(Reply::Why),
            Call::DryRun { spec } => self.dry_run(*spec),
            Call::PutPlan { plan, ids, reason } => Ok(self.put_plan(now, caller, *plan, ids, reason, step)),
            Call::BulkAction { plan: _, action, jobs } => {
                Ok(self.bulk_action(now, caller, &action, jobs, step))
            }
            Call::PlanDone { plan, result } => Ok(self.plan_done(now, caller, plan, result, step)),
            Call::PutToken { id, secret_hash, expires_at } => {
                Ok(self.put_token(now, caller, id, secret_hash, expires_at, step))
            }
            Call::Join { .. } => self.join(now, call, step),
            Call::RenewCertificate { machine, session, fingerprint, until } => {
                self.renew_certificate(&machine, session, fingerprint, until, step)
            }
            call @ (Call::CordonMachine { .. } | Call::DrainMachine { .. } | Call::RemoveMachine { .. }) => {
                self.machine_call(now, caller, call, step)
            }
            Call::HoldsAttempt { machine, session, attempt } => {
                Ok(Reply::Held(self.holds_attempt(&machine, session, attempt)))
            }
            Call::OpenSession { machine, fingerprint, session, hello, address } => {
                self.open_session(now, &machine, &fingerprint, session, &hello, address, step)
            }
        })
    }

    /// Ends a step: places what waits, then writes down once what moved.
    pub fn plan(&mut self, now: Now, step: &mut Step) {
        self.serve_waiters(now, step);
        self.serve_moves(now, step);
        self.serve_workers(now, step);
        self.place(now, step);
        self.serve_workers(now, step);
        self.send_replies(now, step);
        self.tell_cancels(step);
        self.tell_brokers(now, step);
        if !self.draining.is_empty() {
            self.note_drained(now);
        }
        self.flush(step);
        self.park(step);
        self.audit.close(now, self.events.seq(), step);
    }

    /// One fact per job, task or array that moved, however often; one Forget per machine.
    fn flush(&mut self, step: &mut Step) {
        // Tasks that ended come first: one that was restarted in this step has moved again since.
        for (task, standing) in std::mem::take(&mut self.ended_tasks) {
            step.facts.push(Fact::TaskMoved(task, Box::new(standing)));
        }
        for task in std::mem::take(&mut self.dirty_tasks) {
            if let Some(t) = self.jobs.task(task) {
                let standing = Box::new(t.standing());
                step.facts.push(match task.index {
                    None => Fact::JobMoved(task.job, standing),
                    Some(_) => Fact::TaskMoved(task, standing),
                });
            }
        }
        for id in std::mem::take(&mut self.dirty_arrays) {
            if let Some(Job { body: Body::Array(array), .. }) = self.jobs.get(id) {
                step.facts.push(Fact::ArrayMoved(id, Box::new(array.standing()), Box::new(array.row())));
            }
            if self.jobs.get(id).is_some_and(Job::is_over) {
                self.jobs.remove(id);
                self.gone.note(TaskId::single(id));
            }
        }
        self.gone.settle(self.seq());
        for ((machine, session), attempts) in std::mem::take(&mut self.forget) {
            step.effects.push(Effect::Send(machine.to_string(), session, ToAgent::Forget(attempts)));
        }
        drop_covered_starts(&mut step.facts);
        step.events = self.events.take();
    }

    fn unknown_job(id: impl std::fmt::Display) -> Problem {
        Problem::new(Code::NotFound, format!("there is no job {id}"))
            .hint("reeve ls shows the jobs there are")
    }
}

/// An attempt that started and ended in one step is written once: its end says when it started.
fn drop_covered_starts(facts: &mut Vec<Fact>) {
    let ended: std::collections::HashSet<AttemptId> = facts
        .iter()
        .filter_map(|fact| match fact {
            Fact::AttemptEnded(ended) if ended.started_at.is_some() => Some(ended.attempt),
            _ => None,
        })
        .collect();
    if !ended.is_empty() {
        facts.retain(|fact| !matches!(fact, Fact::AttemptStarted(attempt, ..) if ended.contains(attempt)));
    }
}

#[cfg(test)]
mod tests;
