-- Ends a run but not its task: the task runs again later, is put back, or becomes a dead letter. It has no effect if
-- the claim was lost. Due times are converted from the worker's clock.
WITH time AS (
    SELECT coalesce(%(clock)s::float8, extract(epoch FROM statement_timestamp())::float8) AS now
), put AS (
    UPDATE unspool.task SET
        begun = NULL, worker = NULL, owner = NULL,
        attempts = attempts - %(uncounted)s, unhandled = unhandled + %(unhandled)s, crashes = crashes + %(crashed)s,
        due = coalesce(time.now + %(delay)s::float8, due),
        state = coalesce(%(aside)s::int, (coalesce(time.now + %(delay)s::float8, due) > time.now)::int),
        reason = %(reason)s
    FROM time
    WHERE id = %(id)s AND fence = %(fence)s AND begun IS NOT NULL
    RETURNING id, pg_advisory_unlock(%(claims)s + fence)
), told AS (
    INSERT INTO unspool.run (spooler, id, task, verdict, attempt, started, duration, pid, error)
    SELECT %(spooler)s, put.id::text, %(task)s, %(verdict)s, %(attempt)s, %(started)s, %(duration)s, %(pid)s, %(error)s
    FROM put WHERE %(verdict)s::text IS NOT NULL
)
SELECT id, pg_notify(%(channel)s, '') FROM put
