//! Simulated people, scripts and consumers: what they ask for, when they go away, and what they do with the answers.
use super::agenda::Due;
use super::calls::{
    MESSAGES, change_call, machine_call, move_call, publish, publish_many, queue_call, read_call, spec,
};
use super::workers::{call, tracked, worker_call};
use super::world::World;
use reeve_coordinator::effect::Reply;
use reeve_coordinator::input::{Call, Input, Key, Settle, Stored, Target, Ticket};
use reeve_coordinator::row::Caller;
use reeve_protocol::api::{LeaseRequest, StatusRequest};
use reeve_protocol::wire::outcome;
use reeve_protocol::{Code, JobSpec, Problem, State};
use std::collections::{BTreeMap, BTreeSet};

/// The one user.
pub const UID: u32 = 1000;

/// Something that a client does.
#[derive(Clone, Debug)]
pub enum Action {
    /// Whatever chance says, and again after a while.
    Anything,
    /// Submits, until it is answered.
    Submit(Box<JobSpec>, String),
    /// Submits several at once.
    SubmitMany(Vec<JobSpec>, bool),
    /// Publishes a message, until it is answered.
    Publish(String, u64),
    /// Publishes several at once, until they are answered.
    PublishMany(Vec<String>),
    /// Calls a worker, and goes away before the answer or not.
    Call(Box<Call>, bool),
    /// Another program publishes a job at the broker.
    Outside,
    /// On a job; the number counts how often it was asked to read again.
    Change(Change, Target, u32),
    /// The same in a plan.
    Bulk(&'static str, Vec<Target>),
    /// Waits at a queue.
    Receive {
        /// Which.
        queue: &'static str,
        /// Milliseconds.
        wait_ms: u64,
        /// Milliseconds.
        lease_ms: u64,
        /// Goes away before the answer.
        leaves: bool,
    },
    /// Settles a lease.
    Settle(&'static str, Settle, String, Option<String>),
    /// Anything else.
    Other(Box<Call>),
    /// Brings what is left to an end.
    Tidy,
}

/// What is done to a job.
#[derive(Clone, Debug)]
pub enum Change {
    /// cancel.
    Cancel,
    /// restart.
    Restart,
    /// hold.
    Hold,
    /// release.
    Release,
    /// status.
    Status(Box<StatusRequest>),
    /// why.
    Why,
}

/// What clients know.
#[derive(Default)]
pub struct Clients {
    tickets: BTreeMap<Ticket, Action>,
    /// Tickets that were answered.
    pub answered: BTreeSet<Ticket>,
    /// Jobs whose submission was answered: each must come to its end.
    pub acked: BTreeSet<u64>,
    arrays: BTreeMap<u64, (u32, u32)>,
    externals: BTreeSet<u64>,
    keys: u64,
    /// Messages whose publication was answered, and what became of them: true once an ack was answered.
    pub messages: BTreeMap<String, bool>,
    /// Attempts that a consumer acked with a yes.
    pub wrong: Vec<String>,
}

impl Clients {
    /// Whether somebody waits for the answer of a worker.
    pub(super) fn waits_for_worker(&self) -> bool {
        self.tickets.values().any(|action| matches!(action, Action::Call(..)))
    }

    /// What somebody has asked for and hears no answer to.
    pub(super) fn taken_back(&mut self, ticket: Ticket) -> Option<Action> {
        self.tickets.remove(&ticket)
    }
}

/// Whoever has a key tries until it knows; others give up.
const fn is_repeated(action: &Action) -> bool {
    matches!(action, Action::Submit(..) | Action::Publish(..) | Action::PublishMany(_))
}

impl World {
    /// A client acts.
    pub(super) fn client(&mut self, action: Action) {
        if self.core.is_none() {
            if is_repeated(&action) || matches!(action, Action::Anything | Action::Tidy) {
                let at = self.now + self.rng.range(500, 3_000);
                self.agenda.at(at, Due::Client(Box::new(action)));
            }
            return;
        }
        match action {
            Action::Anything => self.anything(),
            Action::Outside => self.publish_outside(),
            Action::Tidy => self.tidy(),
            Action::Submit(ref spec, ref key) => match self.store.by_key(key) {
                Ok(Some(id)) => {
                    self.count.hit("call replayed");
                    let spec = spec.clone();
                    self.submitted(id, &spec);
                }
                Ok(None) => {
                    let key = Key { key: key.clone(), digest: "d".to_owned() };
                    let call = Call::Submit { spec: spec.clone(), key: Some(key) };
                    self.ask(action, call);
                }
                Err(error) => self.fail(error.to_string()),
            },
            Action::Publish(ref body, delay_ms) => match self.store.message_by_key("msgs", body) {
                Ok(Some(_)) => drop(self.clients.messages.entry(body.clone()).or_default()),
                Ok(None) => {
                    let call = publish(body, delay_ms);
                    self.ask(action, call);
                }
                Err(error) => self.fail(error.to_string()),
            },
            Action::PublishMany(bodies) => self.publish_many(bodies),
            other => {
                if let Some(call) = self.call_of(&other) {
                    self.ask(other, call);
                }
            }
        }
    }

    /// Publishes those that are not there yet.
    fn publish_many(&mut self, bodies: Vec<String>) {
        let mut left = Vec::new();
        for body in bodies {
            match self.store.message_by_key(MESSAGES[0], &body) {
                Ok(Some(_)) => drop(self.clients.messages.entry(body).or_default()),
                Ok(None) => left.push(body),
                Err(error) => return self.fail(error.to_string()),
            }
        }
        if !left.is_empty() {
            let call = publish_many(&left);
            self.ask(Action::PublishMany(left), call);
        }
    }

    fn call_of(&mut self, action: &Action) -> Option<Call> {
        Some(match action {
            Action::SubmitMany(specs, atomic) => Call::SubmitMany {
                specs: specs.iter().cloned().map(|s| (s, None)).collect(),
                atomic: *atomic,
            },
            Action::Change(change, target, _) => {
                let stored = self.rows(*target, matches!(change, Change::Restart))?;
                change_call(change, *target, stored)
            }
            Action::Bulk(action, targets) => {
                let only_bad = *action == "restart";
                let jobs = targets.iter().filter_map(|t| Some((*t, self.rows(*t, only_bad)?))).collect();
                Call::BulkAction { plan: 1, action: (*action).to_owned(), jobs }
            }
            Action::Receive { queue, wait_ms, lease_ms, .. } => Call::ReceiveMessage {
                queue: (*queue).to_owned(),
                max: 1 + (*lease_ms % 2) as u32,
                wait_ms: *wait_ms,
                lease_ms: *lease_ms,
            },
            Action::Settle(queue, how, lease, _) => {
                let delay_s = (*how == Settle::Nack && self.rng.chance(50)).then_some(7.0);
                let lease_s = (*how == Settle::Extend).then_some(30.0);
                let request =
                    LeaseRequest { lease: lease.clone(), delay_s, lease_s, ..LeaseRequest::default() };
                Call::Settle { queue: (*queue).to_owned(), how: *how, request: Box::new(request) }
            }
            Action::Other(call) | Action::Call(call, _) => (**call).clone(),
            Action::Anything
            | Action::Submit(..)
            | Action::Publish(..)
            | Action::PublishMany(_)
            | Action::Outside
            | Action::Tidy => return None,
        })
    }

    /// The rows as the asking side reads them: what the core knows may be newer when the call reaches it.
    fn rows(&mut self, target: Target, only_bad: bool) -> Option<Stored> {
        match self.store.stored(target, only_bad) {
            Ok(stored) if stored.job.is_some() => Some(stored),
            Ok(_) => None,
            Err(error) => {
                self.fail(error.to_string());
                None
            }
        }
    }

    fn ask(&mut self, action: Action, call: Call) {
        self.last_ticket += 1;
        let ticket = self.last_ticket;
        let caller = Caller::new(UID, "ana");
        let delay = if self.rng.chance(70) { self.rng.below(3) } else { self.rng.below(400) };
        if matches!(action, Action::Receive { leaves: true, .. } | Action::Call(_, true)) {
            let at = self.now + delay + self.rng.range(1, 2_000);
            self.agenda.at(at, Due::Inbox(self.epoch, Box::new(Input::Gone(ticket))));
        } else {
            self.clients.tickets.insert(ticket, action);
        }
        let input = Input::Call { ticket, caller, call };
        self.agenda.at(self.now + delay, Due::Inbox(self.epoch, Box::new(input)));
    }

    /// Whoever waited for an answer hears that its outcome is unknown.
    pub(super) fn clients_see_death(&mut self) {
        for (_, action) in std::mem::take(&mut self.clients.tickets) {
            if is_repeated(&action) {
                let at = self.now + self.rng.range(100, 2_000);
                self.agenda.at(at, Due::Client(Box::new(action)));
            }
        }
    }

    pub(super) fn answered(&mut self, ticket: Ticket, answer: Result<Reply, Problem>) {
        let Some(action) = self.clients.tickets.remove(&ticket) else { return };
        if matches!(action, Action::Call(..)) {
            self.check_called(ticket, &answer);
        }
        match answer {
            Ok(reply) => self.pleased(action, reply),
            Err(problem) if problem.is(Code::Unavailable) && problem.detail.starts_with("read again") => {
                self.count.hit("call read again");
                if let Action::Change(change, target, tries) = action
                    && tries < 3
                {
                    self.client(Action::Change(change, target, tries + 1));
                }
            }
            Err(problem) if problem.is(Code::Internal) => self.fail(format!("{action:?}: {problem}")),
            Err(problem) if matches!(action, Action::Call(..)) => {
                self.count.hit(&format!("worker called: {}", problem.code));
            }
            Err(_) => self.count.hit("call refused"),
        }
    }

    /// Whoever calls a worker hears what a replica said, or that none did.
    fn check_called(&mut self, ticket: Ticket, answer: &Result<Reply, Problem>) {
        let wanted = match answer {
            Ok(_) => &[outcome::RESULT],
            Err(problem) if problem.is(Code::WorkerError) => &[outcome::ERROR],
            Err(_) => return,
        };
        if !self.watch.answers.of_call(ticket, wanted) {
            self.fail(format!("call {ticket} was answered {answer:?}, and no replica said so"));
        }
    }

    fn pleased(&mut self, action: Action, reply: Reply) {
        match (action, reply) {
            (Action::Submit(spec, _), Reply::Submitted(submitted, replayed)) => {
                self.count.hit(if replayed { "call replayed" } else { "call submitted" });
                self.submitted(submitted.id, &spec);
            }
            (Action::SubmitMany(specs, _), Reply::Many(ids, _)) => {
                for (spec, id) in specs.iter().zip(ids) {
                    if let Ok(id) = id {
                        self.submitted(id, spec);
                    }
                }
            }
            (Action::Publish(body, _), Reply::Published(..)) => {
                self.clients.messages.entry(body).or_default();
            }
            (Action::PublishMany(bodies), Reply::PublishedMany(results, _)) => {
                self.count.hit("call published many");
                for (body, result) in bodies.into_iter().zip(results) {
                    if result.is_ok() {
                        self.clients.messages.entry(body).or_default();
                    }
                }
            }
            (Action::Call(..), Reply::Called(_)) => self.count.hit("worker called"),
            (Action::Change(change, ..), Reply::Changed(_)) => self.count.hit(match change {
                Change::Cancel => "call cancelled",
                Change::Restart => "call restarted",
                Change::Hold => "call held",
                Change::Release => "call released",
                Change::Status(_) | Change::Why => "call status",
            }),
            (Action::Receive { queue, .. }, Reply::ReceivedJobs(jobs)) => {
                for (_, _, lease, _) in jobs {
                    self.count.hit("call received a job");
                    self.consume(queue, lease, None);
                }
            }
            (Action::Receive { queue, .. }, Reply::ReceivedMessages(messages)) => {
                for m in messages {
                    self.count.hit("call received a message");
                    let (lease, body) = (m.lease.unwrap_or_default(), m.body_text.unwrap_or_default());
                    if self.clients.messages.get(&body) == Some(&true) {
                        self.fail(format!("message {body} was handed out after its ack was answered"));
                    }
                    self.consume(queue, lease, Some(body));
                }
            }
            (Action::Settle(_, how, _, body), Reply::Settled(_)) => {
                self.count.hit("call settled");
                if let (Settle::Ack, Some(body)) = (how, body) {
                    self.clients.messages.insert(body, true);
                }
            }
            (Action::Other(_), Reply::Registered(id, true)) => {
                self.clients.acked.insert(id);
                self.clients.externals.insert(id);
            }
            _ => {}
        }
    }

    fn submitted(&mut self, id: u64, spec: &JobSpec) {
        self.clients.acked.insert(id);
        if let Some(array) = spec.array {
            self.clients.arrays.insert(id, (array.from, array.to));
        }
    }

    /// A consumer has something under a lease: it settles it in the end, or vanishes.
    fn consume(&mut self, queue: &'static str, lease: String, body: Option<String>) {
        let weights = if self.draining { [1, 0, 0, 0] } else { [60, 15, 10, 15] };
        let how = match self.rng.weighted(&weights) {
            0 => Settle::Ack,
            1 => Settle::Nack,
            2 => {
                let at = self.now + self.rng.range(2_000, 40_000);
                let ack = Action::Settle(queue, Settle::Ack, lease.clone(), body.clone());
                self.agenda.at(at, Due::Client(Box::new(ack)));
                Settle::Extend
            }
            _ => return,
        };
        let at = self.now + self.rng.range(1, 20_000);
        self.agenda.at(at, Due::Client(Box::new(Action::Settle(queue, how, lease, body))));
    }

    fn anything(&mut self) {
        if self.draining {
            return;
        }
        let at = self.now + self.rng.range(1, self.options.calls_ms);
        self.agenda.at(at, Due::Client(Box::new(Action::Anything)));
        let action =
            match self.rng.weighted(&[38, 2, 8, 6, 4, 4, 3, 10, 8, 6, 3, 2, 2, 2, 2, 5, 16, 10, 3, 4]) {
                0 => Action::Submit(Box::new(spec(&mut self.rng)), self.key()),
                1 => {
                    let count = self.rng.range(1, 4);
                    let specs = (0..count).map(|_| spec(&mut self.rng)).collect();
                    Action::SubmitMany(specs, self.rng.chance(50))
                }
                at @ 2..=5 => match self.some_target() {
                    Some(target) => Action::Change(
                        [Change::Cancel, Change::Restart, Change::Hold, Change::Release][at - 2].clone(),
                        target,
                        0,
                    ),
                    None => return,
                },
                6 => {
                    let what = *self.rng.pick(&["cancel", "restart", "hold", "release"]);
                    let targets = (0..4).filter_map(|_| self.some_target()).collect();
                    Action::Bulk(what, targets)
                }
                7 => self.receive("cons"),
                8 => {
                    let queue = *self.rng.pick(&MESSAGES);
                    self.receive(queue)
                }
                9 => {
                    let key = self.key();
                    let delay = if self.rng.chance(30) { self.rng.range(1, 30_000) } else { 0 };
                    Action::Publish(key, delay)
                }
                10 => self.status(),
                11 if self.rng.chance(30) => {
                    let machine = self.rng.below(self.hosts.len() as u64) as usize;
                    let machine = self.hosts[machine].id.clone();
                    Action::Other(Box::new(machine_call(&mut self.rng, machine)))
                }
                11 => Action::Other(Box::new(queue_call(&mut self.rng))),
                12 => {
                    let id = self.key();
                    let (definition, cluster_id, stored) = (None, None, Stored::default());
                    Action::Other(Box::new(Call::RegisterJob { id, definition, cluster_id, stored }))
                }
                13 => self.many_messages(),
                14 => {
                    let known: Vec<u64> = self.clients.acked.iter().copied().collect();
                    Action::Other(Box::new(move_call(&mut self.rng, &known)))
                }
                15 => Action::Outside,
                16 => Action::Submit(Box::new(tracked(&mut self.rng)), self.key()),
                17 => {
                    // Now and then more of them than may wait.
                    for _ in 0..if self.rng.chance(5) { 12 } else { 0 } {
                        let one = call(&mut self.rng);
                        self.client(one);
                    }
                    call(&mut self.rng)
                }
                18 => Action::Other(Box::new(worker_call(&mut self.rng))),
                _ => match self.some_target() {
                    Some(target) if self.rng.chance(40) => Action::Change(Change::Why, target, 0),
                    _ => Action::Other(Box::new(read_call(&mut self.rng))),
                },
            };
        self.client(action);
    }

    /// Several messages, one of them twice now and then.
    fn many_messages(&mut self) -> Action {
        let mut bodies: Vec<String> = (0..self.rng.range(1, 6)).map(|_| self.key()).collect();
        if self.rng.chance(20) {
            bodies.push(bodies[0].clone());
        }
        Action::PublishMany(bodies)
    }

    fn key(&mut self) -> String {
        self.clients.keys += 1;
        format!("k{}", self.clients.keys)
    }

    fn receive(&mut self, queue: &'static str) -> Action {
        let wait_ms = *self.rng.pick(&[0, 5_000, 30_000]);
        let lease_ms = self.rng.range(2_000, 60_000);
        Action::Receive { queue, wait_ms, lease_ms, leaves: self.rng.chance(10) }
    }

    /// A job that somebody knows, the newer the likelier; of an array sometimes a part.
    fn some_target(&mut self) -> Option<Target> {
        let known = self.clients.acked.len() as u64;
        let among = if self.rng.chance(70) { known.min(12) } else { known };
        let back = self.rng.below(among);
        let job = *self.clients.acked.iter().rev().nth(back as usize)?;
        let part = self.clients.arrays.get(&job).copied().filter(|_| self.rng.chance(60));
        let tasks = part.map(|(from, to)| {
            let low = self.rng.range(from.into(), to.into()) as u32;
            (low, if self.rng.chance(70) { low } else { to })
        });
        Some(Target { job, tasks })
    }

    fn status(&mut self) -> Action {
        let externals: Vec<u64> = self.clients.externals.iter().copied().collect();
        let state =
            Some(*self.rng.pick(&[State::Running, State::Completed, State::Failed, State::Cancelled]));
        let request = StatusRequest { state, ..StatusRequest::default() };
        let job = if externals.is_empty() || self.rng.chance(20) {
            self.some_target().unwrap_or(Target { job: 1, tasks: None })
        } else {
            Target { job: *self.rng.pick(&externals), tasks: None }
        };
        Action::Change(Change::Status(Box::new(request)), job, 0)
    }

    /// After the faults: what is held goes on, what runs elsewhere ends, consumers come.
    fn tidy(&mut self) {
        if self.stopping {
            return;
        }
        let at = self.now + 45_000;
        self.agenda.at(at, Due::Client(Box::new(Action::Tidy)));
        for queue in ["a", "b", "cons", "msgs", "msgs2"] {
            let pause = Call::PauseQueue { queue: queue.to_owned(), paused: false, reason: None };
            self.client(Action::Other(Box::new(pause)));
        }
        for host in 0..self.hosts.len() {
            let uncordon = Call::CordonMachine { machine: self.hosts[host].id.clone(), cordon: false };
            self.client(Action::Other(Box::new(uncordon)));
        }
        self.let_in();
        self.launch_workers();
        for queue in ["cons", "msgs", "msgs2"] {
            self.client(Action::Receive { queue, wait_ms: 1_000, lease_ms: 5_000, leaves: false });
        }
        // Those too that nobody knows of, since the answer never came.
        let left = self.core.as_ref().map(|core| core.unfinished()).unwrap_or_default();
        for (job, _) in left.into_iter().filter(|(job, _)| !self.watch.is_replica(*job)).collect::<Vec<_>>() {
            let target = Target { job, tasks: None };
            // What runs elsewhere ends; of what a machine has nobody else may say so.
            let tasks = match self.store.job(job).ok().flatten().and_then(|row| row.array) {
                Some(array) => (array.from..=array.to).map(|i| Some((i, i))).collect(),
                None => vec![None],
            };
            for tasks in tasks {
                let state = Some(State::Completed);
                let request = StatusRequest { state, ..StatusRequest::default() };
                let status = Change::Status(Box::new(request));
                self.client(Action::Change(status, Target { job, tasks }, 0));
            }
            self.client(Action::Change(Change::Release, target, 0));
        }
    }
}
