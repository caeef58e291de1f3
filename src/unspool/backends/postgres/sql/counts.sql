-- The number of tasks in each state (running, ready, deferred, dead, corrupt), and the earliest due time of each state.
-- Each part is answered from an index alone.
WITH held AS MATERIALIZED (
    SELECT (classid::bigint << 32) | objid::bigint AS lock FROM pg_locks
    WHERE locktype = 'advisory' AND granted AND objsubid = 1
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
), time AS MATERIALIZED (
    SELECT coalesce(%(clock)s::float8, extract(epoch FROM statement_timestamp())::float8) AS now
), parts AS (
    SELECT (due > (SELECT now FROM time))::int AS shown, count(*) AS tasks, min(due) AS oldest
    FROM unspool.task WHERE spooler = %(spooler)s AND state = 0 AND owner IS NULL GROUP BY 1
    UNION ALL
    SELECT (due > (SELECT now FROM time))::int, count(*), min(due)
    FROM unspool.task WHERE spooler = %(spooler)s AND state = 1 AND owner IS NULL GROUP BY 1
    UNION ALL
    SELECT CASE
        WHEN begun IS NOT NULL AND (%(claims)s + fence IN (SELECT lock FROM held)
            OR %(processes)s + owner IN (SELECT lock FROM held)) THEN -1
        WHEN due > (SELECT now FROM time) THEN 1 ELSE 0 END, count(*), min(due)
    FROM unspool.task WHERE spooler = %(spooler)s AND state < 2 AND owner IS NOT NULL GROUP BY 1
    UNION ALL
    SELECT state, count(*), min(due) FROM unspool.task WHERE spooler = %(spooler)s AND state BETWEEN 2 AND 3 GROUP BY 1
    UNION ALL
    SELECT CASE WHEN state >= 6 THEN state - 4 WHEN due > (SELECT now FROM time) THEN 1 ELSE 0 END, count(*), min(due)
    FROM unspool.task WHERE spooler = %(spooler)s AND state BETWEEN 4 AND 7 GROUP BY 1
)
SELECT shown, sum(tasks)::int8, min(oldest) FROM parts GROUP BY shown
