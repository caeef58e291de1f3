-- Keeps tasks, in order, and wakes supervisors when the transaction commits. It may run on a connection of an
-- application's, so its functions are named with their schema: no search path puts others in their place.
WITH time AS (
    SELECT coalesce(%(clock)s::float8, extract(epoch FROM pg_catalog.statement_timestamp())::float8) AS now
), given AS (
    -- A due time is meant by the sender's clock; where that differs from ours by a second, it is carried over.
    SELECT g.data, g.rank, g.number, time.now, coalesce(
        g.due + CASE WHEN pg_catalog.abs(time.now - %(local)s::float8) < 1 THEN 0
                ELSE time.now - %(local)s::float8 END, time.now) AS due
    FROM unnest(%(data)s::bytea[], %(ranks)s::int4[], %(dues)s::float8[])
        WITH ORDINALITY AS g (data, rank, due, number), time
), kept AS (
    INSERT INTO unspool.task (spooler, rank, due, state, data)
    SELECT %(spooler)s::text, rank, due, (due > now)::int, data FROM given ORDER BY number
    RETURNING id
)
SELECT pg_catalog.array_agg(id ORDER BY id), pg_catalog.pg_notify(%(channel)s::text, '') FROM kept
