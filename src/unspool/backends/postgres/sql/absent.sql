-- Returns other supervisors that have started tasks and have no session now, each with its workers that have started
-- tasks.
WITH held AS MATERIALIZED (
    SELECT (classid::bigint << 32) | objid::bigint AS lock FROM pg_locks
    WHERE locktype = 'advisory' AND granted AND objsubid = 1
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
)
SELECT DISTINCT owner, process.role, process.host, process.pid, worker.key, worker.host, worker.pid
FROM unspool.task LEFT JOIN unspool.process ON process.key = owner
    LEFT JOIN unspool.process AS worker ON worker.key = abs(task.worker)
WHERE task.spooler = %(spooler)s AND owner IS NOT NULL AND owner <> %(owner)s AND begun IS NOT NULL
    AND %(processes)s + owner NOT IN (SELECT lock FROM held)
