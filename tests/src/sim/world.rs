//! The simulated world: the real core of a coordinator, machines, a network between them, clients, one virtual clock, and
//! one source of chance. [`super::head`] runs the coordinator, [`super::network`] the sessions; here is what both share.
use super::agenda::{Agenda, Conn, Due};
use super::broker::Broker;
use super::clients::Clients;
use super::count::Count;
use super::faults;
use super::host::{Around, Host, Lane};
use super::ledger::Ledger;
use super::network::{Agent, Session};
use super::rng::Rng;
use super::store::Store;
use super::watch::Watch;
use super::{Options, Sabotage};
use reeve_coordinator::clock::Steady;
use reeve_coordinator::core::Core;
use reeve_coordinator::input::{Input, Now, Ticket};
use reeve_coordinator::row::MachineRow;
use reeve_coordinator::store::writer::Full;
use std::collections::{BTreeMap, VecDeque};

/// Wall milliseconds at the begin of a run.
pub const WALL: i64 = 1_700_000_000_000;
/// Lines of history kept for a report.
const HISTORY: usize = 80;

/// How a coordinator dies at its next step that writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// Nothing of the step is on disk.
    BeforeCommit,
    /// It is, and this share of its effects got out, in percent.
    Released(u64),
}

/// Everything.
pub struct World {
    /// What was asked for.
    pub options: Options,
    /// Chance.
    pub rng: Rng,
    /// Boot-time milliseconds, the same everywhere.
    pub now: u64,
    /// How far the coordinator's wall clock is off.
    pub wall_offset: i64,
    /// What happens next.
    pub agenda: Agenda,
    /// The disk.
    pub store: Store,
    /// The coordinator while it lives.
    pub core: Option<Box<Core>>,
    /// Its clock.
    pub clock: Steady,
    /// Its inbox.
    pub inbox: Vec<Input>,
    /// Counts its lives.
    pub epoch: u64,
    /// When its engine is woken next.
    pub engine_at: Option<u64>,
    /// It is not scheduled until then.
    pub frozen_until: u64,
    /// When it was scheduled again: nobody was silent before.
    pub resumed: u64,
    /// How its next step ends it.
    pub crash: Option<Crash>,
    /// Numbers of sessions in this life.
    pub last_session: u64,
    /// Numbers of callers.
    pub last_ticket: Ticket,
    /// Callers that are connections waiting for their Welcome.
    pub opening: BTreeMap<Ticket, Conn>,
    /// Connections.
    pub sessions: BTreeMap<Conn, Session>,
    /// Counts connections.
    pub last_conn: Conn,
    /// The machines.
    pub hosts: Vec<Host>,
    /// Their agents.
    pub agents: Vec<Agent>,
    /// From machine to coordinator.
    pub up: Vec<Lane<super::agenda::Up>>,
    /// From coordinator to machine.
    pub down: Vec<Lane<super::agenda::Down>>,
    /// People and scripts.
    pub clients: Clients,
    /// Where some queues keep what waits.
    pub broker: Broker,
    /// Its disk is full: the gate is closed.
    pub full: Full,
    /// What its engine was told of that.
    pub was_full: bool,
    /// What was committed.
    pub watch: Watch,
    /// What really ran.
    pub ledger: Ledger,
    /// What was exercised.
    pub count: Count,
    /// What the sabotage has done so far.
    pub sabotaged: u64,
    /// Only what comes right happens any more.
    pub draining: bool,
    /// Workers whose replicas are replaced with nothing else to do, and how many of them take requests all the time.
    pub rolling: BTreeMap<String, u32>,
    /// Replicas are to end, too.
    pub stopping: bool,
    /// A digest of everything that happened.
    pub hash: u64,
    history: VecDeque<String>,
    broken: Option<String>,
}

impl World {
    /// A world at its begin.
    pub fn new(options: Options) -> Self {
        let mut rng = Rng::new(options.seed);
        let mut hosts: Vec<_> =
            options.cpu_milli.iter().enumerate().map(|(at, cpu)| Host::new(format!("m{at}"), *cpu)).collect();
        for (at, host) in hosts.iter_mut().enumerate() {
            host.gpus = super::gpus::of_machine(at);
        }
        // A machine that was in another cluster may still hold something of it.
        if rng.chance(10) {
            hosts[0].hold_foreign();
        }
        let store = Store::new(hosts.iter().map(machine_row).collect()).expect("a store in memory");
        let count = hosts.len();
        let wall = rng.below(1000) as i64;
        Self {
            clients: Clients::default(),
            rng,
            now: 1_000_000,
            wall_offset: wall,
            agenda: Agenda::default(),
            store,
            core: None,
            clock: Steady::default(),
            inbox: Vec::new(),
            epoch: 0,
            engine_at: None,
            frozen_until: 0,
            resumed: 0,
            crash: None,
            last_session: 0,
            last_ticket: 0,
            opening: BTreeMap::new(),
            sessions: BTreeMap::new(),
            last_conn: 0,
            hosts,
            agents: (0..count).map(|_| Agent::default()).collect(),
            up: (0..count).map(|_| Lane::default()).collect(),
            down: (0..count).map(|_| Lane::default()).collect(),
            broker: Broker::default(),
            full: Full::default(),
            was_full: false,
            watch: Watch::default(),
            ledger: Ledger::default(),
            count: Count::default(),
            sabotaged: 0,
            draining: false,
            rolling: BTreeMap::new(),
            stopping: false,
            hash: options.seed,
            history: VecDeque::new(),
            broken: None,
            options,
        }
    }

    /// The wall clock of the coordinator, as it reads it.
    pub fn raw(&self) -> Now {
        Now { mono: self.now, wall: WALL + self.now as i64 + self.wall_offset }
    }

    /// Writes a line of history, if somebody wants it.
    pub fn note(&mut self, line: impl FnOnce() -> String) {
        if self.options.trace {
            let line = format!("{:>9} {}", self.now, line());
            if self.options.print {
                println!("{line}");
            }
            self.history.push_back(line);
            if self.history.len() > HISTORY {
                self.history.pop_front();
            }
        }
    }

    /// Mixes a word into the digest of the run.
    pub fn mix(&mut self, word: u64) {
        self.hash = (self.hash ^ word).wrapping_mul(0x0100_0000_01b3).rotate_left(23);
    }

    /// An invariant does not hold: the run ends here.
    pub fn fail(&mut self, what: impl Into<String>) {
        let what = what.into();
        self.note(|| format!("BROKEN {what}"));
        self.broken.get_or_insert(what);
    }

    /// What does not hold.
    pub fn broken(&self) -> Option<&String> {
        self.broken.as_ref()
    }

    /// The last lines of history.
    pub fn history(&self) -> Vec<String> {
        self.history.iter().cloned().collect()
    }

    /// Lets a machine do something, and passes on what its keeper then says.
    pub fn with_host<T>(&mut self, host: usize, act: impl FnOnce(&mut Host, &mut Around<'_>) -> T) -> T {
        let mut around = Around {
            now: self.now,
            wall: WALL + self.now as i64,
            rng: &mut self.rng,
            calm: self.draining,
            ledger: &mut self.ledger,
        };
        let result = act(&mut self.hosts[host], &mut around);
        for (at, id) in std::mem::take(&mut self.hosts[host].wakes) {
            self.agenda.at(at.max(self.now), Due::Guardian(host, id));
        }
        self.pass_words(host);
        if let Some(wrong) = self.ledger.wrong.pop() {
            self.fail(wrong);
        }
        result
    }

    /// Runs until the moment `end`, or until something is broken.
    pub fn run_until(&mut self, end: u64) {
        while self.broken.is_none() {
            let Some((at, due)) = self.agenda.next(end) else { break };
            self.now = self.now.max(at);
            if due.is_head() && self.frozen_until > self.now {
                self.agenda.at(self.frozen_until, due);
                continue;
            }
            if self.frozen_until > 0 && self.frozen_until <= self.now {
                (self.frozen_until, self.resumed) = (0, self.now);
            }
            if let Some(host) = self.host_of(&due).filter(|h| self.hosts[*h].frozen_until > self.now) {
                self.agenda.at(self.hosts[host].frozen_until, due);
                continue;
            }
            self.happen(due);
        }
        if self.broken.is_none() {
            self.now = self.now.max(end);
        }
    }

    fn host_of(&self, due: &Due) -> Option<usize> {
        match due {
            Due::Down(conn, _) | Due::Beat(conn) | Due::Broken(conn) | Due::NoWelcome(conn) => {
                self.sessions.get(conn).map(|s| s.host)
            }
            Due::Connect(host, _)
            | Due::Keeper(host, ..)
            | Due::Agent(host, ..)
            | Due::KeeperBorn(host)
            | Due::AgentBorn(host)
            | Due::Guardian(host, _)
            | Due::Replica(host, ..) => Some(*host),
            _ => None,
        }
    }

    fn happen(&mut self, due: Due) {
        match due {
            Due::Engine => self.engine(),
            Due::HeadStart => self.head_start(),
            Due::Inbox(epoch, input) if epoch == self.epoch && self.core.is_some() => {
                if self.passes_gate(&input) {
                    self.put(*input);
                }
            }
            Due::Up(conn, frame) => self.arrived_up(conn, frame),
            Due::Silence(conn) => self.look_for_silence(conn),
            Due::Idle(conn) => self.look_for_idle(conn),
            Due::Down(conn, frame) => self.arrived_down(conn, frame),
            Due::Beat(conn) => self.beat(conn),
            Due::Broken(conn) | Due::NoWelcome(conn) if !self.is_welcomed(conn, &due) => {
                self.agent_lost(conn);
            }
            Due::Inbox(..) | Due::Broken(_) | Due::NoWelcome(_) => {}
            Due::Connect(host, round) => self.connect(host, round),
            Due::Keeper(host, link, word) => {
                if self.hosts[host].keeper.as_ref().is_some_and(|k| k.link == Some(link)) {
                    self.with_host(host, |h, cx| h.hear(word, cx));
                }
            }
            Due::Agent(host, link, word) => self.agent_hears(host, link, word),
            Due::KeeperBorn(host) => self.keeper_born(host),
            Due::AgentBorn(host) => self.agent_born(host),
            Due::Boot(host) => {
                self.hosts[host].boot();
                self.agent_born(host);
            }
            Due::Guardian(host, id) => self.with_host(host, |h, cx| h.look(id, cx)),
            Due::Replica(host, life, replica, turn) => self.replica_turn(host, life, replica, turn),
            Due::Client(action) => self.client(*action),
            Due::Answer(ticket, answer) => self.answered(ticket, *answer),
            Due::Broker(epoch, order) => self.broker(epoch, *order),
            Due::Fault if self.draining => {}
            Due::Fault => faults::strike(self),
            Due::Heal(what) => faults::heal(self, what),
        }
    }

    fn keeper_born(&mut self, host: usize) {
        if self.hosts[host].on && self.hosts[host].keeper.is_none() {
            let adopted = self.with_host(host, Host::adopt);
            self.count.add("adopted by a new keeper", adopted);
        }
    }

    /// Whether this run's sabotage strikes here.
    pub fn sabotage(&mut self, what: Sabotage) -> bool {
        let strikes = self.options.sabotage == Some(what);
        self.sabotaged += u64::from(strikes);
        strikes
    }
}

fn machine_row(host: &Host) -> MachineRow {
    MachineRow {
        id: host.id.clone(),
        name: host.id.as_str().into(),
        fingerprint: host.id.clone(),
        info: "{}".to_owned(),
        joined_at: WALL,
        ..MachineRow::default()
    }
}
