//! `reeve show` and `reeve why`: one job in words.
use super::context::Context;
use super::error::{Error, note};
use super::list::{counts, id_of};
use super::select::{Selection, job_path};
use super::table::{Table, painted};
use super::values;
use reeve_protocol::api::{AttemptView, JobView, Why as WhyReply, WhyLine};
use reeve_protocol::selector::Selector;
use reeve_protocol::text::Clean;
use reeve_protocol::time::Wall;
use reeve_protocol::units::{show_bytes, show_duration};
use reeve_protocol::{Cause, Code};

/// Show everything about jobs.
#[derive(Debug, clap::Args)]
pub struct Show {
    /// Which.
    #[command(flatten)]
    pub selection: Selection,
}

/// Say why a job does not run.
#[derive(Debug, clap::Args)]
pub struct Why {
    /// The job
    #[arg(value_name = "JOB", value_parser = values::selector)]
    pub job: Selector,
}

/// Runs `reeve show`.
pub async fn run(show: Show, context: &mut Context) -> Result<(), Error> {
    let client = context.client()?;
    let named = show.selection.each(&client).await?;
    let mut shown = 0;
    for (name, own) in &named {
        let job: Option<JobView> = match context.get(&job_path(name, "")).await {
            // A range may have holes.
            Err(Error::Problem(problem)) if problem.is(Code::NotFound) && !own => continue,
            other => other?,
        };
        if let Some(job) = job {
            if shown > 0 {
                context.line("")?;
            }
            print(&job, context)?;
        }
        shown += 1;
    }
    if shown == 0 {
        note("no job matches");
    }
    Ok(())
}

/// Runs `reeve why`.
pub async fn why(why: Why, context: &mut Context) -> Result<(), Error> {
    let path = job_path(&why.job.to_string(), "/why");
    let Some(reply) = context.get::<WhyReply>(&path).await? else { return Ok(()) };
    let substate = reply.substate.map_or_else(String::new, |s| format!(" ({s})"));
    let state = painted(reply.state, context.color);
    context.line(format!("job {} is {state}{substate}", reply.id))?;
    for reason in &reply.reasons {
        context.line(why_line(reason))?;
    }
    Ok(())
}

/// One verdict.
pub fn why_line(reason: &WhyLine) -> String {
    match &reason.machine {
        Some(machine) => format!("  {}: {}", Clean::line(machine), Clean::line(&reason.text)),
        None => format!("  {}", Clean::line(&reason.text)),
    }
}

/// `FAILED: spawn ENOENT: program x not found`, for one line.
pub fn end_words(job: &JobView) -> String {
    match &job.cause {
        Some(Cause::Ok) | None => match &job.array {
            Some(array) => format!("{}: {}", job.state, counts(&array.counts, array.total)),
            None => job.state.to_string(),
        },
        Some(cause) => format!("{}: {}", job.state, cause_words(cause)),
    }
}

/// A cause with its details, clean.
pub fn cause_words(cause: &Cause) -> String {
    let meaning = match cause {
        Cause::Lost => " (its machine was not heard for too long)",
        Cause::KeeperLost => " (the process that held it was killed)",
        Cause::Rebooted => " (its machine was restarted)",
        Cause::Dependency => " (a job it depends on ended otherwise)",
        Cause::Expired => " (it did not start in time)",
        Cause::Timeout => " (it ran longer than its --timeout)",
        Cause::Drained => " (its machine or server was stopped)",
        _ => "",
    };
    match cause.detail() {
        "" => format!("{cause}{meaning}"),
        detail => format!("{cause}: {}", Clean::short(detail, 300)),
    }
}

fn print(job: &JobView, context: &mut Context) -> Result<(), Error> {
    for (key, value) in facts(job, Wall::now(), context.color) {
        context.line(format!("{key:<10} {value}"))?;
    }
    if job.attempts.is_empty() {
        return Ok(());
    }
    context.line("")?;
    let mut table =
        Table::new(&[">ATTEMPT", "MACHINE", "STARTED", ">RUN", "END", ">CPU", ">MEMORY", ">OUTPUT", "FILES"]);
    for attempt in &job.attempts {
        table.row(attempt_row(attempt).map(Into::into));
    }
    context.table(&table)?;
    for (at, line) in super::story::story(job).into_iter().enumerate() {
        if at == 0 {
            context.line("")?;
        }
        context.line(line)?;
    }
    Ok(())
}

/// What is known, in the order of its use. Every value is clean.
fn facts(job: &JobView, now: Wall, color: bool) -> Vec<(&'static str, String)> {
    let clean = |text: &str| Clean::line(text).into_string();
    let mut facts = vec![("job", id_of(job))];
    let mut fact = |key, value: Option<String>| facts.extend(value.map(|v| (key, v)));
    let substate = job.substate.map_or_else(String::new, |s| format!(" ({s})"));
    fact("state", Some(painted(job.state, color) + &substate));
    fact("cause", job.cause.as_ref().map(cause_words));
    fact("alias", job.alias.as_deref().map(|a| format!("@{}", clean(a))));
    fact("name", job.name.as_deref().map(clean));
    fact("command", job.spec.command.as_ref().map(|words| clean(&command_line(words))));
    fact("worker", job.spec.worker.as_deref().or(job.worker.as_deref()).map(clean));
    fact("git", job.spec.git.as_ref().map(|g| clean(&g.to_string())));
    fact("directory", job.spec.cwd.as_deref().map(clean));
    fact("queue", Some(format!("{}, priority {}", clean(&job.queue), job.priority)));
    fact("owner", Some(clean(&job.owner)));
    fact("warning", job.warning.as_deref().map(clean));
    fact("machine", job.machine.as_deref().map(clean));
    fact("submitted", Some(moment(job.created_at, now)));
    fact("starts", job.run_at.map(Wall::local_date));
    fact("started", job.started_at.map(|at| moment(at, now)));
    fact("ended", job.ended_at.map(|at| moment(at, now)));
    let ran = job.started_at.map(|start| job.ended_at.unwrap_or(now).seconds_since(start));
    fact("ran", ran.map(show_duration));
    fact("tasks", job.array.as_ref().map(|a| counts(&a.counts, a.total)));
    fact("needs", Some(needs(job)));
    let labels: Vec<String> = job.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    fact("labels", (!labels.is_empty()).then(|| clean(&labels.join(" "))));
    fact("progress", job.progress.map(|p| format!("{:.0} %", p * 100.0)));
    fact("message", job.message.as_deref().map(clean));
    fact("result", job.result.as_ref().map(|r| Clean::short(&r.to_string(), 2000).into_string()));
    fact("definition", job.definition.as_ref().map(|d| Clean::short(&d.to_string(), 2000).into_string()));
    facts
}

/// The words as a shell would need them.
fn command_line(words: &[String]) -> String {
    shlex::try_join(words.iter().map(String::as_str)).unwrap_or_else(|_| words.join(" "))
}

fn moment(at: Wall, now: Wall) -> String {
    format!("{} ({} ago)", at.local_date(), show_duration(now.seconds_since(at)))
}

fn needs(job: &JobView) -> String {
    let ask = &job.spec.resources;
    let mut parts = vec![format!("{} cpu", ask.cpus.unwrap_or(1.0))];
    parts.extend(ask.memory_bytes.map(|bytes| format!("{} memory", show_bytes(bytes))));
    parts.extend(ask.gpus.filter(|gpus| *gpus > 0.0).map(|gpus| format!("{gpus} gpu")));
    parts.extend(ask.named.iter().map(|(name, count)| format!("{count} {}", Clean::line(name))));
    parts.join(", ")
}

/// What it left behind.
fn files(attempt: &AttemptView) -> String {
    match attempt.artifacts {
        0 => String::new(),
        n => format!("{n} ({})", show_bytes(attempt.artifact_bytes)),
    }
}

fn attempt_row(attempt: &AttemptView) -> [String; 9] {
    let number =
        attempt.index.map_or_else(|| attempt.attempt.to_string(), |i| format!("{i}#{}", attempt.attempt));
    let run = attempt.started_at.zip(attempt.ended_at).map(|(start, end)| end.seconds_since(start));
    let end = match (&attempt.cause, &attempt.late) {
        (Some(cause), Some(late)) => format!("{cause} (late: {late})"),
        (Some(cause), None) => cause.to_string(),
        (None, _) => attempt.pid.map_or_else(String::new, |pid| format!("pid {pid}")),
    };
    let bytes = |n: u64| if n == 0 { String::new() } else { show_bytes(n) };
    [
        number,
        attempt.machine.clone(),
        attempt.started_at.map(Wall::local_date).unwrap_or_default(),
        run.map(show_duration).unwrap_or_default(),
        end,
        if attempt.cpu_s > 0.0 { show_duration(attempt.cpu_s) } else { String::new() },
        bytes(attempt.rss_peak_bytes),
        bytes(attempt.output_bytes),
        files(attempt),
    ]
}

#[cfg(test)]
#[path = "show_test.rs"]
pub mod tests;
