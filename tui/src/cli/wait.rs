//! `reeve wait`, and the waiting half of `submit --wait`: the end of a job becomes an exit code.
use super::context::Context;
use super::error::{Error, note};
use super::list::id_of;
use super::select::{Named, Selection, job_path};
use super::show::end_words;
use super::values;
use crate::client::{Client, Reply};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use hyper::Method;
use reeve_protocol::api::JobView;
use reeve_protocol::{Code, Problem, State};
use std::time::{Duration, Instant};

/// One long poll; the coordinator takes no more.
const POLL_S: &str = "3600";
/// How long a coordinator may be away while somebody waits: a restart or an upgrade, not the end of it.
const PATIENCE: Duration = Duration::from_mins(5);
/// `--any` holds a connection per job.
const MOST_AT_ONCE: usize = 64;

/// Wait until jobs have ended. Of one job the exit code is the job's own.
#[derive(Debug, clap::Args)]
pub struct Wait {
    /// Which.
    #[command(flatten)]
    pub selection: Selection,
    /// Stop waiting after this, with exit code 124
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    pub timeout: Option<f64>,
    /// Until one of them has ended
    #[arg(long)]
    pub any: bool,
}

/// Runs it.
pub async fn run(wait: Wait, context: &mut Context) -> Result<(), Error> {
    let client = context.client()?;
    let named = wait.selection.each(&client).await.map_err(Error::for_wait)?;
    let names = named.iter().map(|(name, _)| name.as_str()).take(5).collect::<Vec<_>>().join(" ");
    let work = async {
        match named.as_slice() {
            [(name, true)] => one(&client, name, None, context).await,
            _ if wait.any => any(&client, &named, context).await,
            _ => all(&client, &named, context).await,
        }
    };
    let limit = wait.timeout.map_or(Duration::MAX, Duration::from_secs_f64);
    let ended = interruptible(&names, async {
        match tokio::time::timeout(limit, work).await {
            Ok(ended) => ended,
            Err(_) => Err(too_late(&client, &named).await),
        }
    });
    ended.await.map_err(Error::for_wait)
}

/// Waits for one job, says how it ended and makes that the exit code. `hint` is printed when it could not be started.
pub async fn end_of(
    client: &Client,
    name: &str,
    hint: Option<String>,
    context: &mut Context,
) -> Result<(), Error> {
    interruptible(name, one(client, name, hint, context)).await
}

/// Ctrl-C leaves the job alone.
pub async fn interruptible(names: &str, work: impl Future<Output = Result<(), Error>>) -> Result<(), Error> {
    tokio::select! {
        ended = work => ended,
        _ = tokio::signal::ctrl_c() => {
            note(format!("\nthe wait has ended, the job goes on; cancel it with: reeve cancel {names}"));
            Err(Error::Exit(130))
        }
    }
}

async fn one(client: &Client, name: &str, hint: Option<String>, context: &mut Context) -> Result<(), Error> {
    let (job, reply) = ended(client, name).await?;
    tell(&job, &reply, context)?;
    if let Some(hint) = hint.filter(|_| job.state == State::Failed) {
        note(format!("hint: {hint}"));
    }
    match exit_code(&job) {
        0 => Ok(()),
        code => Err(Error::Exit(code)),
    }
}

/// One after the other: the last to end decides how long it takes in any order.
async fn all(client: &Client, named: &[Named], context: &mut Context) -> Result<(), Error> {
    let (mut found, mut good) = (0, 0);
    for (name, own) in named {
        let (job, reply) = match ended(client, name).await {
            // A range may have holes.
            Err(Error::Problem(problem)) if problem.is(Code::NotFound) && !own => continue,
            other => other?,
        };
        found += 1;
        good += u32::from(job.state == State::Completed);
        tell(&job, &reply, context)?;
    }
    if found == 0 {
        note("no job matches");
    }
    if found == good { Ok(()) } else { Err(Error::Exit(1)) }
}

async fn any(client: &Client, named: &[Named], context: &mut Context) -> Result<(), Error> {
    if named.len() > MOST_AT_ONCE {
        return Err(Error::Usage(format!(
            "--any waits for {MOST_AT_ONCE} jobs at most, not {}",
            named.len()
        )));
    }
    let mut waiting: FuturesUnordered<_> = named.iter().map(|(name, _)| ended(client, name)).collect();
    let Some(ended) = waiting.next().await else {
        note("no job matches");
        return Ok(());
    };
    let (job, reply) = ended?;
    tell(&job, &reply, context)?;
    if job.state == State::Completed { Ok(()) } else { Err(Error::Exit(1)) }
}

/// The job once it has ended. A coordinator that is restarted meanwhile is waited for.
async fn ended(client: &Client, name: &str) -> Result<(JobView, Reply), Error> {
    let path = job_path(name, &format!("?wait_s={POLL_S}"));
    loop {
        let reply = patient(client, &path).await?;
        let job: JobView = reply.json()?;
        if job.state.is_terminal() {
            return Ok((job, reply));
        }
    }
}

/// Asks again while the coordinator is away.
pub async fn patient(client: &Client, path: &str) -> Result<Reply, Problem> {
    let mut away: Option<Instant> = None;
    let mut pause = Duration::from_millis(200);
    loop {
        match client.call(Method::GET, path, &[], None).await {
            // Nobody has been there yet: that is no restart.
            Err(problem) if is_away(&problem) && client.has_answered() => {
                let since = *away.get_or_insert_with(|| {
                    note(format!("note: {problem}\nnote: waiting for it to come back"));
                    Instant::now()
                });
                if since.elapsed() > PATIENCE {
                    return Err(problem);
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(2));
            }
            other => return other,
        }
    }
}

/// Whether the coordinator may answer in a moment.
pub fn is_away(problem: &Problem) -> bool {
    problem.is(Code::NoCoordinator) || problem.is(Code::Unavailable)
}

fn tell(job: &JobView, reply: &Reply, context: &mut Context) -> Result<(), Error> {
    note(format!("job {} {}", id_of(job), end_words(job)));
    if context.json {
        context.raw(&reply.body)?;
        context.raw(b"\n")?;
    }
    context.flush()
}

async fn too_late(client: &Client, named: &[Named]) -> Error {
    for (name, _) in named.iter().take(20) {
        if let Ok(job) = client.get::<JobView>(&job_path(name, "")).await
            && !job.state.is_terminal()
        {
            note(format!("job {} still {}", id_of(&job), job.state));
        }
    }
    Error::Exit(124)
}

/// The exit code of a job that has ended (CONTRACT). An array counts as several jobs.
pub fn exit_code(job: &JobView) -> u8 {
    match (&job.cause, job.state) {
        (_, State::Completed) => 0,
        _ if job.array.is_some() => 1,
        (Some(cause), _) => cause.exit_code(),
        (None, State::Cancelled) => 143,
        (None, _) => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::show::tests::job;
    use reeve_protocol::Cause;
    use reeve_protocol::api::ArrayView;

    #[test]
    fn the_end_of_a_job_is_the_exit_code() {
        for (state, cause, wanted) in [
            (State::Completed, Some(Cause::Ok), 0),
            (State::Completed, None, 0),
            (State::Failed, Some(Cause::Exit { code: 3 }), 3),
            (State::Failed, Some(Cause::Signal { signal: 9 }), 137),
            (State::Failed, Some(Cause::Timeout), 124),
            (State::Cancelled, Some(Cause::Cancelled), 143),
            (State::Cancelled, None, 143),
            (State::Failed, Some(Cause::Lost), 125),
        ] {
            assert_eq!(exit_code(&JobView { state, cause: cause.clone(), ..job() }), wanted, "{cause:?}");
        }
        let array = Some(ArrayView::default());
        let failed = JobView { state: State::Failed, cause: Some(Cause::Exit { code: 3 }), array, ..job() };
        assert_eq!(exit_code(&failed), 1);
    }

    #[test]
    fn only_an_absent_coordinator_is_waited_for() {
        for (code, wanted) in [
            (Code::NoCoordinator, true),
            (Code::Unavailable, true),
            (Code::NotFound, false),
            (Code::Internal, false),
        ] {
            assert_eq!(is_away(&Problem::new(code, "x")), wanted, "{code:?}");
        }
    }
}
