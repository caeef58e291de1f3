-- Commits staged tasks to the queue, and wakes supervisors.
WITH time AS (
    SELECT coalesce(%(clock)s::float8, extract(epoch FROM statement_timestamp())::float8) AS now
), here AS (
    -- A task forgets its key if another task has it here.
    UPDATE unspool.task AS t SET parcel = NULL,
        key = CASE WHEN state >= 10 OR NOT EXISTS (SELECT FROM unspool.task AS o
            WHERE o.spooler = t.spooler AND o.key = t.key AND (o.state IN (0, 1, 4, 5)
                OR (o.state IN (8, 9) AND o.parcel = ANY(%(keys)s::text[]) AND o.id < t.id))) THEN key END, state = CASE WHEN state < 10 THEN (due > now)::int ELSE state - 8 END
    FROM time
    WHERE spooler = %(spooler)s AND parcel = ANY(%(keys)s::text[]) AND state >= 8
    RETURNING id
)
SELECT count(*), pg_notify(%(channel)s, '') FROM here HAVING count(*) > 0
