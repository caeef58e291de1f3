-- Settles what has been put off, and begins a run: the claim. The lock on the task lives as long as this session.
WITH time AS (
    SELECT coalesce(%(clock)s::float8, extract(epoch FROM statement_timestamp())::float8) AS now
), done AS (
    DELETE FROM unspool.task USING unnest(%(ids)s::int8[], %(fences)s::int4[]) AS d (id, fence)
    WHERE task.id = d.id AND task.fence = d.fence AND task.begun IS NOT NULL
    RETURNING task.id, pg_advisory_unlock(%(locks)s + task.id)
), told AS (
    INSERT INTO unspool.run (spooler, id, task, verdict, attempt, started, duration, pid, error)
    SELECT %(spooler)s, r.id::text, r.task, r.verdict, r.attempt, r.started, r.duration, r.pid, r.error
    FROM unnest(%(run_ids)s::int8[], %(tasks)s::text[], %(verdicts)s::text[], %(attempts)s::int4[],
                %(starts)s::float8[], %(durations)s::float8[], %(pids)s::int4[], %(errors)s::text[])
        AS r (id, task, verdict, attempt, started, duration, pid, error)
    WHERE r.id IN (SELECT id FROM done)
), begun AS (
    UPDATE unspool.task SET begun = time.now, attempts = attempts + 1, fence = fence + 1, worker = %(worker)s,
        owner = coalesce(owner, %(worker)s)
    FROM time
    WHERE id = %(id)s AND spooler = %(spooler)s AND state < 2 AND begun IS NULL AND due <= time.now
    RETURNING data, attempts, crashes, fence, rank, due, pg_try_advisory_lock(%(locks)s + id) AS locked
)
SELECT (SELECT array_agg(id) FROM done), begun.*
FROM (SELECT) AS one LEFT JOIN begun ON true
