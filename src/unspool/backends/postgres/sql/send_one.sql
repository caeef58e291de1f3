-- Stores one task, and wakes supervisors when the transaction commits. The arrays of send.sql would double the cost of
-- a single task.
WITH time AS (
    SELECT coalesce(%(clock)s::float8, extract(epoch FROM statement_timestamp())::float8) AS now
), given AS (
    -- A due time is by the sender's clock. It is converted if that clock differs from the server's by a second.
    SELECT now, coalesce(
        %(due)s::float8 + CASE WHEN abs(now - %(local)s::float8) < 1 THEN 0 ELSE now - %(local)s::float8 END, now) AS due
    FROM time
), kept AS (
    INSERT INTO unspool.task (spooler, rank, due, state, data)
    SELECT %(spooler)s::text, %(rank)s::int4, due, (due > now)::int, %(data)s::bytea FROM given
    RETURNING id
)
SELECT ARRAY[id], pg_notify(%(channel)s, '') FROM kept
