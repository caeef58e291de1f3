-- Takes tasks that no worker runs out of the queue, to move them elsewhere. A task whose worker and supervisor died
-- counts as free even if it has not been freed yet. A task that was started since the look has another fence, and
-- stays.
WITH sure AS (
    SELECT set_config('synchronous_commit', 'on', true)
), held AS MATERIALIZED (
    SELECT (classid::bigint << 32) | objid::bigint AS lock FROM pg_locks
    WHERE locktype = 'advisory' AND granted AND objsubid = 1
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
), free AS MATERIALIZED (
    SELECT id, fence, begun FROM unspool.task, sure
    WHERE id = ANY(%(ids)s::int8[]) AND spooler = %(spooler)s AND state < 4
        AND NOT (begun IS NOT NULL AND (%(claims)s + fence IN (SELECT lock FROM held)
            OR coalesce(%(processes)s + owner IN (SELECT lock FROM held) OR owner <> ALL(%(dead)s::int4[]), false)
            OR coalesce(abs(worker) = ANY(%(living)s::int4[]), false)))
), taken AS (
    UPDATE unspool.task SET state = task.state + 4, fence = task.fence + 1, owner = NULL, begun = NULL, worker = NULL,
        attempts = attempts - (task.begun IS NOT NULL AND task.fence & 1 = 1)::int,
        crashes = crashes + (task.begun IS NOT NULL AND task.fence & 1 = 0 AND coalesce(task.worker > 0, false))::int,
        parcel = coalesce(parcel, gen_random_uuid()::text)
    FROM free
    WHERE task.id = free.id AND task.fence = free.fence AND task.begun IS NOT DISTINCT FROM free.begun AND task.state < 4
    RETURNING task.*
)
SELECT id, fence, parcel, state - 4, data, rank, due, attempts, crashes, reason, destination,
    CASE WHEN NOT (key_start AND (attempts > 0 OR unhandled > 0)) THEN key END, key_start, key_until,
    pg_try_advisory_lock(%(locks)s + id), coalesce(%(clock)s::float8, extract(epoch FROM statement_timestamp())::float8)
FROM taken ORDER BY array_position(%(ids)s::int8[], id)
