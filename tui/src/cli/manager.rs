//! `reeve register` and `reeve update`: the job manager's calls for jobs that something else knows or runs.
use super::context::Context;
use super::error::Error;
use super::select::job_path;
use super::values;
use reeve_protocol::State;
use reeve_protocol::api::{Changed, JobView, RegisterRequest, StatusRequest};
use reeve_protocol::selector::Selector;

/// Give a job a name of your own, or record one that runs elsewhere.
#[derive(Debug, clap::Args)]
pub struct Register {
    /// The name, without the @
    #[arg(value_name = "NAME")]
    pub id: String,
    /// The job that gets it; without this a job that runs elsewhere is recorded
    #[arg(long, value_name = "ID")]
    pub job: Option<u64>,
    /// Kept beside the job
    #[arg(long, value_name = "JSON|@FILE|-")]
    pub definition: Option<String>,
}

/// Report the state or progress of a job.
#[derive(Debug, clap::Args)]
pub struct Update {
    /// The job
    #[arg(value_name = "JOB", value_parser = values::selector)]
    pub job: Selector,
    /// RUNNING, COMPLETED, FAILED or CANCELLED
    #[arg(long, value_name = "STATE", value_parser = state)]
    pub state: Option<State>,
    /// 0 to 1
    #[arg(long, value_name = "P", value_parser = values::amount)]
    pub progress: Option<f64>,
    /// For people
    #[arg(long, value_name = "TEXT")]
    pub message: Option<String>,
    /// What it left behind, with COMPLETED
    #[arg(long, value_name = "JSON|@FILE|-")]
    pub result: Option<String>,
    /// What went wrong, with FAILED
    #[arg(long, value_name = "TEXT")]
    pub error: Option<String>,
    /// Only if this is the current attempt
    #[arg(long, value_name = "N")]
    pub attempt: Option<u32>,
    /// The lease, when a consumer holds it
    #[arg(long, value_name = "LEASE")]
    pub lease: Option<String>,
}

fn state(text: &str) -> Result<State, String> {
    text.parse()
        .ok()
        .filter(|s| *s != State::Queued)
        .ok_or_else(|| format!("{text:?} cannot be reported; write RUNNING, COMPLETED, FAILED or CANCELLED"))
}

/// Runs `reeve register`.
pub async fn register(register: Register, context: &mut Context) -> Result<(), Error> {
    let id = register.id.strip_prefix('@').unwrap_or(&register.id).to_owned();
    let definition = register.definition.map(|word| values::json("--definition", &word)).transpose()?;
    let request = RegisterRequest { id, definition, cluster_id: register.job };
    match context.post::<JobView>("/v1/jobs/register", &request).await? {
        Some(job) => context.line(job.id.to_string()),
        None => Ok(()),
    }
}

/// Runs `reeve update`.
pub async fn update(update: Update, context: &mut Context) -> Result<(), Error> {
    let path = job_path(&update.job.to_string(), "/status");
    let request = StatusRequest {
        state: update.state,
        progress: update.progress,
        message: update.message,
        result: update.result.map(|word| values::json("--result", &word)).transpose()?,
        error: update.error,
        attempt: update.attempt,
        lease: update.lease,
    };
    if request
        == (StatusRequest {
            attempt: request.attempt,
            lease: request.lease.clone(),
            ..StatusRequest::default()
        })
    {
        return Err(Error::Usage("nothing to report; add --state, --progress or --message".to_owned()));
    }
    match context.post::<Changed>(&path, &request).await? {
        Some(changed) => context.line(format!("{} {}", changed.id, changed.state)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_that_can_be_reported() {
        assert_eq!(state("completed"), Ok(State::Completed));
        assert!(state("QUEUED").is_err());
        assert!(state("done").is_err());
    }
}
