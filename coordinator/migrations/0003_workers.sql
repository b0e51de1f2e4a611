-- Static workers, and commands of workers that go through a shell.
ALTER TABLE workers ADD COLUMN shell TEXT;             -- the script, if its command goes through a shell
ALTER TABLE workers ADD COLUMN serving TEXT;           -- JSON: how a static one is spoken to

-- A static worker that was launched once: what is wanted of it. Its replicas are jobs of the queue .replicas.
CREATE TABLE deployments (
    worker     TEXT PRIMARY KEY,
    version    INTEGER NOT NULL,                 -- the registration that was launched last
    replicas   INTEGER NOT NULL,
    machines   TEXT    NOT NULL,                 -- JSON list: named at launch, instead of those of the registration
    serving    TEXT    NOT NULL,                 -- JSON, of that registration
    changed_at INTEGER NOT NULL
) WITHOUT ROWID;
