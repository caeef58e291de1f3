-- How many tasks are in each state: running, due, not yet, dead, corrupt.
WITH held AS MATERIALIZED (
    SELECT (classid::bigint << 32) | objid::bigint AS lock FROM pg_locks
    WHERE locktype = 'advisory' AND granted AND objsubid = 1
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
), time AS (
    SELECT coalesce(%(clock)s::float8, extract(epoch FROM statement_timestamp())::float8) AS now
)
SELECT CASE
    WHEN state & 3 >= 2 THEN state & 3
    WHEN begun IS NOT NULL AND (%(claims)s + fence IN (SELECT lock FROM held)
        OR %(processes)s + owner IN (SELECT lock FROM held)) THEN -1
    WHEN due > time.now THEN 1 ELSE 0 END AS shown, count(*)
FROM unspool.task, time WHERE spooler = %(spooler)s AND state < 8 GROUP BY shown
