-- Returns the key of one item of each process without a session.
WITH held AS MATERIALIZED (
    SELECT (classid::bigint << 32) | objid::bigint AS lock FROM pg_locks
    WHERE locktype = 'advisory' AND granted AND objsubid = 1
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
)
SELECT DISTINCT ON (holder) key FROM unspool.item
WHERE spooler = %(spooler)s AND holder IS NOT NULL AND %(processes)s + holder NOT IN (SELECT lock FROM held)
ORDER BY holder
LIMIT 100
