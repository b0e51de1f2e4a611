//! Static workers in a simulated run: what people do with them, and what must hold of replicas and of what they are asked.
use super::Options;
use super::agenda::Due;
use super::clients::Action;
use super::rng::Rng;
use super::world::World;
use reeve_coordinator::core::Core;
use reeve_coordinator::effect::{Effect, Reply, Step};
use reeve_coordinator::input::{Call, Input, Scale};
use reeve_coordinator::row::Caller;
use reeve_protocol::JobSpec;
use reeve_protocol::api::{LaunchRequest, Serving, WorkerRequest, WorkerStatus, WorkerView};
use reeve_protocol::resources::ResourceAsk;
use reeve_protocol::spec::LostAfter;

/// Workers, and how many requests one of their replicas may have.
const WORKERS: [(&str, u32); 3] = [("bank", 3), ("tiny", 1), (AUTO, 2)];
/// The one whose number of replicas follows its load.
const AUTO: &str = "auto";
/// The version that all of them have in the end: whatever they are then is replaced, with nothing else to do.
const LAST: u64 = 100;
/// Replicas that anybody asks for: with all of them the large machine has room for every job of the drain.
const REPLICAS: u64 = 3;

/// How many requests a replica of a worker may have.
pub(super) fn most(worker: &str) -> usize {
    WORKERS.iter().find(|(name, _)| *name == worker).map_or(0, |(_, most)| *most as usize)
}

fn register(name: &str, ongoing: u32, version: u64) -> Call {
    let spec = JobSpec {
        command: Some(vec![name.to_owned(), version.to_string()]),
        resources: ResourceAsk { cpus: Some(0.25), ..ResourceAsk::default() },
        lost_after_s: Some(LostAfter::Seconds(20.0)),
        grace_s: Some(3.0),
        ..JobSpec::default()
    };
    let mut serving = Serving { max_ongoing: Some(ongoing), ..Serving::default() };
    if name == AUTO {
        (serving.min, serving.max) = (Some((version % 2) as u32), Some(2));
        (serving.scale_up_wait_s, serving.scale_down_after_s) = (Some(0.5), Some(10.0));
        serving.idle_unload_s = version.is_multiple_of(3).then_some(20.0);
    }
    let request = WorkerRequest {
        kind: Some("static".to_owned()),
        spec,
        serving: Some(serving),
        ..WorkerRequest::default()
    };
    Call::RegisterWorker { name: name.to_owned(), request: Box::new(request) }
}

fn launch(name: &str, replicas: Option<u32>) -> Call {
    let request = LaunchRequest { replicas, ..LaunchRequest::default() };
    Call::LaunchWorker { name: name.to_owned(), request: Box::new(request) }
}

/// A job for a static worker.
pub(super) fn tracked(rng: &mut Rng) -> JobSpec {
    let (name, _) = *rng.pick(&WORKERS);
    JobSpec {
        worker: Some(name.to_owned()),
        payload: Some(1.into()),
        retries: rng.chance(50).then(|| rng.range(0, 3) as u32),
        timeout_s: rng.chance(40).then(|| rng.range(1, 40) as f64),
        delay_s: rng.chance(10).then(|| rng.range(1, 60) as f64),
        priority: rng.range(0, 2) as i32,
        hold: rng.chance(5),
        ..JobSpec::default()
    }
}

/// Somebody does something with a worker.
pub(super) fn worker_call(rng: &mut Rng) -> Call {
    let (name, ongoing) = *rng.pick(&WORKERS);
    match rng.weighted(&[3, 4, 4, 1, 1]) {
        0 => register(name, ongoing, rng.below(4)),
        1 if name == AUTO && rng.chance(60) => launch(name, None),
        2 if name == AUTO && rng.chance(60) => {
            let (least, most) = (rng.range(0, 1) as u32, rng.range(1, 2) as u32);
            Call::ScaleWorker { name: name.to_owned(), how: Scale::Between(Some(least), Some(most)) }
        }
        1 => launch(name, rng.chance(70).then(|| rng.range(1, REPLICAS) as u32)),
        2 => Call::ScaleWorker { name: name.to_owned(), how: Scale::To(rng.range(0, REPLICAS) as u32) },
        3 => Call::ScaleWorker { name: name.to_owned(), how: Scale::Drain },
        _ => Call::ScaleWorker { name: name.to_owned(), how: Scale::Stop },
    }
}

/// A call to a worker.
pub(super) fn call(rng: &mut Rng) -> Action {
    let (name, _) = *rng.pick(&WORKERS);
    let deadline_ms = rng.chance(70).then(|| rng.range(50, 30_000));
    let call = Call::CallWorker { name: name.to_owned(), payload: b"1"[..].into(), deadline_ms };
    Action::Call(Box::new(call), rng.chance(10))
}

/// Every worker, as the core shows it.
fn views(core: &mut Core, world: &World) -> Vec<WorkerView> {
    let mut step = Step::default();
    let input = Input::Call { ticket: 0, caller: Caller::internal(), call: Call::ListWorkers };
    core.decide(world.raw(), input, &mut step);
    match step.effects.pop() {
        Some(Effect::Reply(_, answer)) => match *answer {
            Ok(Reply::Workers(views)) => views,
            _ => Vec::new(),
        },
        _ => Vec::new(),
    }
}

/// What must hold of a worker at the end of every step.
fn wrong_with(view: &WorkerView) -> Option<String> {
    let status = view.status.as_ref()?;
    let staying = || status.replicas.iter().filter(|r| r.phase != "draining");
    let current = staying().filter(|r| r.version == status.version);
    let ready = staying().filter(|r| r.phase == "ready").count();
    let most = most(&view.name) as u64;
    let wanted = status.desired as usize;
    if let (Some(min), Some(max)) = (status.min, status.max)
        && (status.desired > max || status.desired < min && status.desired > 0)
    {
        return Some(format!("worker {} is to have {wanted} replicas, between {min} and {max}", view.name));
    }
    if current.count() > wanted {
        return Some(format!("worker {} has more replicas than the {wanted} it should have", view.name));
    }
    if ready > wanted {
        return Some(format!("worker {} has {ready} ready replicas, {wanted} are wanted", view.name));
    }
    if let Some(r) = status.replicas.iter().find(|r| r.outstanding > most) {
        return Some(format!("replica {} of {} has {} requests", r.replica, view.name, r.outstanding));
    }
    let more = status.replicas.len().saturating_sub(wanted);
    let draining = status.replicas.iter().filter(|r| r.phase == "draining").count();
    (more > draining + 1 + wanted).then(|| format!("worker {} has {more} replicas too many", view.name))
}

/// Whether all that is wanted is there, and nothing waits; if not, why.
fn unsteady(view: &WorkerView) -> Option<String> {
    let status = view.status.as_ref()?;
    let others = status.replicas.iter().filter(|r| r.version != status.version).count();
    let as_wanted = status.ready == status.desired
        && status.replicas.len() == status.desired as usize
        && others == 0
        && status.outstanding + status.calls_waiting == 0;
    (!as_wanted).then(|| format!("worker {}: {status:?}", view.name))
}

/// While replicas are replaced with room for both: as many as before take requests.
fn served_by_fewer(view: &WorkerView, least: u32) -> Option<String> {
    let status = view.status.as_ref()?;
    let serving = status.replicas.iter().filter(|r| ["ready", "unready"].contains(&r.phase.as_str())).count();
    (serving < least as usize)
        .then(|| format!("worker {} is replaced, and {serving} of {least} take requests", view.name))
}

impl World {
    /// Looks at every worker now and then.
    pub(super) fn check_workers(&mut self, core: &mut Core) {
        if !self.count.steps.is_multiple_of(4) && self.rolling.is_empty() {
            return;
        }
        for view in views(core, self) {
            if let Some(status) = &view.status {
                let olds = status.replicas.iter().any(|r| r.version != status.version);
                if olds && status.replicas.iter().any(|r| r.version == status.version) {
                    self.count.hit("two versions of a worker");
                }
            }
            let fewer = self.rolling.get(&view.name).and_then(|least| served_by_fewer(&view, *least));
            if let Some(wrong) = wrong_with(&view).or(fewer) {
                self.fail(wrong);
            }
        }
    }

    /// What is not as it should be with the workers when all is quiet.
    pub(super) fn unsteady_workers(&mut self) -> Option<String> {
        let mut core = self.core.take()?;
        let found = views(&mut core, self).iter().find_map(unsteady);
        self.core = Some(core);
        found
    }

    /// After the faults: whatever was submitted for a worker finds replicas.
    pub(super) fn launch_workers(&mut self) {
        let Some(mut core) = self.core.take() else { return };
        let views = views(&mut core, self);
        self.core = Some(core);
        for view in views {
            // Those that a request brings back need nobody.
            let brings_back =
                |s: &WorkerStatus| s.desired > 0 || s.max.is_some() || s.idle_unload_s.is_some();
            if !view.status.as_ref().is_some_and(brings_back) {
                self.client(Action::Other(Box::new(launch(&view.name, Some(2)))));
            }
        }
    }

    /// Nothing else is to be done: every worker that has replicas gets another version.
    pub(super) fn roll_workers(&mut self) {
        let Some(mut core) = self.core.take() else { return };
        let views = views(&mut core, self);
        self.core = Some(core);
        for view in views {
            let Some(status) = view.status.filter(|s| s.desired > 0 && s.max.is_none()) else { continue };
            let Some((name, ongoing)) = WORKERS.iter().find(|(name, _)| *name == view.name) else { continue };
            self.count.hit("worker replaced");
            self.rolling.insert(view.name, status.desired);
            for (at, call) in
                [(1, register(name, *ongoing, LAST)), (1_000, launch(name, Some(status.desired)))]
            {
                self.agenda.at(self.now + at, Due::Client(Box::new(Action::Other(Box::new(call)))));
            }
        }
    }

    /// All of them are of that version now; if not, which.
    pub(super) fn not_replaced(&mut self) -> Option<String> {
        let mut core = self.core.take()?;
        let views = views(&mut core, self);
        self.core = Some(core);
        let is_last = |view: &WorkerView| {
            view.spec
                .command
                .as_ref()
                .and_then(|c| c.get(1))
                .is_some_and(|version| *version == LAST.to_string())
        };
        let wrong = |view: &WorkerView| {
            let status = view.status.as_ref();
            !is_last(view) || status.is_none_or(|s| s.version != view.version || s.ready != s.desired)
        };
        views.into_iter().filter(|v| self.rolling.contains_key(&v.name)).find(wrong).map(|v| format!("{v:?}"))
    }

    /// The last of all: replicas end, too.
    pub(super) fn stop_workers(&mut self) {
        for (name, _) in WORKERS {
            let stop = Call::ScaleWorker { name: name.to_owned(), how: Scale::Stop };
            self.client(Action::Other(Box::new(stop)));
        }
    }
}

/// What a run begins with: some have workers from the start.
pub(super) fn first(options: &Options, rng: &mut Rng) -> Vec<Call> {
    if options.seed.is_multiple_of(4) {
        return Vec::new();
    }
    WORKERS
        .iter()
        .flat_map(|(name, ongoing)| {
            [register(name, *ongoing, 0), launch(name, Some(rng.range(1, REPLICAS) as u32))]
        })
        .collect()
}
