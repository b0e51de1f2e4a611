//! Workers: `register_worker`, and how a submission finds the worker it means (DESIGN D10).
use super::Core;
use crate::cluster::shape::Shape;
use crate::effect::{Fact, Reply, Step};
use crate::input::Now;
use crate::row::{Caller, QueueKind, WorkerRow};
use reeve_protocol::api::{Serving, WorkerRequest};
use reeve_protocol::spec_check::check_name;
use reeve_protocol::template;
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

/// The kind of a registration, and whether the rest fits it.
fn kind_of(request: &WorkerRequest) -> Result<&'static str, Problem> {
    let wanted = request.kind.as_deref().unwrap_or("command");
    let Some(kind) = ["command", "git", "static"].into_iter().find(|kind| *kind == wanted) else {
        let shown = reeve_protocol::text::Clean::short(wanted, 32);
        let problem =
            Problem::new(Code::BadValue, format!("there is no kind of worker {:?}", shown.as_str()));
        return Err(problem.hint("kinds: command, git, static"));
    };
    let wrong = |detail: &str, hint: &str| Err(Problem::new(Code::BadValue, detail).hint(hint));
    if (kind == "git" && request.spec.git.is_none()) || (kind == "command" && request.spec.git.is_some()) {
        let detail = "a worker of kind git has a repository, and one of kind command has none";
        return wrong(detail, "reeve worker register NAME --repo URL --ref REF -- COMMAND");
    }
    if (kind != "static") && request.serving.is_some() {
        return wrong("serving belongs to static workers", "add: --static");
    }
    if request.spec.command.is_some() == request.shell.is_some() {
        let problem =
            Problem::new(Code::BadCommand, "a worker needs a command, or a script for a shell, and not both");
        return Err(problem.hint("reeve worker register NAME -- COMMAND, or: --shell SCRIPT"));
    }
    if kind == "static"
        && (request.spec.command.as_ref().is_some_and(|command| template::names_fields(command))
            || request
                .shell
                .as_ref()
                .is_some_and(|script| template::names_fields(std::slice::from_ref(script))))
    {
        let detail = "the command of a static worker is started once: it cannot name fields of payloads";
        return wrong(
            detail,
            "each request brings its payload to the process: reeve worker call NAME PAYLOAD",
        );
    }
    if let Some(serving) = &request.serving {
        serving.validate()?;
    }
    Ok(kind)
}

/// A job for a static worker: it brings a payload, and everything else is the worker's.
fn request_of(mut spec: JobSpec, worker: &WorkerRow, base: &JobSpec) -> Result<JobSpec, Problem> {
    let name = &worker.name;
    if spec.command.is_some() || spec.git.is_some() || spec.stdin.is_some() {
        let problem = Problem::new(
            Code::BadCommand,
            format!("worker {name} is static: it takes a payload, and runs no command"),
        );
        return Err(problem.hint(format!("reeve submit --worker {name} --payload JSON")));
    }
    spec.queue = spec.queue.or_else(|| Some(worker.queue.clone()));
    spec.retries = spec.retries.or(base.retries);
    spec.timeout_s = spec.timeout_s.or(base.timeout_s);
    spec.worker = Some(name.clone());
    (spec.cwd, spec.resources) = (None, reeve_protocol::resources::ResourceAsk::default());
    spec.env.clear();
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
        let kind = kind_of(&request)?;
        let mut spec = request.spec;
        if let Some(script) = &request.shell {
            spec.command = Some(template::shell(script));
        }
        let queue = spec.queue.clone().unwrap_or_else(|| format!("jobs.{name}"));
        self.queue_for(now, caller, &queue, QueueKind::Jobs, step)?;
        let version = self.versions.get(&name).map_or(1, |version| version + 1);
        let json = |e: serde_json::Error| Problem::new(Code::Internal, e.to_string());
        let serving = request.serving.or_else(|| (kind == "static").then(Serving::default));
        let row = WorkerRow {
            name: name.clone(),
            version,
            kind: kind.to_owned(),
            queue,
            owner_uid: caller.uid,
            owner: caller.name.clone(),
            spec: serde_json::to_string(&spec).map_err(json)?.into(),
            shell: request.shell.map(Into::into),
            serving: serving.map(|s| serde_json::to_string(&s)).transpose().map_err(json)?.map(Into::into),
            created_at: now.wall,
        };
        self.events.note(now.wall, "worker", &name, "registered", &caller.actor());
        step.facts.push(Fact::WorkerPut(Box::new(row.clone())));
        self.versions.insert(name.clone(), version);
        let view = self.worker_view(now, &row);
        self.workers.insert(name, row);
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
            Some(name) => self.workers.get(name).ok_or_else(|| self.no_worker(name))?,
            None => match by_queue() {
                Some(worker) => worker,
                None => return Ok((has_command(spec)?, None)),
            },
        };
        let base: JobSpec = serde_json::from_str(&worker.spec).unwrap_or_default();
        if worker.kind == "static" {
            return Ok((request_of(spec, worker, &base)?, Some((worker.name.clone(), worker.version))));
        }
        let own = spec.command.take();
        spec.command = match base.command {
            Some(command) => {
                let mut command = template::fill(&command, spec.payload.as_ref())?;
                command.extend(own.into_iter().flatten());
                Some(command)
            }
            None => own,
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
