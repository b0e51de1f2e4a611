//! The store of a simulated coordinator: the real schema, facts and loading, on SQLite in memory. What survives a crash is
//! exactly what was committed.
use reeve_coordinator::core::Identity;
use reeve_coordinator::effect::{Fact, Step};
use reeve_coordinator::input::{Stored, Target};
use reeve_coordinator::row::{Backend, MachineRow, QueueKind, QueueRow};
use reeve_coordinator::store::load::{self, Loaded};
use reeve_coordinator::store::{Error, audit, open, read, writer};
use reeve_protocol::State;
use rusqlite::Connection;

/// The lineage of every simulated store.
pub const LINEAGE: &str = "l";

/// `(job, index or -1, attempt, cause as JSON)`.
pub type Ending = (u64, i64, u32, Option<String>);

/// What is on disk.
pub struct Store {
    conn: Connection,
    audit: audit::Head,
    epoch: u64,
}

impl Store {
    /// A new store that knows these machines.
    ///
    /// # Errors
    /// From SQLite.
    pub fn new(machines: Vec<MachineRow>) -> Result<Self, Error> {
        let mut conn = Connection::open_in_memory()?;
        for sql in open::MIGRATIONS {
            conn.execute_batch(sql)?;
        }
        conn.execute_batch("INSERT INTO meta (key, value) VALUES ('next_job', '1')")?;
        conn.set_prepared_statement_cache_capacity(128);
        let mut facts: Vec<_> = machines.into_iter().map(|row| Fact::MachinePut(Box::new(row))).collect();
        // Whatever moves where first, these stay queues of jobs.
        facts.extend(super::calls::JOBS.map(|name| {
            let owner = (super::clients::UID, &"ana".into());
            let row = QueueRow::new(name.into(), QueueKind::Jobs, Backend::Local, owner, 0);
            Fact::QueuePut(Box::new(row))
        }));
        let audit = audit::head(&conn)?;
        let audit = writer::write(&mut conn, audit, &Step::from(facts))?;
        Ok(Self { conn, audit, epoch: 0 })
    }

    /// Writes a step as the recorder does.
    ///
    /// # Errors
    /// When memory and disk disagree.
    pub fn commit(&mut self, step: &Step) -> Result<(), Error> {
        self.audit = writer::write(&mut self.conn, self.audit, step)?;
        Ok(())
    }

    /// What a start reads; it counts as a start.
    ///
    /// # Errors
    /// From SQLite.
    pub fn start(&mut self) -> Result<Loaded, Error> {
        self.epoch += 1;
        self.load()
    }

    /// What a start would read.
    ///
    /// # Errors
    /// From SQLite.
    pub fn load(&self) -> Result<Loaded, Error> {
        let identity = Identity {
            cluster: "c".to_owned(),
            name: "sim".to_owned(),
            lineage: LINEAGE.to_owned(),
            epoch: self.epoch,
        };
        load::load(&self.conn, identity, read::last_event(&self.conn)?)
    }

    /// The rows that the asking side of a call reads.
    ///
    /// # Errors
    /// From SQLite.
    pub fn stored(&self, target: Target, only_bad: bool) -> Result<Stored, Error> {
        let seq = read::last_event(&self.conn)?;
        let Some(job) = read::job_row(&self.conn, target.job)? else { return Ok(Stored::default()) };
        let tasks = if job.array.is_none() || (!only_bad && target.tasks.is_none()) {
            Vec::new()
        } else {
            read::task_rows(&self.conn, target.job, target.tasks, only_bad)?
        };
        Ok(Stored { job: Some(Box::new(job)), tasks, seq })
    }

    /// The job that was submitted with this key.
    ///
    /// # Errors
    /// From SQLite.
    pub fn by_key(&self, key: &str) -> Result<Option<u64>, Error> {
        Ok(read::by_key(&self.conn, super::clients::UID, key)?.map(|(id, _)| id))
    }

    /// The message that was published with this key.
    ///
    /// # Errors
    /// From SQLite.
    pub fn message_by_key(&self, queue: &str, key: &str) -> Result<Option<u64>, Error> {
        Ok(read::message_by_key(&self.conn, super::clients::UID, queue, key)?.map(|(id, _)| id))
    }

    /// State and attempt of every job and task: `(job, index or -1, state, attempt)`; of arrays their tasks alone.
    ///
    /// # Errors
    /// From SQLite.
    pub fn standings(&self) -> Result<Vec<(u64, i64, State, u32)>, Error> {
        let mut statement = self.conn.prepare_cached(
            "SELECT id, -1, state, attempt FROM jobs WHERE array_from IS NULL
             UNION ALL SELECT job, idx, state, attempt FROM tasks ORDER BY 1, 2",
        )?;
        let rows = statement
            .query_map([], |r| Ok((r.get::<_, i64>(0)? as u64, r.get(1)?, r.get::<_, i64>(2)?, r.get(3)?)))?;
        rows.map(|row| {
            let (job, index, state, attempt) = row?;
            Ok((job, index, read::state(state)?, attempt))
        })
        .collect()
    }

    /// Every ended attempt.
    ///
    /// # Errors
    /// From SQLite.
    pub fn endings(&self) -> Result<Vec<Ending>, Error> {
        let mut statement = self
            .conn
            .prepare_cached("SELECT job, idx, attempt, cause FROM attempts WHERE ended_at IS NOT NULL")?;
        let rows =
            statement.query_map([], |r| Ok((r.get::<_, i64>(0)? as u64, r.get(1)?, r.get(2)?, r.get(3)?)))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// A job's row.
    ///
    /// # Errors
    /// From SQLite.
    pub fn job(&self, id: u64) -> Result<Option<reeve_coordinator::row::JobRow>, Error> {
        read::job_row(&self.conn, id)
    }

    /// What a query says of number and queue.
    ///
    /// # Errors
    /// From SQLite.
    pub fn queues_of(&self, sql: &str) -> Result<Vec<(u64, String)>, Error> {
        let mut statement = self.conn.prepare_cached(sql)?;
        let rows = statement.query_map([], |r| Ok((r.get::<_, i64>(0)? as u64, r.get(1)?)))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// How many rows a query counts.
    ///
    /// # Errors
    /// From SQLite.
    pub fn count(&self, sql: &str) -> Result<u64, Error> {
        Ok(self.conn.query_row(sql, [], |r| r.get::<_, i64>(0))? as u64)
    }

    /// The body of a message.
    ///
    /// # Errors
    /// From SQLite.
    pub fn message(&self, id: u64) -> Result<Option<Vec<u8>>, Error> {
        use rusqlite::OptionalExtension as _;
        let mut statement = self.conn.prepare_cached("SELECT body FROM messages WHERE id = ?1")?;
        Ok(statement.query_row([id as i64], |r| r.get(0)).optional()?)
    }
}
