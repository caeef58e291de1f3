-- Takes over leaving tasks whose lock is free, so that no process carries them.
WITH sure AS (
    SELECT set_config('synchronous_commit', 'on', true)
), free AS MATERIALIZED (
    SELECT id, fence FROM unspool.task, sure
    WHERE spooler = %(spooler)s AND state BETWEEN 4 AND 7
    ORDER BY rank, due, id
), locked AS MATERIALIZED (
    SELECT id, fence FROM free WHERE pg_try_advisory_lock(%(locks)s + id)
), taken AS (
    UPDATE unspool.task SET fence = task.fence + 1 FROM locked
    WHERE task.id = locked.id AND task.fence = locked.fence AND task.state BETWEEN 4 AND 7
    RETURNING task.*
), missed AS (
    SELECT pg_advisory_unlock(%(locks)s + id) FROM locked WHERE id NOT IN (SELECT id FROM taken)
)
SELECT id, fence, parcel, state - 4, data, rank, due, attempts, crashes, reason, destination,
    CASE WHEN NOT (key_start AND (attempts > 0 OR unhandled > 0)) THEN key END, key_start, key_until,
    (SELECT count(*) FROM missed) >= 0,
    coalesce(%(clock)s::float8, extract(epoch FROM statement_timestamp())::float8)
FROM taken ORDER BY rank, due, id
