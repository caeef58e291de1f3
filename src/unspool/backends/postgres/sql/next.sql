-- Settles the run that ended last, if there is one, and begins the next, if there is one: the claim. The claim's lock
-- lives as long as the session. Two statements in one, since a round trip costs as much as either. Its parameters:
--   $1 the time, null for the server's; $2 the key of a claim's lock, less its fence;
--   $3 the task to begin, $4 of which queue, $5 by which worker;
--   $6 the task that is done, $7 its fence; its run: $8 task, $9 verdict (null for no history), $10 attempt,
--   $11 started, $12 duration, $13 pid, $14 error
WITH time AS (
    SELECT coalesce($1::float8, extract(epoch FROM statement_timestamp())::float8) AS now
), done AS (
    DELETE FROM unspool.task WHERE id = $6::int8 AND fence = $7::int4 AND begun IS NOT NULL
    RETURNING id, pg_advisory_unlock($2::int8 + fence)
), told AS (
    INSERT INTO unspool.run (spooler, id, task, verdict, attempt, started, duration, pid, error)
    SELECT $4::text, id::text, $8::text, $9::text, $10::int4, $11::float8, $12::float8, $13::int4, $14::text
    FROM done WHERE $9::text IS NOT NULL
), begun AS (
    UPDATE unspool.task SET begun = time.now, attempts = attempts + 1, fence = 2 * (random() * 1073741823)::int4, worker = $5::int4,
        owner = coalesce(owner, $5::int4)
    FROM time
    WHERE id = $3::int8 AND spooler = $4::text AND state < 2 AND begun IS NULL AND due <= time.now
    RETURNING data, attempts, crashes, fence, rank, due, pg_try_advisory_lock($2::int8 + fence) AS locked
)
SELECT (SELECT id FROM done), begun.*
FROM (SELECT) AS one LEFT JOIN begun ON true
