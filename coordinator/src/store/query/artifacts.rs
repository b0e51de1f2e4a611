//! What is kept of files that attempts left.
use crate::input::Segment;
use crate::store::Error;
use crate::store::read::json;
use reeve_protocol::JobId;
use reeve_protocol::artifact::Artifact;
use rusqlite::{Connection, params};

/// Attempts that are looked at, the newest.
const ATTEMPTS: u32 = 100;

/// The artifacts of one attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptArtifacts {
    /// From 1.
    pub attempt: u32,
    /// The files, in the order of their bytes.
    pub files: Vec<Artifact>,
    /// Where these lie.
    pub segment: Segment,
}

impl AttemptArtifacts {
    /// A file by its name, with the attempt and where its own bytes lie.
    pub fn find(&self, name: &str) -> Option<(u32, &Artifact, Segment)> {
        let at = self.files.iter().position(|file| file.name == name)?;
        let before: u64 = self.files[..at].iter().map(|file| file.size).sum();
        let file = &self.files[at];
        let segment = Segment { offset: self.segment.offset + before, len: file.size, ..self.segment };
        Some((self.attempt, file, segment))
    }
}

/// What is kept of a task, oldest attempt first; of one attempt, if it is named.
///
/// # Errors
/// From SQLite, or a value that makes no sense.
pub fn of_task(
    conn: &Connection,
    job: JobId,
    index: i64,
    attempt: Option<u32>,
) -> Result<Vec<AttemptArtifacts>, Error> {
    let mut statement = conn.prepare_cached(
        "SELECT attempt, list, seg, off, bytes FROM artifacts \
         WHERE job = ?1 AND idx = ?2 AND (?3 IS NULL OR attempt = ?3) ORDER BY attempt DESC LIMIT ?4",
    )?;
    let mut rows = statement.query(params![job as i64, index, attempt, ATTEMPTS])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let number = |at| row.get::<_, i64>(at).map(|n| n as u64);
        found.push(AttemptArtifacts {
            attempt: row.get(0)?,
            files: json(&row.get::<_, String>(1)?)?,
            segment: Segment { file: number(2)?, offset: number(3)?, len: number(4)? },
        });
    }
    found.reverse();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::effect::Fact;
    use crate::input::Kept;
    use crate::store::facts::apply_all;
    use crate::store::read::fixture::Fixture;
    use reeve_protocol::TaskId;

    fn file(name: &str, size: u64) -> Artifact {
        Artifact { name: name.into(), size, mode: 0o600, sha256: "0".repeat(64) }
    }

    #[test]
    fn each_file_is_found_where_its_own_bytes_lie() {
        let fixture = Fixture::empty();
        let segment = Segment { file: 3, offset: 100, len: 30 };
        for attempt in 1..=2 {
            let kept = Kept {
                attempt: TaskId::of_array(7, 4).attempt(attempt),
                files: vec![file("a", 10), file("b/c", 20)],
                segment,
            };
            apply_all(&fixture.conn, &[Fact::ArtifactsKept(Box::new(kept))]).unwrap();
        }
        let all = of_task(&fixture.conn, 7, 4, None).unwrap();
        assert_eq!(all.iter().map(|kept| kept.attempt).collect::<Vec<_>>(), [1, 2]);
        let (attempt, found, at) = all[1].find("b/c").unwrap();
        assert_eq!((attempt, found, at), (2, &file("b/c", 20), Segment { file: 3, offset: 110, len: 20 }));
        assert_eq!(all[0].find("c"), None);
        assert_eq!(of_task(&fixture.conn, 7, 4, Some(1)).unwrap().len(), 1);
        assert!(of_task(&fixture.conn, 7, -1, None).unwrap().is_empty());
    }
}
