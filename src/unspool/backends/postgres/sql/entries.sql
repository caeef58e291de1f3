-- Tasks as a listing shows them, in the order of running, with as much of each as its variables take.
WITH held AS MATERIALIZED (
    SELECT (classid::bigint << 32) | objid::bigint AS lock FROM pg_locks
    WHERE locktype = 'advisory' AND granted AND objsubid = 1
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
), time AS (
    SELECT coalesce(%(clock)s::float8, extract(epoch FROM statement_timestamp())::float8) AS now
), shown AS (
    SELECT id, rank, due, attempts, CASE WHEN state BETWEEN 4 AND 5 THEN %(moving)s ELSE reason END AS reason, CASE
        WHEN state & 3 >= 2 THEN state & 3
        WHEN begun IS NOT NULL AND (%(claims)s + fence IN (SELECT lock FROM held)
            OR %(processes)s + owner IN (SELECT lock FROM held)) THEN -1
        WHEN due > time.now THEN 1 ELSE 0 END AS shown
    FROM unspool.task, time
    WHERE spooler = %(spooler)s AND state < 8 AND (%(id)s::int8 IS NULL OR id = %(id)s)
), chosen AS (
    SELECT * FROM shown WHERE shown = ANY(%(states)s::int4[])
    ORDER BY shown, CASE WHEN shown = 1 THEN due END, rank, due, id
    LIMIT %(limit)s
)
SELECT chosen.*, octet_length(task.data), CASE WHEN %(whole)s OR octet_length(task.data) < 4 THEN task.data
    ELSE substr(task.data, 1, 4 + get_byte(task.data, 1) + 256 * get_byte(task.data, 2)) END
FROM chosen JOIN unspool.task USING (id)
ORDER BY shown, CASE WHEN shown = 1 THEN chosen.due END, chosen.rank, chosen.due, id
