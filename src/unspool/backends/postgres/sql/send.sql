-- Keeps tasks, in order, and wakes supervisors when the transaction commits.
WITH time AS (
    SELECT coalesce(%(clock)s::float8, extract(epoch FROM statement_timestamp())::float8) AS now
), given AS (
    -- A due time is meant by the sender's clock; where that differs from ours by a second, it is carried over.
    SELECT g.data, g.rank, g.number, time.now, coalesce(
        g.due + CASE WHEN abs(time.now - %(local)s) < 1 THEN 0 ELSE time.now - %(local)s END, time.now) AS due
    FROM unnest(%(data)s::bytea[], %(ranks)s::int4[], %(dues)s::float8[])
        WITH ORDINALITY AS g (data, rank, due, number), time
), kept AS (
    INSERT INTO unspool.task (spooler, rank, due, state, data)
    SELECT %(spooler)s, rank, due, (due > now)::int, data FROM given ORDER BY number
    RETURNING id
)
SELECT array_agg(id ORDER BY id), pg_notify(%(channel)s, '') FROM kept
