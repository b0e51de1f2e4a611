//! Static workers as people change and see them: `launch_worker`, scale, drain, stop, rm, and the picture of each.
use super::Core;
use super::serving::{Deployment, Key, Replica, summary, word};
use crate::effect::{Fact, Reply, Step};
use crate::input::{Call, Now, Scale, Ticket};
use crate::row::{Caller, DeploymentRow, WorkerRow};
use reeve_protocol::api::{LaunchRequest, MAX_REPLICAS, ReplicaView, Serving, WorkerStatus, WorkerView};
use reeve_protocol::nearest::nearest;
use reeve_protocol::time::Wall;
use reeve_protocol::{Code, JobId, JobSpec, Problem, State, Substate, TaskId};

/// Jobs that are named when a worker cannot be removed.
const NAMED: usize = 10;

impl Core {
    /// One arm per call about workers; `None`: the caller waits.
    pub(super) fn worker_call(
        &mut self,
        now: Now,
        ticket: Ticket,
        caller: &Caller,
        call: Call,
        step: &mut Step,
    ) -> Option<Result<Reply, Problem>> {
        Some(match call {
            Call::RegisterWorker { name, request } => self.register_worker(now, caller, name, *request, step),
            Call::LaunchWorker { name, request } => self.launch_worker(now, caller, &name, *request, step),
            Call::ScaleWorker { name, how } => self.scale_worker(now, caller, &name, how, step),
            Call::RemoveWorker { name, force } => self.remove_worker(now, caller, &name, force, step),
            Call::CallWorker { name, payload, deadline_ms } => {
                Err(self.call_worker(now, ticket, &name, payload, deadline_ms)?)
            }
            _ => Ok(Reply::Workers(self.worker_views(now))),
        })
    }

    /// `launch_worker`: the newest registration runs from now on, in so many replicas. What runs of an older one is
    /// replaced: new replicas are ready before old ones go.
    fn launch_worker(
        &mut self,
        now: Now,
        caller: &Caller,
        name: &str,
        request: LaunchRequest,
        step: &mut Step,
    ) -> Result<Reply, Problem> {
        let (worker, registered) = self.static_worker(name)?;
        check_worker_owner(caller, &worker)?;
        let runs = self.deployments.get(name).filter(|d| d.may_serve());
        let serving = serving_at_launch(registered, &request, runs.map(|d| &d.serving))?;
        let before = runs.map(|d| d.row.replicas).filter(|n| *n > 0);
        let range = serving.range();
        let least = range.map(|r| r.least);
        let replicas = request.replicas.or(before).or(serving.replicas).or(least).unwrap_or(1);
        check_replicas(replicas)?;
        let replicas = range.map_or(replicas, |r| replicas.clamp(r.least, r.most));
        let on = match runs {
            Some(d) if request.on.is_empty() => d.row.on.clone(),
            _ => request.on,
        };
        // The same version again is the same commit, too.
        let same = self.deployments.get(name).filter(|d| d.row.version == worker.version);
        let row = DeploymentRow {
            worker: name.to_owned(),
            version: worker.version,
            commit: same.and_then(|d| d.row.commit.clone()),
            replicas,
            on,
            serving: serde_json::to_string(&serving).unwrap_or_default(),
            changed_at: now.wall,
        };
        self.deploy(now, caller, row, Some(worker), "launched", step);
        self.worker_reply(now, name)
    }

    /// `worker scale`, `drain` and `stop`.
    fn scale_worker(
        &mut self,
        now: Now,
        caller: &Caller,
        name: &str,
        how: Scale,
        step: &mut Step,
    ) -> Result<Reply, Problem> {
        let (worker, _) = self.static_worker(name)?;
        check_worker_owner(caller, &worker)?;
        let Some(d) = self.deployments.get(name) else {
            let problem = Problem::new(Code::NoReplicas, format!("worker {name} was never launched"));
            return Err(problem.hint(format!("launch it: reeve worker launch {name}")));
        };
        let (mut row, mut serving, recipe) = (d.row.clone(), d.serving.clone(), d.recipe.clone());
        let (replicas, what) = match how {
            Scale::To(n) => (fixed(&mut serving, n), "scaled"),
            Scale::Between(min, max) => (between(&mut serving, min, max, row.replicas)?, "scaled"),
            Scale::Drain => (fixed(&mut serving, 0), "drained"),
            Scale::Stop => (fixed(&mut serving, 0), "stopped"),
        };
        check_replicas(replicas)?;
        (row.replicas, row.changed_at) = (replicas, now.wall);
        row.serving = serde_json::to_string(&serving).unwrap_or_default();
        self.deploy(now, caller, row, recipe, what, step);
        if how == Scale::Stop {
            for job in self.replica_jobs(name) {
                self.end_replica(now, job, step);
            }
        }
        self.worker_reply(now, name)
    }

    fn deploy(
        &mut self,
        now: Now,
        caller: &Caller,
        row: DeploymentRow,
        recipe: Option<WorkerRow>,
        what: &str,
        step: &mut Step,
    ) {
        self.events.note(now.wall, "worker", &row.worker, what, &caller.actor());
        step.facts.push(Fact::DeploymentPut(Box::new(row.clone())));
        let name = row.worker.clone();
        self.deployments.put(row, recipe, now.mono);
        if self.deployments.get(&name).is_some_and(|d| !d.may_serve()) {
            // Nobody will take them.
            for waiting in
                self.deployments.get_mut(&name).map(|d| std::mem::take(&mut d.calls)).unwrap_or_default()
            {
                let problem = Problem::new(Code::NoReplicas, format!("worker {name} was stopped"));
                let problem = problem.hint(format!("launch it again: reeve worker launch {name}"));
                if let Some(d) = self.deployments.get_mut(&name) {
                    d.deadlines.remove(&(waiting.until, Key::Call(waiting.ticket)));
                }
                Self::reply(step, waiting.ticket, Err(problem));
            }
        }
    }

    /// `worker rm`: its registrations are no more. Refused while jobs wait for it or replicas run, unless forced: then these
    /// are cancelled.
    fn remove_worker(
        &mut self,
        now: Now,
        caller: &Caller,
        name: &str,
        force: bool,
        step: &mut Step,
    ) -> Result<Reply, Problem> {
        let Some(worker) = self.workers.get(name).cloned() else { return Err(self.no_worker(name)) };
        check_worker_owner(caller, &worker)?;
        let waiting = self.jobs_of_worker(name);
        let replicas = self.replica_jobs(name);
        if !force && (!waiting.is_empty() || !replicas.is_empty()) {
            let ids: Vec<String> = waiting.iter().take(NAMED).map(ToString::to_string).collect();
            let more = if waiting.len() > NAMED { " and more" } else { "" };
            let what = match (waiting.len(), replicas.len()) {
                (0, n) => format!("worker {name} has {n} replicas"),
                (n, 0) => format!("{n} jobs are for worker {name}: {}{more}", ids.join(", ")),
                (n, r) => format!(
                    "worker {name} has {r} replicas, and {n} jobs are for it: {}{more}",
                    ids.join(", ")
                ),
            };
            return Err(Problem::new(Code::WrongState, what)
                .hint("--force stops its replicas and cancels these jobs"));
        }
        for id in waiting {
            for task in self.live_tasks(crate::input::Target { job: id, tasks: None }) {
                self.cancel_task(now, task, None, &caller.actor(), step);
            }
        }
        if let Some(d) = self.deployments.get(name) {
            let (mut row, mut serving) = (d.row.clone(), d.serving.clone());
            row.replicas = fixed(&mut serving, 0);
            row.serving = serde_json::to_string(&serving).unwrap_or_default();
            self.deploy(now, caller, row, None, "stopped", step);
        }
        for job in replicas {
            self.end_replica(now, job, step);
        }
        self.workers.remove(name);
        let seq = self.events.note(now.wall, "worker", name, "removed", &caller.actor());
        step.facts.push(Fact::WorkerRemoved(name.to_owned(), now.wall));
        Ok(Reply::Done(seq))
    }

    /// Jobs that live and were submitted to a worker.
    fn jobs_of_worker(&self, name: &str) -> Vec<JobId> {
        let quoted = serde_json::to_string(name).unwrap_or_default();
        let mut ids: Vec<JobId> = self
            .jobs
            .iter()
            .filter(|job| self.deployments.worker_of(job.id).is_none() && job.spec.contains(&quoted))
            .filter(|job| {
                serde_json::from_str::<JobSpec>(&job.spec).is_ok_and(|s| s.worker.as_deref() == Some(name))
            })
            .map(|job| job.id)
            .collect();
        ids.sort_unstable();
        ids
    }

    fn replica_jobs(&self, name: &str) -> Vec<JobId> {
        self.deployments.get(name).map(|d| d.replicas.keys().copied().collect()).unwrap_or_default()
    }

    pub(super) fn no_worker(&self, name: &str) -> Problem {
        let shown = reeve_protocol::text::Clean::short(name, 64);
        let known: Vec<&str> = self.workers.keys().map(String::as_str).collect();
        let hint = match (nearest(name, known.iter().copied()), known.as_slice()) {
            (_, []) => {
                "no worker is registered; register one with: reeve worker register NAME -- COMMAND".to_owned()
            }
            (Some(near), _) => format!("did you mean {near:?}? registered workers: {}", known.join(", ")),
            (None, known) => format!("registered workers: {}", known.join(", ")),
        };
        Problem::new(Code::NotFound, format!("there is no worker {:?}", shown.as_str())).hint(hint)
    }

    fn static_worker(&self, name: &str) -> Result<(WorkerRow, Serving), Problem> {
        let worker = self.workers.get(name).ok_or_else(|| self.no_worker(name))?;
        if worker.kind != "static" {
            let what = format!(
                "worker {name} is of kind {}: it is born for each job, and stays no longer",
                worker.kind
            );
            return Err(Problem::new(Code::WrongState, what).hint(format!(
                "submit a job to it: reeve submit --worker {name}; or register it with --static"
            )));
        }
        let serving = worker.serving.as_ref().and_then(|text| serde_json::from_str(text).ok());
        Ok((worker.clone(), serving.unwrap_or_default()))
    }

    fn worker_reply(&mut self, now: Now, name: &str) -> Result<Reply, Problem> {
        let worker = self.workers.get(name).cloned().ok_or_else(|| self.no_worker(name))?;
        Ok(Reply::Worker(Box::new(self.worker_view(now, &worker))))
    }

    /// Every worker as shown.
    fn worker_views(&mut self, now: Now) -> Vec<WorkerView> {
        let workers: Vec<WorkerRow> = self.workers.values().cloned().collect();
        workers.iter().map(|worker| self.worker_view(now, worker)).collect()
    }

    /// One worker as shown.
    pub(super) fn worker_view(&mut self, now: Now, worker: &WorkerRow) -> WorkerView {
        let mut view = worker.view();
        let rate = self.deployments.get_mut(&worker.name).map(|d| d.rate.per_second(now.mono));
        view.status = self.deployments.get(&worker.name).map(|d| self.status(d, rate.unwrap_or_default()));
        view
    }

    fn status(&self, d: &Deployment, rate: f64) -> WorkerStatus {
        let replicas: Vec<ReplicaView> = d.replicas.values().map(|r| self.replica_view(r)).collect();
        // Of the version that is wanted before those that are on their way out.
        let failed = || {
            let failed = replicas.iter().filter(|r| r.phase == "failed" && r.reason.is_some());
            failed.max_by_key(|r| r.version).and_then(|r| r.reason.clone())
        };
        let range = d.serving.range();
        let bounds = range.filter(|_| d.serving.max.is_some());
        WorkerStatus {
            version: d.row.version,
            desired: d.row.replicas,
            min: bounds.map(|r| r.least),
            max: bounds.map(|r| r.most),
            commit: d.commit(),
            idle_unload_s: d.serving.idle_unload_s,
            ready: d
                .replicas
                .values()
                .filter(|r| r.is_ready() && Self::is_reachable(&self.cluster, r))
                .count() as u32,
            phase: summary(d.row.replicas, range.is_some(), &replicas).to_owned(),
            outstanding: d.outstanding(),
            calls_waiting: d.calls.len() as u64,
            rate,
            reason: d
                .reason
                .clone()
                .or_else(failed)
                .or_else(|| self.waits_for_disk(d))
                .or_else(|| self.waits_for_room(d)),
            replicas,
        }
    }

    /// Why a job for a static worker waits.
    pub(super) fn why_not_asked(&self, name: &str) -> String {
        let Some(d) = self.deployments.get(name).filter(|d| d.may_serve()) else {
            return format!("worker {name} has no replicas: reeve worker launch {name}");
        };
        let status = self.status(d, 0.0);
        let why = status.reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
        if status.ready == 0 {
            return format!("no replica of worker {name} is ready: it is {}{why}", status.phase);
        }
        format!(
            "{} of {} replicas of worker {name} are ready, and all have as much as they may",
            status.ready, status.desired
        )
    }

    /// While no replica is ready: what the worker does instead.
    pub(super) fn not_ready_words(&self, name: &str) -> String {
        let Some(d) = self.deployments.get(name) else { return String::new() };
        let status = self.status(d, 0.0);
        if status.ready > 0 {
            return String::new();
        }
        let why = status.reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
        format!(": the worker is {}{why}", status.phase)
    }

    /// Why replicas that are wanted are not made.
    fn waits_for_disk(&self, d: &Deployment) -> Option<String> {
        let missing = d.replicas.values().filter(|r| d.is_current(r)).count() < d.row.replicas as usize;
        (missing && self.is_full())
            .then(|| "the coordinator's disk is full: more replicas come when it has room".to_owned())
    }

    /// Why a replica has no place yet.
    fn waits_for_room(&self, d: &Deployment) -> Option<String> {
        let waiting = d.replicas.values().filter_map(|r| self.jobs.get(r.job));
        let job = waiting
            .into_iter()
            .find(|job| job.task(None).is_some_and(|t| t.phase().is(Substate::Waiting)))?;
        match self.cluster.choose(job.shape) {
            Ok(_) => None,
            Err(verdicts) if verdicts.is_empty() => Some("no machine has joined".to_owned()),
            Err(verdicts) => {
                let reasons: Vec<String> =
                    verdicts.iter().take(3).map(|v| format!("{} {}", v.machine, v.reason)).collect();
                Some(format!("waits for room: {}", reasons.join("; ")))
            }
        }
    }

    fn replica_view(&self, r: &Replica) -> ReplicaView {
        let task = self.jobs.task(TaskId::single(r.job));
        let phase = match task.map(|t| (t.phase().state(), t.phase().substate())) {
            Some((State::Running, Some(Substate::Cancelling))) => "draining",
            _ if r.draining.is_some() => "draining",
            Some((State::Running, Some(Substate::Unconfirmed))) => "unconfirmed",
            Some((State::Running, _)) if r.session != 0 && !Self::is_reachable(&self.cluster, r) => {
                "unconfirmed"
            }
            _ => word(r.phase),
        };
        ReplicaView {
            replica: r.number,
            job: r.job,
            attempt: r.attempt,
            version: r.version,
            machine: r.machine.as_ref().and_then(|id| self.cluster.get(id)).map(|m| m.name.to_string()),
            phase: phase.to_owned(),
            progress: r.fraction,
            message: r.message.clone(),
            outstanding: r.requests.len() as u64,
            answered: r.answered,
            reason: r.reason.clone(),
            restart_at: task.and_then(|t| t.run_at).map(Wall),
        }
    }
}

/// Until roles exist the owner's uid decides, as for jobs.
fn check_worker_owner(caller: &Caller, worker: &WorkerRow) -> Result<(), Problem> {
    if caller.uid == worker.owner_uid || caller.uid == 0 {
        return Ok(());
    }
    Err(Problem::new(Code::SingleUser, format!("worker {} belongs to {}", worker.name, worker.owner)))
}

/// How a launch speaks to replicas and how many there are: what the launch says, else the registration, else what runs.
fn serving_at_launch(
    registered: Serving,
    request: &LaunchRequest,
    runs: Option<&Serving>,
) -> Result<Serving, Problem> {
    let mut serving = registered;
    if request.min.is_some() || request.max.is_some() {
        (serving.min, serving.max) = (request.min.or(serving.min), request.max.or(serving.max));
    } else if let Some(n) = request.replicas {
        fixed(&mut serving, n);
    } else if let Some(runs) = runs.filter(|_| serving.max.is_none()) {
        (serving.min, serving.max) = (runs.min, runs.max);
        serving.replicas = runs.replicas.or(serving.replicas);
    }
    serving.validate()?;
    Ok(serving)
}

/// A number that somebody asked for: it does not follow the load. With none there is nothing to load again.
fn fixed(serving: &mut Serving, replicas: u32) -> u32 {
    (serving.min, serving.max) = (None, None);
    (serving.scale_up_wait_s, serving.scale_down_after_s) = (None, None);
    if replicas == 0 {
        serving.idle_unload_s = None;
    } else {
        serving.replicas = Some(replicas);
    }
    replicas
}

/// Bounds that somebody asked for, instead of a number.
fn between(serving: &mut Serving, min: Option<u32>, max: Option<u32>, now: u32) -> Result<u32, Problem> {
    (serving.min, serving.max) = (min.or(serving.min), max.or(serving.max));
    if serving.min > serving.max && min.is_none() {
        serving.min = serving.max;
    }
    serving.validate()?;
    Ok(serving.range().map_or(now, |range| now.clamp(range.least, range.most)))
}

fn check_replicas(replicas: u32) -> Result<(), Problem> {
    if replicas > MAX_REPLICAS {
        let problem = Problem::new(Code::OutOfRange, format!("{replicas} replicas are too many"));
        return Err(problem
            .hint(format!("at most {MAX_REPLICAS}; one replica may take several requests: --max-ongoing")));
    }
    Ok(())
}
