-- Returns the supervisors that have started these tasks and have no session now: whether the time to return is over for
-- each, and their workers. The time at which they are first missed is stored, because a command does not wait.
WITH held AS MATERIALIZED (
    SELECT (classid::bigint << 32) | objid::bigint AS lock FROM pg_locks
    WHERE locktype = 'advisory' AND granted AND objsubid = 1
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
), missed AS MATERIALIZED (
    SELECT DISTINCT owner, abs(worker) AS worker FROM unspool.task
    WHERE id = ANY(%(ids)s::int8[]) AND spooler = %(spooler)s AND begun IS NOT NULL
        AND %(processes)s + owner NOT IN (SELECT lock FROM held)
), noted AS (
    UPDATE unspool.process SET role = 'absent', since = now()
    WHERE role = 'feed' AND key IN (SELECT owner FROM missed)
)
SELECT owner, coalesce(process.role, '') NOT IN ('feed', 'absent') OR (process.role = 'absent'
        AND greatest(process.since, pg_postmaster_start_time()) <= now() - make_interval(secs => %(grace)s)),
    process.host, process.pid, worker.key, worker.host, worker.pid
FROM missed LEFT JOIN unspool.process ON process.key = owner
    LEFT JOIN unspool.process AS worker ON worker.key = missed.worker
