//! Looking after a store from outside the engine: check it, copy it. Both only read, so both work while a coordinator
//! serves from it.
use super::Error;
use super::open::FILE;
use rusqlite::backup::Backup;
use rusqlite::{Connection, OpenFlags};
use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

/// Pages copied at once; between two portions others may write.
const PAGES: i32 = 1024;
/// Between two portions.
const PAUSE: Duration = Duration::from_millis(1);
/// For a lock of somebody else.
const BUSY: Duration = Duration::from_secs(5);

/// The cluster's id.
///
/// # Errors
/// When there is no store, or it cannot be read.
pub fn cluster(dir: &Path) -> Result<String, Error> {
    Ok(reader(dir)?.query_row("SELECT value FROM meta WHERE key = 'cluster'", [], |row| row.get(0))?)
}

/// Checks every page, index and reference.
///
/// # Errors
/// [`Error::Damaged`] with the first findings.
pub fn verify(dir: &Path) -> Result<(), Error> {
    sound(&reader(dir)?, dir)
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

fn reader(dir: &Path) -> Result<Connection, Error> {
    let file = dir.join(FILE);
    if !file.exists() {
        return Err(Error::Missing(dir.display().to_string()));
    }
    let conn = Connection::open_with_flags(
        &file,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    conn.busy_timeout(BUSY)?;
    Ok(conn)
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
