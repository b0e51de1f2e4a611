//! Workers: `register_worker`, and how a submission finds the worker it means (DESIGN D10). `launch_worker` comes with
//! static workers.
use super::Core;
use crate::cluster::shape::Shape;
use crate::effect::{Fact, Reply, Step};
use crate::input::Now;
use crate::row::{Caller, QueueKind, WorkerRow};
use reeve_protocol::api::{WorkerRequest, WorkerView};
use reeve_protocol::spec_check::check_name;
use reeve_protocol::time::Wall;
use reeve_protocol::{Code, JobSpec, Problem};

/// A checkout alone is nothing to run. Only here it is known whether a worker brings the command.
fn has_command(spec: JobSpec) -> Result<JobSpec, Problem> {
    if spec.git.is_some() && spec.command.is_none() {
        return Err(Problem::new(
            Code::BadCommand,
            "git says where the code is, but there is no command to run in it",
        )
        .hint(r#"add the command, for example "command":["make","test"]"#));
    }
    Ok(spec)
}

impl Core {
    /// `register_worker`: a named recipe, versioned; jobs keep the version they were submitted with.
    pub(super) fn register_worker(
        &mut self,
        now: Now,
        caller: &Caller,
        name: String,
        request: WorkerRequest,
        step: &mut Step,
    ) -> Result<Reply, Problem> {
        check_name("worker", &name)?;
        let kind = request.kind.unwrap_or_else(|| "command".to_owned());
        let is_git = kind == "git";
        if !is_git && kind != "command" {
            return Err(Problem::new(
                Code::NotYet,
                format!("workers of kind {kind:?} come with a later version"),
            )
            .hint("register a command worker, or one of kind git"));
        }
        if is_git != request.spec.git.is_some() {
            return Err(Problem::new(
                Code::BadValue,
                "a worker of kind git has a repository, and no other has one",
            )
            .hint("reeve worker register NAME --repo URL --ref REF -- COMMAND"));
        }
        if request.spec.command.is_none() {
            return Err(Problem::new(Code::BadCommand, "a command worker needs a command")
                .hint("reeve worker register NAME -- COMMAND"));
        }
        let queue = request.spec.queue.clone().unwrap_or_else(|| format!("jobs.{name}"));
        self.queue_for(now, caller, &queue, QueueKind::Jobs, step)?;
        let version = self.workers.get(&name).map_or(1, |w| w.version + 1);
        let spec =
            serde_json::to_string(&request.spec).map_err(|e| Problem::new(Code::Internal, e.to_string()))?;
        let row = WorkerRow {
            name: name.clone(),
            version,
            kind: kind.clone(),
            queue: queue.clone(),
            owner_uid: caller.uid,
            owner: caller.name.clone(),
            spec: spec.into(),
            created_at: now.wall,
        };
        self.events.note(now.wall, "worker", &name, "registered", &caller.actor());
        step.facts.push(Fact::WorkerPut(Box::new(row.clone())));
        self.workers.insert(name.clone(), row);
        let view = WorkerView {
            name,
            version,
            kind,
            owner: caller.name.to_string(),
            queue,
            spec: request.spec,
            created_at: Wall(now.wall),
        };
        Ok(Reply::Worker(Box::new(view)))
    }

    /// Routing (DESIGN D10): an explicit worker, else the one registered for the queue, else the command itself.
    pub(super) fn resolve_worker(
        &self,
        mut spec: JobSpec,
    ) -> Result<(JobSpec, Option<(String, u32)>), Problem> {
        let by_queue = || {
            self.workers
                .values()
                .find(|w| spec.command.is_none() && spec.queue.as_deref() == Some(w.queue.as_str()))
        };
        let worker = match &spec.worker {
            Some(name) => self.workers.get(name).ok_or_else(|| {
                let known: Vec<&str> = self.workers.keys().map(String::as_str).collect();
                Problem::new(Code::NotFound, format!("there is no worker {name:?}"))
                    .hint(match known.as_slice() {
                    [] => "no worker is registered; register one with: reeve worker register NAME -- COMMAND"
                        .to_owned(),
                    known => format!("registered workers: {}", known.join(", ")),
                })
            })?,
            None => match by_queue() {
                Some(worker) => worker,
                None => return Ok((has_command(spec)?, None)),
            },
        };
        let base: JobSpec = serde_json::from_str(&worker.spec).unwrap_or_default();
        spec.command = match (base.command, spec.command.take()) {
            (Some(mut command), Some(more)) => {
                command.extend(more);
                Some(command)
            }
            (base, own) => own.or(base),
        };
        spec.queue = spec.queue.or_else(|| Some(worker.queue.clone()));
        if spec.resources.is_default() {
            spec.resources = base.resources;
        }
        let own = std::mem::take(&mut spec.env);
        spec.env = base.env.into_iter().chain(own).collect();
        spec.cwd = spec.cwd.or(base.cwd);
        spec.git = spec.git.or(base.git);
        if spec.git.is_some() {
            spec.cwd = None;
        }
        spec.retries = spec.retries.or(base.retries);
        spec.timeout_s = spec.timeout_s.or(base.timeout_s);
        spec.worker = Some(worker.name.clone());
        Ok((has_command(spec)?, Some((worker.name.clone(), worker.version))))
    }

    /// What would become of a spec: nothing is changed.
    pub(super) fn dry_run(&mut self, spec: JobSpec) -> Result<Reply, Problem> {
        let (spec, _) = self.resolve_worker(spec)?;
        let shape = Shape::of(&spec)?;
        let mut fits = Vec::new();
        let mut reasons = Vec::new();
        let id = self.cluster.shapes.intern(shape);
        let need = self.cluster.shapes.get(id);
        for machine in self.cluster.iter().filter(|m| !m.revoked) {
            match crate::cluster::placement::choose(need, std::iter::once(machine)) {
                Ok(_) => fits.push(machine.name.to_string()),
                Err(verdicts) => reasons.extend(verdicts.into_iter().map(|v| reeve_protocol::api::WhyLine {
                    machine: Some(v.machine.to_string()),
                    text: v.reason,
                })),
            }
        }
        Ok(Reply::DryRun(spec.queue_name().to_owned(), fits, reasons))
    }
}
