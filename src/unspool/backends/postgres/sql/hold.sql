-- Returns whether a task whose row this transaction has locked can be changed: no worker runs it, and no supervisor may
-- return to it.
WITH held AS MATERIALIZED (
    SELECT (classid::bigint << 32) | objid::bigint AS lock FROM pg_locks
    WHERE locktype = 'advisory' AND granted AND objsubid = 1
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
)
SELECT state < 4 AND NOT (begun IS NOT NULL AND (%(claims)s + fence IN (SELECT lock FROM held)
    OR coalesce(%(processes)s + owner IN (SELECT lock FROM held) OR owner <> ALL(%(dead)s::int4[]), false)
    OR coalesce(abs(worker) = ANY(%(living)s::int4[]), false)))
FROM unspool.task WHERE id = %(id)s AND spooler = %(spooler)s AND state < 8
