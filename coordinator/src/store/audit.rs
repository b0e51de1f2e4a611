//! The audit as rows: each is chained to the one before by its hash, so that an edit, a deletion or an insertion behind
//! the coordinator's back is found by [`verify`].
use super::Error;
use crate::row::AuditRow;
use aws_lc_rs::digest::{Context, SHA256};
use reeve_protocol::api::AuditEntry;
use reeve_protocol::time::Wall;
use rusqlite::{Connection, Row, params};

/// Bytes of a hash.
const HASH: usize = 32;

/// Where the chain ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// The last row's number; 0 before the first.
    pub seq: u64,
    hash: [u8; HASH],
}

impl Head {
    /// The hash as hex: worth keeping elsewhere, since whoever can write the store can make a new chain.
    pub fn hex(&self) -> String {
        use std::fmt::Write as _;
        self.hash.iter().fold(String::with_capacity(2 * HASH), |mut out, byte| {
            let _ = write!(out, "{byte:02x}");
            out
        })
    }
}

/// The chain's end in the store.
///
/// # Errors
/// From SQLite.
pub fn head(db: &Connection) -> Result<Head, Error> {
    let mut statement = db.prepare_cached("SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1")?;
    let mut rows = statement.query([])?;
    match rows.next()? {
        Some(row) => Ok(Head { seq: row.get::<_, i64>(0)? as u64, hash: row.get(1)? }),
        None => Ok(Head::default()),
    }
}

/// Appends rows inside the open transaction; the chain's new end, which counts once that has been committed.
///
/// # Errors
/// From SQLite.
pub fn append(db: &Connection, mut head: Head, rows: &[AuditRow]) -> Result<Head, Error> {
    let mut insert = db.prepare_cached(
        "INSERT INTO audit (seq, at, uid, name, via, call, object, request, refused, unwritten, event, hash)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
    )?;
    for row in rows {
        let entry = entry(head.seq + 1, row);
        head = Head { seq: entry.seq, hash: link(&head.hash, &entry) };
        insert.execute(params![
            entry.seq,
            entry.at.0,
            entry.uid,
            entry.name,
            entry.via,
            entry.call,
            entry.object,
            entry.request,
            entry.refused,
            entry.unwritten,
            entry.event,
            head.hash
        ])?;
    }
    Ok(head)
}

fn entry(seq: u64, row: &AuditRow) -> AuditEntry {
    AuditEntry {
        seq,
        at: Wall(row.at),
        uid: row.uid,
        name: row.name.to_string(),
        via: row.via.as_str().to_owned(),
        call: row.call.to_owned(),
        object: row.object.clone(),
        request: row.request.as_deref().map(str::to_owned),
        refused: row.refused.clone(),
        unwritten: row.unwritten,
        event: row.seq,
    }
}

/// SHA-256 over the hash before and every field, each with its length, so that no two rows have the same bytes.
fn link(before: &[u8; HASH], entry: &AuditEntry) -> [u8; HASH] {
    let mut context = Context::new(&SHA256);
    context.update(before);
    for number in [
        entry.seq,
        entry.at.0.cast_unsigned(),
        entry.uid.map_or(u64::MAX, u64::from),
        entry.unwritten.into(),
        entry.event,
    ] {
        context.update(&number.to_be_bytes());
    }
    let texts = [Some(&entry.name), Some(&entry.via), Some(&entry.call), Some(&entry.object)];
    for text in texts.into_iter().chain([entry.request.as_ref(), entry.refused.as_ref()]) {
        context.update(&text.map_or(u64::MAX, |t| t.len() as u64).to_be_bytes());
        context.update(text.map_or(&[], |t| t.as_bytes()));
    }
    let mut hash = [0; HASH];
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

const COLUMNS: &str = "seq, at, uid, name, via, call, object, request, refused, unwritten, event";

fn read(row: &Row<'_>) -> rusqlite::Result<AuditEntry> {
    Ok(AuditEntry {
        seq: row.get::<_, i64>(0)? as u64,
        at: Wall(row.get(1)?),
        uid: row.get(2)?,
        name: row.get(3)?,
        via: row.get(4)?,
        call: row.get(5)?,
        object: row.get(6)?,
        request: row.get(7)?,
        refused: row.get(8)?,
        unwritten: row.get(9)?,
        event: row.get::<_, i64>(10)? as u64,
    })
}

/// Rows from `from` on, ascending, at most `limit`; without `from` the newest ones.
///
/// # Errors
/// From SQLite.
pub fn page(db: &Connection, from: Option<u64>, limit: u32) -> Result<Vec<AuditEntry>, Error> {
    let from = match from {
        Some(from) => from,
        None => (head(db)?.seq + 1).saturating_sub(limit.into()),
    };
    let mut statement =
        db.prepare_cached(&format!("SELECT {COLUMNS} FROM audit WHERE seq >= ?1 ORDER BY seq LIMIT ?2"))?;
    let rows = statement.query_map(params![from.cast_signed(), limit], read)?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Walks the whole chain; its end.
///
/// # Errors
/// [`Error::Audit`] at the first row that is not what was written, or from SQLite.
pub fn verify(db: &Connection) -> Result<Head, Error> {
    let mut statement = db.prepare(&format!("SELECT {COLUMNS}, hash FROM audit ORDER BY seq"))?;
    let mut rows = statement.query([])?;
    let mut head = Head::default();
    while let Some(row) = rows.next()? {
        let entry = read(row)?;
        if entry.seq != head.seq + 1 {
            return Err(Error::Audit(head.seq + 1, "is missing"));
        }
        let hash = link(&head.hash, &entry);
        if row.get::<_, Vec<u8>>(11)? != hash {
            return Err(Error::Audit(entry.seq, "was changed, or one before it was"));
        }
        head = Head { seq: entry.seq, hash };
    }
    // Kept by SQLite itself, and never lowered by a deletion.
    let last = "SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'audit'), 0)";
    let last = db.query_row(last, [], |row| row.get::<_, i64>(0))? as u64;
    if last != head.seq {
        return Err(Error::Audit(head.seq + 1, "and what followed it is missing"));
    }
    Ok(head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::Via;
    use crate::store::read::fixture::Fixture;

    fn row(object: &str) -> AuditRow {
        AuditRow {
            at: 5,
            uid: Some(1000),
            name: "ana".into(),
            via: Via::Socket,
            call: "submit",
            object: object.to_owned(),
            request: None,
            refused: None,
            unwritten: 0,
            seq: 9,
        }
    }

    fn filled() -> Fixture {
        let fixture = Fixture::empty();
        let first = append(&fixture.conn, Head::default(), &[row("job:1"), row("job:2")]).unwrap();
        append(&fixture.conn, first, &[row("job:3"), row("job:4")]).unwrap();
        fixture
    }

    #[test]
    fn a_chain_that_nobody_touched_is_sound_and_goes_on_where_it_ended() {
        let fixture = filled();
        let end = verify(&fixture.conn).unwrap();
        assert_eq!((end, end.seq), (head(&fixture.conn).unwrap(), 4));
        assert_eq!(end.hex().len(), 64);
        assert_eq!(verify(&Fixture::empty().conn).unwrap(), Head::default());
    }

    #[test]
    fn every_edit_deletion_and_insertion_is_found() {
        for sql in [
            "UPDATE audit SET object = 'job:9' WHERE seq = 2",
            "UPDATE audit SET name = 'bob' WHERE seq = 4",
            "UPDATE audit SET uid = NULL WHERE seq = 1",
            "UPDATE audit SET refused = 'x' WHERE seq = 3",
            "UPDATE audit SET request = '' WHERE seq = 3",
            "UPDATE audit SET at = at + 1 WHERE seq = 3",
            "UPDATE audit SET hash = zeroblob(32) WHERE seq = 4",
            "DELETE FROM audit WHERE seq = 1",
            "DELETE FROM audit WHERE seq = 2",
            "DELETE FROM audit WHERE seq = 4",
            "DELETE FROM audit",
            "INSERT INTO audit SELECT 5, at, uid, name, via, call, object, request, refused, unwritten, event, hash FROM audit WHERE seq = 4",
            "UPDATE audit SET seq = 9 WHERE seq = 4",
        ] {
            let fixture = filled();
            fixture.run(sql);
            assert!(matches!(verify(&fixture.conn), Err(Error::Audit(..))), "{sql}");
        }
    }

    #[test]
    fn fields_cannot_be_shifted_into_each_other() {
        let of = |name: &str, object: &str| {
            link(&[0; HASH], &entry(1, &AuditRow { name: name.into(), ..row(object) }))
        };
        assert_ne!(of("ana", "b"), of("an", "ab"));
    }

    #[test]
    fn pages_are_in_order_and_the_newest_come_without_a_number() {
        let fixture = filled();
        let seqs =
            |from, limit| page(&fixture.conn, from, limit).unwrap().iter().map(|e| e.seq).collect::<Vec<_>>();
        assert_eq!(seqs(Some(2), 2), [2, 3]);
        assert_eq!(seqs(None, 2), [3, 4]);
        assert_eq!(seqs(None, 100), [1, 2, 3, 4]);
        assert!(seqs(Some(5), 9).is_empty());
    }
}
