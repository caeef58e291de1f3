-- Version 4: looks by programs that have no handler for a task are counted by themselves, and not as attempts.

ALTER TABLE unspool.task ADD COLUMN unhandled integer NOT NULL DEFAULT 0;
