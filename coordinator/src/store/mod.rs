//! The store: embedded SQLite, the only truth. `writer` is used by the recorder alone; `read` gives committed snapshots
//! to everybody else. All SQL is below this folder.
pub mod audit;
pub mod facts;
pub mod filter;
pub mod load;
mod machines;
pub mod maintain;
pub mod open;
pub mod query;
mod queue_facts;
pub mod read;
pub mod waiting;
pub mod workers;
pub mod writer;

/// What can go wrong with the store.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is none yet.
    #[error(
        "no store in {0}; make one with: reeve-coordinator init --dir {0}; or, if there was one, bring it back with: reeve-coordinator store restore --dir {0} BACKUP"
    )]
    Missing(String),
    /// There is one already.
    #[error("{0} holds a store already; use it with: reeve-coordinator run --dir {0}")]
    Exists(String),
    /// Another process has it open.
    #[error(
        "the store in {0} is in use by process {1}; stop that one first (reeve down, or systemctl stop reeve-coordinator)"
    )]
    InUse(String, String),
    /// Made by a newer version.
    #[error(
        "the store has schema {0}, this version knows {1}; install the newer version, or restore a backup with: reeve-coordinator store restore"
    )]
    Newer(i64, i64),
    /// Not a store, or a damaged one.
    #[error("the store in {0} is damaged: {1}; restore a backup with: reeve-coordinator store restore")]
    Damaged(String, String),
    /// The store is older than what was promised: its log was cut, or an old copy was put in its place.
    #[error(
        "the store ends at event {found}, but event {promised} had been acknowledged: its tail is lost; restore a backup, or accept the loss with: reeve-coordinator store restore --accept-loss"
    )]
    Regressed {
        /// The last event in the store.
        found: u64,
        /// The last event that was acknowledged.
        promised: u64,
    },
    /// No room to begin with.
    #[error(
        "the disk of {0} is full: make room there, then start again with: reeve-coordinator run --dir {0}"
    )]
    Full(String),
    /// The disk failed while the log was being moved into the store's file.
    #[error(
        "a checkpoint could not be synced: the disk may be failing, see dmesg; what was acknowledged is in the log, and the next start reads it"
    )]
    Checkpoint,
    /// A setting did not take.
    #[error("the store refused {0}: it reads back as {1}")]
    Pragma(&'static str, String),
    /// A fact that should have changed one row changed another number: memory and disk disagree.
    #[error("a fact changed {1} rows instead of one: {0}")]
    Rows(String, usize),
    /// The audit is not the one that was written.
    #[error(
        "the audit was tampered with: row {0} {1}; compare with a backup (reeve-coordinator store verify shows where its chain ends)"
    )]
    Audit(u64, &'static str),
    /// From SQLite.
    #[error("the store failed")]
    Sqlite(#[from] rusqlite::Error),
    /// From the file system.
    #[error("cannot use {0}")]
    Io(String, #[source] std::io::Error),
    /// A row that does not parse.
    #[error("a stored value makes no sense: {0}")]
    Value(String),
}

impl Error {
    /// Whether the disk had no room: nothing was changed then.
    pub(crate) fn is_full(&self) -> bool {
        matches!(self, Self::Sqlite(e) if e.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull))
    }
}
