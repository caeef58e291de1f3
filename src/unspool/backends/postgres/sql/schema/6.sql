-- Version 6: keys of unique tasks. A key belongs to one task that waits, runs or leaves.

ALTER TABLE unspool.task
    ADD COLUMN key text,                    -- null if the task has none, or has lost it to another task
    ADD COLUMN key_start boolean,           -- whether the key is free once the task has started
    ADD COLUMN key_until double precision;  -- the time from which the key is free; null if none

CREATE UNIQUE INDEX task_key ON unspool.task (spooler, key) WHERE key IS NOT NULL AND state IN (0, 1, 4, 5);
