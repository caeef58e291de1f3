-- Returns what a supervisor needs: the time, the switches, the first task, the next due time, whether others hold
-- tasks.
SELECT
    coalesce(%(clock)s::float8, extract(epoch FROM statement_timestamp())::float8),
    coalesce((SELECT paused FROM unspool.spooler WHERE name = %(spooler)s), false),
    (SELECT period FROM unspool.spooler WHERE name = %(spooler)s),
    first.rank, first.due, first.id,
    (SELECT min(due) FROM unspool.task WHERE spooler = %(spooler)s AND state = 1),
    EXISTS (SELECT FROM unspool.task WHERE owner IS NOT NULL AND owner <> %(owner)s AND spooler = %(spooler)s)
FROM (SELECT) AS one LEFT JOIN LATERAL (
    SELECT rank, due, id FROM unspool.task
    WHERE spooler = %(spooler)s AND state = 0 AND owner IS NULL
    ORDER BY rank, due, id
    LIMIT 1
) AS first ON true
