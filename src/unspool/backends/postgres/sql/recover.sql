-- Frees the tasks that no worker runs any more: the doubtful tasks of one supervisor, and those of dead supervisors.
-- A task is running if a session holds its claim's lock, if a worker of this supervisor reports it although its session
-- may have been lost, or if the process of a dead supervisor's worker is alive. A task that was started and is not
-- running ended with its worker. A task that was started or settled since the look has another fence or owner, and is
-- left alone.
--
-- A supervisor also frees its own tasks that were not started and that it does not know: it took them, and the answer
-- was lost. Tasks that other supervisors have started are left to them until they are dead, because they may return.
--
-- One of the tasks that a worker has prefetched (their fences are odd) may have run. Its supervisor knows which one.
-- If no process knows, no task loses an attempt, and each is claimed alone the next time: its fence is -1.
WITH held AS MATERIALIZED (
    SELECT (classid::bigint << 32) | objid::bigint AS lock FROM pg_locks
    WHERE locktype = 'advisory' AND granted AND objsubid = 1
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
), lost AS MATERIALIZED (
    SELECT id, fence, owner, begun,
        begun IS NOT NULL AND id <> ALL(%(vain)s::int8[]) AND (fence & 1 = 0 OR id = ANY(%(ran)s::int8[])) AS ran
    FROM unspool.task
    WHERE owner IS NOT NULL AND spooler = %(spooler)s AND (
        (owner = %(owner)s AND (id = ANY(%(ids)s::int8[])
            OR (%(doubting)s AND (begun IS NOT NULL OR id <> ALL(%(known)s::int8[])))))
        OR (%(others)s AND owner <> %(owner)s AND %(processes)s + owner NOT IN (SELECT lock FROM held)
            AND (begun IS NULL
                OR (owner = ANY(%(dead)s::int4[]) AND coalesce(abs(worker) <> ALL(%(living)s::int4[]), true)))))
        AND NOT (begun IS NOT NULL
            AND (%(claims)s + fence IN (SELECT lock FROM held) OR id = ANY(%(running)s::int8[])))
), freed AS (
    UPDATE unspool.task SET owner = NULL, begun = NULL, worker = NULL,
        fence = CASE WHEN task.begun IS NULL THEN task.fence WHEN lost.ran THEN 0 ELSE -1 END,
        state = (task.due > coalesce(%(clock)s::float8, extract(epoch FROM statement_timestamp())::float8))::int,
        attempts = attempts - (task.begun IS NOT NULL AND NOT lost.ran)::int,
        crashes = crashes + (lost.ran AND coalesce(task.worker > 0, false))::int
    FROM lost
    WHERE task.id = lost.id AND task.fence = lost.fence AND task.owner = lost.owner
        AND task.begun IS NOT DISTINCT FROM lost.begun
    RETURNING task.id
)
SELECT
    (SELECT array_agg(id) FROM freed),
    (SELECT array_agg(id) FROM unspool.task WHERE begun IS NOT NULL
        AND (id = ANY(%(ids)s::int8[]) OR (%(doubting)s AND owner = %(owner)s))
        AND (%(claims)s + fence IN (SELECT lock FROM held) OR id = ANY(%(running)s::int8[])))
