-- Makes a task ready now, and resets its counts. A key is taken from another task as in send_unique.sql.
WITH time AS (
    SELECT coalesce(%(clock)s::float8, extract(epoch FROM statement_timestamp())::float8) AS now
), free AS (
    UPDATE unspool.task SET key = NULL FROM time
    WHERE spooler = %(spooler)s AND id <> %(id)s AND state IN (0, 1, 4, 5)
        AND key = (SELECT key FROM unspool.task WHERE id = %(id)s AND spooler = %(spooler)s)
        AND (key_until <= now OR (key_start AND (attempts > 0 OR unhandled > 0)))
    RETURNING id
), ready AS (
    UPDATE unspool.task SET owner = NULL, begun = NULL, worker = NULL, fence = 0, attempts = 0, crashes = 0, unhandled = 0,
        reason = '', state = 0, due = now,
        key = CASE WHEN key_until <= now THEN NULL ELSE key END
    FROM time
    WHERE id = %(id)s AND spooler = %(spooler)s AND (SELECT count(*) FROM free) >= 0
    RETURNING id
)
SELECT id, pg_notify(%(channel)s, '') FROM ready
