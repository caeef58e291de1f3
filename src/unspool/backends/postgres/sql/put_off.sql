-- Has a task that runs just now wait, should its run end without a verdict. A settlement sets the due time anew.
WITH time AS (
    SELECT coalesce(%(clock)s::float8, extract(epoch FROM statement_timestamp())::float8) AS now
)
UPDATE unspool.task SET due = time.now + %(delay)s::float8 FROM time
WHERE id = %(id)s AND spooler = %(spooler)s AND begun IS NOT NULL
RETURNING id
