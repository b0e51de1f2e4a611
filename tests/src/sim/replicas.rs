//! Replicas of static workers on simulated machines, after `agent/src/agent/replicas`. What an agent knows of them dies with
//! it; how far a replica is belongs to its process. Over standard input nothing can be taken back: a request takes its place
//! until it is answered.
use super::agenda::{Due, Up};
use super::host::Guardian;
use super::rng::Rng;
use super::workers;
use super::world::World;
use reeve_coordinator::effect::ToAgent;
use reeve_coordinator::input::{AgentSaid, Ticket};
use reeve_protocol::wire::{self, RequestId, outcome, replica_phase as phase};
use reeve_protocol::{AttemptId, Cause};
use std::collections::{BTreeMap, BTreeSet};

/// What becomes of a replica, or of something it works on.
#[derive(Clone, Debug)]
pub enum Turn {
    /// It is so far.
    Phase(u16),
    /// It answers.
    Answer(RequestId),
}

/// What replicas answered, by the request's number: whoever hears otherwise was told by nobody.
#[derive(Default)]
pub struct Answers(BTreeMap<RequestId, Vec<u16>>);

impl Answers {
    /// A call of this ticket was answered so by a replica.
    pub(super) fn of_call(&self, ticket: Ticket, wanted: &[u16]) -> bool {
        self.0.iter().any(|(id, said)| {
            id.attempt.is_none() && id.call & TICKETS == ticket && said.iter().any(|s| wanted.contains(s))
        })
    }

    /// A tracked request was.
    pub(super) fn of_job(&self, attempt: AttemptId, wanted: &[u16]) -> bool {
        let id = RequestId { attempt: Some(attempt), call: 0 };
        self.0.get(&id).is_some_and(|said| said.iter().any(|s| wanted.contains(s)))
    }
}

/// Bits of a call's number that are its ticket.
const TICKETS: u64 = (1 << 40) - 1;

struct Replica {
    phase: u16,
    requests: BTreeSet<RequestId>,
}

/// What an agent knows of replicas.
#[derive(Default)]
pub struct Replicas {
    /// Counts agents.
    life: u64,
    /// The session's inventory was told: what is said now belongs to it.
    joined: bool,
    list: BTreeMap<AttemptId, Replica>,
    expected: BTreeSet<AttemptId>,
    seen: BTreeSet<AttemptId>,
    unsent: Vec<wire::Answer>,
}

impl Replicas {
    /// Another agent, which knows nothing.
    pub(super) fn anew(&mut self) {
        *self = Self { life: self.life + 1, ..Self::default() };
    }

    /// Whether the session's inventory was told.
    pub(super) const fn has_joined(&self) -> bool {
        self.joined
    }

    /// The session is over.
    pub(super) fn part(&mut self) {
        self.joined = false;
        self.seen.clear();
    }
}

/// Whether an attempt is a replica.
pub(super) fn is_replica(start: &wire::Start) -> bool {
    start.env.iter().any(|(name, _)| name == "REEVE_REPLICA")
}

/// When a replica takes requests, and when and how it ends by itself, unless it is left in peace.
pub(super) fn life(now: u64, rng: &mut Rng, calm: bool) -> (u64, u64, Cause) {
    let load = if rng.chance(80) { rng.range(10, 4_000) } else { rng.range(4_000, 60_000) };
    if calm || rng.chance(60) {
        return (now + load, u64::MAX, Cause::Ok);
    }
    let outcome = if rng.chance(50) { Cause::Exit { code: 1 } } else { Cause::Signal { signal: 11 } };
    (now + load, now + rng.range(500, 120_000), outcome)
}

impl World {
    /// An order on its way through an agent. False: it does not go on to the keeper.
    pub(super) fn agent_order(&mut self, host: usize, order: &ToAgent) -> bool {
        match order {
            ToAgent::Start(_) => return self.gpus_of_start(host, order),
            ToAgent::StartReplica(s) => {
                self.agents[host].replicas.expected.insert(s.start.attempt);
            }
            ToAgent::LaunchReplica(s) => {
                self.agents[host].replicas.expected.insert(s.start.attempt);
            }
            ToAgent::Request(request) => {
                self.replica_asked(host, request);
                return false;
            }
            ToAgent::CancelRequest(..) => {
                self.count.hit("request taken back");
                return false;
            }
            _ => {}
        }
        true
    }

    /// What an agent makes of its keeper's words before it passes them on.
    pub(super) fn replicas_before(&mut self, host: usize, word: &AgentSaid) {
        if let AgentSaid::Finished(finished, _) = word {
            let known = &mut self.agents[host].replicas;
            known.expected.remove(&finished.attempt);
            known.list.remove(&finished.attempt);
        }
    }

    /// And after it has.
    pub(super) fn replicas_after(&mut self, host: usize, word: &AgentSaid) {
        match word {
            AgentSaid::Inventory(items) => {
                for item in items.iter().filter(|item| item.phase < 3) {
                    self.agents[host].replicas.seen.insert(item.attempt);
                    if item.pid == 0 {
                        self.agents[host].replicas.expected.insert(item.attempt);
                    } else {
                        self.attach(host, item.attempt);
                    }
                }
            }
            AgentSaid::InventoryEnd(_) => self.join(host),
            AgentSaid::Started(started) if self.agents[host].replicas.expected.remove(&started.attempt) => {
                self.attach(host, started.attempt);
            }
            _ => {}
        }
    }

    fn process(&self, host: usize, replica: AttemptId) -> Option<&Guardian> {
        self.hosts[host].guardians.get(&replica).filter(|g| g.end.is_none())
    }

    fn attach(&mut self, host: usize, replica: AttemptId) {
        if self.agents[host].replicas.list.contains_key(&replica) {
            return;
        }
        let Some(process) = self.process(host, replica).filter(|g| is_replica(&g.start)) else { return };
        let ready_at = process.ready_at;
        let phase = if self.now >= ready_at { phase::READY } else { phase::STARTING };
        let known = Replica { phase, requests: BTreeSet::new() };
        self.agents[host].replicas.list.insert(replica, known);
        self.tell_phase(host, replica, phase);
        if self.now < ready_at {
            let half = u64::midpoint(self.now, ready_at);
            self.turn(host, half, replica, Turn::Phase(phase::LOADING));
            self.turn(host, ready_at, replica, Turn::Phase(phase::READY));
        }
        // Now and then its probe fails for a while.
        if !self.draining && self.rng.chance(15) {
            let at = ready_at.max(self.now) + self.rng.range(1_000, 60_000);
            let back = at + self.rng.range(100, 20_000);
            self.turn(host, at, replica, Turn::Phase(phase::UNREADY));
            self.turn(host, back, replica, Turn::Phase(phase::READY));
        }
    }

    fn turn(&mut self, host: usize, at: u64, replica: AttemptId, turn: Turn) {
        let life = self.agents[host].replicas.life;
        self.agenda.at(at, Due::Replica(host, life, replica, turn));
    }

    fn agent_says(&mut self, host: usize, said: AgentSaid) {
        if let Some(conn) = self.agents[host].conn {
            self.send_up(conn, Up::Said(vec![said]));
        }
    }

    fn tell_phase(&mut self, host: usize, attempt: AttemptId, phase: u16) {
        if self.agents[host].replicas.joined {
            let state = wire::ReplicaState { attempt, phase, fraction: None, message: None };
            self.agent_says(host, AgentSaid::Replicas(vec![state]));
        }
    }

    /// The inventory was told: so are replicas, what they work on, and answers that nobody has heard.
    fn join(&mut self, host: usize) {
        let known = &mut self.agents[host].replicas;
        let seen = std::mem::take(&mut known.seen);
        known.list.retain(|replica, _| seen.contains(replica));
        known.joined = true;
        let states = known.list.iter().map(|(attempt, r)| wire::ReplicaState {
            attempt: *attempt,
            phase: r.phase,
            fraction: None,
            message: None,
        });
        let states: Vec<_> = states.collect();
        let answers = std::mem::take(&mut known.unsent);
        let requests = known.list.iter().flat_map(|(a, r)| r.requests.iter().map(|id| (*a, *id)));
        let requests: Vec<_> = requests.chain(answers.iter().map(|a| (a.replica, a.id))).collect();
        if !states.is_empty() {
            self.agent_says(host, AgentSaid::Replicas(states));
        }
        self.agent_says(host, AgentSaid::InFlight(requests, true));
        self.tell_gpus(host);
        if !answers.is_empty() {
            self.count.hit("answers of a session before");
            self.agent_says(host, AgentSaid::Answers(answers));
        }
    }

    fn replica_asked(&mut self, host: usize, request: &wire::Request) {
        let (replica, id) = (request.replica, request.id);
        let Some(known) = self.agents[host].replicas.list.get_mut(&replica) else {
            self.count.hit("request to no replica");
            return self.replica_answers(host, answer(replica, id, outcome::LOST, false));
        };
        if !known.requests.insert(id) {
            return self.fail(format!("{id:?} was given to {replica} twice"));
        }
        let works_on = known.requests.len();
        let most = self.process(host, replica).map_or(usize::MAX, |g| workers::most(&g.start.command[0]));
        if works_on > most {
            self.fail(format!("{replica} works on {works_on} requests at once, and may on {most}"));
        }
        // Some are never answered, if somebody will notice.
        if request.timeout_ms > 0 && !self.draining && self.rng.chance(10) {
            return;
        }
        let quick = self.rng.chance(70);
        let after = if quick { self.rng.range(1, 500) } else { self.rng.range(500, 20_000) };
        self.turn(host, self.now + after, replica, Turn::Answer(id));
    }

    fn replica_answers(&mut self, host: usize, answer: wire::Answer) {
        if self.agents[host].replicas.joined {
            self.agent_says(host, AgentSaid::Answers(vec![answer]));
        } else {
            self.agents[host].replicas.unsent.push(answer);
        }
    }

    /// It is the turn of a replica.
    pub(super) fn replica_turn(&mut self, host: usize, life: u64, replica: AttemptId, turn: Turn) {
        if !self.agents[host].alive
            || self.agents[host].replicas.life != life
            || self.process(host, replica).is_none()
        {
            return;
        }
        let Some(known) = self.agents[host].replicas.list.get_mut(&replica) else { return };
        match turn {
            Turn::Phase(phase) => {
                known.phase = phase;
                self.tell_phase(host, replica, phase);
            }
            Turn::Answer(id) => {
                if !known.requests.remove(&id) {
                    return;
                }
                let outcome = if self.draining { 0 } else { self.rng.weighted(&[80, 8, 5, 5]) };
                let answer = match outcome {
                    0 => answer(replica, id, outcome::RESULT, false),
                    1 => answer(replica, id, outcome::ERROR, false),
                    2 => answer(replica, id, outcome::ERROR, true),
                    _ => answer(replica, id, outcome::BAD, false),
                };
                self.watch.answers.0.entry(id).or_default().push(answer.outcome);
                self.replica_answers(host, answer.clone());
                if self.rng.chance(3) {
                    self.count.hit("answer said twice");
                    self.replica_answers(host, answer);
                }
            }
        }
    }
}

fn answer(replica: AttemptId, id: RequestId, outcome: u16, retry: bool) -> wire::Answer {
    let body = if outcome == outcome::RESULT { b"42".to_vec() } else { b"no".to_vec() };
    wire::Answer { replica, id, outcome, body, retry }
}
