//! Looking after a store from outside the engine: check it, copy it, put a copy back. The first two only read, so they
//! work while a coordinator serves from it; the third wants the store for itself.
use super::open::{APPLICATION, FILE};
use super::{Error, audit};
use rusqlite::backup::Backup;
use rusqlite::{Connection, OpenFlags};
use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Pages copied at once; between two portions others may write.
const PAGES: i32 = 1024;
/// Between two portions.
const PAUSE: Duration = Duration::from_millis(1);
/// Numbers of jobs left out at a restore: more than were submitted since the backup.
const JOBS_SKIPPED: u64 = 1_000_000;
/// For a lock of somebody else.
const BUSY: Duration = Duration::from_secs(5);

/// The cluster's id.
///
/// # Errors
/// When there is no store, or it cannot be read.
pub fn cluster(dir: &Path) -> Result<String, Error> {
    Ok(reader(dir)?.query_row("SELECT value FROM meta WHERE key = 'cluster'", [], |row| row.get(0))?)
}

/// Checks every page, index and reference, and that the audit is the one that was written; where the audit ends.
///
/// # Errors
/// [`Error::Damaged`] with the first findings; [`Error::Audit`].
pub fn verify(dir: &Path) -> Result<audit::Head, Error> {
    let conn = reader(dir)?;
    sound(&conn, dir)?;
    audit::verify(&conn)
}

/// Copies the store as it is at one moment into a new file, which is checked and synced before this returns.
///
/// # Errors
/// When the file exists, from the file system, or when the copy is not sound.
pub fn backup(dir: &Path, to: &Path) -> Result<(), Error> {
    let from = reader(dir)?;
    let io = |e: io::Error| Error::Io(to.display().to_string(), e);
    // Made first, so that its mode is right from the first byte on, and an existing file is left alone.
    let file = File::options().write(true).create_new(true).mode(0o600).open(to).map_err(io)?;
    let copied = copy(&from, to);
    if copied.is_err() {
        let _ = std::fs::remove_file(to);
    }
    copied?;
    file.sync_all().map_err(io)
}

fn copy(from: &Connection, to: &Path) -> Result<(), Error> {
    let mut copy = Connection::open(to)?;
    Backup::new(from, &mut copy)?.run_to_completion(PAGES, PAUSE, None)?;
    // A copy is one file: it needs no log beside it.
    copy.query_row("PRAGMA journal_mode = DELETE", [], |_| Ok(()))?;
    sound(&copy, to)?;
    copy.close().map_err(|(_, e)| e.into())
}

/// Puts a backup in the store's place; `None`: the store itself, whose lost tail is given up. What was there before stays
/// beside it and is named in the answer. The lineage becomes another one and the numbers of jobs jump, so that nothing
/// that happened after the backup can be taken for something new.
///
/// # Errors
/// When the backup is not sound or is no store, the store is in use, or from the file system. The old store is then
/// untouched.
pub fn restore(dir: &Path, backup: Option<&Path>) -> Result<Option<PathBuf>, Error> {
    let _lock = super::open::lock(dir)?;
    let (store, new) = (dir.join(FILE), dir.join("reeve.db.new"));
    let from = backup.map_or_else(|| reader(dir), read_only)?;
    let _ = std::fs::remove_file(&new);
    let file = File::options().write(true).create_new(true).mode(0o600).open(&new).map_err(io_at(&new))?;
    copy(&from, &new)?;
    drop(from);
    begin_again(&new)?;
    file.sync_all().map_err(io_at(&new))?;
    let before = dir.join(format!("reeve.db.before-{}", crate::clock::now().wall));
    let had_one = store.exists();
    // The log belongs to the old file: left behind, it would be replayed into the new one.
    for end in ["", "-wal", "-shm"] {
        let with = |path: &Path| PathBuf::from(format!("{}{end}", path.display()));
        match std::fs::rename(with(&store), with(&before)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io_at(&store)(e)),
            _ => {}
        }
    }
    std::fs::rename(&new, &store).map_err(io_at(&store))?;
    File::open(dir).and_then(|d| d.sync_all()).map_err(io_at(dir))?;
    Ok(had_one.then_some(before))
}

/// Makes a copy a store of its own.
fn begin_again(file: &Path) -> Result<(), Error> {
    let conn = Connection::open(file)?;
    let next = "SELECT max((SELECT coalesce(max(id), 0) + 1 FROM jobs),
                           (SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'next_job'))";
    let next: u64 = conn.query_row(next, [], |row| row.get(0))?;
    let words = [
        ("next_job", (next + JOBS_SKIPPED).to_string()),
        ("lineage", reeve_protocol::token::random_hex(8)),
        ("clean", "1".to_owned()),
    ];
    for (key, value) in words {
        conn.execute("UPDATE meta SET value = ?2 WHERE key = ?1", (key, value))?;
    }
    conn.close().map_err(|(_, e)| e.into())
}

fn io_at(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.display().to_string();
    move |e| Error::Io(path, e)
}

fn reader(dir: &Path) -> Result<Connection, Error> {
    let file = dir.join(FILE);
    if !file.exists() {
        return Err(Error::Missing(dir.display().to_string()));
    }
    read_only(&file)
}

fn read_only(file: &Path) -> Result<Connection, Error> {
    let place = || file.display().to_string();
    std::fs::metadata(file).map_err(io_at(file))?;
    let conn = Connection::open_with_flags(
        file,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    conn.busy_timeout(BUSY)?;
    let application = conn.query_row("PRAGMA application_id", [], |row| row.get::<_, i64>(0));
    match application.map_err(|e| Error::Damaged(place(), e.to_string()))? {
        APPLICATION => Ok(conn),
        _ => Err(Error::Damaged(place(), "it is not a store of reeve".to_owned())),
    }
}

fn sound(conn: &Connection, place: &Path) -> Result<(), Error> {
    let damaged = |what: String| Error::Damaged(place.display().to_string(), what);
    let mut check = conn.prepare("PRAGMA integrity_check(3)")?;
    let findings = check.query_map([], |row| row.get::<_, String>(0)).and_then(Iterator::collect);
    let findings: Vec<String> = findings.map_err(|e| damaged(e.to_string()))?;
    if findings != ["ok"] {
        return Err(damaged(findings.join("; ")));
    }
    let mut references = conn.prepare("PRAGMA foreign_key_check")?;
    let dangling: Option<String> = references.query_map([], |row| row.get(0))?.next().transpose()?;
    dangling.map_or(Ok(()), |table| Err(damaged(format!("a row of {table} refers to one that is not there"))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::open;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_store_in_use_can_be_checked_and_copied_and_the_copy_opened() {
        let dir = tempfile::tempdir().unwrap();
        open::create(dir.path(), "lab").unwrap();
        let opened = open::open(dir.path()).unwrap();
        verify(dir.path()).unwrap();
        assert_eq!(cluster(dir.path()).unwrap(), opened.cluster);
        let other = tempfile::tempdir().unwrap();
        let to = other.path().join(FILE);
        backup(dir.path(), &to).unwrap();
        assert_eq!(std::fs::metadata(&to).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(other.path()).unwrap().count(), 1, "one file is all");
        verify(other.path()).unwrap();
        assert_eq!(open::open(other.path()).unwrap().cluster, opened.cluster);
        assert!(matches!(backup(dir.path(), &to), Err(Error::Io(..))), "an existing file is left alone");
    }

    #[test]
    fn a_restored_store_is_another_one_with_numbers_that_were_never_used() {
        let dir = tempfile::tempdir().unwrap();
        open::create(dir.path(), "lab").unwrap();
        let copy = dir.path().join("copy.db");
        backup(dir.path(), &copy).unwrap();
        let first = open::open(dir.path()).unwrap();
        assert!(matches!(restore(dir.path(), Some(&copy)), Err(Error::InUse(..))));
        let (lineage, cluster) = (first.lineage.clone(), first.cluster.clone());
        drop(first);
        let before = restore(dir.path(), Some(&copy)).unwrap().unwrap();
        assert!(before.exists(), "what was there is kept");
        let second = open::open(dir.path()).unwrap();
        assert_eq!(second.cluster, cluster);
        assert_ne!(second.lineage, lineage);
        let next = "SELECT value FROM meta WHERE key = 'next_job'";
        assert_eq!(second.conn.query_row(next, [], |r| r.get::<_, String>(0)).unwrap(), "1000001");
    }

    #[test]
    fn a_lost_tail_can_be_given_up_and_junk_restores_nothing() {
        let dir = tempfile::tempdir().unwrap();
        open::create(dir.path(), "lab").unwrap();
        let mut opened = open::open(dir.path()).unwrap();
        opened.mark.put(5, 0).unwrap();
        drop(opened);
        assert!(matches!(open::open(dir.path()), Err(Error::Regressed { .. })));
        let junk = dir.path().join("junk");
        std::fs::write(&junk, vec![7; 8192]).unwrap();
        assert!(matches!(restore(dir.path(), Some(&junk)), Err(Error::Damaged(..))));
        assert!(matches!(open::open(dir.path()), Err(Error::Regressed { .. })), "untouched");
        restore(dir.path(), None).unwrap();
        assert!(open::open(dir.path()).is_ok());
    }

    #[test]
    fn damage_and_absence_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(verify(dir.path()), Err(Error::Missing(_))));
        open::create(dir.path(), "lab").unwrap();
        let path = dir.path().join(FILE);
        Connection::open(&path).unwrap().execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        for byte in &mut bytes[8192..12288] {
            *byte ^= 0x5a;
        }
        std::fs::write(&path, bytes).unwrap();
        assert!(matches!(verify(dir.path()), Err(Error::Damaged(..))));
        let to = dir.path().join("copy");
        assert!(backup(dir.path(), &to).is_err());
        assert!(!to.exists(), "half a copy is no copy");
    }
}
