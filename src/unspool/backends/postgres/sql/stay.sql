-- Aborts the transfer of tasks: they return to their former state, or become dead letters if they are corrupt. They
-- keep their keys, because the other queue may have staged them although its answer was lost.
WITH sure AS (
    SELECT set_config('synchronous_commit', 'on', true)
), back AS (
    UPDATE unspool.task SET fence = task.fence + 1,
        state = CASE WHEN state < 6 AND %(corrupt)s <> '' THEN 3 ELSE state - 4 END,
        reason = CASE WHEN state < 6 THEN %(corrupt)s ELSE reason END
    FROM sure, unnest(%(ids)s::int8[], %(fences)s::int4[]) AS p (number, held)
    WHERE task.id = p.number AND task.fence = p.held AND state BETWEEN 4 AND 7
)
SELECT bool_and(pg_advisory_unlock(%(locks)s + id)), pg_notify(%(channel)s, '') FROM unnest(%(ids)s::int8[]) AS id
