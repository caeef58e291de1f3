-- Returns why a task could not be started.
SELECT state, begun IS NOT NULL, due, coalesce(%(clock)s::float8, extract(epoch FROM statement_timestamp())::float8)
FROM unspool.task WHERE id = %(id)s AND spooler = %(spooler)s
