-- Stores tasks in order, and wakes supervisors when the transaction commits. It may run on an application's connection,
-- so its functions are named with their schema, and no search path can replace them.
WITH time AS (
    SELECT coalesce(%(clock)s::float8, extract(epoch FROM pg_catalog.statement_timestamp())::float8) AS now
), given AS (
    -- A due time is by the sender's clock. It is converted if that clock differs from the server's by a second.
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
