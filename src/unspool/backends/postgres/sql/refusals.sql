-- Returns why tasks could not be claimed.
SELECT id, state, begun IS NOT NULL, due, fence = -1,
    coalesce(%(clock)s::float8, extract(epoch FROM statement_timestamp())::float8)
FROM unspool.task WHERE id = ANY(%(ids)s::int8[]) AND spooler = %(spooler)s
