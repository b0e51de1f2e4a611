//! A simulated machine: keeper, guardians and the processes they hold, after `agent/src/keeper` and
//! `agent/src/guardian`. What it says is what those say; the world moves it.
use super::agenda::ToKeeper;
use super::ledger::Ledger;
use reeve_coordinator::effect::ToAgent;
use reeve_coordinator::input::AgentSaid;
use reeve_protocol::wire::{self, Verdict};
use reeve_protocol::{AttemptId, Cause, TaskId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// One direction between a machine and the coordinator. What is on its way while it is cut waits, as QUIC repeats it.
pub struct Lane<F> {
    /// The last arrival: nothing overtakes.
    pub last: u64,
    /// Nothing arrives.
    pub cut: bool,
    /// What waits for the cut to end.
    pub stalled: Vec<(u64, F)>,
}

impl<F> Default for Lane<F> {
    fn default() -> Self {
        Self { last: 0, cut: false, stalled: Vec::new() }
    }
}

/// A process tree with its guardian.
pub struct Guardian {
    /// What it was told.
    pub start: wire::Start,
    /// When its command ends by itself.
    pub ends_at: u64,
    /// How.
    pub outcome: Cause,
    /// When it takes requests, if it is a replica.
    pub ready_at: u64,
    /// Ends with this cause then: it was told to stop.
    pub stopping: Option<(u64, Cause)>,
    /// When its own clock stops it, for exclusive attempts.
    pub lease: Option<u64>,
    /// Wall milliseconds.
    pub started_ms: i64,
    /// Set once the tree is gone.
    pub end: Option<wire::Finished>,
}

/// What a keeper knows of an attempt that has started, or ended without.
pub struct Known {
    phase: u16,
    lineage: String,
    started_ms: i64,
    end: Option<wire::Finished>,
    held: bool,
}

/// A keeper's tables: they die with it.
#[derive(Default)]
pub struct Keeper {
    queue: VecDeque<wire::Start>,
    known: BTreeMap<AttemptId, Known>,
    tombstones: BTreeSet<AttemptId>,
    limit: Option<u32>,
    used: u32,
    /// Up to when the coordinator is known to have heard this machine.
    heard: u64,
    /// The agent that it listens to.
    pub link: Option<u64>,
}

/// A machine.
pub struct Host {
    /// Identity, and name.
    pub id: String,
    /// Thousandths of cpus.
    pub cpu_milli: u32,
    /// Counts boots.
    pub life: u64,
    /// Powered.
    pub on: bool,
    /// The keeper that runs.
    pub keeper: Option<Keeper>,
    /// Guardians outlive keepers.
    pub guardians: BTreeMap<AttemptId, Guardian>,
    /// UUIDs of its gpus.
    pub gpus: Vec<String>,
    /// Those of them that are sick, and what its agent has given back since.
    pub sick: BTreeSet<String>,
    /// Attempts.
    pub gave_back: u32,
    /// Stopped as a whole until then.
    pub frozen_until: u64,
    /// What the keeper has to say.
    pub words: Vec<AgentSaid>,
    /// Guardians whose clocks must be looked at, and when.
    pub wakes: Vec<(u64, AttemptId)>,
}

/// What a machine's parts read from the world.
pub struct Around<'a> {
    /// Boot-time milliseconds.
    pub now: u64,
    /// The machine's wall clock.
    pub wall: i64,
    /// Chance.
    pub rng: &'a mut super::rng::Rng,
    /// Nothing goes wrong any more.
    pub calm: bool,
    /// Where processes write down that they lived.
    pub ledger: &'a mut Ledger,
}

impl Host {
    /// A machine that is on, with a keeper that holds nothing.
    pub fn new(id: String, cpu_milli: u32) -> Self {
        Self {
            id,
            cpu_milli,
            life: 1,
            on: true,
            keeper: Some(Keeper::default()),
            guardians: BTreeMap::new(),
            gpus: Vec::new(),
            sick: BTreeSet::new(),
            gave_back: 0,
            frozen_until: 0,
            words: Vec::new(),
            wakes: Vec::new(),
        }
    }

    /// Its keeper holds an attempt of another store.
    pub fn hold_foreign(&mut self) {
        let id = TaskId::single(1 << 40).attempt(1);
        let known = Known { phase: 1, lineage: "another".to_owned(), started_ms: 1, end: None, held: false };
        self.keeper_mut(|k| drop(k.known.insert(id, known)));
    }

    /// What it says about itself.
    pub fn machine(&self) -> wire::Machine {
        wire::Machine {
            hostname: self.id.clone(),
            cpu_milli: self.cpu_milli,
            memory_bytes: 1 << 30,
            keeper: true,
            gpus: self.gpus.clone(),
            ..wire::Machine::default()
        }
    }

    /// A word of the agent.
    pub fn hear(&mut self, word: ToKeeper, cx: &mut Around<'_>) {
        if self.keeper.is_none() {
            return;
        }
        match word {
            ToKeeper::Limits(cpu_milli, heard) => {
                self.keeper_mut(|k| (k.limit, k.heard) = (Some(cpu_milli), k.heard.max(heard)));
                self.renew();
            }
            ToKeeper::Ask => self.tell_inventory(),
            ToKeeper::Order(order) => self.obey(order, cx),
        }
        self.admit(cx);
    }

    fn keeper_mut(&mut self, change: impl FnOnce(&mut Keeper)) {
        if let Some(keeper) = &mut self.keeper {
            change(keeper);
        }
    }

    fn renew(&mut self) {
        let heard = self.keeper.as_ref().map_or(0, |k| k.heard);
        for g in self.guardians.values_mut().filter(|g| g.end.is_none()) {
            g.lease = g.lease.map(|ends| ends.max(heard + g.start.stop_after_ms));
        }
    }

    fn obey(&mut self, order: ToAgent, cx: &mut Around<'_>) {
        match order {
            ToAgent::Start(start) => self.start(*start),
            ToAgent::StartReplica(replica) => self.start(replica.start),
            ToAgent::LaunchReplica(replica) => self.start(replica.start),
            // No simulated job comes from a repository; requests go to replicas through the agent; what a job leaves is
            // made up where its end is told.
            ToAgent::StartGit(_) | ToAgent::Request(_) | ToAgent::CancelRequest(..) | ToAgent::Collect(_) => {
            }
            ToAgent::Stop(stop) => self.stop(stop.attempt, &Cause::from_wire(stop.cause), stop.grace_ms, cx),
            ToAgent::Forget(attempts) => attempts.into_iter().for_each(|a| self.forget(a)),
            ToAgent::Revoke(attempt) => self.revoke(attempt),
            ToAgent::Reconcile(verdicts) => {
                for (attempt, verdict) in verdicts {
                    match verdict {
                        Verdict::Keep | Verdict::Orphan => {}
                        Verdict::Fence => self.stop(attempt, &Cause::Fenced, 15_000, cx),
                        Verdict::Report => self.tell(attempt),
                        Verdict::Forget => self.forget(attempt),
                    }
                }
            }
        }
    }

    fn start(&mut self, start: wire::Start) {
        let id = start.attempt;
        let Some(keeper) = &mut self.keeper else { return };
        if keeper.known.contains_key(&id) {
            self.tell(id);
        } else if !keeper.queue.iter().any(|s| s.attempt == id) && !keeper.tombstones.contains(&id) {
            keeper.queue.push_back(start);
        }
    }

    /// Starts whoever's turn it is.
    pub fn admit(&mut self, cx: &mut Around<'_>) {
        while let Some(keeper) = &mut self.keeper {
            let (Some(limit), Some(first)) = (keeper.limit, keeper.queue.front()) else { return };
            let fits = keeper.used + first.cpu_milli <= limit;
            if !fits && keeper.used > 0 {
                return;
            }
            let Some(start) = keeper.queue.pop_front() else { return };
            if fits {
                keeper.used += start.cpu_milli;
                self.launch(start, cx);
            } else {
                self.end_unstarted(&start, &Cause::Rejected { detail: "too large".to_owned() }, cx.wall);
            }
        }
    }

    fn launch(&mut self, start: wire::Start, cx: &mut Around<'_>) {
        let id = start.attempt;
        let lease = self.keeper.as_ref().map_or(0, |k| k.heard) + start.stop_after_ms;
        if start.stop_after_ms > 0 && lease <= cx.now {
            self.keeper_mut(|k| {
                k.used -= start.cpu_milli;
                k.tombstones.insert(id);
            });
            self.words.push(AgentSaid::Returned(id));
            return;
        }
        if let Some(wrong) = super::gpus::overused(self, &start) {
            cx.ledger.wrong.push(wrong);
        }
        let (ends_at, outcome, ready_at) = plan(&start, cx);
        let guardian = Guardian {
            ends_at,
            outcome,
            ready_at,
            stopping: None,
            lease: (start.stop_after_ms > 0).then_some(lease),
            started_ms: cx.wall,
            end: None,
            start,
        };
        cx.ledger.begins(id, &self.id, guardian.lease.is_some(), cx.now);
        let known = Known {
            phase: 1,
            lineage: guardian.start.lineage.clone(),
            started_ms: cx.wall,
            end: None,
            held: true,
        };
        self.keeper_mut(|k| drop(k.known.insert(id, known)));
        // Its STARTED may come late, and is left out when it has ended by then.
        if ends_at > cx.now + 4 {
            self.words.push(AgentSaid::Started(wire::Started { attempt: id, pid: 1, at_ms: cx.wall }));
        }
        if cx.rng.chance(10) {
            let fraction = Some(cx.rng.below(100) as f64 / 100.0);
            self.words.push(AgentSaid::Progress(wire::Progress { attempt: id, fraction, message: None }));
        }
        self.wakes.push((guardian.next(), id));
        self.guardians.insert(id, guardian);
    }

    fn end_unstarted(&mut self, start: &wire::Start, cause: &Cause, wall: i64) {
        let end = finished(start.attempt, cause, 0, wall);
        let lineage = start.lineage.clone();
        let known = Known { phase: 3, lineage, started_ms: 0, end: Some(end.clone()), held: false };
        self.keeper_mut(|k| drop(k.known.insert(start.attempt, known)));
        self.words.push(AgentSaid::Finished(Box::new(end), None));
    }

    fn stop(&mut self, id: AttemptId, cause: &Cause, grace_ms: u64, cx: &mut Around<'_>) {
        let Some(keeper) = &mut self.keeper else { return };
        if let Some(at) = keeper.queue.iter().position(|s| s.attempt == id) {
            if let Some(start) = keeper.queue.remove(at) {
                self.end_unstarted(&start, cause, cx.wall);
            }
            return;
        }
        let Some(known) = keeper.known.get_mut(&id) else {
            keeper.tombstones.insert(id);
            let end = finished(id, cause, 0, cx.wall);
            self.words.push(AgentSaid::Finished(Box::new(end), None));
            return;
        };
        if known.end.is_none() {
            known.phase = known.phase.max(2);
            let at = cx.now + cx.rng.below(grace_ms.min(3_000) + 1);
            self.stop_tree(id, at, cause);
        }
    }

    fn stop_tree(&mut self, id: AttemptId, at: u64, cause: &Cause) {
        let Some(g) = self.guardians.get_mut(&id).filter(|g| g.end.is_none() && g.stopping.is_none()) else {
            return;
        };
        g.stopping = Some((at, cause.clone()));
        self.wakes.push((at, id));
    }

    fn revoke(&mut self, attempt: AttemptId) {
        let Some(keeper) = &mut self.keeper else { return };
        if keeper.known.contains_key(&attempt) {
            return;
        }
        match keeper.queue.iter().position(|s| s.attempt == attempt) {
            Some(at) => drop(keeper.queue.remove(at)),
            None => drop(keeper.tombstones.insert(attempt)),
        }
        self.words.push(AgentSaid::Returned(attempt));
    }

    fn forget(&mut self, id: AttemptId) {
        let Some(keeper) = &mut self.keeper else { return };
        if keeper.known.get(&id).is_some_and(|k| k.end.is_some()) {
            keeper.known.remove(&id);
            self.guardians.remove(&id);
        }
    }

    fn tell(&mut self, id: AttemptId) {
        let Some(known) = self.keeper.as_ref().and_then(|k| k.known.get(&id)) else { return };
        let word = match &known.end {
            None => AgentSaid::Started(wire::Started { attempt: id, pid: 1, at_ms: known.started_ms }),
            Some(end) => AgentSaid::Finished(Box::new(end.clone()), None),
        };
        self.words.push(word);
    }

    fn tell_inventory(&mut self) {
        let Some(keeper) = &self.keeper else { return };
        let item = |attempt, lineage: &String, phase, started_ms| wire::InventoryItem {
            attempt,
            lineage: lineage.clone(),
            phase,
            pid: u32::from(phase > 0),
            started_ms,
        };
        let waiting = keeper.queue.iter().map(|s| item(s.attempt, &s.lineage, 0, 0));
        let known = keeper.known.iter().map(|(id, k)| item(*id, &k.lineage, k.phase, k.started_ms));
        let items: Vec<_> = waiting.chain(known).collect();
        let count = items.len() as u32;
        self.words.extend([AgentSaid::Inventory(items), AgentSaid::InventoryEnd(count)]);
    }

    /// A guardian looks at its clocks: its command may have ended, or must be stopped.
    pub fn look(&mut self, id: AttemptId, cx: &mut Around<'_>) {
        let Some(g) = self.guardians.get_mut(&id).filter(|g| g.end.is_none()) else { return };
        if g.lease.is_some_and(|at| at <= cx.now) && g.stopping.is_none() {
            g.stopping = Some((cx.now + cx.rng.below(g.start.grace_ms.min(3_000) + 1), Cause::Lost));
        }
        let cause = match &g.stopping {
            _ if g.ends_at <= cx.now => g.outcome.clone(),
            Some((at, cause)) if *at <= cx.now => cause.clone(),
            _ => {
                let next = g.next();
                self.wakes.push((next, id));
                return;
            }
        };
        let end = finished(id, &cause, g.started_ms, cx.wall);
        g.end = Some(end.clone());
        cx.ledger.ends(id, cause);
        self.note_end(id, end, true);
        self.admit(cx);
    }

    fn note_end(&mut self, id: AttemptId, end: wire::Finished, has_guardian: bool) {
        let cpu = self.guardians.get(&id).map_or(0, |g| g.start.cpu_milli);
        let Some(keeper) = &mut self.keeper else { return };
        let Some(known) = keeper.known.get_mut(&id).filter(|k| k.end.is_none()) else { return };
        known.phase = 3;
        known.end = Some(end.clone());
        known.held = has_guardian;
        keeper.used = keeper.used.saturating_sub(cpu);
        self.words.push(AgentSaid::Finished(Box::new(end), None));
    }

    /// A guardian is killed; the keeper ends what is left of its tree. False: there was none.
    pub fn kill_guardian(&mut self, id: AttemptId, cx: &mut Around<'_>) -> bool {
        if self.keeper.is_none() || self.guardians.get(&id).is_none_or(|g| g.end.is_some()) {
            return false;
        }
        cx.ledger.ends(id, Cause::KeeperLost);
        self.note_end(id, finished(id, &Cause::KeeperLost, 0, cx.wall), false);
        self.guardians.remove(&id);
        self.admit(cx);
        true
    }

    /// A new keeper adopts what it finds. Says how many.
    pub fn adopt(&mut self, cx: &mut Around<'_>) -> u64 {
        let mut keeper = Keeper::default();
        for (id, g) in &self.guardians {
            let known = Known {
                phase: if g.end.is_some() { 3 } else { 1 },
                lineage: g.start.lineage.clone(),
                started_ms: g.started_ms,
                end: g.end.clone(),
                held: true,
            };
            keeper.used += if g.end.is_none() { g.start.cpu_milli } else { 0 };
            keeper.known.insert(*id, known);
        }
        let adopted = keeper.known.len() as u64;
        self.keeper = Some(keeper);
        self.words.clear();
        self.admit(cx);
        adopted
    }

    /// Power is gone: no process lives.
    pub fn lose_power(&mut self, cx: &mut Around<'_>) {
        self.on = false;
        self.keeper = None;
        self.words.clear();
        for (id, g) in std::mem::take(&mut self.guardians) {
            if g.end.is_none() {
                cx.ledger.ends(id, Cause::Rebooted);
            }
        }
    }

    /// Power is back.
    pub fn boot(&mut self) {
        self.on = true;
        self.life += 1;
        self.keeper = Some(Keeper::default());
    }
}

impl Guardian {
    fn next(&self) -> u64 {
        let stop = self.stopping.as_ref().map(|(at, _)| *at);
        let lease = self.lease.filter(|_| stop.is_none());
        [Some(self.ends_at), lease, stop].into_iter().flatten().min().unwrap_or(self.ends_at)
    }
}

/// When its command ends by itself, and how; of a replica also when it takes requests.
fn plan(start: &wire::Start, cx: &mut Around<'_>) -> (u64, Cause, u64) {
    if super::replicas::is_replica(start) {
        let (ready_at, ends_at, outcome) = super::replicas::life(cx.now, cx.rng, cx.calm);
        return (ends_at, outcome, ready_at);
    }
    let length = match cx.rng.weighted(&[5, 5, 2]) {
        0 => cx.rng.range(1, 300),
        1 => cx.rng.range(300, 20_000),
        _ => cx.rng.range(20_000, 200_000),
    };
    let outcome = match cx.rng.weighted(&[80, 15, 5]) {
        0 => Cause::Ok,
        1 => Cause::Exit { code: 1 },
        _ => Cause::Signal { signal: 11 },
    };
    let late = start.timeout_ms > 0 && length > start.timeout_ms;
    let (length, outcome) = if late { (start.timeout_ms, Cause::Timeout) } else { (length, outcome) };
    (cx.now + length, outcome, 0)
}

fn finished(attempt: AttemptId, cause: &Cause, started_ms: i64, wall: i64) -> wire::Finished {
    wire::Finished {
        attempt,
        cause: cause.to_wire(),
        started_ms,
        ended_ms: wall,
        pid: u32::from(started_ms > 0),
        cpu_ms: 1,
        rss_peak: 1,
        output: Vec::new(),
        spooled: 0,
        result: None,
    }
}
