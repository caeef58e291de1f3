SELECT id, task, verdict, attempt, started, duration, pid, error FROM unspool.run
WHERE spooler = %(spooler)s AND id = %(id)s ORDER BY number DESC LIMIT %(limit)s
