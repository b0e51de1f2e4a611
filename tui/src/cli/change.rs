//! `reeve cancel`, `restart`, `hold` and `release`: one job directly, more through a plan.
use super::bulk;
use super::context::Context;
use super::error::Error;
use super::select::{Selection, job_path};
use super::values;
use reeve_protocol::api::{Changed, PlanRequest};
use serde_json::{Map, Value, json};
use std::fmt::Write as _;

/// Change jobs.
#[derive(Debug, clap::Args)]
pub struct Change {
    /// Which.
    #[command(flatten)]
    pub selection: Selection,
    /// What is asked before many change.
    #[command(flatten)]
    pub consent: bulk::Consent,
}

/// End jobs: TERM, and KILL after the grace time.
#[derive(Debug, clap::Args)]
pub struct Cancel {
    /// Which and how.
    #[command(flatten)]
    pub change: Change,
    /// Time between TERM and KILL
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    pub grace: Option<f64>,
}

/// Queue jobs again: the same jobs, their attempts kept. A git job gets the same commit.
#[derive(Debug, clap::Args)]
pub struct Restart {
    /// Which and how.
    #[command(flatten)]
    pub change: Change,
    /// The commit that the ref names now
    #[arg(long, conflicts_with = "same")]
    pub latest: bool,
    /// The same commit as before; what happens without it, too
    #[arg(long)]
    pub same: bool,
}

/// Runs `reeve restart`.
pub async fn restart(restart: Restart, context: &mut Context) -> Result<(), Error> {
    let mut body = Map::new();
    if restart.latest {
        if restart.change.selection.single().is_none() {
            return Err(Error::Usage("--latest is for one job; leave it out for many".to_owned()));
        }
        body.insert("latest".to_owned(), json!(true));
    }
    run("restart", restart.change, body, context).await
}

/// Runs `reeve cancel`.
pub async fn cancel(cancel: Cancel, context: &mut Context) -> Result<(), Error> {
    let mut body = Map::new();
    if let Some(grace) = cancel.grace {
        if cancel.change.selection.single().is_none() {
            return Err(Error::Usage("--grace is for one job; leave it out for many".to_owned()));
        }
        body.insert("grace_s".to_owned(), json!(grace));
    }
    run("cancel", cancel.change, body, context).await
}

/// Runs the others.
pub async fn change(action: &str, change: Change, context: &mut Context) -> Result<(), Error> {
    run(action, change, Map::new(), context).await
}

async fn run(
    action: &str,
    change: Change,
    mut body: Map<String, Value>,
    context: &mut Context,
) -> Result<(), Error> {
    change.selection.check()?;
    let single = change.selection.single().filter(|_| !change.consent.dry_run);
    let Some(selector) = single else {
        let request = PlanRequest {
            action: action.to_owned(),
            ids: change.selection.jobs.iter().map(ToString::to_string).collect(),
            filter: change.selection.filter,
            except: Vec::new(),
            reason: change.consent.reason.clone(),
        };
        return bulk::plan_and_run(&request, &change.consent, context).await;
    };
    if let Some(reason) = change.consent.reason.filter(|_| action == "cancel") {
        body.insert("reason".to_owned(), reason.into());
    }
    let name = selector.to_string();
    let path = job_path(&name, &format!("/{action}"));
    let Some(changed) = context.post::<Changed>(&path, &body).await? else { return Ok(()) };
    context.line(words(&name, &changed))
}

/// `7 RUNNING cancelling`.
fn words(name: &str, changed: &Changed) -> String {
    // `last` and `@name` are told apart from what they meant; a task keeps its index.
    let id =
        if name.starts_with(|c: char| c.is_ascii_digit()) { name.to_owned() } else { changed.id.to_string() };
    let mut text = format!("{id} {}", changed.state);
    if let Some(substate) = changed.substate {
        // Writing into a string cannot fail.
        _ = write!(text, " {substate}");
    }
    if let Some(tasks) = changed.tasks {
        _ = write!(text, " ({tasks} tasks changed)");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use reeve_protocol::{State, Substate};

    #[test]
    fn the_answer_names_the_job_and_its_state() {
        let changed =
            |tasks, substate| Changed { id: 7, state: State::Running, substate, attempt: 1, tasks, seq: 1 };
        for (name, changed, wanted) in [
            ("7", changed(None, Some(Substate::Cancelling)), "7 RUNNING cancelling"),
            ("last", changed(None, None), "7 RUNNING"),
            ("7.3", changed(None, None), "7.3 RUNNING"),
            ("@x", changed(Some(4), None), "7 RUNNING (4 tasks changed)"),
        ] {
            assert_eq!(words(name, &changed), wanted);
        }
    }
}
