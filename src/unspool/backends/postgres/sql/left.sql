-- Records the destination that has staged these tasks. Tasks that another carrier has taken over are left alone.
WITH sure AS (
    SELECT set_config('synchronous_commit', 'on', true)
)
UPDATE unspool.task SET destination = %(destination)s
FROM sure, unnest(%(ids)s::int8[], %(fences)s::int4[]) AS p (number, held)
WHERE task.id = p.number AND task.fence = p.held AND state BETWEEN 4 AND 7
RETURNING task.id
