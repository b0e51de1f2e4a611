//! Static workers as they are kept: what was launched, its replicas, who works on what. Data and choice; what follows from
//! a change is in `replicas` and `requests`.
use super::Changes;
use super::scaling::Load;
use crate::input::Ticket;
use crate::row::{DeploymentRow, WorkerRow};
use reeve_protocol::api::{QUEUE_FACTOR, ReplicaView, Serving};
use reeve_protocol::wire::{RequestId, replica_phase as phase};
use reeve_protocol::{AttemptId, JobId, JobSpec, TaskId};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

/// A replica is kept free for so long after a job that goes alone asked for one: it asks again whenever something was answered.
pub(super) const CLEARING_MS: u64 = 10_000;

/// Names a request: a tracked job, a call, or a call of a life before, by its number on the wire. Jobs are retried, calls are
/// answered; nobody waits for a call of a life before, but it takes its place until the replica has answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Key {
    Job(AttemptId),
    Call(Ticket),
    Old(u64),
}

/// A call that waits for a replica.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    pub(super) ticket: Ticket,
    pub(super) payload: Arc<[u8]>,
    /// Since when it waits, and until when: boot-time milliseconds.
    pub(super) since: u64,
    pub(super) until: u64,
}

/// A request that a replica works on.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ongoing {
    /// Nobody waits for it any more; it takes its place until the replica has answered.
    pub(super) abandoned: bool,
    /// When nobody will wait any more, boot-time milliseconds; abandoned: when the replica counts as hung.
    pub(super) until: Option<u64>,
}

/// One replica: a job of the queue of replicas that lives.
#[derive(Clone, Debug)]
pub(super) struct Replica {
    pub(super) job: JobId,
    /// Its current attempt; 0 before the first.
    pub(super) attempt: u32,
    pub(super) number: u32,
    pub(super) version: u32,
    /// The machines that were asked for when it was made.
    pub(super) on: Vec<String>,
    /// Identity of its machine, and the session in which it was told to be ready.
    pub(super) machine: Option<Arc<str>>,
    pub(super) session: u64,
    pub(super) phase: u16,
    pub(super) fraction: Option<f64>,
    pub(super) message: Option<String>,
    /// When it last said something new (boot-time milliseconds).
    pub(super) since: u64,
    /// Since when it takes requests.
    pub(super) ready_since: Option<u64>,
    /// What it works on is a job that has nobody beside it.
    pub(super) is_alone: bool,
    /// It takes nothing new, since then.
    pub(super) draining: Option<u64>,
    pub(super) requests: BTreeMap<Key, Ongoing>,
    pub(super) answered: u64,
    /// Why it ended last.
    pub(super) reason: Option<String>,
    /// The last line of what it wrote, while its end is being noted.
    pub(super) last_words: Option<String>,
}

impl Replica {
    pub(super) fn new(job: JobId, number: u32, version: u32, on: Vec<String>, now: u64) -> Self {
        Self {
            job,
            attempt: 0,
            number,
            version,
            on,
            machine: None,
            session: 0,
            phase: phase::STARTING,
            fraction: None,
            message: None,
            since: now,
            ready_since: None,
            is_alone: false,
            draining: None,
            requests: BTreeMap::new(),
            answered: 0,
            reason: None,
            last_words: None,
        }
    }

    /// Its current attempt.
    pub(super) const fn id(&self) -> AttemptId {
        TaskId::single(self.job).attempt(self.attempt)
    }

    /// Another attempt, or none: nothing of the one before counts.
    pub(super) fn renew(&mut self, now: u64) {
        self.phase = phase::STARTING;
        (self.fraction, self.message, self.ready_since) = (None, None, None);
        (self.session, self.since) = (0, now);
    }

    pub(super) const fn is_ready(&self) -> bool {
        self.phase == phase::READY && self.draining.is_none()
    }
}

/// A static worker that was launched once.
#[derive(Clone, Debug)]
pub(super) struct Deployment {
    pub(super) row: DeploymentRow,
    /// The registration that was launched last: the newest one may be another. `None` only if it was removed.
    pub(super) recipe: Option<WorkerRow>,
    pub(super) serving: Serving,
    /// How versions before were launched that still have replicas; after a restart, how they were registered.
    earlier: BTreeMap<u32, Serving>,
    pub(super) load: Load,
    pub(super) replicas: BTreeMap<JobId, Replica>,
    /// Calls that wait for a replica, first come first served.
    pub(super) calls: VecDeque<Waiting>,
    /// When somebody stops waiting, or a replica counts as hung: boot-time milliseconds.
    pub(super) deadlines: BTreeSet<(u64, Key)>,
    /// What is armed for the first of them.
    pub(super) armed: Option<u64>,
    pub(super) rate: Changes,
    /// This replica becomes free for a job that goes alone, until then (boot-time milliseconds).
    pub(super) clearing: Option<(JobId, u64)>,
    /// Why what is wanted cannot be had.
    pub(super) reason: Option<String>,
}

impl Deployment {
    pub(super) fn new(row: DeploymentRow, recipe: Option<WorkerRow>, now: u64) -> Self {
        Self {
            serving: serde_json::from_str(&row.serving).unwrap_or_default(),
            row,
            recipe,
            earlier: BTreeMap::new(),
            load: Load::new(now),
            replicas: BTreeMap::new(),
            calls: VecDeque::new(),
            deadlines: BTreeSet::new(),
            armed: None,
            rate: Changes::default(),
            clearing: None,
            reason: None,
        }
    }

    /// How replicas of a version are spoken to.
    pub(super) fn serving_of(&self, version: u32) -> &Serving {
        self.earlier.get(&version).filter(|_| version != self.row.version).unwrap_or(&self.serving)
    }

    /// The replica with the fewest requests that may take another one; of several the one that has answered least. Nothing
    /// goes beside a job that is alone, nor to the replica that becomes free for one.
    pub(super) fn choose(&self, now: u64, reachable: impl Fn(&Replica) -> bool) -> Option<JobId> {
        let clearing = self.clearing.filter(|_| self.is_clearing(now)).map(|(job, _)| job);
        self.replicas
            .values()
            .filter(|r| {
                r.is_ready()
                    && r.requests.len() < self.serving_of(r.version).ongoing()
                    && (!r.is_alone || r.requests.is_empty())
                    && clearing != Some(r.job)
                    && reachable(r)
            })
            .min_by_key(|r| (r.requests.len(), r.answered))
            .map(|r| r.job)
    }

    /// Whether a replica is kept free.
    pub(super) fn is_clearing(&self, now: u64) -> bool {
        self.clearing.is_some_and(|(_, until)| until > now)
    }

    /// A replica that works on nothing, for a job that goes alone. There is none: the one that will be soonest is kept free.
    pub(super) fn choose_free(&mut self, now: u64, reachable: impl Fn(&Replica) -> bool) -> Option<JobId> {
        let usable = |r: &&Replica| r.is_ready() && reachable(r);
        let least = self.replicas.values().filter(usable).min_by_key(|r| (r.requests.len(), r.answered))?;
        let job = least.job;
        if least.requests.is_empty() {
            self.clearing = None;
            return Some(job);
        }
        let kept = self.clearing.is_some_and(|(job, _)| self.replicas.get(&job).is_some_and(|r| usable(&r)));
        let kept = self.clearing.filter(|_| kept).map_or(job, |(job, _)| job);
        self.clearing = Some((kept, now + CLEARING_MS));
        None
    }

    /// Whether there are replicas, or will be when somebody asks.
    pub(super) fn may_serve(&self) -> bool {
        self.row.replicas > 0 || self.serving.range().is_some()
    }

    /// The commit that its replicas run, of a worker from git.
    pub(super) fn commit(&self) -> Option<String> {
        let spec = || serde_json::from_str::<JobSpec>(&self.recipe.as_ref()?.spec).ok()?.git?.commit;
        self.row.commit.clone().or_else(spec)
    }

    /// Whether it comes from git, and which commit its ref names is not known yet.
    pub(super) fn awaits_commit(&self) -> bool {
        let spec = || serde_json::from_str::<JobSpec>(&self.recipe.as_ref()?.spec).ok();
        self.row.commit.is_none() && spec().and_then(|s| s.git).is_some_and(|git| git.commit.is_none())
    }

    /// Calls that may wait.
    pub(super) fn bound(&self) -> usize {
        let most = self.serving.range().map_or(0, |range| range.most);
        QUEUE_FACTOR as usize * self.serving.ongoing() * self.row.replicas.max(most).max(1) as usize
    }

    /// Whether no further call may wait. Calls of one batch are handed out together after all of them were heard: those
    /// that a replica has a place for do not wait.
    pub(super) fn is_full(&self) -> bool {
        let ready = self.replicas.values().filter(|r| r.is_ready());
        let open: usize =
            ready.map(|r| self.serving_of(r.version).ongoing().saturating_sub(r.requests.len())).sum();
        self.calls.len() >= self.bound() + open
    }

    /// Whether a replica is what was launched last.
    pub(super) fn is_current(&self, replica: &Replica) -> bool {
        replica.version == self.row.version && replica.on == self.row.on
    }

    /// The smallest number that no replica has.
    pub(super) fn free_number(&self) -> u32 {
        let taken: BTreeSet<u32> = self.replicas.values().map(|r| r.number).collect();
        (1..=taken.len() as u32 + 1).find(|n| !taken.contains(n)).unwrap_or(0)
    }

    /// Requests that replicas work on.
    pub(super) fn outstanding(&self) -> u64 {
        self.replicas.values().map(|r| r.requests.len() as u64).sum()
    }
}

/// Every static worker that was launched once.
#[derive(Clone, Debug, Default)]
pub(super) struct Deployments {
    list: BTreeMap<String, Deployment>,
    by_job: HashMap<JobId, String>,
    /// Whose replicas have to be looked at before this step ends.
    pub(super) dirty: BTreeSet<String>,
    /// Whose calls may find a replica in this step.
    pub(super) eager: BTreeSet<String>,
    /// Attempts of replicas that are over, with what they worked on: it has to go elsewhere before this step ends.
    pub(super) over: Vec<(AttemptId, BTreeMap<Key, Ongoing>)>,
    /// Machines whose replicas may work on something that this session has not told yet: they get nothing before.
    pub(super) untold: BTreeSet<Arc<str>>,
    /// Requests that nobody waits for any more, to be told to machines before this step ends.
    pub(super) cancels: Vec<(Arc<str>, AttemptId, RequestId)>,
}

impl Deployments {
    pub(super) fn get(&self, name: &str) -> Option<&Deployment> {
        self.list.get(name)
    }

    pub(super) fn get_mut(&mut self, name: &str) -> Option<&mut Deployment> {
        self.list.get_mut(name)
    }

    /// Whether this step has to do with any of them.
    pub(super) fn is_any_to_look_at(&self) -> bool {
        !(self.over.is_empty() && self.dirty.is_empty() && self.eager.is_empty())
    }

    /// All of them are to be looked at before this step ends.
    pub(super) fn look_at_all(&mut self) {
        self.dirty.extend(self.list.keys().cloned());
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Deployment> {
        self.list.values_mut()
    }

    /// Takes one in, or changes what is wanted of it.
    pub(super) fn put(&mut self, row: DeploymentRow, recipe: Option<WorkerRow>, now: u64) {
        self.dirty.insert(row.worker.clone());
        let new = Deployment::new(row, recipe, now);
        match self.list.get_mut(&new.row.worker) {
            Some(known) => {
                if known.row.version != new.row.version {
                    known.earlier.retain(|version, _| known.replicas.values().any(|r| r.version == *version));
                    known.earlier.insert(known.row.version, known.serving.clone());
                }
                (known.row, known.recipe, known.serving, known.load) =
                    (new.row, new.recipe, new.serving, new.load);
            }
            None => drop(self.list.insert(new.row.worker.clone(), new)),
        }
    }

    /// There may be replicas that were made from this registration.
    pub(super) fn remember(&mut self, row: &WorkerRow) {
        let serving = row.serving.as_deref().and_then(|text| serde_json::from_str(text).ok());
        if let Some(deployment) = self.list.get_mut(&row.name) {
            deployment.earlier.insert(row.version, serving.unwrap_or_default());
        }
    }

    pub(super) fn add(&mut self, name: &str, replica: Replica) {
        if let Some(deployment) = self.list.get_mut(name) {
            self.by_job.insert(replica.job, name.to_owned());
            deployment.replicas.insert(replica.job, replica);
        }
    }

    /// A replica's job has ended.
    pub(super) fn remove(&mut self, job: JobId) {
        if let Some(name) = self.by_job.remove(&job)
            && let Some(deployment) = self.list.get_mut(&name)
        {
            deployment.replicas.remove(&job);
            self.dirty.insert(name);
        }
    }

    /// The worker that a job is a replica of.
    pub(super) fn worker_of(&self, job: JobId) -> Option<&str> {
        self.by_job.get(&job).map(String::as_str)
    }

    pub(super) fn replica(&self, job: JobId) -> Option<&Replica> {
        self.list.get(self.by_job.get(&job)?)?.replicas.get(&job)
    }

    pub(super) fn replica_mut(&mut self, job: JobId) -> Option<&mut Replica> {
        self.list.get_mut(self.by_job.get(&job)?)?.replicas.get_mut(&job)
    }

    /// The deployment that a job is a replica of.
    pub(super) fn of_mut(&mut self, job: JobId) -> Option<&mut Deployment> {
        self.list.get_mut(self.by_job.get(&job)?)
    }

    /// Replicas on a machine.
    pub(super) fn on_machine(&self, machine: &str) -> Vec<JobId> {
        let all = self.list.values().flat_map(|d| d.replicas.values());
        all.filter(|r| r.machine.as_deref() == Some(machine)).map(|r| r.job).collect()
    }
}

/// The word for a phase that a machine told.
pub(super) const fn word(code: u16) -> &'static str {
    match code {
        phase::STARTING => "starting",
        phase::LOADING => "loading",
        phase::WARMING => "warming",
        phase::READY => "ready",
        phase::UNREADY => "unready",
        _ => "failed",
    }
}

/// The worker as a whole, from its replicas.
pub(super) fn summary(desired: u32, may_unload: bool, replicas: &[ReplicaView]) -> &'static str {
    let any = |word: &str| replicas.iter().any(|r| r.phase == word);
    if replicas.is_empty() {
        return match desired {
            0 if may_unload => "unloaded",
            0 => "stopped",
            _ => "starting",
        };
    }
    ["ready", "warming", "loading", "failed", "unconfirmed", "unready", "starting", "draining"]
        .into_iter()
        .find(|word| any(word))
        .unwrap_or("starting")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment(ongoing: u32, requests: &[usize]) -> Deployment {
        let row =
            DeploymentRow { worker: "w".into(), replicas: requests.len() as u32, ..DeploymentRow::default() };
        let mut d = Deployment::new(row, None, 0);
        d.serving = Serving { max_ongoing: Some(ongoing), ..Serving::default() };
        for (at, n) in requests.iter().enumerate() {
            let mut replica = Replica::new(at as u64 + 1, d.free_number(), 1, vec![], 0);
            replica.phase = phase::READY;
            replica.requests = (0..*n as u64).map(|t| (Key::Call(t), Ongoing::default())).collect();
            d.replicas.insert(replica.job, replica);
        }
        d
    }

    #[test]
    fn the_least_loaded_ready_and_reachable_replica_with_room_is_chosen() {
        let mut d = deployment(3, &[2, 1, 3]);
        assert_eq!(d.choose(0, |_| true), Some(2));
        assert_eq!(d.choose(0, |r| r.job != 2), Some(1));
        d.replicas.get_mut(&2).unwrap().draining = Some(1);
        assert_eq!(d.choose(0, |_| true), Some(1));
        d.replicas.get_mut(&1).unwrap().phase = phase::UNREADY;
        assert_eq!(d.choose(0, |_| true), None, "the third is full");
        assert_eq!((d.outstanding(), d.bound()), (6, 36));
    }

    #[test]
    fn of_equals_the_one_that_has_answered_least() {
        let mut d = deployment(1, &[0, 0]);
        d.replicas.get_mut(&1).unwrap().answered = 5;
        assert_eq!(d.choose(0, |_| true), Some(2));
    }

    #[test]
    fn a_job_that_goes_alone_gets_a_replica_that_becomes_free_and_nobody_beside_it() {
        let mut d = deployment(3, &[2, 1]);
        assert_eq!(d.choose_free(0, |_| true), None);
        assert_eq!(d.choose(0, |_| true), Some(1), "the second becomes free");
        d.replicas.get_mut(&1).unwrap().requests.clear();
        assert_eq!(d.choose(CLEARING_MS, |r| r.job == 2), Some(2), "nobody asked any more");
        assert_eq!(d.choose_free(0, |_| true), Some(1));
        let first = d.replicas.get_mut(&1).unwrap();
        first.requests.insert(Key::Old(1), Ongoing::default());
        first.is_alone = true;
        assert_eq!(d.choose(0, |_| true), Some(2));
        assert_eq!(d.choose(0, |r| r.job == 1), None);
        d.replicas.get_mut(&1).unwrap().requests.clear();
        assert_eq!(d.choose(0, |r| r.job == 1), Some(1));
    }

    #[test]
    fn numbers_are_used_again_and_the_whole_is_as_good_as_its_best() {
        let mut d = deployment(1, &[0, 0, 0]);
        d.replicas.remove(&2);
        assert_eq!(d.free_number(), 2);
        let view = |phase: &str| ReplicaView { phase: phase.to_owned(), ..ReplicaView::default() };
        assert_eq!(summary(2, false, &[view("failed"), view("ready")]), "ready");
        assert_eq!(summary(2, true, &[view("failed"), view("starting")]), "failed");
        let none = [summary(0, false, &[]), summary(0, true, &[]), summary(1, true, &[])];
        assert_eq!(none, ["stopped", "unloaded", "starting"]);
    }
}
