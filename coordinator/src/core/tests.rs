//! The core, driven by hand: inputs in, whole answers and facts out, the invariants walked after every step.
use super::*;
use crate::effect::{Effect, Fact, Portion};
use crate::input::{AgentSaid, NewMessage, Settle, Stored, Target};
use crate::row::MachineRow;
use reeve_protocol::api::{Changed, Event, LeaseRequest, RegisterRequest, StatusRequest, Submitted};
use reeve_protocol::spec::ArraySpec;
use reeve_protocol::wire::{self, Verdict};
use reeve_protocol::{Cause, JobSpec, State, Substate};

mod agents;
mod audit;
mod brokers;
mod exits;
mod git;
mod gpus;
mod ingress;
mod jobs;
mod machines;
mod moving;
mod parking;
mod passing;
mod queues;
mod replies;
mod workers;
mod workers_fail;
mod workers_scale;

/// A core with its clock, and everything that came out of it.
struct World {
    core: Core,
    now: Now,
    facts: Vec<Fact>,
    events: Vec<Event>,
    sent: Vec<ToAgent>,
    audit: Vec<crate::row::AuditRow>,
    closed: Vec<(u64, u32)>,
    orders: Vec<crate::orchestrator::link::Order>,
    answers: HashMap<Ticket, Result<Reply, Problem>>,
    leased: Vec<crate::effect::Leased>,
    ticket: Ticket,
    /// What is to be read: answered at once, unless it is held back.
    loads: Vec<(Arc<str>, Portion, Vec<u64>)>,
    holds_loads: bool,
}

const MACHINE: &str = "m1";

impl World {
    fn new() -> Self {
        let machine = MachineRow {
            id: MACHINE.into(),
            name: "lab-1".into(),
            fingerprint: "f".into(),
            ..MachineRow::default()
        };
        let identity = Identity { cluster: "c".into(), name: "lab".into(), lineage: "l".into(), epoch: 1 };
        let loaded = Loaded {
            identity,
            next_job: 1,
            next_message: 1,
            next_plan: 1,
            machines: vec![machine],
            ..Loaded::default()
        };
        let now = Now { mono: 1_000_000, wall: 1_700_000_000_000 };
        Self {
            core: Core::restore(loaded, "seed".into(), now),
            now,
            facts: Vec::new(),
            events: Vec::new(),
            sent: Vec::new(),
            audit: Vec::new(),
            closed: Vec::new(),
            orders: Vec::new(),
            answers: HashMap::new(),
            leased: Vec::new(),
            ticket: 0,
            loads: Vec::new(),
            holds_loads: false,
        }
    }

    fn with_machine(cpus: u32) -> Self {
        let mut world = Self::new();
        world.connect(1, "life", "keeper", cpus, vec![]);
        world
    }

    fn feed(&mut self, inputs: Vec<Input>) {
        let mut step = Step::default();
        self.core.decide(self.now, Input::Tick, &mut step);
        for input in inputs {
            self.core.decide(self.now, input, &mut step);
        }
        self.core.plan(self.now, &mut step);
        assert_eq!(self.core.check(), Vec::<String>::new());
        for (at, event) in step.events.iter().enumerate() {
            assert_eq!(event.seq, self.events.len() as u64 + at as u64 + 1, "event numbers have no gap");
        }
        assert!(step.audit.iter().all(|row| row.seq == self.events.len() as u64 + step.events.len() as u64));
        self.audit.extend(step.audit);
        self.facts.extend(step.facts);
        self.events.extend(step.events);
        for effect in step.effects {
            match effect {
                Effect::Reply(ticket, answer) => {
                    self.answers.insert(ticket, *answer);
                }
                Effect::ReplyMessages(_, leased) => self.leased.extend(leased),
                Effect::Send(_, _, frame) => self.sent.push(frame),
                Effect::Close(_, session, code, _) => self.closed.push((session, code)),
                Effect::Broker(_, order) => self.orders.push(order),
                Effect::Load(queue, portion, jobs) => self.loads.push((queue, portion, jobs)),
            }
        }
        if !self.holds_loads && !self.loads.is_empty() {
            self.answer_loads();
        }
    }

    fn answer_loads(&mut self) {
        let loads = std::mem::take(&mut self.loads);
        let read = |(queue, portion, jobs): (Arc<str>, Portion, Vec<u64>)| {
            let rows = jobs.iter().filter_map(|id| self.row(*id).job).map(|row| *row).collect();
            Input::Loaded { queue, portion, jobs, rows }
        };
        let inputs = loads.into_iter().map(read).collect();
        self.feed(inputs);
    }

    fn wait(&mut self, ms: u64) {
        self.now.mono += ms;
        self.now.wall += ms as i64;
        self.feed(vec![]);
    }

    /// As time passes for a process that runs: in small steps. One leap would look like a freeze.
    fn pass(&mut self, ms: u64) {
        for _ in 0..ms.div_ceil(1_000) {
            self.wait(1_000);
        }
    }

    fn ask_as(&mut self, uid: u32, call: Call) -> Option<Result<Reply, Problem>> {
        self.ticket += 1;
        let caller = Caller::new(uid, format!("u{uid}"));
        self.feed(vec![Input::Call { ticket: self.ticket, caller, call }]);
        self.answers.remove(&self.ticket)
    }

    fn ask(&mut self, call: Call) -> Result<Reply, Problem> {
        self.ask_as(1000, call).expect("an answer at once")
    }

    fn submit(&mut self, spec: JobSpec) -> Submitted {
        match self.ask(Call::Submit { spec: Box::new(spec), key: None }) {
            Ok(Reply::Submitted(submitted, false)) => submitted,
            other => panic!("{other:?}"),
        }
    }

    fn says(&mut self, session: u64, said: Vec<AgentSaid>) {
        self.feed(vec![Input::Agent { machine: MACHINE.into(), session, said }]);
    }

    fn connect(
        &mut self,
        session: u64,
        life: &str,
        keeper: &str,
        cpus: u32,
        items: Vec<wire::InventoryItem>,
    ) -> Vec<(AttemptId, Verdict)> {
        let hello = wire::Hello {
            version_min: 1,
            version_max: 1,
            cluster: "c".into(),
            machine: MACHINE.into(),
            life: life.into(),
            keeper: keeper.into(),
            lineage_seen: String::new(),
            epoch_seen: 0,
            seq_seen: 0,
            agent_version: "v".into(),
            kinds: vec![],
        };
        let call = Call::OpenSession {
            machine: MACHINE.into(),
            fingerprint: "f".into(),
            session,
            hello: Box::new(hello),
            address: "a".into(),
        };
        assert!(matches!(self.ask(call), Ok(Reply::Welcome(_))));
        let info = wire::Machine {
            cpu_milli: cpus * 1000,
            memory_bytes: 1 << 33,
            keeper: true,
            ..Default::default()
        };
        let count = items.len() as u32;
        self.says(
            session,
            vec![AgentSaid::Machine(info), AgentSaid::Inventory(items), AgentSaid::InventoryEnd(count)],
        );
        let at = self.sent.iter().position(|f| matches!(f, ToAgent::Reconcile(_))).expect("a verdict");
        match self.sent.remove(at) {
            ToAgent::Reconcile(verdicts) => verdicts,
            _ => unreachable!(),
        }
    }

    fn started_frames(&self) -> Vec<AttemptId> {
        self.sent
            .iter()
            .filter_map(|f| if let ToAgent::Start(s) = f { Some(s.attempt) } else { None })
            .collect()
    }

    fn start(&mut self, attempt: AttemptId) {
        self.says(1, vec![AgentSaid::Started(wire::Started { attempt, pid: 9, at_ms: self.now.wall })]);
    }

    fn finish(&mut self, session: u64, attempt: AttemptId, cause: Cause) {
        let said = AgentSaid::Finished(Box::new(finished(attempt, cause, self.now.wall)), None);
        self.says(session, vec![said]);
    }

    fn standing(&self, id: u64) -> (State, Option<Substate>) {
        let last = self.facts.iter().rev().find_map(|f| match f {
            Fact::JobMoved(j, s) | Fact::ArrayMoved(j, s, _) if *j == id => Some((s.state, s.substate)),
            Fact::JobAdded(row) if row.id == id => Some((row.standing.state, row.standing.substate)),
            _ => None,
        });
        last.expect("the job was recorded")
    }

    fn row(&self, id: u64) -> Stored {
        let mut row = self.facts.iter().find_map(|f| match f {
            Fact::JobAdded(row) if row.id == id => Some(row.clone()),
            _ => None,
        });
        let mut tasks: BTreeMap<u32, crate::row::TaskRow> = BTreeMap::new();
        for fact in &self.facts {
            match fact {
                Fact::JobRequeued(j, queue) if *j == id => row.as_mut().unwrap().queue = queue.clone(),
                Fact::JobMoved(j, s) if *j == id => row.as_mut().unwrap().standing = (**s).clone(),
                Fact::ArrayMoved(j, s, a) if *j == id => {
                    row.as_mut().unwrap().standing = (**s).clone();
                    row.as_mut().unwrap().array = Some((**a).clone());
                }
                Fact::TaskMoved(t, s) if t.job == id => {
                    let index = t.index.unwrap();
                    tasks.insert(index, crate::row::TaskRow { index, standing: (**s).clone() });
                }
                _ => {}
            }
        }
        Stored {
            job: row,
            tasks: tasks
                .into_values()
                .filter(|t| matches!(t.standing.state, State::Failed | State::Cancelled))
                .collect(),
            seq: self.core.seq(),
        }
    }
}

fn finished(attempt: AttemptId, cause: Cause, at: i64) -> wire::Finished {
    wire::Finished {
        attempt,
        cause: cause.to_wire(),
        started_ms: at,
        ended_ms: at,
        pid: 9,
        cpu_ms: 1,
        rss_peak: 2,
        output: vec![],
        spooled: 0,
        result: None,
    }
}

fn spec() -> JobSpec {
    JobSpec { command: Some(vec!["true".into()]), ..JobSpec::default() }
}

fn target(job: u64) -> Target {
    Target { job, tasks: None }
}

fn item(attempt: AttemptId, phase: u16) -> wire::InventoryItem {
    wire::InventoryItem { attempt, lineage: "l".into(), phase, pid: 9, started_ms: 5 }
}

fn code(answer: Result<Reply, Problem>) -> String {
    answer.map_or_else(|p| p.code, |r| format!("{r:?}"))
}
