-- Version 2: tasks in transfer. Their state is raised by 4 while they leave and by 8 while they arrive, so that nothing
-- else reads them.

ALTER TABLE unspool.task
    ADD COLUMN parcel text,                 -- the key of a task in transfer, the same at both ends
    ADD COLUMN destination text;            -- the queue that has staged a leaving task

CREATE UNIQUE INDEX task_arriving ON unspool.task (spooler, parcel) WHERE state >= 8;
CREATE INDEX task_leaving ON unspool.task (spooler) WHERE state BETWEEN 4 AND 7;
