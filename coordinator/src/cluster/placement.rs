//! Placement: a function that explains itself. Its error is the answer of `reeve why`.
use super::machine::Machine;
use super::shape::Shape;
use reeve_protocol::resources::Resources;
use reeve_protocol::units::show_bytes;
use std::sync::Arc;

/// Why a machine does not take a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Its name.
    pub machine: Arc<str>,
    /// Whether it ever could, with everything free.
    pub ever: bool,
    /// In words.
    pub reason: String,
}

/// Chooses the machine with the most free cpus among those where the need fits: work is spread.
///
/// # Errors
/// One verdict per machine.
pub fn choose<'a>(
    need: &Shape,
    machines: impl Iterator<Item = &'a Machine> + Clone,
) -> Result<Arc<str>, Vec<Verdict>> {
    machines.clone().filter(|m| fits(need, m)).max_by_key(|m| m.free().cpu_milli).map_or_else(
        || Err(machines.filter(|m| !m.revoked).map(|m| verdict(need, m)).collect()),
        |m| Ok(m.id.clone()),
    )
}

/// Chooses a machine that may get the job ahead of a free slot: only cpus and memory are asked for, and what runs there
/// is short.
pub fn choose_ahead<'a>(need: &Shape, machines: impl Iterator<Item = &'a Machine>) -> Option<Arc<str>> {
    if need.ask.gpu_milli > 0 || !need.ask.named.is_empty() {
        return None;
    }
    machines
        .filter(|m| {
            m.accepts().is_ok() && m.total().fits(&need.ask) && need.allows(&m.name, &m.info.labels).is_ok()
        })
        .map(|m| (m.ahead_room(), m))
        .filter(|(room, _)| *room > 0)
        .max_by_key(|(room, _)| *room)
        .map(|(_, m)| m.id.clone())
}

fn fits(need: &Shape, machine: &Machine) -> bool {
    machine.accepts().is_ok()
        && machine.fits(&need.ask)
        // What waits ahead for a slot comes first.
        && machine.ahead_len() == 0
        && need.allows(&machine.name, &machine.info.labels).is_ok()
}

/// Whether any machine could ever take it.
pub fn ever<'a>(need: &Shape, mut machines: impl Iterator<Item = &'a Machine>) -> bool {
    machines.any(|m| !m.revoked && m.total().fits(&need.ask) && need.allows(&m.name, &m.info.labels).is_ok())
}

fn verdict(need: &Shape, machine: &Machine) -> Verdict {
    let ever = machine.total().fits(&need.ask);
    let say = |ever, reason| Verdict { machine: machine.name.clone(), ever, reason };
    if let Err(reason) = need.allows(&machine.name, &machine.info.labels) {
        return say(false, reason);
    }
    if !ever && machine.info.cpu_milli > 0 {
        let total = machine.total();
        let mut parts = lacking(&need.ask, &total);
        if need.ask.gpu_milli > total.gpu_milli {
            parts.push(format!("needs {} gpus, {} there", need.ask.gpus(), total.gpus()));
        }
        return say(false, format!("can never fit: {}", parts.join("; ")));
    }
    match machine.accepts() {
        Err(reason) => say(true, reason.into_owned()),
        Ok(()) if machine.fits(&need.ask) => say(true, "has room, and others were here first".to_owned()),
        Ok(()) => {
            let mut parts = lacking(&need.ask, machine.free());
            if need.ask.gpu_milli > 0 && machine.gpus().choose(need.ask.gpu_milli).is_none() {
                parts.push(machine.gpus().lacking(need.ask.gpu_milli));
            }
            say(true, format!("is busy: {}", parts.join("; ")))
        }
    }
}

/// What of the need is more than what is there, but for gpus.
fn lacking(ask: &Resources, has: &Resources) -> Vec<String> {
    let mut parts = Vec::new();
    if ask.cpu_milli > has.cpu_milli {
        parts.push(format!("needs {} cpus, {} there", ask.cpus(), has.cpus()));
    }
    if ask.memory_bytes > has.memory_bytes {
        parts.push(format!(
            "needs {} of memory, {} there",
            show_bytes(ask.memory_bytes),
            show_bytes(has.memory_bytes)
        ));
    }
    for (name, n) in &ask.named {
        let there = has.named.get(name).copied().unwrap_or(0);
        if *n > there {
            parts.push(format!("needs {n} of {name}, {there} there"));
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::machine::Session;
    use crate::row::MachineRow;
    use reeve_protocol::wire;

    fn machine(name: &str, cpus: u32) -> Machine {
        let row = MachineRow {
            id: name.into(),
            name: name.into(),
            fingerprint: name.into(),
            ..MachineRow::default()
        };
        let mut machine = Machine::restore(&row);
        machine.describe(wire::Machine {
            cpu_milli: cpus * 1000,
            memory_bytes: 1 << 30,
            keeper: true,
            ..Default::default()
        });
        machine.session = Some(Session { number: 1, reconciled: true, address: String::new() });
        machine
    }

    fn need(cpus: u32) -> Shape {
        Shape {
            ask: Arc::new(Resources { cpu_milli: cpus * 1000, ..Resources::default() }),
            ..Shape::default()
        }
    }

    #[test]
    fn the_emptiest_machine_that_fits_is_chosen() {
        let machines = [machine("a", 2), machine("b", 8), machine("c", 4)];
        assert_eq!(choose(&need(2), machines.iter()).unwrap().as_ref(), "b");
    }

    #[test]
    fn every_machine_says_why_not() {
        let mut machines =
            [machine("small", 2), machine("busy", 8), machine("away", 8), machine("cordoned", 8)];
        machines[1].reserve(reeve_protocol::TaskId::single(1).attempt(1), need(8).ask, Vec::new(), false);
        machines[2].session = None;
        machines[3].cordoned = true;
        let reasons: Vec<_> =
            choose(&need(4), machines.iter()).unwrap_err().into_iter().map(|v| (v.ever, v.reason)).collect();
        assert_eq!(reasons[0], (false, "can never fit: needs 4 cpus, 2 there".to_owned()));
        assert_eq!(reasons[1], (true, "is busy: needs 4 cpus, 0 there".to_owned()));
        assert_eq!(reasons[2], (true, "is not connected".to_owned()));
        assert_eq!(reasons[3], (true, "is cordoned".to_owned()));
    }
}
