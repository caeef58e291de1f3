-- Deletes items of processes that have ended, some at a time, and wakes those that wait for their keys. Deletes the
-- registrations of processes that have ended and left no items.
WITH held AS MATERIALIZED (
    SELECT (classid::bigint << 32) | objid::bigint AS lock FROM pg_locks
    WHERE locktype = 'advisory' AND granted AND objsubid = 1
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
), ended AS MATERIALIZED (
    SELECT key FROM unspool.item
    WHERE spooler = %(spooler)s AND holder = ANY(%(ended)s::int4[])
        AND %(processes)s + holder NOT IN (SELECT lock FROM held)
    LIMIT 1000
    FOR UPDATE SKIP LOCKED
), swept AS (
    DELETE FROM unspool.item USING ended WHERE spooler = %(spooler)s AND item.key = ended.key RETURNING item.key
), bare AS MATERIALIZED (
    SELECT key FROM unspool.process
    WHERE spooler = %(spooler)s AND role IN ('holder', 'missed holder')
        AND %(processes)s + key NOT IN (SELECT lock FROM held)
        AND NOT EXISTS (SELECT FROM unspool.item WHERE spooler = %(spooler)s AND holder = process.key)
    FOR UPDATE SKIP LOCKED
), forgotten AS (
    DELETE FROM unspool.process USING bare WHERE process.key = bare.key
)
SELECT pg_notify(%(channel)s, key) FROM swept
