-- Lets go of tasks that were held and not begun.
WITH time AS (
    SELECT coalesce(%(clock)s::float8, extract(epoch FROM statement_timestamp())::float8) AS now
), given AS (
    UPDATE unspool.task SET owner = NULL, state = (due > (SELECT now FROM time))::int
    WHERE id = ANY(%(ids)s::int8[]) AND owner = %(owner)s AND begun IS NULL AND state < 2
    RETURNING id
)
SELECT count(*), pg_notify(%(channel)s, '') FROM given HAVING count(*) > 0
