-- Releases the locks of claims that were lost. Returns the tasks that exist.
SELECT task.id, pg_advisory_unlock(%(claims)s + fenced.number)
FROM unnest(%(ids)s::int8[], %(fences)s::int4[]) AS fenced (task, number)
LEFT JOIN unspool.task ON task.id = fenced.task
