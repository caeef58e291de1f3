-- Frees what nobody runs any more: the tasks in doubt of one supervisor, and those of supervisors that are dead. A task
-- is run by whoever holds its lock; one that was begun and has no holder ended with its worker. What was begun or
-- settled since the look has another fence or owner by the time it is written, and is left alone.
WITH held AS MATERIALIZED (
    SELECT (classid::bigint << 32) | objid::bigint AS lock FROM pg_locks
    WHERE locktype = 'advisory' AND granted AND objsubid = 1
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
), lost AS MATERIALIZED (
    SELECT id, fence, owner, begun FROM unspool.task
    WHERE owner IS NOT NULL AND spooler = %(spooler)s AND (
        (owner = %(owner)s AND id = ANY(%(ids)s::int8[]))
        OR (%(others)s AND owner <> %(owner)s AND %(processes)s + owner NOT IN (SELECT lock FROM held)))
        AND %(locks)s + id NOT IN (SELECT lock FROM held)
        -- A start of the server ends all sessions: those of before have a while to come back to what they run.
        AND (owner = %(owner)s OR begun IS NULL OR pg_postmaster_start_time() < now() - make_interval(secs => %(grace)s)
            OR NOT EXISTS (SELECT FROM unspool.process WHERE key = owner AND since <= pg_postmaster_start_time()))
), freed AS (
    UPDATE unspool.task SET owner = NULL, begun = NULL, worker = NULL, fence = 0,
        state = (task.due > coalesce(%(clock)s::float8, extract(epoch FROM statement_timestamp())::float8))::int,
        crashes = crashes + (task.begun IS NOT NULL AND task.worker IS NOT NULL)::int
    FROM lost
    WHERE task.id = lost.id AND task.fence = lost.fence AND task.owner = lost.owner
        AND task.begun IS NOT DISTINCT FROM lost.begun
    RETURNING task.id
)
SELECT
    (SELECT array_agg(id) FROM freed),
    (SELECT array_agg(id) FROM unspool.task WHERE id = ANY(%(ids)s::int8[]) AND begun IS NOT NULL
        AND %(locks)s + id IN (SELECT lock FROM held))
