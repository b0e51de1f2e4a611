//! Making and opening a store: lock, pragmas that are read back, schema, lineage and epoch, and the checks that refuse
//! what is missing, newer, damaged or older than what was promised.
use super::Error;
use rusqlite::{Connection, OpenFlags};
use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The store's file in the data directory.
pub const FILE: &str = "reeve.db";
/// Freed when the disk is full, so that the step at hand can still be written.
pub const BALLAST: &str = "ballast";
const BALLAST_BYTES: usize = 4 * 1024 * 1024;
const MARK: &str = "high-water";
pub(super) const APPLICATION: i64 = 0x7265_6576;
/// The schema this version writes.
pub const SCHEMA: i64 = MIGRATIONS.len() as i64;
/// The schema as SQL, in order: a store of version N has the first N. An applied one never changes.
pub const MIGRATIONS: [&str; 8] = [
    include_str!("../../migrations/0001_initial.sql"),
    include_str!("../../migrations/0002_backends.sql"),
    include_str!("../../migrations/0003_workers.sql"),
    include_str!("../../migrations/0004_ingress.sql"),
    include_str!("../../migrations/0005_gpus.sql"),
    include_str!("../../migrations/0006_artifacts.sql"),
    include_str!("../../migrations/0007_migration.sql"),
    include_str!("../../migrations/0008_static.sql"),
];
/// Below this a store that was not closed in order is checked whole before it is used (a tenth of a second); below the
/// second bound that is done beside the first work, so that a killed coordinator is back at once.
const CHECK_FIRST_BELOW: u64 = 32 << 20;
const CHECK_BELOW: u64 = 4 << 30;

/// An open store.
pub struct Opened {
    /// The one writer.
    pub conn: Connection,
    /// Random id set at init and at restore.
    pub lineage: String,
    /// Counts starts; this one included.
    pub epoch: u64,
    /// The last event.
    pub seq: u64,
    /// The cluster's id.
    pub cluster: String,
    /// The cluster's name.
    pub name: String,
    /// The high-water mark.
    pub mark: Mark,
    /// Held for the life of the process.
    pub lock: File,
    /// It was not closed in order and has to be checked whole while it is used, see [`check`].
    pub unchecked: bool,
}

/// Makes a store: the directory is synced too, so that a power cut after the answer loses nothing.
///
/// # Errors
/// [`Error::Exists`], or from the file system.
pub fn create(dir: &Path, name: &str) -> Result<(), Error> {
    let file = dir.join(FILE);
    if file.exists() {
        return Err(Error::Exists(dir.display().to_string()));
    }
    std::fs::create_dir_all(dir).map_err(io(dir))?;
    let conn = Connection::open(&file)?;
    pragmas(&conn)?;
    for sql in MIGRATIONS {
        conn.execute_batch(sql)?;
    }
    conn.pragma_update(None, "application_id", APPLICATION)?;
    conn.pragma_update(None, "user_version", SCHEMA)?;
    for (key, value) in [
        ("lineage", reeve_protocol::token::random_hex(8)),
        ("cluster", reeve_protocol::token::random_hex(8)),
        ("epoch", "0".to_owned()),
        ("clean", "1".to_owned()),
        ("name", name.to_owned()),
        ("next_job", "1".to_owned()),
    ] {
        conn.execute("INSERT INTO meta (key, value) VALUES (?1, ?2)", (key, value))?;
    }
    conn.close().map_err(|(_, e)| e)?;
    File::options()
        .mode(0o600)
        .create(true)
        .truncate(false)
        .write(true)
        .open(dir.join(BALLAST))
        .and_then(|mut f| f.write_all(&vec![0; BALLAST_BYTES]))
        .map_err(io(dir))?;
    File::open(dir).and_then(|d| d.sync_all()).map_err(io(dir))
}

/// Opens a store for the one process that writes to it.
///
/// # Errors
/// Each with what to do next; nothing is changed then.
pub fn open(dir: &Path) -> Result<Opened, Error> {
    let file = dir.join(FILE);
    if !file.exists() {
        return Err(Error::Missing(dir.display().to_string()));
    }
    let lock = lock(dir)?;
    let damaged = |e: rusqlite::Error| Error::Damaged(dir.display().to_string(), e.to_string());
    let conn = Connection::open_with_flags(
        &file,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    conn.query_row("SELECT count(*) FROM sqlite_schema", [], |r| r.get::<_, i64>(0)).map_err(damaged)?;
    let application: i64 = conn.query_row("PRAGMA application_id", [], |r| r.get(0)).map_err(damaged)?;
    if application != APPLICATION {
        return Err(Error::Damaged(dir.display().to_string(), "it is not a store of reeve".to_owned()));
    }
    let version: i64 = conn.query_row("PRAGMA user_version", [], |r| r.get(0)).map_err(damaged)?;
    if version > SCHEMA {
        return Err(Error::Newer(version, SCHEMA));
    }
    pragmas(&conn)?;
    migrate(&conn, version)?;
    let meta = |key: &str| {
        conn.query_row("SELECT value FROM meta WHERE key = ?1", [key], |r| r.get::<_, String>(0))
            .map_err(damaged)
    };
    let (lineage, cluster, name) = (meta("lineage")?, meta("cluster")?, meta("name")?);
    let epoch: u64 = meta("epoch")?.parse().map_err(|_| Error::Value("epoch".to_owned()))?;
    let clean = meta("clean")? == "1";
    let bytes = std::fs::metadata(&file).map_err(io(&file))?.len();
    if !clean && bytes < CHECK_FIRST_BELOW {
        quick_check(&conn, dir)?;
    }
    let unchecked = !clean && (CHECK_FIRST_BELOW..CHECK_BELOW).contains(&bytes);
    let seq: i64 =
        conn.query_row("SELECT coalesce(max(seq), 0) FROM events", [], |r| r.get(0)).map_err(damaged)?;
    let seq = seq as u64;
    let mark = Mark::open(dir, &lineage, seq)?;
    begin(&conn, dir, epoch + 1)?;
    conn.set_prepared_statement_cache_capacity(128);
    Ok(Opened { conn, lineage, epoch: epoch + 1, seq, cluster, name, mark, lock, unchecked })
}

/// Brings an older store to this version, each step of the way in a transaction of its own.
fn migrate(conn: &Connection, version: i64) -> Result<(), Error> {
    for (n, sql) in MIGRATIONS.iter().enumerate().skip(version.max(0) as usize) {
        let to = n as i64 + 1;
        tracing::info!(from = to - 1, to, "the store is brought to this version");
        let done = conn.execute_batch(&format!("BEGIN IMMEDIATE; {sql} PRAGMA user_version = {to}; COMMIT"));
        if done.is_err() {
            let _ = conn.execute_batch("ROLLBACK");
        }
        done?;
    }
    Ok(())
}

/// Checks a store that is in use, on a connection of its own.
///
/// # Errors
/// [`Error::Damaged`]: whoever uses it must stop.
pub fn check(dir: &Path) -> Result<(), Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    quick_check(&Connection::open_with_flags(dir.join(FILE), flags)?, dir)
}

fn quick_check(conn: &Connection, dir: &Path) -> Result<(), Error> {
    let damaged = |problem: String| Error::Damaged(dir.display().to_string(), problem);
    let word = conn.query_row("PRAGMA quick_check(1)", [], |r| r.get::<_, String>(0));
    match word.map_err(|e| damaged(e.to_string()))? {
        word if word == "ok" => Ok(()),
        word => Err(damaged(word)),
    }
}

/// Counts this start. On a full disk the ballast makes room, so that ends can be recorded all the same.
fn begin(conn: &Connection, dir: &Path, epoch: u64) -> Result<(), Error> {
    let note = || -> Result<(), Error> {
        conn.execute("UPDATE meta SET value = ?1 WHERE key = 'epoch'", [epoch.to_string()])?;
        conn.execute("UPDATE meta SET value = '0' WHERE key = 'clean'", [])?;
        Ok(())
    };
    match note() {
        Err(error) if error.is_full() => {
            let _ = std::fs::remove_file(dir.join(BALLAST));
            note().map_err(|e| if e.is_full() { Error::Full(dir.display().to_string()) } else { e })
        }
        done => done,
    }
}

pub(super) fn lock(dir: &Path) -> Result<File, Error> {
    let path = dir.join("lock");
    let mut file = File::options()
        .mode(0o600)
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&path)
        .map_err(io(&path))?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let mut pid = String::new();
        let _ = file.read_to_string(&mut pid);
        return Err(Error::InUse(dir.display().to_string(), pid.trim().to_owned()));
    }
    // Only for the words of whoever is refused: a full disk may leave it empty.
    let _ =
        file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
    Ok(file)
}

/// Sets what durability depends on, and reads it back: a setting that did not take is an error, not a hope.
fn pragmas(conn: &Connection) -> Result<(), Error> {
    conn.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA trusted_schema = OFF;
         PRAGMA cell_size_check = ON; PRAGMA mmap_size = 0; PRAGMA wal_autocheckpoint = 0; PRAGMA temp_store = MEMORY;
         PRAGMA cache_size = -4096;",
    )?;
    for (name, wanted) in [
        ("journal_mode", "wal"),
        ("synchronous", "2"),
        ("foreign_keys", "1"),
        ("trusted_schema", "0"),
        ("wal_autocheckpoint", "0"),
    ] {
        let got: String = conn
            .query_row(&format!("PRAGMA {name}"), [], |r| r.get::<_, rusqlite::types::Value>(0).map(text))?;
        if got != wanted {
            return Err(Error::Pragma(name, got));
        }
    }
    Ok(())
}

fn text(value: rusqlite::types::Value) -> String {
    match value {
        rusqlite::types::Value::Integer(n) => n.to_string(),
        rusqlite::types::Value::Text(t) => t,
        other => format!("{other:?}"),
    }
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.display().to_string();
    move |e| Error::Io(path, e)
}

/// The high-water mark: SQLite cannot notice that the tail of its log is gone, so the last acknowledged event is kept
/// beside it, overwritten in place. Written after every commit, synced at most [`Mark::SYNC_MS`] late.
pub struct Mark {
    file: File,
    path: PathBuf,
    lineage: String,
    dirty_since: Option<u64>,
}

const MARK_BYTES: usize = 128;

impl Mark {
    /// How late it may be on disk, in milliseconds.
    pub const SYNC_MS: u64 = 250;

    fn open(dir: &Path, lineage: &str, seq: u64) -> Result<Self, Error> {
        let path = dir.join(MARK);
        let file = File::options()
            .mode(0o600)
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(io(&path))?;
        let mut bytes = vec![0; MARK_BYTES];
        let n = file.read_at(&mut bytes, 0).map_err(io(&path))?;
        if let Some((kept, promised)) = parse_mark(&bytes[..n])
            && kept == lineage
            && promised > seq
        {
            return Err(Error::Regressed { found: seq, promised });
        }
        Ok(Self { file, path, lineage: lineage.to_owned(), dirty_since: None })
    }

    /// Notes the last event of a commit, at this boot time.
    ///
    /// # Errors
    /// From the file system.
    pub fn put(&mut self, seq: u64, mono: u64) -> Result<(), Error> {
        let mut line = format!("{} {seq} ", self.lineage);
        let digest = reeve_protocol::token::sha256_hex(line.as_bytes());
        line.push_str(&digest[..16]);
        line.push('\n');
        while line.len() < MARK_BYTES {
            line.push(' ');
        }
        self.file.write_all_at(line.as_bytes(), 0).map_err(io(&self.path))?;
        let since = *self.dirty_since.get_or_insert(mono);
        if mono >= since + Self::SYNC_MS { self.sync() } else { Ok(()) }
    }

    /// When it must be synced, boot-time milliseconds.
    pub const fn due(&self) -> Option<u64> {
        match self.dirty_since {
            Some(since) => Some(since + Self::SYNC_MS),
            None => None,
        }
    }

    /// Syncs it.
    ///
    /// # Errors
    /// From the file system.
    pub fn sync(&mut self) -> Result<(), Error> {
        if self.dirty_since.take().is_some() {
            self.file.sync_data().map_err(io(&self.path))?;
        }
        Ok(())
    }
}

/// Lineage and event of a mark; `None` when it is absent or torn (its own damage proves nothing).
fn parse_mark(bytes: &[u8]) -> Option<(String, u64)> {
    let line = std::str::from_utf8(bytes).ok()?.lines().next()?;
    let mut parts = line.split_whitespace();
    let (lineage, seq, digest) = (parts.next()?, parts.next()?, parts.next()?);
    let wanted = reeve_protocol::token::sha256_hex(format!("{lineage} {seq} ").as_bytes());
    (wanted[..16] == *digest).then(|| Some((lineage.to_owned(), seq.parse().ok()?)))?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        create(dir.path(), "lab").unwrap();
        dir
    }

    #[test]
    fn a_store_is_made_once_opened_by_one_and_counts_its_starts() {
        let dir = made();
        assert!(matches!(create(dir.path(), "lab"), Err(Error::Exists(_))));
        let first = open(dir.path()).unwrap();
        assert_eq!((first.epoch, first.seq, first.name.as_str()), (1, 0, "lab"));
        assert!(matches!(open(dir.path()), Err(Error::InUse(..))));
        drop(first);
        assert_eq!(open(dir.path()).unwrap().epoch, 2);
    }

    #[test]
    fn missing_newer_and_foreign_stores_are_refused_with_what_to_do() {
        let empty = tempfile::tempdir().unwrap();
        assert!(open(empty.path()).err().unwrap().to_string().contains("init"));
        let newer = made();
        Connection::open(newer.path().join(FILE)).unwrap().pragma_update(None, "user_version", 99).unwrap();
        assert!(matches!(open(newer.path()), Err(Error::Newer(99, SCHEMA))));
        let junk = tempfile::tempdir().unwrap();
        std::fs::write(junk.path().join(FILE), vec![7; 8192]).unwrap();
        assert!(matches!(open(junk.path()), Err(Error::Damaged(..))));
        let other = tempfile::tempdir().unwrap();
        Connection::open(other.path().join(FILE)).unwrap().execute_batch("CREATE TABLE x (y)").unwrap();
        assert!(matches!(open(other.path()), Err(Error::Damaged(..))));
    }

    #[test]
    fn a_store_of_the_first_version_is_brought_up_with_what_it_holds() {
        let dir = made();
        let old = tempfile::tempdir().unwrap();
        {
            let conn = Connection::open(old.path().join(FILE)).unwrap();
            conn.execute_batch(MIGRATIONS[0]).unwrap();
            conn.pragma_update(None, "application_id", APPLICATION).unwrap();
            conn.pragma_update(None, "user_version", 1).unwrap();
            conn.execute_batch(&format!(
                "ATTACH '{}' AS new; INSERT INTO meta SELECT * FROM new.meta;
                 INSERT INTO queues (name, kind, backend, owner_uid, owner, created_at) VALUES ('q', 'messages', 'local', 0, 'a', 1);
                 INSERT INTO messages (queue, owner_uid, owner, kind, body, headers, priority, published_at)
                   VALUES ('q', 0, 'a', 1, x'61', '{{}}', 0, 1)",
                dir.path().join(FILE).display()
            ))
            .unwrap();
        }
        let opened = open(old.path()).unwrap();
        let version: i64 = opened.conn.query_row("PRAGMA user_version", [], |r| r.get(0)).unwrap();
        assert_eq!(version, SCHEMA);
        let loaded = super::super::load::load(&opened.conn, crate::core::Identity::default(), 0).unwrap();
        assert_eq!((loaded.queues.len(), loaded.messages.len()), (1, 1));
        assert_eq!(loaded.queues[0].backend, crate::row::Backend::Local);
        drop(opened);
        assert_eq!(open(old.path()).unwrap().epoch, 2, "once is enough");
    }

    #[test]
    fn a_damaged_page_is_found_after_an_unclean_stop() {
        let dir = made();
        drop(open(dir.path()).unwrap());
        let path = dir.path().join(FILE);
        Connection::open(&path).unwrap().execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        for byte in &mut bytes[4096..8192] {
            *byte ^= 0x5a;
        }
        std::fs::write(&path, bytes).unwrap();
        assert!(matches!(open(dir.path()), Err(Error::Damaged(..))));
    }

    #[test]
    fn a_store_that_ends_before_the_mark_is_never_served() {
        let dir = made();
        let mut opened = open(dir.path()).unwrap();
        opened.mark.put(5, 0).unwrap();
        drop(opened);
        match open(dir.path()) {
            Err(Error::Regressed { found: 0, promised: 5 }) => {}
            other => panic!("{:?}", other.err()),
        }
        std::fs::write(dir.path().join(MARK), "torn").unwrap();
        assert!(open(dir.path()).is_ok(), "a torn mark proves nothing");
    }
}
