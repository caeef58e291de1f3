-- Returns the live processes and the task that each has started last.
WITH held AS MATERIALIZED (
    SELECT (classid::bigint << 32) | objid::bigint AS lock FROM pg_locks
    WHERE locktype = 'advisory' AND granted AND objsubid = 1
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
), running AS (
    SELECT DISTINCT ON (worker) worker, id, begun FROM unspool.task
    WHERE owner IS NOT NULL AND begun IS NOT NULL
    ORDER BY worker, begun DESC
)
SELECT role, host, pid, running.id, running.begun
FROM unspool.process LEFT JOIN running ON running.worker = process.key
WHERE spooler = %(spooler)s AND role IN ('supervisor', 'worker') AND %(processes)s + key IN (SELECT lock FROM held)
ORDER BY host, role, pid
