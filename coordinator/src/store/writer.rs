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

/// Beyond this the log is written back by the writer itself, between two commits. Under a load that never pauses the other
/// checkpoints never reach the log's end, and it would grow until the disk is full (156 MiB were seen).
const LOG_BYTES: u64 = 32 * 1024 * 1024;

/// How long that may wait for a reader: then it is tried after the next commit.
const LOG_PATIENCE: Duration = Duration::from_millis(20);

/// Between two tries while there is no room at all.
const ROOM_EVERY: Duration = Duration::from_millis(250);

/// Set while the disk is too full to take new work; callers are told before anything is decided.
pub type Full = Arc<AtomicBool>;

/// The writer.
pub struct Writer {
    conn: Connection,
    mark: Mark,
    dir: PathBuf,
    log: PathBuf,
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
        let log = dir.join(format!("{}-wal", super::open::FILE));
        std::thread::Builder::new()
            .name("checkpoint".to_owned())
            .stack_size(256 * 1024)
            .spawn(move || checkpoints(&file, &asked, &fails))
            .ok();
        Ok(Self { conn, mark, dir, log, rows: 0, audit, checkpoint, full, failed, _lock: lock })
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
        if std::fs::metadata(&self.log).is_ok_and(|log| log.len() > LOG_BYTES) && self.cut_log()? {
            self.rows = 0;
        } else if self.rows > CHECKPOINT_ROWS {
            self.rows = 0;
            let _ = self.checkpoint.try_send(());
        }
        Ok(())
    }

    /// Writes the log back and empties it, unless a reader or another checkpoint is in the way.
    fn cut_log(&self) -> Result<bool, Error> {
        let before = Duration::from_millis(self.conn.query_row("PRAGMA busy_timeout", [], |r| r.get(0))?);
        self.conn.busy_timeout(LOG_PATIENCE)?;
        let busy = self.conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |r| r.get::<_, bool>(0));
        self.conn.busy_timeout(before)?;
        match busy {
            Ok(busy) => Ok(!busy),
            // A disk that fails here does what a failed sync of a commit does; one that is only full keeps its log.
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::SystemIoFailure) => Err(error.into()),
            Err(_) => Ok(false),
        }
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

    /// Everything that is read until this is dropped is one transaction: by itself each row would take and give back the
    /// file's locks, which costs more than the row.
    ///
    /// # Errors
    /// From SQLite.
    pub fn read_once(&self) -> Result<rusqlite::Transaction<'_>, Error> {
        Ok(self.conn.unchecked_transaction()?)
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
    facts::apply_all(&tx, &step.facts)?;
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
            // Whoever reads of it can rely on it.
            failed.store(error.sqlite_error_code() == Some(ErrorCode::SystemIoFailure), Ordering::Release);
            tracing::error!(%error, "a checkpoint failed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::open;

    fn loud(seq: u64) -> Step {
        let event = serde_json::json!({"seq": seq, "at": "2026-01-01T00:00:00Z", "kind": "machine",
            "actor": "x".repeat(1024 * 1024)});
        Step { events: vec![serde_json::from_value(event).unwrap()], ..Step::default() }
    }

    #[test]
    fn the_log_is_bounded_while_commits_never_pause_and_a_reader_only_puts_it_off() {
        let dir = tempfile::tempdir().unwrap();
        open::create(dir.path(), "lab").unwrap();
        let opened = open::open(dir.path()).unwrap();
        let (first, full) = (opened.seq + 1, Full::default());
        let path = dir.path().to_owned();
        let mut writer = Writer::new(opened.conn, opened.mark, opened.lock, path, full).unwrap();
        let size = || std::fs::metadata(dir.path().join(format!("{}-wal", open::FILE))).unwrap().len();
        for seq in first..first + 100 {
            writer.commit(&loud(seq), 0).unwrap();
            assert!(size() <= LOG_BYTES + 2 * 1024 * 1024, "{} bytes", size());
        }
        let reader = Connection::open(dir.path().join(open::FILE)).unwrap();
        let seen = "SELECT COUNT(*) FROM events";
        reader.execute_batch("BEGIN").unwrap();
        reader.query_row(seen, [], |r| r.get::<_, u64>(0)).unwrap();
        for seq in first + 100..first + 150 {
            writer.commit(&loud(seq), 0).unwrap();
        }
        assert!(size() > LOG_BYTES, "what somebody reads is not cut off");
        reader.execute_batch("END").unwrap();
        writer.commit(&loud(first + 150), 0).unwrap();
        assert!(size() <= LOG_BYTES);
        assert!(reader.query_row(seen, [], |r| r.get::<_, u64>(0)).unwrap() >= 151);
    }
}
