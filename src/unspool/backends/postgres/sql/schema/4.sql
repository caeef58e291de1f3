-- Version 4: claims by programs that have no handler for a task are counted separately, and not as attempts.

ALTER TABLE unspool.task ADD COLUMN unhandled integer NOT NULL DEFAULT 0;
