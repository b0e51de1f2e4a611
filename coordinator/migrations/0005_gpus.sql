-- The gpus of an attempt, and what is seen of jobs that do nothing.

ALTER TABLE attempts ADD COLUMN gpus TEXT;       -- UUIDs, separated by commas; NULL: none
ALTER TABLE jobs ADD COLUMN warning TEXT;        -- of the current attempt: idle-gpu, silent, with words behind a colon
ALTER TABLE tasks ADD COLUMN warning TEXT;
