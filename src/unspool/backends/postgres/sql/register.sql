-- Registers a process. Removes the registrations of dead processes that hold no task and have started none that is
-- held. The registrations of holders of items stay, and are removed with the items (end_items.sql).
WITH held AS MATERIALIZED (
    SELECT (classid::bigint << 32) | objid::bigint AS lock FROM pg_locks
    WHERE locktype = 'advisory' AND granted AND objsubid = 1
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
), swept AS (
    DELETE FROM unspool.process
    WHERE spooler = %(spooler)s AND %(processes)s + key NOT IN (SELECT lock FROM held)
        AND role NOT IN ('holder', 'missed holder')
        AND NOT EXISTS (SELECT FROM unspool.task WHERE owner = process.key)
        AND key NOT IN (SELECT abs(worker) FROM unspool.task WHERE owner IS NOT NULL AND worker IS NOT NULL)
)
INSERT INTO unspool.process (spooler, role, host, pid) VALUES (%(spooler)s, %(role)s, %(host)s, %(pid)s)
RETURNING key, pg_advisory_lock(%(processes)s + key)
