//! `reeve submit`: from words to a [`JobSpec`], and what is done with its id.
use super::context::Context;
use super::error::{Error, note};
use super::git::Git;
use super::values;
use super::{batch, follow, wait};
use bytes::Bytes;
use reeve_protocol::api::Submitted;
use reeve_protocol::selector::Selector;
use reeve_protocol::spec::{ArraySpec, LostAfter};
use reeve_protocol::time::Wall;
use reeve_protocol::{Code, JobSpec, Problem};
use std::hash::{BuildHasher as _, Hasher as _};

/// Submit a job, an array of tasks or a file of jobs. Prints the id.
#[derive(Debug, Default, clap::Args)]
#[command(
    override_usage = "reeve submit [OPTIONS] [--] COMMAND [ARG]...\n       reeve submit --file jobs.jsonl"
)]
pub struct Submit {
    /// A name for people
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// The queue it waits in
    #[arg(long, short, value_name = "QUEUE")]
    pub queue: Option<String>,
    /// A registered worker that runs it
    #[arg(long, value_name = "WORKER")]
    pub worker: Option<String>,
    /// What the job gets in the file $REEVE_PAYLOAD
    #[arg(long, value_name = "JSON|@FILE|-")]
    pub payload: Option<String>,
    /// k=v to filter by; may be repeated
    #[arg(long, value_name = "K=V", value_parser = values::pair)]
    pub label: Vec<(String, String)>,
    /// Send every change of state and the result there: a queue of messages, or backend:NAME#EXCHANGE/ROUTING-KEY,
    /// backend:NAME#STREAM
    #[arg(long, value_name = "PLACE")]
    pub reply_to: Option<String>,
    /// Given back with each of them
    #[arg(long, value_name = "TEXT", requires = "reply_to")]
    pub correlation_id: Option<String>,
    /// The checkout to run in.
    #[command(flatten)]
    pub git: Git,
    /// What it needs.
    #[command(flatten)]
    pub needs: Needs,
    /// When and how often.
    #[command(flatten)]
    pub when: When,
    /// Many tasks.
    #[command(flatten)]
    pub many: Many,
    /// An environment variable; may be repeated
    #[arg(long, value_name = "K=V", value_parser = values::pair, help_heading = "Environment")]
    pub env: Vec<(String, String)>,
    /// Copy these variables from here, or all
    #[arg(long, value_name = "NAME,..|all", value_delimiter = ',', help_heading = "Environment")]
    pub inherit_env: Vec<String>,
    /// The directory it starts in [default: this one]
    #[arg(long, value_name = "DIR", help_heading = "Environment")]
    pub cwd: Option<String>,
    /// What it reads
    #[arg(long, value_name = "FILE|-", help_heading = "Environment")]
    pub stdin: Option<String>,
    /// Keep these files at its end, such as 'runs/*.ckpt'; may be repeated (everything in $REEVE_OUT_DIR is kept)
    #[arg(long, value_name = "PATTERN", help_heading = "Environment")]
    pub out: Vec<String>,
    /// Bytes of all files kept of an attempt [default: 1GiB]
    #[arg(long, value_name = "SIZE", value_parser = values::bytes, help_heading = "Environment")]
    pub out_max: Option<u64>,
    /// The user it runs as
    #[arg(long, value_name = "USER", help_heading = "Environment")]
    pub run_as: Option<String>,
    /// The same token submits the same job once
    #[arg(long, value_name = "TOKEN", help_heading = "How it is submitted")]
    pub key: Option<String>,
    /// Wait for `reeve release`
    #[arg(long, help_heading = "How it is submitted")]
    pub hold: bool,
    /// Wait for its end, and exit with the job's own code
    #[arg(long, help_heading = "How it is submitted")]
    pub wait: bool,
    /// Also stream its output; the id goes to standard error
    #[arg(long, help_heading = "How it is submitted")]
    pub follow: bool,
    /// Say what would be submitted and where it fits
    #[arg(long, help_heading = "How it is submitted")]
    pub dry_run: bool,
    /// Submit each line of a file: JSON objects as in POST /v1/jobs
    #[arg(long, value_name = "FILE|-", help_heading = "How it is submitted", conflicts_with_all = ["command", "name", "wait", "follow", "array"])]
    pub file: Option<String>,
    /// The command and its arguments; never goes through a shell
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// What a job needs.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "Resources")]
pub struct Needs {
    /// Cpus [default: 1]
    #[arg(long, value_name = "N", value_parser = values::amount)]
    pub cpus: Option<f64>,
    /// Memory, such as 4GiB [default: no limit]
    #[arg(long, visible_alias = "mem", value_name = "SIZE", value_parser = values::memory)]
    pub memory: Option<u64>,
    /// Gpus [default: 0]
    #[arg(long, value_name = "N", value_parser = values::amount)]
    pub gpus: Option<f64>,
    /// A named resource; may be repeated
    #[arg(long, value_name = "NAME=N", value_parser = values::counted)]
    pub resource: Vec<(String, u64)>,
    /// Only these machines; may be repeated
    #[arg(long, value_name = "MACHINE|label.K=V")]
    pub on: Vec<String>,
    /// Not these machines; may be repeated
    #[arg(long, value_name = "MACHINE|label.K=V")]
    pub not_on: Vec<String>,
    /// At most N at once of all jobs with this name; may be repeated
    #[arg(long, value_name = "NAME=N", value_parser = values::counted)]
    pub limit: Vec<(String, u64)>,
}

/// When a job runs and how often.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "Time and order")]
pub struct When {
    /// Higher first
    #[arg(long, short, value_name = "N", allow_negative_numbers = true)]
    pub priority: Option<i32>,
    /// How often its own failure is tried again
    #[arg(long, value_name = "N")]
    pub retries: Option<u32>,
    /// Its longest run, such as 30m
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    pub timeout: Option<f64>,
    /// Start no sooner than this from now
    #[arg(long, value_name = "TIME", value_parser = values::duration, conflicts_with = "at")]
    pub delay: Option<f64>,
    /// Start no sooner than this
    #[arg(long, value_name = "TIME", value_parser = values::time)]
    pub at: Option<Wall>,
    /// Give up if it has not started by then
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    pub expires: Option<f64>,
    /// How long its machine may be silent before it runs elsewhere [default: 5m]
    #[arg(long, value_name = "TIME|never", value_parser = values::lost_after)]
    pub lost_after: Option<LostAfter>,
    /// Never two attempts at once, even when its machine is lost
    #[arg(long)]
    pub exclusive: bool,
    /// Time between TERM and KILL when it is stopped [default: 15s]
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    pub grace: Option<f64>,
    /// Jobs that must have COMPLETED first
    #[arg(long, value_name = "ID,..", value_delimiter = ',', value_parser = values::selector)]
    pub after: Vec<Selector>,
    /// Jobs that must have ended first
    #[arg(long, value_name = "ID,..", value_delimiter = ',', value_parser = values::selector)]
    pub after_any: Vec<Selector>,
    /// Jobs that must have FAILED first
    #[arg(long, value_name = "ID,..", value_delimiter = ',', value_parser = values::selector)]
    pub after_fail: Vec<Selector>,
}

/// Many tasks from one command.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "Arrays")]
pub struct Many {
    /// One task per number, at most LIMIT at once
    #[arg(long, value_name = "FROM-TO[%LIMIT]", value_parser = values::array, conflicts_with = "each_line")]
    pub array: Option<ArraySpec>,
    /// One task per line of a file, given in $REEVE_ITEM
    #[arg(long, value_name = "FILE|-")]
    pub each_line: Option<String>,
    /// Run the first N before the others
    #[arg(long, value_name = "N")]
    pub canary: Option<u32>,
    /// Stop the array when more than this share has failed
    #[arg(long, value_name = "SHARE")]
    pub max_fail: Option<String>,
}

/// Runs it.
pub async fn run(submit: Submit, context: &mut Context) -> Result<(), Error> {
    if let Some(file) = &submit.file {
        return batch::run(file, batch::Lines::Jobs, context).await;
    }
    let waits = submit.wait || submit.follow;
    match one(submit, context).await {
        Err(error) if waits => Err(error.for_wait()),
        other => other,
    }
}

async fn one(submit: Submit, context: &mut Context) -> Result<(), Error> {
    let (wait, streams, dry_run) = (submit.wait, submit.follow, submit.dry_run);
    let key = submit.key.clone();
    let client = context.client()?;
    let spec = submit.into_spec(&super::spec::Surroundings::of_process(), &client).await?;
    let hint = shell_hint(&spec);
    let body = Bytes::from(serde_json::to_vec(&spec).map_err(|e| Error::Usage(e.to_string()))?);
    if dry_run {
        return dry(&client, body, context).await;
    }
    let reply = post(&client, "/v1/jobs", key, body).await?;
    let submitted: Submitted = reply.json()?;
    if submitted.created {
        note(format!("note: queue {} is new", spec.queue_name()));
    }
    let id = submitted.id;
    if streams {
        note(id.to_string());
        follow::whole(&client, id, context).await?;
    } else if !(context.json && wait) {
        if context.json {
            context.raw(&reply.body)?;
            context.raw(b"\n")?;
        } else {
            context.line(id.to_string())?;
        }
        context.flush()?;
    }
    if wait || streams {
        return wait::end_of(&client, &id.to_string(), hint, context).await;
    }
    Ok(())
}

/// Submits once, whatever happens to the connection: a key makes the second attempt safe.
pub async fn post(
    client: &crate::client::Client,
    path: &str,
    key: Option<String>,
    body: Bytes,
) -> Result<crate::client::Reply, Error> {
    let key = key.unwrap_or_else(random_key);
    let headers = [("content-type", crate::client::JSON), ("idempotency-key", key.as_str())];
    match client.post_with(path, &headers, body.clone()).await {
        Err(problem)
            if problem.is(Code::Unavailable)
                && problem.outcome == reeve_protocol::error::Outcome::Unknown =>
        {
            Ok(client.post_with(path, &headers, body).await?)
        }
        other => Ok(other?),
    }
}

/// 128 random bits: the standard library seeds its hashers from the kernel.
fn random_key() -> String {
    let word = || {
        let mut hasher = std::hash::RandomState::new().build_hasher();
        hasher.write_u32(std::process::id());
        hasher.write_i64(Wall::now().0);
        hasher.finish()
    };
    format!("cli-{:016x}{:016x}", word(), word())
}

async fn dry(client: &crate::client::Client, body: Bytes, context: &mut Context) -> Result<(), Error> {
    #[derive(serde::Deserialize)]
    struct Dry {
        queue: String,
        fits: Vec<String>,
        reasons: Vec<reeve_protocol::api::WhyLine>,
        spec: serde_json::Value,
    }
    let headers = [("content-type", crate::client::JSON)];
    let reply = client.post_with("/v1/jobs?dry_run=true", &headers, body).await?;
    if context.json {
        context.raw(&reply.body)?;
        return context.raw(b"\n");
    }
    let dry: Dry = reply.json()?;
    context.line(format!("would be submitted to queue {}; nothing was stored", dry.queue))?;
    context.line(match dry.fits.as_slice() {
        [] => "fits no machine".to_owned(),
        fits => format!("fits {}", fits.join(", ")),
    })?;
    for reason in dry.reasons {
        context.line(super::show::why_line(&reason))?;
    }
    context.line(dry.spec.to_string())
}

/// One word with spaces is most often a line meant for a shell.
fn shell_hint(spec: &JobSpec) -> Option<String> {
    match spec.command.as_deref() {
        Some([word]) if word.contains(' ') => Some(format!(
            "the command is one word with spaces; for a shell: reeve submit -- sh -c {}",
            quote(word)
        )),
        _ => None,
    }
}

fn quote(word: &str) -> String {
    shlex::try_quote(word).map_or_else(|_| "'...'".to_owned(), std::borrow::Cow::into_owned)
}

/// Options that no field of a job carries yet.
pub fn not_yet(option: &str) -> Error {
    Problem::new(Code::NotYet, format!("{option} comes with a later version"))
        .hint("leave the option out for now; `reeve submit --help` lists what there is")
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_differ_and_pass_the_grammar() {
        let (a, b) = (random_key(), random_key());
        assert_ne!(a, b);
        assert!(reeve_protocol::spec_check::check_key("key", &a).is_ok());
    }

    #[test]
    fn only_a_single_word_with_spaces_is_suspicious() {
        let of = |words: &[&str]| {
            let command = Some(words.iter().map(|w| (*w).to_owned()).collect());
            shell_hint(&JobSpec { command, ..JobSpec::default() })
        };
        assert!(of(&["echo hi > x"]).unwrap().ends_with("sh -c 'echo hi > x'"));
        assert_eq!(of(&["true"]), None);
        assert_eq!(of(&["echo", "a b"]), None);
    }
}
