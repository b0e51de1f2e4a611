//! One machine: its session, what it has, what is reserved on it, how it was last heard.
use super::activity::Activity;
use super::certificates::Certificates;
use super::gpus::Gpus;
use crate::row::MachineRow;
use reeve_protocol::AttemptId;
use reeve_protocol::resources::Resources;
use reeve_protocol::wire;
use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Attempts handed ahead of a free slot, at most.
const AHEAD_MAX: usize = 64;
/// How much work may wait on a machine ahead of a slot: several round trips of a loaded coordinator, whose machines hold
/// their words back for 5 ms each way.
const AHEAD_MS: f64 = 40.0;
/// Above this mean run time nothing is handed ahead: a round trip is small against it, and another machine may be free
/// sooner.
const AHEAD_MEAN_MS: f64 = 200.0;

/// A refused copy of a machine comes again every few seconds; it is noted once in so long.
const CLASH_MS: i64 = 600_000;

/// Attempts whose tree has ended, and whose record waits for their output. Each keeps a guardian and a spool on the
/// machine. Further ones keep their room until they are recorded, so that a disk that stays full stops the machine
/// before what it spools fills the machine's own disk.
pub const EXITED_MAX: usize = 256;

/// What an attempt holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Held {
    ask: Arc<Resources>,
    /// UUIDs of its gpus.
    pub gpus: Vec<String>,
    /// Waits in the keeper for a slot; holds nothing yet.
    pub ahead: bool,
    /// Its tree has ended and its record is not complete yet; holds nothing any more.
    pub exited: bool,
    /// What it uses, as its machine said last.
    pub activity: Activity,
}

impl Held {
    /// What it asked for.
    pub fn ask(&self) -> &Resources {
        &self.ask
    }

    /// Whether its share is taken.
    pub(super) const fn has_share(&self) -> bool {
        !self.ahead && !self.exited
    }
}

/// An open session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Its number.
    pub number: u64,
    /// The inventory has been answered: attempts may be dispatched.
    pub reconciled: bool,
    /// Where from.
    pub address: String,
}

/// A machine that has joined.
#[derive(Clone, Debug, PartialEq)]
pub struct Machine {
    /// Identity.
    pub id: Arc<str>,
    /// Name.
    pub name: Arc<str>,
    /// Its certificates.
    pub certificates: Certificates,
    /// What it said about itself.
    pub info: wire::Machine,
    /// Gets no new work.
    pub cordoned: bool,
    /// Being emptied.
    pub draining: bool,
    /// What still runs then is stopped, wall milliseconds.
    pub drain_until: Option<i64>,
    /// Removed.
    pub revoked: bool,
    /// Wall milliseconds.
    pub joined_at: i64,
    /// Its life when last heard.
    pub life: Option<String>,
    /// Its keeper when last heard.
    pub keeper: Option<String>,
    /// Its agent's version.
    pub version: String,
    /// The open session.
    pub session: Option<Session>,
    /// No beat, or no session, since (boot-time milliseconds).
    pub down_since: Option<u64>,
    /// Shown as disconnected: 10 s have passed.
    pub disconnected: bool,
    /// When something was heard last (boot-time milliseconds).
    pub heard: Option<u64>,
    /// Round trip, microseconds.
    pub rtt_us: Option<u64>,
    /// How busy it is.
    pub sample: Option<wire::Sample>,
    /// What its keeper enforces, and how, as it said last.
    pub enforced: Vec<(String, String)>,
    /// Attempts it holds that nobody here knows.
    pub orphans: u32,
    /// Something it held was taken for lost: it has to tell what runs before it is up again.
    pub must_tell: bool,
    /// When another keeper with this identity was refused last (wall milliseconds), and where it called from.
    pub clash: Option<(i64, String)>,
    /// It has seen more than this store holds.
    pub is_ahead: bool,
    /// Why nothing may start there, as it says itself.
    pub refuses: Option<String>,
    /// Pages of the inventory so far.
    pub inventory: Vec<wire::InventoryItem>,
    free: Resources,
    /// More is held than there is.
    short: bool,
    pub(super) gpus: Gpus,
    /// The gpus of attempts that were taken for lost: should one come back, it still has them.
    lost_gpus: BTreeMap<AttemptId, Vec<String>>,
    pub(super) held: BTreeMap<AttemptId, Held>,
    ahead: VecDeque<AttemptId>,
    /// Mean run time of what ended here lately, milliseconds.
    mean_ms: Option<f64>,
}

impl Machine {
    /// From its row.
    pub fn restore(row: &MachineRow) -> Self {
        let info: wire::Machine = serde_json::from_str(&row.info).unwrap_or_default();
        let mut machine = Self {
            id: row.id.as_str().into(),
            name: row.name.clone(),
            certificates: Certificates::restore(row),
            info: wire::Machine::default(),
            cordoned: row.cordoned,
            draining: row.draining,
            drain_until: row.drain_until,
            revoked: row.revoked,
            joined_at: row.joined_at,
            life: row.life.clone(),
            keeper: row.keeper.clone(),
            version: String::new(),
            session: None,
            down_since: None,
            disconnected: false,
            heard: None,
            rtt_us: None,
            sample: None,
            enforced: Vec::new(),
            orphans: 0,
            must_tell: false,
            clash: None,
            is_ahead: false,
            refuses: None,
            inventory: Vec::new(),
            free: Resources::default(),
            gpus: Gpus::default(),
            lost_gpus: BTreeMap::new(),
            held: BTreeMap::new(),
            short: false,
            ahead: VecDeque::new(),
            mean_ms: None,
        };
        machine.describe(info);
        machine
    }

    /// For the store.
    pub fn row(&self) -> MachineRow {
        MachineRow {
            id: self.id.to_string(),
            name: self.name.clone(),
            fingerprint: self.certificates.fingerprint.clone(),
            certificate_until: self.certificates.until,
            spares: self.certificates.spares.clone(),
            renewal_failed: self.certificates.failed.clone(),
            info: serde_json::to_string(&self.info).unwrap_or_default(),
            cordoned: self.cordoned,
            draining: self.draining,
            drain_until: self.drain_until,
            joined_at: self.joined_at,
            life: self.life.clone(),
            keeper: self.keeper.clone(),
            revoked: self.revoked,
        }
    }

    /// Takes what the machine says about itself; what attempts hold stays held.
    pub fn describe(&mut self, info: wire::Machine) {
        self.info = info;
        self.recount();
    }

    /// What is free from what there is and what is held.
    fn recount(&mut self) {
        self.free = self.total();
        self.gpus.set(&self.info.gpus);
        self.short = false;
        let held: Vec<_> =
            self.held.values().filter(|h| h.has_share()).map(|h| (h.ask.clone(), h.gpus.clone())).collect();
        for (ask, gpus) in held {
            self.take(&ask, &gpus);
        }
    }

    /// Takes what is asked for, or what there is of it: a machine that came back smaller holds more than it has until
    /// attempts end, and nothing underflows.
    fn take(&mut self, ask: &Resources, gpus: &[String]) {
        let has_gpus = self.gpus.take(gpus, ask.gpu_milli);
        if self.free.fits(ask) && has_gpus {
            self.free.take(ask);
            return;
        }
        self.short = true;
        self.free.cpu_milli = self.free.cpu_milli.saturating_sub(ask.cpu_milli);
        self.free.memory_bytes = self.free.memory_bytes.saturating_sub(ask.memory_bytes);
        self.free.gpu_milli = self.free.gpu_milli.saturating_sub(ask.gpu_milli);
        for (name, n) in &ask.named {
            if let Some(free) = self.free.named.get_mut(name) {
                *free = free.saturating_sub(*n);
            }
        }
    }

    /// Another keeper with this identity was refused. True if that was not so in the last ten minutes.
    pub fn clash(&mut self, wall: i64, address: &str) -> bool {
        let known = self.is_cloned(wall);
        self.clash = Some((wall, address.to_owned()));
        !known
    }

    /// Whether a copy of it has called in the last ten minutes.
    pub fn is_cloned(&self, wall: i64) -> bool {
        self.clash.as_ref().is_some_and(|(at, _)| wall - at <= CLASH_MS)
    }

    /// Everything it has.
    pub fn total(&self) -> Resources {
        total(&self.info)
    }

    /// What is not reserved.
    pub const fn free(&self) -> &Resources {
        &self.free
    }

    /// Its gpus.
    pub const fn gpus(&self) -> &Gpus {
        &self.gpus
    }

    /// What it says about its gpus. The names of those whose quarantine has begun (true) or ended.
    pub fn tell_gpus(&mut self, told: Vec<wire::Gpu>) -> Vec<(String, bool)> {
        self.gpus.tell(told)
    }

    /// Whether there is room for this now.
    pub fn fits(&self, ask: &Resources) -> bool {
        self.free.fits(ask) && (ask.gpu_milli == 0 || self.gpus.choose(ask.gpu_milli).is_some())
    }

    /// What attempts hold here.
    pub const fn held(&self) -> &BTreeMap<AttemptId, Held> {
        &self.held
    }

    /// The session that attempts may be sent to.
    pub fn ready_session(&self) -> Option<u64> {
        self.session.as_ref().filter(|s| s.reconciled).map(|s| s.number)
    }

    /// Why it gets nothing new, in words.
    ///
    /// # Errors
    /// The reason.
    pub fn accepts(&self) -> Result<(), Cow<'static, str>> {
        if self.revoked {
            Err("was removed".into())
        } else if self.session.is_none() || self.down_since.is_some() {
            Err("is not connected".into())
        } else if self.ready_session().is_none() {
            Err("is telling what it runs".into())
        } else if self.draining {
            Err("is draining".into())
        } else if self.cordoned {
            Err("is cordoned".into())
        } else if !self.info.keeper {
            Err("has no keeper".into())
        } else if let Some(why) = &self.refuses {
            Err(format!("takes no jobs: {why}").into())
        } else {
            Ok(())
        }
    }

    /// Reserves. An attempt that does not fit any more is held all the same (it runs).
    pub fn reserve(&mut self, attempt: AttemptId, ask: Arc<Resources>, gpus: Vec<String>, ahead: bool) {
        if ahead {
            self.ahead.push_back(attempt);
        } else {
            self.take(&ask, &gpus);
        }
        self.held.insert(attempt, Held { ask, gpus, ahead, exited: false, activity: Activity::default() });
    }

    /// Gives back what an attempt holds that is taken for lost; its gpus are remembered.
    pub fn lose(&mut self, attempt: AttemptId) {
        let gpus = self.held.get(&attempt).map(|held| held.gpus.clone()).unwrap_or_default();
        self.release(attempt);
        self.remember_lost(attempt, gpus);
    }

    /// The gpus of an attempt that is taken for lost.
    pub fn remember_lost(&mut self, attempt: AttemptId, gpus: Vec<String>) {
        if !gpus.is_empty() {
            self.lost_gpus.insert(attempt, gpus);
        }
    }

    /// Holds an attempt again that was taken for lost.
    pub fn take_back(&mut self, attempt: AttemptId, ask: Arc<Resources>) {
        let gpus = self.lost_gpus.remove(&attempt).unwrap_or_default();
        self.reserve(attempt, ask, gpus, false);
    }

    /// Gives back, and promotes what waits ahead in the order the keeper starts it.
    pub fn release(&mut self, attempt: AttemptId) -> bool {
        self.lost_gpus.remove(&attempt);
        let Some(held) = self.held.remove(&attempt) else { return false };
        if held.ahead {
            self.ahead.retain(|a| *a != attempt);
        } else if !held.exited {
            self.give_back(&held);
        }
        true
    }

    /// Its tree has ended, its record is not complete: what it holds is free, and is not given back again when it is
    /// released. False: it holds nothing, or so many wait to be recorded that this one keeps its room.
    pub fn exit(&mut self, attempt: AttemptId) -> bool {
        let many = self.exited() >= EXITED_MAX;
        let Some(held) = self.held.get_mut(&attempt).filter(|h| !h.exited && !many) else { return false };
        held.exited = true;
        if std::mem::take(&mut held.ahead) {
            self.ahead.retain(|a| *a != attempt);
        } else {
            let held = held.clone();
            self.give_back(&held);
        }
        true
    }

    /// How many have ended and wait to be recorded.
    pub fn exited(&self) -> usize {
        self.held.values().filter(|h| h.exited).count()
    }

    /// Of an attempt that is no longer counted among those with a share.
    fn give_back(&mut self, held: &Held) {
        if self.short {
            // What it got may have been less than it asked for.
            self.recount();
        } else {
            self.free.give(&held.ask);
            self.gpus.give(&held.gpus, held.ask.gpu_milli);
        }
        self.promote();
    }

    /// The keeper has told which attempts wait there, in their order. Of those that hold more than there is the last wait
    /// ahead of a slot: they hold nothing, and are taken back when they wait long. Where what was handed ahead is not
    /// known any more, nobody else would.
    pub fn wait_ahead(&mut self, waiting: &[AttemptId]) {
        self.recount();
        for attempt in waiting.iter().rev() {
            let plain = |h: &&mut Held| h.has_share() && h.gpus.is_empty() && h.ask.named.is_empty();
            let Some(held) = self.held.get_mut(attempt).filter(|_| self.short).filter(plain) else {
                continue;
            };
            held.ahead = true;
            self.ahead.push_front(*attempt);
            self.recount();
        }
    }

    /// What waits ahead of a slot.
    pub fn waiting_ahead(&self) -> impl Iterator<Item = AttemptId> {
        self.ahead.iter().copied()
    }

    /// An attempt handed ahead has started: it holds its share from now on.
    pub fn started(&mut self, attempt: AttemptId) {
        if let Some(held) = self.held.get_mut(&attempt).filter(|h| h.ahead) {
            held.ahead = false;
            let ask = held.ask.clone();
            self.ahead.retain(|a| *a != attempt);
            self.take(&ask, &[]);
        }
    }

    /// Learns how long things run here.
    pub fn learn(&mut self, run_ms: f64) {
        self.mean_ms = Some(self.mean_ms.map_or(run_ms, |mean| mean * 0.9 + run_ms * 0.1));
    }

    /// What was handed ahead has waited in vain: what runs here now is not short, whatever has ended before.
    pub const fn waited_in_vain(&mut self) {
        if let Some(mean) = self.mean_ms {
            self.mean_ms = Some(mean.max(AHEAD_MEAN_MS));
        }
    }

    /// How many more attempts may be handed ahead: none for jobs that run long; for short ones as many as end within
    /// [`AHEAD_MS`].
    pub fn ahead_room(&self) -> usize {
        let Some(mean) = self.mean_ms.filter(|m| *m < AHEAD_MEAN_MS) else { return 0 };
        let slots = f64::from(self.info.cpu_milli) / 1000.0;
        let wanted = (slots * AHEAD_MS / mean.max(0.5)).ceil() as usize;
        wanted.clamp(1, AHEAD_MAX).saturating_sub(self.ahead.len())
    }

    /// How many wait ahead.
    pub fn ahead_len(&self) -> usize {
        self.ahead.len()
    }

    /// Forgets everything held: the machine's life is over.
    pub fn clear(&mut self) -> Vec<AttemptId> {
        let all: Vec<_> = self.held.keys().copied().collect();
        for attempt in &all {
            self.release(*attempt);
        }
        all
    }

    fn promote(&mut self) {
        while let Some(first) = self.ahead.front().copied() {
            let Some(held) = self.held.get_mut(&first) else {
                self.ahead.pop_front();
                continue;
            };
            if !self.free.fits(&held.ask) {
                break;
            }
            held.ahead = false;
            self.free.take(&held.ask);
            self.ahead.pop_front();
        }
    }

    /// What is free is all there is but what attempts hold; of a machine that holds more than it has, nothing.
    pub fn check(&self, wrong: &mut Vec<String>) {
        let mut taken = Resources::default();
        for held in self.held.values().filter(|h| h.has_share()) {
            taken.give(&held.ask);
        }
        let total = self.total();
        let free = (
            total.cpu_milli.saturating_sub(taken.cpu_milli),
            total.memory_bytes.saturating_sub(taken.memory_bytes),
            total.gpu_milli.saturating_sub(taken.gpu_milli),
        );
        if free != (self.free.cpu_milli, self.free.memory_bytes, self.free.gpu_milli) {
            wrong.push(format!(
                "machine {} says {:?} is free of {total:?}, and {taken:?} is held",
                self.name, self.free
            ));
        }
        for device in self.gpus.devices() {
            let share = |held: &Held| held.ask.gpu_milli.min(super::gpus::WHOLE);
            let holders = self.held.values().filter(|h| h.has_share() && h.gpus.contains(&device.uuid));
            let held: u32 = holders.map(share).sum();
            if device.free != super::gpus::WHOLE.saturating_sub(held) {
                wrong.push(format!(
                    "{} of {} has {} free and {held} held",
                    device.uuid, self.name, device.free
                ));
            }
        }
    }

    /// The word shown.
    pub fn state(&self) -> &'static str {
        if self.revoked {
            "removed"
        } else if self.heard.is_none() && self.session.is_none() {
            "offline"
        } else if self.disconnected || self.session.is_none() {
            "disconnected"
        } else if self.draining && self.held.is_empty() {
            "drained"
        } else if self.draining {
            "draining"
        } else if self.cordoned {
            "cordoned"
        } else {
            "up"
        }
    }
}

fn total(info: &wire::Machine) -> Resources {
    Resources {
        cpu_milli: info.cpu_milli,
        memory_bytes: info.memory_bytes,
        gpu_milli: info.gpus.len() as u32 * super::gpus::WHOLE,
        named: info.named.iter().cloned().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reeve_protocol::TaskId;

    fn machine() -> Machine {
        let row =
            MachineRow { id: "m".into(), name: "m".into(), fingerprint: "f".into(), ..MachineRow::default() };
        let mut machine = Machine::restore(&row);
        machine.describe(wire::Machine {
            cpu_milli: 2000,
            memory_bytes: 100,
            gpus: vec!["a".into(), "b".into()],
            ..Default::default()
        });
        machine
    }

    fn ask(cpu_milli: u32, gpus: u32) -> Arc<Resources> {
        Arc::new(Resources { cpu_milli, gpu_milli: gpus * 1000, ..Resources::default() })
    }

    #[test]
    fn gpus_are_given_by_uuid_and_come_back() {
        let mut m = machine();
        let (one, two) = (TaskId::single(1).attempt(1), TaskId::single(2).attempt(1));
        let give = |m: &mut Machine, attempt| {
            let gpus = m.gpus().choose(1000).unwrap();
            m.reserve(attempt, ask(0, 1), gpus.clone(), false);
            gpus
        };
        let first = give(&mut m, one);
        let second = give(&mut m, two);
        assert_ne!(first, second);
        assert_eq!((m.free().gpu_milli, m.gpus().choose(1)), (0, None));
        assert!(m.release(one) && !m.release(one));
        assert_eq!(give(&mut m, one), first);
    }

    #[test]
    fn what_waits_ahead_takes_the_place_of_what_ends_in_order() {
        let mut m = machine();
        let ids: Vec<_> = (1..=5).map(|i| TaskId::single(i).attempt(1)).collect();
        m.reserve(ids[0], ask(1000, 0), Vec::new(), false);
        m.reserve(ids[1], ask(1000, 0), Vec::new(), false);
        for id in &ids[2..] {
            m.reserve(*id, ask(1000, 0), Vec::new(), true);
        }
        m.release(ids[0]);
        assert!(!m.held()[&ids[2]].ahead && m.held()[&ids[3]].ahead);
        m.release(ids[3]);
        m.release(ids[1]);
        assert!(!m.held()[&ids[4]].ahead);
        m.release(ids[2]);
        m.release(ids[4]);
        assert_eq!(m.free().cpu_milli, 2000);
    }

    #[test]
    fn what_has_exited_gives_its_room_back_exactly_once() {
        let mut m = machine();
        let ids: Vec<_> = (1..=4).map(|i| TaskId::single(i).attempt(1)).collect();
        let gpus = m.gpus().choose(1000).unwrap_or_default();
        m.reserve(ids[0], ask(1000, 1), gpus, false);
        let gpus = m.gpus().choose(1000).unwrap_or_default();
        m.reserve(ids[1], ask(1000, 1), gpus, false);
        m.reserve(ids[2], ask(1000, 0), Vec::new(), true);
        m.reserve(ids[3], ask(1000, 0), Vec::new(), true);
        assert!(m.exit(ids[0]) && !m.exit(ids[0]) && !m.exit(TaskId::single(9).attempt(1)));
        assert!(!m.held()[&ids[2]].ahead, "who waited ahead has its place");
        assert!(m.exit(ids[3]), "one that was short enough was never seen to start");
        assert_eq!((m.free().cpu_milli, m.free().gpu_milli, m.exited(), m.ahead_len()), (0, 1000, 2, 0));
        assert!(m.release(ids[0]) && m.release(ids[3]));
        assert_eq!((m.free().cpu_milli, m.free().gpu_milli), (0, 1000));
        m.describe(wire::Machine { cpu_milli: 1000, ..Default::default() });
        assert!(m.exit(ids[1]) && m.release(ids[1]) && m.release(ids[2]));
        assert_eq!(m.free().cpu_milli, 1000);
        let mut wrong = Vec::new();
        m.check(&mut wrong);
        assert_eq!(wrong, Vec::<String>::new());
    }

    #[test]
    fn only_so_many_ends_pile_up_before_room_is_kept() {
        let mut m = machine();
        let ids: Vec<_> = (0..=EXITED_MAX as u64).map(|i| TaskId::single(i + 1).attempt(1)).collect();
        for id in &ids {
            m.reserve(*id, ask(1, 0), Vec::new(), false);
        }
        assert!(ids[..EXITED_MAX].iter().all(|id| m.exit(*id)) && !m.exit(ids[EXITED_MAX]));
        assert_eq!(m.free().cpu_milli, 1999);
        m.release(ids[0]);
        assert!(m.exit(ids[EXITED_MAX]));
    }

    #[test]
    fn what_waits_in_a_keeper_beyond_what_there_is_holds_nothing() {
        let mut m = machine();
        let ids: Vec<AttemptId> = (1..=4).map(|job| TaskId::single(job).attempt(1)).collect();
        let ask = |cpu_milli| Arc::new(Resources { cpu_milli, ..Resources::default() });
        let total = m.total().cpu_milli;
        for (id, cpus) in ids.iter().zip([total / 2, total / 2, total / 2, total / 2]) {
            m.reserve(*id, ask(cpus), vec![], false);
        }
        m.wait_ahead(&ids[1..]);
        let ahead: Vec<AttemptId> = m.waiting_ahead().collect();
        assert_eq!((ahead, m.free().cpu_milli), (ids[2..].to_vec(), 0));
        m.wait_ahead(&ids[1..]);
        assert_eq!(m.ahead_len(), 2, "told again, nothing changes");
        m.release(ids[0]);
        assert!(!m.held()[&ids[2]].ahead && m.held()[&ids[3]].ahead, "in the keeper's order");
        let mut wrong = Vec::new();
        m.check(&mut wrong);
        assert_eq!(wrong, Vec::<String>::new());
    }

    #[test]
    fn only_short_jobs_are_handed_ahead() {
        let mut m = machine();
        assert_eq!(m.ahead_room(), 0);
        m.learn(1.0);
        assert_eq!(m.ahead_room(), AHEAD_MAX);
        m.waited_in_vain();
        assert_eq!(m.ahead_room(), 0);
        m.learn(1.0);
        assert_eq!(m.ahead_room(), 1, "it begins again, carefully");
        for _ in 0..200 {
            m.learn(5000.0);
        }
        assert_eq!(m.ahead_room(), 0);
    }

    #[test]
    fn what_one_of_many_gives_back_is_no_room_while_the_others_hold_more_than_there_is() {
        let mut m = machine();
        let ids: Vec<_> = (1..=3).map(|i| TaskId::single(i).attempt(1)).collect();
        m.reserve(ids[0], ask(1000, 0), Vec::new(), false);
        m.reserve(ids[1], ask(1000, 0), Vec::new(), false);
        m.describe(wire::Machine { cpu_milli: 1000, ..Default::default() });
        m.release(ids[0]);
        assert_eq!(m.free().cpu_milli, 0, "the other holds all there is");
        m.reserve(ids[2], ask(1000, 0), Vec::new(), false);
        m.release(ids[2]);
        assert_eq!(m.free().cpu_milli, 0);
        m.release(ids[1]);
        assert_eq!(m.free().cpu_milli, 1000);
    }

    #[test]
    fn a_machine_that_comes_back_smaller_never_has_negative_room() {
        let mut m = machine();
        let one = TaskId::single(1).attempt(1);
        m.reserve(one, ask(2000, 2), vec!["a".into(), "b".into()], false);
        m.describe(wire::Machine { cpu_milli: 1000, ..Default::default() });
        assert_eq!(m.free().cpu_milli, 0);
        m.release(one);
        assert_eq!((m.free().cpu_milli, m.free().gpu_milli), (1000, 0));
    }
}
