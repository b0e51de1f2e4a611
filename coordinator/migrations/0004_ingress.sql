-- Jobs from messages of other programs, and rules that say which queues a message goes to.

ALTER TABLE queues ADD COLUMN ingress_uid INTEGER;      -- whose jobs they are; NULL: messages become no jobs
ALTER TABLE queues ADD COLUMN ingress TEXT;

CREATE TABLE inbox (                                    -- messages that became jobs, or were refused: once each
    source TEXT PRIMARY KEY,                            -- broker, queue, and the message's own id
    at     INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX inbox_at ON inbox (at);

CREATE TABLE routes (                                   -- the first whose labels all match decides
    position INTEGER PRIMARY KEY,
    name     TEXT NOT NULL UNIQUE,
    labels   TEXT NOT NULL,                             -- JSON object
    queues   TEXT NOT NULL                              -- JSON list
);
