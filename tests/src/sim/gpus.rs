//! Gpus of simulated machines: who was given which, from the facts alone, and who really uses them. A device falls sick now
//! and then; its agent says so and gives back what comes for it.
use super::agenda::{Due, Up};
use super::count::Count;
use super::faults::Heal;
use super::host::Host;
use super::world::World;
use reeve_coordinator::effect::{Fact, ToAgent};
use reeve_coordinator::input::{AgentSaid, Input};
use reeve_protocol::{AttemptId, JobSpec, State, Substate, TaskId, wire};
use std::collections::{BTreeMap, BTreeSet};

/// All of a device, in thousandths.
const WHOLE: u64 = 1_000;
/// Attempts that a sick device may send back: whoever gives it out again and again has not listened.
const GIVEN_BACK: u32 = 20;

/// The devices of the machine with this number.
pub fn of_machine(at: usize) -> Vec<String> {
    let count = [2, 1].get(at).copied().unwrap_or(0);
    (0..count).map(|n| format!("GPU-{at}-{n}")).collect()
}

/// What was given out, as committed.
#[derive(Default)]
pub struct Given {
    /// Thousandths that a job asks for.
    asked: BTreeMap<u64, u64>,
    /// By attempt: its machine and devices.
    devices: BTreeMap<AttemptId, (String, Vec<String>)>,
    /// Whose current attempt is there, as far as is known.
    holds: BTreeMap<TaskId, AttemptId>,
    /// Their processes are gone, and their ends are yet to be told.
    exited: BTreeSet<AttemptId>,
    changed: bool,
}

impl Given {
    /// Notes which processes a machine says are gone: their devices are free before their ends are recorded.
    pub fn look_at(&mut self, batch: &[Input]) {
        let said =
            batch.iter().filter_map(|i| if let Input::Agent { said, .. } = i { Some(said) } else { None });
        for word in said.flatten() {
            match word {
                AgentSaid::Exited(attempt) => drop(self.exited.insert(*attempt)),
                AgentSaid::Inventory(items) => {
                    self.exited.extend(items.iter().filter(|i| i.phase == 3).map(|i| i.attempt));
                }
                _ => {}
            }
        }
    }

    /// Takes a committed fact in; says what is wrong with it.
    pub fn fact(&mut self, fact: &Fact) -> Result<(), String> {
        match fact {
            Fact::JobAdded(row) => {
                let spec: JobSpec = serde_json::from_str(&row.spec).map_err(|e| e.to_string())?;
                let milli = (spec.resources.gpus.unwrap_or(0.0) * 1000.0).round() as u64;
                if milli > 0 {
                    self.asked.insert(row.id, milli);
                }
            }
            Fact::AttemptDispatched { attempt, machine_id, gpus, .. } => {
                let Some(milli) = self.asked.get(&attempt.task.job).filter(|_| machine_id.is_some()) else {
                    return if gpus.is_empty() {
                        Ok(())
                    } else {
                        Err(format!("{attempt} got {gpus:?} unasked"))
                    };
                };
                let machine = machine_id.clone().unwrap_or_default();
                let here = |uuid: &String| uuid.starts_with(&format!("GPU-{}-", &machine[1..]));
                let distinct: BTreeSet<&String> = gpus.iter().filter(|uuid| here(uuid)).collect();
                if distinct.len() as u64 != milli.div_ceil(WHOLE) || distinct.len() != gpus.len() {
                    return Err(format!("{attempt} asks for {milli} on {machine}, and got {gpus:?}"));
                }
                self.devices.insert(*attempt, (machine, gpus.clone()));
                self.holds.insert(attempt.task, *attempt);
                self.changed = true;
            }
            Fact::JobMoved(id, standing) => self.moved(TaskId::single(*id), standing),
            Fact::TaskMoved(task, standing) => self.moved(*task, standing),
            _ => {}
        }
        Ok(())
    }

    /// An attempt that is assigned or runs has its devices; one that was taken for lost has them again when it is back.
    fn moved(&mut self, task: TaskId, standing: &reeve_coordinator::row::Standing) {
        let attempt = task.attempt(standing.attempt);
        let there = standing.state == State::Running || standing.substate == Some(Substate::Assigned);
        if there && self.devices.contains_key(&attempt) {
            self.changed |= self.holds.insert(task, attempt) != Some(attempt);
        } else {
            self.holds.remove(&task);
        }
    }

    /// No device has more holders than the whole of it.
    pub fn check(&mut self, count: &mut Count) -> Result<(), String> {
        if !std::mem::take(&mut self.changed) {
            return Ok(());
        }
        let mut used: BTreeMap<&str, (u64, u32)> = BTreeMap::new();
        for attempt in self.holds.values().filter(|attempt| !self.exited.contains(attempt)) {
            let share = self.asked.get(&attempt.task.job).copied().unwrap_or(0).min(WHOLE);
            for uuid in self.devices.get(attempt).into_iter().flat_map(|(_, gpus)| gpus) {
                let of = used.entry(uuid).or_default();
                *of = (of.0 + share, of.1 + 1);
            }
        }
        for (uuid, (share, holders)) in used {
            count.hit(if holders > 1 { "gpu shared" } else { "gpu held" });
            if share > WHOLE {
                return Err(format!("{share} thousandths of {uuid} are given out, to {holders} attempts"));
            }
        }
        Ok(())
    }

    /// What an attempt was given.
    fn of(&self, attempt: AttemptId) -> &[String] {
        self.devices.get(&attempt).map_or(&[], |(_, gpus)| gpus)
    }
}

/// Thousandths of each of its devices that an attempt may use.
fn share(start: &wire::Start) -> u64 {
    let asked =
        start.env.iter().find(|(name, _)| name == "REEVE_GPUS").and_then(|(_, n)| n.parse::<f64>().ok());
    ((asked.unwrap_or(0.0) * 1000.0).round() as u64).min(WHOLE)
}

/// What is wrong with the use of gpus on a machine when an attempt begins. Whoever is told to stop does not count: an agent
/// waits for a device to be free.
pub fn overused(host: &Host, start: &wire::Start) -> Option<String> {
    start.gpus.iter().find_map(|uuid| {
        let others = host.guardians.values().filter(|g| g.end.is_none() && g.stopping.is_none());
        let others = others.filter(|g| g.start.gpus.contains(uuid) && g.start.attempt != start.attempt);
        let used: u64 = others.map(|g| share(&g.start)).sum::<u64>() + share(start);
        (used > WHOLE).then(|| format!("{} begins with {uuid}, of which {used} are in use", start.attempt))
    })
}

impl World {
    /// A Start arrives at its agent. False: a device of it is sick, and it goes no further.
    pub(super) fn gpus_of_start(&mut self, host: usize, order: &ToAgent) -> bool {
        let ToAgent::Start(start) = order else { return true };
        let given = self.watch.gpus.of(start.attempt).to_vec();
        let named =
            start.env.iter().find(|(name, _)| name == "REEVE_GPU_UUIDS").map(|(_, uuids)| uuids.clone());
        if start.gpus != given || named.unwrap_or_default() != given.join(",") {
            self.fail(format!("{} is told to use {:?}, and was given {given:?}", start.attempt, start.gpus));
        }
        let sick = self.hosts[host].sick.clone();
        if !start.gpus.iter().any(|uuid| sick.contains(uuid)) {
            return true;
        }
        self.count.hit("gpu unfit, attempt given back");
        self.hosts[host].gave_back += 1;
        if self.hosts[host].gave_back > GIVEN_BACK {
            self.fail(format!("{sick:?} are given out again and again, and are sick"));
        }
        let words = vec![self.gpus_told(host), AgentSaid::Returned(start.attempt)];
        if let Some(conn) = self.agents[host].conn {
            self.send_up(conn, Up::Said(words));
        }
        false
    }

    /// How the devices of a machine are.
    fn gpus_told(&self, host: usize) -> AgentSaid {
        let told = |uuid: String| {
            let quarantine = self.hosts[host].sick.contains(&uuid).then(|| "it is hot".to_owned());
            wire::Gpu { uuid, quarantine, ..wire::Gpu::default() }
        };
        AgentSaid::Gpus(of_machine(host).into_iter().map(told).collect())
    }

    /// An agent tells how its devices are, if it has any and a session.
    pub(super) fn tell_gpus(&mut self, host: usize) {
        let word = self.gpus_told(host);
        let conn = self.agents[host].conn.filter(|_| self.agents[host].replicas.has_joined());
        if let (Some(conn), false) = (conn, of_machine(host).is_empty()) {
            self.send_up(conn, Up::Said(vec![word]));
        }
    }

    /// A device falls sick. Its agent may see it at once, or only when something is to start there.
    pub(super) fn gpu_falls_sick(&mut self) {
        let host = self.rng.below(2) as usize;
        let uuid = self.rng.pick(&of_machine(host)).clone();
        self.count.hit("fault: gpu sick");
        self.note(|| format!("fault: {uuid} is sick"));
        self.hosts[host].sick.insert(uuid);
        if self.rng.chance(50) {
            self.tell_gpus(host);
        }
        let ms = *self.rng.pick(&[2_000, 20_000, 60_000]);
        self.agenda.at(self.now + ms, Due::Heal(Heal::Gpus(host)));
    }

    /// They are well.
    pub(super) fn gpus_heal(&mut self, host: usize) {
        self.hosts[host].gave_back = 0;
        if !std::mem::take(&mut self.hosts[host].sick).is_empty() {
            self.tell_gpus(host);
        }
    }
}
