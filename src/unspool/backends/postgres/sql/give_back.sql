-- Returns tasks to the queue that were taken and not started. A prefetched claim ends only by its own fence, because
-- another worker may have started the task.
WITH time AS (
    SELECT coalesce(%(clock)s::float8, extract(epoch FROM statement_timestamp())::float8) AS now
), given AS (
    UPDATE unspool.task SET owner = NULL, begun = NULL, worker = NULL, attempts = attempts - (begun IS NOT NULL)::int,
        fence = CASE WHEN begun IS NULL THEN fence ELSE 0 END, state = (due > (SELECT now FROM time))::int
    FROM unnest(%(ids)s::int8[], %(fences)s::int4[]) AS back (number, claim)
    WHERE id = back.number AND owner = %(owner)s AND state < 2 AND (begun IS NULL OR (fence = claim AND claim <> 0))
    RETURNING id
)
SELECT count(*), pg_notify(%(channel)s, '') FROM given HAVING count(*) > 0
