-- A queue that moves between backends: what still lies at the old one is taken first.

ALTER TABLE queues ADD COLUMN moving_from TEXT;
