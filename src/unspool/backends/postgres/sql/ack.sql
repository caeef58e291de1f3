-- Deletes finished tasks and adds their runs to the history.
WITH done AS (
    DELETE FROM unspool.task USING unnest(%(ids)s::int8[], %(fences)s::int4[]) AS d (id, fence)
    WHERE task.id = d.id AND task.fence = d.fence AND task.begun IS NOT NULL
    RETURNING task.id, pg_advisory_unlock(%(claims)s + task.fence)
), told AS (
    INSERT INTO unspool.run (spooler, id, task, verdict, attempt, started, duration, pid, error)
    SELECT %(spooler)s, r.id::text, r.task, r.verdict, r.attempt, r.started, r.duration, r.pid, r.error
    FROM unnest(%(run_ids)s::int8[], %(tasks)s::text[], %(verdicts)s::text[], %(attempts)s::int4[],
                %(starts)s::float8[], %(durations)s::float8[], %(pids)s::int4[], %(errors)s::text[])
        AS r (id, task, verdict, attempt, started, duration, pid, error)
    WHERE r.id IN (SELECT id FROM done)
)
SELECT array_agg(id) FROM done
