//! From what stands in a path to the job that is meant, and from there to a change by the engine.
use super::App;
use super::reply::Failure;
use crate::effect::Reply;
use crate::input::{Call, Stored, Target};
use crate::row::Caller;
use crate::store;
use crate::store::read;
use reeve_protocol::selector::Selector;
use reeve_protocol::text::Clean;
use reeve_protocol::{Code, JobId, Problem, TaskId};
use rusqlite::Connection;

/// Times a row may have changed between reading it and the engine's look at it.
const AGAIN: u32 = 3;

/// The job or tasks that a selector names.
pub(super) fn target(app: &App, caller: &Caller, text: &str) -> Result<Target, Failure> {
    let selector = Selector::parse(text)?;
    let whole = |job: Option<JobId>| job.map(|job| Target { job, tasks: None });
    let found = match &selector {
        Selector::Job(job) => Some(Target { job: *job, tasks: None }),
        Selector::Tasks(job, from, to) => Some(Target { job: *job, tasks: Some((*from, *to)) }),
        Selector::Last => whole(app.reads.point(|conn| read::newest_of(conn, caller.uid))?),
        Selector::Alias(name) => whole(app.reads.point(|conn| read::by_alias(conn, caller.uid, name))?),
        Selector::Jobs(..) => {
            let problem = Problem::new(Code::BadId, format!("{selector} names several jobs; this takes one"));
            return Err(problem.hint("ask for each, or make a plan: POST /v1/plans").into());
        }
    };
    found.ok_or_else(|| no_such_job(text))
}

/// One job, or one task of an array.
pub(super) fn one(app: &App, caller: &Caller, text: &str) -> Result<TaskId, Failure> {
    match target(app, caller, text)? {
        Target { job, tasks: None } => Ok(TaskId::single(job)),
        Target { job, tasks: Some((from, to)) } if from == to => Ok(TaskId::of_array(job, from)),
        Target { job, .. } => {
            let problem = Problem::new(Code::BadId, "several tasks are named; this takes one");
            Err(problem
                .hint(format!("name one task, such as {job}.1, or the array as a whole: {job}"))
                .into())
        }
    }
}

/// A task is named of a job that has none.
pub(super) fn no_array(job: JobId) -> Problem {
    Problem::new(Code::BadId, format!("job {job} is no array")).hint(format!("write {job} alone"))
}

pub(super) fn no_such_job(text: &str) -> Failure {
    let text = Clean::short(text, 64);
    Problem::new(Code::NotFound, format!("there is no job {text}")).hint("see: reeve ls").into()
}

/// Which rows of tasks a call needs beside the job's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum With {
    /// Those that are named one by one.
    Named,
    /// Those that ended FAILED or CANCELLED.
    Bad,
}

/// The rows of a target as the store has them now.
pub(super) fn stored(conn: &Connection, target: Target, with: With) -> Result<Stored, store::Error> {
    // First, so that the rows are at least as new.
    let seq = read::last_event(conn)?;
    let Some(job) = read::job_row(conn, target.job)? else { return Ok(Stored::default()) };
    let tasks = match with {
        _ if job.array.is_none() => Vec::new(),
        With::Named if target.tasks.is_none() => Vec::new(),
        With::Named => read::task_rows(conn, target.job, target.tasks, false)?,
        With::Bad => read::task_rows(conn, target.job, target.tasks, true)?,
    };
    Ok(Stored { job: Some(Box::new(job)), tasks, seq })
}

/// Asks the engine about a job. The engine may not hold it in memory, so its rows go along; when they have become stale
/// on the way, they are read again.
pub(super) async fn ask(
    app: &App,
    caller: &Caller,
    target: Target,
    with: With,
    call: impl Fn(Stored) -> Call,
) -> Result<Reply, Failure> {
    let mut tries = 0;
    loop {
        let stored = app.reads.point(|conn| stored(conn, target, with))?;
        if stored.job.is_none() {
            return Err(no_such_job(&target.job.to_string()));
        }
        match app.ask(caller, call(stored)).await {
            Err(failure) if tries < AGAIN && is_stale(&failure.0) => tries += 1,
            answer => return answer,
        }
    }
}

/// How the engine says that rows were older than what it has decided since.
pub(super) fn is_stale(problem: &Problem) -> bool {
    problem.is(Code::Unavailable) && problem.detail.starts_with("read again")
}
