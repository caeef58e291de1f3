-- Deletes tasks that another queue has committed.
WITH gone AS (
    DELETE FROM unspool.task USING unnest(%(ids)s::int8[], %(fences)s::int4[]) AS p (number, held)
    WHERE task.id = p.number AND task.fence = p.held AND state BETWEEN 4 AND 7
)
SELECT bool_and(pg_advisory_unlock(%(locks)s + id)) FROM unnest(%(ids)s::int8[]) AS id
