-- Version 3: an index to find and count dead letters without reading the waiting tasks.

CREATE INDEX task_aside ON unspool.task (spooler, state, rank, due, id) WHERE state BETWEEN 2 AND 3;
