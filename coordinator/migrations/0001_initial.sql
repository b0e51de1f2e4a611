-- The store of a coordinator. Times are wall milliseconds since 1970, clamped so that they never decrease.
-- Indices of array tasks are `idx`; -1 stands for "no array", so that it can be part of a primary key.

CREATE TABLE meta (                 -- lineage, epoch, cluster, name, clean (1 after an orderly stop), next_job
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE jobs (
    id            INTEGER PRIMARY KEY,
    owner_uid     INTEGER NOT NULL,
    owner         TEXT    NOT NULL,
    alias         TEXT,                          -- register_job: the caller's own name, unique per owner
    name          TEXT,
    title         TEXT    NOT NULL,              -- name, else the command: what `text:` searches
    queue         TEXT    NOT NULL,
    worker        TEXT,
    worker_version INTEGER,                      -- the registration it was submitted with
    state         INTEGER NOT NULL,              -- protocol::State in its order: 0 QUEUED .. 4 CANCELLED
    substate      INTEGER,                       -- protocol::Substate in its order
    cause         TEXT,                          -- JSON
    cause_kind    TEXT,
    exit_code     INTEGER,
    priority      INTEGER NOT NULL DEFAULT 0,
    attempt       INTEGER NOT NULL DEFAULT 0,    -- the fence; only raised here
    generation    INTEGER NOT NULL DEFAULT 0,    -- raised by every change of eligibility, queue or band (broker hints)
    tries         INTEGER NOT NULL DEFAULT 0,    -- own failures so far
    losses        INTEGER NOT NULL DEFAULT 0,    -- infrastructure failures so far
    created_at    INTEGER NOT NULL,
    run_at        INTEGER,
    expires_at    INTEGER,
    started_at    INTEGER,
    ended_at      INTEGER,
    machine       TEXT,                          -- name, of the current or last attempt; consumer:USER
    external      INTEGER NOT NULL DEFAULT 0,    -- recorded by register_job, runs elsewhere
    spec          TEXT    NOT NULL,              -- JSON, defaults left out
    definition    TEXT,
    result        TEXT,
    progress      REAL,
    message       TEXT,
    run_as        TEXT,
    key           TEXT,                          -- idempotency key, kept with the record
    digest        TEXT,                          -- of the request that used the key
    array_from    INTEGER,
    array_to      INTEGER,
    array_limit   INTEGER,
    array_next    INTEGER,                       -- the first index that was never dispatched nor passed
    n_queued      INTEGER NOT NULL DEFAULT 0,    -- tasks per state, for arrays
    n_running     INTEGER NOT NULL DEFAULT 0,
    n_completed   INTEGER NOT NULL DEFAULT 0,
    n_failed      INTEGER NOT NULL DEFAULT 0,
    n_cancelled   INTEGER NOT NULL DEFAULT 0,
    array_held    TEXT,                          -- interval sets, JSON [[from,to],..]
    array_cancelled TEXT,
    array_priority TEXT,
    pinned        INTEGER NOT NULL DEFAULT 0,
    deleted_at    INTEGER
);
CREATE INDEX jobs_state ON jobs (state, queue);
CREATE INDEX jobs_arrays ON jobs (id) WHERE array_from IS NOT NULL;   -- a start counts the tasks of ended arrays
CREATE UNIQUE INDEX jobs_alias ON jobs (owner_uid, alias) WHERE alias IS NOT NULL;
CREATE UNIQUE INDEX jobs_key ON jobs (owner_uid, key) WHERE key IS NOT NULL;

-- A task of an array, from its first dispatch on.
CREATE TABLE tasks (
    job        INTEGER NOT NULL,
    idx        INTEGER NOT NULL,
    state      INTEGER NOT NULL,
    substate   INTEGER,
    cause      TEXT,
    cause_kind TEXT,
    exit_code  INTEGER,
    attempt    INTEGER NOT NULL DEFAULT 0,
    tries      INTEGER NOT NULL DEFAULT 0,
    losses     INTEGER NOT NULL DEFAULT 0,
    run_at     INTEGER,
    started_at INTEGER,
    ended_at   INTEGER,
    machine    TEXT,
    result     TEXT,
    progress   REAL,
    message    TEXT,
    PRIMARY KEY (job, idx)
) WITHOUT ROWID;
CREATE INDEX tasks_live ON tasks (job) WHERE state < 2;

CREATE TABLE attempts (
    job           INTEGER NOT NULL,
    idx           INTEGER NOT NULL,
    attempt       INTEGER NOT NULL,
    machine_id    TEXT,                          -- NULL for consumers and outside callers
    machine       TEXT    NOT NULL,
    lease         TEXT,                          -- of a consumer
    dispatched_at INTEGER NOT NULL,
    started_at    INTEGER,
    ended_at      INTEGER,
    pid           INTEGER,
    cause         TEXT,
    exit_code     INTEGER,
    cpu_ms        INTEGER NOT NULL DEFAULT 0,
    rss_peak      INTEGER NOT NULL DEFAULT 0,
    out_len       INTEGER NOT NULL DEFAULT 0,    -- bytes of the tape
    out_seg       INTEGER,                       -- segment file and offset, when it is not in `outputs`
    out_off       INTEGER,
    late          TEXT,                          -- its end after a newer attempt had been dispatched
    PRIMARY KEY (job, idx, attempt)
) WITHOUT ROWID;
CREATE INDEX attempts_segment ON attempts (out_seg) WHERE out_seg IS NOT NULL;

-- Tapes of at most 4 KiB.
CREATE TABLE outputs (
    job     INTEGER NOT NULL,
    idx     INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    tape    BLOB    NOT NULL,
    PRIMARY KEY (job, idx, attempt)
) WITHOUT ROWID;

CREATE TABLE queues (
    name       TEXT PRIMARY KEY,
    kind       TEXT    NOT NULL,                 -- unset, jobs, messages
    backend    TEXT    NOT NULL,                 -- local
    paused     INTEGER NOT NULL DEFAULT 0,
    weight     INTEGER NOT NULL DEFAULT 1,
    "limit"    INTEGER NOT NULL DEFAULT 0,
    max_len    INTEGER NOT NULL DEFAULT 0,
    owner_uid  INTEGER NOT NULL,
    owner      TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    generation INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;

CREATE TABLE messages (
    id           INTEGER PRIMARY KEY AUTOINCREMENT, -- never used again, though a message leaves no row
    queue        TEXT    NOT NULL,
    owner_uid    INTEGER NOT NULL,
    owner        TEXT    NOT NULL,
    kind         INTEGER NOT NULL,               -- 0 JSON, 1 text, 2 bytes
    body         BLOB    NOT NULL,
    headers      TEXT    NOT NULL,               -- JSON object
    priority     INTEGER NOT NULL,
    published_at INTEGER NOT NULL,
    run_at       INTEGER,
    expires_at   INTEGER,
    deliveries   INTEGER NOT NULL DEFAULT 0,
    lease        TEXT,                           -- NULL: ready or delayed
    lease_until  INTEGER,
    dead         TEXT,                           -- why it was given up
    key          TEXT,
    digest       TEXT
);
CREATE UNIQUE INDEX messages_key ON messages (owner_uid, queue, key) WHERE key IS NOT NULL;

CREATE TABLE workers (
    name       TEXT    NOT NULL,
    version    INTEGER NOT NULL,
    kind       TEXT    NOT NULL,
    queue      TEXT    NOT NULL,
    owner_uid  INTEGER NOT NULL,
    owner      TEXT    NOT NULL,
    spec       TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    removed_at INTEGER,
    PRIMARY KEY (name, version)
) WITHOUT ROWID;

CREATE TABLE machines (
    id          TEXT PRIMARY KEY,
    name        TEXT    NOT NULL,                -- of those that were not removed, unique
    fingerprint TEXT    NOT NULL UNIQUE,         -- SHA-256 of its certificate: this row decides, not the certificate
    certificate_until INTEGER NOT NULL DEFAULT 0,
    spares      TEXT    NOT NULL DEFAULT '[]',   -- JSON: certificates that may take its place
    renewal_failed_at INTEGER,                   -- since when, and why
    renewal_error TEXT,
    draining    INTEGER NOT NULL DEFAULT 0,
    drain_until INTEGER,                         -- what still runs then is stopped
    info        TEXT    NOT NULL DEFAULT '{}',   -- what it said about itself last
    cordoned    INTEGER NOT NULL DEFAULT 0,
    joined_at   INTEGER NOT NULL,
    seen_at     INTEGER,
    life        TEXT,
    keeper      TEXT,
    revoked_at  INTEGER,
    owner       TEXT    NOT NULL
) WITHOUT ROWID;
CREATE UNIQUE INDEX machines_name ON machines (name) WHERE revoked_at IS NULL;

CREATE TABLE tokens (
    id          TEXT PRIMARY KEY,
    secret_hash TEXT    NOT NULL,
    created_at  INTEGER NOT NULL,
    expires_at  INTEGER NOT NULL,
    used_at     INTEGER,
    machine     TEXT,                            -- who used it
    bound_key   TEXT,                            -- SHA-256 of the key it was used with: that one may ask again
    owner_uid   INTEGER NOT NULL,
    owner       TEXT    NOT NULL
) WITHOUT ROWID;

CREATE TABLE plans (
    id         INTEGER PRIMARY KEY,
    action     TEXT    NOT NULL,
    owner_uid  INTEGER NOT NULL,
    owner      TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    ran_at     INTEGER,
    view       TEXT    NOT NULL,                 -- JSON of protocol::api::Plan
    ids        TEXT    NOT NULL,                 -- JSON: the fixed set, as selectors
    reason     TEXT,
    result     TEXT
);

-- One row per step and range, not per job; `body` is JSON of protocol::api::Event.
CREATE TABLE events (
    seq  INTEGER PRIMARY KEY,
    at   INTEGER NOT NULL,
    job  INTEGER,
    body TEXT    NOT NULL
);
CREATE INDEX events_job ON events (job) WHERE job IS NOT NULL;

-- What was so from when to when: paused queues, cordoned or disconnected machines. For looking back.
CREATE TABLE intervals (
    kind    TEXT    NOT NULL,                    -- queue_paused, machine_cordoned, machine_down
    subject TEXT    NOT NULL,
    since   INTEGER NOT NULL,
    until   INTEGER,
    actor   TEXT    NOT NULL,
    PRIMARY KEY (kind, subject, since)
) WITHOUT ROWID;

-- Who asked for what, and what was decided. Written in the transaction of the change. Each row's hash covers the row and
-- the hash before it; AUTOINCREMENT remembers the last number, so that a missing end is found too.
CREATE TABLE audit (
    seq      INTEGER PRIMARY KEY AUTOINCREMENT,
    at       INTEGER NOT NULL,
    uid      INTEGER,                            -- of callers of the socket
    name     TEXT    NOT NULL,
    via      TEXT    NOT NULL,                   -- socket, agents, inside
    call     TEXT    NOT NULL,
    object   TEXT    NOT NULL,
    request  TEXT,                               -- the caller's idempotency key or request id
    refused  TEXT,                               -- NULL: done; else the code
    unwritten INTEGER NOT NULL DEFAULT 0,        -- refusals before this one that were too many to write
    event    INTEGER NOT NULL,                   -- the last event of its step
    hash     BLOB    NOT NULL                    -- SHA-256
);
