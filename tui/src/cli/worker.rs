//! `reeve worker ...`.
use super::context::Context;
use super::error::{Error, note};
use super::git::Git;
use super::queue::other;
use super::submit::{Needs, not_yet};
use super::table::{Cell, Table};
use super::values;
use crate::client::escape;
use hyper::Method;
use reeve_protocol::JobSpec;
use reeve_protocol::api::{
    CallReply, CallRequest, LaunchRequest, List, ScaleRequest, Serving, WorkerRequest, WorkerView,
};
use reeve_protocol::text::Clean;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What can be done with workers.
#[derive(Debug, clap::Subcommand)]
pub enum Worker {
    /// Make jobs of a queue run a command, or describe a static worker; again: its next version
    Register(Box<Register>),
    /// Run the newest version of a static worker; an older one is replaced
    Launch(Launch),
    /// List workers
    Ls,
    /// Show a worker, and the replicas of a static one
    Show(Show),
    /// Ask a static worker and print its answer
    Call(Call),
    /// Change how many replicas a static worker has
    Scale(Scale),
    /// End a static worker's replicas once they have answered
    Drain(Name),
    /// End a static worker's replicas now
    Stop(Name),
    /// Remove a worker
    Rm(Remove),
    /// Any other word.
    #[command(external_subcommand)]
    Other(Vec<String>),
}

/// A worker.
#[derive(Debug, clap::Args)]
pub struct Name {
    /// The worker
    #[arg(value_name = "WORKER")]
    pub name: String,
}

/// Run a static worker.
#[derive(Debug, clap::Args)]
pub struct Launch {
    /// The worker
    #[arg(value_name = "WORKER")]
    pub name: String,
    /// Only these machines, instead of those of its registration; may be repeated
    #[arg(long, value_name = "MACHINE|label.K=V")]
    pub on: Vec<String>,
    /// How many [default: as many as run, else what its registration says, else 1]
    #[arg(long, value_name = "N")]
    pub replicas: Option<u32>,
    /// Between which numbers it follows the load.
    #[command(flatten)]
    pub bounds: Bounds,
}

/// Between which numbers the replicas follow the load.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct Bounds {
    /// The number of replicas follows the load, and is never less; 0: the first request starts one
    #[arg(long, value_name = "N")]
    pub min: Option<u32>,
    /// The number of replicas follows the load, and is never more
    #[arg(long, value_name = "N")]
    pub max: Option<u32>,
}

/// Show a worker.
#[derive(Debug, clap::Args)]
pub struct Show {
    /// The worker
    #[arg(value_name = "WORKER")]
    pub name: String,
    /// One of its registrations, instead of how it is now
    #[arg(long, value_name = "N")]
    pub version: Option<u32>,
}

/// Ask a static worker.
#[derive(Debug, clap::Args)]
pub struct Call {
    /// The worker
    #[arg(value_name = "WORKER")]
    pub name: String,
    /// What it gets: JSON, @FILE, or - for standard input
    #[arg(value_name = "JSON|@FILE|-", allow_hyphen_values = true)]
    pub payload: String,
    /// How long the answer may take [default: 60s]
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    pub deadline: Option<f64>,
}

/// Change how many replicas there are.
#[derive(Debug, clap::Args)]
pub struct Scale {
    /// The worker
    #[arg(value_name = "WORKER")]
    pub name: String,
    /// How many, from now on
    #[arg(value_name = "N", required_unless_present_any = ["min", "max"], conflicts_with_all = ["min", "max"])]
    pub replicas: Option<u32>,
    /// Or as many as the load needs.
    #[command(flatten)]
    pub bounds: Bounds,
}

/// Remove a worker.
#[derive(Debug, clap::Args)]
pub struct Remove {
    /// The worker
    #[arg(value_name = "WORKER")]
    pub name: String,
    /// Stop its replicas and cancel the jobs that are for it
    #[arg(long)]
    pub force: bool,
}

/// Make jobs of a queue run a command.
#[derive(Debug, clap::Args)]
pub struct Register {
    /// The worker's name
    #[arg(value_name = "WORKER", required_unless_present = "file")]
    pub name: Option<String>,
    /// Workers from a TOML file: one table per name with the fields of a job
    #[arg(long, value_name = "FILE", conflicts_with_all = ["name", "command"])]
    pub file: Option<String>,
    /// Its queue [default: jobs.NAME]
    #[arg(long, short, value_name = "QUEUE")]
    pub queue: Option<String>,
    /// The checkout to run in.
    #[command(flatten)]
    pub git: Git,
    /// A process that stays and answers requests
    #[arg(long = "static")]
    pub is_static: bool,
    /// How it is spoken to.
    #[command(flatten)]
    pub serving: Asked,
    /// A script for `sh -c` instead of a command; fields of the payload are its parameters
    #[arg(long, value_name = "SCRIPT", conflicts_with = "command")]
    pub shell: Option<String>,
    /// What each job needs.
    #[command(flatten)]
    pub needs: Needs,
    /// An environment variable; may be repeated
    #[arg(long, value_name = "K=V", value_parser = values::pair)]
    pub env: Vec<(String, String)>,
    /// How often a failure is tried again
    #[arg(long, value_name = "N")]
    pub retries: Option<u32>,
    /// The longest run
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    pub timeout: Option<f64>,
    /// The command and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// How a static worker is spoken to.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "Static workers")]
pub struct Asked {
    /// stdio: JSON lines; http: it gets a port in PORT [default: stdio]
    #[arg(long, value_name = "http|stdio", requires = "is_static")]
    pub protocol: Option<String>,
    /// HTTP: the path that answers 200 when it is ready [default: its port accepts]
    #[arg(long, value_name = "PATH", requires = "is_static")]
    pub ready: Option<String>,
    /// HTTP: where requests are posted [default: /]
    #[arg(long, value_name = "PATH", requires = "is_static")]
    pub path: Option<String>,
    /// Replicas at launch [default: 1]
    #[arg(long, value_name = "N", requires = "is_static")]
    pub replicas: Option<u32>,
    /// Requests at one replica at once [default: 1, or as many as a batch may have]
    #[arg(long, value_name = "N", requires = "is_static")]
    pub max_ongoing: Option<u32>,
    /// How long it may load without progress [default: 10m]
    #[arg(long, value_name = "TIME", value_parser = values::duration, requires = "is_static")]
    pub stall: Option<f64>,
    /// How long it may finish what it works on when it is to end [default: 30s]
    #[arg(long = "drain", value_name = "TIME", value_parser = values::duration, requires = "is_static")]
    pub drain: Option<f64>,
    /// For calls that name no deadline [default: 60s]
    #[arg(long, value_name = "TIME", value_parser = values::duration, requires = "is_static")]
    pub deadline: Option<f64>,
    /// The number of replicas follows the load, and is never less; 0: the first request starts one [default: 1]
    #[arg(long, value_name = "N", requires = "max")]
    pub min: Option<u32>,
    /// The number of replicas follows the load, and is never more
    #[arg(long, value_name = "N", requires = "is_static")]
    pub max: Option<u32>,
    /// More replicas when a request has waited so long [default: 1s]
    #[arg(long, value_name = "TIME", value_parser = values::duration, requires = "max")]
    pub scale_up_wait: Option<f64>,
    /// One replica less when it was not needed for so long [default: 5m]
    #[arg(long, value_name = "TIME", value_parser = values::duration, requires = "max")]
    pub scale_down_after: Option<f64>,
    /// Without a request for so long all replicas end; the next one brings them back
    #[arg(long, value_name = "TIME", value_parser = values::duration, requires = "is_static")]
    pub idle_unload: Option<f64>,
    /// Requests to one replica go together, at most so many: a JSON array
    #[arg(long, value_name = "N", requires = "is_static")]
    pub batch_max_size: Option<u32>,
    /// How long a batch that is not full waits for more, milliseconds [default: 10]
    #[arg(long, value_name = "MS", requires = "batch_max_size")]
    pub batch_max_delay_ms: Option<u32>,
}

impl Asked {
    fn into_serving(self) -> Serving {
        Serving {
            protocol: self.protocol,
            ready: self.ready,
            path: self.path,
            replicas: self.replicas,
            max_ongoing: self.max_ongoing,
            stall_s: self.stall,
            drain_s: self.drain,
            deadline_s: self.deadline,
            min: self.min,
            max: self.max,
            scale_up_wait_s: self.scale_up_wait,
            scale_down_after_s: self.scale_down_after,
            idle_unload_s: self.idle_unload,
            batch_max_size: self.batch_max_size,
            batch_max_delay_ms: self.batch_max_delay_ms,
        }
    }
}

/// Runs it.
pub async fn run(worker: Worker, context: &mut Context) -> Result<(), Error> {
    match worker {
        Worker::Register(given) => register(*given, context).await,
        Worker::Ls => {
            let Some(list) = context.get::<List<WorkerView>>("/v1/workers").await? else { return Ok(()) };
            if list.items.is_empty() {
                note("no workers yet; see `reeve worker register --help`");
            }
            context.table(&table(&list.items))
        }
        Worker::Show(show) => {
            let version = show.version.map(|n| format!("?version={n}")).unwrap_or_default();
            match context.get::<WorkerView>(&path(&show.name, &version)).await? {
                Some(worker) => print(&worker, context),
                None => Ok(()),
            }
        }
        Worker::Launch(Launch { name, on, replicas, bounds: Bounds { min, max } }) => {
            change(&name, "/launch", &LaunchRequest { on, replicas, min, max }, context).await
        }
        Worker::Scale(Scale { name, replicas, bounds: Bounds { min, max } }) => {
            change(&name, "/scale", &ScaleRequest { replicas, min, max }, context).await
        }
        Worker::Drain(Name { name }) => change(&name, "/drain", &json!({}), context).await,
        Worker::Stop(Name { name }) => change(&name, "/stop", &json!({}), context).await,
        Worker::Call(call) => ask(call, context).await,
        Worker::Rm(Remove { name, force }) => {
            let query = if force { "?force=true" } else { "" };
            if context.ask::<Value>(Method::DELETE, &path(&name, query), None::<&()>).await?.is_some() {
                note(format!("worker {name} is removed"));
            }
            Ok(())
        }
        Worker::Other(words) => Err(other("worker", &words)),
    }
}

/// Changes a static worker, and shows it.
async fn change(
    name: &str,
    what: &str,
    body: &impl serde::Serialize,
    context: &mut Context,
) -> Result<(), Error> {
    match context.post::<WorkerView>(&path(name, what), body).await? {
        Some(worker) => context.table(&table(std::slice::from_ref(&worker))),
        None => Ok(()),
    }
}

/// Asks a static worker. Its answer goes to standard output as the worker wrote it; with `--json` in the API's form.
async fn ask(call: Call, context: &mut Context) -> Result<(), Error> {
    let payload = values::json("PAYLOAD", &call.payload)?;
    let body = CallRequest { payload, deadline_s: call.deadline };
    match context.post::<CallReply>(&path(&call.name, "/requests"), &body).await? {
        Some(reply) => context.line(reply.result.get()),
        None => Ok(()),
    }
}

fn path(name: &str, rest: &str) -> String {
    format!("/v1/workers/{}{rest}", escape(name))
}

async fn register(register: Register, context: &mut Context) -> Result<(), Error> {
    if let Some(file) = &register.file {
        let text = std::fs::read_to_string(file).map_err(Error::input(file.as_str()))?;
        for (name, request) in from_toml(file, &text)? {
            put(&name, &request, context).await?;
        }
        return Ok(());
    }
    // clap requires the name where there is no file.
    let name = register.name.clone().unwrap_or_default();
    let request = request_of(register)?;
    put(&name, &request, context).await
}

async fn put(name: &str, request: &WorkerRequest, context: &mut Context) -> Result<(), Error> {
    match context.ask::<WorkerView>(Method::PUT, &path(name, ""), Some(request)).await? {
        Some(worker) => context.table(&table(std::slice::from_ref(&worker))),
        None => Ok(()),
    }
}

fn request_of(register: Register) -> Result<WorkerRequest, Error> {
    if register.git.dirty {
        return Err(not_yet("--dirty"));
    }
    let serving = register.is_static.then(|| register.serving.into_serving());
    let kind = match (register.is_static, &register.git.repo) {
        (true, _) => Some("static".to_owned()),
        (false, Some(_)) => Some("git".to_owned()),
        (false, None) => None,
    };
    let git = register.git;
    let mut spec = JobSpec {
        command: values::program(register.command, &["worker", "register"])?,
        queue: register.queue,
        git: git.into_spec()?,
        env: register.env.into_iter().collect(),
        retries: register.retries,
        timeout_s: register.timeout,
        ..JobSpec::default()
    };
    register.needs.fill(&mut spec)?;
    Ok(WorkerRequest { kind, spec, shell: register.shell, serving })
}

/// `[workers.NAME]` tables: `kind`, `shell` and how a static worker is spoken to beside the fields of a job.
fn from_toml(file: &str, text: &str) -> Result<BTreeMap<String, WorkerRequest>, Error> {
    let wrong = |what: String| Error::Usage(format!("{file}: {what}"));
    let mut tables: BTreeMap<String, toml::Table> = toml::from_str(text).map_err(|e| wrong(e.to_string()))?;
    if let Some(below) = tables.remove("workers") {
        for (name, table) in below {
            let table = table.try_into().map_err(|_| wrong(format!("workers.{name} is no table")))?;
            tables.insert(name, table);
        }
    }
    let mut workers = BTreeMap::new();
    for (name, mut table) in tables {
        let mut word = |key: &str| match table.remove(key) {
            Some(toml::Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(wrong(format!("[workers.{name}] {key} is no text"))),
            None => Ok(None),
        };
        let (kind, shell) = (word("kind")?, word("shell")?);
        let mut asked = toml::Table::new();
        for key in SERVING {
            asked.extend(table.remove(key).map(|value| (key.to_owned(), value)));
        }
        let mistake = |e: toml::de::Error| wrong(format!("[workers.{name}] {}", e.message()));
        let is_static = kind.as_deref() == Some("static") || !asked.is_empty();
        let serving = is_static.then(|| asked.try_into()).transpose().map_err(mistake)?;
        let spec = table.try_into().map_err(mistake)?;
        workers.insert(name.clone(), WorkerRequest { kind, spec, shell, serving });
    }
    Ok(workers)
}

/// The fields of a table that say how a static worker is spoken to.
const SERVING: [&str; 15] = [
    "protocol",
    "ready",
    "path",
    "replicas",
    "max_ongoing",
    "stall_s",
    "drain_s",
    "deadline_s",
    "min",
    "max",
    "scale_up_wait_s",
    "scale_down_after_s",
    "idle_unload_s",
    "batch_max_size",
    "batch_max_delay_ms",
];

fn table(workers: &[WorkerView]) -> Table {
    let mut table =
        Table::new(&["WORKER", "KIND", ">VERSION", ">READY", "PHASE", ">BUSY", "QUEUE", "COMMAND"]);
    for worker in workers {
        let status = worker.status.as_ref();
        let version = status.map_or(worker.version, |s| s.version).to_string();
        let ready = status.map_or_else(|| "-".to_owned(), |s| format!("{}/{}", s.ready, s.desired));
        let phase = status.map_or("-", |s| s.phase.as_str());
        let busy = status.map_or_else(|| "-".to_owned(), |s| s.outstanding.to_string());
        let title = worker.shell.clone().unwrap_or_else(|| worker.spec.title());
        let cells = [&worker.name, &worker.kind, &version, &ready, phase, &busy, &worker.queue, &title];
        table.row(cells.map(Cell::from));
    }
    table
}

fn print(worker: &WorkerView, context: &mut Context) -> Result<(), Error> {
    context.table(&table(std::slice::from_ref(worker)))?;
    if let Some(status) = &worker.status {
        if let Some(bounds) = status.follows() {
            context.line(format!("replicas: {bounds}"))?;
        }
        if let Some(commit) = &status.commit {
            context.line(format!("commit: {commit}"))?;
        }
        if let Some(reason) = &status.reason {
            context.line(format!("reason: {}", Clean::line(reason)))?;
        }
        let mut table = Table::new(&[
            ">REPLICA",
            ">JOB",
            ">START",
            ">VERSION",
            "MACHINE",
            "PHASE",
            ">BUSY",
            ">ANSWERED",
            "WHY",
        ]);
        for r in &status.replicas {
            let loaded = r.progress.map(|p| format!("{:.0} % ", p * 100.0)).unwrap_or_default();
            let why = r.reason.clone().or_else(|| r.message.clone()).unwrap_or_default();
            table.row([
                r.replica.to_string().as_str().into(),
                r.job.to_string().as_str().into(),
                r.attempt.to_string().as_str().into(),
                r.version.to_string().as_str().into(),
                r.machine.as_deref().unwrap_or("-").into(),
                r.phase.as_str().into(),
                r.outstanding.to_string().as_str().into(),
                r.answered.to_string().as_str().into(),
                format!("{loaded}{why}").as_str().into(),
            ]);
        }
        context.table(&table)?;
    }
    if let Some(serving) = &worker.serving {
        context.json_line(serving)?;
    }
    context.json_line(&worker.spec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_come_from_tables_of_a_file() {
        let text = "[bank]\nkind = \"command\"\ncommand = [\"./bank\", \"-v\"]\nresources.gpus = 1\n";
        let workers = from_toml("w.toml", text).unwrap();
        assert_eq!(workers["bank"].kind.as_deref(), Some("command"));
        assert_eq!(workers["bank"].spec.command.as_ref().unwrap().len(), 2);
        assert_eq!(workers["bank"].spec.resources.gpus, Some(1.0));
        let text = "[workers.a]\nkind=\"static\"\nmin=0\nmax=3\nidle_unload_s=60\nmax_ongoing=4\ncommand=[\"./a\"]\n[workers.b]\nshell=\"echo {payload.x}\"\n";
        let workers = from_toml("w.toml", text).unwrap();
        assert_eq!(workers["a"].serving.as_ref().unwrap().max_ongoing, Some(4));
        assert_eq!(workers["a"].serving.as_ref().unwrap().range().map(|r| (r.least, r.most)), Some((0, 3)));
        assert_eq!((workers["b"].shell.as_deref(), &workers["b"].serving), (Some("echo {payload.x}"), &None));
        let error = from_toml("w.toml", "[bank]\ncomand = []\n").unwrap_err();
        assert!(error.to_string().contains("[workers.bank]"), "{error}");
        assert_eq!(error.exit_code(), 2);
    }
}
