//! Reads parked jobs for the engine, on a thread of its own with a connection of its own: the engine goes on meanwhile.
//!
//! What is asked for was released after its commit, so the rows are there.
use crate::effect::Portion;
use crate::engine::Weak;
use crate::input::Input;
use crate::store::Error;
use crate::store::read;
use reeve_protocol::JobId;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

/// Between two tries to read. Whatever needs other jobs goes on.
const AGAIN: Duration = Duration::from_secs(1);

/// Read at once: with more than so many bytes of them the rest is wanted again.
const BYTES: usize = 8 * 1024 * 1024;

/// Parked jobs of a queue that are wanted, and what for.
type Wanted = (Arc<str>, Portion, Vec<JobId>);

/// Where wishes are left. One per queue and need, and per caller, at most: the core waits for the answer to the last.
pub struct Loader(mpsc::Sender<Wanted>);

/// Wishes, before somebody reads them.
pub struct Wishes(mpsc::Receiver<Wanted>);

/// Both ends.
pub fn channel() -> (Loader, Wishes) {
    let (tx, rx) = mpsc::channel();
    (Loader(tx), Wishes(rx))
}

impl Loader {
    /// Wants these jobs.
    pub fn load(&self, queue: Arc<str>, portion: Portion, jobs: Vec<JobId>) {
        let _ = self.0.send((queue, portion, jobs));
    }
}

/// Starts the thread. It ends when the engine has.
///
/// # Errors
/// When the store cannot be opened, or no thread can be made.
pub(crate) fn start(wishes: Wishes, store: PathBuf, engine: Weak) -> Result<(), Error> {
    let conn = read::connect(&store)?;
    let thread = std::thread::Builder::new().name("loader".to_owned());
    let spawned = thread.spawn(move || {
        for (queue, portion, mut jobs) in wishes.0 {
            let rows = loop {
                match read::job_rows(&conn, &jobs, BYTES) {
                    Ok((rows, read)) => {
                        jobs.truncate(read);
                        break rows;
                    }
                    Err(error) => tracing::error!(%error, %queue, "parked jobs cannot be read"),
                }
                std::thread::sleep(AGAIN);
                if engine.is_gone() {
                    return;
                }
            };
            if !engine.put(Input::Loaded { queue, portion, jobs, rows }) {
                return;
            }
        }
    });
    spawned.map(drop).map_err(|e| Error::Value(format!("no thread to read with: {e}")))
}
