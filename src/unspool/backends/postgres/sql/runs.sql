-- Returns the newest runs before a given one.
SELECT number, id, task, verdict, attempt, started, duration, pid, error FROM unspool.run
WHERE spooler = %(spooler)s AND (%(id)s::text IS NULL OR id = %(id)s) AND number < %(number)s::int8
    AND (%(label)s::text = '' OR task = %(label)s) AND NOT (%(failed)s AND verdict IN ('processed', 'skipped'))
    AND started BETWEEN %(since)s::float8 AND %(until)s::float8
ORDER BY number DESC LIMIT %(limit)s
