-- Commits staged tasks to the queue, and wakes supervisors.
WITH time AS (
    SELECT coalesce(%(clock)s::float8, extract(epoch FROM statement_timestamp())::float8) AS now
), here AS (
    UPDATE unspool.task SET parcel = NULL, state = CASE WHEN state < 10 THEN (due > now)::int ELSE state - 8 END
    FROM time
    WHERE spooler = %(spooler)s AND parcel = ANY(%(keys)s::text[]) AND state >= 8
    RETURNING id
)
SELECT count(*), pg_notify(%(channel)s, '') FROM here HAVING count(*) > 0
