-- Stages tasks from another queue, each once, in a state that nothing else reads.
INSERT INTO unspool.task (spooler, rank, due, state, attempts, crashes, reason, data, parcel, key, key_start,
    key_until)
SELECT %(spooler)s, g.rank,
    -- As for sent tasks, a due time is converted if the sender's clock differs by a second.
    g.due + CASE WHEN abs(now - %(local)s) < 1 THEN 0 ELSE now - %(local)s END,
    g.state + 8, g.attempts, g.crashes, g.reason, g.data, g.key, g.twin, g.start,
    g.until + CASE WHEN abs(now - %(local)s) < 1 THEN 0 ELSE now - %(local)s END
FROM unnest(%(ranks)s::int4[], %(dues)s::float8[], %(states)s::int4[], %(attempts)s::int4[], %(crashes)s::int4[],
        %(reasons)s::text[], %(data)s::bytea[], %(keys)s::text[], %(twins)s::text[], %(starts)s::boolean[],
        %(untils)s::float8[])
        WITH ORDINALITY AS g (rank, due, state, attempts, crashes, reason, data, key, twin, start, until, number),
    (SELECT coalesce(%(clock)s::float8, extract(epoch FROM statement_timestamp())::float8) AS now) AS time
ORDER BY number
ON CONFLICT (spooler, parcel) WHERE state >= 8 DO UPDATE SET
    rank = excluded.rank, due = excluded.due, state = excluded.state, attempts = excluded.attempts,
    crashes = excluded.crashes, reason = excluded.reason, data = excluded.data
