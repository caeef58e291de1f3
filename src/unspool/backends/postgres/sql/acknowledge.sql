-- Deletes finished tasks and adds their runs to the history. Parameters:
--   $1 the key of a claim's lock, without its fence; $2 the queue; arrays: $3 the tasks, $4 their fences;
--   their runs: $5 tasks, $6 verdicts (null for no history), $7 attempts, $8 starts, $9 durations, $10 pids, $11 errors
WITH done AS (
    DELETE FROM unspool.task
    USING unnest($3::int8[], $4::int4[], $5::text[], $6::text[], $7::int4[], $8::float8[], $9::float8[], $10::int4[],
        $11::text[]) AS r (number, claim, label, verdict, attempt, started, duration, pid, error)
    WHERE id = number AND fence = claim AND begun IS NOT NULL
    RETURNING number, r.label, r.verdict, r.attempt, r.started, r.duration, r.pid, r.error,
        pg_advisory_unlock($1::int8 + claim)
), told AS (
    INSERT INTO unspool.run (spooler, id, task, verdict, attempt, started, duration, pid, error)
    SELECT $2::text, number::text, label, verdict, attempt, started, duration, pid, error
    FROM done WHERE verdict IS NOT NULL
)
SELECT number FROM done
