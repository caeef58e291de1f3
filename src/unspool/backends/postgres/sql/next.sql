-- Settles the run that ended last, if there is one, and claims the next task, if there is one. The claim's lock lives as
-- long as the session. Both are one statement, because a round trip costs as much as either. Parameters:
--   $1 the time, null for the server's; $2 the key of a claim's lock, without its fence;
--   $3 the task to start, $4 its queue, $5 the worker, $6 its supervisor (or null);
--   $7 the finished task, $8 its fence; its run: $9 task, $10 verdict (null for no history), $11 attempt,
--   $12 started, $13 duration, $14 pid, $15 error
WITH time AS (
    SELECT coalesce($1::float8, extract(epoch FROM statement_timestamp())::float8) AS now
), done AS (
    DELETE FROM unspool.task WHERE id = $7::int8 AND fence = $8::int4 AND begun IS NOT NULL
    RETURNING id, pg_advisory_unlock($2::int8 + fence)
), told AS (
    INSERT INTO unspool.run (spooler, id, task, verdict, attempt, started, duration, pid, error)
    SELECT $4::text, id::text, $9::text, $10::text, $11::int4, $12::float8, $13::float8, $14::int4, $15::text
    FROM done WHERE $10::text IS NOT NULL
), begun AS (
    UPDATE unspool.task SET begun = time.now, attempts = attempts + 1, fence = 2 * (random() * 1073741823)::int4, worker = $5::int4,
        owner = coalesce($6::int4, owner, $5::int4)
    FROM time
    WHERE id = $3::int8 AND spooler = $4::text AND state < 2 AND begun IS NULL AND due <= time.now
    -- A large task is fetched after its claim is stored. If it takes all of the worker's memory, that counts as a crash.
    RETURNING CASE WHEN octet_length(data) <= 262144 THEN data END, attempts, crashes, fence, rank, unhandled, due, pg_try_advisory_lock($2::int8 + fence) AS locked
)
SELECT (SELECT id FROM done), begun.*
FROM (SELECT) AS one LEFT JOIN begun ON true
