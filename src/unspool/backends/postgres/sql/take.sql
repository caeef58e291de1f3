-- Reserves the first due tasks for one supervisor, or none if the queue is paused.
WITH due AS MATERIALIZED (
    SELECT id FROM unspool.task
    WHERE spooler = %(spooler)s AND state = 0 AND owner IS NULL
        AND NOT EXISTS (SELECT FROM unspool.spooler WHERE name = %(spooler)s AND paused)
    ORDER BY rank, due, id
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
)
UPDATE unspool.task SET owner = %(owner)s FROM due WHERE task.id = due.id
RETURNING task.rank, task.due, task.id
