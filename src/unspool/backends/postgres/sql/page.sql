-- Returns tasks that a listing shows in one state (-1 running, 0 ready, 1 deferred, 2 dead, 3 corrupt), in order and after
-- a given task, with the part of the data that holds the variables. Each part is in the order of an index, so that the
-- first rows are found at once. The time is given, so that the plan can rely on it.
WITH held AS MATERIALIZED (
    SELECT (classid::bigint << 32) | objid::bigint AS lock FROM pg_locks
    WHERE locktype = 'advisory' AND granted AND objsubid = 1
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
), owned AS (
    SELECT id, rank, due, attempts, reason, CASE
        WHEN begun IS NOT NULL AND (%(claims)s + fence IN (SELECT lock FROM held)
            OR %(processes)s + owner IN (SELECT lock FROM held)) THEN -1
        WHEN due > %(clock)s::float8 THEN 1 ELSE 0 END AS shown
    FROM unspool.task
    WHERE spooler = %(spooler)s AND state < 2 AND owner IS NOT NULL AND %(shown)s < 2
), leaving AS (
    SELECT id, rank, due, attempts, CASE WHEN state < 6 THEN %(moving)s ELSE reason END AS reason,
        CASE WHEN state >= 6 THEN state - 4 WHEN due > %(clock)s::float8 THEN 1 ELSE 0 END AS shown
    FROM unspool.task WHERE spooler = %(spooler)s AND state BETWEEN 4 AND 7
), others AS (
    SELECT * FROM owned UNION ALL SELECT * FROM leaving
), found AS (
    SELECT id, rank, due, attempts, reason FROM others
    WHERE shown = %(shown)s AND CASE WHEN %(shown)s = 1
        THEN (due, rank, id) > (%(due)s::float8, %(rank)s::int8, %(id)s::int8)
        ELSE (rank, due, id) > (%(rank)s::int8, %(due)s::float8, %(id)s::int8) END
    UNION ALL (
        SELECT id, rank, due, attempts, reason FROM unspool.task
        WHERE spooler = %(spooler)s AND state = 0 AND owner IS NULL AND %(shown)s = 0 AND due <= %(clock)s::float8
            AND (rank, due, id) > (%(rank)s::int8, %(due)s::float8, %(id)s::int8) ORDER BY rank, due, id LIMIT %(limit)s
    ) UNION ALL (
        SELECT id, rank, due, attempts, reason FROM unspool.task
        WHERE spooler = %(spooler)s AND state = 1 AND owner IS NULL AND %(shown)s = 0 AND due <= %(clock)s::float8
            AND (rank, due, id) > (%(rank)s::int8, %(due)s::float8, %(id)s::int8) ORDER BY rank, due, id LIMIT %(limit)s
    ) UNION ALL (
        SELECT id, rank, due, attempts, reason FROM unspool.task
        WHERE spooler = %(spooler)s AND state = 0 AND owner IS NULL AND %(shown)s = 1 AND due > %(clock)s::float8
            AND (due, rank, id) > (%(due)s::float8, %(rank)s::int8, %(id)s::int8) ORDER BY due, rank, id LIMIT %(limit)s
    ) UNION ALL (
        SELECT id, rank, due, attempts, reason FROM unspool.task
        WHERE spooler = %(spooler)s AND state = 1 AND owner IS NULL AND %(shown)s = 1 AND due > %(clock)s::float8
            AND due >= %(due)s::float8
            AND (due, rank, id) > (%(due)s::float8, %(rank)s::int8, %(id)s::int8) ORDER BY due, rank, id LIMIT %(limit)s
    ) UNION ALL (
        SELECT id, rank, due, attempts, reason FROM unspool.task
        WHERE spooler = %(spooler)s AND state = %(shown)s AND state BETWEEN 2 AND 3
            AND (rank, due, id) > (%(rank)s::int8, %(due)s::float8, %(id)s::int8) ORDER BY rank, due, id LIMIT %(limit)s
    )
), chosen AS (
    SELECT * FROM found ORDER BY CASE WHEN %(shown)s = 1 THEN due END, rank, due, id LIMIT %(limit)s
)
SELECT chosen.*, %(shown)s::int4, octet_length(data), CASE WHEN octet_length(data) < 4 THEN data
        ELSE substr(data, 1, 4 + get_byte(data, 1) + 256 * get_byte(data, 2)) END
FROM chosen JOIN unspool.task USING (id)
ORDER BY CASE WHEN %(shown)s = 1 THEN chosen.due END, chosen.rank, chosen.due, id
