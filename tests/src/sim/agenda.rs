//! Virtual time: what happens next, in one order. Two things of one moment happen in the order in which they were noted.
use super::clients::Action;
use super::faults::Heal;
use super::replicas::Turn;
use reeve_coordinator::effect::{Reply, ToAgent};
use reeve_coordinator::input::{AgentSaid, Input, Ticket};
use reeve_coordinator::orchestrator::link::Order;
use reeve_protocol::{AttemptId, Problem, wire};
use std::collections::BTreeMap;

/// A connection between a machine and the coordinator.
pub type Conn = u64;

/// From an agent to the coordinator.
#[derive(Clone, Debug)]
pub enum Up {
    /// The first frame.
    Hello(Box<wire::Hello>),
    /// Frames for the core.
    Said(Vec<AgentSaid>),
    /// Number, and the last number heard.
    Beat(u64, u64),
    /// The connection was closed on purpose.
    Close,
}

/// From the coordinator to an agent.
#[derive(Clone, Debug)]
pub enum Down {
    /// The session is open.
    Welcome(Box<wire::Welcome>),
    /// It is not.
    Refused(u32),
    /// Frames of one step.
    Orders(Vec<ToAgent>),
    /// The answer to a beat: its own number, and that of the beat.
    Echo(u64, u64),
    /// The connection was closed on purpose.
    Close,
}

/// From an agent to its keeper.
#[derive(Clone, Debug)]
pub enum ToKeeper {
    /// What may run, and up to when the coordinator is known to have heard this machine.
    Limits(u32, u64),
    /// Tell what there is.
    Ask,
    /// Passed on.
    Order(ToAgent),
}

/// Something that will happen.
#[derive(Clone, Debug)]
pub enum Due {
    /// The engine takes what has gathered in its inbox.
    Engine,
    /// The coordinator starts again.
    HeadStart,
    /// A frame arrives at the coordinator.
    Up(Conn, Up),
    /// The coordinator looks whether a machine is silent.
    Silence(Conn),
    /// The coordinator gives a connection up on which nothing came.
    Idle(Conn),
    /// An input reaches the inbox of this life of the coordinator.
    Inbox(u64, Box<Input>),
    /// A frame arrives at an agent.
    Down(Conn, Down),
    /// An agent beats.
    Beat(Conn),
    /// An agent sees that its connection is gone.
    Broken(Conn),
    /// An agent tries again, unless it has started anew.
    Connect(usize, u64),
    /// An agent gives up waiting for its Welcome.
    NoWelcome(Conn),
    /// A word arrives at a keeper.
    Keeper(usize, u64, ToKeeper),
    /// A word of the keeper arrives at its agent.
    Agent(usize, u64, AgentSaid),
    /// A keeper is started.
    KeeperBorn(usize),
    /// An agent is started.
    AgentBorn(usize),
    /// A machine comes up.
    Boot(usize),
    /// A guardian looks at its clocks.
    Guardian(usize, AttemptId),
    /// It is the turn of a replica that this life of its agent knows.
    Replica(usize, u64, AttemptId, Turn),
    /// A client does something.
    Client(Box<Action>),
    /// An answer reaches a client.
    Answer(Ticket, Box<Result<Reply, Problem>>),
    /// An order reaches the broker, said in this life of the coordinator.
    Broker(u64, Box<Order>),
    /// Something goes wrong.
    Fault,
    /// Something comes right.
    Heal(Heal),
}

impl Due {
    /// Whether it happens inside the coordinator's process.
    pub const fn is_head(&self) -> bool {
        matches!(self, Self::Engine | Self::Up(..) | Self::Silence(_) | Self::Idle(_) | Self::Inbox(..))
    }
}

/// Everything that will happen.
#[derive(Default)]
pub struct Agenda {
    list: BTreeMap<(u64, u64), Due>,
    count: u64,
}

impl Agenda {
    /// Notes something for a moment.
    pub fn at(&mut self, at: u64, due: Due) {
        self.count += 1;
        self.list.insert((at, self.count), due);
    }

    /// The next thing, if it happens before `end`.
    pub fn next(&mut self, end: u64) -> Option<(u64, Due)> {
        let entry = self.list.first_entry().filter(|e| e.key().0 <= end)?;
        let ((at, _), due) = entry.remove_entry();
        Some((at, due))
    }
}
