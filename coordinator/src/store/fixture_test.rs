//! A small store for tests: the real schema, some jobs, an array, a queue's worth of everything else.
use rusqlite::Connection;
use std::path::PathBuf;

/// When the fixture's clock stands still, wall milliseconds.
pub(crate) const NOW: i64 = 1_800_000_000_000;
/// Whose jobs most of them are.
pub(crate) const UID: u32 = 1000;

/// A store in a directory of its own.
pub(crate) struct Fixture {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) conn: Connection,
}

impl Fixture {
    /// The schema without a row.
    pub(crate) fn empty() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let conn = Connection::open(dir.path().join("store.db")).unwrap();
        conn.execute_batch("PRAGMA journal_mode = WAL;").unwrap();
        for sql in crate::store::open::MIGRATIONS {
            conn.execute_batch(sql).unwrap();
        }
        Self { dir, conn }
    }

    /// Jobs 1 to 6; see the statements.
    pub(crate) fn new() -> Self {
        let fixture = Self::empty();
        let minutes = |n: i64| NOW - n * 60_000;
        fixture.job(
            1,
            "ana",
            "vision",
            2,
            minutes(180),
            r#"{"command":["python","train.py"],"name":"train-a","labels":{"team":"vision","a.b":"x"}}"#,
        );
        fixture.job(
            2,
            "ana",
            "vision",
            3,
            minutes(120),
            r#"{"command":["python","train.py"],"name":"train-b","labels":{"team":"nlp"}}"#,
        );
        fixture.job(3, "ana", "default", 4, minutes(90), r#"{"command":["sleep","100%"]}"#);
        fixture.job(4, "bob", "default", 1, minutes(30), r#"{"command":["detect"],"worker":"bank"}"#);
        fixture.job(5, "ana", "default", 0, minutes(5), r#"{"command":["echo","hi"],"priority":5}"#);
        fixture.job(
            6,
            "ana",
            "sweep",
            1,
            minutes(1),
            r#"{"command":["sweep"],"array":{"from":1,"to":100,"limit":4}}"#,
        );
        fixture.run(&format!(
            "UPDATE jobs SET cause = '{{\"kind\":\"ok\"}}', cause_kind = 'ok', exit_code = 0, attempt = 1, machine = 'gpu-01', ended_at = {0}, started_at = {0}, alias = 'mgr-42' WHERE id = 1;
             UPDATE jobs SET cause = '{{\"kind\":\"oom\",\"detail\":\"CUDA out of memory\"}}', cause_kind = 'oom', attempt = 2, tries = 2, machine = 'gpu-02', ended_at = {0}, key = 'k', digest = 'd' WHERE id = 2;
             UPDATE jobs SET cause = '{{\"kind\":\"cancelled\"}}', cause_kind = 'cancelled', ended_at = {0} WHERE id = 3;
             UPDATE jobs SET owner_uid = 1001, substate = 7, attempt = 1, machine = 'cpu-01', worker = 'bank', worker_version = 3, message = 'epoch 3_of 9', progress = 0.5 WHERE id = 4;
             UPDATE jobs SET substate = 0, priority = 5 WHERE id = 5;
             UPDATE jobs SET array_from = 1, array_to = 100, array_limit = 4, array_next = 4, n_queued = 96, n_running = 1, n_completed = 1, n_failed = 1, n_cancelled = 1, array_held = '[[50,60]]', array_cancelled = '[[100,100]]' WHERE id = 6;
             INSERT INTO tasks (job, idx, state, substate, cause, cause_kind, exit_code, attempt, tries, machine, ended_at) VALUES
               (6, 1, 2, NULL, '{{\"kind\":\"ok\"}}', 'ok', 0, 1, 0, 'gpu-01', {0}),
               (6, 2, 3, NULL, '{{\"kind\":\"exit\",\"code\":137}}', 'exit', 137, 2, 2, 'gpu-09', {0}),
               (6, 3, 1, 7, NULL, NULL, NULL, 1, 0, 'gpu-02', NULL);",
            minutes(2)
        ));
        fixture
    }

    /// One job as it is when it has just been submitted, in this state.
    pub(crate) fn job(&self, id: i64, owner: &str, queue: &str, state: i64, at: i64, spec: &str) {
        let parsed: reeve_protocol::JobSpec = serde_json::from_str(spec).unwrap();
        let sql = "INSERT INTO jobs (id, owner_uid, owner, name, title, queue, state, substate, created_at, spec) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
        let substate = (state == 0).then_some(3);
        let values =
            rusqlite::params![id, UID, owner, parsed.name, parsed.title(), queue, state, substate, at, spec];
        self.conn.execute(sql, values).unwrap();
    }

    /// Any statements.
    pub(crate) fn run(&self, sql: &str) {
        self.conn.execute_batch(sql).unwrap();
    }

    /// Where the store's file is.
    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("store.db")
    }
}
