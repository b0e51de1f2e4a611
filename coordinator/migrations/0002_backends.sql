-- Queues on other backends, and messages on their way to one.

ALTER TABLE queues ADD COLUMN paused_by TEXT;           -- who, why and when; NULL while it hands out
ALTER TABLE queues ADD COLUMN paused_why TEXT;
ALTER TABLE queues ADD COLUMN paused_at INTEGER;

ALTER TABLE messages ADD COLUMN outgoing INTEGER NOT NULL DEFAULT 0;   -- 1: to be given to the queue's broker
ALTER TABLE messages ADD COLUMN source TEXT;            -- what that broker called it, if others published it there

-- Keys of `publish`, kept after the message is gone: what was published once is not published again.
CREATE TABLE message_keys (
    owner_uid INTEGER NOT NULL,
    queue     TEXT    NOT NULL,
    key       TEXT    NOT NULL,
    digest    TEXT    NOT NULL,
    id        INTEGER NOT NULL,
    at        INTEGER NOT NULL,
    PRIMARY KEY (owner_uid, queue, key)
) WITHOUT ROWID;
CREATE INDEX message_keys_at ON message_keys (at);
