-- Version 3: what is set aside is found, and counted, without a look at all that waits.

CREATE INDEX task_aside ON unspool.task (spooler, state, rank, due, id) WHERE state BETWEEN 2 AND 3;
