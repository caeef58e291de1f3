-- Makes a task ready now, and resets its counts.
WITH ready AS (
    UPDATE unspool.task SET owner = NULL, begun = NULL, worker = NULL, fence = 0, attempts = 0, crashes = 0, unhandled = 0,
        reason = '', state = 0, due = coalesce(%(clock)s::float8, extract(epoch FROM statement_timestamp())::float8)
    WHERE id = %(id)s AND spooler = %(spooler)s
    RETURNING id
)
SELECT id, pg_notify(%(channel)s, '') FROM ready
