//! `reeve worker ...`.
use super::context::Context;
use super::error::{Error, note};
use super::git::Git;
use super::queue::other;
use super::submit::{Needs, not_yet};
use super::table::Table;
use super::values;
use crate::client::escape;
use hyper::Method;
use reeve_protocol::JobSpec;
use reeve_protocol::api::{List, WorkerRequest, WorkerView};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What can be done with workers.
#[derive(Debug, clap::Subcommand)]
pub enum Worker {
    /// Make jobs of a queue run a command, or change it
    Register(Box<Register>),
    /// List workers
    Ls,
    /// Show a worker
    Show(Name),
    /// Start a static worker
    Launch(Launch),
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

/// Start a static worker.
#[derive(Debug, clap::Args)]
pub struct Launch {
    /// The worker
    #[arg(value_name = "WORKER")]
    pub name: String,
    /// Where
    #[arg(long, value_name = "MACHINE")]
    pub on: Option<String>,
    /// How many
    #[arg(long, value_name = "N")]
    pub replicas: Option<u32>,
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
    /// http or stdio
    #[arg(long, value_name = "PROTOCOL", requires = "is_static")]
    pub protocol: Option<String>,
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
        Worker::Show(name) => match context.get::<WorkerView>(&path(&name.name, "")).await? {
            Some(worker) => print(&worker, context),
            None => Ok(()),
        },
        Worker::Launch(launch) => {
            let body = json!({"on": launch.on, "replicas": launch.replicas});
            context.post::<Value>(&path(&launch.name, "/launch"), &body).await.map(|_| ())
        }
        Worker::Other(words) => Err(other("worker", &words)),
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
    let kind = match (register.is_static, &register.git.repo) {
        (true, _) => Some("static".to_owned()),
        (false, Some(_)) => Some("git".to_owned()),
        (false, None) => None,
    };
    let git = register.git;
    let mut spec = JobSpec {
        command: (!register.command.is_empty()).then_some(register.command),
        queue: register.queue,
        git: git.into_spec()?,
        env: register.env.into_iter().collect(),
        retries: register.retries,
        timeout_s: register.timeout,
        ..JobSpec::default()
    };
    register.needs.fill(&mut spec)?;
    Ok(WorkerRequest { kind, spec })
}

/// `[NAME]` tables: `kind` beside the fields of a job.
fn from_toml(file: &str, text: &str) -> Result<BTreeMap<String, WorkerRequest>, Error> {
    let wrong = |what: String| Error::Usage(format!("{file}: {what}"));
    let tables: BTreeMap<String, toml::Table> = toml::from_str(text).map_err(|e| wrong(e.to_string()))?;
    let mut workers = BTreeMap::new();
    for (name, mut table) in tables {
        let kind = table.remove("kind").and_then(|kind| kind.as_str().map(str::to_owned));
        let spec = table.try_into().map_err(|e| wrong(format!("[{name}] {}", e.message())))?;
        workers.insert(name, WorkerRequest { kind, spec });
    }
    Ok(workers)
}

fn table(workers: &[WorkerView]) -> Table {
    let mut table = Table::new(&["WORKER", "KIND", ">VERSION", "QUEUE", "OWNER", "COMMAND"]);
    for worker in workers {
        let version = worker.version.to_string();
        let cells =
            [&worker.name, &worker.kind, &version, &worker.queue, &worker.owner, &worker.spec.title()];
        table.row(cells.map(|text| text.as_str().into()));
    }
    table
}

fn print(worker: &WorkerView, context: &mut Context) -> Result<(), Error> {
    context.table(&table(std::slice::from_ref(worker)))?;
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
        let error = from_toml("w.toml", "[bank]\ncomand = []\n").unwrap_err();
        assert!(error.to_string().contains("[bank]"), "{error}");
        assert_eq!(error.exit_code(), 2);
    }
}
