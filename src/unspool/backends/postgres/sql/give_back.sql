-- Lets go of tasks that were held and not begun; where the caller knows that no worker will begin them any more, also of
-- those that one has claimed ahead.
WITH time AS (
    SELECT coalesce(%(clock)s::float8, extract(epoch FROM statement_timestamp())::float8) AS now
), given AS (
    UPDATE unspool.task SET owner = NULL, begun = NULL, worker = NULL, attempts = attempts - (begun IS NOT NULL)::int,
        fence = CASE WHEN begun IS NULL THEN fence ELSE 0 END, state = (due > (SELECT now FROM time))::int
    WHERE id = ANY(%(ids)s::int8[]) AND owner = %(owner)s AND state < 2
        AND (begun IS NULL OR (%(ahead)s AND fence & 1 = 1))
    RETURNING id
)
SELECT count(*), pg_notify(%(channel)s, '') FROM given HAVING count(*) > 0
