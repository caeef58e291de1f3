-- Version 2: tasks that are carried to another queue, or from one. To their state is added 4 while they leave and 8
-- while they arrive, so that nothing else takes notice of them.

ALTER TABLE unspool.task
    ADD COLUMN parcel text,                 -- the key that such a task is known by at both ends
    ADD COLUMN destination text;            -- where one that leaves has been accepted

CREATE UNIQUE INDEX task_arriving ON unspool.task (spooler, parcel) WHERE state >= 8;
CREATE INDEX task_leaving ON unspool.task (spooler) WHERE state BETWEEN 4 AND 7;
