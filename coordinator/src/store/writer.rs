//! The one writer: a step is one synced transaction, or nothing.
use super::open::{BALLAST, Mark};
use super::{Error, audit, facts};
use crate::effect::Step;
use reeve_protocol::crash;
use rusqlite::{Connection, ErrorCode};
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

/// Rows after which the log is worth a checkpoint.
const CHECKPOINT_ROWS: usize = 4_000;

/// Between two tries while there is no room at all.
const ROOM_EVERY: Duration = Duration::from_millis(250);

/// Set while the disk is too full to take new work; callers are told before anything is decided.
pub type Full = Arc<AtomicBool>;

/// The writer.
pub struct Writer {
    conn: Connection,
    mark: Mark,
    dir: PathBuf,
    rows: usize,
    /// Where the audit's chain ends.
    audit: audit::Head,
    checkpoint: SyncSender<()>,
    full: Full,
    /// A checkpoint could not be synced.
    failed: Arc<AtomicBool>,
    _lock: File,
}

impl Writer {
    /// Over an opened store. Checkpoints run on a connection of their own, beside the commit path.
    ///
    /// # Errors
    /// From SQLite.
    pub fn new(conn: Connection, mark: Mark, lock: File, dir: PathBuf, full: Full) -> Result<Self, Error> {
        let audit = audit::head(&conn)?;
        tracing::info!(row = audit.seq, hash = audit.hex(), "the audit ends here");
        let (checkpoint, asked) = sync_channel(1);
        let file = dir.join(super::open::FILE);
        let failed = Arc::new(AtomicBool::new(false));
        let fails = failed.clone();
        std::thread::Builder::new()
            .name("checkpoint".to_owned())
            .stack_size(256 * 1024)
            .spawn(move || checkpoints(&file, &asked, &fails))
            .ok();
        Ok(Self { conn, mark, dir, rows: 0, audit, checkpoint, full, failed, _lock: lock })
    }

    /// Commits a step and notes its last event.
    ///
    /// # Errors
    /// The outcome is then unknown: the process must end, the next start reads the truth.
    pub fn commit(&mut self, step: &Step, mono: u64) -> Result<(), Error> {
        if self.failed.load(Ordering::Relaxed) {
            return Err(Error::Checkpoint);
        }
        match self.try_commit(step) {
            Err(error) if error.is_full() => self.retry_full(step)?,
            other => other?,
        }
        crash::point_of("commit.after", || step.kind());
        if let Some(last) = step.events.last() {
            self.mark.put(last.seq, mono)?;
        }
        self.rows += step.facts.len() + step.events.len() + step.audit.len();
        if self.rows > CHECKPOINT_ROWS {
            self.rows = 0;
            let _ = self.checkpoint.try_send(());
        }
        Ok(())
    }

    /// The same step again, after the ballast is gone, and again until there is room: what was decided is never taken
    /// back, and a process that ended over it could not start again either.
    fn retry_full(&mut self, step: &Step) -> Result<(), Error> {
        self.full.store(true, Ordering::Relaxed);
        let _ = std::fs::remove_file(self.dir.join(BALLAST));
        tracing::error!("the disk is full: new work is refused until there is room");
        let mut waits = false;
        loop {
            match self.try_commit(step) {
                Err(error) if error.is_full() => {
                    if !std::mem::replace(&mut waits, true) {
                        let dir = self.dir.display().to_string();
                        tracing::error!(dir, "the ballast is used up too: everything waits for room");
                    }
                    std::thread::sleep(ROOM_EVERY);
                }
                done => return done,
            }
        }
    }

    fn try_commit(&mut self, step: &Step) -> Result<(), Error> {
        self.audit = write(&mut self.conn, self.audit, step)?;
        Ok(())
    }

    /// Reads with the writer's own connection, after a commit.
    pub const fn conn(&self) -> &Connection {
        &self.conn
    }

    /// When the mark must be synced, boot-time milliseconds.
    pub const fn sync_due(&self) -> Option<u64> {
        self.mark.due()
    }

    /// Syncs the mark.
    ///
    /// # Errors
    /// From the file system.
    pub fn sync_mark(&mut self) -> Result<(), Error> {
        self.mark.sync()
    }

    /// Notes an orderly stop.
    ///
    /// # Errors
    /// From SQLite or the file system.
    pub fn close(mut self) -> Result<(), Error> {
        self.mark.sync()?;
        self.conn.execute("UPDATE meta SET value = '1' WHERE key = 'clean'", [])?;
        let _ = self.conn.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)");
        Ok(())
    }
}

/// Writes a step: its facts, events and audit in one transaction, or nothing. Gives where the audit's chain ends then.
///
/// # Errors
/// From SQLite, or [`Error::Rows`] when memory and disk disagree.
pub fn write(conn: &mut Connection, audit: audit::Head, step: &Step) -> Result<audit::Head, Error> {
    let tx = conn.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    for fact in &step.facts {
        facts::apply(&tx, fact)?;
    }
    {
        let mut insert =
            tx.prepare_cached("INSERT INTO events (seq, at, job, body) VALUES (?1, ?2, ?3, ?4)")?;
        for event in &step.events {
            let body = serde_json::to_string(event).map_err(|e| Error::Value(e.to_string()))?;
            insert.execute((event.seq, event.at.0, event.id, body))?;
        }
    }
    let audit = audit::append(&tx, audit, &step.audit)?;
    crash::point_of("commit.inside", || step.kind());
    tx.commit()?;
    Ok(audit)
}

/// PASSIVE checkpoints: they never wait for the writer, and the writer never waits for them. When the disk fails under one,
/// nobody knows what it does next: the writer takes nothing more, as after a failed sync of its own.
fn checkpoints(file: &std::path::Path, asked: &Receiver<()>, failed: &AtomicBool) {
    let Ok(conn) = Connection::open(file) else { return };
    let _ = conn.execute_batch("PRAGMA synchronous = FULL; PRAGMA mmap_size = 0; PRAGMA cache_size = -512;");
    while asked.recv().is_ok() {
        if let Err(error) = conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())) {
            tracing::error!(%error, "a checkpoint failed");
            failed.store(error.sqlite_error_code() == Some(ErrorCode::SystemIoFailure), Ordering::Relaxed);
        }
    }
}
