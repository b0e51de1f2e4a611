//! What will be broken, when and for how long: a pure function of a seed. At most three faults at once, never two on
//! the same thing, every kind once before any comes again.
use super::rng::Rng;
use std::fmt;

/// A process, or several at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whom {
    /// The coordinator.
    Coordinator,
    /// A machine's agent.
    Agent(usize),
    /// A machine's keeper.
    Keeper(usize),
    /// The guardian of one running attempt.
    Guardian(usize),
    /// Agent and keeper of a machine.
    Pair(usize),
    /// The coordinator and every agent.
    Everyone,
}

/// What happens to a machine's link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Nothing passes.
    Blackhole,
    /// Nothing passes to the coordinator.
    DeafHead,
    /// Nothing passes to the machine.
    DeafMachine,
    /// A second on, a second off.
    Flap,
    /// Of a hundred datagrams, so many are lost.
    Loss(u8),
    /// 200 ms, give or take 100.
    Jitter,
    /// A fifth of the datagrams is overtaken.
    Reorder,
    /// A fifth comes twice.
    Duplicate,
    /// A tenth is damaged or cut.
    Corrupt,
    /// 256 kbit/s.
    Slow,
}

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL.
    Kill(Whom),
    /// SIGTERM.
    Term(Whom),
    /// SIGSTOP, then SIGCONT.
    Stop(Whom),
    /// The coordinator is killed every two seconds.
    Loop,
    /// The network of a machine.
    Link(usize, Link),
    /// A machine appears at another address.
    Rebind(usize),
    /// A machine's cable is pulled.
    Cable(usize),
    /// The coordinator's disk is nearly full: new work is refused.
    DiskLow,
    /// The coordinator's disk is full to the last byte.
    DiskFull,
}

impl Fault {
    /// What it takes hold of: two faults at once never share any.
    fn holds(self) -> Vec<Thing> {
        match self {
            Self::Kill(whom) | Self::Term(whom) | Self::Stop(whom) => match whom {
                Whom::Coordinator => vec![Thing::Head],
                Whom::Agent(m) | Whom::Keeper(m) | Whom::Guardian(m) | Whom::Pair(m) => {
                    vec![Thing::Processes(m)]
                }
                Whom::Everyone => vec![Thing::Head, Thing::AllProcesses],
            },
            Self::Loop => vec![Thing::Head],
            Self::Link(m, _) | Self::Rebind(m) | Self::Cable(m) => vec![Thing::Link(m)],
            Self::DiskLow | Self::DiskFull => vec![Thing::Disk],
        }
    }

    /// The machine it is about; `None` for the coordinator, which is about all.
    pub const fn machine(self) -> Option<usize> {
        match self {
            Self::Kill(whom) | Self::Term(whom) | Self::Stop(whom) => match whom {
                Whom::Agent(m) | Whom::Keeper(m) | Whom::Guardian(m) | Whom::Pair(m) => Some(m),
                Whom::Coordinator | Whom::Everyone => None,
            },
            Self::Link(m, _) | Self::Rebind(m) | Self::Cable(m) => Some(m),
            Self::Loop | Self::DiskLow | Self::DiskFull => None,
        }
    }
}

/// The kind without the machine: what counts are kept of.
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whom = |whom: &Whom| match whom {
            Whom::Coordinator => "coordinator",
            Whom::Agent(_) => "agent",
            Whom::Keeper(_) => "keeper",
            Whom::Guardian(_) => "guardian",
            Whom::Pair(_) => "agent+keeper",
            Whom::Everyone => "coordinator+all agents",
        };
        match self {
            Self::Kill(who) => write!(f, "kill -9 {}", whom(who)),
            Self::Term(who) => write!(f, "SIGTERM {}", whom(who)),
            Self::Stop(who) => write!(f, "SIGSTOP {}", whom(who)),
            Self::Loop => f.write_str("kill -9 coordinator every 2 s"),
            Self::Link(_, Link::Loss(percent)) => write!(f, "link loss {percent} %"),
            Self::Link(_, link) => f.write_str(match link {
                Link::Blackhole => "link blackhole",
                Link::DeafHead => "link one-way, nothing up",
                Link::DeafMachine => "link one-way, nothing down",
                Link::Flap => "link flapping",
                Link::Jitter => "link 200±100 ms",
                Link::Reorder => "link reorder",
                Link::Duplicate => "link duplicate",
                Link::Corrupt => "link corrupt+truncate",
                Link::Slow | Link::Loss(_) => "link 256 kbit/s",
            }),
            Self::Rebind(_) => f.write_str("link rebind"),
            Self::Cable(_) => f.write_str("cable pulled"),
            Self::DiskLow => f.write_str("coordinator disk nearly full"),
            Self::DiskFull => f.write_str("coordinator disk full"),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Thing {
    Head,
    Disk,
    Processes(usize),
    AllProcesses,
    Link(usize),
}

impl Thing {
    fn meets(self, other: Self) -> bool {
        self == other
            || matches!(
                (self, other),
                (Self::AllProcesses, Self::Processes(_)) | (Self::Processes(_), Self::AllProcesses)
            )
    }
}

/// A fault with its time, in milliseconds from the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planned {
    /// It begins.
    pub start: u64,
    /// It is healed.
    pub end: u64,
    /// What.
    pub fault: Fault,
}

/// What there is to break.
#[derive(Clone, Copy, Debug)]
pub struct Terrain {
    /// How many.
    pub machines: usize,
    /// How long all of it lasts, in milliseconds.
    pub ms: u64,
    /// The coordinator has a disk of its own.
    pub disk: bool,
    /// Machines have cables.
    pub cables: bool,
}

/// The plan of a seed.
pub fn plan(rng: &mut Rng, terrain: Terrain) -> Vec<Planned> {
    let mut plan: Vec<Planned> = Vec::new();
    let mut deck = Vec::new();
    let mut lanes = [500, 1_500, 3_000];
    loop {
        let lane = (0..3).min_by_key(|lane| lanes[*lane]).unwrap_or(0);
        let start = lanes[lane] + rng.range(200, 1_500);
        if start + 500 >= terrain.ms {
            return plan;
        }
        if deck.is_empty() {
            deck = shuffled(rng, terrain);
        }
        let running = |p: &&Planned| p.end + 500 > start;
        let busy: Vec<Thing> = plan.iter().filter(running).flat_map(|p| p.fault.holds()).collect();
        let fits =
            |fault: &Fault| !fault.holds().iter().any(|thing| busy.iter().any(|other| other.meets(*thing)));
        let Some(at) = deck.iter().position(fits) else {
            lanes[lane] = start;
            continue;
        };
        let fault = deck.remove(at);
        let end = (start + length(rng, fault, terrain.ms)).min(terrain.ms);
        lanes[lane] = end;
        plan.push(Planned { start, end, fault });
    }
}

/// Every kind once, on a machine drawn for each.
fn shuffled(rng: &mut Rng, terrain: Terrain) -> Vec<Fault> {
    let mut deck = vec![Fault::Loop];
    let mut m = || rng.range(0, terrain.machines as u64 - 1) as usize;
    for strike in [Fault::Kill, Fault::Term, Fault::Stop] {
        deck.extend([Whom::Coordinator, Whom::Agent(m()), Whom::Keeper(m())].map(strike));
    }
    deck.extend([Whom::Guardian(m()), Whom::Guardian(m()), Whom::Pair(m()), Whom::Everyone].map(Fault::Kill));
    deck.push(Fault::Stop(Whom::Guardian(m())));
    let links = [
        Link::Blackhole,
        Link::DeafHead,
        Link::DeafMachine,
        Link::Flap,
        Link::Loss(5),
        Link::Loss(20),
        Link::Loss(40),
        Link::Jitter,
        Link::Reorder,
        Link::Duplicate,
        Link::Corrupt,
        Link::Slow,
    ];
    deck.extend(links.map(|link| Fault::Link(m(), link)));
    deck.push(Fault::Rebind(m()));
    if terrain.cables {
        deck.push(Fault::Cable(m()));
    }
    if terrain.disk {
        deck.extend([Fault::DiskLow, Fault::DiskFull]);
    }
    for at in (1..deck.len()).rev() {
        let with = rng.range(0, at as u64) as usize;
        deck.swap(at, with);
    }
    deck
}

/// How long: what ends at once leaves a pause before the next start, what lasts may take a sixth of all.
fn length(rng: &mut Rng, fault: Fault, ms: u64) -> u64 {
    let long = (ms / 6).clamp(1_500, 90_000);
    match fault {
        Fault::Kill(_) | Fault::Term(_) => rng.range(100, 2_000),
        Fault::Rebind(_) => 100,
        Fault::Loop => rng.range(4_000, long.max(4_500)),
        // A machine away for long is the one thing that costs attempts; most runs are to see that too.
        Fault::Link(_, Link::Blackhole) | Fault::Cable(_) | Fault::Stop(Whom::Agent(_)) => {
            rng.range(long / 2, long)
        }
        _ => rng.range(1_000, long),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERRAIN: Terrain = Terrain { machines: 3, ms: 600_000, disk: true, cables: true };

    #[test]
    fn a_seed_is_a_plan() {
        assert_eq!(plan(&mut Rng::new(1), TERRAIN), plan(&mut Rng::new(1), TERRAIN));
        assert_ne!(plan(&mut Rng::new(1), TERRAIN), plan(&mut Rng::new(2), TERRAIN));
    }

    #[test]
    fn never_more_than_three_at_once_never_two_on_one_thing_and_all_end_in_time() {
        for seed in 0..50 {
            let plan = plan(&mut Rng::new(seed), TERRAIN);
            for p in &plan {
                assert!(p.start < p.end && p.end <= TERRAIN.ms);
                let beside: Vec<_> = plan.iter().filter(|o| o.start <= p.start && p.start < o.end).collect();
                assert!(beside.len() <= 3, "seed {seed}: {beside:?}");
                for other in beside.iter().filter(|o| ***o != *p) {
                    let shared =
                        p.fault.holds().iter().any(|t| other.fault.holds().iter().any(|o| o.meets(*t)));
                    assert!(!shared, "seed {seed}: {p:?} {other:?}");
                }
            }
        }
    }

    #[test]
    fn a_long_run_has_every_kind_and_a_short_one_several() {
        let kinds = |ms| {
            let plan = plan(&mut Rng::new(5), Terrain { ms, ..TERRAIN });
            plan.iter().map(|p| p.fault.to_string()).collect::<std::collections::BTreeSet<_>>()
        };
        assert_eq!(kinds(1_800_000).len(), 30, "{:?}", kinds(1_800_000));
        assert!(kinds(20_000).len() >= 8, "{:?}", kinds(20_000));
    }

    #[test]
    fn what_is_not_there_is_not_broken() {
        let plan = plan(&mut Rng::new(5), Terrain { disk: false, cables: false, ..TERRAIN });
        let is_there = |p: &Planned| !matches!(p.fault, Fault::DiskLow | Fault::DiskFull | Fault::Cable(_));
        assert!(plan.iter().all(is_there));
    }
}
