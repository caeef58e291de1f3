-- Deletes old runs, by number and age. Rows are nearly in the order of time, so only the oldest by number are read,
-- some thousands at a time.
DELETE FROM unspool.run USING (
    SELECT number FROM unspool.run WHERE spooler = %(spooler)s ORDER BY number LIMIT 10000
) AS oldest
WHERE run.spooler = %(spooler)s AND run.number = oldest.number AND (
    run.number <= (SELECT max(number) FROM unspool.run WHERE spooler = %(spooler)s) - %(limit)s
    OR run.started < coalesce(%(clock)s::float8, extract(epoch FROM statement_timestamp())::float8) - %(age)s)
