//! What an attempt has left, on its way before its Finished: its tape, then its artifacts. Holds no state of a job: what is
//! lost with a session is told and sent again in the next.
use super::{artifacts, output};
use quinn::Connection;
use reeve_protocol::crash;
use reeve_protocol::ids::AttemptId;
use reeve_protocol::wire::{Artifacts, Finished};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Tapes at once; the other streams of the connection are for followers.
const TAPES: usize = 8;
/// Uploads of artifacts at once, beside those of tapes: each may take minutes, and no tape waits behind one.
const ARTIFACTS: usize = 2;

/// Uploads under way in a session.
pub(super) struct Uploads {
    /// Each gives back the end that may be told then.
    pub(super) tasks: JoinSet<Finished>,
    /// Told by the keeper, for the Finished that comes next.
    pub(super) promised: HashMap<AttemptId, Artifacts>,
    tapes: Arc<Semaphore>,
    artifacts: Arc<Semaphore>,
}

impl Default for Uploads {
    fn default() -> Self {
        Self {
            tasks: JoinSet::new(),
            promised: HashMap::new(),
            tapes: Arc::new(Semaphore::new(TAPES)),
            artifacts: Arc::new(Semaphore::new(ARTIFACTS)),
        }
    }
}

impl Uploads {
    /// Sends what belongs to an end.
    pub(super) fn spawn(
        &mut self,
        connection: Connection,
        dir: PathBuf,
        finished: Finished,
        has_artifacts: bool,
    ) {
        let (tapes, artifacts) = (self.tapes.clone(), self.artifacts.clone());
        self.tasks.spawn(async move {
            let finished =
                if finished.spooled > 0 { send_tape(&connection, &dir, finished, tapes).await } else { finished };
            if has_artifacts {
                let _place = artifacts.acquire_owned().await;
                let attempt = finished.attempt;
                match artifacts::upload(&connection, &dir, attempt).await {
                    Ok(()) => crash::point("agent.artifacts-sent"),
                    Err(error) => {
                        tracing::warn!(%attempt, error = &error as &dyn std::error::Error, "artifacts were not uploaded");
                    }
                }
            }
            finished
        });
    }
}

/// Sends the tape of an attempt, then gives back its end.
async fn send_tape(
    connection: &Connection,
    dir: &std::path::Path,
    finished: Finished,
    places: Arc<Semaphore>,
) -> Finished {
    let _place = places.acquire_owned().await;
    let (attempt, total) = (finished.attempt, finished.spooled);
    match output::upload(connection, dir, attempt, total).await {
        Ok(()) => {
            crash::point("agent.output-sent");
            finished
        }
        Err(error) => {
            tracing::warn!(%attempt, error = &error as &dyn std::error::Error, "output was not uploaded");
            without_output(finished, &error)
        }
    }
}

/// The end of an attempt whose guardian can no longer be asked. What the coordinator did not take, it knows of itself.
fn without_output(finished: Finished, error: &output::Error) -> Finished {
    match error {
        output::Error::Guardian(_) | output::Error::Socket(_) => Finished { spooled: 0, ..finished },
        _ => finished,
    }
}
