-- A person's hand on a task, until the end of the transaction: whether it is there, and whether it can be changed.
WITH held AS MATERIALIZED (
    SELECT (classid::bigint << 32) | objid::bigint AS lock FROM pg_locks
    WHERE locktype = 'advisory' AND granted AND objsubid = 1
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
)
SELECT pg_try_advisory_xact_lock(%(locks)s + id) AND state < 4
    AND NOT (begun IS NOT NULL AND coalesce(%(processes)s + owner IN (SELECT lock FROM held), false))
FROM unspool.task WHERE id = %(id)s AND spooler = %(spooler)s AND state < 8
