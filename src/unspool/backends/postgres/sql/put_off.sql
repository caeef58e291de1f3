-- Sets when a running task may run again if its run ends without a verdict. A settlement replaces the due time.
WITH time AS (
    SELECT coalesce(%(clock)s::float8, extract(epoch FROM statement_timestamp())::float8) AS now
)
UPDATE unspool.task SET due = time.now + %(delay)s::float8 FROM time
WHERE id = %(id)s AND spooler = %(spooler)s AND begun IS NOT NULL
RETURNING id
