-- Makes deferred tasks ready that have become due.
WITH time AS (
    SELECT coalesce(%(clock)s::float8, extract(epoch FROM statement_timestamp())::float8) AS now
), promoted AS (
    UPDATE unspool.task SET state = 0
    WHERE id IN (
        SELECT id FROM unspool.task
        WHERE spooler = %(spooler)s AND state = 1 AND due <= (SELECT now FROM time)
        ORDER BY due
        LIMIT 10000
        FOR UPDATE SKIP LOCKED)
    RETURNING id
)
SELECT count(*) FROM promoted
