-- Ends runs whose tasks stay: they run again later, are put back, or become dead letters. Due times are converted from
-- the worker's clock. A task whose claim was lost is left alone. Parameters:
--   $1 the time, null for the server's; $2 the key of a claim's lock, without its fence; $3 the queue, $4 its channel;
--   arrays: $5 the tasks, $6 their fences, $7 delays (null to keep the due time), $8 states of dead letters (or null),
--   $9 attempts, $10 claims without a handler and $11 crashes to add, $12 reasons;
--   their runs: $13 tasks, $14 verdicts (null for no history), $15 attempts, $16 starts, $17 durations, $18 pids,
--   $19 errors
WITH time AS (
    SELECT coalesce($1::float8, extract(epoch FROM statement_timestamp())::float8) AS now
), back AS (
    UPDATE unspool.task SET
        begun = NULL, worker = NULL, owner = NULL,
        attempts = attempts + more, unhandled = unhandled + more_unhandled, crashes = crashes + more_crashes,
        due = coalesce(time.now + delay, due),
        state = coalesce(aside, (coalesce(time.now + delay, due) > time.now)::int),
        reason = given
    FROM time, unnest($5::int8[], $6::int4[], $7::float8[], $8::int4[], $9::int4[], $10::int4[], $11::int4[],
        $12::text[], $13::text[], $14::text[], $15::int4[], $16::float8[], $17::float8[], $18::int4[], $19::text[])
        AS r (number, claim, delay, aside, more, more_unhandled, more_crashes, given,
            label, verdict, attempt, started, duration, pid, error)
    WHERE id = number AND fence = claim AND begun IS NOT NULL
    RETURNING number, r.label, r.verdict, r.attempt, r.started, r.duration, r.pid, r.error,
        pg_advisory_unlock($2::int8 + claim)
), told AS (
    INSERT INTO unspool.run (spooler, id, task, verdict, attempt, started, duration, pid, error)
    SELECT $3::text, number::text, label, verdict, attempt, started, duration, pid, error
    FROM back WHERE verdict IS NOT NULL
)
SELECT number, pg_notify($4::text, '') FROM back
