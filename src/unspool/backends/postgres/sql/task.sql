-- Returns a task for a listing, with all of its data if whole, otherwise with the part that holds the variables.
WITH held AS MATERIALIZED (
    SELECT (classid::bigint << 32) | objid::bigint AS lock FROM pg_locks
    WHERE locktype = 'advisory' AND granted AND objsubid = 1
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
), time AS MATERIALIZED (
    SELECT coalesce(%(clock)s::float8, extract(epoch FROM statement_timestamp())::float8) AS now
)
SELECT id, rank, due, attempts, CASE WHEN state BETWEEN 4 AND 5 THEN %(moving)s ELSE reason END, CASE
        WHEN state BETWEEN 6 AND 7 THEN state - 4
        WHEN state BETWEEN 2 AND 3 THEN state
        WHEN state < 2 AND owner IS NOT NULL AND begun IS NOT NULL AND (%(claims)s + fence IN (SELECT lock FROM held)
            OR %(processes)s + owner IN (SELECT lock FROM held)) THEN -1
        WHEN due > (SELECT now FROM time) THEN 1 ELSE 0 END,
    octet_length(data),
    CASE WHEN %(whole)s OR octet_length(data) < 4 THEN data
        ELSE substr(data, 1, 4 + get_byte(data, 1) + 256 * get_byte(data, 2)) END
FROM unspool.task WHERE id = %(id)s AND spooler = %(spooler)s AND state < 8
