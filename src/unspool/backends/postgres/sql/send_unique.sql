-- Stores a task with a key, unless another task has the key, and wakes supervisors when the transaction commits. Returns
-- the task that has the key then, and whether it is new. As send.sql, it may run on an application's connection.
--
-- A key is taken from a task that has started, if that frees it, or whose time is over. If another transaction has just
-- stored a task with the key, the statement waits for the end of that transaction. The other task is updated without a
-- change, because only an update returns it in the same step.
WITH time AS (
    SELECT coalesce(%(clock)s::float8, extract(epoch FROM pg_catalog.statement_timestamp())::float8) AS now
), free AS (
    UPDATE unspool.task SET key = NULL FROM time
    WHERE spooler = %(spooler)s::text AND key = %(key)s::text AND state IN (0, 1, 4, 5)
        AND (key_until <= now OR (key_start AND (attempts > 0 OR unhandled > 0)))
    RETURNING id
), given AS (
    -- Times are by the sender's clock. They are converted if that clock differs from the server's by a second.
    SELECT now, CASE WHEN pg_catalog.abs(now - %(local)s::float8) < 1 THEN 0 ELSE now - %(local)s::float8 END AS ahead
    FROM time
), kept AS (
    INSERT INTO unspool.task AS t (spooler, rank, due, state, data, key, key_start, key_until)
    SELECT %(spooler)s::text, %(rank)s::int4, coalesce(%(due)s::float8 + ahead, now),
        (coalesce(%(due)s::float8 + ahead, now) > now)::int, %(data)s::bytea,
        %(key)s::text, %(start)s::boolean, %(until)s::float8 + ahead
    FROM given WHERE (SELECT count(*) FROM free) >= 0   -- keys are freed first
    ON CONFLICT (spooler, key) WHERE key IS NOT NULL AND state IN (0, 1, 4, 5) DO UPDATE SET key = t.key
    RETURNING id, xmax = 0 AS new   -- a new row was never locked
)
SELECT ARRAY[id], new, pg_catalog.pg_notify(%(channel)s::text, '') FROM kept
