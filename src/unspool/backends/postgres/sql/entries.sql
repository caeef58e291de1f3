-- Returns tasks for a listing in the order of execution, with the part of the data that holds the variables: all of it
-- if whole, none if bare. Each part is in the order of an index, so that the first rows are found at once.
WITH held AS MATERIALIZED (
    SELECT (classid::bigint << 32) | objid::bigint AS lock FROM pg_locks
    WHERE locktype = 'advisory' AND granted AND objsubid = 1
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
), time AS MATERIALIZED (
    SELECT coalesce(%(clock)s::float8, extract(epoch FROM statement_timestamp())::float8) AS now
), owned AS (
    SELECT id, rank, due, attempts, reason, CASE
        WHEN begun IS NOT NULL AND (%(claims)s + fence IN (SELECT lock FROM held)
            OR %(processes)s + owner IN (SELECT lock FROM held)) THEN -1
        WHEN due > (SELECT now FROM time) THEN 1 ELSE 0 END AS shown
    FROM unspool.task
    WHERE spooler = %(spooler)s AND state < 2 AND owner IS NOT NULL AND (%(ids)s::int8[] IS NULL OR id = ANY(%(ids)s))
), waiting AS (
    SELECT id, rank, due, attempts, reason, (due > (SELECT now FROM time))::int AS shown
    FROM unspool.task
    WHERE spooler = %(spooler)s AND state = 0 AND owner IS NULL AND (%(ids)s::int8[] IS NULL OR id = ANY(%(ids)s))
        AND (due > (SELECT now FROM time))::int = ANY(%(states)s::int4[])
    ORDER BY rank, due, id LIMIT %(limit)s
), later AS (
    SELECT id, rank, due, attempts, reason, (due > (SELECT now FROM time))::int AS shown
    FROM unspool.task
    WHERE spooler = %(spooler)s AND state = 1 AND owner IS NULL AND (%(ids)s::int8[] IS NULL OR id = ANY(%(ids)s))
        AND (due > (SELECT now FROM time))::int = ANY(%(states)s::int4[])
    ORDER BY due, rank, id LIMIT %(limit)s
), dead AS (
    SELECT id, rank, due, attempts, reason, 2 AS shown
    FROM unspool.task
    WHERE spooler = %(spooler)s AND state = 2 AND 2 = ANY(%(states)s::int4[])
        AND (%(ids)s::int8[] IS NULL OR id = ANY(%(ids)s))
    ORDER BY rank, due, id LIMIT %(limit)s
), corrupt AS (
    SELECT id, rank, due, attempts, reason, 3 AS shown
    FROM unspool.task
    WHERE spooler = %(spooler)s AND state = 3 AND 3 = ANY(%(states)s::int4[])
        AND (%(ids)s::int8[] IS NULL OR id = ANY(%(ids)s))
    ORDER BY rank, due, id LIMIT %(limit)s
), leaving AS (
    SELECT id, rank, due, attempts, CASE WHEN state < 6 THEN %(moving)s ELSE reason END AS reason,
        CASE WHEN state >= 6 THEN state - 4 WHEN due > (SELECT now FROM time) THEN 1 ELSE 0 END AS shown
    FROM unspool.task
    WHERE spooler = %(spooler)s AND state BETWEEN 4 AND 7 AND (%(ids)s::int8[] IS NULL OR id = ANY(%(ids)s))
), chosen AS (
    SELECT * FROM (
        SELECT * FROM owned UNION ALL SELECT * FROM waiting UNION ALL SELECT * FROM later
        UNION ALL SELECT * FROM dead UNION ALL SELECT * FROM corrupt UNION ALL SELECT * FROM leaving
    ) AS shown
    WHERE shown = ANY(%(states)s::int4[])
    ORDER BY shown, CASE WHEN shown = 1 THEN due END, rank, due, id
    LIMIT %(limit)s
)
SELECT chosen.*, octet_length(task.data), CASE WHEN %(bare)s THEN NULL WHEN %(whole)s OR octet_length(task.data) < 4 THEN task.data
    ELSE substr(task.data, 1, 4 + get_byte(task.data, 1) + 256 * get_byte(task.data, 2)) END
FROM chosen JOIN unspool.task USING (id)
ORDER BY shown, CASE WHEN shown = 1 THEN chosen.due END, chosen.rank, chosen.due, id
