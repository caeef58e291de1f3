-- Settles a run that ended: the first half of next.sql, for a worker with prefetched tasks. Parameters:
--   $1 the key of a claim's lock, without its fence; $2 the queue; $3 the finished task, $4 its fence;
--   its run: $5 task, $6 verdict (null for no history), $7 attempt, $8 started, $9 duration, $10 pid, $11 error
WITH done AS (
    DELETE FROM unspool.task WHERE id = $3::int8 AND fence = $4::int4 AND begun IS NOT NULL
    RETURNING id, pg_advisory_unlock($1::int8 + fence)
), told AS (
    INSERT INTO unspool.run (spooler, id, task, verdict, attempt, started, duration, pid, error)
    SELECT $2::text, id::text, $5::text, $6::text, $7::int4, $8::float8, $9::float8, $10::int4, $11::text
    FROM done WHERE $6::text IS NOT NULL
)
SELECT (SELECT id FROM done)
