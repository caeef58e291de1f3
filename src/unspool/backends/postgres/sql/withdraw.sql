-- Withdraws claims of a worker whose runs have not started. A task that was claimed alone is claimed alone again.
-- Parameters: $1 the key of a claim's lock, without its fence; $2 the tasks, $3 the worker
WITH claimed AS MATERIALIZED (
    SELECT id, fence FROM unspool.task WHERE id = ANY($2::int8[]) AND abs(worker) = $3::int4 AND begun IS NOT NULL
)
UPDATE unspool.task SET begun = NULL, worker = NULL, attempts = attempts - 1, fence = -((task.fence & 1 = 0)::int)
FROM claimed WHERE task.id = claimed.id AND task.fence = claimed.fence
RETURNING pg_advisory_unlock($1::int8 + claimed.fence)
