-- Restores a process's registration after its connection was lost. Ends its older session if the server still considers
-- that alive.
WITH locked AS MATERIALIZED (
    SELECT pg_try_advisory_lock(%(lock)s) AS done
), ended AS (
    SELECT pg_terminate_backend(l.pid) FROM pg_locks l, locked
    WHERE NOT locked.done AND l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
        AND ((l.classid::bigint << 32) | l.objid::bigint) = %(lock)s
        AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
), kept AS (
    INSERT INTO unspool.process (key, spooler, role, host, pid)
    SELECT %(key)s, %(spooler)s, %(role)s, %(host)s, %(pid)s FROM locked WHERE locked.done
    ON CONFLICT (key) DO UPDATE SET since = now(), role = excluded.role
)
SELECT done, (SELECT count(*) FROM ended) FROM locked
