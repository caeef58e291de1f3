SELECT count(*) FROM (
    SELECT FROM unspool.task WHERE spooler = %(spooler)s AND state = 0 AND owner IS NULL LIMIT %(limit)s
) AS ready
