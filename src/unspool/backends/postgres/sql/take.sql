-- Holds the first due tasks for one supervisor.
WITH due AS MATERIALIZED (
    SELECT id FROM unspool.task
    WHERE spooler = %(spooler)s AND state = 0 AND owner IS NULL
    ORDER BY rank, due, id
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
)
UPDATE unspool.task SET owner = %(owner)s FROM due WHERE task.id = due.id
RETURNING task.rank, task.due, task.id
