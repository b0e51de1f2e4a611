-- Artifacts of an attempt: one row with the list of its files (JSON, in the order of their bytes) and where these lie.
CREATE TABLE artifacts (
    job     INTEGER NOT NULL,
    idx     INTEGER NOT NULL,                    -- -1 for a job that is no array
    attempt INTEGER NOT NULL,
    files   INTEGER NOT NULL,
    bytes   INTEGER NOT NULL,
    seg     INTEGER NOT NULL,
    off     INTEGER NOT NULL,
    list    TEXT    NOT NULL,
    PRIMARY KEY (job, idx, attempt)
) WITHOUT ROWID;
CREATE INDEX artifacts_segment ON artifacts (seg);
